//! A Unix socket at a path that processes hand on to each other: each puts its own there, in one step.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::channel::{self, may_ask};
use super::{Error, lock};
use crate::ring;

/// Those who may wait to be heard where processes ask to take over.
const WAITING_MAX: i32 = 8;
/// The same where operators ask.
const OPERATORS_WAITING_MAX: i32 = 64;

/// Of which kind the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Packets, which carry descriptors: the takeover protocol.
    Packets,
    /// A stream.
    Stream,
}

/// A Unix socket at a path, for this user only. Another process that takes over puts its own there, in one step, so
/// that at no time nobody listens; and should that one fail, this one [takes it back](Place::take_back).
///
/// An [`Offer`](super::Offer) has one. A program whose operators have a socket of their own gives it a place beside it:
///
/// ```
/// use vestibule::takeover::Place;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("control");
/// let control = Place::stream(&path)?;
/// assert!(!path.exists(), "until the takeover is complete the process before has it");
/// control.publish()?;
/// let client = std::os::unix::net::UnixStream::connect(&path)?;
/// let listener = control.listener().expect("it has not been left");
/// # drop((client, listener));
/// control.leave();
/// assert!(!path.exists());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    kind: Kind,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    listening: Option<Listening>,
    /// For ever.
    left: bool,
}

#[derive(Clone, Debug)]
struct Listening {
    socket: Arc<OwnedFd>,
    /// Device and inode of its file: another process may have put its own there.
    file: (u64, u64),
}

impl Listening {
    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == self.file)
    }

    /// Whoever waits on it, which is given up, learns of it.
    fn wake(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both); // it is closed in any case
    }
}

impl Place {
    /// Binds a stream socket beside `path`, with a dot and the process id behind its name; [`publish`](Place::publish)
    /// puts it there. Warns of a directory in which others could put something else in its place.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::NoSocket`].
    pub fn stream(path: impl AsRef<Path>) -> Result<Place, Error> {
        Place::prepare(path.as_ref(), Kind::Stream)
    }

    /// The same of packets.
    pub(super) fn packets(path: &Path) -> Result<Place, Error> {
        Place::prepare(path, Kind::Packets)
    }

    fn prepare(path: &Path, kind: Kind) -> Result<Place, Error> {
        examine(path)?;
        let place = Place { path: path.to_owned(), kind, held: Mutex::default() };
        lock(&place.held).listening = Some(place.bind()?);
        Ok(place)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the socket in its place, instead of that of a process before, in one step.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn publish(&self) -> Result<(), Error> {
        fs::rename(self.temporary(), &self.path).map_err(|error| Error::at(&self.path, error))
    }

    /// Listens no longer, for ever; removes the file unless it is another process's. Dropping it does the same.
    pub fn leave(&self) {
        let mut held = lock(&self.held);
        held.left = true;
        let Some(listening) = held.listening.take() else { return };
        for path in [&self.path, &self.temporary()] {
            if listening.is_at(path) {
                let _ = fs::remove_file(path); // nothing depends on it
            }
        }
        listening.wake();
    }

    /// Hears nobody any more. The file stays: it is another process's by now.
    pub fn close(&self) {
        lock(&self.held).listening.take().iter().for_each(Listening::wake);
    }

    /// Listens again, wherever another process has got to with its own socket, unless it was left. What fails is in the
    /// log.
    pub fn take_back(&self) {
        let mut held = lock(&self.held);
        if held.left || held.listening.as_ref().is_some_and(|listening| listening.is_at(&self.path)) {
            return;
        }
        let bound = self.bind().and_then(|listening| self.publish().map(|()| listening));
        match bound {
            Ok(listening) => held.listening.replace(listening).iter().for_each(Listening::wake),
            Err(error) => tracing::error!("nobody can connect any more: {error}"),
        }
    }

    /// Listens again where somebody has removed the file, perhaps with its directory, which is there again: otherwise nobody
    /// could connect until the process ends. Whatever is at the path by now stays. Tells whether it was so; what fails is in the
    /// log, too.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("control");
    /// let control = vestibule::takeover::Place::stream(&path)?;
    /// control.publish()?;
    /// std::fs::remove_file(&path)?;
    /// assert!(control.restore() && path.exists());
    /// assert!(!control.restore(), "it is there");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore(&self) -> bool {
        let missing = || fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if self.listener().is_none() || !missing() {
            return false;
        }
        self.take_back();
        !missing()
    }

    /// What listens there; `None` once it was left or closed. Whoever waits on it to accept is woken by an error then.
    pub fn listener(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.held).listening.as_ref().map(|listening| listening.socket.clone())
    }

    /// Whether the process at the other end of an accepted connection may have a say: root's, and those of this user,
    /// who could as well have stopped this one. It goes by who has connected, whatever has become of the file since.
    ///
    /// # Errors
    /// [`Error::OtherUser`], or [`Error::System`].
    pub fn admit(connection: impl AsFd) -> Result<(), Error> {
        may_ask(ring::peer_credentials(connection.as_fd()).map_err(Error::System)?)
    }

    fn bind(&self) -> Result<Listening, Error> {
        self.listen().map_err(|error| Error::at(&self.path, error))
    }

    fn listen(&self) -> io::Result<Listening> {
        let path = self.temporary();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {} // what a process of the same number has left there
        }
        let socket = self.kind.socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        // Nobody can connect before it listens, so nobody has come through before the file is closed to others.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, self.kind.waiting_max())?;
        let there = fs::symlink_metadata(&path)?;
        Ok(Listening { socket: Arc::new(socket), file: (there.dev(), there.ino()) })
    }

    fn temporary(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{}", std::process::id()));
        path.into()
    }
}

impl Kind {
    fn socket(self) -> io::Result<OwnedFd> {
        match self {
            Kind::Packets => channel::socket(),
            Kind::Stream => {
                let (family, sort) = (AddressFamily::UNIX, SocketType::STREAM);
                Ok(rustix::net::socket_with(family, sort, SocketFlags::CLOEXEC, None)?)
            }
        }
    }

    fn waiting_max(self) -> i32 {
        match self {
            Kind::Packets => WAITING_MAX,
            Kind::Stream => OPERATORS_WAITING_MAX,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Refuses a path where something else than a socket is, which would be replaced and in the end removed. Warns of a
/// directory in which others could put something else in the socket's place.
fn examine(path: &Path) -> Result<(), Error> {
    const STICKY: u32 = 0o1000;
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(Error::NoSocket { path: path.to_owned() });
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = fs::metadata(directory).map_or(0, |there| there.mode());
    if mode & 0o022 != 0 && mode & STICKY == 0 {
        tracing::warn!(
            "{}: others may write to its directory, and put a socket of their own there; `chmod go-w` it, or name a path \
             in a directory of its own",
            path.display()
        );
    }
    Ok(())
}

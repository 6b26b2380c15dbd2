//! The place in the file system where receivers connect.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Receivers that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening socket at a path; the path goes with it, unless somebody else has it by then.
pub(super) struct Place {
    listener: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

impl Place {
    /// Listens beside the path first and takes its place then, so that nobody finds it half made, or refused, while another
    /// pool of this name ends.
    pub(super) fn take(path: &Path, mode: u32) -> io::Result<Place> {
        let beside = beside(path);
        let _ = fs::remove_file(&beside);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&beside)?)?;
        let placed = settle(&listener, &beside, path, mode);
        if placed.is_err() {
            let _ = fs::remove_file(&beside);
        }
        Ok(Place { listener, path: path.into(), identity: placed? })
    }

    /// The next receiver, if one has connected.
    pub(super) fn accept(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Ok(rustix::net::accept_with(&self.listener, flags)?)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What to do about a place that cannot be taken.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make its directory",
        io::ErrorKind::PermissionDenied => "; let this user write to its directory",
        io::ErrorKind::AlreadyExists => "; remove that, or name another path",
        _ => "",
    }
}

/// Another name in the same directory.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

fn settle(listener: &OwnedFd, beside: &Path, path: &Path, mode: u32) -> io::Result<(u64, u64)> {
    fs::set_permissions(beside, Permissions::from_mode(mode))?;
    rustix::net::listen(listener, BACKLOG)?;
    if fs::symlink_metadata(path).is_ok_and(|there| !is_socket(&there)) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
    }
    fs::rename(beside, path)?;
    identity(path)
}

fn is_socket(file: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&file.file_type())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

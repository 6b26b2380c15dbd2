//! The second process of a hand-off, which closes what it is given: beside the daemon as a receiver of docs/handoff.md,
//! beside the floor with nothing but a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, send, sendmsg, socket_with, socketpair,
};

/// Connections that it may have at a time: more than any load has in flight.
const CAPACITY: u32 = 4096;
/// How long the daemon may take until its socket is there.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Longer than any record of docs/handoff.md.
const RECORD_MAX: usize = 1 << 17;
/// Connections that are taken by one message, which has to fit into 4096 bytes together with as many `done`.
const AT_ONCE: usize = 64;
/// Where a record has its id.
const ID: std::ops::Range<usize> = 8..16;

/// What `serve-receiver` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The daemon's `handoff_socket`
    socket: PathBuf,
    /// The daemon and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    daemon: Vec<String>,
}

/// Starts the daemon, then takes and closes whatever it hands off.
pub fn serve(args: &Args) -> Result<(), String> {
    let mut daemon = Command::new(&args.daemon[0]).args(&args.daemon[1..]).spawn().map_err(|e| e.to_string())?;
    let result = receive(&args.socket, &mut daemon).map_err(|error| format!("{}: {error}", args.socket.display()));
    let _ = daemon.kill(); // it may have ended
    let _ = daemon.wait();
    result
}

/// Takes whatever is there in one message, closes it, and says so in the next one, or at once when nothing waits.
fn receive(path: &Path, daemon: &mut Child) -> io::Result<()> {
    let link = connected(path, daemon)?;
    send(&link, format!("hello 1 {CAPACITY}").as_bytes(), SendFlags::NOSIGNAL)?;
    converse(&link)
}

fn converse(link: impl AsFd) -> io::Result<()> {
    let link = link.as_fd();
    let (mut record, mut words, mut offered) = (vec![0; RECORD_MAX], String::new(), Vec::new());
    loop {
        let waits = words.is_empty() && offered.is_empty();
        match descriptor(link, &mut record, if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT }) {
            Ok(None) => return Ok(()),
            Ok(Some(connection)) => offered.push((id_of(&record), connection)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                take_all(link, &mut words, &mut offered)?;
                continue;
            }
            Err(error) => return Err(error),
        }
        if offered.len() == AT_ONCE {
            take_all(link, &mut words, &mut offered)?;
        }
    }
}

/// `words` tell which ones were closed before; then, of those that are closed here.
fn take_all(link: BorrowedFd<'_>, words: &mut String, offered: &mut Vec<(u64, OwnedFd)>) -> io::Result<()> {
    for (id, _) in &*offered {
        words.push_str(&format!("taken {id}\n"));
    }
    send(link, words.as_bytes(), SendFlags::NOSIGNAL)?;
    words.clear();
    for (id, connection) in offered.drain(..) {
        drop(connection);
        words.push_str(&format!("done {id}\n"));
    }
    Ok(())
}

fn id_of(record: &[u8]) -> u64 {
    u64::from_be_bytes(record[ID].try_into().expect("eight bytes"))
}

fn connected(path: &Path, daemon: &mut Child) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let end = Instant::now() + START_LIMIT;
    loop {
        let link = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match connect(&link, &address) {
            Ok(()) => return Ok(link),
            Err(error) if Instant::now() > end || daemon.try_wait()?.is_some() => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// What `serve-taker` takes.
#[derive(Debug, clap::Args)]
pub struct TakerArgs {
    /// Say `taken` and `done`, as docs/handoff.md has it
    #[arg(long)]
    words: bool,
}

/// The floor's second process: this program again, at the other end of a socket.
pub fn second_process(words: bool) -> Result<OwnedFd, String> {
    let start = || {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut taker = Command::new(std::env::current_exe()?);
        taker.arg("serve-taker").args(words.then_some("--words")).stdin(Stdio::from(theirs)).spawn()?;
        io::Result::Ok(ours)
    };
    start().map_err(|error| format!("the second process: {error}"))
}

/// Passes a descriptor with a record beside it, which is not empty.
pub fn pass(taker: &OwnedFd, socket: &OwnedFd, record: &[u8]) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    let rights = [socket.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&rights));
    sendmsg(taker, &[IoSlice::new(record)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Closes what comes by standard input.
pub fn take(args: &TakerArgs) -> Result<(), String> {
    let link = io::stdin();
    if args.words {
        return converse(&link).map_err(|error| error.to_string());
    }
    let mut byte = [0];
    while descriptor(link.as_fd(), &mut byte, RecvFlags::empty()).map_err(|error| error.to_string())?.is_some() {}
    Ok(())
}

/// The next descriptor, with what comes beside it in `record`; `None`: the other side has ended.
fn descriptor(link: BorrowedFd<'_>, record: &mut [u8], flags: RecvFlags) -> io::Result<Option<OwnedFd>> {
    let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    recvmsg(link, &mut [IoSliceMut::new(record)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    Ok(descriptors.next())
}

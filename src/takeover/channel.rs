//! The connection between two processes: messages and descriptors (unix(7), SOCK_SEQPACKET), each step in bounded time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use super::wire::{self, ENTRIES_MAX, MESSAGE_MAX, Message};
use crate::ring::{self, Credentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};

/// Room for the descriptors of one message.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(ENTRIES_MAX));

/// Rest while too many descriptors are on the way.
const REST: Duration = Duration::from_millis(1);

/// How long a last word may take to be sent, whatever was allowed for what went before.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);

/// How long a process that has closed its end may take to be gone, if it is about to end: its memory goes first.
const END_LIMIT: Duration = Duration::from_secs(2);

/// One end of the connection.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// When patience with the other side ends.
    deadline: Instant,
}

/// Whether a process may have a say: root's may, and those of this process's user, who could as well have stopped it.
pub fn may_ask(peer: Credentials) -> Result<(), Error> {
    match geteuid().as_raw() {
        own if peer.uid == own || peer.uid == 0 => Ok(()),
        own => Err(Error::OtherUser { process: peer.pid, theirs: peer.uid, own }),
    }
}

/// A socket that can carry a channel.
pub fn socket() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_send_buffer_size(&socket, 2 * MESSAGE_MAX)?;
    Ok(socket)
}

impl Channel {
    /// Connects to the process that listens at `path`, if it is this user's or root's; with its credentials.
    pub fn to_trusted(path: &Path, patience: Duration) -> Result<(Channel, Credentials), Error> {
        let unreachable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::Nobody { path: path.to_owned(), error }
            }
            _ => Error::at(path, error),
        };
        let channel = Channel::connect(path, patience).map_err(unreachable)?;
        let peer = channel.peer().map_err(unreachable)?;
        // Root's process may be asked by anybody who could connect, and root asks whom it likes.
        if geteuid().is_root() { Ok(()) } else { may_ask(peer) }.map(|()| (channel, peer))
    }

    /// Connects to whoever listens at `path`.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Channel> {
        let channel = Channel::new(socket()?, patience);
        sockopt::set_socket_timeout(&channel.socket, sockopt::Timeout::Send, Some(patience))?;
        rustix::net::connect(&channel.socket, &SocketAddrUnix::new(path)?)?;
        Ok(channel)
    }

    /// A connection that was accepted.
    pub fn new(socket: OwnedFd, patience: Duration) -> Channel {
        Channel { socket, deadline: Instant::now() + patience }
    }

    /// All that follows may take so long.
    pub fn allow(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }

    /// An error once that time has passed.
    pub fn check_time(&self) -> Result<(), Error> {
        until(self.deadline).map(drop)
    }

    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Credentials> {
        ring::peer_credentials(self.socket.as_fd())
    }

    /// Sends a message with the descriptors of its entries.
    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.send_until(self.deadline, message, descriptors)
    }

    /// Sends a message after which nothing is waited for. The other side may be gone, or take no more.
    pub fn send_last(&self, message: &Message) {
        let _ = self.send_until(Instant::now() + LAST_WORD_LIMIT, message, &[]);
    }

    /// Sends a message without descriptors, by a time of its own.
    pub fn send_by(&self, deadline: Instant, message: &Message) -> Result<(), Error> {
        self.send_until(deadline, message, &[])
    }

    /// Neither side hears anything more, but for what was said before.
    pub fn hang_up(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both); // it is closed in any case
    }

    /// Tells the other side to go no further.
    pub fn refuse(&self, reason: &str) {
        self.send_last(&Message::Refused(reason.to_owned()));
    }

    fn send_until(&self, deadline: Instant, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        moment();
        let sent = self.try_send(deadline, message, descriptors);
        moment();
        sent
    }

    fn try_send(&self, deadline: Instant, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Send, Some(until(deadline)?)).map_err(Error::of)?;
        let packet = wire::encode(message);
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Error::protocol("more descriptors than a message may have"));
        }
        loop {
            let parts = [IoSlice::new(&packet)];
            match retry_on_intr(|| rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)) {
                // As many descriptors as this user may have on the way: they become fewer as the other side reads.
                Err(Errno::TOOMANYREFS) => thread::sleep(REST.min(until(deadline)?)),
                sent => return sent.map(drop).map_err(Error::of),
            }
        }
    }

    /// The next message and its descriptors.
    pub fn receive(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(until(self.deadline)?))
            .map_err(Error::of)?;
        self.receive_now()
    }

    /// The next message; if it is late, none comes any more: whatever the other side says from then on fails there, so
    /// that the two cannot part in different beliefs.
    pub fn receive_or_hang_up(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        match self.receive() {
            Err(Error::Late) => {
                rustix::net::shutdown(&self.socket, Shutdown::Read).map_err(Error::of)?;
                // What was said before is still there.
                self.receive_now().map_err(|error| match error {
                    Error::Closed => Error::Late,
                    error => error,
                })
            }
            received => received,
        }
    }

    /// The next message, whenever it comes.
    pub fn receive_at_any_time(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, None).map_err(Error::of)?;
        self.receive_now()
    }

    /// Whether the process at the other end has ended, and did not merely close the connection. One that is about to
    /// end is waited for; one that cannot be seen from here, in another PID namespace, counts as alive.
    pub fn peer_has_ended(&self) -> bool {
        #[cfg(test)]
        if let Some(ended) = super::fate::other_is_dead() {
            return ended;
        }
        let peer = self.peer().ok().and_then(|peer| Pid::from_raw(i32::try_from(peer.pid).ok()?));
        let Some(peer) = peer else { return false };
        match pidfd_open(peer, PidfdFlags::empty()) {
            Ok(process) => {
                let limit = Timespec { tv_sec: END_LIMIT.as_secs() as i64, tv_nsec: END_LIMIT.subsec_nanos().into() };
                let ended = retry_on_intr(|| poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)));
                ended.is_ok_and(|ready| ready > 0)
            }
            Err(errno) => errno == Errno::SRCH,
        }
    }

    fn receive_now(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        moment();
        let received = self.try_receive();
        moment();
        received
    }

    fn try_receive(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        let mut packet = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut packet)];
        let mut receive = || retry_on_intr(|| rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags));
        // A reset only says that the other side has not read everything; what it has said before comes behind it.
        let received = match receive() {
            Err(Errno::CONNRESET) => receive(),
            received => received,
        };
        let received = received.map_err(Error::of)?;
        // Whatever came is owned from here on, and closed if it is of no use.
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors = descriptors.flatten().collect();
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Error::protocol("descriptors were lost on the way: raise the limit of open files"));
        }
        match received.bytes {
            _ if received.flags.contains(ReturnFlags::TRUNC) => Err(Error::protocol("a message that is too long")),
            0 => Err(Error::Closed),
            len => match wire::decode(&packet[..len]).map_err(|malformed| Error::protocol(malformed.to_string()))? {
                Message::Refused(reason) => Err(Error::Refused(reason)),
                message => Ok((message, descriptors)),
            },
        }
    }
}

/// One at which this process may die, as the other sees it: in the simulation it does.
fn moment() {
    #[cfg(test)]
    super::fate::moment();
}

fn until(deadline: Instant) -> Result<Duration, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    // The kernel takes no time at all for no limit at all.
    if left < Duration::from_millis(1) { Err(Error::Late) } else { Ok(left) }
}

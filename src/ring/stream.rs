//! The stream half of a ring: connected sockets that are watched by the ring and read and written by plain system calls.
//!
//! One multishot poll a socket tells when there is something to read, or room to write again; then recv(2) and send(2)
//! move the bytes through memory that is the caller's. Against receives that the kernel completes into lent buffers this
//! costs the same for small messages, less for large ones, a third of the memory while a session is idle, and leaves no
//! operation that could keep or reorder bytes (docs/architecture.md).
//!
//! A watch holds the socket open: it is ended before the socket is dropped, and the kernel closes the socket once it has
//! let the watch go, at the end of the turn. On epoll ([`super::Epoll`]) it is an edge-triggered registration, which holds
//! nothing open.
//!
//! Nothing here is newer than Linux 5.13 (multishot poll), and Vestibule runs on 6.1 and later: no self-test at start has
//! to find out what the kernel can do, and there is no other way to fall back to.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::Fd;
use rustix::io::Errno as SystemError;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

use super::Ring;
use super::driver::Errno;
use super::token::Token;
use super::{kernel_tls, outcome, sys};

/// A TCP connection without traffic is asked for a sign of life after this time (TCP_KEEPIDLE, tcp(7)).
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
/// From one question to the next (TCP_KEEPINTVL).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Questions without an answer that end the connection (TCP_KEEPCNT).
pub const KEEPALIVE_COUNT: u32 = 4;
/// How long sent bytes may stay without an acknowledgement (TCP_USER_TIMEOUT).
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(240);

/// What a watched socket is ready for. More than one may be true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There may be bytes to read, an end, or an error.
    pub readable: bool,
    /// A connect has ended, or there is room to write again.
    pub writable: bool,
    /// The peer will send no more: its end of stream, or a reset, stands behind the bytes that are there.
    pub ended: bool,
    /// The connection is gone, or a connect has failed.
    pub broken: bool,
}

impl Readiness {
    pub(super) const EVENTS: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;

    pub(super) fn of_events(events: u32) -> Readiness {
        let any = |mask: libc::c_short| events & mask as u32 != 0;
        let broken = any(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL);
        Readiness {
            readable: any(libc::POLLIN | libc::POLLRDHUP) || broken,
            writable: any(libc::POLLOUT) || broken,
            ended: any(libc::POLLRDHUP) || broken,
            broken,
        }
    }
}

/// What a relay asks of a ring: sockets that connect, and bytes.
///
/// None of the calls waits. Readiness is told once: whoever was told reads until nothing is there, or less than asked for.
pub trait Streams {
    /// A connection's socket; dropping it closes it.
    type Socket;

    /// Begins to connect a new socket, from `source` where it is given; once it is watched its first readiness to be
    /// written tells that the connect has ended.
    ///
    /// # Errors
    /// Of socket(2), bind(2), connect(2).
    fn connect(&mut self, target: SocketAddr, source: Option<IpAddr>) -> Result<Self::Socket, Errno>;

    /// Two sockets that are connected with each other, both in blocking mode: of one the other end is meant for somebody else.
    ///
    /// # Errors
    /// Of socketpair(2).
    fn pair(&mut self) -> Result<(Self::Socket, Self::Socket), Errno>;

    /// How a connect has ended.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Begins to watch a socket under a place and a generation, with which each readiness is told. A watch whose last
    /// readiness was told as not armed has ended and is begun anew by this call.
    fn watch(&mut self, place: u32, generation: u32, socket: &Self::Socket);

    /// Ends a watch that is armed. A readiness that is under way may still be told.
    fn unwatch(&mut self, place: u32, generation: u32);

    /// Tells a server at once that it is connected, where nothing is sent to it yet: a connect leaves that to the first bytes.
    fn acknowledge(&mut self, _: &Self::Socket) {}

    /// Takes bytes that are there; 0: the peer has ended its stream.
    ///
    /// # Errors
    /// EAGAIN if nothing is there; the connection's own.
    fn receive(&mut self, socket: &Self::Socket, room: &mut [u8]) -> Result<usize, Errno>;

    /// Gives bytes to the kernel, which takes as many as it has room for. `more`: others, or the end, follow at once.
    ///
    /// # Errors
    /// EAGAIN if there is no room; the connection's own.
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8], more: bool) -> Result<usize, Errno>;

    /// Ends the stream towards the peer, behind what was sent.
    fn shutdown(&mut self, socket: &Self::Socket);

    /// Makes a socket one that the kernel can be given the keys of a TLS session for (kTLS); `false`: it cannot.
    fn can_encrypt(&self, _: &Self::Socket) -> bool {
        false
    }

    /// Lets the kernel encrypt what is sent and decrypt what is received, from now on; the keys are `struct
    /// tls12_crypto_info_*` of linux/tls.h. Behind the peer's `close_notify` its stream is at its end.
    ///
    /// # Errors
    /// Of setsockopt(2): the session cannot go on.
    fn encrypt(&self, _: &Self::Socket, _send: &[u8], _receive: &[u8]) -> Result<(), Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }

    /// Whether the kernel does so, in whichever process that was begun.
    fn is_encrypted(&self, _: &Self::Socket) -> bool {
        false
    }

    /// Says to the peer of such a socket, behind what was sent, that nothing follows (`close_notify`).
    fn close_notify(&mut self, _: &Self::Socket) {}

    /// Makes the closing of the socket a reset.
    fn reset(&mut self, socket: &Self::Socket);

    /// Finds out, from now on, whether a silent peer is still there.
    fn keep_alive(&mut self, socket: &Self::Socket);

    /// Whether bytes that were given to the kernel have not been acknowledged yet.
    fn has_unsent(&self, socket: &Self::Socket) -> bool;

    /// The socket's own address.
    fn local(&self, socket: &Self::Socket) -> Option<SocketAddr>;
}

/// How a driver on the kernel watches sockets; all else of its stream half is system calls that each of them makes alike.
pub trait Watches {
    /// [`Streams::watch`].
    fn begin_watch(&mut self, place: u32, generation: u32, socket: &OwnedFd);

    /// [`Streams::unwatch`].
    fn end_watch(&mut self, place: u32, generation: u32);
}

impl Watches for Ring {
    fn begin_watch(&mut self, place: u32, generation: u32, socket: &OwnedFd) {
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), Readiness::EVENTS).multi(true).build();
        // SAFETY: no memory is named.
        unsafe { self.core.push(entry, Token::Watch { place, generation }) };
    }

    fn end_watch(&mut self, place: u32, generation: u32) {
        self.core.cancel(Token::Watch { place, generation });
    }
}

impl<W: Watches> Streams for W {
    type Socket = OwnedFd;

    fn connect(&mut self, target: SocketAddr, source: Option<IpAddr>) -> Result<OwnedFd, Errno> {
        let socket = stream_socket(target, source)?;
        sockopt::set_tcp_nodelay(&socket, true).map_err(errno)?;
        // The acknowledgement of the handshake travels with the first bytes that are sent.
        sockopt::set_tcp_quickack(&socket, false).map_err(errno)?;
        match net::connect(&socket, &target) {
            Ok(()) | Err(SystemError::INPROGRESS) => Ok(socket),
            Err(error) => Err(errno(error)),
        }
    }

    fn pair(&mut self) -> Result<(OwnedFd, OwnedFd), Errno> {
        net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(errno)
    }

    fn connected(&self, socket: &OwnedFd) -> Result<(), Errno> {
        sockopt::socket_error(socket).map_err(errno)?.map_err(errno)
    }

    fn watch(&mut self, place: u32, generation: u32, socket: &OwnedFd) {
        self.begin_watch(place, generation, socket);
    }

    fn unwatch(&mut self, place: u32, generation: u32) {
        self.end_watch(place, generation);
    }

    fn acknowledge(&mut self, socket: &OwnedFd) {
        // It costs the server a moment if it fails.
        let _ = sockopt::set_tcp_quickack(socket, true);
    }

    fn receive(&mut self, socket: &OwnedFd, room: &mut [u8]) -> Result<usize, Errno> {
        match net::recv(socket, room, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(count),
            // Of sockets that the kernel encrypts: what is there is no data.
            Err(SystemError::IO) => kernel_tls::end_of(socket.as_fd()).map_err(|error| sys::errno_of(&error)),
            Err(error) => Err(errno(error)),
        }
    }

    fn send(&mut self, socket: &OwnedFd, bytes: &[u8], more: bool) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        net::send(socket, bytes, if more { flags | SendFlags::MORE } else { flags }).map_err(errno)
    }

    fn shutdown(&mut self, socket: &OwnedFd) {
        // It fails where the connection is gone already, which whoever reads will be told.
        let _ = net::shutdown(socket, Shutdown::Write);
    }

    fn can_encrypt(&self, socket: &OwnedFd) -> bool {
        kernel_tls::kernel_tls().is_ok() && kernel_tls::attach(socket.as_fd()).is_ok()
    }

    fn encrypt(&self, socket: &OwnedFd, send: &[u8], receive: &[u8]) -> Result<(), Errno> {
        kernel_tls::set_keys(socket.as_fd(), send, receive).map_err(|error| sys::errno_of(&error))
    }

    fn is_encrypted(&self, socket: &OwnedFd) -> bool {
        kernel_tls::is_attached(socket.as_fd())
    }

    fn close_notify(&mut self, socket: &OwnedFd) {
        // Without room for it the peer sees an end without it.
        let _ = kernel_tls::close_notify(socket.as_fd());
    }

    fn reset(&mut self, socket: &OwnedFd) {
        // Without it the peer sees an end in place of a reset.
        let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
    }

    fn keep_alive(&mut self, socket: &OwnedFd) {
        let asked = sockopt::set_socket_keepalive(socket, true)
            .and_then(|()| sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE))
            .and_then(|()| sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL))
            .and_then(|()| sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT))
            .and_then(|()| sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MAX.as_millis() as u32));
        if let Err(error) = asked {
            tracing::debug!(%error, "a connection goes on without keepalive");
        }
    }

    fn has_unsent(&self, socket: &OwnedFd) -> bool {
        sys::unsent(socket.as_fd()).is_ok_and(|count| count > 0)
    }

    fn local(&self, socket: &OwnedFd) -> Option<SocketAddr> {
        SocketAddr::try_from(net::getsockname(socket).ok()?).ok()
    }
}

/// A TCP socket that does not block, for a connect to `target`, bound to `source` where it is given; its port is chosen by
/// connect(2), so that it has to be free towards that target only (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
///
/// # Errors
/// Of socket(2), setsockopt(2), bind(2).
pub fn stream_socket(target: SocketAddr, source: Option<IpAddr>) -> Result<OwnedFd, Errno> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None).map_err(errno)?;
    if let Some(source) = source {
        sys::bind_without_port(socket.as_fd(), source).map_err(|error| sys::errno_of(&error))?;
    }
    Ok(socket)
}

/// What the completion of a watch tells; `None` if it is an end that was asked for.
pub(super) fn readiness(result: i32, armed: bool) -> Option<Readiness> {
    if result == -libc::ECANCELED && !armed {
        return None;
    }
    // A failed poll, too, says that its user has to look.
    Some(Readiness::of_events(outcome(result).unwrap_or(libc::POLLERR as u32)))
}

pub(super) fn errno(error: SystemError) -> Errno {
    Errno(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_or_an_error_is_something_to_read() {
        let readiness = |events: libc::c_short| Readiness::of_events(events as u32);
        assert_eq!(readiness(libc::POLLIN), Readiness { readable: true, ..Readiness::default() });
        assert_eq!(readiness(libc::POLLOUT), Readiness { writable: true, ..Readiness::default() });
        assert!(readiness(libc::POLLRDHUP).ended && readiness(libc::POLLRDHUP).readable);
        assert_eq!(readiness(libc::POLLHUP), Readiness { readable: true, writable: true, ended: true, broken: true });
    }
}

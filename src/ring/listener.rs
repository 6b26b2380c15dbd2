//! Listening sockets: one SO_REUSEPORT group an address, one socket of it a ring.
//!
//! A multishot accept armed in two rings on one socket serves only the first; so every ring has a socket of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::driver::{Errno, Newcomer};
use super::sys;

/// Connections that may wait in one socket's backlog (capped by net.core.somaxconn).
pub const BACKLOG: u32 = 4096;

/// Seconds of TCP_DEFER_ACCEPT: the kernel keeps a connection to itself until data arrives, or for about this long.
pub const DEFER_ACCEPT_SECONDS: u32 = 1;

/// What a listening socket is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Wait for data before accepting (TCP_DEFER_ACCEPT).
    pub defer_accept: bool,
    /// Share the port with other processes of the same user. Without it, a port that is already served is an error.
    pub share_port: bool,
}

/// The listening sockets of one driver, by the index of their listener. Two drivers may have the same socket; it is closed
/// when the last of them lets it go.
pub struct Sockets(Vec<Option<Arc<TcpListener>>>);

impl Sockets {
    pub fn new(sockets: Vec<Arc<TcpListener>>) -> Sockets {
        Sockets(sockets.into_iter().map(Some).collect())
    }

    pub fn get(&self, listener: u32) -> &Arc<TcpListener> {
        self.0[listener as usize].as_ref().expect("operations are asked of open listeners only")
    }

    pub fn open(&mut self, listener: u32, socket: Arc<TcpListener>) {
        let index = listener as usize;
        if index == self.0.len() {
            self.0.push(None);
        }
        assert!(self.0[index].is_none(), "a listener's place is taken only after it was closed");
        self.0[index] = Some(socket);
    }

    pub fn close(&mut self, listener: u32) {
        self.0[listener as usize] = None;
    }

    /// Takes a connection that waits in the backlog, if one does.
    pub fn accept(&self, listener: u32) -> Result<Option<Newcomer<OwnedFd>>, Errno> {
        match self.get(listener).accept() {
            Ok((stream, peer)) => Ok(Some((stream.into(), Ok(peer)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(sys::errno_of(&error)),
        }
    }
}

/// Binds `count` sockets to one address and listens on all. Port 0: one free port for all of them.
///
/// # Errors
/// EADDRINUSE if somebody listens there and `share_port` is off; EACCES for a privileged port; EADDRNOTAVAIL.
pub fn bind_group(address: SocketAddr, count: usize, options: Options) -> io::Result<Vec<Arc<TcpListener>>> {
    let sockets = reserve_group(address, count, options)?;
    sockets.iter().try_for_each(|socket| listen(socket))?;
    Ok(sockets)
}

/// The same without listening: who connects before [`listen_group`] is refused, as if nobody were there.
///
/// # Errors
/// As of [`bind_group`].
pub fn reserve_group(address: SocketAddr, count: usize, options: Options) -> io::Result<Vec<Arc<TcpListener>>> {
    if !options.share_port {
        look_for_another(address)?;
    }
    let mut sockets: Vec<Arc<TcpListener>> = Vec::with_capacity(count);
    for _ in 0..count {
        let address = sockets.first().map_or(Ok(address), |first| first.local_addr())?;
        sockets.push(Arc::new(bind_one(address, options)?));
    }
    Ok(sockets)
}

/// Listens on the sockets of a group.
///
/// # Errors
/// EADDRINUSE if somebody else has begun to listen there since they were bound, and `share_port` is off.
pub fn listen_group(sockets: &[Arc<TcpListener>], options: Options) -> io::Result<()> {
    if let Some(first) = sockets.first().filter(|_| !options.share_port) {
        match look_for_another(first.local_addr()?) {
            // Whoever was root when he bound need not be any more.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            _ => {}
        }
    }
    sockets.iter().try_for_each(|socket| listen(socket))
}

/// Whether a socket is bound to `[::]` and takes clients of IPv4 too, as one of another program may.
pub fn serves_both_families(socket: &TcpListener) -> bool {
    let any = socket.local_addr().is_ok_and(|bound| bound.is_ipv6() && bound.ip().is_unspecified());
    any && matches!(SockRef::from(socket).only_v6(), Ok(false))
}

/// Where a socket is bound; an IPv4 address in its own notation.
///
/// # Errors
/// Of getsockname(2).
pub fn bound_to(socket: &TcpListener) -> io::Result<SocketAddr> {
    socket.local_addr().map(|bound| SocketAddr::new(bound.ip().to_canonical(), bound.port()))
}

/// Whether a socket takes the clients of a listener with this address: it is bound there, or it takes those of both families,
/// and the address is all of one of them.
pub fn takes_clients_of(socket: &TcpListener, address: SocketAddr) -> bool {
    let Ok(bound) = bound_to(socket) else { return false };
    let is_other_family = || address.ip().is_unspecified() && address.port() == bound.port();
    bound == address || is_other_family() && serves_both_families(socket)
}

/// SO_REUSEPORT would let us join the group of another instance that listens; a bind without it finds out.
fn look_for_another(address: SocketAddr) -> io::Result<()> {
    let probe = socket(address)?;
    probe.set_reuse_address(true)?;
    probe.bind(&address.into())
}

fn listen(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).listen(BACKLOG as libc::c_int)
}

/// One of at most `count` `sockets`, which listen already, for each of `count` rings; if there are fewer, rings share one,
/// and whichever accepts first serves it. All must be bound to one address.
///
/// # Errors
/// InvalidInput if there are more sockets than rings: the rest would never be served.
pub fn adopt_group(sockets: &[Arc<TcpListener>], count: usize, options: Options) -> io::Result<Vec<Arc<TcpListener>>> {
    if sockets.len() > count {
        let words = format!("{} inherited sockets for {count} rings: pass at most one a ring", sockets.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    sockets.iter().try_for_each(|socket| prepare(SockRef::from(&**socket), options))?;
    Ok(share_group(sockets, count))
}

/// The same of no more than `count` `sockets` that such a group, of this process and with these options, has already.
pub fn share_group(sockets: &[Arc<TcpListener>], count: usize) -> Vec<Arc<TcpListener>> {
    sockets.iter().cycle().take(count).cloned().collect()
}

fn bind_one(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    prepare(SockRef::from(&socket), options)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn prepare(socket: SockRef<'_>, options: Options) -> io::Result<()> {
    // Inherited by every accepted connection, so that no connection pays a system call for it.
    socket.set_tcp_nodelay(true)?;
    // So that draining the backlog with accept(2) ends; the multishot accept is not disturbed by it.
    socket.set_nonblocking(true)?;
    // Off must be said too: a socket that another engine has prepared may have it.
    let defer = if options.defer_accept { DEFER_ACCEPT_SECONDS } else { 0 };
    sys::set_defer_accept(socket.as_fd(), defer as libc::c_int)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `::` must not take the IPv4 port too: configurations list both families.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Options = Options { defer_accept: true, share_port: false };

    #[test]
    fn an_adopted_socket_defers_only_if_it_is_asked_to() {
        let group = bind_group("127.0.0.1:0".parse().expect("an address"), 1, ALONE).expect("loopback has free ports");
        let defers = |socket: &TcpListener| sys::defer_accept(socket.as_fd()).expect("a TCP socket") > 0;
        assert!(defers(&group[0]));
        let adopted = |options| adopt_group(&group, 1, options).expect("a socket for one ring");
        assert!(!defers(&adopted(Options { defer_accept: false, ..ALONE })[0]));
        assert!(defers(&adopted(ALONE)[0]));
    }

    #[test]
    fn a_group_shares_one_port() {
        let group = bind_group("127.0.0.1:0".parse().expect("an address"), 3, ALONE).expect("loopback has free ports");
        let ports: Vec<u16> = group.iter().map(|s| s.local_addr().expect("bound").port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|&port| port == ports[0]));
    }

    #[test]
    fn a_reserved_port_refuses_until_it_is_listened_on() {
        let reserved =
            reserve_group("127.0.0.1:0".parse().expect("an address"), 2, ALONE).expect("there are free ports");
        let address = reserved[0].local_addr().expect("bound");
        let refused = std::net::TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listen_group(&reserved, ALONE).expect("nobody else is there");
        std::net::TcpStream::connect(address).expect("somebody listens");
    }

    #[test]
    fn a_reserved_port_on_which_another_listens_meanwhile_is_an_error() {
        let reserved =
            reserve_group("127.0.0.1:0".parse().expect("an address"), 1, ALONE).expect("there are free ports");
        let address = reserved[0].local_addr().expect("bound");
        let _other = bind_group(address, 1, ALONE).expect("nobody listens yet");
        let error = listen_group(&reserved, ALONE).expect_err("another one listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_served_port_is_an_error_unless_shared() {
        let group = bind_group("127.0.0.1:0".parse().expect("an address"), 1, ALONE).expect("loopback has free ports");
        let address = group[0].local_addr().expect("bound");
        let error = bind_group(address, 1, ALONE).expect_err("somebody listens there");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        bind_group(address, 1, Options { share_port: true, ..ALONE }).expect("sharing was asked for");
    }
}

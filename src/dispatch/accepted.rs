//! A validated connection with its peer metadata.

use std::cell::OnceCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::Stream;
use super::bytes::Bytes;
use crate::net::canonical_socket;
use crate::proxy::{Head, Header};

/// What every connection of a listener has in common.
#[derive(Debug)]
pub struct ListenerInfo {
    /// The service it belongs to, such as `imap-login`.
    pub service: String,
    /// The `inet_listener`'s name, such as `imap_haproxy`.
    pub name: String,
    /// Whether a TLS handshake follows the header (`ssl = yes`).
    pub ssl: bool,
}

/// What a TLS handshake told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3`, `TLSv1.2`.
    pub version: Option<&'static str>,
    /// The server name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// The protocol agreed by ALPN.
    pub alpn: Option<Vec<u8>>,
}

/// A TLS session over the connection's socket: plaintext is read and written through it.
pub trait TlsSession: Read + Write + Send {
    /// What the handshake told.
    fn info(&self) -> &TlsInfo;
    /// Sends `close_notify` and flushes; called once, before the socket is closed.
    fn close(&mut self) -> io::Result<()>;
}

/// Everything the engine knows of a connection when it hands it over.
#[derive(Debug)]
pub struct Handoff<S = OwnedFd> {
    /// The socket.
    pub socket: S,
    /// The listener it came through.
    pub listener: Arc<ListenerInfo>,
    /// The socket's peer: the balancer.
    pub peer: SocketAddr,
    /// The socket's own address where the listener is bound to one address; else it is asked for when needed.
    pub local: Option<SocketAddr>,
    /// The decoded header; `None` on a listener without `haproxy = yes`.
    pub head: Option<Head>,
    /// When the kernel's accept was seen.
    pub accepted_at: Instant,
}

/// A validated connection: the socket, the addresses that count, the header, and the bytes that came behind it.
///
/// Dropping it closes the connection.
pub struct Accepted {
    handoff: Handoff,
    local: OnceCell<SocketAddr>,
    bytes: Bytes,
    tls: Option<Box<dyn TlsSession>>,
}

impl Accepted {
    /// `bytes` are the header, if there is one, and whatever came behind it.
    ///
    /// # Panics
    /// If `bytes` is shorter than the header that it should start with.
    pub fn new(handoff: Handoff, bytes: &[u8]) -> Accepted {
        assert!(handoff.head.is_none_or(|head| head.len() <= bytes.len()), "a header must come with its bytes");
        let local = handoff.local.map(OnceCell::from).unwrap_or_default();
        Accepted { handoff, local, bytes: Bytes::copy_of(bytes), tls: None }
    }

    /// The listener it came through.
    pub fn listener(&self) -> &ListenerInfo {
        &self.handoff.listener
    }

    /// The client: the header's source, or the socket's peer for LOCAL, UNKNOWN and listeners without a header.
    /// IPv4-mapped IPv6 is given as IPv4.
    pub fn client(&self) -> SocketAddr {
        canonical_socket(self.conveyed().map_or(self.handoff.peer, |(source, _)| source))
    }

    /// What the client connected to: the header's destination, or the socket's own address.
    pub fn destination(&self) -> SocketAddr {
        self.conveyed().map_or_else(|| self.local(), |(_, destination)| canonical_socket(destination))
    }

    /// The socket's peer: whoever connected to us, usually the balancer.
    pub fn peer(&self) -> SocketAddr {
        canonical_socket(self.handoff.peer)
    }

    /// The socket's own address (getsockname(2), asked at most once; unspecified if the kernel no longer says).
    pub fn local(&self) -> SocketAddr {
        *self.local.get_or_init(|| {
            let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
            let Ok(copy) = self.handoff.socket.try_clone() else { return unspecified };
            TcpStream::from(copy).local_addr().map_or(unspecified, canonical_socket)
        })
    }

    /// The header; `None` on a listener without `haproxy = yes`.
    pub fn header(&self) -> Option<Header<'_>> {
        self.handoff.head.and_then(|head| head.over(self.bytes.as_slice()))
    }

    /// The bytes that came behind the header in the same read: the first of the application's.
    /// Empty once a TLS session has taken them.
    pub fn residual(&self) -> &[u8] {
        if self.tls.is_some() {
            return &[];
        }
        &self.bytes.as_slice()[self.handoff.head.map_or(0, |head| head.len())..]
    }

    /// When the connection was accepted.
    pub fn accepted_at(&self) -> Instant {
        self.handoff.accepted_at
    }

    /// What the TLS handshake told, if this tier terminated TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref().map(|session| session.info())
    }

    /// Puts a TLS session on top: it must already have consumed the residual.
    pub fn with_tls(mut self, session: Box<dyn TlsSession>) -> Accepted {
        self.tls = Some(session);
        self
    }

    /// A reader and writer that yields the residual first and speaks through TLS where there is a session.
    pub fn into_stream(self) -> Stream {
        let residual_at = self.handoff.head.map_or(0, |head| head.len());
        Stream::new(TcpStream::from(self.handoff.socket), self.bytes, residual_at, self.tls)
    }

    /// The plain socket, if nothing would be lost by it.
    ///
    /// # Errors
    /// Gives the connection back if it has a residual (set the pool to `exact_residual`) or a TLS session.
    pub fn into_tcp_stream(self) -> Result<TcpStream, Box<Accepted>> {
        if self.tls.is_some() || !self.residual().is_empty() {
            return Err(Box::new(self));
        }
        Ok(TcpStream::from(self.handoff.socket))
    }

    fn conveyed(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.handoff.head.and_then(|head| head.ip())
    }
}

impl AsFd for Accepted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handoff.socket.as_fd()
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("handoff", &self.handoff)
            .field("residual", &self.residual().len())
            .field("tls", &self.tls())
            .finish()
    }
}

//! A validated connection with its peer metadata.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::bytes::Bytes;
use super::{AcceptedBuilder, Permit, Stream, TlsInfo, TlsSession};
use crate::net::{NetworkSet, canonical_socket};
use crate::proxy::{Endpoint, Head, Header};

/// What every connection of a listener has in common.
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// The service it belongs to, such as `imap-login`.
    pub service: String,
    /// The `inet_listener`'s name, such as `imap_haproxy`.
    pub name: String,
    /// Whether a TLS handshake follows the header (`ssl = yes`).
    pub ssl: bool,
    /// Where no header is expected: networks whose connections are no clients', such as a balancer that checks the port.
    pub checks_from: NetworkSet,
}

impl ListenerInfo {
    /// Of a listener that was in another process.
    pub(crate) fn of_former(service: String, name: String) -> ListenerInfo {
        ListenerInfo { service, name, ssl: false, checks_from: Default::default() }
    }
}

/// A connected socket of the standard library or of an asynchronous runtime.
pub trait Socket {
    /// Its own address (getsockname(2)).
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Socket for TcpStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpStream::local_addr(self)
    }
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
    /// If it counts against its client's limit: the proof.
    pub permit: Option<Permit>,
    /// If TLS has ended here: the session, which has taken what came behind the header.
    pub tls: Option<Box<dyn TlsSession>>,
    /// If TLS has ended before this socket, which is not the client's then and speaks plaintext: what its handshake told.
    pub tls_before: Option<Box<TlsInfo>>,
}

impl<S> Handoff<S> {
    /// As [`Accepted::client`].
    pub fn client(&self) -> SocketAddr {
        canonical_socket(conveyed(self.head).map_or(self.peer, |(source, _)| source))
    }

    /// As [`Accepted::is_check`].
    pub fn is_check(&self) -> bool {
        is_check(&self.listener, self.head, self.peer)
    }
}

/// A validated connection: the socket, the addresses that count, the header, and the bytes that came behind it.
///
/// Dropping it closes the connection. `S` is the socket's type: the standard library's in pools of threads, the
/// runtime's in asynchronous pools.
pub struct Accepted<S = TcpStream> {
    pub(super) socket: S,
    listener: Arc<ListenerInfo>,
    peer: SocketAddr,
    local: Local,
    head: Option<Head>,
    accepted_at: Instant,
    bytes: Bytes,
    pub(super) tls: Option<Box<dyn TlsSession>>,
    tls_before: Option<Box<TlsInfo>>,
    /// Behind the socket, so that a connection counts until it is closed.
    permit: Option<Permit>,
}

/// The socket's own address.
enum Local {
    /// The engine has said it.
    Told(SocketAddr),
    /// The kernel says it when it is needed first.
    Asked(OnceLock<SocketAddr>),
}

impl Local {
    fn of(told: Option<SocketAddr>) -> Local {
        told.map_or_else(|| Local::Asked(OnceLock::new()), |address| Local::Told(canonical_socket(address)))
    }

    fn into_known(self) -> Option<SocketAddr> {
        match self {
            Local::Told(address) => Some(address),
            Local::Asked(asked) => asked.into_inner(),
        }
    }
}

/// What a connection is made of, for a program that goes its own way with it.
#[non_exhaustive]
pub struct Parts<S = TcpStream> {
    /// The socket.
    pub socket: S,
    /// The bytes that came behind the header: the first of the application's, to be read before those of the socket.
    pub residual: Vec<u8>,
    /// What makes the connection count against its client's limit, if there is one: to be dropped when the connection ends.
    pub permit: Option<Permit>,
    /// If this tier terminated TLS: what everything has to go through.
    pub tls: Option<Box<dyn TlsSession>>,
}

impl<S: fmt::Debug> fmt::Debug for Parts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { socket, residual, permit, tls } = self;
        let tls = tls.as_ref().map(|session| session.info());
        let mut parts = f.debug_struct("Parts");
        parts.field("socket", socket).field("residual", &residual.len()).field("permit", permit).field("tls", &tls);
        parts.finish()
    }
}

impl Accepted {
    /// A connection for tests of handlers, over a real pair of sockets.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use vestibule::Accepted;
    ///
    /// fn greet(connection: Accepted) {
    ///     let client = connection.client().ip();
    ///     let _ = write!(connection.into_stream(), "* OK hello {client}\r\n");
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (mut client, connection) =
    ///     Accepted::builder().client("198.51.100.7:5000".parse().expect("an address")).residual(b"a NOOP\r\n").pair()?;
    /// assert_eq!(connection.residual(), b"a NOOP\r\n");
    /// greet(connection);
    /// let mut greeting = String::new();
    /// client.read_to_string(&mut greeting)?;
    /// assert_eq!(greeting, "* OK hello 198.51.100.7\r\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> AcceptedBuilder {
        AcceptedBuilder::new()
    }

    /// `bytes` are the header, if there is one, and whatever came behind it.
    ///
    /// # Panics
    /// If `bytes` is shorter than the header that it should start with.
    pub(crate) fn new(handoff: Handoff, bytes: &[u8]) -> Accepted {
        assert!(handoff.head.is_none_or(|head| head.len() <= bytes.len()), "a header must come with its bytes");
        let Handoff { socket, listener, peer, local, head, accepted_at, permit, tls, tls_before } = handoff;
        let (socket, local, bytes) = (TcpStream::from(socket), Local::of(local), Bytes::copy_of(bytes));
        Accepted { socket, listener, peer, local, head, accepted_at, bytes, tls, tls_before, permit }
    }

    /// Back to what it was made of; the engine keeps the bytes.
    pub(crate) fn into_handoff(self) -> Handoff {
        let Accepted { socket, listener, peer, local, head, accepted_at, permit, tls, tls_before, .. } = self;
        let (socket, local) = (socket.into(), local.into_known());
        Handoff { socket, listener, peer, local, head, accepted_at, permit, tls, tls_before }
    }

    /// Puts a TLS session on top: it must already have consumed the residual.
    pub fn with_tls(mut self, session: Box<dyn TlsSession>) -> Accepted {
        self.tls = Some(session);
        self
    }

    /// Ends the TLS session, if there is one: what is to be sent over the socket then so that the client gets `last` and the
    /// session's end; `None` where `last` can be sent as it is.
    pub(crate) fn seal(&mut self, last: &[u8]) -> Option<Vec<u8>> {
        Some(self.tls.take()?.seal(last))
    }

    /// The same connection on a runtime's socket.
    ///
    /// # Errors
    /// The runtime's.
    #[cfg(any(feature = "tokio", feature = "tokio-uring"))]
    pub(crate) fn on_runtime<S>(self, convert: impl FnOnce(TcpStream) -> io::Result<S>) -> io::Result<Accepted<S>> {
        // Now, since not every runtime's socket can tell it later.
        self.local();
        let Accepted { socket, listener, peer, local, head, accepted_at, bytes, tls, tls_before, permit } = self;
        let socket = convert(socket)?;
        Ok(Accepted { socket, listener, peer, local, head, accepted_at, bytes, tls, tls_before, permit })
    }
}

impl<S> Accepted<S> {
    /// The listener it came through.
    pub fn listener(&self) -> &ListenerInfo {
        &self.listener
    }

    /// The client: the header's source, or the socket's peer for LOCAL, UNKNOWN and listeners without a header.
    /// IPv4-mapped IPv6 is given as IPv4.
    pub fn client(&self) -> SocketAddr {
        canonical_socket(self.conveyed().map_or(self.peer, |(source, _)| source))
    }

    /// The socket's peer: whoever connected to us, usually the balancer.
    pub fn peer(&self) -> SocketAddr {
        canonical_socket(self.peer)
    }

    /// Whether it is the balancer's own connection, as far as can be seen: a health check. Such a one has a header without
    /// addresses or with the balancer's own, or comes without a header from a network that only checks.
    pub fn is_check(&self) -> bool {
        is_check(&self.listener, self.head, self.peer)
    }

    /// The header; `None` on a listener without `haproxy = yes`.
    pub fn header(&self) -> Option<Header<'_>> {
        self.head.and_then(|head| head.over(self.bytes.as_slice()))
    }

    /// The bytes that came behind the header in the same read: the first of the application's.
    /// Empty once a TLS session has taken them.
    pub fn residual(&self) -> &[u8] {
        if self.tls.is_some() || self.tls_before.is_some() {
            return &[];
        }
        &self.bytes.as_slice()[self.head.map_or(0, |head| head.len())..]
    }

    /// The private endpoint of a cloud provider through which the client came, if the header names one: the first.
    /// A listener's `client_allowed_endpoints` has judged it; where nothing is set, it is what the balancer says.
    pub fn endpoint(&self) -> Option<Endpoint<'_>> {
        self.header()?.endpoints().next()
    }

    /// When the connection was accepted.
    pub fn accepted_at(&self) -> Instant {
        self.accepted_at
    }

    /// What the TLS handshake told, if this tier terminated TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref().map(|session| session.info()).or(self.tls_before.as_deref())
    }

    /// The socket, for options such as timeouts. Reading from it directly would skip the residual, and break TLS.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// A reader and writer that yields the residual first and speaks through TLS where there is a session.
    pub fn into_stream(self) -> Stream<S> {
        Stream::new(self)
    }

    /// The plain socket, if nothing would be lost by it, and what makes the connection count against its client's limit,
    /// if there is one: to be dropped when the connection ends.
    ///
    /// # Errors
    /// Gives the connection back if it has a residual (set the pool to `exact_residual`) or a TLS session.
    pub fn into_tcp_stream(self) -> Result<(S, Option<Permit>), Box<Accepted<S>>> {
        if self.tls.is_some() || !self.residual().is_empty() {
            return Err(Box::new(self));
        }
        Ok(self.into_socket())
    }

    /// Everything that goes on when the connection's metadata does not: ask for the client and the header before.
    ///
    /// ```
    /// use vestibule::dispatch::Parts;
    ///
    /// # fn f(connection: vestibule::Accepted) {
    /// let client = connection.client();
    /// let Parts { socket, residual, permit, .. } = connection.into_parts();
    /// println!("{client} on {socket:?} has sent {} bytes", residual.len());
    /// drop(socket);
    /// drop(permit); // from now on the client may have one connection more
    /// # }
    /// ```
    pub fn into_parts(self) -> Parts<S> {
        let residual = self.residual().to_vec();
        Parts { socket: self.socket, residual, permit: self.permit, tls: self.tls }
    }

    /// The count goes on without the connection.
    pub(crate) fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }

    pub(crate) fn into_socket(self) -> (S, Option<Permit>) {
        (self.socket, self.permit)
    }

    fn conveyed(&self) -> Option<(SocketAddr, SocketAddr)> {
        conveyed(self.head)
    }
}

impl<S: Socket> Accepted<S> {
    /// What the client connected to: the header's destination, or the socket's own address.
    pub fn destination(&self) -> SocketAddr {
        self.conveyed().map_or_else(|| self.local(), |(_, destination)| canonical_socket(destination))
    }

    /// The socket's own address (getsockname(2), asked at most once; unspecified if the kernel no longer says).
    pub fn local(&self) -> SocketAddr {
        let unspecified = || SocketAddr::from(([0, 0, 0, 0], 0));
        match &self.local {
            Local::Told(address) => *address,
            Local::Asked(asked) => {
                *asked.get_or_init(|| self.socket().local_addr().map_or_else(|_| unspecified(), canonical_socket))
            }
        }
    }
}

impl<S: AsFd> AsFd for Accepted<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S> fmt::Debug for Accepted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("listener", &self.listener)
            .field("peer", &self.peer)
            .field("head", &self.head)
            .field("residual", &self.residual().len())
            .field("tls", &self.tls())
            .finish_non_exhaustive()
    }
}

/// The client's address and what it has connected to, if a header says so.
fn conveyed(head: Option<Head>) -> Option<(SocketAddr, SocketAddr)> {
    head.and_then(|head| head.ip())
}

fn is_check(listener: &ListenerInfo, head: Option<Head>, peer: SocketAddr) -> bool {
    let peer = canonical_socket(peer).ip();
    match (head, conveyed(head)) {
        (None, _) => listener.checks_from.contains(peer),
        (Some(_), None) => true,
        (Some(_), Some((source, _))) => canonical_socket(source).ip() == peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::{V1, V2, connection, proxied};

    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    const MAPPED: &[u8] = b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 5000 143\r\n";

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_header_conveys_the_addresses_and_the_socket_has_its_own() {
        for header in [V1, V2] {
            let (client, accepted) = connection(header, true, false);
            assert_eq!(accepted.client(), address("198.51.100.7:5000"));
            assert_eq!(accepted.destination(), address("192.0.2.1:143"));
            assert_eq!(accepted.peer(), client.local_addr().expect("connected"));
            assert_eq!(accepted.local(), client.peer_addr().expect("connected"));
            assert_eq!(accepted.header().map(|header| header.len()), Some(header.len()));
            assert_eq!(accepted.listener().name, "imap_haproxy");
        }
    }

    #[test]
    fn without_addresses_in_a_header_the_sockets_count() {
        for (bytes, has_header) in [(LOCAL, true), (&b"PROXY UNKNOWN\r\n"[..], true), (b"", false)] {
            let (client, accepted) = connection(bytes, has_header, false);
            assert_eq!(accepted.client(), client.local_addr().expect("connected"));
            assert_eq!(accepted.destination(), client.peer_addr().expect("connected"));
            assert_eq!(accepted.header().is_some(), has_header);
        }
    }

    #[test]
    fn the_balancers_own_connections_are_known() {
        let own = b"PROXY TCP4 127.0.0.1 192.0.2.1 5000 143\r\n";
        for (bytes, has_header, check) in [
            (LOCAL, true, true),
            (&b"PROXY UNKNOWN\r\n"[..], true, true),
            (&own[..], true, true),
            (V1, true, false),
            (b"", false, false),
        ] {
            assert_eq!(connection(bytes, has_header, false).1.is_check(), check, "{bytes:?}");
        }
        let mut plain = connection(b"", false, false).1;
        let checks_from = ["127.0.0.0/8".parse().expect("a network")].into_iter().collect();
        plain.listener = Arc::new(ListenerInfo { service: String::new(), name: String::new(), ssl: true, checks_from });
        assert!(plain.is_check());
    }

    #[test]
    fn the_endpoint_is_the_headers() {
        let header =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14\xc6\x33\x64\x07\xc0\0\x02\x01\x13\x88\0\x8f\xee\0\x05\x01\x12\0\0\x20";
        assert_eq!(connection(header, true, false).1.endpoint(), Some(Endpoint::Azure(536_870_930)));
        assert_eq!(connection(V2, true, false).1.endpoint(), None);
        assert_eq!(connection(b"", false, false).1.endpoint(), None);
    }

    #[test]
    fn mapped_addresses_are_given_as_ipv4() {
        let (_client, accepted) = connection(MAPPED, true, false);
        assert_eq!(accepted.client(), address("198.51.100.7:5000"));
        assert_eq!(accepted.destination(), address("[2001:db8::1]:143"));
    }

    #[test]
    fn a_known_local_address_is_not_asked_for() {
        let (_client, mut accepted) = connection(b"", false, false);
        accepted.local = Local::of(Some(address("[::ffff:192.0.2.9]:143")));
        assert_eq!(accepted.local(), address("192.0.2.9:143"));
    }

    #[test]
    fn the_residual_is_what_stands_behind_the_header_whatever_its_length() {
        let long = vec![b'x'; 3000];
        for behind in [&b""[..], b"a NOOP\r\n", &long] {
            assert_eq!(proxied(behind).1.residual(), behind);
            assert_eq!(connection(behind, false, false).1.residual(), behind);
        }
    }

    #[test]
    fn the_plain_socket_is_given_only_if_nothing_is_lost() {
        let accepted = proxied(b"a").1.into_tcp_stream().expect_err("a residual would be lost");
        assert_eq!(accepted.residual(), b"a");
        let (client, accepted) = proxied(b"");
        let (stream, _) = accepted.into_tcp_stream().expect("nothing stands behind the header");
        assert_eq!(stream.peer_addr().expect("connected"), client.local_addr().expect("connected"));
    }

    #[test]
    #[should_panic(expected = "a header must come with its bytes")]
    fn a_header_without_its_bytes_is_a_bug() {
        let Accepted { socket, listener, peer, head, accepted_at, .. } = proxied(b"").1;
        let (socket, permit, tls) = (socket.into(), None, None);
        let handoff = Handoff { socket, listener, peer, local: None, head, accepted_at, permit, tls, tls_before: None };
        drop(Accepted::new(handoff, &V1[..10]));
    }

    #[test]
    fn connections_may_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Accepted>();
        shared::<Stream>();
    }
}

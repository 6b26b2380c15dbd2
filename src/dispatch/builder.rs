//! Connections for tests of handlers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use super::{Accepted, Handoff, ListenerInfo};
use crate::proxy::{Encoder, Head};

/// Longest header that [`AcceptedBuilder::client`] makes.
const HEADER_MAX: usize = 64;

/// Describes a connection that no ring has accepted, for tests of handlers; [`Accepted::builder`] makes one.
///
/// Without a word it comes through a listener without a header: its client is the socket's peer.
#[derive(Clone, Debug)]
#[must_use = "it makes nothing before `pair` or `over`"]
pub struct AcceptedBuilder {
    service: String,
    listener: String,
    ssl: bool,
    header: Header,
    residual: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Header {
    None,
    Of { client: SocketAddr, destination: SocketAddr },
    Raw(Vec<u8>),
}

impl AcceptedBuilder {
    pub(super) fn new() -> AcceptedBuilder {
        let [service, listener] = ["test".to_owned(), "test".to_owned()];
        AcceptedBuilder { service, listener, ssl: false, header: Header::None, residual: Vec::new() }
    }

    /// A version 2 header that names this client, and 192.0.2.1:143 as what it has connected to unless
    /// [`destination`](AcceptedBuilder::destination) says something else.
    pub fn client(mut self, client: SocketAddr) -> AcceptedBuilder {
        let destination = match self.header {
            Header::Of { destination, .. } => destination,
            _ => ([192, 0, 2, 1], 143).into(),
        };
        self.header = Header::Of { client, destination };
        self
    }

    /// What the client has connected to; 198.51.100.7:5000 is the client if none is named.
    pub fn destination(mut self, destination: SocketAddr) -> AcceptedBuilder {
        let client = match self.header {
            Header::Of { client, .. } => client,
            _ => ([198, 51, 100, 7], 5000).into(),
        };
        self.header = Header::Of { client, destination };
        self
    }

    /// Any header, version 1 or 2, such as [`Encoder`] makes.
    pub fn header(mut self, bytes: impl Into<Vec<u8>>) -> AcceptedBuilder {
        self.header = Header::Raw(bytes.into());
        self
    }

    /// The bytes that came behind the header.
    pub fn residual(mut self, bytes: impl Into<Vec<u8>>) -> AcceptedBuilder {
        self.residual = bytes.into();
        self
    }

    /// The service's name.
    pub fn service(mut self, name: impl Into<String>) -> AcceptedBuilder {
        self.service = name.into();
        self
    }

    /// The listener's name.
    pub fn listener(mut self, name: impl Into<String>) -> AcceptedBuilder {
        self.listener = name.into();
        self
    }

    /// Whether a TLS handshake follows the header.
    pub fn ssl(mut self, ssl: bool) -> AcceptedBuilder {
        self.ssl = ssl;
        self
    }

    /// The connection, and the client's end of it: two sockets over loopback.
    ///
    /// # Errors
    /// The system's, and `InvalidInput` for a header that is none.
    pub fn pair(self) -> io::Result<(TcpStream, Accepted)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let socket = listener.accept()?.0;
        Ok((client, self.over(socket)?))
    }

    /// The connection over a socket of the test's own.
    ///
    /// # Errors
    /// The system's, and `InvalidInput` for a header that is none.
    pub fn over(self, socket: TcpStream) -> io::Result<Accepted> {
        let AcceptedBuilder { service, listener, ssl, header, residual } = self;
        let header = header.bytes()?;
        let head = (!header.is_empty()).then(|| whole(&header)).transpose()?;
        let listener = Arc::new(ListenerInfo { service, name: listener, ssl, checks_from: Default::default() });
        let (peer, accepted_at) = (socket.peer_addr()?, Instant::now());
        let (socket, permit, tls) = (socket.into(), None, None);
        let handoff = Handoff { socket, listener, peer, local: None, head, accepted_at, permit, tls, tls_before: None };
        Ok(Accepted::new(handoff, &[header, residual].concat()))
    }
}

impl Header {
    fn bytes(self) -> io::Result<Vec<u8>> {
        let (client, destination) = match self {
            Header::None => return Ok(Vec::new()),
            Header::Raw(bytes) => return Ok(bytes),
            Header::Of { client, destination } => (client, destination),
        };
        let mut room = [0; HEADER_MAX];
        let length = Encoder::proxy(client, destination).encode(&mut room).map_err(io::Error::other)?;
        Ok(room[..length].to_vec())
    }
}

/// The head of bytes that are a header and nothing else.
fn whole(header: &[u8]) -> io::Result<Head> {
    let head = Head::of(header).filter(|head| head.len() == header.len());
    head.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "these bytes are no PROXY header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::V1;

    #[test]
    fn without_a_word_there_is_no_header() {
        let (client, accepted) = Accepted::builder().residual(b"a").pair().expect("loopback");
        assert_eq!(accepted.client(), client.local_addr().expect("connected"));
        assert!(accepted.header().is_none() && accepted.residual() == b"a");
    }

    #[test]
    fn addresses_of_both_families_and_mixed_ones_are_conveyed() {
        let [v4, v6] = ["203.0.113.9:1", "[2001:db8::1]:2"].map(|text| text.parse::<SocketAddr>().expect("an address"));
        for (client, destination) in [(v4, v4), (v6, v6), (v4, v6), (v6, v4)] {
            for builder in [
                Accepted::builder().client(client).destination(destination),
                Accepted::builder().destination(destination).client(client),
            ] {
                let accepted = builder.service("imap").listener("haproxy").ssl(true).pair().expect("loopback").1;
                assert_eq!((accepted.client(), accepted.destination()), (client, destination));
                let listener = accepted.listener();
                assert_eq!((&*listener.service, &*listener.name, listener.ssl), ("imap", "haproxy", true));
            }
        }
    }

    #[test]
    fn a_header_may_be_given_as_it_is_and_what_is_none_is_refused() {
        let (_client, accepted) = Accepted::builder().header(V1).residual(b"b").pair().expect("loopback");
        assert_eq!((accepted.client(), accepted.residual()), (([198, 51, 100, 7], 5000).into(), &b"b"[..]));
        for wrong in [&V1[..10], b"GET / HTTP/1.1\r\n", &[V1, b"a"].concat()] {
            let refused = Accepted::builder().header(wrong).pair().expect_err("no header");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

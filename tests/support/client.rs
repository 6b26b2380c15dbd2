//! The tests' own client.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// The balancer that the tests' configurations trust, unless a test says otherwise.
pub const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An orderly end (FIN).
    Closed,
    /// Aborted (RST): received bytes were never read.
    Reset,
}

/// A connection, and when it was begun: no deadline of the server can have started before.
pub struct Client {
    pub stream: TcpStream,
    pub connected_at: Instant,
}

impl Client {
    /// Connects from the source address `from`; small writes leave at once.
    pub fn connect(from: IpAddr, to: SocketAddr) -> Client {
        let connected_at = Instant::now();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        // Bound ports run out sooner than those that connect(2) picks, which may serve several destinations.
        if from != TRUSTED || to.is_ipv6() {
            socket.bind(&SocketAddr::new(from, 0).into()).expect("the source address is ours");
        }
        socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
        socket.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        Client { stream: socket.into(), connected_at }
    }

    /// Connects from [`TRUSTED`] and sends `bytes`.
    pub fn send_to(to: SocketAddr, bytes: &[u8]) -> Client {
        let client = Client::connect(TRUSTED, to);
        client.send(bytes).expect("a fresh connection takes a few bytes");
        client
    }

    /// Sends bytes as one segment.
    pub fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        (&self.stream).write_all(bytes)
    }

    /// Reads until the other side ends the connection: what it said, how it ended, and when, counted from the connect.
    pub fn read_to_end(&self) -> (Vec<u8>, Ending, Duration) {
        let mut said = Vec::new();
        let ending = match (&self.stream).read_to_end(&mut said) {
            Ok(_) => Ending::Closed,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ending::Reset,
            Err(error) => panic!("not ended after {PATIENCE:?} ({error}); said {:?}", String::from_utf8_lossy(&said)),
        };
        (said, ending, self.connected_at.elapsed())
    }

    /// The whoami worker's answer.
    pub fn whoami(&self) -> Value {
        whoami(&self.read_to_end().0)
    }

    /// This side's address.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }
}

/// Reads the one line that the whoami worker writes.
pub fn whoami(said: &[u8]) -> Value {
    let text = String::from_utf8_lossy(said);
    assert!(text.ends_with('\n') && text.lines().count() == 1, "not one line: {text:?}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

/// An IPv4 or IPv6 socket address.
pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an address with a port"))
}

pub use vestibule_peers::loopback;

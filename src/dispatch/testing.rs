//! Connections for unit tests: real sockets over loopback.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Accepted, Handoff, ListenerInfo};
use crate::proxy::{Decoded, Rules, decode};

/// Longer than anything in a test takes, and short enough to see a hang.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A version 1 header from 198.51.100.7:5000 to 192.0.2.1:143.
pub(crate) const V1: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";

/// A version 2 header from 198.51.100.7:5000 to 192.0.2.1:143 with one TLV: NOOP, one byte.
pub(crate) const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc6\x33\x64\x07\xc0\0\x02\x01\x13\x88\0\x8f\x04\0\x01\0";

/// A client's socket and the accepted connection that belongs to it; `bytes` were read from it already. If `has_header`
/// they start with one.
pub(crate) fn connection(bytes: &[u8], has_header: bool, ssl: bool) -> (TcpStream, Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("the listener listens");
    client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    let (socket, peer) = listener.accept().expect("the client has connected");
    (client, Accepted::new(handoff(socket.into(), peer, bytes, has_header, ssl), bytes))
}

/// A connection with a v1 header.
pub(crate) fn proxied(behind_header: &[u8]) -> (TcpStream, Accepted) {
    connection(&[V1, behind_header].concat(), true, false)
}

/// A connection that nobody can talk to, where only its way matters.
pub(crate) fn mute() -> Accepted {
    let socket = File::open("/dev/null").expect("every Linux has it");
    Accepted::new(handoff(socket.into(), SocketAddr::from(([127, 0, 0, 1], 4000)), b"", false, false), b"")
}

fn handoff(socket: OwnedFd, peer: SocketAddr, bytes: &[u8], has_header: bool, ssl: bool) -> Handoff {
    let head = has_header.then(|| match decode(bytes, &Rules::default()) {
        Decoded::Complete(header) => header.head(),
        other => panic!("{other:?}"),
    });
    let (service, name) = ("imap-login".into(), "imap_haproxy".into());
    let listener = Arc::new(ListenerInfo { service, name, ssl, checks_from: Default::default() });
    Handoff {
        socket,
        listener,
        peer,
        local: None,
        head,
        accepted_at: Instant::now(),
        permit: None,
        tls: None,
        tls_before: None,
    }
}

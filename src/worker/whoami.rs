//! The worker `whoami`: tells every client how its connection was understood, in one line of JSON, and closes.
//!
//! ```text
//! {"service":"imap-login","listener":"imap_haproxy","version":"v2","command":"PROXY","client":"198.51.100.7:5000",
//!  "destination":"192.0.2.1:143","peer":"127.0.0.1:40000","local":"127.0.0.1:10143","tls":false,
//!  "tlvs":[{"type":4,"value":"00"}],"residual":""}
//! ```
//!
//! `version` and `command` are null on a listener without a header; `value` and `residual` are hexadecimal; after a TLS
//! handshake `sni` and `alpn` follow where the client sent them, and `client_name` where it showed a certificate that was
//! verified.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use libc::{MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL};
use serde::ser::{Serialize, Serializer};
use socket2::SockRef;

use super::{Finisher, Handler};
use crate::dispatch::Accepted;
use crate::proxy::{Command, Header, Tlv, Version};

/// How long a client that is slow to take its line, or still sends while it gets it, may hold a worker in each step.
const PATIENCE: Duration = Duration::from_secs(1);

/// Room for the usual line; a header with large TLVs makes a longer one, at most four times the header's limit.
const LINE_CAPACITY: usize = 1024;

thread_local! {
    static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(LINE_CAPACITY));
}

/// Answers every connection with one line of JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whoami;

impl Whoami {
    /// The same for [`Pool::here`](crate::Pool::here): it never waits for a client. Those that are slow to take their line, or
    /// still send while they get it, are left to a [`Finisher`].
    pub fn here() -> impl Handler {
        let finisher = Finisher::new("whoami", PATIENCE);
        move |connection: Accepted| answer(connection, |connection, rest| _ = finisher.finish(connection, rest))
    }
}

impl Handler for Whoami {
    fn handle(&self, connection: Accepted) {
        // The line is for the client; if that has gone there is nobody to tell.
        answer(connection, |connection, rest| _ = answer_patiently(connection, rest));
    }
}

/// Sends the line, or leaves the rest of it to `patiently`.
fn answer(mut connection: Accepted, patiently: impl FnOnce(Accepted, &[u8])) {
    LINE.with_borrow_mut(|line| {
        line.clear();
        write_line(&connection, line).expect("a vector takes every write");
        if let Some(records) = connection.seal(line) {
            *line = records;
        }
        let Ok(sent) = send_held_back(&connection, line) else { return };
        // Closing now puts line and FIN into one segment, which is much of what an answered connection costs.
        if sent < line.len() || has_unread(&connection) {
            patiently(connection, &line[sent..]);
        }
    });
}

/// Gives the line to the kernel but lets it wait for more: the FIN of the close. Returns how much of it fitted.
fn send_held_back(connection: &Accepted, line: &[u8]) -> io::Result<usize> {
    match SockRef::from(connection).send_with_flags(line, MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Whether a close would reset the connection, and with it destroy the line that waits to be sent.
fn has_unread(connection: &Accepted) -> bool {
    rustix::io::ioctl_fionread(connection).is_ok_and(|count| count > 0)
}

fn answer_patiently(connection: Accepted, rest: &[u8]) -> io::Result<()> {
    connection.socket().set_write_timeout(Some(PATIENCE))?;
    let mut stream = connection.into_stream();
    stream.write_all(rest)?;
    stream.finish(PATIENCE)
}

fn write_line(connection: &Accepted, line: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *line, &Line::of(connection))?;
    line.write_all(b"\n")
}

#[derive(serde::Serialize)]
struct Line<'a> {
    service: &'a str,
    listener: &'a str,
    version: Option<&'static str>,
    command: Option<&'static str>,
    client: Address,
    destination: Address,
    peer: Address,
    local: Address,
    tls: bool,
    tlvs: TlvList<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    residual: Hex<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<&'a str>,
}

impl Line<'_> {
    fn of(connection: &Accepted) -> Line<'_> {
        let (listener, header, tls) = (connection.listener(), connection.header(), connection.tls());
        Line {
            service: &listener.service,
            listener: &listener.name,
            version: header.map(version),
            command: header.map(command),
            client: Address(connection.client()),
            destination: Address(connection.destination()),
            peer: Address(connection.peer()),
            local: Address(connection.local()),
            tls: tls.is_some(),
            tlvs: TlvList(header),
            endpoint: connection.endpoint().map(|endpoint| endpoint.to_string()),
            residual: Hex(connection.residual()),
            sni: tls.and_then(|tls| tls.server_name.as_deref()),
            alpn: tls.and_then(|tls| tls.alpn.as_deref()).map(Text),
            client_name: tls.and_then(|tls| tls.client_name.as_deref()),
        }
    }
}

fn version(header: Header) -> &'static str {
    match header.version() {
        Version::V1 => "v1",
        Version::V2 => "v2",
    }
}

fn command(header: Header) -> &'static str {
    match header.command() {
        Command::Local => "LOCAL",
        Command::Proxy => "PROXY",
    }
}

struct TlvList<'a>(Option<Header<'a>>);

impl Serialize for TlvList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0.iter().flat_map(Header::tlvs).map(|Tlv { kind, value }| TlvItem { kind, value: Hex(value) }),
        )
    }
}

#[derive(serde::Serialize)]
struct TlvItem<'a> {
    #[serde(rename = "type")]
    kind: u8,
    value: Hex<'a>,
}

/// As its `Display` has it. That takes 60 ns for an address of IPv4, of which a line has four; digits by crate itoa a third.
struct Address(SocketAddr);

/// `255.255.255.255:65535`
const V4_MAX: usize = 21;

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            SocketAddr::V4(address) => {
                let mut room = [0; V4_MAX];
                serializer.serialize_str(in_digits(address, &mut room))
            }
            SocketAddr::V6(_) => serializer.collect_str(&self.0),
        }
    }
}

fn in_digits(address: SocketAddrV4, room: &mut [u8; V4_MAX]) -> &str {
    let mut len = 0;
    let mut put = |text: &str| {
        room[len..len + text.len()].copy_from_slice(text.as_bytes());
        len += text.len();
    };
    for (octet, behind) in address.ip().octets().iter().zip([".", ".", ".", ":"]) {
        put(itoa::Buffer::new().format(*octet));
        put(behind);
    }
    put(itoa::Buffer::new().format(address.port()));
    std::str::from_utf8(&room[..len]).expect("ASCII")
}

/// Bytes in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() { serializer.serialize_str("") } else { serializer.collect_str(self) }
    }
}

/// A protocol's name, which ALPN defines as bytes and every registered one writes in ASCII.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::Shutdown;

    use super::*;
    use crate::dispatch::testing::{V1, V2, connection, proxied};
    use crate::worker::testing::all_of;

    #[test]
    fn addresses_are_written_as_everywhere() {
        for text in ["0.0.0.0:0", "255.255.255.255:65535", "198.51.100.7:5000", "[2001:db8::1]:143", "[::]:0"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(serde_json::to_string(&Address(address)).expect("JSON"), format!("\"{text}\""));
        }
    }

    #[test]
    fn the_line_of_a_header() {
        let (client, accepted) = connection(&[V2, b"a \"\x7f\xff"].concat(), true, false);
        let (peer, local) = (accepted.peer(), accepted.local());
        Whoami.handle(accepted);
        let expected = format!(
            "{{\"service\":\"imap-login\",\"listener\":\"imap_haproxy\",\"version\":\"v2\",\"command\":\"PROXY\",\
             \"client\":\"198.51.100.7:5000\",\"destination\":\"192.0.2.1:143\",\"peer\":\"{peer}\",\"local\":\"{local}\",\
             \"tls\":false,\"tlvs\":[{{\"type\":4,\"value\":\"00\"}}],\"residual\":\"6120227fff\"}}\n"
        );
        assert_eq!(String::from_utf8(all_of(client)).expect("JSON"), expected);
    }

    #[test]
    fn the_line_without_a_header() {
        let (client, accepted) = connection(b"", false, false);
        let (peer, local) = (accepted.peer(), accepted.local());
        Whoami.handle(accepted);
        let expected = format!(
            "{{\"service\":\"imap-login\",\"listener\":\"imap_haproxy\",\"version\":null,\"command\":null,\
             \"client\":\"{peer}\",\"destination\":\"{local}\",\"peer\":\"{peer}\",\"local\":\"{local}\",\
             \"tls\":false,\"tlvs\":[],\"residual\":\"\"}}\n"
        );
        assert_eq!(String::from_utf8(all_of(client)).expect("JSON"), expected);
    }

    #[test]
    fn a_client_that_sent_what_nobody_reads_still_gets_its_line() {
        let (mut client, accepted) = proxied(b"");
        client.write_all(b"a NOOP\r\n").expect("connected");
        let reader = std::thread::spawn(move || all_of(client));
        Whoami.handle(accepted);
        let line = reader.join().expect("no reset");
        assert!(line.ends_with(b"\"residual\":\"\"}\n"), "{}", String::from_utf8_lossy(&line));
    }

    #[test]
    fn on_a_ring_nobody_waits_for_a_client_and_it_still_gets_its_line() {
        let whoami = Whoami::here();
        let clients: Vec<_> = (0..20)
            .map(|_| {
                let (mut client, accepted) = proxied(b"");
                client.write_all(b"a NOOP\r\n").expect("connected");
                whoami.handle(accepted);
                client
            })
            .collect();
        for client in clients {
            client.shutdown(Shutdown::Write).expect("connected");
            assert!(all_of(client).ends_with(b"\"residual\":\"\"}\n"));
        }
    }

    #[test]
    fn a_client_that_has_half_closed_gets_its_line() {
        let (client, accepted) = proxied(b"a NOOP\r\n");
        client.shutdown(Shutdown::Write).expect("connected");
        Whoami.handle(accepted);
        assert!(all_of(client).ends_with(b"\"residual\":\"61204e4f4f500d0a\"}\n"));
    }

    #[test]
    fn a_client_that_has_gone_does_no_harm() {
        let (client, accepted) = proxied(b"");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(client);
        Whoami.handle(accepted);
    }

    /// The client's buffers are full long before the line is out: the worker gives up instead of waiting for ever.
    #[test]
    fn a_client_that_never_reads_holds_a_worker_for_a_bounded_time() {
        let (mut client, accepted) = connection(&[V1, &[b'x'; 4 << 20]].concat(), true, false);
        Whoami.handle(accepted);
        let mut got = Vec::new();
        let _ = client.read_to_end(&mut got);
        assert!(!got.ends_with(b"\n") && got.len() < 8 << 20, "{} bytes", got.len());
    }
}

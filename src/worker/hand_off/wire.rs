//! What is said between the office and its receivers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::dispatch::{Accepted, TlsInfo};

/// Version of the protocol.
pub const VERSION: u8 = 1;
/// Bytes of a record's fixed part.
pub const RECORD_FIXED: usize = 100;
/// The same of a connection whose TLS has ended here.
pub const RECORD_FIXED_TLS: usize = 112;
/// Most connections that a receiver may have at a time.
pub const CAPACITY_MAX: usize = 1 << 16;

/// Longest message of a receiver.
pub(super) const MESSAGE_MAX: usize = 4096;

const MAGIC: &[u8; 4] = b"VHOF";

/// Flags of a record.
mod flag {
    pub const HEADER: u8 = 1;
    pub const TLS: u8 = 2;
    pub const CHECK: u8 = 4;
    pub const TLS_ENDED: u8 = 8;
}

/// Flags of TLS.
mod tls_flag {
    pub const RESUMED: u8 = 1;
    pub const CLIENT_VERIFIED: u8 = 2;
}

/// What a receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It serves so many at a time.
    Hello(usize),
    /// The connection is its own from now on.
    Taken(u64),
    /// The connection has ended.
    Done(u64),
}

/// A message that breaks the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nonsense(String);

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it says {:?}", self.0)
    }
}

impl Word {
    /// Reads a line of a message.
    pub(super) fn read(line: &str) -> Result<Word, Nonsense> {
        let nonsense = || Nonsense(line.chars().take(80).collect());
        let mut words = line.split(' ');
        let word = match (words.next(), words.next(), words.next()) {
            (Some("hello"), Some(version), Some(capacity)) if version == VERSION.to_string() => {
                let capacity = capacity.parse().ok().filter(|capacity| (1..=CAPACITY_MAX).contains(capacity));
                Word::Hello(capacity.ok_or_else(nonsense)?)
            }
            (Some("taken"), Some(id), None) => Word::Taken(id.parse().map_err(|_| nonsense())?),
            (Some("done"), Some(id), None) => Word::Done(id.parse().map_err(|_| nonsense())?),
            _ => return Err(nonsense()),
        };
        if words.next().is_some() { Err(nonsense()) } else { Ok(word) }
    }
}

/// Writes what is known of a connection.
pub(super) fn write_record(id: u64, connection: &Accepted, record: &mut Vec<u8>) {
    let listener = connection.listener();
    let [service, name] = [&listener.service, &listener.name].map(|name| short(name));
    let (header, residual) = (connection.header().map_or(&[][..], |header| header.bytes()), connection.residual());
    record.clear();
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&[VERSION, flags(connection)]);
    let (tls, fixed) = match connection.tls() {
        Some(tls) => (tls, RECORD_FIXED_TLS),
        None => (&TlsInfo::default(), RECORD_FIXED),
    };
    record.extend_from_slice(&(fixed as u16).to_be_bytes());
    record.extend_from_slice(&id.to_be_bytes());
    for address in [connection.client(), connection.destination(), connection.peer(), connection.local()] {
        write_address(address, record);
    }
    for part in [header, residual] {
        record.extend_from_slice(&(part.len() as u32).to_be_bytes());
    }
    record.extend_from_slice(&[service.len() as u8, name.len() as u8, 0, 0]);
    let told = told(tls);
    if fixed == RECORD_FIXED_TLS {
        write_tls(tls, &told, record);
    }
    debug_assert_eq!(record.len(), fixed);
    for part in [service, name, header, residual].into_iter().chain(told) {
        record.extend_from_slice(part);
    }
}

/// What the handshake told in words of any length.
fn told(tls: &TlsInfo) -> [&[u8]; 4] {
    let alpn = tls.alpn.as_deref().unwrap_or_default();
    let [cipher, server, client] = [tls.cipher, tls.server_name.as_deref(), tls.client_name.as_deref()]
        .map(|text| short(text.unwrap_or_default()));
    [cipher, server, &alpn[..alpn.len().min(u8::MAX.into())], client]
}

fn write_tls(tls: &TlsInfo, told: &[&[u8]; 4], record: &mut Vec<u8>) {
    let version: u16 = match tls.version {
        Some("TLSv1.2") => 0x0303,
        Some("TLSv1.3") => 0x0304,
        _ => 0,
    };
    let of = |is: bool, flag: u8| if is { flag } else { 0 };
    let flags = of(tls.resumed, tls_flag::RESUMED) | of(tls.client_name.is_some(), tls_flag::CLIENT_VERIFIED);
    record.extend_from_slice(&version.to_be_bytes());
    record.extend_from_slice(&[flags, 0]);
    record.extend(told.iter().map(|text| text.len() as u8));
    record.extend_from_slice(&[0; 4]);
}

fn flags(connection: &Accepted) -> u8 {
    let of = |is: bool, flag: u8| if is { flag } else { 0 };
    of(connection.header().is_some(), flag::HEADER)
        | of(connection.listener().ssl && connection.tls().is_none(), flag::TLS)
        | of(connection.tls().is_some(), flag::TLS_ENDED)
        | of(connection.is_check(), flag::CHECK)
}

fn write_address(address: SocketAddr, record: &mut Vec<u8>) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    record.extend_from_slice(&ip.octets());
    record.extend_from_slice(&address.port().to_be_bytes());
}

/// As much of a name as fits.
fn short(name: &str) -> &[u8] {
    &name.as_bytes()[..name.len().min(u8::MAX.into())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Handoff;
    use crate::dispatch::testing::{V1, V2, connection};

    #[test]
    fn a_record_says_everything_at_its_place() {
        for header in [V1, V2] {
            let (client, accepted) = connection(&[header, b"a NOOP\r\n"].concat(), true, true);
            let mut record = vec![7; 3];
            write_record(0x0102_0304_0506_0708, &accepted, &mut record);
            assert_eq!(record[..16], *b"VHOF\x01\x03\0\x64\x01\x02\x03\x04\x05\x06\x07\x08");
            assert_eq!(record[16..34], *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x07\x13\x88");
            assert_eq!(record[34..52], *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\0\x8f");
            let peer = client.local_addr().expect("connected");
            assert_eq!(
                record[52..70],
                *[&b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01"[..], &peer.port().to_be_bytes()].concat()
            );
            assert_eq!(record[86..88], client.peer_addr().expect("connected").port().to_be_bytes());
            assert_eq!(record[88..100], *[&[0, 0, 0, header.len() as u8][..], &[0, 0, 0, 8, 10, 12, 0, 0]].concat());
            assert_eq!(record[100..], *[b"imap-login", &b"imap_haproxy"[..], header, b"a NOOP\r\n"].concat());
        }
    }

    #[test]
    fn of_tls_that_has_ended_a_record_says_what_the_handshake_told_behind_everything_else() {
        let (_client, accepted) = connection(&[V1, b"hello"].concat(), true, true);
        let told = TlsInfo {
            version: Some("TLSv1.3"),
            cipher: Some("TLS_AES_256_GCM_SHA384"),
            server_name: Some("mail.example".into()),
            alpn: Some(b"imap".to_vec()),
            client_name: Some("x".repeat(300)),
            resumed: true,
        };
        let accepted = Accepted::new(
            Handoff { tls_before: Some(Box::new(told)), ..accepted.into_handoff() },
            &[V1, b"hello"].concat(),
        );
        let mut record = Vec::new();
        write_record(1, &accepted, &mut record);
        assert_eq!(record[4..8], [1, flag::HEADER | flag::TLS_ENDED, 0, 112]);
        assert_eq!(record[92..96], [0; 4], "the handshake has taken what came behind the header");
        assert_eq!(record[100..112], [3, 4, 3, 0, 22, 12, 4, 255, 0, 0, 0, 0]);
        let words = [b"imap-login", &b"imap_haproxy"[..], V1, b"TLS_AES_256_GCM_SHA384", b"mail.example", b"imap"];
        assert_eq!(record[112..], [words.concat(), vec![b'x'; 255]].concat());
    }

    #[test]
    fn words_are_read_or_named() {
        for (line, word) in [
            ("hello 1 64", Word::Hello(64)),
            ("hello 1 65536", Word::Hello(65536)),
            ("taken 0", Word::Taken(0)),
            ("done 18446744073709551615", Word::Done(u64::MAX)),
        ] {
            assert_eq!(Word::read(line), Ok(word));
        }
        let wrong = [
            "",
            "hello 2 64",
            "hello 1 0",
            "hello 1 65537",
            "hello 1",
            "hello 1 2 3",
            "taken",
            "taken x",
            "done -1",
            "taken 1 2",
            "HELLO 1 64",
        ];
        for line in wrong {
            assert_eq!(Word::read(line), Err(Nonsense(line.into())), "{line}");
        }
    }
}

//! The headers that the swarm sends, and what it remembers of them to check the answer.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;

use vestibule::proxy::{Encoder, Tlv, Version, kind};

use crate::sources::Pool;

/// A form of header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// None: for plain listeners.
    None,
    /// Version 1, TCP4.
    V1,
    /// Version 1, TCP6.
    V1Inet6,
    /// Version 1, UNKNOWN.
    Unknown,
    /// Version 2, INET.
    V2,
    /// Version 2, INET6.
    V2Inet6,
    /// Version 2, INET, with TLVs and checksum.
    V2Tlv,
    /// Version 2, INET6, with TLVs and checksum.
    V2TlvInet6,
}

/// Every shape under the name that `--header` knows.
pub const SHAPES: [(&str, Shape); 8] = [
    ("none", Shape::None),
    ("v1", Shape::V1),
    ("v1-inet6", Shape::V1Inet6),
    ("unknown", Shape::Unknown),
    ("v2", Shape::V2),
    ("v2-inet6", Shape::V2Inet6),
    ("v2-tlv", Shape::V2Tlv),
    ("v2-tlv-inet6", Shape::V2TlvInet6),
];

/// What `--header mixed` stands for.
pub const MIXED: [Shape; 6] = [Shape::V1, Shape::V1Inet6, Shape::V2, Shape::V2Inet6, Shape::V2Tlv, Shape::V2TlvInet6];

/// Source and destination.
type Ends = (SocketAddr, SocketAddr);

/// A client that came by TLS 1.3 and showed no certificate.
const SSL: &[u8] = b"\x01\0\0\0\0\x21\0\x07TLSv1.3\x23\0\x16TLS_AES_128_GCM_SHA256";

/// What a header said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// `v1`, `v2`; `None` without a header.
    pub version: Option<&'static str>,
    /// `PROXY` or `LOCAL`; `None` without a header.
    pub command: Option<&'static str>,
    /// Source and destination, where it names any.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Where the TLVs stand.
    pub tlvs: Range<usize>,
    /// Header in bytes.
    pub length: usize,
}

/// Who connects, by the number of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// The clients that headers name as source.
    pub clients: Pool,
    /// What they connected to, in an IPv4 header.
    pub destination: SocketAddr,
    /// The same in an IPv6 header.
    pub destination_inet6: SocketAddr,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match SHAPES.iter().find(|(name, _)| *name == text) {
            Some((_, shape)) => Ok(*shape),
            None => Err(format!("no header `{text}`; there are mixed, {}", SHAPES.map(|(name, _)| name).join(", "))),
        }
    }
}

impl Sent {
    /// No header at all.
    pub fn nothing() -> Sent {
        Sent { version: None, command: None, addresses: None, tlvs: 0..0, length: 0 }
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.version, self.command, self.addresses) {
            (Some(version), Some(command), Some((source, destination))) => {
                write!(f, "{version} {command} {source} -> {destination}")
            }
            (Some(version), Some(command), None) => write!(f, "{version} {command} without addresses"),
            _ => f.write_str("no header"),
        }
    }
}

impl Shape {
    /// Appends the header of connection `number` to `out`, which must be empty.
    pub fn write(self, cast: &Cast, number: u64, out: &mut Vec<u8>) -> Sent {
        let inet = (cast.clients.client(number), cast.destination);
        let inet6 = (cast.clients.client_inet6(number), cast.destination_inet6);
        match self {
            Shape::None => Sent::nothing(),
            Shape::Unknown => unknown(out),
            Shape::V1 => v1(inet, out),
            Shape::V1Inet6 => v1(inet6, out),
            Shape::V2 => v2(inet, out),
            Shape::V2Inet6 => v2(inet6, out),
            Shape::V2Tlv => v2_tlv(inet, number, out),
            Shape::V2TlvInet6 => v2_tlv(inet6, number, out),
        }
    }
}

/// A balancer's health check: version 2, LOCAL, 16 bytes.
pub fn local(out: &mut Vec<u8>) -> Sent {
    encode(&Encoder::local(), out);
    Sent { version: Some("v2"), command: Some("LOCAL"), addresses: None, tlvs: out.len()..out.len(), length: out.len() }
}

fn unknown(out: &mut Vec<u8>) -> Sent {
    out.extend_from_slice(b"PROXY UNKNOWN\r\n");
    proxy("v1", None, out.len(), out)
}

fn v1((source, destination): Ends, out: &mut Vec<u8>) -> Sent {
    encode(&Encoder::proxy(source, destination).version(Version::V1), out);
    proxy("v1", Some((source, destination)), out.len(), out)
}

fn v2((source, destination): Ends, out: &mut Vec<u8>) -> Sent {
    encode(&Encoder::proxy(source, destination), out);
    proxy("v2", Some((source, destination)), out.len(), out)
}

/// With what a mail proxy adds: checksum, unique id, TLS of the front, server name.
fn v2_tlv((source, destination): Ends, number: u64, out: &mut Vec<u8>) -> Sent {
    let bare = Encoder::proxy(source, destination);
    let unique_id = format!("{number:016X}");
    let tlvs = [
        Tlv { kind: kind::UNIQUE_ID, value: unique_id.as_bytes() },
        Tlv { kind: kind::SSL, value: SSL },
        Tlv { kind: kind::AUTHORITY, value: b"imap.example.org" },
    ];
    encode(&bare.tlvs(&tlvs).checksum(true), out);
    proxy("v2", Some((source, destination)), bare.encoded_len(), out)
}

fn proxy(version: &'static str, addresses: Option<Ends>, tlvs: usize, out: &[u8]) -> Sent {
    Sent { version: Some(version), command: Some("PROXY"), addresses, tlvs: tlvs..out.len(), length: out.len() }
}

fn encode(encoder: &Encoder, out: &mut Vec<u8>) {
    out.resize(encoder.encoded_len(), 0);
    encoder.encode(out).expect("the buffer is as long as asked for, and the content is this file's own");
}

#[cfg(test)]
mod tests {
    use super::*;
    use vestibule::proxy::{Decoded, Rules, decode};

    fn cast() -> Cast {
        Cast {
            clients: Pool::hosts("198.51.100.7/32".parse().expect("a network")),
            destination: "192.0.2.1:143".parse().expect("an address"),
            destination_inet6: "[2001:db8:ffff::1]:143".parse().expect("an address"),
        }
    }

    fn written(shape: Shape) -> (Vec<u8>, Sent) {
        let mut out = Vec::new();
        let sent = shape.write(&cast(), 0, &mut out);
        (out, sent)
    }

    #[test]
    fn text_headers_are_lines() {
        assert_eq!(written(Shape::V1).0, b"PROXY TCP4 198.51.100.7 192.0.2.1 1024 143\r\n");
        assert_eq!(written(Shape::V1Inet6).0, b"PROXY TCP6 2001:db8:c633:6407::1 2001:db8:ffff::1 1024 143\r\n");
        assert_eq!(written(Shape::Unknown).0, b"PROXY UNKNOWN\r\n");
        assert!(written(Shape::None).0.is_empty());
    }

    #[test]
    fn every_header_says_what_is_remembered_of_it() {
        for (name, shape) in SHAPES.into_iter().filter(|(_, shape)| *shape != Shape::None) {
            let (bytes, sent) = written(shape);
            let Decoded::Complete(header) = decode(&bytes, &Rules::default()) else { panic!("{name}: {bytes:x?}") };
            assert_eq!((header.head().len(), header.head().ip()), (sent.length, sent.addresses), "{name}");
            let tlvs: usize = header.tlvs().map(|tlv| 3 + tlv.value.len()).sum();
            assert_eq!(sent.tlvs.len(), tlvs, "{name}");
            assert_eq!(tlvs > 0, matches!(shape, Shape::V2Tlv | Shape::V2TlvInet6), "{name}");
        }
    }

    #[test]
    fn a_health_check_has_sixteen_bytes() {
        let mut out = Vec::new();
        assert_eq!(local(&mut out).length, 16);
        assert!(matches!(decode(&out, &Rules::default()), Decoded::Complete(_)));
    }

    #[test]
    fn every_name_is_a_shape() {
        for (name, shape) in SHAPES {
            assert_eq!(name.parse::<Shape>(), Ok(shape));
        }
        assert!("v3".parse::<Shape>().expect_err("no such").contains("v2-tlv-inet6"));
    }
}

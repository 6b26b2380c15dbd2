//! The headers that the swarm sends, and what it remembers of them to check the answer.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;

use vestibule::proxy::V2_SIGNATURE;

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
            Shape::V1 => v1("TCP4", inet, out),
            Shape::V1Inet6 => v1("TCP6", inet6, out),
            Shape::V2 => v2(inet, None, out),
            Shape::V2Inet6 => v2(inet6, None, out),
            Shape::V2Tlv => v2(inet, Some(number), out),
            Shape::V2TlvInet6 => v2(inet6, Some(number), out),
        }
    }
}

/// A balancer's health check: version 2, LOCAL, 16 bytes.
pub fn local(out: &mut Vec<u8>) -> Sent {
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[0x20, 0, 0, 0]);
    Sent { version: Some("v2"), command: Some("LOCAL"), addresses: None, tlvs: out.len()..out.len(), length: out.len() }
}

fn unknown(out: &mut Vec<u8>) -> Sent {
    out.extend_from_slice(b"PROXY UNKNOWN\r\n");
    v1_sent(None, out.len())
}

fn v1(keyword: &str, (source, destination): (SocketAddr, SocketAddr), out: &mut Vec<u8>) -> Sent {
    let (from, to) = (source.ip(), destination.ip());
    let line = format!("PROXY {keyword} {from} {to} {} {}\r\n", source.port(), destination.port());
    out.extend_from_slice(line.as_bytes());
    v1_sent(Some((source, destination)), out.len())
}

fn v1_sent(addresses: Option<(SocketAddr, SocketAddr)>, length: usize) -> Sent {
    Sent { version: Some("v1"), command: Some("PROXY"), addresses, tlvs: length..length, length }
}

/// With TLVs where a number is given: the connection's own.
fn v2((source, destination): (SocketAddr, SocketAddr), tlvs: Option<u64>, out: &mut Vec<u8>) -> Sent {
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
    push_ip(source, out);
    push_ip(destination, out);
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    let start = out.len();
    if let Some(number) = tlvs {
        push_tlvs(number, out);
    }
    set_length(out);
    if tlvs.is_some() {
        set_checksum(start, out);
    }
    Sent {
        version: Some("v2"),
        command: Some("PROXY"),
        addresses: Some((source, destination)),
        tlvs: start..out.len(),
        length: out.len(),
    }
}

fn push_ip(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(v4) => out.extend_from_slice(&v4.ip().octets()),
        SocketAddr::V6(v6) => out.extend_from_slice(&v6.ip().octets()),
    }
}

/// What a mail proxy sends: checksum (first, filled in last), unique id, TLS of the front, server name.
fn push_tlvs(number: u64, out: &mut Vec<u8>) {
    push_tlv(0x03, &[0; 4], out);
    push_tlv(0x05, format!("{number:016X}").as_bytes(), out);
    let mut ssl = vec![0x01, 0, 0, 0, 0];
    push_tlv(0x21, b"TLSv1.3", &mut ssl);
    push_tlv(0x23, b"TLS_AES_128_GCM_SHA256", &mut ssl);
    push_tlv(0x20, &ssl, out);
    push_tlv(0x02, b"imap.example.org", out);
}

/// Appends one TLV; the value must be shorter than 64 KiB.
pub fn push_tlv(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// Writes the length field of a whole version 2 header.
pub fn set_length(header: &mut [u8]) {
    let rest = (header.len() - 16) as u16;
    header[14..16].copy_from_slice(&rest.to_be_bytes());
}

/// Fills in the checksum of a header whose first TLV, at `tlvs`, is a CRC32C with its value still zero.
fn set_checksum(tlvs: usize, header: &mut [u8]) {
    let sum = crc32c::crc32c(header);
    header[tlvs + 3..tlvs + 7].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn binary_headers_have_the_specified_sizes() {
        for (shape, length) in [(Shape::V2, 28), (Shape::V2Inet6, 52)] {
            let (bytes, sent) = written(shape);
            assert_eq!((bytes.len(), sent.length, sent.tlvs), (length, length, length..length));
        }
        let (bytes, sent) = written(Shape::V2);
        assert_eq!(bytes[12..], [0x21, 0x11, 0, 12, 198, 51, 100, 7, 192, 0, 2, 1, 4, 0, 0, 143]);
        assert_eq!(sent.addresses, Some(("198.51.100.7:1024".parse().unwrap(), "192.0.2.1:143".parse().unwrap())));
    }

    #[test]
    fn the_checksum_covers_the_header_with_itself_as_zero() {
        let (mut bytes, sent) = written(Shape::V2Tlv);
        let at = sent.tlvs.start;
        assert_eq!(bytes[at..at + 3], [3, 0, 4]);
        let sum: [u8; 4] = bytes[at + 3..at + 7].try_into().expect("four bytes");
        bytes[at + 3..at + 7].fill(0);
        assert_eq!(u32::from_be_bytes(sum), crc32c::crc32c(&bytes));
        assert_eq!(usize::from(u16::from_be_bytes([bytes[14], bytes[15]])), bytes.len() - 16);
    }

    #[test]
    fn every_name_is_a_shape() {
        for (name, shape) in SHAPES {
            assert_eq!(name.parse::<Shape>(), Ok(shape));
        }
        assert!("v3".parse::<Shape>().expect_err("no such").contains("v2-tlv-inet6"));
    }
}

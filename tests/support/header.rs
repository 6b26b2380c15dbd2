//! PROXY protocol headers as raw bytes, built without the code under test.

use std::net::{IpAddr, SocketAddr};

/// The signature of version 2.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 1 line for a TCP connection; both addresses of one family.
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A version 2 header, PROXY over TCP, with TLVs in the given order; both addresses of one family.
pub fn v2(source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    body.extend(chain(tlvs));
    raw(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &body)
}

/// A version 2 LOCAL header without addresses: HAProxy's health check.
pub fn local() -> Vec<u8> {
    raw(0x20, 0x00, b"")
}

/// A version 2 header of any bytes.
pub fn raw(version_command: u8, family_transport: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a body fits 16 bits");
    let mut header = SIGNATURE.to_vec();
    header.extend([version_command, family_transport]);
    header.extend(length.to_be_bytes());
    header.extend(body);
    header
}

fn chain(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in tlvs {
        bytes.push(*kind);
        bytes.extend(u16::try_from(value.len()).expect("a value fits 16 bits").to_be_bytes());
        bytes.extend(*value);
    }
    bytes
}

/// Bytes from hexadecimal digits; white space between them is ignored.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a hexadecimal digit")).collect();
    assert!(digits.len().is_multiple_of(2), "an odd number of digits in {text:?}");
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

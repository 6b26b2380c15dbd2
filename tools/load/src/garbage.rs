//! Beginnings of a connection that a receiver must refuse, each with the reason code that Vestibule counts it under.
//! One line of the table is one kind, so that the receiver's counters can be held against what was sent.

use std::str::FromStr;

use vestibule::proxy::V2_SIGNATURE;

use crate::mix::random;

/// An entry of [`KINDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

/// What one kind is.
pub struct Refused {
    /// Its name after `garbage:`.
    pub name: &'static str,
    /// Why it is refused.
    pub reason: &'static str,
    bytes: Bytes,
}

enum Bytes {
    /// As they stand.
    Raw(&'static [u8]),
    /// Signature, then these.
    V2(&'static [u8]),
    /// Signature, these four, then INET addresses.
    V2Inet([u8; 4]),
    /// INET addresses, then these TLVs.
    Tlvs(&'static [(u8, &'static [u8])]),
    /// Differs from connection to connection.
    Made(fn(u64, &mut Vec<u8>)),
}

/// 10.0.0.1:4660 to 10.0.0.2:25.
const INET: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 25];
const RANDOM_LENGTH_MAX: u64 = 512;

use Bytes::{Made, Raw, Tlvs, V2, V2Inet};

/// Every kind. All are refused by the first bytes, by the grammar, or by a listener's default policy.
pub static KINDS: &[Refused] = &[
    refused("random", "absent", Made(random_bytes)),
    refused("http", "absent", Raw(b"GET / HTTP/1.1\r\nHost: mail.example.org\r\n\r\n")),
    refused("http2", "absent", Raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    refused("smtp", "absent", Raw(b"EHLO client.example.org\r\n")),
    refused("imap", "absent", Raw(b"a1 CAPABILITY\r\n")),
    refused("pop3", "absent", Raw(b"CAPA\r\n")),
    refused("ssh", "absent", Raw(b"SSH-2.0-OpenSSH_9.9\r\n")),
    refused("xclient", "absent", Raw(b"XCLIENT ADDR=198.51.100.7\r\n")),
    refused("tls", "absent", Made(client_hello)),
    refused("v1-prefix", "absent", Raw(b"PROXYxTCP4 192.0.2.7 192.0.2.1 5000 143\r\n")),
    refused("v2-prefix", "absent", Raw(b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\x0c")),
    refused("v1-keyword", "bad-family", Raw(b"PROXY tcp4 192.0.2.7 192.0.2.1 5000 143\r\n")),
    refused("v1-unknown-word", "bad-family", Raw(b"PROXY UNKNOWNx\r\n")),
    refused("v1-too-long", "line-too-long", Made(endless_line)),
    refused("v1-lone-lf", "bad-line-ending", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 143\n")),
    refused("v1-lone-cr", "bad-line-ending", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 143\rx")),
    refused("v1-two-spaces", "bad-spacing", Raw(b"PROXY TCP4  192.0.2.7 192.0.2.1 5000 143\r\n")),
    refused("v1-few-fields", "bad-spacing", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000\r\n")),
    refused("v1-more-fields", "bad-spacing", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 143 x\r\n")),
    refused("v1-octal", "bad-address", Raw(b"PROXY TCP4 0192.0.2.7 192.0.2.1 5000 143\r\n")),
    refused("v1-zone", "bad-address", Raw(b"PROXY TCP6 fe80::1%eth0 2001:db8::1 5000 143\r\n")),
    refused("v1-sign", "bad-port", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 +5000 143\r\n")),
    refused("v1-port-range", "bad-port", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 143\r\n")),
    refused("v1-mixed", "family-mismatch", Raw(b"PROXY TCP6 192.0.2.7 192.0.2.1 5000 143\r\n")),
    refused("v2-version", "bad-version", V2Inet([0x31, 0x11, 0, 12])),
    refused("v2-command", "bad-command", V2Inet([0x22, 0x11, 0, 12])),
    refused("v2-family", "bad-family", V2Inet([0x21, 0x41, 0, 12])),
    refused("v2-transport", "bad-transport", V2Inet([0x21, 0x13, 0, 12])),
    refused("v2-huge", "header-too-long", V2Inet([0x21, 0x11, 0xff, 0xff])),
    refused("v2-short", "address-truncated", V2Inet([0x21, 0x11, 0, 8])),
    refused("v2-tlv-cut", "tlv-truncated", Made(cut_tlv)),
    refused("v2-unique-id", "bad-tlv", Tlvs(&[(5, &[b'x'; 129])])),
    refused("v2-twice", "duplicate-tlv", Tlvs(&[(2, b"a.example"), (2, b"b.example")])),
    refused("v2-checksum", "bad-checksum", Tlvs(&[(3, &[1, 2, 3, 4])])),
    refused("v2-unspec", "unspec-refused", V2(&[0x21, 0, 0, 0])),
    refused("v2-dgram", "dgram-refused", V2Inet([0x21, 0x12, 0, 12])),
    refused("v1-multicast", "bad-source", Raw(b"PROXY TCP4 224.0.0.1 192.0.2.1 5000 143\r\n")),
    refused("v1-second-header", "second-header", Raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 143\r\nPROXY TCP4 ")),
];

const fn refused(name: &'static str, reason: &'static str, bytes: Bytes) -> Refused {
    Refused { name, reason, bytes }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match KINDS.iter().position(|kind| kind.name == text) {
            Some(index) => Ok(Kind(index as u8)),
            None => Err(format!("no garbage `{text}`; there are {}", names())),
        }
    }
}

impl Kind {
    /// The kind `tls`.
    pub const TLS: Kind = Kind(8);

    /// One of all kinds, evenly.
    pub fn any(random: u64) -> Kind {
        Kind((random % KINDS.len() as u64) as u8)
    }

    /// Its place in [`KINDS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Appends the bytes of connection `number` to `out`, which must be empty.
    pub fn write(self, number: u64, out: &mut Vec<u8>) {
        match KINDS[self.index()].bytes {
            Raw(bytes) => out.extend_from_slice(bytes),
            V2(rest) => out.extend(V2_SIGNATURE.iter().chain(rest)),
            V2Inet(fixed) => out.extend(V2_SIGNATURE.iter().chain(&fixed).chain(&INET)),
            Tlvs(tlvs) => inet_with(tlvs, out),
            Made(make) => make(number, out),
        }
    }
}

fn names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

fn inet_with(tlvs: &[(u8, &[u8])], out: &mut Vec<u8>) {
    out.extend(V2_SIGNATURE.iter().chain(&[0x21, 0x11, 0, 0]).chain(&INET));
    for (kind, value) in tlvs {
        push_tlv(*kind, value, out);
    }
    set_length(out);
}

fn push_tlv(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    push_vector(value, out);
}

/// Writes the length field of a whole version 2 header.
fn set_length(header: &mut [u8]) {
    let rest = (header.len() - 16) as u16;
    header[14..16].copy_from_slice(&rest.to_be_bytes());
}

fn cut_tlv(_number: u64, out: &mut Vec<u8>) {
    inet_with(&[(2, b"mail.example.org")], out);
    out.truncate(out.len() - 1);
    set_length(out);
}

fn endless_line(_number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"PROXY UNKNOWN ");
    out.resize(RANDOM_LENGTH_MAX as usize, b'x');
}

/// Any bytes that do not begin like a header.
fn random_bytes(number: u64, out: &mut Vec<u8>) {
    let length = 1 + random(number, 0) % RANDOM_LENGTH_MAX;
    out.extend((1..=length).map(|at| random(number, at) as u8));
    if matches!(out[0], b'P' | b'\r') {
        out[0] = 0;
    }
}

/// A TLS 1.3 ClientHello (RFC 8446, 4.1.2) that names a server, as it comes when the balancer passes TLS through.
fn client_hello(number: u64, out: &mut Vec<u8>) {
    let name = b"imap.example.org";
    let mut body = vec![0x03, 0x03];
    body.extend((0..4).flat_map(|word| random(number, word).to_be_bytes()));
    body.extend_from_slice(&[0, 0, 4, 0x13, 0x01, 0x13, 0x02, 1, 0]);
    let mut server_name = ((name.len() + 3) as u16).to_be_bytes().to_vec();
    server_name.push(0);
    push_vector(name, &mut server_name);
    let mut extensions = vec![0, 0];
    push_vector(&server_name, &mut extensions);
    extensions.extend_from_slice(&[0, 43, 0, 3, 2, 3, 4]);
    push_vector(&extensions, &mut body);
    let mut handshake = vec![1, 0];
    push_vector(&body, &mut handshake);
    out.extend_from_slice(&[0x16, 0x03, 0x01]);
    push_vector(&handshake, out);
}

/// The value behind its length in two bytes.
fn push_vector(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vestibule::admission::Policy;
    use vestibule::proxy::{Decoded, Rules, decode};

    fn bytes_of(name: &str, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        name.parse::<Kind>().expect("a kind").write(number, &mut out);
        out
    }

    #[test]
    fn names_are_unique_and_found() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert_eq!(kind.name.parse::<Kind>().expect("its own name").index(), index, "{}", kind.name);
        }
        assert_eq!("tls".parse(), Ok(Kind::TLS));
        assert!("tea".parse::<Kind>().expect_err("no such").contains("v2-checksum"));
    }

    #[test]
    fn every_kind_is_refused_for_its_reason() {
        for kind in KINDS {
            for number in 0..50 {
                let bytes = bytes_of(kind.name, number);
                match decode(&bytes, &Rules::default()) {
                    Decoded::Absent { .. } => assert_eq!(kind.reason, "absent", "{}", kind.name),
                    Decoded::Invalid { reason, .. } => assert_eq!(kind.reason, reason.code(), "{}", kind.name),
                    Decoded::Complete(header) => {
                        let residual = &bytes[header.head().len()..];
                        let refusal = Policy::default().admit(&header, residual).expect_err(kind.name);
                        assert_eq!(kind.reason, refusal.code(), "{}", kind.name);
                    }
                    Decoded::Incomplete { .. } => panic!("{} would have to wait", kind.name),
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_begin_like_a_header() {
        for number in 0..2000 {
            let bytes = bytes_of("random", number);
            assert!(!matches!(bytes[0], b'P' | b'\r') && bytes.len() <= RANDOM_LENGTH_MAX as usize);
        }
    }

    #[test]
    fn the_client_hello_is_consistent() {
        let bytes = bytes_of("tls", 3);
        assert_eq!(bytes[..3], [0x16, 3, 1]);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[3], bytes[4]])), bytes.len() - 5);
        assert_eq!(bytes[5], 1);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[7], bytes[8]])), bytes.len() - 9);
    }
}

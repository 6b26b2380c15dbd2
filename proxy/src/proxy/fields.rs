//! Every field of a header with its place, whether the header is valid or not: for dumps and for the words of a log.
//!
//! [`decode`](super::decode) judges, this only looks: it goes as far as the bytes do, and shows the fields of a refused
//! header as well as they can be told apart.
#![forbid(unsafe_code)]

use super::header::Family;
use super::tlv::{self, SSL_FIXED, TLV_HEADER, kind};
use super::{V2_FIXED, V2_SIGNATURE};

/// One field of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// What it is.
    pub what: What,
    /// Bytes before it.
    pub at: usize,
    /// Its bytes, as far as they have come; a word of version 1 with the space behind it.
    pub bytes: &'a [u8],
    /// How many bytes it has when it is whole.
    pub length: usize,
}

impl<'a> Field<'a> {
    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }

    /// A word of version 1 without the space behind it.
    pub fn word(&self) -> &'a [u8] {
        self.bytes.strip_suffix(b" ").unwrap_or(self.bytes)
    }
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `PROXY `, or the 12 bytes of version 2.
    Signature,
    /// Version 1: `TCP4`, `TCP6`, `UNKNOWN` or what stands in their place.
    Keyword,
    /// The client's address.
    Source,
    /// The address that the client connected to.
    Destination,
    /// The client's port.
    SourcePort,
    /// The port that the client connected to.
    DestinationPort,
    /// Version 1: a word behind the last one that belongs there.
    Extra,
    /// Version 1: a word behind UNKNOWN, which counts for nothing.
    Ignored,
    /// Version 1: CRLF, or a CR or LF alone.
    LineEnd,
    /// Version 2: byte 13.
    VersionAndCommand,
    /// Version 2: byte 14.
    FamilyAndTransport,
    /// Version 2: how many bytes follow.
    Length,
    /// Type and length of a TLV.
    Tlv {
        /// The type.
        kind: u8,
        /// Bytes of the value, as said.
        length: usize,
        /// Bytes that are left for it in what contains it.
        left: usize,
        /// Whether it stands inside SSL.
        inside_ssl: bool,
    },
    /// SSL: the client's bit field.
    SslClient,
    /// SSL: the result of the verification.
    SslVerify,
    /// The value of a TLV other than SSL; never empty.
    Value {
        /// The TLV's type.
        kind: u8,
        /// Whether it stands inside SSL.
        inside_ssl: bool,
    },
    /// What is left of a header (or of the SSL TLV) and is no whole TLV, or is a LOCAL header's.
    Opaque {
        /// Whether it stands inside SSL.
        inside_ssl: bool,
    },
}

impl What {
    /// Whether it is a word of version 1 behind `PROXY `.
    pub fn is_word(self) -> bool {
        matches!(
            self,
            What::Keyword
                | What::Source
                | What::Destination
                | What::SourcePort
                | What::DestinationPort
                | What::Extra
                | What::Ignored
        )
    }
}

/// Shows `visit` the fields of the header at the start of `bytes`, in order. Bytes that begin no header have none.
pub fn walk<'a>(bytes: &'a [u8], visit: impl FnMut(Field<'a>)) {
    let mut walk = Walk { bytes, at: 0, visit };
    match bytes.first() {
        Some(b'P') => walk.version_1(),
        Some(b'\r') => walk.version_2(),
        _ => {}
    }
}

struct Walk<'a, V> {
    bytes: &'a [u8],
    at: usize,
    visit: V,
}

impl<'a, V: FnMut(Field<'a>)> Walk<'a, V> {
    /// The next field, if a byte of it has come.
    fn field(&mut self, length: usize, what: What) {
        let rest = self.rest();
        let bytes = rest.get(..length).unwrap_or(rest);
        if !bytes.is_empty() || length == 0 {
            (self.visit)(Field { what, at: self.at, bytes, length });
        }
        self.at += bytes.len();
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn version_1(&mut self) {
        let end = self.bytes.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(self.bytes.len());
        let line = self.bytes.get(..end).unwrap_or_default();
        let words = line.split(|&byte| byte == b' ');
        let is_unknown = words.clone().nth(1).is_some_and(|word| word == b"UNKNOWN");
        for (index, word) in words.enumerate() {
            let space = usize::from(self.at + word.len() < end);
            self.field(word.len() + space, word_at(index, is_unknown));
        }
        match self.rest() {
            [b'\r', b'\n', ..] | [b'\r'] => self.field(2, What::LineEnd),
            [_, ..] => self.field(1, What::LineEnd),
            [] => {}
        }
    }

    fn version_2(&mut self) {
        self.field(V2_SIGNATURE.len(), What::Signature);
        self.field(1, What::VersionAndCommand);
        self.field(1, What::FamilyAndTransport);
        self.field(2, What::Length);
        let Some(&[.., ver_cmd, fam, high, low]) = self.bytes.first_chunk::<V2_FIXED>() else { return };
        let end = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
        let body = self.rest().get(..end - V2_FIXED);
        let family = Family::of(fam >> 4);
        let block = family.map_or(0, Family::block_len);
        let chain_at = |at: usize| body.and_then(|body| body.get(at..)).is_some_and(tlv::is_exact);
        if ver_cmd & 0x0f == 0 {
            // Nothing in a LOCAL header counts, but if it holds TLVs, behind addresses or without, they are worth seeing.
            if chain_at(0) {
                self.tlvs(end, false);
            } else if chain_at(block) {
                self.addresses(family);
                self.tlvs(end, false);
            }
        } else if (fam >> 4 != 0 || chain_at(0)) && V2_FIXED + block <= end {
            self.addresses(family);
            self.tlvs(end, false);
        }
        self.opaque(end, false);
    }

    fn addresses(&mut self, family: Option<Family>) {
        let (address, has_ports) = match family {
            Some(Family::Inet) => (4, true),
            Some(Family::Inet6) => (16, true),
            Some(Family::Unix) => (108, false),
            Some(Family::Unspec) | None => return,
        };
        self.field(address, What::Source);
        self.field(address, What::Destination);
        if has_ports {
            self.field(2, What::SourcePort);
            self.field(2, What::DestinationPort);
        }
    }

    /// The TLVs up to `end`.
    fn tlvs(&mut self, end: usize, inside_ssl: bool) {
        let end = end.min(self.bytes.len());
        while let Some(&[kind, high, low]) = self.bytes.get(self.at..end).and_then(|rest| rest.first_chunk()) {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let left = end - self.at - TLV_HEADER;
            self.field(TLV_HEADER, What::Tlv { kind, length, left, inside_ssl });
            if length > left {
                return;
            }
            if !inside_ssl && kind == kind::SSL && length >= SSL_FIXED {
                self.ssl(self.at + length);
            } else if length > 0 {
                self.field(length, What::Value { kind, inside_ssl });
            }
        }
    }

    fn ssl(&mut self, end: usize) {
        self.field(1, What::SslClient);
        self.field(4, What::SslVerify);
        self.tlvs(end, true);
        self.opaque(end, true);
    }

    fn opaque(&mut self, end: usize, inside_ssl: bool) {
        let left = end.min(self.bytes.len()).saturating_sub(self.at);
        if left > 0 {
            self.field(left, What::Opaque { inside_ssl });
        }
    }
}

fn word_at(index: usize, is_unknown: bool) -> What {
    match index {
        0 => What::Signature,
        1 => What::Keyword,
        _ if is_unknown => What::Ignored,
        2 => What::Source,
        3 => What::Destination,
        4 => What::SourcePort,
        5 => What::DestinationPort,
        _ => What::Extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands where: the kinds of fields with their bytes.
    fn fields(bytes: &[u8]) -> Vec<(What, &[u8])> {
        let mut all = Vec::new();
        let mut at = 0;
        walk(bytes, |field| {
            assert_eq!(field.at, at, "no byte is left out");
            at += field.bytes.len();
            all.push((field.what, field.word()));
        });
        all
    }

    fn v2(rest: &[u8]) -> Vec<u8> {
        [&V2_SIGNATURE[..], rest].concat()
    }

    #[test]
    fn a_line_is_its_words_and_its_end_if_it_has_one() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 x\r\nmore";
        let names = [What::Signature, What::Keyword, What::Source, What::Destination, What::SourcePort];
        let names = [&names[..], &[What::DestinationPort, What::Extra, What::LineEnd]].concat();
        assert_eq!(fields(line).iter().map(|(what, _)| *what).collect::<Vec<_>>(), names);
        assert_eq!(fields(line)[7].1, b"\r\n");
        for (bytes, last) in [
            (&b"PROXY TCP4"[..], (What::Keyword, &b"TCP4"[..])),
            (b"PROXY TCP4 ", (What::Source, b"")),
            (b"PROXY UNKNOWN x y", (What::Ignored, b"y")),
            (b"PROXY UNKNOWN\r", (What::LineEnd, b"\r")),
            (b"PROXY UNKNOWN\n", (What::LineEnd, b"\n")),
            (b"PRO", (What::Signature, b"PRO")),
        ] {
            assert_eq!(fields(bytes).last(), Some(&last), "{bytes:?}");
        }
    }

    #[test]
    fn a_chain_shows_where_it_breaks() {
        let tlv = |kind, length, left, inside_ssl| What::Tlv { kind, length, left, inside_ssl };
        let header = v2(b"\x21\x11\0\x13\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02\x04\0\x01z\x02\0\x09");
        let found = fields(&header);
        assert_eq!(found[8].0, tlv(kind::NOOP, 1, 4, false));
        assert_eq!(found[9], (What::Value { kind: kind::NOOP, inside_ssl: false }, &b"z"[..]));
        assert_eq!(found[10].0, tlv(kind::AUTHORITY, 9, 0, false));
        let ssl = v2(b"\x20\0\0\x0c\x20\0\x09\x01\0\0\0\0\x21\0\x01T");
        let kinds: Vec<What> = fields(&ssl).iter().skip(4).map(|(what, _)| *what).collect();
        let inner = What::Value { kind: kind::SSL_VERSION, inside_ssl: true };
        let outer = tlv(kind::SSL, 9, 9, false);
        assert_eq!(kinds, [outer, What::SslClient, What::SslVerify, tlv(kind::SSL_VERSION, 1, 1, true), inner]);
    }

    #[test]
    fn every_prefix_is_walked_to_its_end() {
        let header =
            v2(b"\x21\x21\0\x2f0123456789abcdef0123456789abcdef\0\x01\0\x02\x20\0\x08\x01\0\0\0\0\x21\0\x01more");
        for whole in [&header[..], b"PROXY TCP6 ::1 ::2 1 2 \r\nmore"] {
            for length in 0..whole.len() {
                let seen: usize = fields(&whole[..length]).iter().map(|(_, bytes)| bytes.len()).sum();
                assert!(seen <= length);
            }
        }
        assert!(fields(b"EHLO x\r\n").is_empty());
    }
}

//! The PROXY protocol, versions 1 and 2: bytes in, a value out.
//!
//! [`decode`] is a pure function of the bytes received so far. It keeps no state, allocates nothing, and its verdict
//! does not depend on how the stream was cut into segments.
//!
//! Nothing in here knows sockets, clocks or policy. Specification: HAProxy, `doc/proxy-protocol.txt`.
#![forbid(unsafe_code)]

mod address;
mod checksum;
mod classify;
mod diagnose;
mod encode;
mod error;
mod fields;
mod header;
mod name;
mod ssl;
mod tlv;
mod v1;
mod v2;
mod vendor;

use address::Block;
pub use classify::{Class, classify};
pub use diagnose::{DIAGNOSE_LENGTH_MAX, Diagnosis, Escaped, diagnose, diagnose_header};
pub use encode::{EncodeError, Encoder, Limits};
pub use error::Reason;
pub use fields::{Field, What, walk};
pub use header::{Addresses, Command, Family, Head, Header, Transport, Version};
pub use ssl::Ssl;
pub use tlv::{Tlv, Tlvs, UNIQUE_ID_MAX, kind};
pub use vendor::Endpoint;

/// Longest version 1 line, CRLF included (`PROXY UNKNOWN ...`). Specification, section 2.1.
pub const V1_LENGTH_MAX: usize = 107;
/// The `PROXY ` that starts a version 1 line.
pub const V1_PREFIX: &[u8; 6] = b"PROXY ";
/// The 12-byte signature that starts a version 2 header. Specification, section 2.2.
pub const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Fixed bytes at the start of a version 2 header: signature, version and command, family and transport, length.
pub const V2_FIXED: usize = 16;
/// Largest version 2 header on the wire: 16 fixed bytes and a 16-bit length.
pub const V2_LENGTH_MAX: usize = V2_FIXED + 0xffff;

/// What a listener lets the grammar accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Largest version 2 header in bytes, 232..=65551.
    pub header_limit: u32,
    /// Accept IPv4 text under `TCP6` and read it as an IPv4-mapped address (`haproxy_v4_in_tcp6 = map`).
    pub v4_in_tcp6: bool,
    /// Accept IPv6 text under `TCP4`, in a line as long as one of `TCP6`; the header is then one of IPv6, and an IPv4
    /// address beside it becomes an IPv4-mapped one (`haproxy_v6_in_tcp4 = map`).
    pub v6_in_tcp4: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { header_limit: 4096, v4_in_tcp6: false, v6_in_tcp4: false }
    }
}

/// The verdict on the bytes received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole header stands at the start; what follows `header.len()` belongs to the application.
    Complete(Header<'a>),
    /// Everything so far is right and the end is not there. `need` is the least total length that can complete it.
    Incomplete {
        /// Bytes, counted from the start of the stream.
        need: usize,
    },
    /// The stream does not begin with a PROXY header: byte `at` (from 1) decides it.
    Absent {
        /// The deciding byte, counted from 1.
        at: usize,
    },
    /// A header begins, but byte `at` (from 1) breaks a rule.
    Invalid {
        /// The rule.
        reason: Reason,
        /// The deciding byte, counted from 1.
        at: usize,
    },
}

/// Decodes the header at the start of a connection from all bytes received so far.
///
/// The verdict depends on the bytes alone: what is refused at some prefix is refused for the same reason and at the
/// same byte with any continuation, and all shorter prefixes are incomplete.
#[inline]
pub fn decode<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    let first = prefix.first_chunk().map_or(0, |first| u128::from_le_bytes(*first));
    // spec 2 MUST "at least implement the human-readable"
    // spec 2 MUST "at least implement the binary"
    // spec 2 SHOULD "also implement the human-readable"
    // spec 2.2 MAY "support both version 1 and version 2"
    // spec 2.2 MUST NOT "null-terminated string"
    match v2::without_length(first) {
        v2::INET_STREAM => v2::decode_stream(prefix, first, rules, Block::Inet),
        v2::INET6_STREAM => v2::decode_stream(prefix, first, rules, Block::Inet6),
        _ if classify::is_line(first) => v1::decode(prefix, rules),
        _ => decode_any(prefix, rules),
    }
}

/// As [`decode`], out of line: a header that is decoded without a call is decoded in half the time.
#[inline(never)]
fn decode_any<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    let class = classify(prefix);
    // Not a `match`: its jump table would cost more than two compares.
    if class == Class::V2 {
        v2::decode(prefix, rules)
    } else if class == Class::V1 {
        v1::decode(prefix, rules)
    } else if class == Class::Absent {
        Decoded::Absent { at: classify::absent_at(prefix) }
    } else {
        Decoded::Incomplete { need: 1 }
    }
}

impl Decoded<'_> {
    /// The kebab-case name of the reason why there is no header: `absent`, or [`Reason::code`]; `None` if there is one
    /// or may be.
    pub fn reason_code(&self) -> Option<&'static str> {
        match self {
            Decoded::Complete(_) | Decoded::Incomplete { .. } => None,
            Decoded::Absent { .. } => Some("absent"),
            Decoded::Invalid { reason, .. } => Some(reason.code()),
        }
    }
}

/// Whether the bytes start with all of `PROXY ` or all of the version 2 signature.
///
/// For bytes behind a header. Fewer bytes than that are payload like any other: nobody should wait for more.
pub fn starts_like_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_PREFIX) || bytes.starts_with(V2_SIGNATURE)
}

#[cfg(test)]
mod tests;

//! The PROXY protocol, versions 1 and 2: bytes in, a value out.
//!
//! [`decode`] is a pure function of the bytes received so far. It keeps no state, allocates nothing, and its verdict
//! does not depend on how the stream was cut into segments.
//!
//! Nothing in here knows sockets, clocks or policy. Specification: HAProxy, `doc/proxy-protocol.txt`.
#![forbid(unsafe_code)]

mod diagnose;
mod error;
mod header;

pub use diagnose::{DIAGNOSE_LENGTH_MAX, Diagnosis, Escaped, diagnose};
pub use error::Reason;
pub use header::{Addresses, Command, Family, Head, Header, Tlv, Tlvs, Transport, Version};

/// Longest version 1 line, CRLF included (`PROXY UNKNOWN ...`). Specification, section 2.1.
pub const V1_LENGTH_MAX: usize = 107;
/// The `PROXY ` that starts a version 1 line.
pub const V1_PREFIX: &[u8; 6] = b"PROXY ";
/// The 12-byte signature that starts a version 2 header. Specification, section 2.2.
pub const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Largest version 2 header on the wire: 16 fixed bytes and a 16-bit length.
pub const V2_LENGTH_MAX: usize = 16 + 0xffff;

/// What a listener lets the grammar accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Largest version 2 header in bytes, 232..=65551.
    pub header_limit: u32,
    /// Accept IPv4 text under `TCP6` and read it as an IPv4-mapped address (`haproxy_v4_in_tcp6 = map`).
    pub v4_in_tcp6: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { header_limit: 4096, v4_in_tcp6: false }
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
pub fn decode<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    let _ = (prefix, rules);
    unreachable!("skeleton")
}

//! The two doors. Door 1 judges the peer before a byte is read; door 2 judges the complete header by the listener's
//! settings. Both are pure: addresses and a header in, a verdict out.
#![forbid(unsafe_code)]

mod policy;

pub use policy::{OnUnknown, OnUnspec, Policy};

use std::net::IpAddr;

use crate::net::NetworkSet;

/// Why a door stays shut. `code()` is the stable name used in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The peer is outside the trusted networks.
    Untrusted,
    /// This version is off on this listener.
    VersionRefused,
    /// Version 1 UNKNOWN, and the listener wants addresses.
    UnknownRefused,
    /// Version 2 PROXY without an IP address (UNSPEC, UNIX).
    UnspecRefused,
    /// A datagram header on a stream listener.
    DgramRefused,
    /// A checksum is required, and none is carried.
    ChecksumMissing,
    /// The source is multicast, unspecified or broadcast.
    BadSource,
    /// AUTHORITY is no DNS name.
    BadAuthority,
    /// ALPN names another protocol.
    AlpnMismatch,
    /// Another header follows at once.
    SecondHeader,
}

impl Refusal {
    /// Every refusal, in the order of the doors.
    pub const ALL: [Refusal; 10] = [
        Refusal::Untrusted,
        Refusal::VersionRefused,
        Refusal::UnknownRefused,
        Refusal::DgramRefused,
        Refusal::UnspecRefused,
        Refusal::ChecksumMissing,
        Refusal::BadSource,
        Refusal::BadAuthority,
        Refusal::AlpnMismatch,
        Refusal::SecondHeader,
    ];

    /// The kebab-case name.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::Untrusted => "untrusted",
            Refusal::VersionRefused => "version-refused",
            Refusal::UnknownRefused => "unknown-refused",
            Refusal::UnspecRefused => "unspec-refused",
            Refusal::DgramRefused => "dgram-refused",
            Refusal::ChecksumMissing => "checksum-missing",
            Refusal::BadSource => "bad-source",
            Refusal::BadAuthority => "bad-authority",
            Refusal::AlpnMismatch => "alpn-mismatch",
            Refusal::SecondHeader => "second-header",
        }
    }
}

/// Door 1: only trusted peers may send a header. An empty set trusts nobody.
pub fn admit_peer(trusted: &NetworkSet, peer: IpAddr) -> Result<(), Refusal> {
    if trusted.contains(peer) { Ok(()) } else { Err(Refusal::Untrusted) }
}

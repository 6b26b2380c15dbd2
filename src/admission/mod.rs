//! The two doors. Door 1 judges the peer before a byte is read: whether it may send a header at all ([`admit_peer`]), and
//! whether it keeps too many waiting ([`PendingPeers`]). Door 2 judges the complete header by the listener's settings
//! ([`Policy`]), and the client that it names by bans and limits ([`Clients`]). Both are pure: addresses, a header and the
//! time in, a verdict out.
#![forbid(unsafe_code)]

mod bans;
mod endpoint;
mod limits;
mod pending;
mod policy;
mod table;

pub use bans::{BANS_MAX, Bans, TooManyBans};
pub use endpoint::{EndpointId, EndpointRules, EndpointSet, NotAnEndpoint, OnMissingEndpoint};
pub use limits::{CLIENTS_DEFAULT, ClientLimits, ClientRate, Clients, IPV4_PREFIX_DEFAULT, IPV6_PREFIX_DEFAULT};
pub use pending::PendingPeers;
pub use policy::{OnUnknown, OnUnspec, Policy};
pub use table::{CLIENT_DEBTS_MAX, CLIENTS_MAX, CLIENTS_MIN, ClientDebt, ClientTable, Ticket};

use std::net::IpAddr;

use crate::net::NetworkSet;

/// Why a door stays shut. `code()` is the stable name used in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer is outside the trusted networks.
    Untrusted,
    /// The listener waits for as many headers as it may already.
    ListenerPendingLimit,
    /// The ring waits for as many headers of this peer as it may already.
    PeerPendingLimit,
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
    /// The client came through a private endpoint that is not allowed.
    EndpointRefused,
    /// Only some private endpoints are allowed, and the header names none.
    EndpointMissing,
    /// Another header follows at once.
    SecondHeader,
    /// The client is in a banned network.
    ClientBanned,
    /// The client has as many connections as it may.
    ClientConnectionLimit,
    /// The client has connected more often than it may.
    ClientRateLimit,
}

impl Refusal {
    /// Every refusal, in the order of the doors.
    pub const ALL: [Refusal; 17] = [
        Refusal::Untrusted,
        Refusal::ListenerPendingLimit,
        Refusal::PeerPendingLimit,
        Refusal::VersionRefused,
        Refusal::UnknownRefused,
        Refusal::DgramRefused,
        Refusal::UnspecRefused,
        Refusal::ChecksumMissing,
        Refusal::BadSource,
        Refusal::BadAuthority,
        Refusal::AlpnMismatch,
        Refusal::EndpointRefused,
        Refusal::EndpointMissing,
        Refusal::SecondHeader,
        Refusal::ClientBanned,
        Refusal::ClientConnectionLimit,
        Refusal::ClientRateLimit,
    ];

    /// The kebab-case name.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::Untrusted => "untrusted",
            Refusal::ListenerPendingLimit => "listener-pending-limit",
            Refusal::PeerPendingLimit => "peer-pending-limit",
            Refusal::VersionRefused => "version-refused",
            Refusal::UnknownRefused => "unknown-refused",
            Refusal::UnspecRefused => "unspec-refused",
            Refusal::DgramRefused => "dgram-refused",
            Refusal::ChecksumMissing => "checksum-missing",
            Refusal::BadSource => "bad-source",
            Refusal::BadAuthority => "bad-authority",
            Refusal::AlpnMismatch => "alpn-mismatch",
            Refusal::EndpointRefused => "endpoint-refused",
            Refusal::EndpointMissing => "endpoint-missing",
            Refusal::SecondHeader => "second-header",
            Refusal::ClientBanned => "client-banned",
            Refusal::ClientConnectionLimit => "client-connection-limit",
            Refusal::ClientRateLimit => "client-rate-limit",
        }
    }

    /// Whether it is the client's doing, and not that of the peer who speaks for it.
    pub fn concerns_client(self) -> bool {
        matches!(
            self,
            Refusal::ClientBanned
                | Refusal::ClientConnectionLimit
                | Refusal::ClientRateLimit
                | Refusal::EndpointRefused
        )
    }
}

/// Door 1: only trusted peers may send a header. An empty set trusts nobody. Tells by which of the
/// [networks](NetworkSet::networks) a peer is trusted.
pub fn admit_peer(trusted: &NetworkSet, peer: IpAddr) -> Result<usize, Refusal> {
    // spec 2 SHOULD "proper access filtering"
    trusted.locate(peer).ok_or(Refusal::Untrusted)
}

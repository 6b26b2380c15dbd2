//! What a listener demands of a header that is right by the grammar.

/// A listener's `haproxy_*` settings. The default is what an operator gets who sets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Accept version 1 (`haproxy_versions`).
    pub v1: bool,
    /// Accept version 2 (`haproxy_versions`).
    pub v2: bool,
    /// What a version 1 `UNKNOWN` means (`haproxy_unknown`).
    pub unknown: OnUnknown,
    /// What a version 2 PROXY without an IP address means (`haproxy_unspec`).
    pub unspec: OnUnspec,
    /// Refuse every PROXY header that carries no checksum (`haproxy_checksum = require`).
    pub checksum_required: bool,
    /// Accept sources that no client can have, such as multicast (`haproxy_source = any`).
    pub any_source: bool,
    /// Hand a second header to the application instead of refusing it (`haproxy_second_header = pass`).
    pub second_header_pass: bool,
    /// Refuse an AUTHORITY that is no DNS name (`haproxy_authority = dns`).
    pub dns_authority: bool,
    /// If not empty: refuse an ALPN that is none of these (`haproxy_alpn`).
    pub alpn: Vec<Vec<u8>>,
}

/// `haproxy_unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// The socket's peer is the client.
    Peer,
    /// Refuse.
    Reject,
}

/// `haproxy_unspec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnspec {
    /// Refuse.
    Reject,
    /// The socket's peer is the client.
    Peer,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            v1: true,
            v2: true,
            unknown: OnUnknown::Peer,
            unspec: OnUnspec::Reject,
            checksum_required: false,
            any_source: false,
            second_header_pass: false,
            dns_authority: false,
            alpn: Vec::new(),
        }
    }
}

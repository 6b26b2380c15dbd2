//! What a listener demands of a header that is right by the grammar.

use super::endpoint::Objection;
use super::{EndpointRules, Refusal};
use crate::net::is_plausible_source;
use crate::proxy::{Command, Header, Transport, Version, starts_like_header};

/// What a listener's settings demand of a header. The default is what an operator gets who sets nothing.
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
    /// Through which private endpoints clients may come (`client_allowed_endpoints`, `client_endpoint_missing`).
    pub endpoints: EndpointRules,
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
            endpoints: EndpointRules::default(),
        }
    }
}

impl Policy {
    /// Door 2: judges a complete header and the bytes that came behind it; the first rule that is broken decides.
    /// Destinations are never judged.
    pub fn admit(&self, header: &Header<'_>, residual: &[u8]) -> Result<(), Refusal> {
        self.admit_version(header.version())?;
        // spec 2.2 MUST "use the real connection endpoints"
        if header.command() == Command::Proxy {
            self.admit_proxied(header)?;
        }
        if !self.second_header_pass && starts_like_header(residual) {
            return Err(Refusal::SecondHeader);
        }
        Ok(())
    }

    fn admit_version(&self, version: Version) -> Result<(), Refusal> {
        let on = match version {
            Version::V1 => self.v1,
            Version::V2 => self.v2,
        };
        if on { Ok(()) } else { Err(Refusal::VersionRefused) }
    }

    fn admit_proxied(&self, header: &Header<'_>) -> Result<(), Refusal> {
        if header.transport() == Transport::Dgram {
            return Err(Refusal::DgramRefused);
        }
        if header.source().is_none() {
            self.admit_without_address(header.version())?;
        }
        if self.checksum_required && header.checksum().is_none() {
            return Err(Refusal::ChecksumMissing);
        }
        if !self.any_source && header.source().is_some_and(|source| !is_plausible_source(source.ip())) {
            return Err(Refusal::BadSource);
        }
        self.admit_names(header)?;
        self.endpoints.judge(header).map_err(|objection| match objection {
            Objection::Refused => Refusal::EndpointRefused,
            Objection::Missing => Refusal::EndpointMissing,
        })
    }

    fn admit_without_address(&self, version: Version) -> Result<(), Refusal> {
        match version {
            // spec 2.1 SHOULD "accept the connection and use the real"
            Version::V1 if self.unknown == OnUnknown::Reject => Err(Refusal::UnknownRefused),
            // spec 2.2 MAY "family UNSPEC: free to accept"
            // spec 2.2 MAY "byte 00 otherwise: free to accept"
            Version::V2 if self.unspec == OnUnspec::Reject => Err(Refusal::UnspecRefused),
            _ => Ok(()),
        }
    }

    fn admit_names(&self, header: &Header<'_>) -> Result<(), Refusal> {
        if self.dns_authority && header.authority_raw().is_some() && header.authority().is_none() {
            return Err(Refusal::BadAuthority);
        }
        let named = header.alpn().filter(|_| !self.alpn.is_empty());
        if named.is_some_and(|alpn| !self.alpn.iter().any(|ours| ours == alpn)) {
            return Err(Refusal::AlpnMismatch);
        }
        Ok(())
    }
}

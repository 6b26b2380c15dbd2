//! What can be said of a backend's settings before anything is sent.

use std::fmt;

use super::super::{Forward, Protocol, Target};
use super::ForwardTlvs;
use crate::proxy::{UNIQUE_ID_MAX, Version};

/// A backend's settings that are judged together.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// `forward`.
    pub forward: Forward,
    /// `protocol` of a service that uses the backend.
    pub protocol: Protocol,
    /// `target`.
    pub target: Target,
    /// `forward_tlvs`, where it is set.
    pub tlvs: Option<ForwardTlvs>,
    /// Whether TLS of a listener passes through from the first byte.
    pub tls_passthrough: bool,
    /// Longest header that a listener takes (`header_limit`), in bytes.
    pub header_limit: u32,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot work.
    Error,
    /// It may not do what is meant.
    Warning,
}

/// Something to say about settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// `imap-id` for another protocol than IMAP.
    ImapIdElsewhere(Protocol),
    /// `xclient` for a protocol that has no such command.
    NoXclient(Protocol),
    /// An in-band exchange under TLS that passes through.
    InBandUnderTls(Forward),
    /// A version that the server does not read.
    VersionUnread(Target, Version),
    /// TLVs are asked for and version 1 has none, or nothing is sent.
    TlvsWithoutV2(Forward),
    /// ALPN towards Dovecot.
    AlpnToDovecot,
    /// A header may become longer than the server takes; TLVs then give way.
    OverCap {
        /// Bytes that a header may have.
        largest: usize,
        /// Bytes that the server takes.
        cap: usize,
    },
    /// A checksum towards a server that does not verify it.
    UselessChecksum(Target),
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Finding::ImapIdElsewhere(_)
            | Finding::NoXclient(_)
            | Finding::InBandUnderTls(_)
            | Finding::VersionUnread(..) => Severity::Error,
            Finding::TlvsWithoutV2(_)
            | Finding::AlpnToDovecot
            | Finding::OverCap { .. }
            | Finding::UselessChecksum(_) => Severity::Warning,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Finding::ImapIdElsewhere(protocol) => {
                write!(f, "forward = imap-id works for IMAP only, and the protocol is {}", protocol.name())
            }
            Finding::NoXclient(Protocol::Imap) => f.write_str("IMAP has no XCLIENT command: use forward = imap-id"),
            Finding::NoXclient(protocol) => {
                write!(f, "forward = xclient needs a known protocol, and the protocol is {}", protocol.name())
            }
            Finding::InBandUnderTls(forward) => {
                write!(f, "forward = {} cannot work where TLS passes through: use proxy-v2", forward_name(forward))
            }
            Finding::VersionUnread(target, version) => {
                let (read, name) = if version == Version::V1 { (2, "proxy-v2") } else { (1, "proxy-v1") };
                write!(f, "{} reads version {read} of the PROXY protocol only: use forward = {name}", target_name(target))
            }
            Finding::TlvsWithoutV2(forward) => {
                write!(f, "forward_tlvs has no effect with forward = {}: only proxy-v2 carries TLVs", forward_name(forward))
            }
            Finding::AlpnToDovecot => f.write_str(
                "Dovecot 2.4.0 and 2.4.1 close every connection whose header holds ALPN: leave alpn out of forward_tlvs, \
                 unless all servers are 2.3, or 2.4.2 and newer",
            ),
            Finding::OverCap { largest, cap } => write!(
                f,
                "a header may have up to {largest} bytes and the server takes {cap}: TLVs that do not fit are left out"
            ),
            Finding::UselessChecksum(target) => {
                write!(f, "{} does not verify the checksum of a header", target_name(target))
            }
        }
    }
}

/// All that can be said of these settings, at most one of a kind.
pub fn findings(terms: &Terms) -> Vec<Finding> {
    let preset = terms.target.preset();
    let version = match terms.forward {
        Forward::ProxyV2 => Some(Version::V2),
        Forward::ProxyV1 => Some(Version::V1),
        Forward::ImapId | Forward::Xclient | Forward::None => None,
    };
    let in_band = matches!(terms.forward, Forward::ImapId | Forward::Xclient);
    let no_xclient = matches!(terms.protocol, Protocol::Imap | Protocol::None);
    let asked = terms.tlvs.unwrap_or(ForwardTlvs::NONE);
    let sent = if version == Some(Version::V2) { asked } else { ForwardTlvs::NONE };
    let (largest, cap) = (largest_header(terms), preset.limits.total);
    let verifies = matches!(terms.target, Target::Haproxy | Target::Vestibule | Target::Generic);
    [
        (terms.forward == Forward::ImapId && terms.protocol != Protocol::Imap)
            .then_some(Finding::ImapIdElsewhere(terms.protocol)),
        (terms.forward == Forward::Xclient && no_xclient).then_some(Finding::NoXclient(terms.protocol)),
        (in_band && terms.tls_passthrough).then_some(Finding::InBandUnderTls(terms.forward)),
        version.filter(|&version| !preset.reads(version)).map(|version| Finding::VersionUnread(terms.target, version)),
        (asked != sent).then_some(Finding::TlvsWithoutV2(terms.forward)),
        (sent.has(ForwardTlvs::ALPN) && terms.target == Target::Dovecot).then_some(Finding::AlpnToDovecot),
        (largest > cap).then_some(Finding::OverCap { largest, cap }),
        (sent.has(ForwardTlvs::CRC32C) && !verifies).then_some(Finding::UselessChecksum(terms.target)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Type and length.
const TLV_HEADER: usize = 3;
/// An IPv6 header without TLVs.
const INET6: usize = 52;
/// The longest version 1 line over TCP.
const V1_MAX: usize = 104;
/// SSL with version, cipher, the algorithms and a common name of 64 characters (RFC 5280), without a client's
/// certificate, which gives way first.
const SSL_USUAL: usize = TLV_HEADER + 273;
/// A DNS name.
const AUTHORITY_MAX: usize = TLV_HEADER + 253;
/// A protocol's name in ALPN.
const ALPN_MAX: usize = TLV_HEADER + 255;
/// A cloud's endpoint id.
const VENDOR_USUAL: usize = TLV_HEADER + 64;

/// Longest header that these settings can make of usual contents, in bytes; 0: none is sent. What is passed on came in a
/// header that a listener took, so `header_limit` bounds it, too.
pub fn largest_header(terms: &Terms) -> usize {
    if terms.forward == Forward::ProxyV1 {
        return V1_MAX;
    }
    if terms.forward != Forward::ProxyV2 {
        return 0;
    }
    let tlvs = terms.tlvs.unwrap_or(terms.target.preset().tlvs);
    let passed_on = [
        (ForwardTlvs::SSL, SSL_USUAL),
        (ForwardTlvs::AUTHORITY, AUTHORITY_MAX),
        (ForwardTlvs::ALPN, ALPN_MAX),
        (ForwardTlvs::UNIQUE_ID, TLV_HEADER + UNIQUE_ID_MAX),
        (ForwardTlvs::VENDOR, VENDOR_USUAL),
    ];
    let sum: usize = passed_on.into_iter().filter(|(which, _)| tlvs.has(*which)).map(|(_, length)| length).sum();
    let checksum = if tlvs.has(ForwardTlvs::CRC32C) { TLV_HEADER + 4 } else { 0 };
    INET6 + checksum + sum.min(terms.header_limit as usize)
}

fn forward_name(forward: Forward) -> &'static str {
    Forward::ALL.iter().find(|(known, _)| *known == forward).map_or("none", |(_, name)| name)
}

fn target_name(target: Target) -> &'static str {
    Target::ALL.iter().find(|(known, _)| *known == target).map_or("generic", |(_, name)| name)
}

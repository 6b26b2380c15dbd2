//! What each kind of server takes, as measured.

use super::super::{Protocol, Target};
use super::ForwardTlvs;
use crate::proxy::{Limits, Version};

/// What to send to a kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Whether it reads version 1.
    pub v1: bool,
    /// Whether it reads version 2.
    pub v2: bool,
    /// Which TLVs it makes use of.
    pub tlvs: ForwardTlvs,
    /// Bytes that a header may have.
    pub limits: Limits,
    /// How a health check begins, in version 2.
    pub check: CheckHeader,
    /// Whether what the client said first may stand behind the header in its segment, in protocols where it may speak
    /// first.
    pub early: bool,
    /// What to do about port 0, in version 1.
    pub zero_port: ZeroPort,
    /// Whether AUTHORITY must be a DNS name, and a common name one that was verified.
    pub strict: bool,
}

/// How a health check begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckHeader {
    /// Version 2 LOCAL, 16 bytes. In version 1, which has no such thing, as [`CheckHeader::OwnAddresses`].
    Local,
    /// PROXY with the connection's own addresses.
    OwnAddresses,
}

/// What to do about port 0, in version 1: some receivers refuse it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroPort {
    /// It is sent: the server takes it.
    AsIs,
    /// That header is sent in version 2, in which the server takes it.
    V2,
    /// Port 1 is sent in its place, for nothing is known of the server: a client's address is worth more than a port that
    /// no client has.
    One,
}

/// What most receivers have in common.
const PLAIN: Preset = Preset {
    v1: true,
    v2: true,
    tlvs: ForwardTlvs::NONE,
    limits: Limits { total: 232, value: usize::MAX, authority: usize::MAX },
    check: CheckHeader::Local,
    early: true,
    zero_port: ZeroPort::AsIs,
    strict: false,
};

const fn total(total: usize) -> Limits {
    Limits { total, ..Limits::NONE }
}

impl Target {
    /// What to send to servers of this kind.
    pub const fn preset(self) -> Preset {
        match self {
            Target::Dovecot => Preset {
                tlvs: ForwardTlvs::SSL.and(ForwardTlvs::AUTHORITY),
                limits: Limits::DOVECOT,
                zero_port: ZeroPort::V2,
                strict: true,
                ..PLAIN
            },
            Target::Postfix | Target::Postscreen => Preset { limits: Limits::POSTFIX, ..PLAIN },
            Target::Exim => Preset { limits: Limits::EXIM, zero_port: ZeroPort::V2, ..PLAIN },
            Target::Opensmtpd => Preset { v1: false, limits: Limits::NONE, ..PLAIN },
            Target::Nginx => Preset { limits: total(107), ..PLAIN },
            Target::Haproxy => {
                Preset { tlvs: ForwardTlvs::ALL.without(ForwardTlvs::CRC32C), limits: Limits::HAPROXY, ..PLAIN }
            }
            Target::Haraka | Target::SmtpServer => Preset { v2: false, early: false, ..PLAIN },
            Target::Vestibule => Preset { tlvs: ForwardTlvs::ALL, limits: total(4096), ..PLAIN },
            // What every receiver took: of those measured nginx 1.22 takes the least.
            Target::Generic => {
                Preset { limits: total(107), check: CheckHeader::OwnAddresses, zero_port: ZeroPort::One, ..PLAIN }
            }
        }
    }
}

impl Preset {
    /// Whether it reads this version.
    pub fn reads(&self, version: Version) -> bool {
        match version {
            Version::V1 => self.v1,
            Version::V2 => self.v2,
        }
    }

    /// Whether what the client said before the server may stand behind the header in its segment. Where not, it waits
    /// for the server's first byte: Postfix closes on a client that speaks before its greeting. TLS comes as
    /// [`Protocol::None`]: there the client has to speak first.
    pub fn sends_early(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::None => true,
            Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => false,
            Protocol::Imap | Protocol::Pop3 | Protocol::Sieve => self.early,
        }
    }
}

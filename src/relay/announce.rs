//! The PROXY protocol header that stands before a client's bytes, made for the kind of server that reads it.
//!
//! What goes out is always PROXY over a stream between two IP addresses: never UNSPEC, UNIX, DGRAM or UNKNOWN, which
//! many receivers refuse, and LOCAL only for what is a probe. LOCAL on behalf of a client would lend it this host's
//! address and whatever trust that has.

mod finding;
mod preset;
mod tlvs;

use std::net::SocketAddr;

use super::{Forward, SessionId, Target};
use crate::net::canonical_socket;
use crate::proxy::{Command, EncodeError, Encoder, Header, Limits, Tlv, Version, kind};
pub use finding::{Finding, Severity, Terms, findings, largest_header};
pub use preset::{CheckHeader, Preset, ZeroPort};
use tlvs::{Chosen, Scratch};
pub use tlvs::{ForwardTlvs, VENDOR_TLVS_MAX};

/// Room that the header of any preset fits in, in bytes. The own TLVs of a header are made in as much.
pub const HEADER_MAX: usize = 16_384;

/// What is known of a client.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The header that the connection came with, if its peer is trusted.
    pub header: Option<Header<'a>>,
    /// Who the client is: as the header says, or, where it names no IP address, the socket's far end.
    pub client: SocketAddr,
    /// What the client connected to, by the same rule.
    pub destination: SocketAddr,
    /// The session's id.
    pub session: SessionId,
    /// TLS that ended here.
    pub tls: Option<Tls<'a>>,
}

/// A TLS session that ended here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tls<'a> {
    /// Such as `TLSv1.3`.
    pub version: Option<&'a str>,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: Option<&'a str>,
    /// The name that the client asked for.
    pub server_name: Option<&'a str>,
    /// The protocol that client and we agreed on.
    pub alpn: Option<&'a [u8]>,
    /// The common name in the client's certificate, empty if that has none; only of a certificate that was verified.
    pub client_name: Option<&'a str>,
}

impl Facts<'_> {
    /// Whether the client's connection is TLS: up to here, or up to the peer by its header.
    pub fn secured(&self) -> bool {
        self.tls.is_some() || self.header.and_then(|header| header.ssl()).is_some_and(|ssl| ssl.tls())
    }
}

/// On whose behalf a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// A client's: PROXY, whatever the connection came with.
    Client,
    /// A health check of the balancer's own, which came as LOCAL: it goes on as LOCAL, where the version has that.
    Probe,
}

/// How servers of a backend are told.
#[derive(Clone, Copy, Debug)]
pub struct Announce {
    preset: Preset,
    version: Version,
    tlvs: ForwardTlvs,
}

/// A header that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Bytes.
    pub length: usize,
    /// The version it was written in: version 2 in place of version 1 where that cannot say it ([`ZeroPort::V2`]).
    pub version: Version,
    /// Which TLVs had to give way.
    pub gave_way: Kinds,
}

/// A set of TLV types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds([u64; 4]);

impl Kinds {
    fn add(&mut self, kind: u8) {
        self.0[usize::from(kind >> 6)] |= 1 << (kind & 63);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The types, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|kind| self.0[usize::from(kind >> 6)] >> (kind & 63) & 1 == 1)
    }
}

impl Announce {
    /// `forward` and `target`, with the operator's own choice of TLVs where there is one; `None`: no header is sent.
    pub fn new(forward: Forward, target: Target, tlvs: Option<ForwardTlvs>) -> Option<Announce> {
        let version = match forward {
            Forward::ProxyV2 => Version::V2,
            Forward::ProxyV1 => Version::V1,
            Forward::ImapId | Forward::Xclient | Forward::None => return None,
        };
        let preset = target.preset();
        Some(Announce { preset, version, tlvs: tlvs.unwrap_or(preset.tlvs) })
    }

    /// Writes the header for a connection that is made on behalf of `whom` to the start of `out`, which is best
    /// [`HEADER_MAX`] long; a shorter one counts as the receiver's limit. TLVs that do not fit give way in the order of
    /// [`Encoder::fit`], at last SSL's common name and SSL itself.
    ///
    /// # Errors
    /// [`EncodeError::BufferTooSmall`] or [`EncodeError::TooLong`]: `out` cannot even hold the addresses (104 bytes).
    pub fn write(&self, facts: &Facts<'_>, whom: Whom, out: &mut [u8]) -> Result<Announced, EncodeError> {
        let is_local = facts.header.is_some_and(|header| header.command() == Command::Local);
        if whom == Whom::Probe && is_local && self.version == Version::V2 {
            return finish(Encoder::local(), Version::V2, Kinds::default(), out);
        }
        let (version, client, destination) = self.sayable(facts.client, facts.destination);
        // spec 2.1 SHOULD NOT "recommended not to send UNKNOWN"
        // spec 2.1 SHOULD NOT "use the UNKNOWN protocol"
        let encoder = Encoder::proxy(client, destination).version(version);
        if version == Version::V1 {
            return finish(encoder, version, Kinds::default(), out);
        }
        self.write_with_tlvs(encoder, facts, out)
    }

    /// Writes the header of a health check, on a connection from `from` to `to`, to the start of `out`.
    ///
    /// # Errors
    /// As for [`Announce::write`].
    pub fn write_check(&self, from: SocketAddr, to: SocketAddr, out: &mut [u8]) -> Result<Announced, EncodeError> {
        let local = self.version == Version::V2 && self.preset.check == CheckHeader::Local;
        let (version, from, to) = self.sayable(from, to);
        // spec 2.1 SHOULD "build a valid PROXY line"
        let encoder = if local { Encoder::local() } else { Encoder::proxy(from, to).version(version) };
        finish(encoder, version, Kinds::default(), out)
    }

    /// What is sent for whom, in a version that can say it.
    fn sayable(&self, client: SocketAddr, destination: SocketAddr) -> (Version, SocketAddr, SocketAddr) {
        let (mut client, mut destination) = (canonical_socket(client), canonical_socket(destination));
        let zero = self.version == Version::V1 && (client.port() == 0 || destination.port() == 0);
        match self.preset.zero_port {
            ZeroPort::V2 if zero => return (Version::V2, client, destination),
            ZeroPort::One if zero => {
                client.set_port(client.port().max(1));
                destination.set_port(destination.port().max(1));
            }
            ZeroPort::V2 | ZeroPort::One | ZeroPort::AsIs => {}
        }
        (self.version, client, destination)
    }

    fn write_with_tlvs(&self, bare: Encoder<'_>, facts: &Facts<'_>, out: &mut [u8]) -> Result<Announced, EncodeError> {
        let total = self.preset.limits.total.min(out.len());
        let limits = Limits { total, ..self.preset.limits };
        let mut scratch: Scratch = [0; tlvs::SCRATCH];
        let mut chosen = Chosen::new(self.tlvs, &self.preset, facts, &mut scratch);
        loop {
            let encoder = bare.checksum(self.tlvs.has(ForwardTlvs::CRC32C)).tlvs(chosen.tlvs()).fit(limits);
            let mut gave_way = chosen.gave_way();
            encoder.dropped().for_each(|kind| gave_way.add(kind));
            match finish(encoder, Version::V2, gave_way, out) {
                Err(EncodeError::TooLong { .. } | EncodeError::SslTooLong { .. }) if chosen.shorten() => {}
                result => return result,
            }
        }
    }
}

fn finish(encoder: Encoder<'_>, version: Version, gave_way: Kinds, out: &mut [u8]) -> Result<Announced, EncodeError> {
    Ok(Announced { length: encoder.encode(out)?, version, gave_way })
}

#[cfg(test)]
mod tests;

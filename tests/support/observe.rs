//! The decoder under test, its answer put into the oracle's words.

use vestibule::proxy::{self, Addresses, Command, Decoded, Family, Header, Transport, Version};

use super::oracle::{Endpoint, Fields, Rules, Verdict};

/// What the decoder says to `bytes`.
pub fn decode(bytes: &[u8], rules: Rules) -> Verdict {
    let rules = proxy::Rules {
        header_limit: rules.header_limit as u32,
        v4_in_tcp6: rules.v4_in_tcp6,
        v6_in_tcp4: rules.v6_in_tcp4,
    };
    match proxy::decode(bytes, &rules) {
        Decoded::Complete(header) => Verdict::Complete { length: header.len(), fields: fields(&header) },
        Decoded::Incomplete { need } => Verdict::Incomplete { need },
        Decoded::Absent { at } => Verdict::Absent { at },
        Decoded::Invalid { reason, at } => Verdict::Invalid { reason: reason.code(), at },
    }
}

/// What a header conveys.
pub fn fields(header: &Header<'_>) -> Fields {
    let (source, destination) = match header.addresses() {
        Addresses::None => (Endpoint::None, Endpoint::None),
        Addresses::Ip { source, destination } => (Endpoint::Ip(source), Endpoint::Ip(destination)),
        Addresses::Unix { source, destination } => (Endpoint::Unix(source.into()), Endpoint::Unix(destination.into())),
    };
    Fields {
        version: match header.version() {
            Version::V1 => "v1",
            Version::V2 => "v2",
        },
        command: match header.command() {
            Command::Local => "LOCAL",
            Command::Proxy => "PROXY",
        },
        family: match header.family() {
            Family::Unspec => "UNSPEC",
            Family::Inet => "INET",
            Family::Inet6 => "INET6",
            Family::Unix => "UNIX",
        },
        transport: match header.transport() {
            Transport::Unspec => "UNSPEC",
            Transport::Stream => "STREAM",
            Transport::Dgram => "DGRAM",
        },
        source,
        destination,
        tlvs: header.tlvs().map(|tlv| (tlv.kind, tlv.value.to_vec())).collect(),
    }
}

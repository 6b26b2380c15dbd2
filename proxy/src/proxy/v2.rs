//! Version 2: 16 fixed bytes, an address block, TLVs.

use super::address::{Block, Pair};
use super::checksum::{self, CHECKSUM_LEN};
use super::error::Reason;
use super::header::{Command, Family, Head, Transport, Version};
use super::tlv::{self, Tlvs, kind};
use super::{Decoded, Rules, V2_FIXED, V2_SIGNATURE};

/// The first 14 bytes of a PROXY header over TCP/IPv4, as a little-endian number.
pub(super) const INET_STREAM: u128 = u128::from_le_bytes(*b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0");
/// The same over TCP/IPv6.
pub(super) const INET6_STREAM: u128 = u128::from_le_bytes(*b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\0");

/// The first 14 of these 16 bytes.
#[inline(always)]
pub(super) fn without_length(first: u128) -> u128 {
    first << 16 >> 16
}

/// Decodes bytes that begin with one of these 14, whose address block is a pair of `N`. `first` are the first 16.
#[inline(always)]
pub(super) fn decode_stream<'a, const N: usize>(
    prefix: &'a [u8],
    first: u128,
    rules: &Rules,
    block: fn(Pair<N>) -> Block,
) -> Decoded<'a> {
    let total = V2_FIXED + usize::from(((first >> 112) as u16).swap_bytes());
    let tlvs = V2_FIXED + Pair::<N>::LEN;
    if total == tlvs
        && total <= rules.header_limit as usize
        && let Some(pair) = prefix.get(V2_FIXED..).and_then(Pair::read)
        && let Some(header) = Head::of_stream(Version::V2, block(pair), total, tlvs).over(prefix)
    {
        return Decoded::Complete(header);
    }
    decode_with_tlvs(prefix, total, rules, block)
}

/// Apart from headers without TLVs, which need not pay for the registers of a loop.
#[inline(never)]
fn decode_with_tlvs<'a, const N: usize>(
    prefix: &'a [u8],
    total: usize,
    rules: &Rules,
    block: fn(Pair<N>) -> Block,
) -> Decoded<'a> {
    let tlvs = V2_FIXED + Pair::<N>::LEN;
    let whole = if total <= rules.header_limit as usize { prefix.get(..total) } else { None };
    let Some(header) = whole else {
        return decode(prefix, rules);
    };
    let right = match header.get(tlvs..).and_then(tlv::survey) {
        Some(0) => true,
        Some(checksum) => checksum::is_right(header, tlvs + checksum),
        None => false,
    };
    let decoded = Pair::read(header.get(V2_FIXED..).unwrap_or_default())
        .and_then(|pair| Head::of_stream(Version::V2, block(pair), total, tlvs).over(header));
    match decoded {
        Some(header) if right => Decoded::Complete(header),
        _ => decode(header, rules),
    }
}

/// Decodes bytes that begin with the signature, or are a part of it, at whatever byte it can be decided.
#[inline(never)]
pub(super) fn decode<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    let Some((fixed, _)) = prefix.split_first_chunk::<V2_FIXED>() else {
        return match begun(prefix.get(V2_SIGNATURE.len()..).unwrap_or_default(), rules) {
            Ok(()) => Decoded::Incomplete { need: V2_FIXED },
            Err((reason, at)) => Decoded::Invalid { reason, at },
        };
    };
    let [.., ver_cmd, fam, high, low] = *fixed;
    if let Err((reason, at)) = begun(&[ver_cmd, fam, high, low], rules) {
        return Decoded::Invalid { reason, at };
    }
    // spec 2.2 MUST "always consider this field to skip"
    // spec 2.2 MUST NOT "assume zero is presented"
    let total = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    let Some(bytes) = prefix.get(..total) else {
        // spec 2.2 MUST NOT "start to parse an address before"
        // spec 2.2 SHOULD "process the header at once"
        return Decoded::Incomplete { need: total };
    };
    let judged = match ver_cmd & 0x0f {
        COMMAND_LOCAL => local(bytes, fam),
        _ => proxy(bytes, fam),
    };
    match judged.map(|head| head.over(bytes)) {
        Ok(Some(header)) => Decoded::Complete(header),
        Ok(None) => Decoded::Incomplete { need: total },
        Err(reason) => Decoded::Invalid { reason, at: total },
    }
}

const VERSION: u8 = 2;
const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;

/// Judges what is there of bytes 13 to 16, each as early as it can be: a refusal and the byte that decides it.
fn begun(bytes: &[u8], rules: &Rules) -> Result<(), (Reason, usize)> {
    let Some(&ver_cmd) = bytes.first() else { return Ok(()) };
    // spec 2.2 MUST "only accept this value"
    if ver_cmd >> 4 != VERSION {
        return Err((Reason::BadVersion, 13));
    }
    // spec 2.2 MUST "drop connections presenting unexpected values"
    if ver_cmd & 0x0f > COMMAND_PROXY {
        return Err((Reason::BadCommand, 13));
    }
    let proxy = ver_cmd & 0x0f == COMMAND_PROXY;
    let Some(&fam) = bytes.get(1) else { return Ok(()) };
    let (family, _) = match family_and_transport(fam) {
        Err(reason) if proxy => return Err((reason, 14)),
        Err(_) => (Family::Unspec, Transport::Unspec),
        Ok(known) => known,
    };
    let limit = rules.header_limit as usize;
    let Some(&high) = bytes.get(2) else { return Ok(()) };
    if V2_FIXED + usize::from(high) * 256 > limit {
        return Err((Reason::HeaderTooLong, 15));
    }
    let Some(&low) = bytes.get(3) else { return Ok(()) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + length > limit {
        return Err((Reason::HeaderTooLong, 16));
    }
    if proxy && length < family.block_len() {
        return Err((Reason::AddressTruncated, 16));
    }
    Ok(())
}

/// Byte 14: the seven defined pairs. An UNSPEC on one side only is the fault of the family for 01 and 02, of the
/// transport for 10, 20 and 30.
fn family_and_transport(fam: u8) -> Result<(Family, Transport), Reason> {
    // spec 2.2 MUST "other families rejected as invalid"
    let family = Family::of(fam >> 4).ok_or(Reason::BadFamily)?;
    match (family, fam & 0x0f) {
        (Family::Unspec, 0) => Ok((family, Transport::Unspec)),
        (Family::Unspec, 1 | 2) => Err(Reason::BadFamily),
        // spec 2.2 MAY "transport UNSPEC: free to accept"
        // spec 2.2 SHOULD "transport UNSPEC: ignore address information"
        (Family::Unspec, _) => Err(Reason::BadTransport),
        (_, 1) => Ok((family, Transport::Stream)),
        (_, 2) => Ok((family, Transport::Dgram)),
        // spec 2.2 MUST "other transports rejected as invalid"
        _ => Err(Reason::BadTransport),
    }
}

/// A whole PROXY header.
fn proxy(bytes: &[u8], fam: u8) -> Result<Head, Reason> {
    let (family, transport) = family_and_transport(fam)?;
    let body = bytes.get(V2_FIXED..).unwrap_or_default();
    let chain = body.get(family.block_len()..).unwrap_or_default();
    let mut head = Head::without_addresses(Version::V2, Command::Proxy, bytes.len() as u32);
    // Without addresses there is no layout that says where TLVs start: what is no chain is not ours to read.
    // spec 2.2 SHOULD "family UNSPEC: ignore address information"
    // spec 2.2 SHOULD "byte 00: ignore address information"
    // spec 2.2 MUST "only the UNSPEC protocol byte is mandatory"
    if family == Family::Unspec && !tlv::is_exact(chain) {
        return Ok(head);
    }
    let chain_at = bytes.len() - chain.len();
    if let Some(at) = tlv::judge(chain)? {
        verify(bytes, chain_at + at)?;
    }
    head.tlvs = chain_at as u32;
    // spec 2.2 MUST "use the information provided"
    head.block = match family {
        Family::Inet => Pair::read(body).map_or(Block::Unspec, Block::Inet),
        Family::Inet6 => Pair::read(body).map_or(Block::Unspec, Block::Inet6),
        Family::Unix => Block::Unix,
        Family::Unspec => Block::Unspec,
    };
    head.transport = transport;
    Ok(head)
}

/// A whole LOCAL header. Only a checksum is looked for: after the block of the family that byte 14 names, and at once
/// behind the fixed part, where AWS puts it although it names a family.
fn local(bytes: &[u8], fam: u8) -> Result<Head, Reason> {
    let body = bytes.get(V2_FIXED..).unwrap_or_default();
    let behind_block = Family::of(fam >> 4).and_then(|family| body.get(family.block_len()..));
    let mut candidates = [behind_block, Some(body)].into_iter().flatten().filter_map(|chain| {
        let at = only_checksum(chain)?;
        Some(verify(bytes, bytes.len() - chain.len() + at))
    });
    match candidates.next() {
        Some(Err(reason)) if !candidates.any(|verified| verified.is_ok()) => Err(reason),
        // spec 2.2 MUST "accept this connection as valid"
        // spec 2.2 MUST "byte 00 with LOCAL: accept and ignore"
        _ => Ok(Head::without_addresses(Version::V2, Command::Local, bytes.len() as u32)),
    }
}

fn verify(header: &[u8], at: usize) -> Result<(), Reason> {
    // spec 2.2.3 MUST "verify that the calculated"
    // spec 2.2.3 MUST "treat the TCP connection as invalid"
    if checksum::is_right(header, at) { Ok(()) } else { Err(Reason::BadChecksum) }
}

/// Where the value of the checksum TLV starts if this is an exact chain with just one, of the right length.
fn only_checksum(chain: &[u8]) -> Option<usize> {
    if !tlv::is_exact(chain) {
        return None;
    }
    Tlvs::over(chain).only(kind::CRC32C, CHECKSUM_LEN)
}

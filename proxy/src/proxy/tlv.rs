//! TLVs: type, length, value, repeated until exactly the end of the header.

use super::checksum::CHECKSUM_LEN;
use super::error::Reason;
use super::ssl;

/// Type bytes (`PP2_TYPE_*` of the specification, section 2.2.1 and following).
pub mod kind {
    /// Protocol name agreed by ALPN.
    pub const ALPN: u8 = 0x01;
    /// Host name that the client asked for (SNI).
    pub const AUTHORITY: u8 = 0x02;
    /// CRC32C of the whole header.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// Opaque id of the connection, at most [`UNIQUE_ID_MAX`](super::UNIQUE_ID_MAX) bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// What is known of the client's TLS session; holds TLVs of its own.
    pub const SSL: u8 = 0x20;
    /// Inside SSL: TLS version, such as `TLSv1.3`.
    pub const SSL_VERSION: u8 = 0x21;
    /// Inside SSL: common name of the client's certificate.
    pub const SSL_CN: u8 = 0x22;
    /// Inside SSL: cipher suite.
    pub const SSL_CIPHER: u8 = 0x23;
    /// Inside SSL: signature algorithm of the frontend's certificate.
    pub const SSL_SIG_ALG: u8 = 0x24;
    /// Inside SSL: key algorithm of the frontend's certificate.
    pub const SSL_KEY_ALG: u8 = 0x25;
    /// Inside SSL: key exchange group.
    pub const SSL_GROUP: u8 = 0x26;
    /// Inside SSL: signature scheme of the handshake.
    pub const SSL_SIG_SCHEME: u8 = 0x27;
    /// Inside SSL: the client's certificate in DER.
    pub const SSL_CLIENT_CERT: u8 = 0x28;
    /// Name of the network namespace.
    pub const NETNS: u8 = 0x30;
    /// Google Cloud: Private Service Connect connection id.
    pub const GCP_PSC_CONNECTION_ID: u8 = 0xe0;
    /// Alibaba Cloud: VPC, endpoint and endpoint service ids, one TLV each.
    pub const ALIBABA: u8 = 0xe1;
    /// Amazon Web Services: VPC endpoint id.
    pub const AWS: u8 = 0xea;
    /// Microsoft Azure: private endpoint's LINKID.
    pub const AZURE: u8 = 0xee;
}

/// Longest UNIQUE_ID in bytes. Specification, section 2.2.5.
pub const UNIQUE_ID_MAX: usize = 128;
/// Bytes of the SSL TLV's value before its own TLVs: `client` and `verify`.
pub(super) const SSL_FIXED: usize = 5;
/// Type and length before each value.
pub(super) const TLV_HEADER: usize = 3;

/// One type-length-value item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The type byte (`PP2_TYPE_*`).
    pub kind: u8,
    /// The value.
    pub value: &'a [u8],
}

/// Iterates over the TLVs of a header, or of its SSL TLV, in wire order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    /// Over a chain that was found exact; it would end early at a malformed item.
    pub(super) fn over(chain: &'a [u8]) -> Tlvs<'a> {
        Tlvs { rest: chain }
    }

    /// The value of the first item of this type.
    pub(super) fn value_of(mut self, kind: u8) -> Option<&'a [u8]> {
        self.find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }

    /// Where in the chain the value of the only item of this type starts; `None` if there is no such item or another.
    pub(super) fn only(self, kind: u8, length: usize) -> Option<usize> {
        let all = self.rest.len();
        let mut rest = self;
        let value = rest.find(|tlv| tlv.kind == kind)?.value;
        let at = all - rest.rest.len() - value.len();
        (value.len() == length && rest.all(|tlv| tlv.kind != kind)).then_some(at)
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    #[inline]
    fn next(&mut self) -> Option<Tlv<'a>> {
        let (tlv, rest) = split(self.rest)?;
        self.rest = rest;
        Some(tlv)
    }
}

impl core::iter::FusedIterator for Tlvs<'_> {}

/// The first item of a chain and what follows it; `None` at the end, and where the item is not whole.
#[inline]
pub(super) fn split(chain: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (&[kind, high, low], rest) = chain.split_first_chunk::<TLV_HEADER>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((Tlv { kind, value }, rest))
}

/// Whether the chain ends exactly at its end.
pub(super) fn is_exact(chain: &[u8]) -> bool {
    let mut tlvs = Tlvs::over(chain);
    tlvs.by_ref().for_each(drop);
    tlvs.rest.is_empty()
}

/// Judges a header's chain in wire order: each item whole, not a forbidden repetition, of a possible length.
/// Returns where in the chain the value of the checksum TLV starts, if there is one. It is not verified yet.
#[inline(always)]
pub(super) fn judge(chain: &[u8]) -> Result<Option<usize>, Reason> {
    let mut rest = chain;
    let mut seen = Seen::default();
    let mut checksum = None;
    while !rest.is_empty() {
        let (tlv, after) = split(rest).ok_or(Reason::TlvTruncated)?;
        rest = after;
        seen.once(tlv.kind, ONCE)?;
        match tlv.kind {
            // spec 2.2.5 MUST "up to 128 bytes"
            kind::UNIQUE_ID if tlv.value.len() > UNIQUE_ID_MAX => return Err(Reason::BadTlv),
            kind::CRC32C if tlv.value.len() != CHECKSUM_LEN => return Err(Reason::BadTlv),
            kind::CRC32C => checksum = Some(chain.len() - rest.len() - CHECKSUM_LEN),
            kind::SSL => ssl::judge(tlv.value)?,
            // spec 2.2 MAY "skip over and ignore the TLVs"
            // spec 2.2.4 SHOULD "NOOP ignored when parsed"
            _ => {}
        }
    }
    Ok(checksum)
}

/// As [`judge`] for chains that need no closer look; `None` says nothing. Returns where the value of the checksum TLV
/// starts, 0 if there is none.
///
/// Types are noted in 64 bits, of which some share one. Two that do only cost the closer look, as do long values.
#[inline(always)]
pub(super) fn survey(chain: &[u8]) -> Option<usize> {
    let mut rest = chain;
    let (mut stops, mut checksum) = (1u64 << kind::CRC32C | 1 << kind::SSL, 0);
    while let Some((tlv, after)) = split(rest) {
        if tlv.value.len() > UNIQUE_ID_MAX {
            return None;
        }
        if stops & 1 << (tlv.kind & 63) != 0 {
            if tlv.kind != kind::CRC32C || tlv.value.len() != CHECKSUM_LEN || checksum != 0 {
                return None;
            }
            checksum = chain.len() - after.len() - CHECKSUM_LEN;
        }
        stops |= 1 << (tlv.kind & 63);
        rest = after;
    }
    if rest.is_empty() { Some(checksum) } else { None }
}

/// Types that may occur once in a header, as bits.
const ONCE: u64 = 1 << kind::AUTHORITY | 1 << kind::CRC32C | 1 << kind::UNIQUE_ID | 1 << kind::SSL;

/// Types below 64 that have occurred.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen(u64);

impl Seen {
    /// Notes a type; refuses it if it has occurred before and is among those that may occur `once`.
    #[inline(always)]
    pub(super) fn once(&mut self, kind: u8, once: u64) -> Result<(), Reason> {
        let bit = 1u64.unbounded_shl(kind.into());
        let repeated = self.0 & bit & once != 0;
        self.0 |= bit;
        if repeated { Err(Reason::DuplicateTlv) } else { Ok(()) }
    }
}

//! Which TLVs go on, and their values.

use super::{Facts, Kinds, Preset, Tlv, kind};
use crate::proxy::{Header, Ssl};

/// `forward_tlvs`: which TLVs are passed on from a trusted header, or made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ForwardTlvs(u8);

impl ForwardTlvs {
    /// No TLVs.
    pub const NONE: ForwardTlvs = ForwardTlvs(0);
    /// What is known of the client's TLS.
    pub const SSL: ForwardTlvs = ForwardTlvs(1);
    /// The name that the client asked for.
    pub const AUTHORITY: ForwardTlvs = ForwardTlvs(2);
    /// The protocol that was agreed on by TLS.
    pub const ALPN: ForwardTlvs = ForwardTlvs(4);
    /// The session's id: the header's own, else ours.
    pub const UNIQUE_ID: ForwardTlvs = ForwardTlvs(8);
    /// The types 0xE0 to 0xEF.
    pub const VENDOR: ForwardTlvs = ForwardTlvs(16);
    /// A checksum of the header.
    pub const CRC32C: ForwardTlvs = ForwardTlvs(32);
    /// All of them.
    pub const ALL: ForwardTlvs = ForwardTlvs(63);

    /// The words of the setting.
    pub const WORDS: [(ForwardTlvs, &str); 8] = [
        (ForwardTlvs::SSL, "ssl"),
        (ForwardTlvs::AUTHORITY, "authority"),
        (ForwardTlvs::ALPN, "alpn"),
        (ForwardTlvs::UNIQUE_ID, "unique-id"),
        (ForwardTlvs::VENDOR, "vendor"),
        (ForwardTlvs::CRC32C, "crc32c"),
        (ForwardTlvs::NONE, "none"),
        (ForwardTlvs::ALL, "all"),
    ];

    /// Reads words between spaces or commas.
    ///
    /// # Errors
    /// The word that is none of [`ForwardTlvs::WORDS`], or that stands beside `none`; empty where there are none.
    pub fn parse(text: &str) -> Result<ForwardTlvs, &str> {
        let words = || text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let mut all = ForwardTlvs::NONE;
        for word in words() {
            let known = ForwardTlvs::WORDS.iter().find(|(_, name)| *name == word).ok_or(word)?;
            all = all.and(known.0);
        }
        let empty = words().next().is_none();
        let contradicts = words().any(|word| word == "none") && all != ForwardTlvs::NONE;
        if empty || contradicts { Err(if empty { "" } else { "none" }) } else { Ok(all) }
    }

    /// The words of these, one a kind: of none `none`.
    pub fn words(self) -> String {
        let single = |tlvs: ForwardTlvs| tlvs.0.is_power_of_two() && self.has(tlvs);
        let words: Vec<&str> =
            ForwardTlvs::WORDS.iter().filter(|(tlvs, _)| single(*tlvs)).map(|(_, word)| *word).collect();
        if words.is_empty() { "none".into() } else { words.join(" ") }
    }

    /// Both.
    pub const fn and(self, other: ForwardTlvs) -> ForwardTlvs {
        ForwardTlvs(self.0 | other.0)
    }

    /// These without those.
    pub const fn without(self, other: ForwardTlvs) -> ForwardTlvs {
        ForwardTlvs(self.0 & !other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn has(self, other: ForwardTlvs) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Most vendor TLVs that are passed on; further ones give way.
pub const VENDOR_TLVS_MAX: usize = 16;
/// Bytes for an SSL value of our own making.
pub(super) const SCRATCH: usize = 2048;
pub(super) type Scratch = [u8; SCRATCH];

const TLVS_MAX: usize = 4 + VENDOR_TLVS_MAX;
/// `client` and `verify` in front of SSL's own TLVs.
const SSL_FIXED: usize = 5;
/// PP2_CLIENT_SSL.
const ENCRYPTED: u8 = 1;
/// PP2_CLIENT_CERT_CONN and PP2_CLIENT_CERT_SESS.
const CERTIFICATE: u8 = 6;
/// What an SSL value holds that does not say who the client is, in the order in which it is put.
const DESCRIBES: [u8; 7] = [
    kind::SSL_VERSION,
    kind::SSL_CIPHER,
    kind::SSL_SIG_ALG,
    kind::SSL_KEY_ALG,
    kind::SSL_GROUP,
    kind::SSL_SIG_SCHEME,
    kind::SSL_CLIENT_CERT,
];

/// The TLVs of one header. The encoder puts them in their order.
pub(super) struct Chosen<'a> {
    tlvs: [Tlv<'a>; TLVS_MAX],
    count: usize,
    gave_way: Kinds,
}

impl<'a> Chosen<'a> {
    pub(super) fn new(
        which: ForwardTlvs,
        preset: &Preset,
        facts: &'a Facts<'a>,
        scratch: &'a mut Scratch,
    ) -> Chosen<'a> {
        let none = Tlv { kind: kind::NOOP, value: &[] };
        let mut chosen = Chosen { tlvs: [none; TLVS_MAX], count: 0, gave_way: Kinds::default() };
        if which.has(ForwardTlvs::SSL) {
            chosen.add_ssl(preset, facts, scratch);
        }
        if which.has(ForwardTlvs::UNIQUE_ID) {
            chosen.add_unique_id(facts);
        }
        if which.has(ForwardTlvs::AUTHORITY) {
            chosen.add_authority(preset, facts);
        }
        if which.has(ForwardTlvs::ALPN) {
            let alpn = facts.tls.and_then(|tls| tls.alpn);
            chosen.add(kind::ALPN, alpn.or_else(|| facts.header.and_then(|header| header.alpn())));
        }
        if which.has(ForwardTlvs::VENDOR) {
            chosen.add_vendors(facts.header);
        }
        chosen
    }

    pub(super) fn tlvs(&self) -> &[Tlv<'a>] {
        self.tlvs.get(..self.count).unwrap_or_default()
    }

    pub(super) fn gave_way(&self) -> Kinds {
        self.gave_way
    }

    /// Leaves out what [`Encoder::fit`](crate::proxy::Encoder::fit) keeps to the last: SSL, since a session without it
    /// is served with fewer rights, and one without a header is not served at all. Whether there was any.
    pub(super) fn shorten(&mut self) -> bool {
        let Some(at) = self.tlvs().iter().position(|tlv| tlv.kind == kind::SSL) else { return false };
        self.tlvs.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.gave_way.add(kind::SSL);
        true
    }

    fn add(&mut self, kind: u8, value: Option<&'a [u8]>) {
        let Some(value) = value else { return };
        match self.tlvs.get_mut(self.count) {
            Some(place) => {
                *place = Tlv { kind, value };
                self.count += 1;
            }
            None => self.gave_way.add(kind),
        }
    }

    /// A session without an id of the balancer's has ours.
    fn add_unique_id(&mut self, facts: &'a Facts<'a>) {
        let received = facts.header.and_then(|header| header.unique_id());
        self.add(kind::UNIQUE_ID, Some(received.unwrap_or(facts.session.as_str().as_bytes())));
    }

    fn add_authority(&mut self, preset: &Preset, facts: &'a Facts<'a>) {
        let asked = facts.tls.and_then(|tls| tls.server_name).map(str::as_bytes);
        let received = facts.header.and_then(|header| header.authority_raw());
        let is_name = facts.header.and_then(|header| header.authority()).is_some();
        match (asked, received) {
            (Some(_), _) => self.add(kind::AUTHORITY, asked),
            // Dovecot 2.4 closes on anything else.
            (None, Some(_)) if preset.strict && !is_name => self.gave_way.add(kind::AUTHORITY),
            (None, _) => self.add(kind::AUTHORITY, received),
        }
    }

    fn add_vendors(&mut self, header: Option<Header<'a>>) {
        let all = header.map(|header| header.tlvs()).into_iter().flatten();
        for tlv in all.filter(|tlv| (kind::GCP_PSC_CONNECTION_ID..=0xef).contains(&tlv.kind)) {
            self.add(tlv.kind, Some(tlv.value));
        }
    }

    /// TLS that ended here, else what the balancer says of the client's.
    fn add_ssl(&mut self, preset: &Preset, facts: &'a Facts<'a>, scratch: &'a mut Scratch) {
        let received = facts.header.and_then(|header| Some((header.tlv(kind::SSL)?, header.ssl()?)));
        match (facts.tls, received) {
            (Some(tls), _) => {
                let name = tls.client_name.filter(|name| !name.is_empty());
                let parts = [(kind::SSL_VERSION, tls.version), (kind::SSL_CIPHER, tls.cipher), (kind::SSL_CN, name)];
                let parts = parts.into_iter().filter_map(|(kind, text)| Some((kind, text?.as_bytes())));
                // A certificate that was shown has been verified, or there would be no session.
                let client = if tls.client_name.is_some() { ENCRYPTED | CERTIFICATE } else { ENCRYPTED };
                self.make_ssl([client, 0, 0, 0, 0], parts, scratch);
            }
            // Dovecot before 2.4.4 believes a common name whatever `verify` says.
            (None, Some((_, ssl))) if preset.strict && claims_a_name(&ssl) => {
                let [a, b, c, d] = ssl.verify().to_be_bytes();
                self.gave_way.add(kind::SSL_CN);
                let parts = DESCRIBES.into_iter().filter_map(|kind| Some((kind, ssl.tlv(kind)?)));
                self.make_ssl([ssl.client(), a, b, c, d], parts, scratch);
            }
            (None, received) => self.add(kind::SSL, received.map(|(value, _)| value)),
        }
    }

    fn make_ssl<'v>(
        &mut self,
        fixed: [u8; SSL_FIXED],
        parts: impl Iterator<Item = (u8, &'v [u8])>,
        scratch: &'a mut Scratch,
    ) {
        let mut length = SSL_FIXED;
        scratch[..SSL_FIXED].copy_from_slice(&fixed);
        for (kind, value) in parts {
            match put_tlv(scratch.get_mut(length..).unwrap_or_default(), kind, value) {
                Some(added) => length += added,
                None => self.gave_way.add(kind),
            }
        }
        self.add(kind::SSL, scratch.get(..length));
    }
}

/// A common name that nobody has verified.
fn claims_a_name(ssl: &Ssl<'_>) -> bool {
    ssl.tlv(kind::SSL_CN).is_some() && !ssl.certificate_verified()
}

/// Writes a TLV and returns its length; `None` if there is no room.
fn put_tlv(out: &mut [u8], kind: u8, value: &[u8]) -> Option<usize> {
    let length = 3 + value.len();
    let [high, low] = u16::try_from(value.len()).ok()?.to_be_bytes();
    let out = out.get_mut(..length)?;
    out[..3].copy_from_slice(&[kind, high, low]);
    out[3..].copy_from_slice(value);
    Some(length)
}

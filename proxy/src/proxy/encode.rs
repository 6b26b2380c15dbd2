//! The other way round: a header for the next receiver.
//!
//! An [`Encoder`] says what to send, [`Encoder::fit`] leaves out what the receiver could not take, and
//! [`Encoder::encode`] writes it into the caller's buffer. Nothing is allocated, and nothing comes out that
//! [`decode`](super::decode) would refuse.

use core::fmt::{self, Write};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::address::{Block, Pair};
use super::checksum::{self, CHECKSUM_LEN};
use super::error::Reason;
use super::header::{Command, Header, Version};
use super::tlv::{self, TLV_HEADER, Tlv, Tlvs, kind};
use super::{V2_FIXED, V2_LENGTH_MAX, V2_SIGNATURE};

/// A header to send.
///
/// TLVs go out in the order CRC32C, UNIQUE_ID, SSL, AUTHORITY, ALPN, then all others as given. Only version 2 PROXY
/// headers carry them: version 1 cannot, LOCAL stays at its 16 bytes, and a version 2 header that is sent
/// [again](Self::again) has its own. [`Encoder::dropped`] names what was asked for and is not sent.
///
/// ```
/// use vestibule_proxy::{Decoded, Encoder, Rules, decode};
///
/// let encoder = Encoder::proxy("198.51.100.7:5000".parse()?, "192.0.2.1:143".parse()?).checksum(true);
/// let mut buffer = [0; 64];
/// let length = encoder.encode(&mut buffer)?;
/// let Decoded::Complete(header) = decode(&buffer[..length], &Rules::default()) else { panic!("not complete") };
/// assert_eq!(header.source(), Some("198.51.100.7:5000".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    version: Version,
    content: Content<'a>,
    checksum: bool,
    received: Tlvs<'a>,
    /// Types of `received` that are passed on besides those of [`PASSED_ON`].
    vendors: &'a [u8],
    own: &'a [Tlv<'a>],
    limits: Limits,
    dropped: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    Local,
    Proxy(Block),
    /// A whole header.
    Verbatim(&'a [u8]),
}

/// What is passed on from a received header. Not so the checksum, which is made anew, padding, and the name of a
/// namespace that exists on the sender only.
// spec 2.2 MAY "generate the TLVs only for"
const PASSED_ON: [u8; 4] = [kind::UNIQUE_ID, kind::SSL, kind::AUTHORITY, kind::ALPN];

impl<'a> Encoder<'a> {
    /// Version 2, LOCAL, 16 bytes whatever else is asked for: the sender's own connection, such as a health check.
    /// Version 1 has no such thing.
    pub fn local() -> Encoder<'a> {
        Encoder::new(Content::Local)
    }

    /// Version 2, PROXY over a stream. Where the families differ the IPv4 side is sent IPv4-mapped.
    pub fn proxy(source: SocketAddr, destination: SocketAddr) -> Encoder<'a> {
        Encoder::new(Content::Proxy(block(source, destination)))
    }

    /// The same header again: version 2 byte for byte, version 1 in canonical form. For a relay see [`Encoder::relay`].
    pub fn again(header: &Header<'a>) -> Encoder<'a> {
        match (header.version(), header.head().ip()) {
            (Version::V2, _) => Encoder::new(Content::Verbatim(header.bytes())),
            (Version::V1, Some((source, destination))) => {
                Encoder { version: Version::V1, ..Encoder::proxy(source, destination) }
            }
            // spec 2.1 MUST "reported with the name UNKNOWN"
            // spec 2.1 MAY "rest of the line may be omitted"
            (Version::V1, None) => Encoder::new(Content::Verbatim(b"PROXY UNKNOWN\r\n")),
        }
    }

    /// What a relay sends on for a connection that came with `header` and counts as `source` to `destination`.
    ///
    /// LOCAL stays LOCAL. All else goes out as PROXY with these addresses: the header's own, or, where it has none that
    /// count, the socket's. UNIQUE_ID, SSL, AUTHORITY, ALPN and the types in `vendors` are passed on as received.
    pub fn relay(header: &Header<'a>, source: SocketAddr, destination: SocketAddr, vendors: &'a [u8]) -> Encoder<'a> {
        match header.command() {
            Command::Local => Encoder::local(),
            Command::Proxy => Encoder { received: header.tlvs(), vendors, ..Encoder::proxy(source, destination) },
        }
    }

    fn new(content: Content<'a>) -> Encoder<'a> {
        Encoder {
            version: Version::V2,
            content,
            checksum: false,
            received: Tlvs::default(),
            vendors: &[],
            own: &[],
            limits: Limits::NONE,
            dropped: 0,
        }
    }

    /// The version to send; 2 unless said otherwise. No effect on a version 2 header that is sent [again](Self::again).
    pub fn version(self, version: Version) -> Encoder<'a> {
        Encoder { version, ..self }
    }

    /// Whether to send a CRC32C of the header (7 bytes), where it [carries TLVs](Self).
    pub fn checksum(self, checksum: bool) -> Encoder<'a> {
        Encoder { checksum, ..self }
    }

    /// TLVs of our own, where the header [carries any](Self), behind those received of the same rank. CRC32C is not one
    /// of them: see [`Encoder::checksum`].
    pub fn tlvs(self, own: &'a [Tlv<'a>]) -> Encoder<'a> {
        Encoder { own, ..self }
    }

    /// Bytes that [`Encoder::encode`] will write.
    pub fn encoded_len(&self) -> usize {
        let mut count = Count(0);
        match self.write(&mut count) {
            Ok(()) | Err(Full) => count.0,
        }
    }

    /// Writes the header to the start of `out` and returns its length.
    ///
    /// Send it in one piece, together with the first payload where there is some: many receivers refuse a header that
    /// arrives in two.
    ///
    /// # Errors
    /// See [`EncodeError`]; `out` may have been written to.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let length = self.encoded_len();
        if self.version == Version::V1 && matches!(self.content, Content::Local) {
            return Err(EncodeError::LocalNeedsV2);
        }
        if let Some(length) = self.ssl_too_long() {
            return Err(EncodeError::SslTooLong { length, limit: self.limits.value });
        }
        let limit = self.limits.total.min(V2_LENGTH_MAX);
        if length > limit {
            return Err(EncodeError::TooLong { length, limit });
        }
        let out = out.get_mut(..length).ok_or(EncodeError::BufferTooSmall { needed: length })?;
        let mut rest = &mut *out;
        self.write(&mut Fill(&mut rest)).map_err(|Full| EncodeError::BufferTooSmall { needed: length })?;
        if self.carries_tlvs()
            && let Content::Proxy(block) = &self.content
        {
            self.finish(out, V2_FIXED + block_len(block))?;
        }
        Ok(length)
    }

    /// Judges the TLVs, which start at `chain_at`, as our decoder would, and puts the checksum in its place.
    fn finish(&self, out: &mut [u8], chain_at: usize) -> Result<(), EncodeError> {
        if self.items().any(|tlv| tlv.kind == kind::CRC32C) {
            return Err(EncodeError::ChecksumAsTlv);
        }
        tlv::judge(out.get(chain_at..).unwrap_or_default()).map_err(EncodeError::Refused)?;
        if self.checksum {
            let at = chain_at + TLV_HEADER;
            // spec 2.2.3 MUST "calculate the CRC32c checksum"
            if let Some(crc) = checksum::compute(out, at)
                && let Some(place) = out.get_mut(at..at + CHECKSUM_LEN)
            {
                // spec 2.2.3 MUST "put the resultant value"
                place.copy_from_slice(&crc.to_be_bytes());
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Sink) -> Result<(), Full> {
        match (&self.content, self.version) {
            (Content::Verbatim(bytes), _) => out.put(bytes),
            (Content::Proxy(block), Version::V1) => write_line(out, block),
            (Content::Proxy(block), Version::V2) => self.write_proxy(out, block),
            // spec 2.2 SHOULD "family UNSPEC when sending LOCAL"
            // spec 2.2 SHOULD "transport UNSPEC when sending LOCAL"
            // spec 2.2 SHOULD "byte 00 when sending LOCAL"
            // spec 2.2 SHOULD NOT "LOCAL should not present any address"
            (Content::Local, _) => write_fixed(out, 0x20, 0x00, 0),
        }
    }

    fn write_proxy(&self, out: &mut impl Sink, block: &Block) -> Result<(), Full> {
        let mut chain = Count(0);
        self.write_chain(&mut chain)?;
        // spec 2.2 MUST "always be sent as version 2"
        // spec 2.2 MUST NOT "other commands emitted by senders"
        write_fixed(out, 0x21, block.fam(), block_len(block) + chain.0)?;
        for part in block.parts() {
            out.put(part)?;
        }
        self.write_chain(out)
    }

    fn write_chain(&self, out: &mut impl Sink) -> Result<(), Full> {
        if self.checksum {
            // spec 2.2.3 MUST "initialize the checksum field"
            write_tlv(out, kind::CRC32C, &[0; CHECKSUM_LEN])?;
        }
        for rank in 0..=OTHER_RANK {
            for tlv in self.items().filter(|tlv| self.keeps(tlv) && rank_of(tlv.kind) == rank) {
                match tlv.kind {
                    kind::SSL => self.write_ssl(out, tlv.value)?,
                    _ => write_tlv(out, tlv.kind, tlv.value)?,
                }
            }
        }
        Ok(())
    }

    fn write_ssl(&self, out: &mut impl Sink, value: &[u8]) -> Result<(), Full> {
        let Some((fixed, items)) = self.shortened(value) else { return write_tlv(out, kind::SSL, value) };
        write_tlv_header(out, kind::SSL, self.ssl_len(value))?;
        out.put(fixed)?;
        for item in items.filter(|item| self.keeps_in_ssl(item)) {
            write_tlv(out, item.kind, item.value)?;
        }
        Ok(())
    }

    /// The parts of an SSL value from which something may be left out; `None` if it is to go out as it is, also where
    /// it is malformed: that is for [`Encoder::encode`] to refuse.
    fn shortened<'v>(&self, value: &'v [u8]) -> Option<(&'v [u8], Tlvs<'v>)> {
        let (fixed, chain) = value.split_at_checked(tlv::SSL_FIXED)?;
        (self.dropped > 0 && tlv::is_exact(chain)).then(|| (fixed, Tlvs::over(chain)))
    }

    fn ssl_len(&self, value: &[u8]) -> usize {
        self.shortened(value).map_or(value.len(), |(fixed, items)| {
            let kept = items.filter(|item| self.keeps_in_ssl(item));
            fixed.len() + kept.map(|item| TLV_HEADER + item.value.len()).sum::<usize>()
        })
    }

    fn carries_tlvs(&self) -> bool {
        self.version == Version::V2 && matches!(self.content, Content::Proxy(_))
    }

    /// All TLVs that should be sent if there is room.
    fn items(&self) -> impl Iterator<Item = Tlv<'a>> + use<'a> {
        let vendors = self.vendors;
        let passed_on = move |tlv: &Tlv<'a>| PASSED_ON.contains(&tlv.kind) || vendors.contains(&tlv.kind);
        self.received.filter(passed_on).chain(self.own.iter().copied())
    }
}

/// Position in the order of TLVs.
fn rank_of(kind: u8) -> usize {
    PASSED_ON.iter().position(|&passed_on| passed_on == kind).unwrap_or(OTHER_RANK)
}

const OTHER_RANK: usize = PASSED_ON.len();

/// What a receiver can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whole header in bytes.
    pub total: usize,
    /// Value of one TLV in bytes.
    pub value: usize,
    /// Value of AUTHORITY in bytes.
    pub authority: usize,
}

impl Limits {
    /// The protocol's own.
    pub const NONE: Limits = Limits::total(V2_LENGTH_MAX);
    /// A receiver that nothing is known of: what fits the segment that every host must take (RFC 1122: 536 bytes).
    pub const UNKNOWN: Limits = Limits::total(536);
    /// Dovecot.
    pub const DOVECOT: Limits = Limits::total(1500);
    /// Postfix.
    pub const POSTFIX: Limits = Limits::total(536);
    /// Exim.
    pub const EXIM: Limits = Limits::total(232);
    /// Cyrus IMAP.
    pub const CYRUS: Limits = Limits::total(232);
    /// nginx.
    pub const NGINX: Limits = Limits::total(4096);
    /// The Go library go-proxyproto: a length field of at most 4096.
    pub const GO_PROXYPROTO: Limits = Limits::total(4112);
    /// HAProxy with its default buffers.
    pub const HAPROXY: Limits = Limits { total: 16384, value: 1024, authority: 255 };
    /// Apache Traffic Server with its default setting.
    pub const TRAFFIC_SERVER: Limits = Limits::total(109);
    /// Envoy, netty, Stalwart.
    pub const ENVOY: Limits = Limits::NONE;

    const fn total(total: usize) -> Limits {
        Limits { total, value: usize::MAX, authority: usize::MAX }
    }
}

/// How many classes of TLVs were given up, in the order of [`stage_in_ssl`] and [`stage`].
type Stage = u8;
const LAST_STAGE_IN_SSL: Stage = 6;
const LAST_STAGE: Stage = 10;
const NEVER: Stage = LAST_STAGE + 1;

/// When an item inside SSL is given up: the client's certificate first, which is large, then what only describes the
/// session. Version and common name stay.
fn stage_in_ssl(kind: u8) -> Stage {
    match kind {
        kind::SSL_VERSION | kind::SSL_CN => NEVER,
        kind::SSL_SIG_SCHEME => 2,
        kind::SSL_GROUP => 3,
        kind::SSL_KEY_ALG => 4,
        kind::SSL_SIG_ALG => 5,
        kind::SSL_CIPHER => LAST_STAGE_IN_SSL,
        _ => 1,
    }
}

/// When a TLV is given up.
fn stage(kind: u8) -> Stage {
    match kind {
        kind::SSL => NEVER,
        kind::UNIQUE_ID => LAST_STAGE,
        kind::AUTHORITY => 9,
        kind::ALPN => 8,
        _ => 7,
    }
}

impl<'a> Encoder<'a> {
    /// Leaves out TLVs until the receiver can take the header: SSL's CLIENT_CERT, SIG_SCHEME, GROUP, KEY_ALG, SIG_ALG
    /// and CIPHER, then vendor types, ALPN, AUTHORITY, UNIQUE_ID. [`Encoder::dropped`] tells which.
    ///
    /// What still does not fit makes [`Encoder::encode`] fail.
    pub fn fit(self, limits: Limits) -> Encoder<'a> {
        let mut fitted = Encoder { limits, dropped: 0, ..self };
        // Only what is inside SSL makes SSL shorter.
        while fitted.dropped < LAST_STAGE_IN_SSL && fitted.ssl_too_long().is_some() {
            fitted.dropped += 1;
        }
        while fitted.dropped < LAST_STAGE && fitted.encoded_len() > limits.total {
            fitted.dropped += 1;
        }
        fitted
    }

    /// Types of the TLVs that were asked for and are left out, inside SSL too; the checksum's where the header does not
    /// [carry TLVs](Self).
    pub fn dropped(&self) -> impl Iterator<Item = u8> + use<'_, 'a> {
        let checksum = (self.checksum && !self.carries_tlvs()).then_some(kind::CRC32C);
        checksum.into_iter().chain(self.items().flat_map(|tlv| {
            let gone = !self.keeps(&tlv);
            let inner = self.shortened(tlv.value).filter(|_| tlv.kind == kind::SSL && !gone);
            let inner = inner.map(|(_, items)| items).into_iter().flatten();
            let inner = inner.filter(|item| !self.keeps_in_ssl(item)).map(|item| item.kind);
            gone.then_some(tlv.kind).into_iter().chain(inner)
        }))
    }

    /// Length of an SSL value that is to be sent and longer than the receiver can take.
    fn ssl_too_long(&self) -> Option<usize> {
        let sent = self.items().filter(|tlv| tlv.kind == kind::SSL && self.keeps(tlv));
        sent.map(|tlv| self.ssl_len(tlv.value)).find(|&length| length > self.limits.value)
    }

    fn keeps(&self, tlv: &Tlv<'_>) -> bool {
        let value_max = match tlv.kind {
            kind::SSL => usize::MAX, // can be shortened
            kind::AUTHORITY => self.limits.value.min(self.limits.authority),
            _ => self.limits.value,
        };
        self.carries_tlvs() && stage(tlv.kind) > self.dropped && tlv.value.len() <= value_max
    }

    fn keeps_in_ssl(&self, item: &Tlv<'_>) -> bool {
        stage_in_ssl(item.kind) > self.dropped
    }
}

/// Why a header cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The buffer is shorter than the header.
    BufferTooSmall {
        /// Length of the header in bytes.
        needed: usize,
    },
    /// Longer than the receiver can take, even without all that may be left out.
    TooLong {
        /// Length of the header in bytes.
        length: usize,
        /// What the receiver can take.
        limit: usize,
    },
    /// The SSL TLV's value is longer than the receiver can take, even without all that may be left out of it.
    SslTooLong {
        /// Length of the value in bytes.
        length: usize,
        /// What the receiver can take.
        limit: usize,
    },
    /// Version 1 has no LOCAL: send a line with the addresses of the socket.
    LocalNeedsV2,
    /// A checksum cannot be given as a TLV; [`Encoder::checksum`] makes it.
    ChecksumAsTlv,
    /// Our own decoder would refuse these TLVs.
    Refused(Reason),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::BufferTooSmall { needed } => write!(f, "the header needs a buffer of {needed} bytes"),
            EncodeError::TooLong { length, limit } => {
                write!(f, "the header has {length} bytes, the receiver takes {limit}: send fewer or shorter TLVs")
            }
            EncodeError::SslTooLong { length, limit } => {
                write!(
                    f,
                    "the SSL TLV's value has {length} bytes, the receiver takes {limit}: send a shorter common name"
                )
            }
            EncodeError::LocalNeedsV2 => f.write_str("version 1 has no LOCAL: use version 2, or give addresses"),
            EncodeError::ChecksumAsTlv => f.write_str("a CRC32C TLV cannot be given, only asked for"),
            EncodeError::Refused(reason) => write!(f, "no receiver should accept these TLVs: {reason}"),
        }
    }
}

impl core::error::Error for EncodeError {}

fn block(source: SocketAddr, destination: SocketAddr) -> Block {
    let ports = [source.port(), destination.port()];
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Block::Inet(Pair::new(from.octets(), to.octets(), ports)),
        (from, to) => Block::Inet6(Pair::new(mapped(from).octets(), mapped(to).octets(), ports)),
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn block_len(block: &Block) -> usize {
    block.parts().iter().map(|part| part.len()).sum()
}

/// core writes IPv6 addresses as RFC 5952 wants them, mapped ones with a dotted quad.
fn write_line(out: &mut impl Sink, block: &Block) -> Result<(), Full> {
    let Some((source, destination)) = block.sockets() else { return Ok(()) };
    let keyword = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let ports = (source.port(), destination.port());
    write!(Text(out), "PROXY {keyword} {} {} {} {}\r\n", source.ip(), destination.ip(), ports.0, ports.1)
        .map_err(|fmt::Error| Full)
}

/// `length` counts what follows. One that does not fit the field makes a header over every limit.
fn write_fixed(out: &mut impl Sink, ver_cmd: u8, fam: u8, length: usize) -> Result<(), Full> {
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    out.put(V2_SIGNATURE)?;
    out.put(&[ver_cmd, fam, high, low])
}

fn write_tlv(out: &mut impl Sink, kind: u8, value: &[u8]) -> Result<(), Full> {
    write_tlv_header(out, kind, value.len())?;
    out.put(value)
}

/// A `length` that does not fit the field makes a header over every limit.
fn write_tlv_header(out: &mut impl Sink, kind: u8, length: usize) -> Result<(), Full> {
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    out.put(&[kind, high, low])
}

/// Where bytes go: into a buffer, or only into a count, so that the length has no second source.
trait Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full>;
}

/// The buffer has no room left.
struct Full;

struct Count(usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(())
    }
}

/// Fills the slice from its start; the slice becomes what is left.
struct Fill<'s, 'o>(&'s mut &'o mut [u8]);

impl Sink for Fill<'_, '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let (to, rest) = core::mem::take(self.0).split_at_mut_checked(bytes.len()).ok_or(Full)?;
        to.copy_from_slice(bytes);
        *self.0 = rest;
        Ok(())
    }
}

struct Text<'s, S>(&'s mut S);

impl<S: Sink> Write for Text<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.put(text.as_bytes()).map_err(|Full| fmt::Error)
    }
}

#[cfg(test)]
mod tests;

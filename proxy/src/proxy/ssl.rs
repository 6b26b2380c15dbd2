//! The SSL TLV: what the proxy knows of the client's TLS session. Specification, section 2.2.6.

use core::str;

use super::error::Reason;
use super::tlv::{SSL_FIXED, Seen, Tlvs, kind, split};

/// `client` bit: the client connected over TLS.
const CLIENT_SSL: u8 = 0x01;
/// `client` bit: a certificate was presented on this connection.
const CLIENT_CERT_CONN: u8 = 0x02;
/// `client` bit: a certificate was presented on this TLS session.
const CLIENT_CERT_SESS: u8 = 0x04;

/// The SSL TLV. Its presence alone does not mean TLS: ask [`Ssl::tls`].
#[derive(Clone, Copy, Debug)]
pub struct Ssl<'a> {
    client: u8,
    verify: u32,
    tlvs: Tlvs<'a>,
}

impl<'a> Ssl<'a> {
    pub(super) fn read(value: &'a [u8]) -> Option<Ssl<'a>> {
        let (&[client, a, b, c, d], chain) = value.split_first_chunk()?;
        Some(Ssl { client, verify: u32::from_be_bytes([a, b, c, d]), tlvs: Tlvs::over(chain) })
    }

    /// The `client` bit field as sent.
    pub fn client(&self) -> u8 {
        self.client
    }

    /// The `verify` field as sent: 0 means that a certificate was verified, but only where one was presented.
    pub fn verify(&self) -> u32 {
        self.verify
    }

    /// Whether the client came over TLS.
    pub fn tls(&self) -> bool {
        self.client & CLIENT_SSL != 0
    }

    /// Whether the client presented a certificate, on this connection or earlier in the TLS session.
    pub fn certificate_presented(&self) -> bool {
        self.tls() && self.client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0
    }

    /// Whether the client presented a certificate and the proxy verified it.
    pub fn certificate_verified(&self) -> bool {
        self.certificate_presented() && self.verify == 0
    }

    /// The common name of a certificate that was verified: the only form in which it is an identity.
    pub fn verified_common_name(&self) -> Option<&'a str> {
        if !self.certificate_verified() {
            return None;
        }
        str::from_utf8(self.tlv(kind::SSL_CN)?).ok()
    }

    /// TLS version, such as `TLSv1.3`.
    pub fn version(&self) -> Option<&'a str> {
        self.ascii(kind::SSL_VERSION)
    }

    /// Cipher suite, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub fn cipher(&self) -> Option<&'a str> {
        self.ascii(kind::SSL_CIPHER)
    }

    /// Signature algorithm of the frontend's certificate, such as `RSA-SHA256`.
    pub fn signature_algorithm(&self) -> Option<&'a str> {
        self.ascii(kind::SSL_SIG_ALG)
    }

    /// Key algorithm of the frontend's certificate, such as `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&'a str> {
        self.ascii(kind::SSL_KEY_ALG)
    }

    /// Key exchange group, such as `secp256r1`.
    pub fn group(&self) -> Option<&'a str> {
        self.ascii(kind::SSL_GROUP)
    }

    /// Scheme of the frontend's handshake signature, such as `rsa_pss_rsae_sha256`.
    pub fn signature_scheme(&self) -> Option<&'a str> {
        self.ascii(kind::SSL_SIG_SCHEME)
    }

    /// The client's certificate in DER. Nothing in it was checked here.
    pub fn client_certificate(&self) -> Option<&'a [u8]> {
        self.tlv(kind::SSL_CLIENT_CERT)
    }

    /// The value of the first item of this type, as sent.
    pub fn tlv(&self, kind: u8) -> Option<&'a [u8]> {
        self.tlvs.value_of(kind)
    }

    /// All items in wire order. What they contain is opaque: there is no third level.
    pub fn tlvs(&self) -> Tlvs<'a> {
        self.tlvs
    }

    /// A name in printable ASCII without spaces, as all the protocol's own names are; anything else is no name.
    fn ascii(&self, kind: u8) -> Option<&'a str> {
        let name = self.tlv(kind)?;
        if !name.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        str::from_utf8(name).ok()
    }
}

/// Types that may occur once inside SSL, as bits: 0x21 to 0x28.
const ONCE: u64 = (1 << (kind::SSL_CLIENT_CERT + 1)) - (1 << kind::SSL_VERSION);

/// Judges the value of an SSL TLV: at least the fixed part, then an exact chain without repeated defined types.
pub(super) fn judge(value: &[u8]) -> Result<(), Reason> {
    let (_fixed, mut rest) = value.split_first_chunk::<SSL_FIXED>().ok_or(Reason::BadTlv)?;
    let mut seen = Seen::default();
    while !rest.is_empty() {
        let (tlv, after) = split(rest).ok_or(Reason::TlvTruncated)?;
        rest = after;
        seen.once(tlv.kind, ONCE)?;
    }
    Ok(())
}

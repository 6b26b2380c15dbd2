//! The id of a session, in the form of Dovecot's own `session=`: who, from which port, since when, in 16 or 32
//! characters. Nothing has to be sent for a log line of Dovecot to be found again: both ids name the same client,
//! port and time.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::net::canonical_socket;

/// Longest id in characters: that of an IPv6 client. IPv4: 16.
pub const SESSION_ID_MAX: usize = 32;

/// Base64's alphabet (RFC 4648, section 4).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bytes of the time: little-endian microseconds since 1970, the low 48 bits.
const TIME_LEN: usize = 6;
const TIME_MASK: u64 = (1 << (8 * TIME_LEN)) - 1;
/// Bytes before the address: the time and the port, little-endian.
const FIXED: usize = TIME_LEN + 2;
const RAW_MAX: usize = FIXED + 16;

/// A session's id: base64 without padding, since 12 and 24 bytes need none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    text: [u8; SESSION_ID_MAX],
    length: u8,
}

impl SessionId {
    /// The id of the session that `client` began `unix_micros` microseconds after 1970. An IPv4 client in IPv6
    /// clothing has the id of the IPv4 one.
    pub fn new(unix_micros: u64, client: SocketAddr) -> SessionId {
        let client = canonical_socket(client);
        let mut raw = [0; RAW_MAX];
        raw[..8].copy_from_slice(&unix_micros.to_le_bytes());
        raw[TIME_LEN..FIXED].copy_from_slice(&client.port().to_le_bytes());
        match client.ip() {
            IpAddr::V4(address) => {
                raw[FIXED..FIXED + 4].copy_from_slice(&address.octets());
                SessionId::encode(&raw[..FIXED + 4])
            }
            IpAddr::V6(address) => {
                raw[FIXED..].copy_from_slice(&address.octets());
                SessionId::encode(&raw)
            }
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }

    /// Reads an id of ours or of Dovecot's: the low 48 bits of the time (see [`SessionId::time`]) and the client. What
    /// LMTP appends behind a colon is ignored. `None`: it is no such id.
    pub fn decode(text: &str) -> Option<(u64, SocketAddr)> {
        let text = text.split_once(':').map_or(text, |(id, _)| id);
        let (raw, length) = decode_base64(text.as_bytes())?;
        let ip: IpAddr = match *raw.get(FIXED..length)? {
            [a, b, c, d] => [a, b, c, d].into(),
            ref octets => <[u8; 16]>::try_from(octets).ok()?.into(),
        };
        let mut time = [0; 8];
        time[..TIME_LEN].copy_from_slice(&raw[..TIME_LEN]);
        let port = u16::from_le_bytes([raw[TIME_LEN], raw[TIME_LEN + 1]]);
        Some((u64::from_le_bytes(time), canonical_socket(SocketAddr::new(ip, port))))
    }

    /// The latest time not after `now` of which an id holds the low 48 bits, both in microseconds since 1970: 48 bits
    /// last for almost nine years.
    pub fn time(low: u64, now: u64) -> u64 {
        now.saturating_sub(now.wrapping_sub(low) & TIME_MASK)
    }

    /// `raw` has 12 or 24 bytes.
    fn encode(raw: &[u8]) -> SessionId {
        let mut id = SessionId { text: [0; SESSION_ID_MAX], length: 0 };
        for (bytes, quad) in raw.as_chunks::<3>().0.iter().zip(id.text.as_chunks_mut::<4>().0) {
            let [a, b, c] = bytes.map(u32::from);
            let bits = a << 16 | b << 8 | c;
            *quad = [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
            id.length += 4;
        }
        id
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.as_str())
    }
}

/// The bytes that unpadded base64 of whole groups stands for, at most those of an id.
fn decode_base64(text: &[u8]) -> Option<([u8; RAW_MAX], usize)> {
    let (quads, rest) = text.as_chunks::<4>();
    if !rest.is_empty() || text.len() > SESSION_ID_MAX {
        return None;
    }
    let mut raw = [0; RAW_MAX];
    for (quad, bytes) in quads.iter().zip(raw.as_chunks_mut::<3>().0) {
        let mut bits = 0u32;
        for character in quad {
            bits = bits << 6 | ALPHABET.iter().position(|known| known == character)? as u32;
        }
        let [_, a, b, c] = bits.to_be_bytes();
        *bytes = [a, b, c];
    }
    Some((raw, quads.len() * 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn dovecots_ids_are_read() {
        let (_, client) = SessionId::decode("N3eB81dhiBPGM2QH").expect("an id of Dovecot 2.3");
        assert_eq!(client, address("198.51.100.7:5000"));
        let (_, client) = SessionId::decode("w2kv+FdhL50gAQ24AAAAAAAAAAAAAAAH").expect("an id of Dovecot 2.3");
        assert_eq!(client, address("[2001:db8::7]:40239"));
        assert_eq!(
            SessionId::decode("N3eB81dhiBPGM2QH:P1").map(|(_, client)| client),
            Some(address("198.51.100.7:5000"))
        );
    }

    #[test]
    fn what_is_made_can_be_read_and_is_what_dovecot_would_make() {
        let micros = 1_795_000_000_123_456;
        for client in ["198.51.100.7:5000", "[2001:db8::7]:40239", "0.0.0.0:0", "[::]:65535"].map(address) {
            let id = SessionId::new(micros, client);
            let (low, read) = SessionId::decode(id.as_str()).expect("our own");
            assert_eq!((SessionId::time(low, micros + 5), read), (micros, client));
            assert_eq!(id.to_string().len(), if client.is_ipv4() { 16 } else { SESSION_ID_MAX });
        }
        let (low, client) = SessionId::decode("N3eB81dhiBPGM2QH").expect("Dovecot's");
        assert_eq!(SessionId::new(low, client).as_str(), "N3eB81dhiBPGM2QH");
    }

    #[test]
    fn a_mapped_client_has_the_id_of_the_ipv4_one() {
        assert_eq!(SessionId::new(7, address("[::ffff:192.0.2.1]:25")), SessionId::new(7, address("192.0.2.1:25")));
    }

    #[test]
    fn the_time_is_the_latest_that_fits() {
        let now = (5 << 48) + 100;
        assert_eq!(SessionId::time(100, now), now);
        assert_eq!(SessionId::time(99, now), now - 1);
        assert_eq!(SessionId::time(101, now), now - (1 << 48) + 1);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let none =
            ["", "N3eB81dhiBPGM2Q", "N3eB81dhiBPGM2Q=", "N3eB81dhiBPGM2QHAAAA", "N3eB81dh iBPGM2Q", ":P1", "N3eB"];
        for text in none.into_iter().chain(["w2kv+FdhL50gAQ24AAAAAAAAAAAAAAAHAAAA"]) {
            assert_eq!(SessionId::decode(text), None, "{text:?}");
        }
    }
}

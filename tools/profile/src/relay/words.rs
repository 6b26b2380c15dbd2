//! What client and backend say to each other: a few words of IMAP, and a pattern in which nothing can be lost, doubled or
//! swapped unseen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The end of a session, from the client.
pub const LOGOUT: &[u8] = b"a0 LOGOUT\r\n";
/// The end of a session, from the backend, which then closes.
pub const BYE: &[u8] = b"* BYE Logging out\r\na0 OK Logout completed.\r\n";
/// A small command.
pub const NOOP: &[u8] = b"a1 NOOP\r\n";
/// Its answer.
pub const NOOP_DONE: &[u8] = b"a1 OK NOOP completed.\r\n";
/// Asks for so many bytes.
pub const FETCH: &str = "a2 FETCH ";
/// Stands behind them.
pub const FETCH_DONE: &[u8] = b"a2 OK FETCH completed.\r\n";
/// Where clients say that they have connected to.
pub const DESTINATION: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 143);

/// A prime, so that no power of two, and no buffer, is a period of the pattern.
const PERIOD: usize = 262_139;
const PATTERN_SEED: u64 = 11;

/// The client of session `number` among so many: addresses come in turn, and ports rise.
pub fn client(number: u64, clients: u32) -> SocketAddr {
    const FIRST: u32 = u32::from_be_bytes([10, 0, 0, 1]);
    const PORTS: u64 = 60_000;
    let clients = u64::from(clients.max(1));
    let address = Ipv4Addr::from(FIRST + (number % clients) as u32);
    SocketAddr::new(address.into(), 1024 + (number / clients % PORTS) as u16)
}

/// What a backend says to a client: it names the source of the header that it has got, so that a wrong header shows.
pub fn greeting(source: SocketAddr) -> Vec<u8> {
    format!(
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN] ready for {source}.\r\n"
    )
    .into_bytes()
}

/// Bytes in which a place can be told from others.
pub struct Pattern {
    /// Two periods, so that from any place one whole period can be read at once.
    bytes: Vec<u8>,
}

impl Pattern {
    /// The same one for everybody.
    pub fn new() -> Pattern {
        let mut random = fastrand::Rng::with_seed(PATTERN_SEED);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(PERIOD).collect();
        bytes.extend_from_within(..);
        Pattern { bytes }
    }

    /// At most `most` bytes from place `at`; not fewer unless that is more than a period.
    pub fn from(&self, at: u64, most: u64) -> &[u8] {
        let start = (at % PERIOD as u64) as usize;
        &self.bytes[start..start + most.min(PERIOD as u64) as usize]
    }

    /// Whether these bytes stand at place `at`.
    pub fn is_at(&self, mut at: u64, bytes: &[u8]) -> bool {
        bytes.chunks(PERIOD).all(|chunk| {
            let same = self.from(at, chunk.len() as u64) == chunk;
            at += chunk.len() as u64;
            same
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_doubled_and_a_swapped_piece_show() {
        let pattern = Pattern::new();
        let mut bytes = Vec::new();
        while bytes.len() < 3 * PERIOD {
            bytes.extend_from_slice(pattern.from(bytes.len() as u64, 10_000));
        }
        assert!(pattern.is_at(0, &bytes) && pattern.is_at(77, &bytes[77..]));
        let lost = [&bytes[..1000], &bytes[1001..]].concat();
        let doubled = [&bytes[..65_536], &bytes].concat();
        let swapped = [&bytes[4096..8192], &bytes[..4096]].concat();
        assert!([lost, doubled, swapped].iter().all(|wrong| !pattern.is_at(0, wrong)));
    }

    #[test]
    fn clients_are_as_many_as_asked_for() {
        let addresses: std::collections::HashSet<_> = (0..1000).map(|number| client(number, 200).ip()).collect();
        assert_eq!(addresses.len(), 200);
        assert_eq!(client(0, 200_000).to_string(), "10.0.0.1:1024");
        assert_eq!(client(200_000, 200_000).to_string(), "10.0.0.1:1025");
    }
}

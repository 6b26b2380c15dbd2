//! Who has come from outside of the trusted networks of late: whoever looks for a balancer that is missing there, or for
//! scanners, asks here. Other refusals do not push them out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::report::Named;
use crate::net::{Network, canonical_socket};
use crate::proxy::Diagnosis;

/// Networks and listeners that are remembered, those that came last.
pub const OUTSIDERS_MAX: usize = 256;
/// A host of IPv6 has a network of its own as a rule, and of IPv4 an address.
const PREFIX: [u8; 2] = [32, 64];

/// Peers that were turned away at a listener because no network of its trusts them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutsiderSeen {
    /// The listener's service.
    pub service: String,
    /// The listener.
    pub listener: String,
    /// Their network: an IPv4 address, or the first 64 bits of IPv6 addresses.
    pub network: Network,
    /// Who has connected last.
    pub peer: SocketAddr,
    /// How many connections there were since they are remembered, at least 1.
    pub count: u64,
    /// How long ago the first one came.
    pub first: Duration,
    /// How long ago the last one came.
    pub last: Duration,
    /// How what they sent first began, where it was looked at: of some, and never more than 16 bytes.
    pub bytes: Vec<u8>,
    /// What these look like, as the log's `diagnosis=`.
    pub diagnosis: Option<&'static str>,
    /// Cause and remedy.
    pub advice: Option<&'static str>,
}

/// The table, shared by all rings; only peers that are turned away come here.
#[derive(Debug, Default)]
pub(super) struct Outsiders(Mutex<HashMap<Key, Remembered>>);

/// The listener's row, and who it is.
type Key = (u32, Network);

#[derive(Debug)]
struct Remembered {
    peer: SocketAddr,
    bytes: Vec<u8>,
    diagnosis: Option<Diagnosis>,
    count: u64,
    first: Instant,
    last: Instant,
}

impl Outsiders {
    /// A peer was turned away at the listener in a row, so many times; what it had sent is known if `bytes` are not empty.
    pub fn note(
        &self,
        row: u32,
        peer: SocketAddr,
        (bytes, diagnosis): (&[u8], Option<Diagnosis>),
        times: u64,
        now: Instant,
    ) {
        let peer = canonical_socket(peer);
        let Some(network) = Network::new(peer.ip(), PREFIX[usize::from(peer.is_ipv6())]) else { return };
        let mut all = self.lock();
        if all.len() >= OUTSIDERS_MAX && !all.contains_key(&(row, network)) {
            forget_one(&mut all);
        }
        let newcomer = || Remembered { peer, bytes: Vec::new(), diagnosis: None, count: 0, first: now, last: now };
        let known = all.entry((row, network)).or_insert_with(newcomer);
        (known.peer, known.last) = (peer, now);
        known.count += times;
        if known.bytes.is_empty() {
            (known.bytes, known.diagnosis) = (bytes.to_vec(), diagnosis);
        }
    }

    /// Those that are remembered, who came last first.
    pub fn seen(&self, listeners: &[Named], now: Instant) -> Vec<OutsiderSeen> {
        let all = self.lock();
        let mut seen: Vec<OutsiderSeen> =
            all.iter().filter_map(|(key, known)| known.seen(*key, listeners, now)).collect();
        seen.sort_by_key(|one| one.last);
        seen
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Remembered>> {
        // A panic under the lock leaves at worst a wrong count.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room at the cost of who has not come for longest.
fn forget_one(all: &mut HashMap<Key, Remembered>) {
    let oldest = all.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| *key);
    oldest.and_then(|key| all.remove(&key));
}

impl Remembered {
    fn seen(&self, (row, network): Key, listeners: &[Named], now: Instant) -> Option<OutsiderSeen> {
        let Named { service, name } = listeners.get(row as usize)?.clone();
        Some(OutsiderSeen {
            service,
            listener: name,
            network,
            peer: self.peer,
            count: self.count,
            first: now.saturating_duration_since(self.first),
            last: now.saturating_duration_since(self.last),
            bytes: self.bytes.clone(),
            diagnosis: self.diagnosis.map(Diagnosis::code),
            advice: self.diagnosis.map(Diagnosis::advice),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Vec<Named> {
        ["imap", "pop3"].map(|name| Named { service: "login".into(), name: name.into() }).into()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn those_of_one_network_are_one_and_what_they_sent_first_is_kept() {
        let (outsiders, start) = (Outsiders::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        outsiders.note(0, address("[2001:db8::1]:1"), (b"", None), 1, start);
        outsiders.note(0, address("[2001:db8::2]:2"), (b"PROXY", Some(Diagnosis::HeaderFromUntrusted)), 1, after(1));
        outsiders.note(0, address("[2001:db8::3]:3"), (b"GET /", None), 1, after(2));
        outsiders.note(1, address("[::ffff:192.0.2.7]:4"), (b"", None), 1, after(3));
        outsiders.note(1, address("192.0.2.8:5"), (b"", None), 1, after(4));
        let seen = outsiders.seen(&named(), after(5));
        let of = |index: usize| (seen[index].network.to_string(), seen[index].listener.as_str(), seen[index].count);
        assert_eq!(
            [0, 1, 2].map(of),
            [
                ("192.0.2.8/32".to_owned(), "pop3", 1),
                ("192.0.2.7/32".to_owned(), "pop3", 1),
                ("2001:db8::/64".to_owned(), "imap", 3)
            ]
        );
        let last = &seen[2];
        assert_eq!((last.first, last.last), (Duration::from_secs(5), Duration::from_secs(3)));
        assert_eq!((&*last.bytes, last.peer), (&b"PROXY"[..], address("[2001:db8::3]:3")));
        assert_eq!(last.diagnosis, Some("header-from-untrusted"));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_not_come_for_longest() {
        let (outsiders, start) = (Outsiders::default(), Instant::now());
        for number in 0..=OUTSIDERS_MAX as u32 {
            let peer = (std::net::Ipv4Addr::from(number), 1).into();
            outsiders.note(0, peer, (b"", None), 1, start + Duration::from_millis(number.into()));
        }
        let seen = outsiders.seen(&named(), start + Duration::from_secs(1));
        assert_eq!(seen.len(), OUTSIDERS_MAX);
        assert!(seen.iter().all(|one| one.network.to_string() != "0.0.0.0/32"));
    }
}

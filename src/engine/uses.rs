//! How trusted networks are used: when a connection from each was let in last, and how many were. Each ring writes cells of
//! its own, by plain stores.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::Network;
use crate::stats::UNCOUNTED;

/// Networks of one listener whose uses are told apart; those of further ones are not counted.
pub const NETWORKS_TOLD_MAX: usize = 1024;

/// What one ring has let in of one network at one listener. Only the ring's thread writes.
#[derive(Debug)]
pub struct Use {
    /// Before the first of them.
    since: Instant,
    /// Seconds since then.
    last: AtomicU64,
    connections: AtomicU64,
}

impl Use {
    fn new() -> Use {
        Use { since: Instant::now(), last: AtomicU64::new(0), connections: AtomicU64::new(0) }
    }

    /// A connection was let in.
    pub fn note(&self, now: Instant) {
        if UNCOUNTED {
            return;
        }
        self.last.store(now.saturating_duration_since(self.since).as_secs(), Ordering::Relaxed);
        // Whoever sees the count sees that time, or a later one.
        self.connections.store(self.connections.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// How many were, and when the last one was, to the second; `None`: none.
    fn read(&self) -> Option<(u64, Instant)> {
        let connections = self.connections.load(Ordering::Acquire);
        let last = self.since + Duration::from_secs(self.last.load(Ordering::Relaxed));
        (connections > 0).then_some((connections, last))
    }
}

/// Those of a listener in one ring. A network keeps its count over reloads for as long as it is trusted.
#[derive(Debug, Default)]
pub struct Uses(Mutex<HashMap<Network, Arc<Use>>>);

impl Uses {
    /// The places of these networks, at most [`NETWORKS_TOLD_MAX`]. Those of others are forgotten once no door counts there.
    pub fn of(&self, networks: &[Network]) -> Box<[Arc<Use>]> {
        let mut all = self.lock();
        let told = networks.iter().take(NETWORKS_TOLD_MAX);
        let places = told.map(|network| all.entry(*network).or_insert_with(|| Arc::new(Use::new())).clone()).collect();
        all.retain(|_, place| Arc::strong_count(place) > 1);
        places
    }

    /// The networks that were used, how often, and when last.
    pub fn read(&self) -> Vec<(Network, u64, Instant)> {
        let all = self.lock();
        all.iter().filter_map(|(network, place)| place.read().map(|(count, last)| (*network, count, last))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, Arc<Use>>> {
        // A panic under the lock leaves at worst a place that nobody counts at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn a_network_keeps_its_count_as_long_as_it_is_trusted() {
        let uses = Uses::default();
        let first = uses.of(&networks(&["10.0.0.0/8", "192.0.2.7"]));
        let begun = Instant::now();
        first[0].note(begun + Duration::from_secs(5));
        first[0].note(begun + Duration::from_secs(9));
        first[1].note(begun);
        // Another configuration, while somebody still comes through a door of the one before.
        let second = uses.of(&networks(&["10.0.0.0/8", "2001:db8::/32"]));
        first[0].note(begun + Duration::from_secs(12));
        drop(first);
        second[0].note(begun + Duration::from_secs(14));
        let read = |text: &str| uses.read().into_iter().find(|(network, ..)| network.to_string() == text);
        let (_, count, last) = read("10.0.0.0/8").expect("it was used");
        assert_eq!(count, 4);
        let late = begun + Duration::from_secs(14);
        assert!(late - Duration::from_secs(1) <= last && last <= late, "to the second");
        assert!(read("2001:db8::/32").is_none(), "never used");
        assert!(read("192.0.2.7/32").is_some(), "somebody may still count there");
        let _third = uses.of(&networks(&["10.0.0.0/8"]));
        assert!(read("192.0.2.7/32").is_none());
    }

    #[test]
    fn their_number_is_bounded() {
        let many: Vec<Network> = (0..2 * NETWORKS_TOLD_MAX as u32)
            .map(|n| Network::new(std::net::Ipv4Addr::from(n).into(), 32).expect("it has 32 bits"))
            .collect();
        let uses = Uses::default();
        assert_eq!((uses.of(&many).len(), uses.lock().len()), (NETWORKS_TOLD_MAX, NETWORKS_TOLD_MAX));
    }
}

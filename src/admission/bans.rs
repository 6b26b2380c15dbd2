//! Clients that an operator has banned while the daemon runs, each until its time is over.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use crate::net::{Network, canonical};

/// Most networks that are banned at a time.
pub const BANS_MAX: usize = 65_536;

/// The bans that are in force; clones share them, so that a ban holds for every ring and over every change of a
/// configuration from the moment on that it is set.
///
/// While there are none, a connection pays for one load.
#[derive(Clone, Debug, Default)]
pub struct Bans(Option<Arc<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    some: AtomicBool,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Until when; `None`: for good.
    until: HashMap<Network, Option<Instant>>,
    /// How many networks of each family (IPv4 or not) and length there are: an address is looked up once a length.
    lengths: BTreeMap<(bool, u8), usize>,
}

/// There are [`BANS_MAX`] bans already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyBans;

impl fmt::Display for TooManyBans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BANS_MAX} networks are banned already: lift some bans, or ban wider networks")
    }
}

impl std::error::Error for TooManyBans {}

/// Both are one, or both are none.
impl PartialEq for Bans {
    fn eq(&self, other: &Bans) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for Bans {}

impl Bans {
    /// None yet. (The default can have none at all.)
    pub fn new() -> Bans {
        Bans(Some(Arc::default()))
    }

    /// Whether there may ever be some.
    pub(super) fn are_possible(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a client may not come at the moment.
    pub fn hold(&self, client: IpAddr, now: Instant) -> bool {
        let Some(shared) = self.0.as_ref().filter(|shared| shared.some.load(Ordering::Relaxed)) else { return false };
        shared.read().holds(canonical(client), now)
    }

    /// Bans a network until a time, or for good; it replaces a ban of the same network.
    ///
    /// # Errors
    /// [`TooManyBans`].
    pub fn set(&self, network: Network, until: Option<Instant>, now: Instant) -> Result<(), TooManyBans> {
        let shared = self.0.as_ref().ok_or(TooManyBans)?;
        let mut table = shared.write();
        if table.until.len() >= BANS_MAX {
            table.forget_those_over(now);
        }
        if table.until.len() >= BANS_MAX && !table.until.contains_key(&network) {
            return Err(TooManyBans);
        }
        table.set(network, until);
        shared.some.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lifts the ban of exactly this network; tells whether there was one.
    pub fn lift(&self, network: Network, now: Instant) -> bool {
        let Some(shared) = &self.0 else { return false };
        let mut table = shared.write();
        table.forget_those_over(now);
        let lifted = table.lift(network);
        shared.some.store(!table.until.is_empty(), Ordering::Relaxed);
        lifted
    }

    /// Those in force, the first to end first.
    pub fn list(&self, now: Instant) -> Vec<(Network, Option<Instant>)> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let table = shared.read();
        let mut all: Vec<_> = table.until.iter().map(|(network, until)| (*network, *until)).collect();
        all.retain(|(_, until)| in_force(*until, now));
        all.sort_by_key(|(network, until)| (until.is_none(), *until, network.to_string()));
        all
    }
}

impl Shared {
    // A panic under the lock cannot leave more than one ban half set.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn holds(&self, client: IpAddr, now: Instant) -> bool {
        self.lengths.range((client.is_ipv4(), 0)..=(client.is_ipv4(), u8::MAX)).any(|(&(_, length), _)| {
            let network = Network::new(client, length);
            network.and_then(|network| self.until.get(&network)).is_some_and(|until| in_force(*until, now))
        })
    }

    fn set(&mut self, network: Network, until: Option<Instant>) {
        if self.until.insert(network, until).is_none() {
            *self.lengths.entry(kind(network)).or_default() += 1;
        }
    }

    fn lift(&mut self, network: Network) -> bool {
        let lifted = self.until.remove(&network).is_some();
        if lifted && let Some(count) = self.lengths.get_mut(&kind(network)) {
            *count -= 1;
        }
        self.lengths.retain(|_, count| *count > 0);
        lifted
    }

    fn forget_those_over(&mut self, now: Instant) {
        self.until.retain(|_, until| in_force(*until, now));
        self.lengths.clear();
        for network in self.until.keys() {
            *self.lengths.entry(kind(*network)).or_default() += 1;
        }
    }
}

fn kind(network: Network) -> (bool, u8) {
    (network.is_ipv4(), network.prefix())
}

fn in_force(until: Option<Instant>, now: Instant) -> bool {
    until.is_none_or(|until| now < until)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn net(text: &str) -> Network {
        text.parse().unwrap_or_else(|_| panic!("{text} is a network"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text} is an address"))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_ban_holds_until_its_time_is_over_or_it_is_lifted() {
        let (bans, now) = (Bans::new(), Instant::now());
        bans.set(net("192.0.2.0/24"), Some(now + MINUTE), now).expect("there is room");
        bans.set(net("2001:db8::/32"), None, now).expect("there is room");
        let other = bans.clone();
        for (client, banned) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.3.7", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(other.hold(ip(client), now), banned, "{client}");
        }
        assert!(!bans.hold(ip("192.0.2.7"), now + MINUTE), "its time is over");
        assert!(bans.hold(ip("2001:db8::1"), now + 1000 * MINUTE));
        assert_eq!(bans.list(now).len(), 2);
        assert_eq!(bans.list(now + MINUTE), [(net("2001:db8::/32"), None)]);
        assert!(!bans.lift(net("2001:db8::/33"), now) && bans.lift(net("2001:db8::/32"), now));
        assert!(!bans.hold(ip("2001:db8::1"), now) && bans.hold(ip("192.0.2.7"), now));
        assert!(bans.lift(net("192.0.2.0/24"), now));
        assert!(!bans.hold(ip("192.0.2.7"), now) && bans.list(now).is_empty());
    }

    #[test]
    fn a_later_ban_of_a_network_replaces_the_earlier_one() {
        let (bans, now) = (Bans::new(), Instant::now());
        for until in [None, Some(now + MINUTE)] {
            bans.set(net("192.0.2.7"), until, now).expect("there is room");
        }
        assert_eq!(bans.list(now), [(net("192.0.2.7"), Some(now + MINUTE))]);
        assert!(bans.lift(net("192.0.2.7"), now) && !bans.hold(ip("192.0.2.7"), now));
    }

    #[test]
    fn there_are_only_so_many_and_those_over_make_room() {
        let (bans, now) = (Bans::new(), Instant::now());
        let of = |number: u32| Network::new(IpAddr::from((0x0a00_0000 + number).to_be_bytes()), 32).expect("32 bits");
        for number in 0..BANS_MAX as u32 {
            bans.set(of(number), Some(now + MINUTE), now).expect("there is room");
        }
        assert_eq!(bans.set(net("192.0.2.7"), None, now), Err(TooManyBans));
        bans.set(of(7), None, now).expect("it takes its own place");
        bans.set(net("192.0.2.7"), None, now + MINUTE).expect("the others are over");
        assert_eq!(bans.list(now + MINUTE).len(), 2);
    }

    #[test]
    fn the_default_can_have_none() {
        let (bans, now) = (Bans::default(), Instant::now());
        assert_eq!(bans.set(net("192.0.2.7"), None, now), Err(TooManyBans));
        assert!(!bans.hold(ip("192.0.2.7"), now) && bans != Bans::new());
    }
}

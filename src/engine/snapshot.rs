//! What the engine has counted and measured so far.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::accounts::{self, BackendAccount, ServerAccount};
use super::driver::DriverInUse;
use super::locked::Kib;
use super::outsiders::OutsiderSeen;
use super::refusals::RefusalSeen;
use super::relay::SharedBackend;
use super::report::{Named, Report};
use super::tally::{Count, Passage, Tally, end_name};
use crate::admission::{ClientTable, Clients};
use crate::conn::Ending;
use crate::dispatch::PoolRecord;
use crate::net::Network;
use crate::relay::End;
use crate::stats::Histogram;

/// Reads what an engine's rings and pools have counted, whether it runs, ends or has ended.
#[derive(Clone, Debug)]
pub struct Meter {
    pub(super) rings: Vec<Arc<Tally>>,
    pub(super) pools: Vec<Arc<PoolRecord>>,
    pub(super) clients: Clients,
    pub(super) report: Arc<Report>,
    pub(super) driver: DriverInUse,
    pub(super) backends: Vec<SharedBackend>,
}

impl Meter {
    /// What there is so far.
    pub fn snapshot(&self) -> Snapshot {
        let names = Tally::names();
        let mut totals = vec![0; names.len()];
        let mut header_wait = crate::stats::empty_histogram();
        for ring in &self.rings {
            ring.add_counts_to(&mut totals);
            ring.add_header_waits_to(&mut header_wait);
        }
        let pools: Vec<PoolAccount> = self.pools.iter().map(|pool| PoolAccount::of(pool)).collect();
        let losses = pools.iter().map(|pool| pool.lost).sum();
        let mut accept_to_worker = crate::stats::empty_histogram();
        for pool in &pools {
            accept_to_worker.add(&pool.waits).expect("all histograms have the same bounds");
        }
        let table = |count: fn(&ClientTable) -> u64| self.clients.table().map_or(0, |table| count(table));
        let others = [
            (LOST_IN_POOL, losses),
            ("client-evicted", table(ClientTable::evicted)),
            ("client-uncounted", table(ClientTable::uncounted)),
        ];
        let counters = names.into_iter().zip(totals).chain(others).collect();
        let now = Instant::now();
        let backends = self.backends.iter().map(|backend| BackendAccount::of(backend, now)).collect();
        let rings = self.rings.iter().map(|ring| RingAccount::of(ring)).collect();
        let (endings, listeners, diagnosed) = (self.endings(), self.listeners(), self.diagnosed());
        let trusted = self.trusted(now);
        let clients = self.clients.table().map_or((0, 0), |table| (table.known(now), table.room()));
        Snapshot {
            driver: Some(self.driver.clone()),
            counters,
            endings,
            listeners,
            diagnosed,
            trusted,
            rings,
            pools,
            clients,
            backends,
            header_wait,
            accept_to_worker,
        }
    }

    /// Who was refused of late, and what they had sent, the last first.
    pub fn refusals(&self) -> Vec<RefusalSeen> {
        self.report.refusals(Instant::now())
    }

    /// Who has come from outside of the trusted networks of late, the last first.
    pub fn outsiders(&self) -> Vec<OutsiderSeen> {
        self.report.outsiders(Instant::now())
    }

    fn trusted(&self, now: Instant) -> Trusted {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut all = Trusted::new();
        for (row, Named { service, name }) in self.report.listeners().into_iter().enumerate() {
            for (network, connections, last) in self.rings.iter().flat_map(|ring| ring.uses(row)) {
                let last = clock.saturating_sub(now.saturating_duration_since(last)).as_secs();
                let used = all.entry((service.clone(), name.clone(), network.to_string())).or_default();
                used.add(&Uses { connections, last });
            }
        }
        all
    }

    fn listeners(&self) -> Listeners {
        let named = self.report.listeners().into_iter().enumerate();
        let passages = |row| {
            let of_rings = self.rings.iter().map(|ring| ring.passages(row));
            of_rings.fold([0; Passage::COUNT], |mut all, one| {
                add_each(&mut all, &one);
                all
            })
        };
        named.map(|(row, Named { service, name })| ((service, name), passages(row))).collect()
    }

    fn diagnosed(&self) -> Diagnosed {
        let all = self.report.diagnosed().into_iter();
        all.map(|(Named { service, name }, diagnosis, count)| ((service, name, diagnosis.code()), count)).collect()
    }

    fn endings(&self) -> Endings {
        let mut endings = Endings::new();
        for (row, Named { service, name }) in self.report.listeners().iter().enumerate() {
            for (reason, count) in self.rings.iter().flat_map(|ring| ring.endings(row)) {
                *endings.entry((service.clone(), name.clone(), reason)).or_default() += count;
            }
        }
        endings
    }
}

/// The counter of connections that pools have lost.
const LOST_IN_POOL: &str = "lost-in-pool";

/// Bytes of a table or a JSON line that listeners' endings may take, about.
const ENDINGS_SHOWN_MAX: usize = 24 << 10;
/// Bytes that one takes beside its names.
const ENDED_ROOM: usize = 48;
/// Lines of the table about what is only tried.
const WOULD_REFUSE_SHOWN_MAX: usize = 64;

/// By service, listener and reason.
type Endings = BTreeMap<(String, String, &'static str), u64>;

/// By service and listener: by [`Passage`].
type Listeners = BTreeMap<(String, String), [u64; Passage::COUNT]>;

/// By service, listener and diagnosis.
type Diagnosed = BTreeMap<(String, String, &'static str), u64>;

/// By service, listener and trusted network.
type Trusted = BTreeMap<(String, String, String), Uses>;

/// How a trusted network was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Connections that were let in.
    pub connections: u64,
    /// When the last one was, by the clock of the system: seconds since 1970.
    pub last: u64,
}

impl Uses {
    pub(super) fn add(&mut self, other: &Uses) {
        self.connections += other.connections;
        self.last = self.last.max(other.last);
    }
}

/// How a listener's trusted network was used, at the moment of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkUse {
    /// Connections from it that were let in, at least 1.
    pub connections: u64,
    /// When the last one was, to the second.
    pub last: SystemTime,
}

/// A ring at the moment of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingAccount {
    /// Connections that the kernel has delivered to it.
    pub accepted: u64,
    /// Those whose header is awaited.
    pub pending: u64,
    /// Its turns.
    pub turns: u64,
    /// Turns that found the completion queue full.
    pub cq_overflows: u64,
    /// Completions that belonged to nobody any more.
    pub stale: u64,
    /// Connections reported by the kernel that did not exist.
    pub phantom: u64,
    /// Times that it had failed and was replaced.
    pub replaced: u64,
    /// Bytes of memory that it keeps locked: its queues, and its buffers if they are registered. 0 on epoll.
    pub locked: u64,
}

impl RingAccount {
    fn of(ring: &Tally) -> RingAccount {
        RingAccount {
            accepted: ring.of(Count::Accepted),
            pending: ring.pending(),
            turns: ring.turns(),
            cq_overflows: ring.of(Count::CqOverflow),
            stale: ring.of(Count::Stale),
            phantom: ring.of(Count::Phantom),
            replaced: ring.of(Count::RingReplaced),
            locked: ring.locked(),
        }
    }

    fn add(&mut self, other: &RingAccount) {
        self.accepted += other.accepted;
        self.pending += other.pending;
        self.turns += other.turns;
        self.cq_overflows += other.cq_overflows;
        self.stale += other.stale;
        self.phantom += other.phantom;
        self.replaced += other.replaced;
        self.locked += other.locked;
    }
}

/// A pool at the moment of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct PoolAccount {
    pub name: String,
    /// Connections that it has lost.
    pub lost: u64,
    /// From accept to worker, in microseconds; in a pool on the rings, to the beginning of the turn that serves the connection.
    pub waits: Histogram<u64>,
}

impl PoolAccount {
    fn of(pool: &PoolRecord) -> PoolAccount {
        let mut waits = crate::stats::empty_histogram();
        pool.add_waits_to(&mut waits);
        PoolAccount { name: pool.name().to_owned(), lost: pool.losses(), waits }
    }

    fn add(&mut self, other: &PoolAccount) {
        self.lost += other.lost;
        self.waits.add(&other.waits).expect("all histograms have the same bounds");
    }
}

/// What a listener's connections have come to, at the moment of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerAccount<'a> {
    /// Its service.
    pub service: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Connections that the kernel has delivered.
    pub accepted: u64,
    /// Those whose header is awaited.
    pub pending: u64,
    /// Those that were handed on, to a backend or a pool.
    pub handed_on: u64,
    /// Those that ended before, by a refusal or otherwise.
    pub ended: u64,
}

/// Connections of one listener that ended for the same reason before they reached a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended<'a> {
    /// The listener's service.
    pub service: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The name of the counter that sums up all listeners.
    pub reason: &'static str,
    /// How many, at least 1.
    pub count: u64,
}

/// Counters and latencies of all rings and pools, merged at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// That of the engine it was taken of first.
    pub(super) driver: Option<DriverInUse>,
    pub(super) counters: Vec<(&'static str, u64)>,
    pub(super) endings: Endings,
    pub(super) listeners: Listeners,
    pub(super) diagnosed: Diagnosed,
    pub(super) trusted: Trusted,
    pub(super) rings: Vec<RingAccount>,
    pub(super) pools: Vec<PoolAccount>,
    /// Clients that the table of limits knows, and has room for.
    pub(super) clients: (usize, usize),
    pub(super) backends: Vec<BackendAccount>,
    pub(super) header_wait: Histogram<u64>,
    pub(super) accept_to_worker: Histogram<u64>,
}

impl Snapshot {
    /// Nothing has happened.
    pub(super) fn nothing() -> Snapshot {
        Snapshot {
            driver: None,
            counters: Vec::new(),
            endings: Endings::new(),
            listeners: Listeners::new(),
            diagnosed: Diagnosed::new(),
            trusted: Trusted::new(),
            rings: Vec::new(),
            pools: Vec::new(),
            clients: (0, 0),
            backends: Vec::new(),
            header_wait: crate::stats::empty_histogram(),
            accept_to_worker: crate::stats::empty_histogram(),
        }
    }

    /// What the engine's threads run on; of several engines that were added up, those of the first.
    pub fn driver(&self) -> Option<&DriverInUse> {
        self.driver.as_ref()
    }

    /// All counters by name: what came, where it went, and for everything refused the reason.
    pub fn counters(&self) -> &[(&'static str, u64)] {
        &self.counters
    }

    /// How often something happened.
    ///
    /// ```
    /// use vestibule::engine::Count;
    ///
    /// # fn f(engine: &vestibule::Engine) {
    /// let snapshot = engine.snapshot();
    /// println!("{} of {}", snapshot.get(Count::Proxied), snapshot.get(Count::Accepted));
    /// # }
    /// ```
    pub fn get(&self, count: Count) -> u64 {
        self.count(count.name())
    }

    /// How many connections ended so before they reached a pool or a relay, whatever byte decided it.
    pub fn ended(&self, ending: Ending) -> u64 {
        self.count(ending.code())
    }

    /// How many relayed sessions ended so.
    pub fn sessions_ended(&self, end: End) -> u64 {
        self.count(end_name(end.code()))
    }

    /// How many connections pools have lost, by a panic of a handler above all.
    pub fn lost_in_pools(&self) -> u64 {
        self.count(LOST_IN_POOL)
    }

    /// One counter by the name that it has in tables and in JSON; 0 for a name that does not exist. See
    /// [`get`](Snapshot::get), [`ended`](Snapshot::ended) and [`sessions_ended`](Snapshot::sessions_ended) for those that the
    /// compiler knows.
    pub fn count(&self, name: &str) -> u64 {
        self.counters.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
    }

    /// Which listener's connections ended for which reason, the most frequent first.
    pub fn endings(&self) -> Vec<Ended<'_>> {
        let mut all = Vec::with_capacity(self.endings.len());
        for ((service, listener, reason), &count) in &self.endings {
            all.push(Ended { service, listener, reason, count });
        }
        all.sort_by_key(|ended| std::cmp::Reverse(ended.count));
        all
    }

    /// What stricter policies that are only tried would have refused, by listener, the most frequent first.
    pub fn would_refuse(&self) -> Vec<Ended<'_>> {
        let mut all = Vec::new();
        for ((service, listener), passages) in &self.listeners {
            let counted = Passage::SHADOWS.iter().map(|(passage, _)| (passage.name(), passages[*passage as usize]));
            let counted = counted.filter(|(_, count)| *count > 0);
            all.extend(counted.map(|(reason, count)| Ended { service, listener, reason, count }));
        }
        all.sort_by_key(|ended| std::cmp::Reverse(ended.count));
        all
    }

    /// The first of them that an answer has room for, and how many more there are.
    pub fn main_endings(&self) -> (Vec<Ended<'_>>, usize) {
        let mut all = self.endings();
        let mut size = 0;
        let shown = all.iter().take_while(|one| {
            size += one.service.len() + one.listener.len() + ENDED_ROOM;
            size <= ENDINGS_SHOWN_MAX
        });
        let shown = shown.count();
        let more = all.len() - shown;
        all.truncate(shown);
        (all, more)
    }

    /// What the connections of each listener have come to, by service and name; those of former configurations included.
    pub fn listeners(&self) -> Vec<ListenerAccount<'_>> {
        let mut all: Vec<ListenerAccount<'_>> =
            self.listeners.iter().map(|(key, passages)| listener(key, passages)).collect();
        for ((service, listener, _), count) in &self.endings {
            let known = all.iter_mut().find(|one| one.service == service && one.name == listener);
            known.into_iter().for_each(|one| one.ended += count);
        }
        all
    }

    /// How a trusted network of a listener was used, by the listener's service and name; `None`: never, or it is none of the
    /// first [`NETWORKS_TOLD_MAX`](super::NETWORKS_TOLD_MAX). A connection counts at the longest of the networks that hold
    /// its peer.
    pub fn network_use(&self, service: &str, listener: &str, network: Network) -> Option<NetworkUse> {
        let key = (service.to_owned(), listener.to_owned(), network.to_string());
        let &Uses { connections, last } = self.trusted.get(&key)?;
        Some(NetworkUse { connections, last: UNIX_EPOCH + Duration::from_secs(last) })
    }

    /// The rings, by number.
    pub fn rings(&self) -> &[RingAccount] {
        &self.rings
    }

    /// Bytes of memory that all rings keep locked.
    pub fn locked_memory(&self) -> u64 {
        self.rings.iter().map(|ring| ring.locked).sum()
    }

    /// The backends and their servers: what there is now, and what has happened since the daemon began. Bytes, ends and times
    /// are those of sessions that have ended.
    pub fn backends(&self) -> &[BackendAccount] {
        &self.backends
    }

    /// The first servers that an answer has room for, with their backends, and how many more there are.
    pub fn main_servers(&self) -> (Vec<(&BackendAccount, &ServerAccount)>, usize) {
        accounts::main_servers(&self.backends)
    }

    /// Adds to a counter; one of a name that does not exist, such as the embedding server's own, comes behind the others.
    pub fn add(&mut self, name: &'static str, count: u64) {
        match self.counters.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total += count,
            None => self.counters.push((name, count)),
        }
    }

    /// The quantiles that are shown, with their names.
    pub const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

    /// All latencies by name, in microseconds.
    pub fn latencies(&self) -> [(&'static str, &Histogram<u64>); 2] {
        [("header wait", &self.header_wait), ("accept to worker", &self.accept_to_worker)]
    }

    /// From accept to the complete header, in microseconds.
    pub fn header_wait(&self) -> &Histogram<u64> {
        &self.header_wait
    }

    /// From accept to the moment a worker takes the connection, in microseconds.
    pub fn accept_to_worker(&self) -> &Histogram<u64> {
        &self.accept_to_worker
    }
}

fn listener<'a>((service, name): &'a (String, String), passages: &[u64; Passage::COUNT]) -> ListenerAccount<'a> {
    let handed_on = Passage::HANDED_ON.iter().map(|(passage, ..)| passages[*passage as usize]).sum();
    let accepted = passages[Passage::Accepted as usize];
    ListenerAccount { service, name, accepted, pending: pending(passages), handed_on, ended: 0 }
}

/// How many headers are awaited.
pub(super) fn pending(passages: &[u64; Passage::COUNT]) -> u64 {
    passages[Passage::Awaited as usize].saturating_sub(passages[Passage::Settled as usize])
}

fn add_each<const N: usize>(all: &mut [u64; N], others: &[u64; N]) {
    all.iter_mut().zip(others).for_each(|(sum, count)| *sum += count);
}

impl AddAssign<&Snapshot> for Snapshot {
    /// Adds what another engine has counted and measured: that of a time before a reload, or on another address.
    fn add_assign(&mut self, other: &Snapshot) {
        other.counters.iter().for_each(|(name, value)| self.add(name, *value));
        for (key, count) in &other.endings {
            *self.endings.entry(key.clone()).or_default() += count;
        }
        for (key, passages) in &other.listeners {
            add_each(self.listeners.entry(key.clone()).or_insert([0; Passage::COUNT]), passages);
        }
        for (key, count) in &other.diagnosed {
            *self.diagnosed.entry(key.clone()).or_default() += count;
        }
        for (key, uses) in &other.trusted {
            self.trusted.entry(key.clone()).or_default().add(uses);
        }
        self.rings.resize(self.rings.len().max(other.rings.len()), RingAccount::default());
        self.rings.iter_mut().zip(&other.rings).for_each(|(ring, other)| ring.add(other));
        for pool in &other.pools {
            match self.pools.iter_mut().find(|known| known.name == pool.name) {
                Some(known) => known.add(pool),
                None => self.pools.push(pool.clone()),
            }
        }
        // Engines of one process share the table, unless one is over.
        self.clients = self.clients.max(other.clients);
        accounts::merge(&mut self.backends, &other.backends);
        self.header_wait.add(&other.header_wait).expect("all histograms have the same bounds");
        self.accept_to_worker.add(&other.accept_to_worker).expect("all histograms have the same bounds");
    }
}

impl fmt::Display for Snapshot {
    /// A table: the counters that are not zero, and the latencies in microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(driver) = &self.driver {
            writeln!(f, "{:<24} {:>12}{}", "driver", driver.name(), Brief(driver.instead()))?;
            let locked = self.locked_memory();
            if locked > 0 {
                writeln!(f, "{:<24} {:>12}", "locked memory", Kib(locked).to_string())?;
            }
            writeln!(f)?;
        }
        writeln!(f, "{:<24} {:>12}", "connections", "count")?;
        for (name, value) in self.counters.iter().filter(|(_, value)| *value > 0) {
            writeln!(f, "{name:<24} {value:>12}")?;
        }
        let (endings, more) = self.main_endings();
        if !endings.is_empty() {
            writeln!(f, "\n{:<24} {:>12} listener", "ended", "count")?;
        }
        for Ended { service, listener, reason, count } in endings {
            writeln!(f, "{reason:<24} {count:>12} {service}/{listener}")?;
        }
        if more > 0 {
            writeln!(f, "... and {more} more")?;
        }
        let would_refuse = self.would_refuse();
        if !would_refuse.is_empty() {
            writeln!(f, "\n{:<32} {:>4} listener", "would be refused", "count")?;
        }
        for Ended { service, listener, reason, count } in would_refuse.into_iter().take(WOULD_REFUSE_SHOWN_MAX) {
            writeln!(f, "{reason:<32} {count:>4} {service}/{listener}")?;
        }
        writeln!(f)?;
        write!(f, "{:<24} {:>12}", "microseconds", "count")?;
        Snapshot::QUANTILES.iter().try_for_each(|(name, _)| write!(f, " {name:>9}"))?;
        for (name, histogram) in self.latencies() {
            write!(f, "\n{name:<24} {:>12}", histogram.len())?;
            for (_, quantile) in Snapshot::QUANTILES {
                write!(f, " {:>9}", histogram.value_at_quantile(quantile))?;
            }
        }
        accounts::write(&self.backends, f)
    }
}

/// Words in parentheses, if there are any.
struct Brief<'a>(Option<&'a str>);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |words| write!(f, " ({words})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Snapshot {
        Snapshot::nothing()
    }

    #[test]
    fn what_is_shown_of_many_listeners_is_bounded_and_sums_up() {
        let endings = (0..2000).map(|n| (("imap-login".into(), format!("listener-{n}"), "absent"), n + 1)).collect();
        let mut snapshot = Snapshot { endings, ..nothing() };
        snapshot += &snapshot.clone();
        let (shown, more) = snapshot.main_endings();
        let first = Ended { service: "imap-login", listener: "listener-1999", reason: "absent", count: 4000 };
        assert_eq!((shown.len() + more, shown[0]), (2000, first));
        let table = snapshot.to_string();
        assert!(table.len() < 2 * ENDINGS_SHOWN_MAX && table.contains(&format!("\n... and {more} more\n")), "{table}");
    }

    #[test]
    fn every_typed_counter_has_its_name() {
        let names = Tally::names();
        let mut snapshot = Snapshot { counters: names.iter().copied().zip(1..).collect(), ..nothing() };
        snapshot.counters.push((LOST_IN_POOL, 99));
        assert_eq!((snapshot.get(Count::Accepted), snapshot.lost_in_pools()), (1, 99));
        assert_eq!(snapshot.get(Count::RingReplaced), 19);
        assert_eq!(snapshot.get(Count::TlsToKernel), 23);
        assert_eq!(snapshot.ended(Ending::Drained), 24 + Ending::Drained.index() as u64);
        assert_ne!(snapshot.get(Count::OutOfResources), snapshot.sessions_ended(End::OutOfResources));
        assert!(End::codes().all(|code| names.contains(&end_name(code))));
    }

    #[test]
    fn shows_what_happened_and_nothing_else() {
        let mut wait = crate::stats::empty_histogram();
        wait.saturating_record(250);
        let snapshot = Snapshot {
            counters: vec![("accepted", 2), ("shed", 0), ("proxied", 2)],
            endings: Endings::from([
                (("imap-login".into(), "imap_haproxy".into(), "absent"), 1),
                (("imap-login".into(), "imaps_haproxy".into(), "absent"), 7),
            ]),
            header_wait: wait,
            ..nothing()
        };
        let table = snapshot.to_string();
        assert!(table.contains("accepted                            2\n"), "{table}");
        assert!(
            table.contains("header wait                         1       250       250       250       250"),
            "{table}"
        );
        assert!(!table.contains("shed"), "{table}");
        assert!(
            table.contains(
                "absent                              7 imap-login/imaps_haproxy\n\
                 absent                              1 imap-login/imap_haproxy\n\n"
            ),
            "{table}"
        );
        assert_eq!((snapshot.count("proxied"), snapshot.count("no such")), (2, 0));
    }
}

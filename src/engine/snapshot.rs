//! What the engine has counted and measured so far.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::accounts::{self, BackendAccount, ServerAccount};
use super::relay::SharedBackend;
use super::report::{Named, Report};
use super::tally::Tally;
use crate::admission::{ClientTable, Clients};
use crate::dispatch::PoolRecord;

/// Reads what an engine's rings and pools have counted, whether it runs, ends or has ended.
#[derive(Clone, Debug)]
pub struct Meter {
    pub(super) rings: Vec<Arc<Tally>>,
    pub(super) pools: Vec<Arc<PoolRecord>>,
    pub(super) clients: Clients,
    pub(super) report: Arc<Report>,
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
        let mut accept_to_worker = crate::stats::empty_histogram();
        for pool in &self.pools {
            pool.add_waits_to(&mut accept_to_worker);
        }
        let losses = self.pools.iter().map(|pool| pool.losses()).sum();
        let table = |count: fn(&ClientTable) -> u64| self.clients.table().map_or(0, |table| count(table));
        let others = [
            ("lost-in-pool", losses),
            ("client-evicted", table(ClientTable::evicted)),
            ("client-uncounted", table(ClientTable::uncounted)),
        ];
        let counters = names.into_iter().zip(totals).chain(others).collect();
        let now = Instant::now();
        let backends = self.backends.iter().map(|backend| BackendAccount::of(backend, now)).collect();
        Snapshot { counters, endings: self.endings(), backends, header_wait, accept_to_worker }
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

/// Bytes of a table or a JSON line that listeners' endings may take, about.
const ENDINGS_SHOWN_MAX: usize = 24 << 10;
/// Bytes that one takes beside its names.
const ENDED_ROOM: usize = 48;

/// By service, listener and reason.
type Endings = BTreeMap<(String, String, &'static str), u64>;

/// Connections of one listener that ended for the same reason before they reached a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub(super) counters: Vec<(&'static str, u64)>,
    pub(super) endings: Endings,
    pub(super) backends: Vec<BackendAccount>,
    pub(super) header_wait: Histogram<u64>,
    pub(super) accept_to_worker: Histogram<u64>,
}

impl Snapshot {
    /// All counters by name: what came, where it went, and for everything refused the reason.
    pub fn counters(&self) -> &[(&'static str, u64)] {
        &self.counters
    }

    /// One counter; 0 for a name that does not exist.
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

impl AddAssign<&Snapshot> for Snapshot {
    /// Adds what another engine has counted and measured: that of a time before a reload, or on another address.
    fn add_assign(&mut self, other: &Snapshot) {
        other.counters.iter().for_each(|(name, value)| self.add(name, *value));
        for (key, count) in &other.endings {
            *self.endings.entry(key.clone()).or_default() += count;
        }
        accounts::merge(&mut self.backends, &other.backends);
        self.header_wait.add(&other.header_wait).expect("all histograms have the same bounds");
        self.accept_to_worker.add(&other.accept_to_worker).expect("all histograms have the same bounds");
    }
}

impl fmt::Display for Snapshot {
    /// A table: the counters that are not zero, and the latencies in microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_many_listeners_is_bounded_and_sums_up() {
        let endings = (0..2000).map(|n| (("imap-login".into(), format!("listener-{n}"), "absent"), n + 1)).collect();
        let empty = crate::stats::empty_histogram;
        let (header_wait, accept_to_worker) = (empty(), empty());
        let mut snapshot = Snapshot { counters: vec![], endings, backends: vec![], header_wait, accept_to_worker };
        snapshot += &snapshot.clone();
        let (shown, more) = snapshot.main_endings();
        let first = Ended { service: "imap-login", listener: "listener-1999", reason: "absent", count: 4000 };
        assert_eq!((shown.len() + more, shown[0]), (2000, first));
        let table = snapshot.to_string();
        assert!(table.len() < 2 * ENDINGS_SHOWN_MAX && table.contains(&format!("\n... and {more} more\n")), "{table}");
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
            backends: vec![],
            header_wait: wait,
            accept_to_worker: crate::stats::empty_histogram(),
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

//! What each ring counts and measures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::uses::{Use, Uses};
use crate::admission::Refusal;
use crate::conn::Ending;
use crate::net::Network;
use crate::relay::End;
use crate::stats::{Counters, Latency};

/// Things counted besides the endings of connections and sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Count {
    /// Connections that the kernel delivered.
    Accepted,
    /// Handed to a pool on behalf of a client.
    Proxied,
    /// Handed to a pool with a LOCAL header: the balancer's own, such as health checks.
    Local,
    /// Handed to a pool with a LOCAL header and data right behind it: a user whom the balancer could not name.
    LocalUser,
    /// Handed to a pool from a listener without a header.
    Plain,
    /// Reset by the peer before its address could be asked for; closed.
    ResetEarly,
    /// Sources in 127.0.0.0/8 or ::1 among the proxied.
    LoopbackSource,
    /// Proxied with a source or destination port of 0.
    PortZero,
    /// Accepts that failed for want of files or memory.
    OutOfResources,
    /// Other accepts that failed.
    AcceptFailed,
    /// Connections reported by the kernel that did not exist.
    Phantom,
    /// Completions that belonged to nobody any more.
    Stale,
    /// Times that accepting was paused because a pool's queue was full.
    Paused,
    /// Given to another process while their header was awaited.
    HandedOver,
    /// Got from another process while their header was awaited.
    TakenOver,
    /// Turns that found the kernel's completion queue full.
    CqOverflow,
    /// Sessions given to another process.
    SessionMoved,
    /// Sessions got from another process.
    SessionTaken,
    /// Rings that had failed and were replaced.
    RingReplaced,
    /// TLS sessions that were established, resumed ones included.
    TlsEstablished,
    /// TLS sessions that were resumed.
    TlsResumed,
    /// Steps of handshakes that a ring did itself, because the threads for them had no room.
    TlsThreadsFull,
    /// TLS sessions that the kernel went on with.
    TlsToKernel,
}

impl Count {
    const ALL: [(Count, &str); 23] = [
        (Count::Accepted, "accepted"),
        (Count::Proxied, "proxied"),
        (Count::Local, "local"),
        (Count::LocalUser, "local-user"),
        (Count::Plain, "plain"),
        (Count::ResetEarly, "reset-early"),
        (Count::LoopbackSource, "loopback-source"),
        (Count::PortZero, "port-zero"),
        (Count::OutOfResources, "out-of-resources"),
        (Count::AcceptFailed, "accept-failed"),
        (Count::Phantom, "phantom"),
        (Count::Stale, "stale"),
        (Count::Paused, "paused"),
        (Count::HandedOver, "handed-over"),
        (Count::TakenOver, "taken-over"),
        (Count::CqOverflow, "cq-overflow"),
        (Count::SessionMoved, "session-moved"),
        (Count::SessionTaken, "session-taken"),
        (Count::RingReplaced, "ring-replaced"),
        (Count::TlsEstablished, "tls-established"),
        (Count::TlsResumed, "tls-resumed"),
        (Count::TlsThreadsFull, "tls-threads-full"),
        (Count::TlsToKernel, "tls-to-kernel"),
    ];

    /// The name of the counter in tables and in JSON.
    pub fn name(self) -> &'static str {
        Count::ALL[self as usize].1
    }
}

/// The name of the counter of sessions that ended so.
pub(super) fn end_name(code: &'static str) -> &'static str {
    if code == End::OutOfResources.code() { SESSION_RESOURCES } else { code }
}

/// What befalls the connections of a listener beside their endings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Delivered by the kernel.
    Accepted,
    /// Reset by the peer before its address could be asked for.
    ResetEarly,
    /// Got from another process while their header was awaited.
    TakenOver,
    /// Given to one.
    HandedOver,
    /// Their header is not awaited any more. Stands before [`Passage::Awaited`], so that a reader does not see it sooner.
    Settled,
    /// Their header is awaited, or was.
    Awaited,
    /// Handed on behind a version 1 header, on behalf of a client.
    ProxyV1,
    /// Handed on behind a version 1 header that names no client.
    LocalV1,
    /// The same, with data right behind it.
    LocalUserV1,
    /// As [`Passage::ProxyV1`], of version 2.
    ProxyV2,
    /// As [`Passage::LocalV1`], of version 2.
    LocalV2,
    /// As [`Passage::LocalUserV1`], of version 2.
    LocalUserV2,
    /// Handed on without a header.
    Plain,
    /// Let in, though `shadow_trusted_networks` would have turned the peer away.
    ShadowUntrusted,
    /// Handed on, though `shadow_client_banned_networks` would have refused the client.
    ShadowBanned,
    /// The same by `shadow_client_connection_limit`.
    ShadowConnections,
    /// The same by `shadow_client_rate_limit`.
    ShadowRate,
}

impl Passage {
    /// How many there are.
    pub const COUNT: usize = Passage::ShadowRate as usize + 1;

    /// Their names, by their numbers.
    pub const NAMES: [&str; Passage::COUNT] = [
        "accepted",
        "reset-early",
        "taken-over",
        "handed-over",
        "settled",
        "awaited",
        "proxy-v1",
        "local-v1",
        "local-user-v1",
        "proxy-v2",
        "local-v2",
        "local-user-v2",
        "plain",
        "shadow-untrusted",
        "shadow-client-banned",
        "shadow-client-connection-limit",
        "shadow-client-rate-limit",
    ];

    /// What stricter policies that are only tried would have refused, with the setting that says so.
    pub const SHADOWS: [(Passage, &str); 4] = [
        (Passage::ShadowUntrusted, "shadow_trusted_networks"),
        (Passage::ShadowBanned, "shadow_client_banned_networks"),
        (Passage::ShadowConnections, "shadow_client_connection_limit"),
        (Passage::ShadowRate, "shadow_client_rate_limit"),
    ];

    /// What a refusal is that was only tried, and its setting.
    pub fn of_shadow(refusal: Refusal) -> (Passage, &'static str) {
        let [untrusted, banned, connections, rate] = Passage::SHADOWS;
        match refusal {
            Refusal::ClientBanned => banned,
            Refusal::ClientConnectionLimit => connections,
            Refusal::ClientRateLimit => rate,
            _ => untrusted,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Passage::NAMES[self as usize]
    }

    /// Those that were handed on, with the version and the command of their header.
    pub const HANDED_ON: [(Passage, &str, &str); 7] = [
        (Passage::ProxyV1, "v1", "proxy"),
        (Passage::LocalV1, "v1", "local"),
        (Passage::LocalUserV1, "v1", "local-user"),
        (Passage::ProxyV2, "v2", "proxy"),
        (Passage::LocalV2, "v2", "local"),
        (Passage::LocalUserV2, "v2", "local-user"),
        (Passage::Plain, "none", "none"),
    ];
}

/// The counters of a listener in one ring.
#[derive(Debug)]
pub struct Row {
    /// Its connections' endings, then their passages.
    counters: Counters,
    /// Of its trusted networks.
    uses: Uses,
}

impl Default for Row {
    fn default() -> Row {
        Row { counters: Counters::new(Ending::COUNT + Passage::COUNT), uses: Uses::default() }
    }
}

impl Row {
    /// A connection has ended.
    pub fn ended(&self, ending: Ending) {
        self.counters.bump(ending.index());
    }

    /// A connection has come so far.
    pub fn passed(&self, passage: Passage) {
        self.counters.bump(Ending::COUNT + passage as usize);
    }

    /// Where uses of its trusted networks are counted, by index.
    pub fn uses_of(&self, networks: &[Network]) -> Box<[Arc<Use>]> {
        self.uses.of(networks)
    }

    fn ends(&self) -> impl Iterator<Item = u64> {
        (0..Ending::COUNT).map(|index| self.counters.get(index))
    }

    fn passages(&self) -> [u64; Passage::COUNT] {
        std::array::from_fn(|index| self.counters.get(Ending::COUNT + index))
    }
}

/// The counter of sessions that ended for want of resources: accepts that failed for it have a counter of that name.
const SESSION_RESOURCES: &str = "session-out-of-resources";

/// One ring's counters and its histogram of header waits. Written by the ring's thread, read by anyone.
#[derive(Debug)]
pub struct Tally {
    counters: Counters,
    /// By the listeners' rows: what became of their connections.
    rows: Mutex<Vec<Arc<Row>>>,
    header_wait: Latency,
    turns: AtomicU64,
    /// Bytes of memory that the ring keeps locked.
    locked: AtomicU64,
}

impl Tally {
    /// All zero.
    pub fn new() -> Arc<Tally> {
        let counters = Counters::new(Count::ALL.len() + End::COUNT);
        let (turns, locked) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Tally { counters, rows: Mutex::default(), header_wait: Latency::default(), turns, locked })
    }

    /// Adds one.
    pub fn count(&self, what: Count) {
        self.counters.bump(what as usize);
    }

    /// The ring makes a turn; only its own thread says so.
    pub fn turn(&self) {
        self.turns.store(self.turns() + 1, Ordering::Relaxed);
    }

    /// Turns so far.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The ring keeps so many bytes of memory locked; 0 when it is gone.
    pub fn locks(&self, bytes: u64) {
        self.locked.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of memory that it keeps locked.
    pub fn locked(&self) -> u64 {
        self.locked.load(Ordering::Relaxed)
    }

    /// One counter of the ring.
    pub fn of(&self, what: Count) -> u64 {
        self.counters.get(what as usize)
    }

    /// The counters of the listener in a row. Only the ring's thread writes to them.
    pub fn row(&self, row: u32) -> Arc<Row> {
        let mut rows = self.lock_rows();
        while rows.len() <= row as usize {
            rows.push(Arc::default());
        }
        rows[row as usize].clone()
    }

    /// How many connections of the listener had each ending that some had, by code.
    pub fn endings(&self, row: usize) -> Vec<(&'static str, u64)> {
        let Some(counters) = self.lock_rows().get(row).cloned() else { return Vec::new() };
        Ending::codes().into_iter().zip(counters.ends()).filter(|(_, count)| *count > 0).collect()
    }

    /// What befell the connections of the listener, by [`Passage`].
    pub fn passages(&self, row: usize) -> [u64; Passage::COUNT] {
        self.lock_rows().get(row).map_or([0; Passage::COUNT], |row| row.passages())
    }

    /// How the listener's trusted networks were used: how many connections of each were let in, and when last.
    pub fn uses(&self, row: usize) -> Vec<(Network, u64, Instant)> {
        self.lock_rows().get(row).map_or_else(Vec::new, |row| row.uses.read())
    }

    /// Connections whose header is awaited.
    pub fn pending(&self) -> u64 {
        self.lock_rows().iter().map(|row| super::snapshot::pending(&row.passages())).sum()
    }

    fn lock_rows(&self) -> MutexGuard<'_, Vec<Arc<Row>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session goes on in another process.
    pub fn session_moved(&self) {
        self.count(Count::SessionMoved);
    }

    /// Adds one to the sessions that ended for a reason.
    pub fn session_ended(&self, end: End) {
        self.counters.bump(Count::ALL.len() + end.index());
    }

    /// Records the time from accept to the complete header.
    pub fn header_waited(&self, took: Duration) {
        self.header_wait.record(took);
    }

    /// The names of all counters, in order.
    pub fn names() -> Vec<&'static str> {
        let ends = End::codes().map(end_name);
        Count::ALL.iter().map(|(_, name)| *name).chain(Ending::codes()).chain(ends).collect()
    }

    /// Adds the counters to `totals`, one a name.
    pub fn add_counts_to(&self, totals: &mut [u64]) {
        let (counts, rest) = totals.split_at_mut(Count::ALL.len());
        let (endings, ends) = rest.split_at_mut(Ending::COUNT);
        for (index, total) in counts.iter_mut().chain(ends).enumerate() {
            *total += self.counters.get(index);
        }
        for row in self.lock_rows().iter() {
            endings.iter_mut().zip(row.ends()).for_each(|(total, count)| *total += count);
        }
    }

    /// Adds the times from accept to the complete header to `total`.
    pub fn add_header_waits_to(&self, total: &mut hdrhistogram::Histogram<u64>) {
        self.header_wait.add_to(total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_stands_at_its_own_place() {
        for (index, (count, _)) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, index);
        }
    }

    #[test]
    fn every_passage_has_the_name_by_which_other_processes_know_it() {
        for (passage, name) in [
            (Passage::Accepted, "accepted"),
            (Passage::HandedOver, "handed-over"),
            (Passage::Settled, "settled"),
            (Passage::Awaited, "awaited"),
            (Passage::LocalUserV2, "local-user-v2"),
            (Passage::Plain, "plain"),
            (Passage::ShadowRate, "shadow-client-rate-limit"),
        ] {
            assert_eq!(passage.name(), name);
        }
    }

    #[test]
    fn sums_up() {
        let tally = Tally::new();
        tally.count(Count::Accepted);
        tally.row(0).ended(Ending::Silent);
        tally.row(1).ended(Ending::Silent);
        tally.row(1).ended(Ending::Drained);
        tally.row(1).passed(Passage::Plain);
        tally.session_ended(End::IdleTimeout);
        tally.header_waited(Duration::from_millis(3));
        let names = Tally::names();
        let mut totals = vec![1; names.len()];
        let mut wait = crate::stats::empty_histogram();
        tally.add_counts_to(&mut totals);
        tally.add_header_waits_to(&mut wait);
        let of = |name| totals[names.iter().position(|known| *known == name).expect("a counter")];
        assert_eq!((of("accepted"), of("silent"), of("shed"), wait.len()), (2, 3, 1, 1));
        assert_eq!((of("idle-timeout"), of("client-closed")), (2, 1));
        assert_eq!(tally.endings(0), [("silent", 1)]);
        assert_eq!(tally.endings(1), [("silent", 1), ("drained", 1)]);
        assert_eq!(tally.endings(2), []);
        assert_eq!(tally.passages(1)[Passage::Plain as usize], 1);
        assert_eq!(tally.passages(0), tally.passages(2));
    }

    #[test]
    fn every_name_is_there_once() {
        let names = Tally::names();
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }
}

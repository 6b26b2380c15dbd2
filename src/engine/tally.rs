//! What each ring counts and measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::conn::Ending;
use crate::relay::End;
use crate::stats::{Counters, Latency};

/// Things counted besides the endings of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections that the kernel delivered.
    Accepted,
    /// Handed to a pool on behalf of a client.
    Proxied,
    /// Handed to a pool with a LOCAL header: the balancer's own, such as health checks.
    Local,
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
}

impl Count {
    const ALL: [(Count, &str); 15] = [
        (Count::Accepted, "accepted"),
        (Count::Proxied, "proxied"),
        (Count::Local, "local"),
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
    ];
}

/// One ring's counters and its histogram of header waits. Written by the ring's thread, read by anyone.
#[derive(Debug)]
pub struct Tally {
    counters: Counters,
    header_wait: Latency,
    turns: AtomicU64,
}

impl Tally {
    /// All zero.
    pub fn new() -> Arc<Tally> {
        let counters = Counters::new(Count::ALL.len() + Ending::COUNT + End::COUNT);
        Arc::new(Tally { counters, header_wait: Latency::default(), turns: AtomicU64::new(0) })
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

    /// Adds one to an ending.
    pub fn ended(&self, ending: Ending) {
        self.counters.bump(Count::ALL.len() + ending.index());
    }

    /// Adds one to the sessions that ended for a reason.
    pub fn session_ended(&self, end: End) {
        self.counters.bump(Count::ALL.len() + Ending::COUNT + end.index());
    }

    /// Records the time from accept to the complete header.
    pub fn header_waited(&self, took: Duration) {
        self.header_wait.record(took);
    }

    /// The names of all counters, in order.
    pub fn names() -> Vec<&'static str> {
        Count::ALL.iter().map(|(_, name)| *name).chain(Ending::codes()).chain(End::codes()).collect()
    }

    /// Adds the counters to `totals`, one a name.
    pub fn add_counts_to(&self, totals: &mut [u64]) {
        for (index, total) in totals.iter_mut().enumerate() {
            *total += self.counters.get(index);
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
    fn sums_up() {
        let tally = Tally::new();
        tally.count(Count::Accepted);
        tally.ended(Ending::Silent);
        tally.ended(Ending::Silent);
        tally.header_waited(Duration::from_millis(3));
        let names = Tally::names();
        let mut totals = vec![1; names.len()];
        let mut wait = crate::stats::empty_histogram();
        tally.add_counts_to(&mut totals);
        tally.add_header_waits_to(&mut wait);
        let of = |name| totals[names.iter().position(|known| *known == name).expect("a counter")];
        assert_eq!((of("accepted"), of("silent"), of("shed"), wait.len()), (2, 3, 1, 1));
    }
}

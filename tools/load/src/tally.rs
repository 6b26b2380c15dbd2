//! What one thread has counted and measured; tallies of several threads add up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use vestibule::stats::empty_histogram;

use crate::conn::{Conn, Failure, Outcome};
use crate::garbage::KINDS;
use crate::verify::Wrong;

/// How many wrong answers are kept as examples.
pub const EXAMPLES_MAX: usize = 5;

/// Times in microseconds: a histogram, whose buckets are up to a thousandth wide, and both ends exactly.
#[derive(Clone, Debug)]
pub struct Distribution {
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
}

/// Latencies, all measured from the intended start.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Until connect(2) was through.
    pub connect: Distribution,
    /// Until the first byte of the answer.
    pub first_byte: Distribution,
    /// Until the end of the connection.
    pub end: Distribution,
    /// Of those that the client started in time.
    pub in_time: InTime,
}

/// Of the connections that the client started within [`IN_TIME`] of their intended start: what is left of a latency when the
/// client's own pauses are not in it, since who waits for a client that is off its CPU mostly starts late, too.
#[derive(Clone, Debug, Default)]
pub struct InTime {
    /// Until the first byte of the answer.
    pub first_byte: Distribution,
    /// Until the end of the connection.
    pub end: Distribution,
}

/// How late a start may be that is in time.
pub const IN_TIME: Duration = Duration::from_micros(100);

/// Outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections started.
    pub started: u64,
    /// Went as they should.
    pub ok: u64,
    /// Got a wrong answer.
    pub wrong: u64,
    /// Got no answer to judge.
    pub failed: u64,
    /// Still open when the run was over.
    pub unfinished: u64,
}

/// One behaviour's part.
#[derive(Clone, Debug)]
pub struct Part {
    /// Outcomes.
    pub counts: Counts,
    /// Of the connections that were ok or got a wrong answer.
    pub latencies: Latencies,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Tally {
    /// In the order of the plan's behaviours.
    pub parts: Vec<Part>,
    /// Failures by phase and cause.
    pub failures: BTreeMap<Failure, u64>,
    /// Wrong answers by kind.
    pub wrongs: BTreeMap<Wrong, u64>,
    /// The first wrong answers, as text.
    pub examples: Vec<String>,
    /// Connections by header, in the order of the plan's headers.
    pub headers: Vec<u64>,
    /// Garbage sent, in the order of [`KINDS`].
    pub garbage: Vec<u64>,
    /// How long after its intended time a connection was started.
    pub lag: Distribution,
    /// Streams that the receiver ended with a FIN.
    pub fins: u64,
    /// Streams that the receiver ended by an RST.
    pub resets: u64,
    /// Bytes handed to the kernel.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Most connections open at once.
    pub open_max: usize,
    /// Starts that were due and never made.
    pub missed: u64,
    /// From the beginning to the last start, or to the end of the duration.
    pub starting: Duration,
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution { histogram: empty_histogram(), min: u64::MAX, max: 0 }
    }
}

impl Distribution {
    /// Adds a time.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(micros.max(1)); // its lowest value
        (self.min, self.max) = (self.min.min(micros), self.max.max(micros));
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Distribution) {
        self.histogram.add(&other.histogram).expect("both come from empty_histogram");
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.histogram.reset();
        (self.min, self.max) = (u64::MAX, 0);
    }

    /// The buckets.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The smallest, 0 if there is none.
    pub fn min(&self) -> u64 {
        if self.histogram.is_empty() { 0 } else { self.min }
    }

    /// The largest, 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The upper end of a quantile's bucket, as far as something was recorded.
    pub fn at(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile).min(self.max)
    }
}

impl Latencies {
    /// Records a connection that ended `now`.
    pub fn record(&mut self, conn: &Conn, now: Instant) {
        let after = |at: Instant| at.saturating_duration_since(conn.intended);
        if let Some(at) = conn.connected_at {
            self.connect.record(after(at));
        }
        if let Some(at) = conn.first_byte_at {
            self.first_byte.record(after(at));
        }
        self.end.record(after(now));
        if conn.late <= IN_TIME {
            conn.first_byte_at.into_iter().for_each(|at| self.in_time.first_byte.record(after(at)));
            self.in_time.end.record(after(now));
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Latencies) {
        self.connect.add(&other.connect);
        self.first_byte.add(&other.first_byte);
        self.end.add(&other.end);
        self.in_time.first_byte.add(&other.in_time.first_byte);
        self.in_time.end.add(&other.in_time.end);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.connect.reset();
        self.first_byte.reset();
        self.end.reset();
        self.in_time.first_byte.reset();
        self.in_time.end.reset();
    }
}

impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        self.started += other.started;
        self.ok += other.ok;
        self.wrong += other.wrong;
        self.failed += other.failed;
        self.unfinished += other.unfinished;
    }
}

impl Tally {
    /// An empty one.
    pub fn new(behaviours: usize, headers: usize) -> Tally {
        let part = Part { counts: Counts::default(), latencies: Latencies::default() };
        Tally {
            parts: vec![part; behaviours],
            failures: BTreeMap::new(),
            wrongs: BTreeMap::new(),
            examples: Vec::new(),
            headers: vec![0; headers],
            garbage: vec![0; KINDS.len()],
            lag: Distribution::default(),
            fins: 0,
            resets: 0,
            bytes_sent: 0,
            bytes_received: 0,
            open_max: 0,
            missed: 0,
            starting: Duration::ZERO,
        }
    }

    /// Counts a start.
    pub fn start(&mut self, behaviour: usize, late: Duration) {
        self.parts[behaviour].counts.started += 1;
        self.lag.record(late);
    }

    /// Counts an outcome; `Ok` and wrong ones still have to be recorded as latencies.
    pub fn finish(&mut self, behaviour: usize, outcome: Outcome) {
        let counts = &mut self.parts[behaviour].counts;
        match outcome {
            Outcome::Ok => counts.ok += 1,
            Outcome::Unfinished => counts.unfinished += 1,
            Outcome::Wrong(wrong) => {
                counts.wrong += 1;
                *self.wrongs.entry(wrong).or_default() += 1;
            }
            Outcome::Failed(failure) => {
                counts.failed += 1;
                *self.failures.entry(failure).or_default() += 1;
            }
        }
    }

    /// Outcomes of all behaviours.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.parts.iter().for_each(|part| counts.add(&part.counts));
        counts
    }

    /// Adds another thread's. `open_max` adds up too: the threads run at the same time.
    pub fn add(&mut self, other: &Tally) {
        for (part, more) in self.parts.iter_mut().zip(&other.parts) {
            part.counts.add(&more.counts);
            part.latencies.add(&more.latencies);
        }
        other.failures.iter().for_each(|(failure, count)| *self.failures.entry(*failure).or_default() += count);
        other.wrongs.iter().for_each(|(wrong, count)| *self.wrongs.entry(*wrong).or_default() += count);
        self.examples.extend(other.examples.iter().cloned());
        self.examples.truncate(EXAMPLES_MAX);
        self.headers.iter_mut().zip(&other.headers).for_each(|(count, more)| *count += more);
        self.garbage.iter_mut().zip(&other.garbage).for_each(|(count, more)| *count += more);
        self.lag.add(&other.lag);
        self.fins += other.fins;
        self.resets += other.resets;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.open_max += other.open_max;
        self.missed += other.missed;
        self.starting = self.starting.max(other.starting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_distribution_are_exact() {
        let mut distribution = Distribution::default();
        assert_eq!((distribution.min(), distribution.max(), distribution.at(0.5)), (0, 0, 0));
        // The bucket of both reaches from 2,998,272 to 3,000,319.
        for micros in [3_000_000, 3_000_100] {
            distribution.record(Duration::from_micros(micros));
        }
        assert_eq!((distribution.histogram().min(), distribution.histogram().max()), (2_998_272, 3_000_319));
        assert_eq!((distribution.min(), distribution.max()), (3_000_000, 3_000_100));
        assert_eq!(distribution.at(0.999), 3_000_100, "no percentile is beyond the last");
        let mut other = Distribution::default();
        other.record(Duration::ZERO);
        distribution.add(&other);
        assert_eq!((distribution.min(), distribution.max()), (0, 3_000_100));
        distribution.reset();
        distribution.record(Duration::from_micros(7));
        assert_eq!((distribution.min(), distribution.max()), (7, 7));
    }
}

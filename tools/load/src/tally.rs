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

/// Latencies in microseconds, all measured from the intended start.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// Until connect(2) was through.
    pub connect: Histogram<u64>,
    /// Until the first byte of the answer.
    pub first_byte: Histogram<u64>,
    /// Until the end of the connection.
    pub end: Histogram<u64>,
}

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
    /// How long after its intended time a connection was started, in microseconds.
    pub lag: Histogram<u64>,
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

impl Default for Latencies {
    fn default() -> Self {
        Latencies { connect: empty_histogram(), first_byte: empty_histogram(), end: empty_histogram() }
    }
}

impl Latencies {
    /// Records a connection that ended `now`.
    pub fn record(&mut self, conn: &Conn, now: Instant) {
        let record = |histogram: &mut Histogram<u64>, at: Instant| {
            histogram.saturating_record(micros(at.saturating_duration_since(conn.intended)));
        };
        if let Some(at) = conn.connected_at {
            record(&mut self.connect, at);
        }
        if let Some(at) = conn.first_byte_at {
            record(&mut self.first_byte, at);
        }
        record(&mut self.end, now);
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Latencies) {
        add(&mut self.connect, &other.connect);
        add(&mut self.first_byte, &other.first_byte);
        add(&mut self.end, &other.end);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.connect.reset();
        self.first_byte.reset();
        self.end.reset();
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
            lag: empty_histogram(),
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
        self.lag.saturating_record(micros(late));
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
        add(&mut self.lag, &other.lag);
        self.fins += other.fins;
        self.resets += other.resets;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.open_max += other.open_max;
        self.missed += other.missed;
        self.starting = self.starting.max(other.starting);
    }
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).expect("both come from empty_histogram");
}

/// At least 1: the histograms' lowest value.
fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1)
}

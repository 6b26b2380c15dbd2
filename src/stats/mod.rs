//! Counters and latency histograms, one writer each, merged only when somebody asks; and which events to log.
#![forbid(unsafe_code)]

mod repeats;

pub(crate) use repeats::{Noted, PassedOver, Repeats};

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of crate hdrhistogram, version 7: part of the public interface on purpose, since it says more of latencies than any wrapper
/// would.
pub use hdrhistogram::Histogram;

/// Longest latency that a histogram tells apart, in microseconds: one hour. Longer ones count as this.
pub const LATENCY_MAX_MICROS: u64 = 3_600_000_000;

/// Whether nothing is counted: a build for measuring what counting costs, and for nothing else.
pub(crate) const UNCOUNTED: bool = cfg!(vestibule_uncounted);

/// A table of counters with one writing thread: the writer pays a plain load and store, no locked instruction.
#[derive(Debug)]
pub(crate) struct Counters {
    cells: Box<[AtomicU64]>,
}

impl Counters {
    /// `len` counters at zero.
    pub fn new(len: usize) -> Counters {
        Counters { cells: (0..len).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Adds one. Only the owning thread may call it; a concurrent reader sees the old or the new value.
    pub fn bump(&self, index: usize) {
        if UNCOUNTED {
            return;
        }
        let cell = &self.cells[index];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The counter's value.
    pub fn get(&self, index: usize) -> u64 {
        self.cells[index].load(Ordering::Relaxed)
    }
}

/// A latency histogram in microseconds, three significant digits. The lock is free but for the moment of a snapshot. It takes
/// memory (188 KiB) from the second different duration on.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    histogram: Option<Histogram<u64>>,
    /// The last duration, and how many times in a row it came: not in the histogram yet. What a ring handles in one turn
    /// has mostly waited for the same time, and a histogram's memory is cold where a counter's is not.
    run: (u64, u64),
}

impl Latency {
    /// Records one duration.
    pub fn record(&self, took: Duration) {
        if UNCOUNTED {
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(LATENCY_MAX_MICROS).max(1);
        let mut recorded = self.lock();
        if recorded.run.0 == micros {
            recorded.run.1 += 1;
        } else {
            recorded.begin(micros);
        }
    }

    /// Takes its memory now.
    pub fn take_memory(&self) {
        self.lock().histogram.get_or_insert_with(empty_histogram);
    }

    /// Adds everything recorded so far to `total`, which must come from [`empty_histogram`].
    pub fn add_to(&self, total: &mut Histogram<u64>) {
        let recorded = self.lock();
        if let Some(histogram) = &recorded.histogram {
            total.add(histogram).expect("both histograms have the same bounds");
        }
        let (micros, times) = recorded.run;
        if times > 0 {
            total.saturating_record_n(micros, times);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        // A panic between lock and unlock cannot leave a histogram half updated in a way that matters.
        self.recorded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Recorded {
    /// A duration other than the last.
    fn begin(&mut self, micros: u64) {
        let (before, times) = std::mem::replace(&mut self.run, (micros, 1));
        if times > 0 {
            self.histogram.get_or_insert_with(empty_histogram).saturating_record_n(before, times);
        }
    }
}

/// An empty histogram from 1 microsecond to [`LATENCY_MAX_MICROS`].
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3).expect("the bounds are constants that fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_there_at_once_whether_or_not_it_is_as_the_last() {
        let latency = Latency::default();
        let micros = [0, 1, 5, 5, 5, 7, 5, 5, 2 * LATENCY_MAX_MICROS, LATENCY_MAX_MICROS];
        let mut expected = empty_histogram();
        for (nth, micros) in micros.into_iter().enumerate() {
            latency.record(Duration::from_micros(micros));
            expected.saturating_record(micros.max(1));
            let mut seen = empty_histogram();
            latency.add_to(&mut seen);
            assert_eq!((seen.len(), &seen), (nth as u64 + 1, &expected));
        }
    }
}

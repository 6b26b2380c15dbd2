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
/// memory (188 KiB) from the first duration on.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    histogram: Mutex<Option<Histogram<u64>>>,
}

impl Latency {
    /// Records one duration.
    pub fn record(&self, took: Duration) {
        if UNCOUNTED {
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(LATENCY_MAX_MICROS);
        self.lock().get_or_insert_with(empty_histogram).saturating_record(micros.max(1));
    }

    /// Takes its memory now.
    pub fn take_memory(&self) {
        self.lock().get_or_insert_with(empty_histogram);
    }

    /// Adds everything recorded so far to `total`, which must come from [`empty_histogram`].
    pub fn add_to(&self, total: &mut Histogram<u64>) {
        if let Some(recorded) = &*self.lock() {
            total.add(recorded).expect("both histograms have the same bounds");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Histogram<u64>>> {
        // A panic between lock and unlock cannot leave a histogram half updated in a way that matters.
        self.histogram.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An empty histogram from 1 microsecond to [`LATENCY_MAX_MICROS`].
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3).expect("the bounds are constants that fit")
}

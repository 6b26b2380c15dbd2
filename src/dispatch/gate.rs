//! Who waits for room in a full queue, and is woken once when it has drained to half.
//!
//! No wake-up is lost: who waits says so, then looks at the queue once more; a worker takes, then looks whether anybody
//! waits. Whichever comes second sees the other. `tests/loom` checks this in every order.

use std::sync::Arc;

use super::lock;
use super::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, fence};

/// Somebody to wake when a full queue has room again, or when its workers have gone: offer again to see which.
pub trait Wake: Send + Sync {
    /// Called from a worker thread; must not block.
    fn wake(&self);
}

/// The gate of one queue.
pub(super) struct Gate {
    low: usize,
    wanted: AtomicBool,
    sleepers: Mutex<Vec<Arc<dyn Wake>>>,
    workers: AtomicUsize,
}

impl Gate {
    /// Opens when no more than `low` connections wait.
    pub fn new(low: usize) -> Gate {
        Gate { low, wanted: AtomicBool::new(false), sleepers: Mutex::new(Vec::new()), workers: AtomicUsize::new(0) }
    }

    /// Asks for one wake-up; `false` if there is no need, or nobody who would give it. `len` tells how many wait now.
    pub fn wake_when_low(&self, sleeper: &Arc<dyn Wake>, len: impl Fn() -> usize) -> bool {
        let mut sleepers = lock(&self.sleepers);
        if !sleepers.iter().any(|known| Arc::ptr_eq(known, sleeper)) {
            sleepers.push(sleeper.clone());
        }
        self.wanted.store(true, Ordering::SeqCst);
        // With the one in `open`: whatever order the channel itself keeps, one of the two sees the other.
        fence(Ordering::SeqCst);
        // A worker that took the last connection before it could see `wanted` will not fire; look again ourselves.
        if len() <= self.low || self.workers.load(Ordering::SeqCst) == 0 {
            sleepers.retain(|known| !Arc::ptr_eq(known, sleeper));
            self.wanted.store(!sleepers.is_empty(), Ordering::SeqCst);
            return false;
        }
        true
    }

    /// A worker has taken one; so many are left.
    pub fn taken(&self, left: usize) {
        if left <= self.low {
            self.open();
        }
    }

    /// A worker comes.
    pub fn enter(&self) {
        self.workers.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether there is a worker.
    pub fn is_manned(&self) -> bool {
        self.workers.load(Ordering::SeqCst) > 0
    }

    /// A worker has gone, perhaps the last one.
    pub fn leave(&self) {
        self.workers.fetch_sub(1, Ordering::SeqCst);
        self.open();
    }

    fn open(&self) {
        fence(Ordering::SeqCst);
        if !self.wanted.load(Ordering::SeqCst) {
            return;
        }
        let sleepers = {
            let mut sleepers = lock(&self.sleepers);
            self.wanted.store(false, Ordering::SeqCst);
            std::mem::take(&mut *sleepers)
        };
        for sleeper in sleepers {
            sleeper.wake();
        }
    }
}

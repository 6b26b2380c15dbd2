//! How many connections an asynchronous pool serves at a time.

use std::sync::{Arc, PoisonError};

use crate::dispatch::sync::{Condvar, Mutex, MutexGuard};
use crate::dispatch::{Accepted, Intake};

/// Most connections at a time that a pool may be asked to serve.
pub(super) const SERVED_MAX: usize = 1 << 20;

/// A number of shares, taken by a thread that may block and given back by tasks, which may not.
pub(super) struct Quota {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: usize,
    /// Whether a thread waits on `freed`: a wake-up is a system call.
    awaited: bool,
}

/// The right to serve one connection; dropping it gives it back.
pub(super) struct Share(Arc<Quota>);

impl Quota {
    pub(super) fn new(count: usize) -> Arc<Quota> {
        Arc::new(Quota { state: Mutex::new(State { free: count, awaited: false }), freed: Condvar::new() })
    }

    /// Delivers the connections of a pool, each with a share, until its queue is closed and empty, or until `deliver`
    /// says that nobody takes them any more.
    pub(super) fn forward(self: &Arc<Self>, intake: &Intake, mut deliver: impl FnMut(Accepted, Share) -> bool) {
        loop {
            // The share comes first: without one, connections stay in the queue, where overload is noticed.
            let share = self.take();
            let Some(connection) = intake.recv() else { return };
            if !deliver(connection, share) {
                return;
            }
        }
    }

    /// Waits until all `count` shares that it was made with are free: nothing is served any more.
    #[cfg(feature = "tokio")] // the runtimes of tokio-uring wait for their tasks themselves
    pub(super) fn wait_until_free(&self, count: usize) {
        drop(self.wait_for(count));
    }

    /// Takes a share; waits while there is none. Only one thread may wait at a time.
    fn take(self: &Arc<Self>) -> Share {
        let mut state = self.wait_for(1);
        state.free -= 1;
        drop(state);
        Share(self.clone())
    }

    fn wait_for(&self, count: usize) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.free < count {
            state.awaited = true;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.awaited = false;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.free += 1;
        let awaited = state.awaited;
        drop(state);
        if awaited {
            self.0.freed.notify_one();
        }
    }
}

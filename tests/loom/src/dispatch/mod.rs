//! The library's `dispatch::{bell, gate}` on loom, and what stands in for its queue.

#[path = "../../../../src/dispatch/bell.rs"]
mod bell;
#[path = "../../../../src/dispatch/gate.rs"]
mod gate;
pub mod models;

pub mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
    pub use loom::thread::{self, Thread};
}

use sync::{Mutex, MutexGuard};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics")
}

/// A connection.
pub struct Accepted;

/// So many connections.
pub struct Intake(pub std::cell::Cell<usize>);

impl Intake {
    pub fn recv(&self) -> Option<Accepted> {
        let left = self.0.get().checked_sub(1)?;
        self.0.set(left);
        Some(Accepted)
    }
}

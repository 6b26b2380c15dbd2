//! From the engine to the workers: [`Accepted`], and the bounded queue of each pool.
//!
//! A queue is a crossbeam channel with a gate. When it is full the engine decides by the pool's [`Overload`]: it pauses
//! accepting and asks the gate to wake it when the queue has drained to half, or it aborts the newest connection. Workers
//! that have nothing to do sleep by a bell, which the engine rings once for all that it has queued in a turn.
#![forbid(unsafe_code)]

mod accepted;
mod bell;
mod bytes;
mod gate;
mod losses;
mod permit;
mod queue;
mod stream;
pub(crate) mod sync;
#[cfg(test)]
pub(crate) mod testing;

pub use accepted::{Accepted, Handoff, ListenerInfo, Socket, TlsInfo, TlsSession};
pub use bytes::INLINE_BYTES;
pub use gate::Wake;
pub use losses::Losses;
pub use permit::{Permit, Release};
pub use queue::{Intake, Overload, PoolRecord, Queue, Rejected, queue, queue_of};
pub use stream::{FINISH_BYTES_MAX, FINISH_PATIENCE_MAX, Stream};

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What runs a pool's connections: threads, a tokio runtime, ...
pub trait Workers: Send {
    /// Starts the workers; they take connections from `intake` until it is closed and empty.
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>>;
}

/// Workers that were started.
pub trait RunningWorkers: Send {
    /// Waits until all workers have ended, at most `limit`; tells whether they have. They end by themselves once their queue
    /// is closed and empty. May be asked again.
    fn join(&mut self, limit: Duration) -> bool;
}

/// A pool as it is configured: a name for listeners to refer to, a queue, and workers.
pub struct Pool {
    pub(crate) name: String,
    pub(crate) queue: usize,
    pub(crate) overload: Overload,
    pub(crate) exact: bool,
    pub(crate) workers: Box<dyn Workers>,
}

impl Pool {
    /// Default length of a pool's queue.
    pub const QUEUE_DEFAULT: usize = 1024;
    /// Longest queue that a pool may have.
    pub const QUEUE_MAX: usize = 1 << 20;

    /// A pool of any workers. Ready-made ones: `Pool::threads`, `Pool::tokio`, `Pool::tokio_uring`.
    pub fn new(name: impl Into<String>, workers: impl Workers + 'static) -> Pool {
        Pool {
            name: name.into(),
            queue: Pool::QUEUE_DEFAULT,
            overload: Overload::Pause,
            exact: false,
            workers: Box::new(workers),
        }
    }

    /// Length of the queue, 1..=[`Pool::QUEUE_MAX`]; values outside are clamped.
    pub fn queue(mut self, length: usize) -> Pool {
        self.queue = length.clamp(1, Pool::QUEUE_MAX);
        self
    }

    /// What happens when the queue is full.
    pub fn overload(mut self, overload: Overload) -> Pool {
        self.overload = overload;
        self
    }

    /// Leave the bytes behind the header in the socket (`residual = exact`): one more read a connection, for workers
    /// that can only take a plain socket.
    pub fn exact_residual(mut self) -> Pool {
        self.exact = true;
        self
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("overload", &self.overload)
            .finish_non_exhaustive()
    }
}

/// A lock over state that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

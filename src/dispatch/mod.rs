//! From the engine to the workers: [`Accepted`], and the bounded queue of each pool.
//!
//! A queue is a crossbeam channel with a gate. When it is full the engine decides by the pool's [`Overload`]: it pauses
//! accepting and asks the gate to wake it when the queue has drained to half, or it aborts the newest connection. Workers
//! that have nothing to do sleep by a bell, which the engine rings once for all that it has queued in a turn. A pool that is
//! served `Here`, by the rings, has neither queue nor bell.
#![forbid(unsafe_code)]

mod accepted;
mod bell;
mod builder;
mod bytes;
mod gate;
mod here;
mod incoming;
mod losses;
mod permit;
mod queue;
mod stream;
pub(crate) mod sync;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

pub(crate) use accepted::Handoff;
pub use accepted::{Accepted, ListenerInfo, Parts, Socket};
pub use builder::AcceptedBuilder;
pub use bytes::INLINE_BYTES;
pub(crate) use gate::Wake;
pub(crate) use here::Here;
pub use incoming::{Incoming, IntoIter};
pub use losses::Losses;
pub use permit::Permit;
pub(crate) use permit::Release;
#[cfg(test)]
pub(crate) use queue::queue;
pub use queue::{Intake, Next, Overload};
pub(crate) use queue::{PoolRecord, Queue, Rejected, queue_of};
pub use stream::{FINISH_BYTES_MAX, FINISH_PATIENCE_MAX, Stream};
pub(crate) use tls::{Cut, TlsFailure, TlsHandshake, TlsTerms};
pub use tls::{TLS_FEED_MAX, TLS_UNSENT_MAX, TlsInfo, TlsKeys, TlsRecords, TlsSession};

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use here::Hands;

/// What runs a pool's connections: threads, a tokio runtime, ...
pub trait Workers: Send {
    /// Starts the workers; they take connections from `intake` until it is closed and empty.
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>>;

    /// Whether they go on with a TLS session that has ended here ([`Parts::tls`]). Before workers that do not the ring goes on
    /// with it, and what they get is one end of a pair of Unix sockets (SOCK_STREAM) that speaks plaintext;
    /// [`Accepted::tls`] tells of the handshake all the same.
    fn carry_tls(&self) -> bool {
        true
    }
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
    place: Place,
}

/// Where connections are served.
enum Place {
    /// By workers with threads of their own.
    Elsewhere(Box<dyn Workers>),
    /// By the ring that has accepted them.
    Here(Hands),
    /// By the program, which pulls them.
    Pulled,
}

/// A ring's way into a pool.
#[derive(Clone, Debug)]
pub(crate) enum Entrance {
    /// To workers, by a queue.
    Queue(Queue),
    /// The ring serves.
    Here(Here),
}

/// Who serves behind an entrance.
pub(crate) enum Behind {
    /// Workers that are to be started, and their end of the queue.
    Idle(Box<dyn Workers>, Intake),
    /// The program, with what it pulls by.
    Program(Incoming, Box<dyn RunningWorkers>),
    /// Nobody who is not there already: the rings, or a program that pulls.
    Nobody,
}

impl Pool {
    /// Default length of a pool's queue.
    pub const QUEUE_DEFAULT: usize = 1024;
    /// Longest queue that a pool may have.
    pub const QUEUE_MAX: usize = 1 << 20;

    /// A pool of any workers. Ready-made ones: `Pool::threads`, `Pool::tokio`, `Pool::tokio_uring`; and `Pool::here`, which
    /// has none.
    pub fn new(name: impl Into<String>, workers: impl Workers + 'static) -> Pool {
        Pool::at(name.into(), Place::Elsewhere(Box::new(workers)))
    }

    /// A pool that every ring serves itself.
    pub(crate) fn of_rings(name: String, hands: Hands) -> Pool {
        Pool::at(name, Place::Here(hands))
    }

    fn at(name: String, place: Place) -> Pool {
        Pool { name, queue: Pool::QUEUE_DEFAULT, overload: Overload::Pause, exact: false, place }
    }

    /// A pool whose connections the program pulls, in an accept loop of its own: see [`Incoming`].
    ///
    /// ```
    /// use vestibule::{Engine, Listener, Pool};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut engine = Engine::builder()
    ///     .pool(Pool::incoming("imap"))
    ///     .listen(Listener::proxy("127.0.0.1:0".parse()?).trust(["127.0.0.0/8".parse()?]).pool("imap"))
    ///     .start()?;
    /// let incoming = engine.incoming("imap").expect("nobody has taken it yet");
    /// let accept_loop = std::thread::spawn(move || {
    ///     for connection in incoming {
    ///         println!("{}", connection.client());
    ///     }
    /// });
    /// // ... until the server is told to stop.
    /// assert!(engine.drain(std::time::Duration::from_secs(30)));
    /// accept_loop.join().expect("no panic");
    /// # Ok(())
    /// # }
    /// ```
    pub fn incoming(name: impl Into<String>) -> Pool {
        Pool::at(name.into(), Place::Pulled)
    }

    /// Whether the program pulls its connections.
    pub(crate) fn is_pulled(&self) -> bool {
        matches!(self.place, Place::Pulled)
    }

    /// Whether it goes on with a TLS session.
    pub(crate) fn carries_tls(&self) -> bool {
        match &self.place {
            Place::Elsewhere(workers) => workers.carry_tls(),
            Place::Here(_) | Place::Pulled => true,
        }
    }

    /// The way in, and who is behind it. `record` is where they count; `present` is the queue of a pool of the same name that
    /// the program pulls already: it goes on if it can, and nobody new is behind it then.
    pub(crate) fn open(self, record: Arc<PoolRecord>, present: Option<&Queue>) -> (Entrance, Behind) {
        let queue = |record| {
            let (queue, intake) = queue_of(record, self.queue, self.overload);
            (Entrance::Queue(queue), intake)
        };
        match self.place {
            Place::Elsewhere(workers) => {
                let (entrance, intake) = queue(record);
                (entrance, Behind::Idle(workers, intake))
            }
            Place::Pulled => match present.filter(|present| present.can_go_on(self.queue, self.overload)) {
                Some(present) => (Entrance::Queue(present.clone()), Behind::Nobody),
                None => {
                    let (entrance, intake) = queue(record);
                    let (incoming, pullers) = Incoming::new(intake);
                    (entrance, Behind::Program(incoming, Box::new(pullers)))
                }
            },
            Place::Here(hands) => (Entrance::Here(Here::new(hands, record)), Behind::Nobody),
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

//! The bounded queue between the rings and one pool's workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::Accepted;
use crate::stats::Latency;

/// What happens to connections while a pool's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Stop accepting; the kernel's backlog holds new connections until the queue has drained to half.
    Pause,
    /// Abort the newest connection.
    Reject,
}

/// Somebody to wake when a full queue has room again.
pub trait Wake: Send + Sync {
    /// Called from a worker thread; must not block.
    fn wake(&self);
}

/// Why a connection was not queued; the connection comes back.
#[derive(Debug)]
pub enum Rejected {
    /// No room.
    Full(Accepted),
    /// The workers are gone.
    Closed(Accepted),
}

/// A queue of at most `capacity` connections for the pool called `name`.
pub fn queue(name: &str, capacity: usize, overload: Overload) -> (Queue, Intake) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let gate = Arc::new(Gate { low: capacity / 2, wanted: AtomicBool::new(false), sleepers: Mutex::new(Vec::new()) });
    let waits = Arc::new(Mutex::new(Vec::new()));
    let queue = Queue { name: name.into(), sender, overload, gate: gate.clone(), waits: waits.clone() };
    (queue, Intake::new(receiver, gate, waits))
}

/// The engine's end.
#[derive(Clone)]
pub struct Queue {
    name: Arc<str>,
    sender: Sender<Accepted>,
    overload: Overload,
    gate: Arc<Gate>,
    waits: Arc<Mutex<Vec<Arc<Latency>>>>,
}

impl Queue {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to do when it is full.
    pub fn overload(&self) -> Overload {
        self.overload
    }

    /// Hands a connection over, or gives it back. Never blocks.
    pub fn offer(&self, connection: Accepted) -> Result<(), Box<Rejected>> {
        self.sender.try_send(connection).map_err(|error| {
            Box::new(match error {
                TrySendError::Full(connection) => Rejected::Full(connection),
                TrySendError::Disconnected(connection) => Rejected::Closed(connection),
            })
        })
    }

    /// Asks for one wake-up when the queue has drained to half. Returns `false` if it already has: then nobody will
    /// wake `sleeper`, and the caller tries again at once.
    pub fn wake_when_low(&self, sleeper: &Arc<dyn Wake>) -> bool {
        let mut sleepers = lock(&self.gate.sleepers);
        if !sleepers.iter().any(|known| Arc::ptr_eq(known, sleeper)) {
            sleepers.push(sleeper.clone());
        }
        self.gate.wanted.store(true, Ordering::SeqCst);
        // A worker that took the last connection before it could see `wanted` will not fire; look again ourselves.
        if self.sender.len() <= self.gate.low {
            sleepers.retain(|known| !Arc::ptr_eq(known, sleeper));
            self.gate.wanted.store(!sleepers.is_empty(), Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Connections waiting for a worker.
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }

    /// Adds the time from accept to worker of every connection so far to `total`.
    pub fn add_waits_to(&self, total: &mut hdrhistogram::Histogram<u64>) {
        for wait in lock(&self.waits).iter() {
            wait.add_to(total);
        }
    }
}

/// The workers' end; every worker has a clone of its own.
pub struct Intake {
    receiver: Receiver<Accepted>,
    gate: Arc<Gate>,
    waits: Arc<Mutex<Vec<Arc<Latency>>>>,
    wait: Arc<Latency>,
}

impl Intake {
    fn new(receiver: Receiver<Accepted>, gate: Arc<Gate>, waits: Arc<Mutex<Vec<Arc<Latency>>>>) -> Intake {
        let wait = Arc::new(Latency::default());
        lock(&waits).push(wait.clone());
        Intake { receiver, gate, waits, wait }
    }

    /// Waits for the next connection; `None` once the engine has closed the queue and it is empty.
    pub fn recv(&self) -> Option<Accepted> {
        let connection = self.receiver.recv().ok()?;
        self.gate.taken(self.receiver.len());
        self.wait.record(Instant::now().saturating_duration_since(connection.accepted_at()));
        Some(connection)
    }
}

impl Clone for Intake {
    fn clone(&self) -> Self {
        Intake::new(self.receiver.clone(), self.gate.clone(), self.waits.clone())
    }
}

struct Gate {
    low: usize,
    wanted: AtomicBool,
    sleepers: Mutex<Vec<Arc<dyn Wake>>>,
}

impl Gate {
    fn taken(&self, left: usize) {
        if left <= self.low && self.wanted.load(Ordering::SeqCst) {
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
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Threads that compute handshakes in a ring's place, for certificates whose signatures are expensive.
//!
//! ```text
//! ring --Task, bounded--> threads --Fed, bounded by what that ring has given--> the same ring, which is woken
//! ```
//! A ring reads and sends itself; what a thread gets is the handshake and the bytes of one read. It finds its way back by slot
//! and generation, into a queue that only this ring has: of a connection that has ended meanwhile, or whose ring has, it is
//! dropped.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::conn::SlotId;
use crate::dispatch::{TlsFailure, TlsHandshake, Wake};
use crate::engine::tally::{Count, Tally};

/// Most threads that compute handshakes.
pub const HANDSHAKE_THREADS_MAX: u32 = 64;
/// Steps that may wait for each of them: at 5 ms a signature, a second and a quarter.
const WAITING_A_THREAD: usize = 256;

/// The threads of an engine. They end when no ring and nobody else can give them anything.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// `None` once no further ring is to be made.
    entrance: Option<Entrance>,
}

/// The way to them.
#[derive(Clone, Debug)]
pub struct Entrance {
    steps: Sender<Task>,
    threads: usize,
}

/// One step of a handshake: bytes of the client, and the way back.
pub struct Task {
    slot: SlotId,
    handshake: Box<dyn TlsHandshake>,
    bytes: Box<[u8]>,
    back: Sender<Fed>,
    ring: Arc<dyn Wake>,
}

/// A step that a thread has done.
pub struct Fed {
    /// Whose.
    pub slot: SlotId,
    /// `None` if its own code has panicked.
    pub handshake: Option<Box<dyn TlsHandshake>>,
    /// What came of it.
    pub result: Result<(), TlsFailure>,
}

/// What a ring has given to threads.
pub struct Given {
    entrance: Entrance,
    back: Sender<Fed>,
    done: Receiver<Fed>,
    ring: Arc<dyn Wake>,
    tally: Arc<Tally>,
    /// Not taken back yet.
    count: usize,
}

impl Threads {
    /// So many threads that wait for something to do.
    ///
    /// # Errors
    /// The system refuses one; the others end.
    pub fn start(count: usize) -> io::Result<Threads> {
        let (entrance, steps) = Entrance::new(count, count * WAITING_A_THREAD);
        let mut threads = Threads { handles: Vec::with_capacity(count), entrance: Some(entrance) };
        for number in 0..count {
            let steps = steps.clone();
            let body = move || steps.iter().for_each(Task::run);
            threads.handles.push(thread::Builder::new().name(format!("handshake-{number}")).spawn(body)?);
        }
        Ok(threads)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The way to them for a ring; `None` if there is none.
    pub fn entrance(&self) -> Option<Entrance> {
        self.entrance.clone().filter(|_| !self.handles.is_empty())
    }

    /// No ring will be made any more: they end with the last of those that there are.
    pub fn close(&mut self) {
        self.entrance = None;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

impl Entrance {
    /// The way to `threads` threads, before which `room` steps may wait.
    pub fn new(threads: usize, room: usize) -> (Entrance, Receiver<Task>) {
        let (steps, inbox) = crossbeam_channel::bounded(room);
        (Entrance { steps, threads }, inbox)
    }

    /// What one ring may have with the threads at a time: as many as fit.
    fn most(&self) -> usize {
        self.steps.capacity().unwrap_or(0) + self.threads
    }
}

impl Task {
    /// Does it, and tells the ring.
    pub fn run(self) {
        let Task { slot, mut handshake, bytes, back, ring } = self;
        let fed = catch_unwind(AssertUnwindSafe(move || {
            let result = handshake.feed(&bytes);
            Fed { slot, handshake: Some(handshake), result }
        }));
        let fed = fed.unwrap_or_else(|_| Fed { slot, handshake: None, result: Err(panicked()) });
        // Nobody is there if the ring has ended; there is room for all that it has given.
        if back.try_send(fed).is_ok() {
            ring.wake();
        }
    }
}

impl Given {
    /// Nothing yet. `ring` is woken for what comes back; `tally` counts what did not find room.
    pub fn new(entrance: Entrance, ring: Arc<dyn Wake>, tally: Arc<Tally>) -> Given {
        let (back, done) = crossbeam_channel::bounded(entrance.most());
        Given { entrance, back, done, ring, tally, count: 0 }
    }

    /// Gives a step away; the handshake comes back if the threads have no room for it.
    pub fn give(
        &mut self,
        slot: SlotId,
        handshake: Box<dyn TlsHandshake>,
        bytes: &[u8],
    ) -> Result<(), Box<dyn TlsHandshake>> {
        if self.count >= self.entrance.most() || self.entrance.steps.is_full() {
            self.tally.count(Count::TlsThreadsFull);
            return Err(handshake);
        }
        let step = Task { slot, handshake, bytes: bytes.into(), back: self.back.clone(), ring: self.ring.clone() };
        match self.entrance.steps.try_send(step) {
            Ok(()) => {
                self.count += 1;
                Ok(())
            }
            Err(TrySendError::Full(step) | TrySendError::Disconnected(step)) => {
                self.tally.count(Count::TlsThreadsFull);
                Err(step.handshake)
            }
        }
    }

    /// One that is done.
    pub fn take_back(&mut self) -> Option<Fed> {
        // The channel is only asked if something may be there.
        let fed = (self.count > 0).then(|| self.done.try_recv().ok()).flatten()?;
        self.count -= 1;
        Some(fed)
    }

    /// Whether there is one that is done.
    pub fn has_some_back(&self) -> bool {
        self.count > 0 && !self.done.is_empty()
    }
}

fn panicked() -> TlsFailure {
    TlsFailure { code: Some("internal"), is_how_checks_end: false, words: "internal error: a panic".to_owned() }
}

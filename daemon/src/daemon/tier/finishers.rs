//! Threads on which engines end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use crossbeam_channel::{Receiver, Sender};

/// Threads on which engines end. One exists from the start: a process that may have no more threads must still end in
/// order. Others are made when it is busy, and while they cannot be had, an engine waits for its turn.
pub(super) struct Finishers {
    work: Sender<Work>,
    inbox: Receiver<Work>,
    /// Those that wait for work, less the work that waits for them.
    idle: Arc<AtomicIsize>,
}

/// What one of them does.
type Work = Box<dyn FnOnce() + Send>;

impl Finishers {
    /// The first of them.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start() -> io::Result<Finishers> {
        let (work, inbox) = crossbeam_channel::unbounded(); // one for each of `finishing`
        let finishers = Finishers { work, inbox, idle: Arc::new(AtomicIsize::new(0)) };
        finishers.add()?;
        Ok(finishers)
    }

    fn add(&self) -> io::Result<()> {
        let (inbox, idle) = (self.inbox.clone(), self.idle.clone());
        let body = move || {
            for work in inbox {
                work();
                idle.fetch_add(1, Ordering::AcqRel);
            }
        };
        std::thread::Builder::new().name("finisher".into()).spawn(body)?;
        self.idle.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Gives them work.
    pub(super) fn run(&self, work: Work) {
        if self.idle.load(Ordering::Acquire) <= 0
            && let Err(error) = self.add()
        {
            tracing::warn!("no thread for an engine that ends: it waits for the one before: {error}");
        }
        self.idle.fetch_sub(1, Ordering::AcqRel);
        let _ = self.work.send(work); // a receiver is kept here
    }
}

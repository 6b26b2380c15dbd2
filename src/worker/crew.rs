//! Named threads that end by themselves, waited for with a limit.

use std::convert::Infallible;
use std::io;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::dispatch::RunningWorkers;

/// The kernel cuts a thread's name to 15 bytes; of the pool's name this many leave room for a number.
const POOL_NAME_SHOWN: usize = 11;

/// Threads of one pool. Each holds a sender that nobody sends on: when all are gone, so are the threads.
pub(super) struct Crew {
    pool: String,
    count: usize,
    /// `None` once nobody else is to start.
    member: Option<Sender<Infallible>>,
    gone: Receiver<Infallible>,
}

impl Crew {
    pub(super) fn new(pool: &str) -> Crew {
        let (member, gone) = crossbeam_channel::bounded(0);
        Crew { pool: pool.into(), count: 0, member: Some(member), gone }
    }

    /// Starts the next thread; it is called `pool/0`, `pool/1`, ...
    pub(super) fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let name = format!("{:.POOL_NAME_SHOWN$}/{}", self.pool, self.count);
        let member = self.member.clone();
        let work = move || {
            work();
            drop(member);
        };
        thread::Builder::new().name(name).spawn(work)?;
        self.count += 1;
        Ok(())
    }
}

impl RunningWorkers for Crew {
    fn join(&mut self, limit: Duration) -> bool {
        // Its own end, or the others would never be the last.
        self.member = None;
        matches!(self.gone.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_waits_for_all_and_gives_up_at_the_limit() {
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        let mut crew = Crew::new("managesieve-login");
        for _ in 0..3 {
            let wait = wait.clone();
            crew.spawn(move || assert!(wait.recv().is_err())).expect("a thread starts");
        }
        assert!(!crew.join(Duration::from_millis(20)), "the threads still wait");
        drop(release);
        assert!(crew.join(Duration::from_secs(10)));
    }

    #[test]
    fn a_panic_ends_the_thread_and_is_no_longer_waited_for() {
        let mut crew = Crew::new("p");
        crew.spawn(|| panic!("a worker's own")).expect("a thread starts");
        assert!(crew.join(Duration::from_secs(10)));
    }
}

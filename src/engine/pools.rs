//! The real sink: the pools' queues.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::acceptor::{Declined, Sink};
use crate::dispatch::{Accepted, Handoff, Overload, Queue, Rejected, Wake};
use crate::ring::Waker;

/// Connections that a ring may queue in one turn before it wakes workers, which may be idle on other CPUs.
const SILENT_MAX: usize = 64;

/// One ring's ends of all pools' queues.
pub struct Pools {
    /// `None` once a pool is closed; its place is taken by the next.
    pools: Vec<Option<Entrance>>,
    sleeper: Arc<dyn Wake>,
}

struct Entrance {
    queue: Queue,
    /// Connections queued since the pool's bell was rung.
    silent: usize,
}

impl Pools {
    /// `waker` gets the ring's attention when a queue has room again.
    pub fn new(waker: Waker) -> Pools {
        Pools { pools: Vec::new(), sleeper: Arc::new(waker) }
    }

    /// Adds a pool and tells its index.
    pub fn open(&mut self, queue: Queue) -> usize {
        let index = self.pools.iter().position(Option::is_none).unwrap_or(self.pools.len());
        self.pools.resize_with(self.pools.len().max(index + 1), || None);
        self.pools[index] = Some(Entrance { queue, silent: 0 });
        index
    }

    fn entrance(&mut self, pool: usize) -> &mut Entrance {
        self.pools[pool].as_mut().expect("doors name open pools only")
    }
}

impl Entrance {
    fn wake_workers(&mut self) {
        if std::mem::take(&mut self.silent) > 0 {
            self.queue.wake_workers();
        }
    }
}

impl Wake for Waker {
    fn wake(&self) {
        Waker::wake(self);
    }
}

impl Sink<OwnedFd> for Pools {
    fn offer(&mut self, pool: usize, handoff: Handoff, bytes: &[u8]) -> Result<(), Box<Declined<OwnedFd>>> {
        let entrance = self.entrance(pool);
        entrance.queue.offer(Accepted::new(handoff, bytes)).map_err(|rejected| {
            Box::new(match *rejected {
                Rejected::Full(connection) => Declined::Full(connection.into_handoff()),
                Rejected::Closed(connection) => Declined::Closed(connection.into_handoff()),
            })
        })?;
        entrance.silent += 1;
        if entrance.silent >= SILENT_MAX {
            entrance.wake_workers();
        }
        Ok(())
    }

    fn wake_workers(&mut self) {
        self.pools.iter_mut().flatten().for_each(Entrance::wake_workers);
    }

    fn overload(&self, pool: usize) -> Overload {
        self.pools[pool].as_ref().map_or(Overload::Reject, |entrance| entrance.queue.overload())
    }

    fn wake_when_low(&mut self, pool: usize) -> bool {
        let sleeper = self.sleeper.clone();
        self.entrance(pool).queue.wake_when_low(&sleeper)
    }

    fn close(&mut self, pool: usize) {
        if let Some(mut entrance) = self.pools[pool].take() {
            entrance.wake_workers();
        }
    }
}

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
    pools: Vec<Entrance>,
    sleeper: Arc<dyn Wake>,
}

struct Entrance {
    queue: Queue,
    /// Connections queued since the pool's bell was rung.
    silent: usize,
}

impl Pools {
    /// `waker` gets the ring's attention when a queue has room again.
    pub fn new(queues: Vec<Queue>, waker: Waker) -> Pools {
        let pools = queues.into_iter().map(|queue| Entrance { queue, silent: 0 }).collect();
        Pools { pools, sleeper: Arc::new(waker) }
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
        let entrance = &mut self.pools[pool];
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
        self.pools.iter_mut().for_each(Entrance::wake_workers);
    }

    fn overload(&self, pool: usize) -> Overload {
        self.pools[pool].queue.overload()
    }

    fn wake_when_low(&mut self, pool: usize) -> bool {
        self.pools[pool].queue.wake_when_low(&self.sleeper)
    }
}

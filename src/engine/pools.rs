//! The real sink: the pools' queues, and handlers that run on the ring.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::acceptor::{Declined, Sink};
use crate::dispatch::{Accepted, Entrance, Handoff, Overload, Queue, Rejected, Wake};
use crate::ring::Waker;

/// Connections that a ring may queue in one turn before it wakes workers, which may be idle on other CPUs.
const SILENT_MAX: usize = 64;

/// One ring's ways into all pools.
pub struct Pools {
    /// `None` once a pool is closed; its place is taken by the next.
    pools: Vec<Option<Way>>,
    sleeper: Arc<dyn Wake>,
}

struct Way {
    entrance: Entrance,
    /// Connections queued since the pool's bell was rung.
    silent: usize,
}

impl Pools {
    /// `waker` gets the ring's attention when a queue has room again.
    pub fn new(waker: Waker) -> Pools {
        Pools { pools: Vec::new(), sleeper: Arc::new(waker) }
    }

    /// Adds a pool and tells its index.
    pub fn open(&mut self, entrance: Entrance) -> usize {
        let index = self.pools.iter().position(Option::is_none).unwrap_or(self.pools.len());
        self.pools.resize_with(self.pools.len().max(index + 1), || None);
        self.pools[index] = Some(Way { entrance, silent: 0 });
        index
    }

    fn way(&mut self, pool: usize) -> &mut Way {
        self.pools[pool].as_mut().expect("doors name open pools only")
    }
}

impl Way {
    fn offer(&mut self, connection: Accepted, now: Instant) -> Result<(), Box<Rejected>> {
        let queue = match &self.entrance {
            Entrance::Queue(queue) => queue,
            Entrance::Here(here) => {
                here.serve(connection, now);
                return Ok(());
            }
        };
        queue.offer(connection)?;
        self.silent += 1;
        if self.silent >= SILENT_MAX {
            self.wake_workers();
        }
        Ok(())
    }

    fn wake_workers(&mut self) {
        if std::mem::take(&mut self.silent) > 0
            && let Some(queue) = self.queue()
        {
            queue.wake_workers();
        }
    }

    fn queue(&self) -> Option<&Queue> {
        match &self.entrance {
            Entrance::Queue(queue) => Some(queue),
            Entrance::Here(_) => None,
        }
    }
}

impl Drop for Way {
    /// A ring that fails may have queued something in its last turn and not have said so.
    fn drop(&mut self) {
        self.wake_workers();
    }
}

impl Wake for Waker {
    fn wake(&self) {
        Waker::wake(self);
    }
}

impl Sink<OwnedFd> for Pools {
    fn offer(
        &mut self,
        pool: usize,
        handoff: Handoff,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Box<Declined<OwnedFd>>> {
        self.way(pool).offer(Accepted::new(handoff, bytes), now).map_err(|rejected| {
            Box::new(match *rejected {
                Rejected::Full(connection) => Declined::Full(connection.into_handoff()),
                Rejected::Closed(connection) => Declined::Closed(connection.into_handoff()),
            })
        })
    }

    fn wake_workers(&mut self) {
        self.pools.iter_mut().flatten().for_each(Way::wake_workers);
    }

    fn overload(&self, pool: usize) -> Overload {
        self.pools[pool].as_ref().and_then(Way::queue).map_or(Overload::Reject, Queue::overload)
    }

    fn wake_when_low(&mut self, pool: usize) -> bool {
        let sleeper = self.sleeper.clone();
        self.way(pool).queue().is_some_and(|queue| queue.wake_when_low(&sleeper))
    }

    fn close(&mut self, pool: usize) {
        self.pools[pool] = None;
    }
}

//! The real sink: the pools' queues.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::acceptor::{Declined, Sink};
use crate::dispatch::{Accepted, Handoff, Overload, Queue, Rejected, Wake};
use crate::ring::Waker;

/// One ring's ends of all pools' queues.
pub struct Pools {
    queues: Vec<Queue>,
    sleeper: Arc<dyn Wake>,
}

impl Pools {
    /// `waker` gets the ring's attention when a queue has room again.
    pub fn new(queues: Vec<Queue>, waker: Waker) -> Pools {
        Pools { queues, sleeper: Arc::new(waker) }
    }
}

impl Wake for Waker {
    fn wake(&self) {
        Waker::wake(self);
    }
}

impl Sink<OwnedFd> for Pools {
    fn offer(&mut self, pool: usize, handoff: Handoff, bytes: &[u8]) -> Result<(), Box<Declined<OwnedFd>>> {
        self.queues[pool].offer(Accepted::new(handoff, bytes)).map_err(|rejected| {
            Box::new(match *rejected {
                Rejected::Full(connection) => Declined::Full(connection.into_handoff()),
                Rejected::Closed(connection) => Declined::Closed(connection.into_handoff()),
            })
        })
    }

    fn overload(&self, pool: usize) -> Overload {
        self.queues[pool].overload()
    }

    fn wake_when_low(&mut self, pool: usize) -> bool {
        self.queues[pool].wake_when_low(&self.sleeper)
    }
}

//! Places at servers that are granted to sessions of other rings: a session ends on one ring, and one that waits on another
//! gets its place.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::service::SharedBackend;
use crate::backend::Grant;
use crate::ring::Waker;

/// The boxes of all rings.
#[derive(Clone, Debug)]
pub struct Mail {
    boxes: Arc<[Letterbox]>,
}

/// A box holds at most one grant for each session that waits: as many as the backends' queues allow.
#[derive(Debug, Default)]
struct Letterbox {
    grants: Mutex<Vec<(SharedBackend, Grant)>>,
    waker: OnceLock<Waker>,
}

impl Mail {
    /// Empty boxes, one a ring.
    pub fn new(rings: usize) -> Mail {
        Mail { boxes: (0..rings).map(|_| Letterbox::default()).collect() }
    }

    /// How a ring is woken for its mail.
    pub fn attend(&self, ring: usize, waker: Waker) {
        // A ring has one waker for its life.
        let _ = self.boxes[ring].waker.set(waker);
    }

    /// Sends a grant to the ring of the session that it is for.
    pub fn send(&self, backend: &SharedBackend, grant: Grant) {
        let letterbox = &self.boxes[grant.waiter.ring as usize];
        letterbox.lock().push((backend.clone(), grant));
        if let Some(waker) = letterbox.waker.get() {
            waker.wake();
        }
    }

    /// Takes what has come for a ring.
    pub fn take(&self, ring: usize) -> Vec<(SharedBackend, Grant)> {
        std::mem::take(&mut *self.boxes[ring].lock())
    }

    /// What is there for a ring.
    #[cfg(test)]
    pub fn peek(&self, ring: usize) -> Vec<(SharedBackend, Grant)> {
        self.boxes[ring].lock().clone()
    }
}

impl Letterbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(SharedBackend, Grant)>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

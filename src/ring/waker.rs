//! How other threads get a ring's attention.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::sys;

/// Wakes one ring; cheap to clone, usable from any thread. Its completion is `Completion::Woken`.
#[derive(Clone, Debug)]
pub struct Waker(Arc<File>);

impl Waker {
    /// A waker for a ring that is still to be made.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(File::from(sys::eventfd()?))))
    }

    /// Wakes the ring. Calls that come before the ring has looked count as one.
    pub fn wake(&self) {
        // Fails only if the counter is at its maximum: then the ring is about to wake anyway.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

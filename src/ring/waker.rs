//! How other threads get a ring's attention.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::opcode;
use io_uring::types::Fd;

use super::core::Core;
use super::sys;
use super::token::Token;

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

    /// Takes note of all calls so far. Waits for one if there was none.
    pub(super) fn rest(&self) {
        // What fails is tried again: it goes on being told.
        let _ = (&*self.0).read(&mut [0; size_of::<u64>()]);
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The ring's end of a waker.
pub struct Bell {
    waker: Waker,
    /// Where the eventfd's counter is read to. No box: one that moves is not to be written to by a pointer of before.
    counter: NonNull<u64>,
    /// That read is in flight.
    armed: bool,
}

impl Bell {
    /// Not armed yet.
    pub fn new(waker: Waker) -> Bell {
        Bell { waker, counter: NonNull::from(Box::leak(Box::new(0))), armed: false }
    }

    /// Lets the ring know when the waker is used next.
    pub fn arm(&mut self, core: &mut Core) {
        let into = self.counter.as_ptr().cast();
        let entry = opcode::Read::new(Fd(self.waker.fd()), into, size_of::<u64>() as u32).build();
        // SAFETY: the counter is touched by nobody else, and it stays for good if the read does not end.
        unsafe { core.push(entry, Token::Wake) };
        self.armed = true;
    }

    /// The read has ended.
    pub fn rung(&mut self) {
        self.armed = false;
    }

    /// Whether the kernel has given the counter back.
    pub fn is_at_rest(&self) -> bool {
        !self.armed
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if !self.armed {
            // SAFETY: it was a box, nothing else refers to it, and the kernel has given it back.
            drop(unsafe { Box::from_raw(self.counter.as_ptr()) });
        }
    }
}

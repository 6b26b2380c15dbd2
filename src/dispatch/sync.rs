//! What the wake protocols are made of. `tests/loom` compiles them with loom's in the place of these, and goes through every
//! order in which threads can run.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
#[cfg(any(feature = "tokio", feature = "tokio-uring"))]
pub(crate) use std::sync::{Condvar, MutexGuard};
pub(crate) use std::thread::{self, Thread};

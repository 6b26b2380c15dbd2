//! What workers do with validated connections: the [`Handler`] trait, the pools that run it, and ready-made handlers.
//!
//! A pool is made by `Pool::threads`, `Pool::tokio` (feature `tokio`) or `Pool::tokio_uring` (feature `tokio-uring`), or by
//! `Pool::here` of a handler that never waits, or by `Pool::hand_off` of other processes.
//! Ready-made are [`Discard`], and with feature `whoami` [`Whoami`].
#![forbid(unsafe_code)]

mod crew;
mod discard;
mod finisher;
mod hand_off;
mod here;
#[cfg(any(feature = "tokio", feature = "tokio-uring"))]
mod quota;
#[cfg(test)]
mod testing;
mod threads;
#[cfg(feature = "tokio")]
mod tokio;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
#[cfg(feature = "whoami")]
mod whoami;

pub use discard::Discard;
pub use finisher::{FINISHING_MAX, Finisher};
pub use hand_off::{
    CAPACITY_MAX, HandOff, MODE_DEFAULT, RECORD_FIXED, RECORD_FIXED_TLS, TAKE_PATIENCE_DEFAULT,
    VERSION as HAND_OFF_VERSION,
};
pub use threads::THREADS_MAX;
#[cfg(feature = "tokio-uring")]
pub use tokio_uring::UringStream;
#[cfg(feature = "whoami")]
pub use whoami::Whoami;

use crate::dispatch::Accepted;

/// Serves one connection at a time; shared by all threads of a pool.
pub trait Handler: Send + Sync + 'static {
    /// Serves the connection. Dropping it closes it; a panic costs this connection only.
    fn handle(&self, connection: Accepted);
}

impl<F: Fn(Accepted) + Send + Sync + 'static> Handler for F {
    fn handle(&self, connection: Accepted) {
        self(connection);
    }
}

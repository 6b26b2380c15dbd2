//! A pool on the rings themselves.

use std::sync::Arc;

use super::Handler;
use crate::dispatch::Pool;

impl Pool {
    /// A pool without workers: `handler` runs on the ring that has accepted the connection, as soon as that has passed both
    /// doors. Nothing is queued, nobody is woken, and no byte changes its core: what it costs is what the handler does.
    /// So there is no `queue` and no `overload`, which have no effect here.
    ///
    /// **The handler must not block**: while it runs its ring does nothing else, and up to 1024 connections may have come at
    /// once. It may look at the connection, compute for some microseconds, send what fits into the socket's buffer
    /// (with MSG_DONTWAIT: the socket is in blocking mode), close, and give the connection away: to a channel, to another
    /// process, or to a [`Finisher`](crate::worker::Finisher), which sends what is left and waits for the client. It must not
    /// read from the socket or write to it in blocking mode, sleep, resolve a name, open a file on a disk, or wait for a lock
    /// that somebody holds for long. A debug build warns of a handler that took 100 ms.
    ///
    /// When the handler panics its connection is closed, the panic is logged and counted, and the ring goes on.
    ///
    /// ```
    /// use vestibule::{Accepted, Pool};
    ///
    /// // Counts and closes: nothing here can wait.
    /// let seen = std::sync::atomic::AtomicU64::new(0);
    /// let pool = Pool::here("count", move |connection: Accepted| {
    ///     seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    ///     drop(connection);
    /// });
    /// ```
    pub fn here(name: impl Into<String>, handler: impl Handler) -> Pool {
        Pool::of_rings(name.into(), Arc::new(move |connection| handler.handle(connection)))
    }
}

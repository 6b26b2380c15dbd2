//! What workers do with validated connections: the [`Handler`] trait and the pools that run it.
#![forbid(unsafe_code)]

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

//! Why an engine did not start, with the remedy.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::engine::listener::Listener;
use crate::engine::locked::Kib;
use crate::ring::SetupError;

/// Why an engine did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A listener names a pool that was not added.
    NoSuchPool {
        /// The listener's address.
        listener: SocketAddr,
        /// The name.
        pool: String,
    },
    /// A listener could not be bound.
    Bind {
        /// Where.
        address: SocketAddr,
        /// The listener's name, if it has one.
        name: Option<String>,
        /// Why.
        error: io::Error,
    },
    /// The limit on locked memory leaves no room for a ring.
    LockedMemory {
        /// The limit, in bytes.
        limit: u64,
        /// What one ring needs at least.
        needed: u64,
    },
    /// io_uring is not available, or no driver at all.
    Ring(SetupError),
    /// The system refused a thread, a descriptor or the like.
    System(io::Error),
}

impl StartError {
    pub(super) fn of_listener(listener: &Listener, error: io::Error) -> StartError {
        StartError::Bind { address: listener.address, name: listener.name.clone(), error }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoSuchPool { listener, pool } => {
                write!(f, "the listener on {listener} names the pool '{pool}', which does not exist")
            }
            StartError::Bind { address, name, error } => {
                write!(f, "cannot listen on {address}")?;
                if let Some(name) = name {
                    write!(f, " ({name})")?;
                }
                write!(f, ": {error}{}", remedy(error))
            }
            StartError::LockedMemory { limit, needed } => {
                let (limit, needed) = (Kib(*limit), Kib(*needed));
                write!(
                    f,
                    "a ring needs {needed} of locked memory at least, and locked_memory_limit is {limit}: raise it, or say \
                     driver = epoll, which locks none"
                )
            }
            StartError::Ring(error) => error.fmt(f),
            StartError::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: `ss -ltnp` tells which",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::NoSuchPool { .. } | StartError::LockedMemory { .. } => None,
            StartError::Ring(error) => Some(error),
            StartError::Bind { error, .. } | StartError::System(error) => Some(error),
        }
    }
}

//! Which driver an engine's threads run on: io_uring, or epoll where that is forbidden.

use std::fmt;
use std::sync::Arc;
use std::thread;

use crate::ring::{Epoll, Native, Ring, SetupError};

/// Which driver to use (`driver`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// io_uring; epoll where this process cannot have it, whatever its limits: a filter of system calls, a sysctl or the
    /// kernel forbids it.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// The driver that an engine's threads run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverInUse {
    pub(super) kind: Kind,
    /// Why it is not the one that was tried first.
    instead: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    IoUring,
    Epoll,
}

impl DriverChoice {
    /// Decides. With [`DriverChoice::Auto`] io_uring is tried.
    ///
    /// Where the system is only short of something it stays io_uring, and the start says what is missing.
    pub fn decide(self) -> DriverInUse {
        let refused = match self {
            DriverChoice::IoUring => None,
            DriverChoice::Epoll => return DriverInUse { kind: Kind::Epoll, instead: None },
            DriverChoice::Auto => probe().err().filter(SetupError::rules_io_uring_out),
        };
        let kind = if refused.is_some() { Kind::Epoll } else { Kind::IoUring };
        DriverInUse { kind, instead: refused.map(|error| error.to_string().into()) }
    }

    /// Whether an engine on that driver does what this asks for.
    pub(super) fn allows(self, present: &DriverInUse) -> bool {
        match self {
            DriverChoice::Auto => true,
            DriverChoice::IoUring => present.kind == Kind::IoUring,
            DriverChoice::Epoll => present.kind == Kind::Epoll,
        }
    }
}

/// Tries io_uring on a thread that ends: the kernel, done with a ring some time after it was closed, interrupts a system call
/// of the thread that had made it, and this one may be the embedding server's.
fn probe() -> Result<(), SetupError> {
    let tried = thread::Builder::new().name("probe".into()).spawn(Ring::probe);
    tried.map_or(Ok(()), |tried| tried.join().unwrap_or(Ok(())))
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverChoice::Auto => "auto",
            DriverChoice::IoUring => Ring::NAME,
            DriverChoice::Epoll => Epoll::NAME,
        })
    }
}

impl DriverInUse {
    /// Its name: `io_uring` or `epoll`.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::IoUring => Ring::NAME,
            Kind::Epoll => Epoll::NAME,
        }
    }

    /// Why it is epoll where io_uring was tried first, with the remedy; `None` if it is what was asked for.
    pub fn instead(&self) -> Option<&str> {
        self.instead.as_deref()
    }

    /// Whether its threads keep memory locked.
    pub(super) fn locks_memory(&self) -> bool {
        self.kind == Kind::IoUring
    }

    /// Says once what is not as one would expect.
    pub(super) fn tell(&self) {
        if let Some(reason) = &self.instead {
            tracing::warn!(
                "runs on epoll, which costs some more CPU: {reason} (driver = epoll says that it is meant so)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_had() {
        let [auto, ring, epoll] =
            [DriverChoice::Auto, DriverChoice::IoUring, DriverChoice::Epoll].map(|choice| choice.decide());
        assert_eq!((ring.name(), ring.instead()), ("io_uring", None));
        assert_eq!((epoll.name(), epoll.instead()), ("epoll", None));
        assert_eq!(auto.instead().is_some(), auto.name() == "epoll");
        assert!(DriverChoice::Auto.allows(&ring) && DriverChoice::Auto.allows(&epoll));
        assert!(DriverChoice::Epoll.allows(&epoll) && !DriverChoice::Epoll.allows(&ring));
    }
}

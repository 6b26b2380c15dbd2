//! Takeover: a new process, perhaps of a new version and with another configuration, takes the place of the running
//! one, and nobody is refused or lost.
//!
//! A program with one engine needs an [`Upgradable`] and nothing else. What that one does, in pieces, for programs that
//! have more to hand over: the running process makes an [`Offer`], with a [`Host`] that does what is asked of it; the
//! new one has a [`Claim`], whose success leaves it with a [`Predecessor`]. `docs/takeover.md` has the protocol, byte
//! by byte.
//!
//! ```text
//! old: Offer::serve                            new: Claim::connect
//!   |<------------- Hello, version --------------|  has checked its configuration
//!   |-------- Welcome, Sockets with fds -------->|  Claim::equip: binds what is missing, starts its rings: both accept
//!   |<------------------ Serving ----------------|  Claim::take_over
//!   |  stops accepting, cancels reads            |
//!   |----- Pending, Sessions with fds ---------->|
//!   |----- Clients, Account, End --------------->|
//!   |<------------------- Taken -----------------|  reads on; has a Predecessor
//!   |----------------- Account ----------------->|  every second, while the old one finishes what its workers hold,
//!   |  leaves                                    |  and for the last time before it leaves
//!   |<------------------ Leaving ----------------|  only if the new one is told to end before
//! ```
//! `Sessions` are relayed sessions, with the sockets of both sides; a predecessor of version 1 knows none and keeps its
//! own.
//!
//! An `Account` is all that the old process, and those before it, have counted so far. It takes the place of the one
//! before, so that nothing is counted twice, whatever is lost. One of version 2 tells none.
//!
//! Until `Serving` nothing has happened to the old process. Until `Taken` it keeps a descriptor of everything that it
//! gives, and nobody reads: if the new process fails or dies, the old one goes on with all of it. After that it still
//! keeps the listening sockets until it leaves, and accepts again should the new process die before, unless that one
//! has said that it ends on purpose. So the addresses are served as long as one of the two lives and is to serve.
//!
//! Never do both believe that they serve, however long one of them is held up. A step that is late is refused, in a
//! message that has a time of its own; `Taken` either reaches the old process, or cannot be sent any more
//! (the old one shuts its end before it goes on). The new one takes a connection that closes for the old one's
//! death only if the process has ended.
//!
//! Somebody may also connect only to [`ask`] what the running process has counted; he is answered between takeovers.
//!
//! How the new process is started is up to the program: by hand, by a service manager, or by the old one.
#![forbid(unsafe_code)]

mod ask;
mod channel;
mod claim;
mod error;
#[cfg(test)]
mod fate;
mod legacy;
mod offer;
mod place;
mod predecessor;
mod upgradable;
mod wire;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use ask::ask;
pub use claim::{Claim, Taken};
pub use error::Error;
pub use legacy::Legacy;
pub use offer::{Given, Host, Offer, Offered, Outcome};
pub use place::Place;
pub use predecessor::Predecessor;
pub use upgradable::{Ended, Upgradable};
pub use wire::Form;

/// How long each step may take. Of one step the new process's patience ends before the old one's, which begins later: a
/// process that was held up finds out by itself that it is too late, and has not served by then. Both processes should
/// have the same.
///
/// ```
/// use std::time::Duration;
/// use vestibule::takeover::Limits;
///
/// // One that reads large files between its sockets and its first connection.
/// let limits = Limits::default().start(Duration::from_secs(300));
/// # let _ = limits;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until one who connects has said what he wants.
    hello: Duration,
    /// From there until the new process serves.
    start: Duration,
    /// From there until the new process has the pending connections, as the old one sees it.
    pending: Duration,
    /// The same as the new one sees it: shorter.
    taking: Duration,
}

impl Limits {
    /// How long the new process may take from the sockets to serving; 30 s if nothing is said. Meanwhile the old one
    /// accepts, and answers nobody else who asks.
    pub fn start(self, limit: Duration) -> Limits {
        Limits { start: limit, ..self }
    }

    /// How long the hand-over may take, during which nobody reads; 10 s if nothing is said, of which the new process
    /// has 8.
    pub fn hand_over(self, limit: Duration) -> Limits {
        Limits { pending: limit, taking: limit * 4 / 5, ..self }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let hello = Duration::from_secs(5);
        let limits = Limits { hello, start: Duration::ZERO, pending: Duration::ZERO, taking: Duration::ZERO };
        limits.start(Duration::from_secs(30)).hand_over(Duration::from_secs(10))
    }
}

/// A lock over state that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

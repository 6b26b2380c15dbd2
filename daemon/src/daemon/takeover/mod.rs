//! Takeover: a new process, perhaps of a new version and with another configuration, takes the place of the running one.
//!
//! ```text
//! old: takeover_socket                         new: --takeover PATH
//!   |<------------- Hello, version --------------|  checked its configuration
//!   |-------- Welcome, Sockets with fds -------->|  binds what is missing, starts its rings: both accept
//!   |<------------------ Serving ----------------|
//!   |  stops accepting, cancels reads            |
//!   |----- Pending, Sessions with fds ---------->|
//!   |----- Clients, Account, End --------------->|
//!   |<------------------- Taken -----------------|  reads on
//!   |----------------- Account ----------------->|  every second, while the old one finishes what its workers hold,
//!   |  leaves                                    |  and for the last time before it leaves
//!   |<------------------ Leaving ----------------|  only if the new one is told to end before
//! ```
//! `Sessions` are relayed sessions, with the sockets of both sides; a predecessor of version 1 knows none and keeps its own.
//!
//! An `Account` is all that the old process, and those before it, have counted so far. It takes the place of the one before,
//! so that nothing is counted twice, whatever is lost. One of version 2 tells none.
//!
//! Until `Serving` nothing has happened to the old process. Until `Taken` it keeps a descriptor of everything that it
//! gives, and nobody reads: if the new process fails or dies, the old one goes on with all of it. After that it still
//! keeps the listening sockets until it leaves, and accepts again should the new process die before, unless that one has
//! said that it ends on purpose. So the addresses are served as long as one of the two lives and is to serve.
//!
//! Never do both believe that they serve, however long one of them is held up. A step that is late is refused, in a
//! message that has a time of its own; `Taken` either reaches the old process, or cannot be sent any more
//! ([`Channel::receive_or_hang_up`](channel::Channel)). The new one takes a connection that closes for the old one's
//! death only if the process has ended.
//!
//! Somebody may also connect only to [`ask`] what the running process has counted; he is answered between takeovers.
//!
//! SIGUSR2 lets the old process start the new one itself ([`successor`]). [`wire`] is the format, [`channel`] carries it,
//! [`offer`] is the old process's side, [`claim`] the new one's.

mod ask;
mod channel;
mod claim;
#[cfg(test)]
mod fate;
mod offer;
pub mod successor;
mod wire;

use std::time::Duration;

pub use ask::ask;
pub use claim::{Claim, Taken};
pub use offer::{Given, Offered, Place, Predecessor, Purpose, answer, may_ask};
pub use wire::Form;

/// How long each step may take. Of one step the new process's patience ends before the old one's, which begins later: a
/// process that was held up finds out by itself that it is too late, and has not served by then.
#[derive(Clone, Copy, Debug)]
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
    /// Those of a daemon.
    pub const USUAL: Limits = Limits {
        hello: Duration::from_secs(5),
        start: Duration::from_secs(30),
        pending: Duration::from_secs(10),
        taking: Duration::from_secs(8),
    };
}

const _: () = assert!(Limits::USUAL.taking.as_secs() < Limits::USUAL.pending.as_secs());

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

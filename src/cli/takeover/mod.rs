//! Takeover: a new process, perhaps of a new version and with another configuration, takes the place of the running one.
//!
//! ```text
//! old: takeover_socket                         new: --takeover PATH
//!   |<------------- Hello, version --------------|  checked its configuration
//!   |-------- Welcome, Sockets with fds -------->|  binds what is missing, starts its rings: both accept
//!   |<------------------ Serving ----------------|
//!   |  stops accepting, cancels reads            |
//!   |-------- Pending with fds ..., End -------->|
//!   |<------------------- Taken -----------------|  reads on
//!   |  finishes what its workers hold, leaves    |
//! ```
//! Until `Serving` nothing has happened to the old process. Until `Taken` it keeps a descriptor of everything that it
//! gives, and nobody reads: if the new process fails or dies, the old one goes on with all of it. After that it still
//! keeps the listening sockets until it leaves, and accepts again should the new process die before. So the addresses
//! are served as long as one of the two lives.
//!
//! SIGUSR2 lets the old process start the new one itself ([`successor`]). [`wire`] is the format, [`channel`] carries it,
//! [`offer`] is the old process's side, [`claim`] the new one's.

mod channel;
mod claim;
mod offer;
pub mod successor;
mod wire;

use std::time::Duration;

pub use claim::Claim;
pub use offer::{Offered, Place, Predecessor, answer};

/// How long one who connects may take to say what he wants.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long a new process may take from there until it serves.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the pending connections may take from one process to the other.
const PENDING_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;

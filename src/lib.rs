//! Vestibule: the front of a mail cluster. It accepts connections that carry a PROXY protocol header, on io_uring, and carries
//! each on to a mail server, or hands it to workers.
//!
//! ```text
//!            one pinned thread per ring
//! kernel --CQE--> ring --Completion--> engine --peer | bytes, now--> conn --bytes--> proxy --Decoded
//!    ^                                   |                             |--peer-----> admission  door 1: before any read
//!    '--SQE-- read, cancel, accept <-----'<--------- Action -----------'--header---> admission  door 2: after the header
//!                                        |-- Accepted{fd, peer, header, residual} --> dispatch --channel--> worker pool
//!                                        '-- session, on this ring --> backend: whose turn, relay: a pair of halves
//! ```
//!
//! An [`Engine`] is built from [`Pool`]s of workers and [`Listener`]s that name them. Every connection arrives at a
//! [`Handler`] as an [`Accepted`]: the socket, the client's address as the header conveys it, the header with its TLVs,
//! and the bytes that came behind it.
//!
//! ```
//! use std::time::Duration;
//! use vestibule::{Accepted, Engine, Listener, Pool};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let balancers = "127.0.0.0/8".parse()?;
//! let mut engine = Engine::builder()
//!     .pool(Pool::threads("imap", 4, |connection: Accepted| {
//!         println!("{} came through {}", connection.client(), connection.peer());
//!     }))
//!     .listen(Listener::proxy("127.0.0.1:0".parse()?).trust([balancers]).pool("imap"))
//!     .start()?;
//! println!("serving on {:?}", engine.addresses());
//! // ... until the server is told to stop.
//! assert!(engine.drain(Duration::from_secs(30)));
//! # Ok(())
//! # }
//! ```
//!
//! The decoder alone is [`proxy::decode`]: bytes in, a value out, no sockets, clock or allocation; it is a crate of its own,
//! `vestibule-proxy`. [`config`] reads Dovecot's syntax into settings; to make an engine of them is up to the program (the
//! daemon's way is `daemon/src/daemon/plan.rs`). [`Engine::replace`] puts another configuration in force while the rings go on, and [`Engine::set_trust`],
//! [`Engine::set_bans`] and [`Engine::set_limits`] change one thing of it. An [`engine::Relay`] takes the place of a
//! pool whose connections go on to a backend. Another process takes over by [`takeover`], which passes on what
//! [`Engine::sockets`], [`Engine::hand_over`] and their like give.
//!
//! Features, none by default: `tokio` and `tokio-uring` bring pools on those runtimes, `tls` brings the module of that name, `whoami` a
//! handler for tests. The daemon is another package, `vestibule-daemon`.
//!
//! What always holds:
//! - every accepted descriptor ends exactly once: dispatched, closed, or handed over to another process;
//! - the kernel writes only to memory that the ring owns, and a buffer in flight is out of safe code's reach;
//! - a completion is matched by slot and generation; a stale one touches nothing;
//! - work per turn, slots, buffers, header size and queues are bounded by named limits.
//!
//! Which module may know what: `docs/architecture.md`, held by a test.
#![deny(unsafe_code)]

pub mod admission;
pub mod backend;
pub mod config;
pub mod conn;
pub mod dispatch;
pub mod engine;
pub mod metrics;
pub mod net;
pub mod relay;
#[doc(hidden)] // serves the engine and the bundled tools; no part of the public interface
pub mod ring;
pub mod stats;
pub mod takeover;
#[cfg(feature = "tls")]
pub mod tls;
pub mod worker;

pub use dispatch::{Accepted, Pool};
pub use engine::{Engine, Listener};
pub use vestibule_proxy as proxy;
pub use worker::Handler;

/// The version of this crate and, if it was built in its own repository, the commit: `0.1.0 (0123456789)`, with `-dirty`
/// behind the commit if the sources differed from it.
pub const VERSION: &str = env!("VESTIBULE_VERSION");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

//! Vestibule: the entrance hall of a mail cluster.
#![deny(unsafe_code)]

pub mod admission;
pub mod config;
pub mod conn;
pub mod dispatch;
pub mod engine;
pub mod net;
pub mod proxy;
#[doc(hidden)] // serves the engine and the bundled tools; no part of the public interface
pub mod ring;
mod scan;
pub mod stats;
pub mod worker;

pub use dispatch::{Accepted, Pool};
pub use engine::{Engine, Listener};
pub use worker::Handler;

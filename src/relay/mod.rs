//! One relayed session, pure: what a client of a mail cluster and the server that serves it say to each other through us.
//!
//! Nothing in here knows a ring, a socket, the clock, or how a server is chosen: bytes and the time come in, bytes and
//! decisions go out.
#![forbid(unsafe_code)]

mod protocol;
mod target;

pub use protocol::Protocol;
pub use target::{Forward, Target};

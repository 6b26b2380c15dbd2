//! One relayed session, pure: what a client of a mail cluster and the server that serves it say to each other through us.
//!
//! Nothing in here knows a ring, a socket, the clock, or how a server is chosen: bytes and the time come in, bytes and
//! decisions go out.
#![forbid(unsafe_code)]

mod courtesy;
mod protocol;
mod session;
mod target;
mod words;

pub use courtesy::courtesy;
pub use protocol::Protocol;
pub use session::{SESSION_ID_MAX, SessionId};
pub use target::{Forward, Target};

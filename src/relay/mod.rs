//! One relayed session, pure: what a client of a mail cluster and the server that serves it say to each other through us.
//!
//! Nothing in here knows a ring, a socket, the clock, or how a server is chosen: bytes and the time come in, bytes and
//! decisions go out.
#![forbid(unsafe_code)]

mod courtesy;
mod end;
mod pair;
mod protocol;
mod session;
mod target;
mod wheel;

pub use courtesy::courtesy;
pub use end::End;
pub use pair::{Flow, Pair, Received, Sent, Side, WINDOW_MAX, WINDOW_MIN, Wire};
pub use protocol::Protocol;
pub use session::{SESSION_ID_MAX, SessionId};
pub use target::{Forward, Target};
pub use wheel::{TICK, Wheel};

/// Most bytes that are said to a server before it gets the client's own: a header, and the client's bytes that came behind the
/// one that it brought.
pub const OPENING_MAX: usize = 64 * 1024;

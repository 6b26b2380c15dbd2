//! One relayed session, pure: what a client of a mail cluster and the server that serves it say to each other through us.
//!
//! Nothing in here knows a ring, a socket, the clock, or how a server is chosen: bytes and the time come in, bytes and
//! decisions go out.
#![forbid(unsafe_code)]

mod announce;
mod course;
mod courtesy;
mod end;
mod filter;
mod pair;
mod preface;
mod protocol;
mod session;
mod target;
mod wheel;
mod words;

pub use announce::{
    Announce, Announced, CheckHeader, Facts, Finding, ForwardTlvs, HEADER_MAX, Kinds, Preset, Severity, Terms, Tls,
    VENDOR_TLVS_MAX, Whom, ZeroPort, findings, largest_header,
};
pub use course::Course;
pub use courtesy::courtesy;
pub use end::End;
pub use filter::{CLIENT_LINE_MAX, COMMAND_MAX, Failure, Filter, HELD_MAX, PIPELINE_MAX, REFUSED, SERVER_LINE_MAX};
pub use pair::{Flow, HalfState, Pair, PairState, Received, Sent, Side, WINDOW_MAX, WINDOW_MIN, Wire};
pub use preface::{EXCHANGE_MAX, HELLO_NAME_MAX, Preface, Progress, Refusal};
pub use protocol::Protocol;
pub use session::{SESSION_ID_MAX, SessionId};
pub use target::{Forward, Target};
pub use wheel::{TICK, Wheel};

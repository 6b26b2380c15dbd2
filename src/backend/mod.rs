//! Who can serve, pure: the servers of a backend, their state and load, and whose turn it is.
//!
//! Nothing in here knows a ring, a socket, or the clock: the time is a parameter.
#![forbid(unsafe_code)]

mod settings;
mod stub;
pub use stub::*;

pub use settings::{
    AdminState, Balance, CheckKind, CheckSettings, QUEUE_MAX, RETRIES_MAX, SERVERS_MAX, STICK_TABLE_MAX,
    ServerSettings, Settings, StickSettings, WEIGHT_MAX,
};

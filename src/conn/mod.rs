//! One connection on its way through the vestibule, sans-io: bytes and the time come in, an `Action` goes out.
//!
//! ```text
//!            handle_read            handle_read
//!  start --> AwaitingBytes --...--> (AwaitingConsume) --> Dispatch | Close
//! ```
//! `Waiting` is the state of one header, `Slab` the table of slots with their generations, `Deadlines` who waits how
//! long. None of them knows sockets, rings or the clock: the caller passes `now`, and keeps what it likes in a slot.
#![forbid(unsafe_code)]

mod deadlines;
mod ending;
mod handed;
mod shedding;
mod slab;
mod v1_words;
mod waiting;
mod wording;

pub(crate) use deadlines::Deadlines;
pub use ending::Ending;
pub(crate) use handed::{Handed, describe_handed, describe_oddity};
pub(crate) use shedding::{household, of_the_most};
pub(crate) use slab::{GENERATION_BITS, Slab, SlotId};
pub use waiting::Terms;
pub(crate) use waiting::{Action, Admitted, How, Waiting};
pub(crate) use wording::{Record, SHOWN_MAX, Severity, Wording, describe, lazy_header_advice};

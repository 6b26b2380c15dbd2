//! The two doors. Door 1 judges the peer before a byte is read; door 2 judges the complete header by the listener's
//! settings. Both are pure: addresses and a header in, a verdict out.
#![forbid(unsafe_code)]

mod policy;

pub use policy::{OnUnknown, OnUnspec, Policy};

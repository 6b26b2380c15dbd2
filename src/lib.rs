//! Vestibule: the entrance hall of a mail cluster.
#![deny(unsafe_code)]

pub mod admission;
pub mod dispatch;
pub mod net;
pub mod proxy;
pub mod stats;
pub mod worker;

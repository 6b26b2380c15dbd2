//! The kernel edge: everything that talks to io_uring or calls libc stands in here, and nothing in here knows the
//! PROXY protocol.
#![allow(unsafe_code)]

pub mod client;

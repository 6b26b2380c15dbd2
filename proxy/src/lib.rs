//! The PROXY protocol, versions 1 and 2: bytes in, a value out.
//!
//! [`decode`] is a pure function of the bytes received so far; an [`Encoder`] writes a header into a buffer. Neither knows sockets,
//! clocks or policy, allocates, or panics. Without feature `std` the crate needs nothing but `core`.
//!
//! ```
//! use vestibule_proxy::{Decoded, Rules, decode};
//!
//! let received = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\na LOGIN";
//! let Decoded::Complete(header) = decode(received, &Rules::default()) else { panic!("it is complete") };
//! assert_eq!(header.source(), Some("198.51.100.7:5000".parse().unwrap()));
//! assert_eq!(&received[header.len()..], b"a LOGIN");
//! ```
//!
//! With feature `tokio` [`tokio::read_header`] takes the header off a stream, within a deadline.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

#[cfg(all(feature = "tokio", not(test)))]
extern crate std;

mod proxy;
mod scan;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use proxy::*;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

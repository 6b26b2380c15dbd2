//! TLS that ends here, pure: bytes of the client go in, records for it come out; certificates, names and what clients have
//! to show; and what is wrong with a handshake that fails, in words.
//!
//! Nothing in here knows a socket, a ring or the clock. The engine gives a handshake the bytes that a client has sent, sends
//! what comes of it, and hands the session over to whoever serves; see [`Listener::tls`](crate::Listener::tls).
//!
//! What one connection may hold has limits: before the first byte nothing but its own state; in the handshake
//! [`HANDSHAKE_BYTES_MAX`]; in a session what it was fed at once and a record, and
//! [`TLS_UNSENT_MAX`](crate::dispatch::TLS_UNSENT_MAX) that nobody has taken yet.
#![forbid(unsafe_code)]

mod cipher;
mod clients;
#[cfg(test)]
mod cost;
mod failure;
mod handshake;
mod identity;
mod keys;
mod names;
mod pem;
mod session;
mod subject;
mod termination;
#[cfg(test)]
mod tests;

pub use clients::ClientAuthorities;
pub use handshake::HANDSHAKE_BYTES_MAX;
pub use identity::{Identity, PEM_FILE_MAX, TlsError};
#[doc(hidden)] // held against Dovecot by tests
pub use names::is_matched;
/// Version 0.23: part of the public interface on purpose, by the errors of [`TlsError`].
pub use rustls;
pub use termination::{HANDSHAKE_TIMEOUT_DEFAULT, HANDSHAKE_TIMEOUT_MAX, Termination, alpn_of_service};

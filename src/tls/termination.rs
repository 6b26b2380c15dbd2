//! What a listener with TLS shows and speaks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::Identity;
use super::handshake::Handshake;
use crate::dispatch::{TlsHandshake, TlsTerms};

/// From the header, or the accept where there is none, until the session must stand.
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest that can be set: what is longer is taken for it.
pub const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// The protocols that clients of a service name in ALPN; none for a service unknown here.
pub fn alpn_of_service(service: &str) -> &'static [&'static str] {
    match service.trim_end_matches("-login") {
        "imap" => &["imap"],
        "pop3" => &["pop3"],
        "submission" => &["submission"],
        "managesieve" => &["managesieve"],
        _ => &[],
    }
}

/// TLS as it ends at a listener: see [`Listener::tls`](crate::Listener::tls).
#[derive(Clone)]
pub struct Termination {
    config: Arc<ServerConfig>,
    /// Whether the names in clients' certificates can be believed.
    verifies_clients: bool,
    timeout: Duration,
    to_kernel: bool,
}

impl Termination {
    /// Shows `identity` and speaks the protocols `alpn`; an empty list switches ALPN off, otherwise a client that
    /// offers only others is refused (RFC 7301, section 3.2).
    pub fn new(identity: &Identity, alpn: &[&str]) -> Termination {
        Termination {
            config: Arc::new(identity.server_config(alpn)),
            verifies_clients: identity.verifies_clients(),
            timeout: HANDSHAKE_TIMEOUT_DEFAULT,
            to_kernel: false,
        }
    }

    /// Another limit than [`HANDSHAKE_TIMEOUT_DEFAULT`] for the whole handshake, at most [`HANDSHAKE_TIMEOUT_MAX`]: one
    /// deadline, which bytes that trickle in do not move.
    pub fn timeout(mut self, timeout: Duration) -> Termination {
        self.timeout = timeout.min(HANDSHAKE_TIMEOUT_MAX);
        self
    }

    /// Lets the kernel go on with relayed sessions behind the handshake (kTLS), where it can (module `tls`): such a session can
    /// be taken over by another process. One whose client renews its keys afterwards (KeyUpdate, which mail clients do not
    /// use) is ended. Off otherwise.
    pub fn to_kernel(mut self, on: bool) -> Termination {
        self.to_kernel = on;
        Arc::make_mut(&mut self.config).enable_secret_extraction = on;
        self
    }
}

impl TlsTerms for Termination {
    fn begin(&self) -> Box<dyn TlsHandshake> {
        Box::new(Handshake::new(self.config.clone(), self.verifies_clients))
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn to_kernel(&self) -> bool {
        self.to_kernel
    }
}

impl fmt::Debug for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Termination").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_their_protocols() {
        for (service, protocols) in [("imap-login", &["imap"][..]), ("pop3", &["pop3"]), ("lmtp", &[])] {
            assert_eq!(alpn_of_service(service), protocols);
        }
    }

    #[test]
    fn no_timeout_is_too_long_to_be_set() {
        let identity = Identity::self_signed(&["mail.example"]).expect("a good name");
        assert_eq!(Termination::new(&identity, &[]).timeout(Duration::MAX).timeout, HANDSHAKE_TIMEOUT_MAX);
    }
}

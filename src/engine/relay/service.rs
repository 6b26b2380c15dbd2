//! What a relay is to be like, as the engine's user describes it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Settings};
use crate::relay::{Forward, Protocol, Target};

/// `idle_timeout` where nothing is set: IMAP clients in IDLE may be silent for 29 minutes (RFC 2177).
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(31 * 60);
/// `login_proxy_timeout` where nothing is set.
pub const GREETING_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// `half_closed_timeout` where nothing is set.
pub const HALF_CLOSED_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// `login_proxy_max_disconnect_delay` where nothing is set.
pub const DISCONNECT_DELAY_DEFAULT: Duration = Duration::from_secs(30);

/// The servers of a backend, shared by everyone who chooses one of them.
#[derive(Clone, Debug)]
pub struct SharedBackend {
    name: Arc<str>,
    state: Arc<Mutex<Backend>>,
}

impl SharedBackend {
    /// All servers up, and nobody served.
    pub fn new(settings: Settings) -> SharedBackend {
        let name = settings.name.as_str().into();
        // Any seed will do that clients cannot guess: where the process was put, and the time.
        let seed = std::ptr::from_ref(&settings) as u64 ^ u64::from(std::process::id()).rotate_left(32);
        SharedBackend { name, state: Arc::new(Mutex::new(Backend::new(settings, seed, Instant::now()))) }
    }

    /// One whose every choice is decided by `seed`.
    #[cfg(test)]
    pub fn seeded(settings: Settings, seed: u64, now: Instant) -> SharedBackend {
        let name = settings.name.as_str().into();
        SharedBackend { name, state: Arc::new(Mutex::new(Backend::new(settings, seed, now))) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The servers and their state. Rings wait for whoever holds this: for moments only.
    pub fn lock(&self) -> MutexGuard<'_, Backend> {
        // Whoever panicked in between has left a count that is off by one at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool whose connections are served by the rings themselves: each goes on to a server of a backend.
#[derive(Clone, Debug)]
pub struct Relay {
    pub(super) terms: Terms,
}

/// The terms of a session, the same for all of a service.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The service's name, by which listeners name the pool.
    pub name: Arc<str>,
    pub backend: SharedBackend,
    pub protocol: Protocol,
    pub forward: Forward,
    pub target: Target,
    pub idle_timeout: Duration,
    pub greeting_timeout: Duration,
    pub half_closed_timeout: Duration,
    pub disconnect_delay: Duration,
    pub sources: Arc<[IpAddr]>,
    pub log_sessions: bool,
}

impl Relay {
    /// A relay to a backend, which listeners name by `name`.
    pub fn new(name: &str, backend: &SharedBackend) -> Relay {
        let terms = Terms {
            name: name.into(),
            backend: backend.clone(),
            protocol: Protocol::of_service(name),
            forward: Forward::default(),
            target: Target::default(),
            idle_timeout: IDLE_TIMEOUT_DEFAULT,
            greeting_timeout: GREETING_TIMEOUT_DEFAULT,
            half_closed_timeout: HALF_CLOSED_TIMEOUT_DEFAULT,
            disconnect_delay: DISCONNECT_DELAY_DEFAULT,
            sources: Arc::new([]),
            log_sessions: true,
        };
        Relay { terms }
    }

    /// What is spoken: decides what a client is told when nobody serves. By the service's name if not set.
    pub fn protocol(self, protocol: Protocol) -> Relay {
        self.with(|terms| terms.protocol = protocol)
    }

    /// How the server learns the client's address (`forward`), and what kind of server it is (`target`).
    pub fn forward(self, forward: Forward, target: Target) -> Relay {
        self.with(|terms| (terms.forward, terms.target) = (forward, target))
    }

    /// How long a session may be silent (`idle_timeout`).
    pub fn idle_timeout(self, timeout: Duration) -> Relay {
        self.with(|terms| terms.idle_timeout = timeout)
    }

    /// How long a server may take to greet (`login_proxy_timeout`).
    pub fn greeting_timeout(self, timeout: Duration) -> Relay {
        self.with(|terms| terms.greeting_timeout = timeout)
    }

    /// How long a session may be silent after one side has ended its stream (`half_closed_timeout`).
    pub fn half_closed_timeout(self, timeout: Duration) -> Relay {
        self.with(|terms| terms.half_closed_timeout = timeout)
    }

    /// Over how long the clients of a server that is lost are let go (`login_proxy_max_disconnect_delay`); zero: at once.
    pub fn disconnect_delay(self, delay: Duration) -> Relay {
        self.with(|terms| terms.disconnect_delay = delay)
    }

    /// The addresses from which servers are connected to, in turn (`login_source_ips`); none: the kernel chooses.
    pub fn sources(self, sources: impl IntoIterator<Item = IpAddr>) -> Relay {
        self.with(|terms| terms.sources = sources.into_iter().collect())
    }

    /// Whether the start and the end of each session are reported (`log_sessions`).
    pub fn log_sessions(self, log: bool) -> Relay {
        self.with(|terms| terms.log_sessions = log)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.terms.name
    }

    fn with(mut self, change: impl FnOnce(&mut Terms)) -> Relay {
        change(&mut self.terms);
        self
    }
}

//! What a relay is to be like, as the engine's user describes it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::mail::Boxes;
use super::notice::{Notice, TOLD_EVERY};
use crate::backend::{Backend, Balance, CheckKind, CheckSettings, ServerIndex, Settings, TooManyServers};
use crate::relay::{Announce, Forward, ForwardTlvs, Protocol, Target};
use crate::ring::Waker;
use crate::stats::Repeats;

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
    /// The servers' names, by index: kept apart, so that a log line needs no look at the state.
    servers: Arc<Mutex<Vec<Arc<str>>>>,
    state: Arc<Mutex<Backend>>,
    notices: Arc<Repeats<Notice>>,
    /// Of the rings whose sessions wait.
    boxes: Arc<Boxes>,
    /// Of the prober that has it in its charge, if one does.
    bell: Arc<Mutex<Weak<Waker>>>,
    /// No other backend of this process has it.
    unique: u64,
}

impl SharedBackend {
    /// All servers up, and nobody served.
    pub fn new(settings: Settings) -> SharedBackend {
        // The same in every process, so that `balance = source` sends a client to the same server after an upgrade.
        let seed = settings
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        SharedBackend::seeded(settings, seed, Instant::now())
    }

    /// One whose every choice is decided by `seed`.
    pub(super) fn seeded(settings: Settings, seed: u64, now: Instant) -> SharedBackend {
        let name = settings.name.as_str().into();
        let state = Arc::new(Mutex::new(Backend::new(settings, seed, now)));
        let notices = Arc::new(Repeats::new(TOLD_EVERY));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let shared = SharedBackend {
            name,
            servers: Arc::default(),
            state,
            notices,
            boxes: Arc::default(),
            bell: Arc::default(),
            unique,
        };
        shared.note_names();
        shared
    }

    /// Becomes what these settings say, and keeps what is known of servers that stay.
    ///
    /// # Errors
    /// See [`Backend::succeed`]; it stays as it was then.
    pub fn succeed(&self, settings: Settings) -> Result<(), TooManyServers> {
        self.lock().succeed(settings, Instant::now())?;
        self.note_names();
        Ok(())
    }

    /// The name of a server.
    pub fn server_name(&self, server: ServerIndex) -> Option<Arc<str>> {
        let names = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(usize::from(server.0)).cloned()
    }

    /// Where the server of this name listens, as long as it is still given by this host. `false`: it is not, or is gone.
    pub(in crate::engine) fn move_server(&self, name: &str, host: &str, address: Option<SocketAddr>) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(server) = state.find(name).filter(|server| state.server(*server, now).host == host) else {
            return false;
        };
        state.set_address(server, address, now);
        drop(state);
        self.stir();
        true
    }

    fn note_names(&self) {
        let names = self.lock().names().map(Arc::from).collect();
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are the same.
    pub fn is(&self, other: &SharedBackend) -> bool {
        self.number() == other.number()
    }

    /// Tells it from all others that there are or have been.
    pub(in crate::engine) fn unique(&self) -> u64 {
        self.unique
    }

    /// Tells it from others.
    pub(super) fn number(&self) -> usize {
        Arc::as_ptr(&self.state).addr()
    }

    /// A prober takes it in its charge; it is woken by this.
    pub(in crate::engine) fn attend(&self, bell: &Arc<Waker>) {
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(bell);
    }

    /// Something has changed that its prober has to look at.
    pub(in crate::engine) fn stir(&self) {
        let bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        bell.iter().for_each(|waker| waker.wake());
    }

    pub(super) fn boxes(&self) -> &Boxes {
        &self.boxes
    }

    pub(super) fn notices(&self) -> &Repeats<Notice> {
        &self.notices
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
    pub(in crate::engine) terms: Terms,
}

/// The terms of a session, the same for all of a service.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The service's name, by which listeners name the pool.
    pub name: Arc<str>,
    pub backend: SharedBackend,
    pub protocol: Protocol,
    pub forward: Forward,
    pub target: Target,
    /// The header that servers get, if they get one.
    pub announce: Option<Announce>,
    pub idle_timeout: Duration,
    pub greeting_timeout: Duration,
    pub half_closed_timeout: Duration,
    pub disconnect_delay: Duration,
    pub sources: Arc<[IpAddr]>,
    pub log_sessions: bool,
    /// This host's name, for clients that cannot be served.
    pub host: Arc<str>,
}

impl Terms {
    /// For a session of a service that this configuration does not have.
    pub fn of_former_service(service: &str) -> Terms {
        Terms::without_servers(service, "-")
    }

    /// For a client whose TLS ends here, before a pool of workers that go on with plain sockets only.
    pub fn of_pool(pool: &str) -> Terms {
        let mut terms = Terms::without_servers(pool, pool);
        (terms.protocol, terms.announce, terms.log_sessions) = (Protocol::None, None, false);
        terms
    }

    fn without_servers(service: &str, backend: &str) -> Terms {
        let none = Settings {
            name: backend.into(),
            servers: Vec::new(),
            balance: Balance::LeastConn,
            stick: None,
            connect_timeout: Duration::ZERO,
            retries: 0,
            queue: 0,
            queue_timeout: Duration::ZERO,
            slow_start: Duration::ZERO,
            check: CheckSettings { kind: CheckKind::None, interval: Duration::MAX, rise: 1, fall: 1 },
        };
        Relay::new(service, &SharedBackend::new(none)).terms
    }
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
            announce: Announce::new(Forward::default(), Target::default(), None),
            idle_timeout: IDLE_TIMEOUT_DEFAULT,
            greeting_timeout: GREETING_TIMEOUT_DEFAULT,
            half_closed_timeout: HALF_CLOSED_TIMEOUT_DEFAULT,
            disconnect_delay: DISCONNECT_DELAY_DEFAULT,
            sources: Arc::new([]),
            log_sessions: true,
            host: "localhost".into(),
        };
        Relay { terms }
    }

    /// What is spoken: decides what a client is told when nobody serves. By the service's name if not set.
    pub fn protocol(self, protocol: Protocol) -> Relay {
        self.with(|terms| terms.protocol = protocol)
    }

    /// How the server learns the client's address (`forward`), what kind of server it is (`target`), and which TLVs it gets
    /// (`forward_tlvs`; those of the target if not said).
    pub fn forward(self, forward: Forward, target: Target, tlvs: Option<ForwardTlvs>) -> Relay {
        self.with(|terms| {
            (terms.forward, terms.target) = (forward, target);
            terms.announce = Announce::new(forward, target, tlvs);
        })
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

    /// This host's name, which SMTP clients are told when nobody can serve them.
    pub fn host(self, name: &str) -> Relay {
        self.with(|terms| terms.host = name.into())
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

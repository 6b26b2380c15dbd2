//! From settings to an engine: which pools, which listeners, on which sockets.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use vestibule::admission::{Bans, ClientLimits};
use vestibule::config::{DriverKind, InetListener, Service, Settings, WorkerKind};
use vestibule::dispatch::Pool;
use vestibule::engine::{DriverChoice, Engine, EngineBuilder, Listener, SessionLog, cpus};
use vestibule::worker::tls::{Identity, Tls, alpn_of_service};
use vestibule::worker::{Discard, HandOff, Handler, Whoami};

use super::Error;
use super::legacy::Legacy;
use super::relays::{self, Backends};

/// What pools are made with that is in no settings.
#[derive(Clone)]
pub struct Means {
    /// What listeners with `ssl = yes` show.
    pub identity: Option<Identity>,
    /// Handshakes that have failed, of every engine.
    pub tls_failures: Arc<AtomicU64>,
    /// The backends of relays.
    pub backends: Backends,
    /// Who is told of their sessions.
    pub session_log: Option<Arc<dyn SessionLog>>,
    /// Health checks that ended in it.
    pub tls_checks: Arc<AtomicU64>,
    /// Clients that operators have banned.
    pub bans: Bans,
    /// What processes before this one have counted.
    pub legacy: Legacy,
}

impl Default for Means {
    fn default() -> Means {
        Means {
            identity: None,
            tls_failures: Arc::default(),
            backends: Backends::default(),
            session_log: None,
            tls_checks: Arc::default(),
            bans: Bans::new(),
            legacy: Legacy::default(),
        }
    }
}

/// The engine that the settings describe; `open` gives the sockets that listen on an address already.
pub fn builder(
    settings: &Settings,
    means: &Means,
    mut open: impl FnMut(SocketAddr) -> std::io::Result<Vec<TcpListener>>,
) -> Result<EngineBuilder, Error> {
    let mut builder = Engine::builder()
        .driver(driver(settings.driver))
        .pending_limit(settings.pending_limit)
        .pending_peer_limit(settings.pending_peer_limit)
        .client_limits(ClientLimits { bans: means.bans.clone(), ..settings.clients.limits.clone() });
    if let Some(rings) = settings.rings {
        builder = builder.rings(rings);
    }
    if let Some(log) = &means.session_log {
        builder = builder.session_log(log.clone());
    }
    for service in &settings.services {
        builder = match service.worker {
            WorkerKind::Whoami => builder.pool(pool(service, means, Whoami, Whoami::here())),
            WorkerKind::Discard => builder.pool(pool(service, means, Discard, Discard)),
            WorkerKind::HandOff => builder.pool(hand_off(service)),
            WorkerKind::Relay => {
                let relay = relays::relay(service, settings, &means.backends);
                builder.relay(relay.expect("the settings give every relay a backend"))
            }
        };
        for listener in &service.listeners {
            for &address in &listener.addresses {
                let address = SocketAddr::new(address, listener.port);
                let sockets = open(address)?;
                let described = engine_listener(service, listener, address);
                builder = builder.listen(sockets.into_iter().fold(described, |all, socket| all.socket(socket)));
            }
        }
    }
    Ok(builder)
}

/// What the engine calls it.
pub fn driver(kind: DriverKind) -> DriverChoice {
    match kind {
        DriverKind::Auto => DriverChoice::Auto,
        DriverKind::IoUring => DriverChoice::IoUring,
        DriverKind::Epoll => DriverChoice::Epoll,
    }
}

/// A pool of `handler`, or, if the rings serve it, of `here`.
fn pool(service: &Service, means: &Means, handler: impl Handler, here: impl Handler) -> Pool {
    let pool = match (&means.identity, workers(service)) {
        (_, None) => Pool::here(&service.name, here),
        (Some(identity), Some(threads)) => {
            let handler = Tls::new(identity, alpn_of_service(&service.name), handler);
            Pool::threads(
                &service.name,
                threads.get(),
                handler.count_failures_in(means.tls_failures.clone()).count_checks_in(means.tls_checks.clone()),
            )
        }
        (None, Some(threads)) => Pool::threads(&service.name, threads.get(), handler),
    };
    with_queue(pool, service)
}

/// A pool of other processes.
fn hand_off(service: &Service) -> Pool {
    let place = service.hand_off.as_ref().expect("the settings give every hand-off a place");
    with_queue(Pool::hand_off(&service.name, HandOff::at(&place.socket).mode(place.mode)), service)
}

fn with_queue(pool: Pool, service: &Service) -> Pool {
    let pool = pool.queue(service.queue).overload(service.overload);
    if service.exact_residual { pool.exact_residual() } else { pool }
}

/// Threads of a service's pool, if it has any: by its settings, or because a TLS handshake waits for its client. The
/// workers of this program never wait otherwise, and the rings serve their connections themselves.
pub fn workers(service: &Service) -> Option<NonZeroUsize> {
    let handshakes = service.listeners.iter().any(|listener| listener.ssl);
    let threads = service.workers.or_else(|| handshakes.then(cpus));
    threads.filter(|_| matches!(service.worker, WorkerKind::Whoami | WorkerKind::Discard))
}

fn engine_listener(service: &Service, listener: &InetListener, address: SocketAddr) -> Listener {
    let described = match listener.haproxy {
        true => Listener::proxy(address).timeout(listener.timeout).defer_accept(listener.defer_accept).terms(|terms| {
            terms.trusted = listener.trusted.clone();
            let shadow = &listener.shadow_networks;
            terms.shadow_trusted = (!shadow.is_empty()).then(|| shadow.iter().copied().collect());
            terms.rules = listener.rules;
            terms.policy = listener.policy.clone();
            terms.pending_limit = listener.pending_limit;
            terms.plain_untrusted = listener.plain_untrusted;
        }),
        false => Listener::plain(address).trust(listener.networks.iter().copied()),
    };
    let described =
        described.ssl(listener.ssl).reuse_port(listener.reuse_port).log_connections(listener.log_connections);
    described.pool(&service.name).service(&service.name).name(&listener.name)
}

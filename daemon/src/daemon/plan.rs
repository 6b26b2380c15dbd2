//! From settings to an engine: which pools, which listeners, on which sockets.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;

use vestibule::admission::{Bans, ClientLimits};
use vestibule::config::{DriverKind, InetListener, Service, Settings, WorkerKind};
use vestibule::dispatch::Pool;
use vestibule::engine::{DriverChoice, Engine, EngineBuilder, Listener, SessionLog};
use vestibule::takeover::Legacy;
use vestibule::tls::{Identity, Termination, alpn_of_service};
use vestibule::worker::{Discard, HandOff, Handler, Whoami};

use super::Error;
use super::relays::{self, Backends};

/// What pools are made with that is in no settings.
#[derive(Clone)]
pub struct Means {
    /// What listeners with `ssl = yes` show.
    pub identity: Option<Identity>,
    /// The backends of relays.
    pub backends: Backends,
    /// Who is told of their sessions.
    pub session_log: Option<Arc<dyn SessionLog>>,
    /// Clients that operators have banned.
    pub bans: Bans,
    /// What processes before this one have counted.
    pub legacy: Legacy,
}

impl Default for Means {
    fn default() -> Means {
        Means {
            identity: None,
            backends: Backends::default(),
            session_log: None,
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
        .locked_memory_limit(settings.locked_memory_limit)
        .handshake_threads(settings.ssl_handshake_threads)
        .client_limits(ClientLimits { bans: means.bans.clone(), ..settings.clients.limits.clone() });
    if let Some(rings) = settings.rings {
        builder = builder.rings(rings);
    }
    if let Some(log) = &means.session_log {
        builder = builder.session_log(log.clone());
    }
    for service in &settings.services {
        builder = match service.worker {
            WorkerKind::Whoami => builder.pool(pool(service, Whoami, Whoami::here())),
            WorkerKind::Discard => builder.pool(pool(service, Discard, Discard)),
            WorkerKind::HandOff => builder.pool(hand_off(service)),
            WorkerKind::Relay => {
                let relay = relays::relay(service, settings, &means.backends);
                builder.relay(relay.expect("the settings give every relay a backend"))
            }
        };
        let termination = means.identity.as_ref().map(|identity| {
            let termination = Termination::new(identity, alpn_of_service(&service.name));
            termination.timeout(settings.ssl_handshake_timeout).to_kernel(settings.ssl_ktls)
        });
        for listener in &service.listeners {
            for &address in &listener.addresses {
                let address = SocketAddr::new(address, listener.port);
                let sockets = open(address)?;
                let described = engine_listener(service, listener, address, termination.as_ref());
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
fn pool(service: &Service, handler: impl Handler, here: impl Handler) -> Pool {
    let pool = match workers(service) {
        None => Pool::here(&service.name, here),
        Some(threads) => Pool::threads(&service.name, threads.get(), handler),
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

/// Threads of a service's pool, if its settings give it any: the workers of this program never wait, and the rings serve
/// their connections themselves.
pub fn workers(service: &Service) -> Option<NonZeroUsize> {
    service.workers.filter(|_| matches!(service.worker, WorkerKind::Whoami | WorkerKind::Discard))
}

fn engine_listener(
    service: &Service,
    listener: &InetListener,
    address: SocketAddr,
    termination: Option<&Termination>,
) -> Listener {
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
    let described = described.reuse_port(listener.reuse_port).log_connections(listener.log_connections);
    let described = match termination.filter(|_| listener.ssl) {
        Some(termination) => described.tls(termination.clone()),
        None => described.passes_tls(listener.ssl),
    };
    described.pool(&service.name).service(&service.name).name(&listener.name)
}

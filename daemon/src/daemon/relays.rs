//! From settings to backends and relays: names resolved, and what is known of the servers kept over a reload.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use vestibule::backend;
use vestibule::config::{self, Service, Settings};
use vestibule::engine::{Relay, SharedBackend, address_among};

use super::lock;

/// The backends of a daemon, by name; they outlive reloads.
#[derive(Clone, Default)]
pub struct Backends(Arc<Mutex<HashMap<String, SharedBackend>>>);

impl Backends {
    /// The backend of this name.
    pub fn find(&self, name: &str) -> Option<SharedBackend> {
        lock(&self.0).get(name).cloned()
    }

    /// The backend that these settings describe: the one of this name if there is one, as it is to be from now on.
    pub fn get(&self, described: &config::Backend) -> SharedBackend {
        let mut settings = described.servers.clone();
        let mut known = lock(&self.0);
        let present = known.get(&settings.name);
        resolve(&mut settings, present);
        if let Some(backend) = present {
            let name = settings.name.clone();
            if let Err(error) = backend.succeed(settings) {
                tracing::error!("backend {name} stays as it is: {error}");
            }
            return backend.clone();
        }
        let name = settings.name.clone();
        let backend = SharedBackend::new(settings);
        known.insert(name, backend.clone());
        backend
    }
}

/// Finds the address of each server that is given by name: the one that it has, if that is still among the answers. Those
/// whose name has none serve nobody until it has one.
fn resolve(settings: &mut backend::Settings, present: Option<&SharedBackend>) {
    for server in &mut settings.servers {
        let known = present.and_then(|backend| {
            let state = backend.lock();
            state.find(&server.name).and_then(|index| state.server(index, Instant::now()).address)
        });
        let answers = (server.host.as_str(), server.port).to_socket_addrs();
        let answers: Vec<_> = answers.map(Iterator::collect).unwrap_or_default();
        // No answer: what the name had before stays, if it is still the same name.
        server.address = if answers.is_empty() { None } else { address_among(known, &answers) };
        if server.address.is_none() {
            let (backend, name, host) = (&settings.name, &server.name, &server.host);
            tracing::warn!("server {backend}/{name}: the name {host} has no address at present");
        }
    }
}

/// The relay of a service.
pub fn relay(service: &Service, settings: &Settings, backends: &Backends) -> Option<Relay> {
    let described = &settings.backends[service.backend?];
    let backend = backends.get(described);
    let relay = Relay::new(&service.name, &backend)
        .protocol(service.protocol)
        .forward(described.forward, described.target, Some(described.forward_tlvs))
        .idle_timeout(service.idle_timeout)
        .greeting_timeout(settings.login_proxy_timeout)
        .half_closed_timeout(described.half_closed_timeout)
        .disconnect_delay(settings.login_proxy_max_disconnect_delay)
        .sources(settings.login_source_ips.iter().copied())
        .log_sessions(service.log_sessions)
        .host(&host());
    Some(relay)
}

/// This host's name.
fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

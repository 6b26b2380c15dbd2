//! The engines at one moment, for whoever looks at them: `ctl`, the page, metrics.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use vestibule::config::{InetListener, Service, Settings, WorkerKind};
use vestibule::engine::{Asker, Meter, OutsiderSeen, Pulse, RefusalSeen, Snapshot};
use vestibule::net::Network;

use crate::daemon::in_force::InForce;
use crate::daemon::plan::Means;

/// The engines at one moment: their counts and sessions can be asked for by anyone who has this, however long the tier is
/// busy with a takeover.
#[derive(Clone)]
pub struct Glance {
    pub(super) meters: Vec<Meter>,
    /// The way to the sessions of each engine.
    pub askers: Vec<Asker>,
    pub(super) past: Option<Snapshot>,
    /// What the engines share.
    pub means: Means,
    /// Whether balancers should send connections here, or why not.
    pub ready: Result<(), String>,
    /// By which names HTTP may be asked.
    pub http_hosts: Arc<[String]>,
    /// Which configuration is in force.
    pub in_force: InForce,
    /// The process that has taken over.
    pub successor: Option<u32>,
    /// Engines that finish what they have.
    pub finishing: usize,
    /// Whether the process that this one has taken over from still finishes what it has.
    pub predecessor_lives: bool,
    /// Of the rings that accept.
    pub pulse: Option<Pulse>,
    /// The listeners of the configuration that is in force.
    pub listeners: Arc<[Served]>,
    /// Over how long the clients of a server that goes are let go.
    pub disconnect_delay: Duration,
}

/// A listener as the configuration has it.
pub struct Served {
    /// Its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Who may send headers.
    pub networks: Vec<Network>,
    /// Whether others are clients of their own.
    pub plain_untrusted: bool,
    /// Whether a header is awaited.
    pub haproxy: bool,
    /// Whether TLS comes first.
    pub ssl: bool,
    /// What its service does.
    pub worker: WorkerKind,
    /// The backend that its connections go to.
    pub backend: Option<String>,
    /// Whether an operator has drained it.
    pub drained: bool,
    /// Where the networks are set.
    pub networks_at: Option<String>,
}

impl Served {
    /// Whether it is called so: NAME or SERVICE/NAME.
    pub(super) fn is_called(&self, name: &str) -> bool {
        name == self.name || name.split_once('/') == Some((&self.service, &self.name))
    }

    /// All of a configuration, of which operators have drained some.
    pub(super) fn all(settings: &Settings, drained: &BTreeSet<(String, String)>) -> Arc<[Served]> {
        let services = settings.services.iter();
        let all = services.flat_map(|service| service.listeners.iter().map(move |one| (service, one)));
        all.map(|(service, one)| Served::of(settings, service, one, drained)).collect()
    }

    fn of(
        settings: &Settings,
        service: &Service,
        listener: &InetListener,
        drained: &BTreeSet<(String, String)>,
    ) -> Served {
        let at = |address: &std::net::IpAddr| SocketAddr::new(*address, listener.port).to_string();
        let backend = service.backend.and_then(|index| settings.backends.get(index));
        Served {
            service: service.name.clone(),
            name: listener.name.clone(),
            addresses: listener.addresses.iter().map(at).collect(),
            networks: listener.networks.clone(),
            plain_untrusted: listener.plain_untrusted,
            haproxy: listener.haproxy,
            ssl: listener.ssl,
            worker: service.worker,
            backend: backend.map(|backend| backend.servers.name.clone()),
            drained: drained.contains(&(service.name.clone(), listener.name.clone())),
            networks_at: listener.networks_at.as_ref().map(ToString::to_string),
        }
    }
}

impl Glance {
    /// Whether a listener, by its name or by SERVICE/NAME, is served, or why not.
    pub fn serves(&self, named: &str) -> Result<(), String> {
        match self.listeners.iter().find(|one| one.is_called(named)) {
            None => Err(format!("there is no listener {named}")),
            Some(one) if one.drained => Err(format!("listener {named} is drained by an operator")),
            Some(_) => Ok(()),
        }
    }

    /// Sessions at the servers that there are, as the engines of this process have them.
    pub fn sessions(&self) -> u64 {
        let snapshot = self.snapshot();
        let servers = snapshot.backends().iter().flat_map(|backend| &backend.servers);
        servers.map(|server| u64::from(server.sessions)).sum()
    }

    /// Who was refused of late and what they had sent, the last first.
    pub fn refusals(&self) -> Vec<RefusalSeen> {
        let mut all: Vec<RefusalSeen> = self.meters.iter().flat_map(Meter::refusals).collect();
        all.sort_by_key(|one| one.last);
        all
    }

    /// Who has come from outside of the trusted networks of late, the last first.
    pub fn outsiders(&self) -> Vec<OutsiderSeen> {
        let mut all: Vec<OutsiderSeen> = self.meters.iter().flat_map(Meter::outsiders).collect();
        all.sort_by_key(|one| one.last);
        all
    }

    /// What all engines have counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let all = self.meters.iter().map(Meter::snapshot).chain(self.past.clone());
        let mut all = sum(all).expect("an engine runs or has run");
        self.means.legacy.add_to(&mut all);
        all
    }
}

/// What several engines have counted, added up; `None` of none.
pub(super) fn sum(snapshots: impl Iterator<Item = Snapshot>) -> Option<Snapshot> {
    snapshots.reduce(|mut all, one| {
        all += &one;
        all
    })
}

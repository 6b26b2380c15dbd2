//! The running engine and those before it: reload, drain, and the hand-over to another process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use vestibule::config::{InetListener, Settings};
use vestibule::engine::{ClientCounts, Engine, Pending, Snapshot};
use vestibule::worker::tls::Identity;

use super::configuration::{self, Ready};
use super::systemd::{self, Watchdog};
use super::takeover::{Offered, Predecessor, successor};
use super::{Error, plan};

/// Engines that were replaced and have not ended yet; with so many of them a reload is refused.
const RETIRED_MAX: usize = 8;

/// What the daemon's main thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A signal.
    Signal(i32),
    /// Another process has taken over, and what was left to finish has ended.
    Finished,
    /// Another process should have the sockets but has not, and this one cannot accept on them either; or it is the other
    /// way round, and this process is one too many.
    Failed,
}

/// The engine that accepts, and those before it that still finish what they have.
pub struct Tier {
    file: Option<PathBuf>,
    /// In force.
    settings: Settings,
    identity: Option<Identity>,
    /// `None` once another process has taken over.
    engine: Option<Engine>,
    /// What another process that has taken over accepts on, and the counts of clients, should it fail.
    kept: Vec<(SocketAddr, TcpListener)>,
    counts: ClientCounts,
    retired: Vec<JoinHandle<Snapshot>>,
    /// What those have counted that have ended.
    past: Option<Snapshot>,
    watchdog: Watchdog,
    events: Sender<Event>,
}

impl Tier {
    /// Of an engine that was started with these settings, read from `file`.
    pub fn new(file: Option<PathBuf>, ready: Ready, engine: Engine, events: Sender<Event>) -> Tier {
        Tier {
            file,
            settings: ready.loaded.settings,
            identity: ready.identity,
            watchdog: Watchdog::start(engine.pulse()),
            engine: Some(engine),
            kept: Vec::new(),
            counts: ClientCounts::default(),
            retired: Vec::new(),
            past: None,
            events,
        }
    }

    /// Whether this process accepts, or drains by itself.
    pub fn is_in_charge(&self) -> bool {
        self.engine.is_some()
    }

    /// Starts the program anew, to take over from this process.
    pub fn start_successor(&self) {
        let problem = match &self.settings.takeover_socket {
            _ if self.engine.is_none() => "another process has taken over already".to_owned(),
            None => "takeover_socket is not set".to_owned(),
            Some(socket) => match successor::start(self.file.as_deref(), socket) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
        };
        tracing::error!("no process is started to take over: {problem}");
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        self.settings.drain_timeout
    }

    /// Puts an engine of the new configuration in the place of the present one, or leaves everything as it is.
    pub fn reload(&mut self) {
        systemd::reloading();
        if let Err(problems) = self.try_reload() {
            problems.iter().for_each(|problem| tracing::error!("{problem}"));
            tracing::error!("not reloaded: the configuration before stays in force");
        }
        if let Some(engine) = &self.engine {
            systemd::ready(engine.addresses().len());
        }
    }

    fn try_reload(&mut self) -> Result<(), Vec<String>> {
        let Some(engine) = &self.engine else {
            return Err(vec!["another process has taken over: tell that one to reload".to_owned()]);
        };
        let (ended, busy) = std::mem::take(&mut self.retired).into_iter().partition(JoinHandle::is_finished);
        self.retired = busy;
        remember(&mut self.past, ended);
        if self.retired.len() >= RETIRED_MAX {
            return Err(vec![format!(
                "{RETIRED_MAX} earlier configurations still finish their connections: try later"
            )]);
        }
        let Ready { loaded, identity } = configuration::load(self.file.as_deref())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        if loaded.settings.takeover_socket != self.settings.takeover_socket {
            tracing::warn!("takeover_socket stays as it is until the daemon is restarted or taken over");
        }
        let sockets = engine.sockets().map_err(|error| vec![error.to_string()])?;
        let counts = engine.client_counts();
        let next =
            start(&loaded.settings, identity.as_ref(), &sockets, counts).map_err(|error| vec![error.to_string()])?;
        (self.settings, self.identity) = (loaded.settings, identity);
        let addresses = next.addresses().len();
        self.follow(next);
        tracing::info!("reloaded: accepting on {addresses} addresses");
        Ok(())
    }

    /// Goes on with another engine; the present one finishes what it has.
    fn follow(&mut self, next: Engine) {
        self.watchdog.follow(next.pulse());
        if let Some(mut old) = self.engine.take() {
            old.leave_counts_to(&next);
            // Nobody leaves; but when this returns, the present engine has stopped accepting.
            old.hand_over(&[], self.settings.drain_timeout);
            self.retire(old, |_| {});
        }
        self.engine = Some(next);
    }

    /// Lets an engine finish; `then` runs when it has.
    fn retire(&mut self, mut old: Engine, then: impl FnOnce(&Sender<Event>) + Send + 'static) {
        let (limit, events) = (self.settings.drain_timeout, self.events.clone());
        self.retired.push(std::thread::spawn(move || {
            if !old.retire(limit) {
                tracing::warn!("not everything of the engine before ended within drain_timeout");
            }
            then(&events);
            old.snapshot()
        }));
    }

    /// Stops accepting and finishes. Tells whether everything ended in time.
    pub fn drain(&mut self) -> bool {
        let limit = self.settings.drain_timeout;
        // Once another process has taken over, what is left ends by itself, within the same limit.
        let Some(engine) = &mut self.engine else { return true };
        self.watchdog.let_go();
        tracing::info!("draining for at most {} s", limit.as_secs());
        let begun = Instant::now();
        let in_time = engine.drain(limit);
        match in_time {
            true => tracing::info!("drained in {} ms", begun.elapsed().as_millis()),
            false => tracing::warn!("not everything ended within drain_timeout"),
        }
        in_time
    }

    /// What all engines have counted, after the last has ended.
    pub fn end(&mut self) -> Snapshot {
        remember(&mut self.past, std::mem::take(&mut self.retired));
        let mut total = self.engine.as_ref().map(Engine::snapshot);
        match (&mut total, &self.past) {
            (Some(total), Some(past)) => *total += past,
            (None, past) => total = past.clone(),
            (Some(_), None) => {}
        }
        total.expect("an engine runs or has run")
    }

    /// The listeners' names by address, in the order of the settings.
    fn name_of(&self, address: SocketAddr) -> String {
        let mut listeners = self.settings.services.iter().flat_map(|service| &service.listeners);
        let at =
            |listener: &&InetListener| listener.port == address.port() && listener.addresses.contains(&address.ip());
        listeners.find(at).map_or_else(|| address.to_string(), |listener| listener.name.clone())
    }
}

impl Predecessor for Tier {
    fn offer(&mut self) -> Result<Vec<Offered>, String> {
        let engine = self.engine.as_ref().ok_or("another process has taken over already")?;
        let sockets = engine.sockets().map_err(|error| error.to_string())?;
        if sockets.is_empty() {
            return Err("it is draining".to_owned());
        }
        let offered = |(address, socket)| Offered { address, name: self.name_of(address), socket };
        Ok(sockets.into_iter().map(offered).collect())
    }

    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, String> {
        let limit = self.settings.drain_timeout;
        let engine = self.engine.as_mut().ok_or("another process has taken over already")?;
        let kept = engine.sockets().map_err(|error| error.to_string())?;
        if kept.is_empty() {
            return Err("it is draining".to_owned());
        }
        (self.kept, self.counts) = (kept, engine.client_counts());
        Ok(engine.hand_over(listeners, limit))
    }

    fn let_go(&mut self) {
        // The service manager listens to the other process from now on.
        self.watchdog.stop();
        if let Some(engine) = self.engine.take() {
            self.retire(engine, |events| {
                let _ = events.send(Event::Finished); // nobody waits for it after TERM
            });
        }
    }

    fn stay(&mut self, pending: Vec<Pending>) {
        let counts = std::mem::take(&mut self.counts);
        match start(&self.settings, self.identity.as_ref(), &self.kept, counts) {
            Ok(next) => {
                let addresses = next.addresses().len();
                next.take_in(pending);
                self.follow(next);
                systemd::ready_instead(addresses);
                tracing::info!("accepting again on {addresses} addresses");
            }
            Err(error) => {
                tracing::error!("cannot accept again: {error}");
                let _ = self.events.send(Event::Failed);
            }
        }
        self.kept.clear();
    }

    fn look(&mut self) {
        self.engine.iter().for_each(Engine::look);
    }
}

/// An engine on sockets that listen already, where there are some.
fn start(
    settings: &Settings,
    identity: Option<&Identity>,
    sockets: &[(SocketAddr, TcpListener)],
    counts: ClientCounts,
) -> Result<Engine, Error> {
    let open = |address: SocketAddr| -> io::Result<Vec<TcpListener>> {
        let there = sockets.iter().filter(|(bound, _)| *bound == address);
        there.map(|(_, socket)| socket.try_clone()).collect()
    };
    Ok(plan::builder(settings, identity, open)?.client_counts(counts).start()?)
}

/// Waits for engines that were replaced, within limits that began when they were, and keeps what they counted.
fn remember(past: &mut Option<Snapshot>, ended: Vec<JoinHandle<Snapshot>>) {
    for snapshot in ended.into_iter().flat_map(JoinHandle::join) {
        match past {
            Some(past) => *past += &snapshot,
            None => *past = Some(snapshot),
        }
    }
}

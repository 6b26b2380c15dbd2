//! What is in force: the configuration of a reload, and which of its listeners operators have drained.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use vestibule::config::{InetListener, Settings};
use vestibule::engine::Engine;

use super::{Served, Tier};
use crate::daemon::configuration::{self, Ready};
use crate::daemon::http;
use crate::daemon::plan::{self, Means};
use crate::daemon::{inherited, systemd};

impl Tier {
    /// Puts the new configuration in force in the running engine, or leaves everything as it is. Tells of warnings.
    ///
    /// # Errors
    /// All that is wrong; it is in the log, too.
    pub fn reload(&mut self) -> Result<Vec<String>, Vec<String>> {
        if let Err(reason) = self.accepting() {
            // Nothing of it to the service manager, which would wait for this process to be ready again.
            let remedy = if self.successor.is_some() { ": tell that one to reload" } else { "" };
            let problem = format!("not reloaded: {reason}{remedy}");
            tracing::error!("{problem}");
            return Err(vec![problem]);
        }
        systemd::reloading();
        self.restore_places();
        let done = self.try_reload();
        if let Err(problems) = &done {
            problems.iter().for_each(|problem| tracing::error!(event = "reload", "{problem}"));
            tracing::error!(event = "reload", "not reloaded: the configuration before stays in force");
        }
        self.in_force.reloaded(done.as_ref().map(drop).map_err(Vec::as_slice));
        self.keep_sockets();
        let addresses = self.engine.as_ref().map_or(0, |engine| engine.addresses().len());
        match done.as_ref().err().and_then(|problems| problems.first()) {
            Some(problem) => systemd::reload_failed(addresses, problem),
            None => systemd::ready(addresses),
        }
        done
    }

    /// The service manager has the sockets, too, in case this process is killed.
    pub(super) fn keep_sockets(&mut self) {
        if !systemd::is_there() {
            return;
        }
        match self.engine.as_ref().map(Engine::sockets) {
            Some(Ok(sockets)) => self.store.keep(&sockets),
            Some(Err(error)) => tracing::warn!("the service manager does not keep the sockets: {error}"),
            None => {}
        }
    }

    fn try_reload(&mut self) -> Result<Vec<String>, Vec<String>> {
        let Ready { loaded, identity } = configuration::load(self.file.as_deref())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let (present, wanted) = (&self.settings, &loaded.settings);
        for (name, differs) in [
            ("log_format", wanted.log_format != present.log_format),
            ("takeover_socket", wanted.takeover_socket != present.takeover_socket),
            ("control_socket", wanted.control_socket != present.control_socket),
        ] {
            if differs {
                warnings.push(format!("{name} stays as it is until the daemon is restarted or taken over"));
            }
        }
        let mut settings = loaded.settings;
        // They are where a new process, and `ctl`, have to ask.
        settings.takeover_socket.clone_from(&self.settings.takeover_socket);
        settings.control_socket.clone_from(&self.settings.control_socket);
        let identity = identity.map(|identity| match &self.means.identity {
            Some(former) => identity.succeed(former),
            None => identity,
        });
        let means = Means { identity, ..self.means.clone() };
        let said = |error: &dyn std::fmt::Display| vec![error.to_string()];
        // What was drained and is no more in the files is drained no longer.
        let is_there = |(its, name): &(String, String)| {
            let service = settings.services.iter().find(|service| service.name == *its);
            service.is_some_and(|service| service.listeners.iter().any(|listener| listener.name == *name))
        };
        let drained: BTreeSet<(String, String)> = self.drained.iter().filter(|key| is_there(key)).cloned().collect();
        let served = self.served(&settings);
        if served.services.is_empty() {
            return Err(vec!["operators have drained every listener of it: resume one of them first".to_owned()]);
        }
        self.suits_shared_sockets(&served).map_err(|problem| vec![problem])?;
        let builder = plan::builder(&served, &means, |_| Ok(Vec::new())).map_err(|error| said(&error))?;
        let why_not = self.why_not();
        let moved = settings.http_listen != self.settings.http_listen;
        // Of the same port another address may be asked for, which this process itself has until it is closed.
        let own = |address: SocketAddr| self.settings.http_listen.is_some_and(|now| now.port() == address.port());
        let http = settings.http_listen.filter(|_| moved).map(|address| http::bind(address, own(address))).transpose();
        let http = http.map_err(|error| said(&error))?;
        let engine = self.engine.as_mut().ok_or_else(|| said(&why_not))?;
        let kept = engine.replace(builder).map_err(|error| said(&error))?.kept;
        let addresses = engine.addresses().len();
        warnings.extend(kept.iter().map(ToString::to_string));
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        self.listeners = Served::all(&settings, &drained);
        self.http_hosts = settings.http_hosts.clone().into();
        (self.settings, self.means, self.drained) = (settings, means, drained);
        if moved {
            self.http.close();
            http.into_iter().for_each(|bound| self.http.listen(bound));
        }
        tracing::info!(event = "reload", "reloaded: accepting on {addresses} addresses");
        Ok(warnings)
    }

    /// An error if a socket of both families, as a service manager may pass one, would serve two listeners.
    fn suits_shared_sockets(&self, settings: &Settings) -> Result<(), String> {
        if !inherited::has_divided_ports(settings) {
            return Ok(());
        }
        let sockets: Vec<_> = self.engine.iter().filter_map(|engine| engine.sockets().ok()).flatten().collect();
        inherited::one_listener_each(settings, sockets.iter().map(|(_, socket)| socket))
    }

    /// Stops accepting at a listener, by its name or by SERVICE/NAME, until [`Tier::resume_listener`]. Its sessions go on, and
    /// nobody else is concerned. Tells its full name.
    ///
    /// # Errors
    /// Say why not; nothing has changed then.
    pub fn drain_listener(&mut self, named: &str) -> Result<String, String> {
        let key = self.find_listener(named)?;
        let full = format!("{}/{}", key.0, key.1);
        if !self.drained.insert(key.clone()) {
            return Err(format!("listener {full} is drained already"));
        }
        if self.served(&self.settings).services.is_empty() {
            self.drained.remove(&key);
            return Err(format!("{full} is the only listener that is left: `vestibule ctl drain` drains the daemon"));
        }
        self.apply_drained().inspect_err(|_| _ = self.drained.remove(&key))?;
        tracing::info!(event = "drain", "listener {full} is drained by an operator: its sessions go on");
        Ok(full)
    }

    /// Accepts again at a listener that was drained.
    ///
    /// # Errors
    /// Say why not; nothing has changed then.
    pub fn resume_listener(&mut self, named: &str) -> Result<String, String> {
        let key = self.find_listener(named)?;
        let full = format!("{}/{}", key.0, key.1);
        if !self.drained.remove(&key) {
            return Err(format!("listener {full} is not drained"));
        }
        if let Err(error) = self.apply_drained() {
            self.drained.insert(key);
            return Err(error);
        }
        tracing::info!(event = "drain", "listener {full} accepts again: an operator has ended its drain");
        Ok(full)
    }

    fn find_listener(&self, named: &str) -> Result<(String, String), String> {
        let found = self.listeners.iter().filter(|one| one.is_called(named));
        match &found.collect::<Vec<_>>()[..] {
            [] => Err(format!("there is no listener {named}")),
            [one] => Ok((one.service.clone(), one.name.clone())),
            [one, ..] => {
                Err(format!("several listeners are called {named}: say SERVICE/NAME, such as {}/{named}", one.service))
            }
        }
    }

    /// What is served of a configuration: all listeners that are not drained, and services that still have one.
    pub(super) fn served(&self, settings: &Settings) -> Settings {
        let mut served = settings.clone();
        for service in &mut served.services {
            let drained = |listener: &InetListener| {
                self.drained.iter().any(|(its, name)| *its == service.name && *name == listener.name)
            };
            service.listeners.retain(|listener| !drained(listener));
        }
        served.services.retain(|service| !service.listeners.is_empty());
        served
    }

    /// Lets the running engine accept at all listeners that are not drained, and at no others.
    fn apply_drained(&mut self) -> Result<(), String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let why_not = self.why_not();
        let builder = plan::builder(&self.served(&self.settings), &self.means, |_| Ok(Vec::new()));
        let builder = builder.map_err(|error| said(&error))?;
        let engine = self.engine.as_mut().ok_or(why_not)?;
        engine.replace(builder).map_err(|error| said(&error))?;
        self.listeners = Served::all(&self.settings, &self.drained);
        self.keep_sockets();
        Ok(())
    }
}

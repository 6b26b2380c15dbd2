//! The running engine and those before it: reload, drain, and the hand-over to another process.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::SIGTERM;
use vestibule::config::{InetListener, Service, Settings, WorkerKind};
use vestibule::engine::{
    Asker, ClientCounts, ClientDebt, Engine, LiveSession, Meter, OutsiderSeen, Pending, Pulse, RefusalSeen, Snapshot,
};
use vestibule::net::Network;
use vestibule::takeover::{self, Form, Given, Host, Offer, Offered, Place, Predecessor};

use super::configuration::{self, Ready};
use super::http::{self, Bound, Facts, Http};
use super::in_force::InForce;
use super::plan::{self, Means};
use super::systemd::{self, Store, Watchdog};
use super::watcher::Watcher;
use super::{Error, figures, inherited, init, mailbox, successor};

/// What the daemon's main thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A signal.
    Signal(i32),
    /// An engine that was to finish has ended.
    Ended,
    /// The delay before a drain is over.
    Drain,
    /// The process that this one has taken over from has left.
    PredecessorLeft,
    /// It was waited for long enough.
    Impatient,
    /// Another process should have the sockets but has not, and this one cannot accept on them either; or it is the other
    /// way round, and this process is one too many.
    Failed,
}

/// The engine that accepts, and those that finish what they have: replaced by a reload, taken over from, or draining.
pub struct Tier {
    file: Option<PathBuf>,
    /// In force.
    settings: Settings,
    /// Its listeners.
    listeners: Arc<[Served]>,
    means: Means,
    /// Accepts. `None` once this process drains or another one has taken over.
    engine: Option<Engine>,
    /// The process that accepts instead.
    successor: Option<u32>,
    /// Told to drain: this process accepts again only if an operator says so.
    leaving: bool,
    /// Told to end: then never.
    ending: bool,
    /// What another process that has taken over accepts on, and the counts of clients, should it fail.
    kept: Vec<(SocketAddr, TcpListener)>,
    counts: ClientCounts,
    /// The process that this one has taken over from, as long as it is to accept again should this one die.
    predecessor: Option<Arc<Predecessor>>,
    /// Whether that one lives, and still counts what is to be told to the next.
    predecessor_lives: bool,
    /// Since it is waited for and nothing else is left to do here.
    waits: bool,
    /// The process that was started last to take over.
    child: Option<u32>,
    finishing: Vec<Finishing>,
    /// Who does it.
    finishers: Finishers,
    /// Engines that were to finish so far.
    finished: usize,
    /// Where they say that they have ended.
    ends: (Sender<End>, Receiver<End>),
    /// What those have counted that have ended.
    past: Option<Snapshot>,
    /// Whether all of them have ended in time.
    complete: bool,
    watchdog: Watchdog,
    /// What the service manager keeps for the process after this one.
    store: Store,
    /// Where operators ask: another process's, once it has taken over.
    control: Option<Arc<Place>>,
    /// Where other processes ask to take over.
    offer: Option<Arc<Offer>>,
    http: Http,
    /// When a drain begins that was asked for; `None`: none was, or it has begun, or was taken back.
    drains_at: Option<Instant>,
    /// Listeners that operators have drained, by service and name.
    drained: BTreeSet<(String, String)>,
    in_force: InForce,
    /// By which names HTTP may be asked.
    http_hosts: Arc<[String]>,
    events: mailbox::Sender<Event>,
}

/// What a tier begins with.
pub struct Parts {
    /// Where the settings were read from.
    pub file: Option<PathBuf>,
    pub settings: Settings,
    pub means: Means,
    /// Was started with those.
    pub engine: Engine,
    /// The process that it was taken over from.
    pub predecessor: Option<Arc<Predecessor>>,
    /// Where operators ask.
    pub control: Option<Arc<Place>>,
    /// Where other processes ask to take over.
    pub offer: Option<Arc<Offer>>,
    /// What HTTP tells of the process.
    pub facts: Facts,
    /// Where the main thread is told what happens.
    pub events: mailbox::Sender<Event>,
}

/// An engine that ends on a thread of its own.
struct Finishing {
    number: usize,
    meter: Meter,
    asker: Asker,
}

/// Threads on which engines end. One exists from the start: a process that may have no more threads must still end in
/// order. Others are made when it is busy, and while they cannot be had, an engine waits for its turn.
struct Finishers {
    work: Sender<Work>,
    inbox: Receiver<Work>,
    /// Those that wait for work, less the work that waits for them.
    idle: Arc<AtomicIsize>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Finishers {
    fn start() -> io::Result<Finishers> {
        let (work, inbox) = crossbeam_channel::unbounded(); // one for each of `finishing`
        let finishers = Finishers { work, inbox, idle: Arc::new(AtomicIsize::new(0)) };
        finishers.add()?;
        Ok(finishers)
    }

    fn add(&self) -> io::Result<()> {
        let (inbox, idle) = (self.inbox.clone(), self.idle.clone());
        let body = move || {
            for work in inbox {
                work();
                idle.fetch_add(1, Ordering::AcqRel);
            }
        };
        std::thread::Builder::new().name("finisher".into()).spawn(body)?;
        self.idle.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn run(&self, work: Work) {
        if self.idle.load(Ordering::Acquire) <= 0
            && let Err(error) = self.add()
        {
            tracing::warn!("no thread for an engine that ends: it waits for the one before: {error}");
        }
        self.idle.fetch_sub(1, Ordering::AcqRel);
        let _ = self.work.send(work); // a receiver is kept here
    }
}

/// It has ended.
struct End {
    number: usize,
    in_time: bool,
}

impl Tier {
    /// Of an engine that accepts.
    ///
    /// # Errors
    /// If a thread cannot be had that its end will need.
    pub fn new(
        Parts { file, settings, means, engine, predecessor, control, offer, facts, events }: Parts,
    ) -> io::Result<Tier> {
        let mut tier = Tier {
            in_force: InForce::now(file.clone()),
            http_hosts: settings.http_hosts.clone().into(),
            file,
            listeners: Served::all(&settings, &BTreeSet::new()),
            settings,
            means,
            watchdog: Watchdog::start(engine.pulse()),
            engine: Some(engine),
            successor: None,
            leaving: false,
            ending: false,
            kept: Vec::new(),
            counts: ClientCounts::default(),
            predecessor_lives: predecessor.is_some(),
            waits: false,
            predecessor,
            child: None,
            finishing: Vec::new(),
            finished: 0,
            ends: crossbeam_channel::unbounded(), // one for each of `finishing`
            past: None,
            complete: true,
            control,
            offer,
            http: Http::new(Arc::new(facts)),
            drains_at: None,
            drained: BTreeSet::new(),
            events,
            finishers: Finishers::start()?,
            store: Store::default(),
        };
        tier.keep_sockets();
        Ok(tier)
    }

    /// Whether no other process has taken over: the service manager listens to this one.
    pub fn is_in_charge(&self) -> bool {
        self.successor.is_none()
    }

    /// The process that has taken over.
    pub fn successor(&self) -> Option<u32> {
        self.successor
    }

    /// Whether nothing accepts or finishes here any more.
    pub fn is_idle(&self) -> bool {
        self.engine.is_none() && self.finishing.is_empty()
    }

    /// Whether everything that was to finish so far has done so in time.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the process before this one has not left yet. What it still counts goes to the next process through this one;
    /// so this one, if nothing else is left for it to do, waits for it, but no longer than `drain_timeout`.
    pub fn awaits_predecessor(&mut self) -> bool {
        if self.predecessor_lives && !std::mem::replace(&mut self.waits, true) {
            let (limit, events) = (self.settings.drain_timeout, self.events.clone());
            let wait = move || {
                std::thread::sleep(limit);
                events.send(Event::Impatient);
            };
            self.predecessor_lives = std::thread::Builder::new().name("patience".into()).spawn(wait).is_ok();
        }
        self.predecessor_lives
    }

    /// The process that this one has taken over from has left.
    pub fn predecessor_left(&mut self) {
        self.predecessor_lives = false;
    }

    /// It has not, and this one leaves without what it still counts.
    pub fn wait_no_longer(&mut self) {
        if std::mem::take(&mut self.predecessor_lives) {
            tracing::warn!("the process before has not left within drain_timeout: what it still counts is lost");
        }
    }

    /// The engine that accepts, or why there is none.
    fn accepting(&self) -> Result<&Engine, &'static str> {
        self.engine.as_ref().ok_or(self.why_not())
    }

    fn why_not(&self) -> &'static str {
        if self.successor.is_some() {
            "another process has taken over"
        } else {
            "it is draining (`vestibule ctl resume` ends that)"
        }
    }

    /// Whether balancers should send connections here, or why not.
    fn ready(&self) -> Result<(), String> {
        if self.drains_at.is_some() && self.engine.is_some() {
            return Err("it is about to drain".to_owned());
        }
        match &self.accepting()?.given_up()[..] {
            [] => Ok(()),
            [(service, name), ..] => Err(format!("listener {service}/{name} has failed and is given up")),
        }
    }

    /// Serves HTTP at an address, if there is one, from what `watcher` sees.
    pub fn serve_http(&mut self, watcher: Arc<Watcher>, bound: Option<Bound>) {
        self.http.attach(watcher);
        bound.into_iter().for_each(|bound| self.http.listen(bound));
    }

    /// Starts the program anew, to take over from this process.
    pub fn start_successor(&mut self) {
        self.restore_places();
        let problem = match (self.accepting(), &self.settings.takeover_socket, self.child) {
            (Err(reason), ..) => reason.to_owned(),
            (Ok(_), None, _) => "takeover_socket is not set".to_owned(),
            // Of two of them one would fail, and its end could not be told.
            (Ok(_), _, Some(child)) => {
                format!("process {child}, which was started for that, is still at it; end it if it hangs")
            }
            (Ok(_), Some(socket), None) => match successor::start(self.file.as_deref(), socket) {
                Ok(child) => {
                    self.child = Some(child);
                    return;
                }
                Err(problem) => problem,
            },
        };
        tracing::error!(event = "takeover", "no process is started to take over: {problem}");
    }

    /// Sockets whose files somebody has removed, as what cleans up does with old files, are put back: without them nobody could
    /// take over from this process, or ask it, as long as it runs.
    fn restore_places(&self) {
        if self.accepting().is_err() {
            return;
        }
        let control = self.control.as_ref().is_some_and(|place| place.restore());
        let offer = self.offer.as_ref().is_some_and(|offer| offer.restore());
        for (name, _) in [("control_socket", control), ("takeover_socket", offer)].into_iter().filter(|(_, back)| *back)
        {
            tracing::warn!("the file of {name} was gone, and is there again: see what has removed it");
        }
    }

    /// Children have ended: that one, too, perhaps.
    pub fn children_ended(&mut self) {
        for (pid, code) in init::reap() {
            if self.child.take_if(|child| *child == pid).is_none() {
                continue;
            }
            if self.accepting().is_ok() {
                tracing::error!(event = "takeover", "process {pid} has ended with exit code {code}: this one goes on");
            } else if code != 0 {
                tracing::error!(event = "takeover", "process {pid} has ended with exit code {code}");
            }
        }
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        self.settings.drain_timeout
    }

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
    fn keep_sockets(&mut self) {
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
    fn served(&self, settings: &Settings) -> Settings {
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

    /// Goes on with another engine; the present one finishes what it has.
    fn follow(&mut self, next: Engine) {
        self.watchdog.follow(next.pulse());
        if let Some(mut old) = self.engine.take() {
            old.leave_counts_to(&next);
            // Nobody leaves; but when this returns, the present engine has stopped accepting.
            old.hand_over(&[], self.settings.drain_timeout);
            self.retire(old);
        }
        self.engine = Some(next);
    }

    fn retire(&mut self, old: Engine) {
        self.finish(old, |old, limit| {
            let before = let_go(old);
            let in_time = old.retire(limit);
            let sessions = let_go(old) - before;
            if sessions > 0 {
                tracing::info!(
                    event = "takeover",
                    "{sessions} sessions of the engine before did not end by themselves and were let go"
                );
            }
            if !in_time {
                tracing::warn!("not everything of the engine before ended within drain_timeout");
            }
            in_time
        });
    }

    /// Stops accepting for ever, and finishes.
    pub fn end(&mut self) {
        self.ending = true;
        self.drain_in_a_while();
    }

    /// Accepts again after a drain, with the configuration that was in force. The sessions that were not let go yet and can
    /// move go on. Tells how many.
    ///
    /// # Errors
    /// Say why not; nothing has changed then.
    pub fn resume(&mut self) -> Result<usize, String> {
        if self.ending || self.successor.is_some() {
            return Err(if self.ending { "it was told to end" } else { self.why_not() }.to_owned());
        }
        if self.engine.is_some() {
            // It may not have begun yet.
            let was_to_drain = self.drains_at.take().is_some();
            return was_to_drain.then_some(0).ok_or_else(|| "it is not draining".to_owned());
        }
        let served = self.served(&self.settings);
        let next =
            start(&served, &self.means, &[], std::mem::take(&mut self.counts)).map_err(|error| error.to_string())?;
        let sessions: Vec<LiveSession> = self.finishing.iter().flat_map(|one| one.asker.take_sessions()).collect();
        let (addresses, kept) = (next.addresses().len(), sessions.len());
        next.take_in_sessions(sessions);
        self.watchdog.follow(next.pulse());
        self.engine = Some(next);
        (self.leaving, self.drains_at) = (false, None);
        self.keep_sockets();
        systemd::ready(addresses);
        tracing::info!(
            event = "drain",
            "accepting again on {addresses} addresses: an operator has ended the drain, {kept} sessions go on"
        );
        Ok(kept)
    }

    /// Ends the process as SIGTERM does, once whoever asked has his answer.
    pub fn shut_down(&self) {
        self.events.send(Event::Signal(SIGTERM));
    }

    /// Drains after `drain_delay`, in which `/readyz` says so already: whoever sends connections here can look for another
    /// place while all are still served.
    pub fn drain_in_a_while(&mut self) {
        let delay = self.settings.drain_delay;
        if delay.is_zero() || self.engine.is_none() || self.drains_at.is_some() {
            return self.drain();
        }
        self.drains_at = Some(Instant::now() + delay);
        let events = self.events.clone();
        let wait = move || {
            std::thread::sleep(delay);
            events.send(Event::Drain);
        };
        match std::thread::Builder::new().name("delay".into()).spawn(wait) {
            Ok(_) => tracing::info!(event = "drain", "not ready any more; draining in {} s", delay.as_secs()),
            Err(error) => {
                tracing::warn!("draining at once, since there is no thread for drain_delay: {error}");
                self.drain();
            }
        }
    }

    /// Drains if it is time: that may have been taken back meanwhile, and asked for anew.
    pub fn drain_if_due(&mut self) {
        if self.drains_at.is_some_and(|due| due <= Instant::now()) {
            self.drain();
        }
    }

    /// Stops accepting, until [`Tier::resume`], and finishes. Once another process has taken over, what is left ends by
    /// itself, within the same limit.
    pub fn drain(&mut self) {
        self.leaving = true;
        if self.is_in_charge() {
            self.store.forget();
        }
        self.forget();
        self.leave_predecessor();
        let Some(engine) = self.engine.take() else { return };
        self.counts = engine.client_counts();
        self.watchdog.let_go();
        tracing::info!(event = "drain", "draining for at most {} s", self.settings.drain_timeout.as_secs());
        self.finish(engine, |engine, limit| {
            let begun = Instant::now();
            let before = let_go(engine);
            let in_time = engine.drain(limit);
            let sessions = let_go(engine) - before;
            match in_time {
                true => {
                    tracing::info!(
                        event = "drain",
                        "drained in {} ms: {sessions} sessions were let go",
                        begun.elapsed().as_millis()
                    )
                }
                false => {
                    tracing::warn!(
                        event = "drain",
                        "not everything ended within drain_timeout, {sessions} sessions were let go"
                    );
                }
            }
            in_time
        });
    }

    /// Lets an engine end, within drain_timeout, on a thread of its own: signals and takeovers do not wait for that.
    fn finish(&mut self, mut engine: Engine, end: fn(&mut Engine, Duration) -> bool) {
        let (limit, number) = (self.settings.drain_timeout, self.finished);
        let (ends, events) = (self.ends.0.clone(), self.events.clone());
        self.finished += 1;
        self.finishing.push(Finishing { number, meter: engine.meter(), asker: engine.asker() });
        self.finishers.run(Box::new(move || {
            let in_time = end(&mut engine, limit);
            let _ = ends.send(End { number, in_time }); // nobody reads it once the process ends
            events.send(Event::Ended);
        }));
    }

    /// Keeps what those engines have counted that have ended.
    pub fn collect(&mut self) {
        for End { number, in_time } in self.ends.1.try_iter() {
            self.complete &= in_time;
            for ended in self.finishing.extract_if(.., |one| one.number == number) {
                self.past = sum([self.past.take(), Some(ended.meter.snapshot())].into_iter().flatten());
            }
        }
    }

    /// What all engines have counted so far.
    pub fn snapshot(&self) -> Snapshot {
        self.glance().snapshot()
    }

    /// What can be seen, and done to sessions and servers, without holding the tier.
    pub fn glance(&self) -> Glance {
        let meters = self.engine.iter().map(Engine::meter);
        let askers = self.engine.iter().map(Engine::asker);
        Glance {
            meters: meters.chain(self.finishing.iter().map(|one| one.meter.clone())).collect(),
            askers: askers.chain(self.finishing.iter().map(|one| one.asker.clone())).collect(),
            past: self.past.clone(),
            means: self.means.clone(),
            ready: self.ready(),
            pulse: self.engine.as_ref().map(Engine::pulse),
            listeners: self.listeners.clone(),
            http_hosts: self.http_hosts.clone(),
            in_force: self.in_force.clone(),
            successor: self.successor,
            finishing: self.finishing.len(),
            predecessor_lives: self.predecessor_lives,
            disconnect_delay: self.settings.login_proxy_max_disconnect_delay,
        }
    }

    /// The process that this one has taken over from shall not accept again when this one ends.
    fn leave_predecessor(&mut self) {
        self.predecessor.take().iter().for_each(|before| before.leave());
    }

    /// The listeners' names by address, in the order of the settings.
    fn name_of(&self, address: SocketAddr) -> String {
        let mut listeners = self.settings.services.iter().flat_map(|service| &service.listeners);
        let at =
            |listener: &&InetListener| listener.port == address.port() && listener.addresses.contains(&address.ip());
        listeners.find(at).map_or_else(|| address.to_string(), |listener| listener.name.clone())
    }
}

impl Host for Tier {
    fn offer(&mut self) -> Result<Vec<Offered>, takeover::Error> {
        let sockets = self.accepting().map_err(takeover::Error::other)?.sockets().map_err(takeover::Error::System)?;
        let offered = |(address, socket)| Offered { address, name: self.name_of(address), socket };
        Ok(sockets.into_iter().map(offered).collect())
    }

    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, takeover::Error> {
        let why_not = self.why_not();
        let engine = self.engine.as_mut().ok_or_else(|| takeover::Error::other(why_not))?;
        (self.kept, self.counts) = (engine.sockets().map_err(takeover::Error::System)?, engine.client_counts());
        Ok(engine.hand_over(listeners, self.settings.drain_timeout))
    }

    fn let_go(&mut self, successor: u32) {
        // Operators ask the other process from now on.
        self.control.iter().for_each(|control| control.close());
        self.http.close();
        // The service manager listens to the other process from now on.
        self.watchdog.stop();
        self.successor = Some(successor);
        // Should that process fail, this one accepts again, and no third one.
        self.leave_predecessor();
        if let Some(engine) = self.engine.take() {
            self.retire(engine);
        }
    }

    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        self.engine.as_mut().map(Engine::hand_over_sessions).unwrap_or_default()
    }

    fn stay(&mut self, Given { pending, sessions, .. }: Given) {
        self.control.iter().for_each(|control| control.take_back());
        self.settings.http_listen.into_iter().for_each(|address| self.http.listen(Bound::Later(address)));
        let (kept, counts) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.counts));
        if self.leaving {
            return tracing::info!(event = "takeover", "nobody accepts any more: this process was told to end");
        }
        match start(&self.served(&self.settings), &self.means, &kept, counts) {
            Ok(next) => {
                let addresses = next.addresses().len();
                next.take_in(pending);
                next.take_in_sessions(sessions);
                self.follow(next);
                self.successor = None;
                self.keep_sockets();
                systemd::ready_instead(addresses);
                tracing::info!(event = "takeover", "accepting again on {addresses} addresses");
            }
            Err(error) => {
                tracing::error!(event = "takeover", "cannot accept again: {error}");
                self.events.send(Event::Failed);
            }
        }
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.counts = ClientCounts::default();
    }

    fn look(&mut self) {
        self.engine.iter().for_each(Engine::look);
    }

    fn has_left(&self) -> bool {
        self.leaving && self.is_idle()
    }

    fn account(&self) -> String {
        self.snapshot().to_text()
    }

    fn progress(&self) -> Option<String> {
        let (engines, sessions) = (self.finishing.len(), self.glance().sessions());
        match (engines, self.predecessor_lives) {
            (0, false) => None,
            (0, true) => {
                Some("nothing is left to finish here but to pass on what the process before still counts".into())
            }
            (engines, _) => Some(format!("{engines} engines still finish here, {sessions} sessions are left")),
        }
    }

    fn client_debts(&self) -> Vec<ClientDebt> {
        self.engine.as_ref().map_or_else(Vec::new, Engine::client_debts)
    }

    fn counters(&self, form: Form) -> String {
        let snapshot = self.snapshot();
        match form {
            Form::Json => figures::json(&snapshot),
            _ => format!("{snapshot}\n"),
        }
    }
}

/// The engines at one moment: their counts and sessions can be asked for by anyone who has this, however long the tier is
/// busy with a takeover.
#[derive(Clone)]
pub struct Glance {
    meters: Vec<Meter>,
    /// The way to the sessions of each engine.
    pub askers: Vec<Asker>,
    past: Option<Snapshot>,
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
    fn is_called(&self, name: &str) -> bool {
        name == self.name || name.split_once('/') == Some((&self.service, &self.name))
    }

    fn all(settings: &Settings, drained: &BTreeSet<(String, String)>) -> Arc<[Served]> {
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

/// An engine on sockets that listen already, where there are some.
fn start(
    settings: &Settings,
    means: &Means,
    sockets: &[(SocketAddr, TcpListener)],
    counts: ClientCounts,
) -> Result<Engine, Error> {
    let open = |address: SocketAddr| -> io::Result<Vec<TcpListener>> {
        let there = sockets.iter().filter(|(bound, _)| *bound == address);
        there.map(|(_, socket)| socket.try_clone()).collect()
    };
    Ok(plan::builder(settings, means, open)?.client_counts(counts).start()?)
}

/// Sessions that were ended because their engine ends.
fn let_go(engine: &Engine) -> u64 {
    engine.snapshot().count("service-ended")
}

fn sum(snapshots: impl Iterator<Item = Snapshot>) -> Option<Snapshot> {
    snapshots.reduce(|mut all, one| {
        all += &one;
        all
    })
}

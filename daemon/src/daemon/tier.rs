//! The running engine and those before it: reload, drain, and the hand-over to another process.

mod finishers;
mod glance;
mod host;
mod reload;

pub use glance::{Glance, Served};

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::SIGTERM;
use vestibule::config::{InetListener, Settings};
use vestibule::engine::{Asker, ClientCounts, Engine, LiveSession, Meter, Snapshot};
use vestibule::takeover::{Host, Offer, Place, Predecessor};

use self::finishers::Finishers;
use self::glance::sum;
use super::http::{Bound, Facts, Http};
use super::in_force::InForce;
use super::plan::{self, Means};
use super::systemd::{self, Store, Watchdog};
use super::watcher::Watcher;
use super::{Error, init, mailbox, successor};

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

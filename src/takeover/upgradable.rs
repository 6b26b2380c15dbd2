//! A service of one engine that lets the next process take its place, and takes the place of the one before.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{Claim, Error, Form, Given, Host, Legacy, Offer, Offered, Predecessor, lock};
use crate::engine::{ClientCounts, ClientDebt, Engine, EngineBuilder, LiveSession, Meter, Pending, Snapshot};

/// As good as for ever, and still an instant.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// A service of one engine that upgrades itself: whenever a process is started that has an `Upgradable` at the same
/// path, that one goes on where this one stops. The listening sockets never close, so that nobody is refused;
/// connections whose header is awaited and relayed sessions move; what workers hold is finished here, and then this
/// process leaves.
///
/// Clones are the same service. Dropping them all does not end it: [`end`](Upgradable::end) does.
///
/// ```
/// use std::time::Duration;
/// use vestibule::takeover::{Ended, Upgradable};
/// use vestibule::{Accepted, Engine, Listener, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("takeover");
/// # let address = "127.0.0.1:0".parse()?;
/// let describe = move || {
///     let pool = Pool::threads("imap", 2, |connection: Accepted| println!("{}", connection.client()));
///     Engine::builder().pool(pool).listen(Listener::proxy(address).pool("imap"))
/// };
/// let service = Upgradable::start(&path, Duration::from_secs(30), describe)?;
/// # service.end(); // or a new process takes over
/// match service.wait() {
///     Ended::TakenOver(process) => println!("process {process} has taken over, and nothing is left to finish"),
///     ended => println!("{ended:?}"),
/// }
/// # Ok(())
/// # }
/// ```
///
/// If a process that had taken over fails before this one has left, this one accepts again, with another engine. A
/// program that pulls connections gets them by [`with_engine`](Upgradable::with_engine) and [`Engine::incoming`] then
/// as at the beginning.
///
/// A listener on port 0 begins anew on another port whenever an engine starts: a service to be upgraded names its
/// ports.
#[derive(Clone)]
pub struct Upgradable(Arc<Shared>);

/// Why a service has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The process of this number has taken over, and everything here is finished.
    TakenOver(u32),
    /// It was [told to](Upgradable::end).
    Told,
    /// The process before has taken everything back: it took this one for dead, such as after a long halt.
    Displaced,
    /// The process that had taken over has failed, and this one could not accept again: the log says why.
    Failed,
}

struct Shared {
    offer: Offer,
    tenure: Mutex<Tenure>,
    ended: Mutex<Option<Ended>>,
    has_ended: Condvar,
}

/// The engine that accepts, or what is left of it.
struct Tenure {
    describe: Box<dyn FnMut() -> EngineBuilder + Send>,
    /// How long what is left may take.
    limit: Duration,
    /// Accepts. `None` once another process has taken over, or this one ends.
    engine: Option<Engine>,
    /// What another process that has taken over accepts on, and the counts of clients, should it fail.
    kept: Vec<(SocketAddr, TcpListener)>,
    counts: ClientCounts,
    /// The process before, as long as it is to accept again should this one die.
    predecessor: Option<Arc<Predecessor>>,
    /// Whether that one still counts what is to be told to the next.
    predecessor_lives: bool,
    successor: Option<u32>,
    /// Why this one never accepts again.
    ending: Option<Ended>,
    /// Of engines that end, in this order.
    finishing: Vec<Meter>,
    /// What those have counted that have ended.
    past: Option<Snapshot>,
    legacy: Legacy,
    events: Sender<Event>,
}

/// What the thread that ends engines waits for.
enum Event {
    /// One that another engine has taken over from is to end until then.
    Retire(Engine, Instant),
    /// The same of one that nobody takes over from.
    Drain(Engine, Instant),
    /// To look whether anything is left.
    Look,
}

impl Upgradable {
    /// Takes over from the process that offers itself at `path`, if there is one, and offers itself there. `describe`
    /// tells what is to be served; it is asked again if this process has to accept again because the next one has
    /// failed. What workers and sessions have not ended within `limit`, when another process has taken over or the
    /// service is to end, is let go.
    ///
    /// # Errors
    /// If the engine does not start, `path` cannot be used, or the process before [goes on](Error::GoesOn). Nothing is
    /// left running here then, and that process serves as before.
    pub fn start(
        path: impl AsRef<Path>,
        limit: Duration,
        mut describe: impl FnMut() -> EngineBuilder + Send + 'static,
    ) -> Result<Upgradable, Error> {
        let path = path.as_ref();
        let mut claim = Claim::find(path)?;
        let builder = describe();
        let builder = match &mut claim {
            Some(claim) => claim.equip(builder),
            None => builder,
        };
        // Before anybody is accepted: what can fail has not failed then.
        let (offer, legacy) = (Offer::prepare(path)?, Legacy::default());
        let (events, inbox) = crossbeam_channel::unbounded(); // one for each takeover, and for what ends this process
        let mut engine = builder.start().map_err(Error::Start)?;
        let done = match claim {
            Some(claim) => claim.take_over(&engine, &legacy, || offer.publish()).map(Some),
            None => offer.publish().map(|()| None),
        };
        let predecessor = match done {
            Ok(predecessor) => predecessor.map(Arc::new),
            Err(error) => {
                engine.drain(limit);
                return Err(error);
            }
        };
        let tenure = Tenure {
            describe: Box::new(describe),
            limit,
            engine: Some(engine),
            kept: Vec::new(),
            counts: ClientCounts::default(),
            predecessor_lives: predecessor.is_some(),
            predecessor,
            successor: None,
            ending: None,
            finishing: Vec::new(),
            past: None,
            legacy,
            events,
        };
        let (ended, has_ended) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { offer, tenure: Mutex::new(tenure), ended, has_ended });
        if let Err(error) = shared.run(inbox) {
            let mut tenure = lock(&shared.tenure);
            // Without a word: the process before accepts again.
            tenure.predecessor = None;
            tenure.end(Ended::Failed);
            return Err(Error::System(error));
        }
        Ok(Upgradable(shared))
    }

    /// Lets the engine that accepts do something, such as [tell its addresses](Engine::addresses), or [serve another
    /// configuration](Engine::replace), which `describe` should tell of from then on. `None`: none accepts here any
    /// more.
    pub fn with_engine<T>(&self, body: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        lock(&self.0.tenure).engine.as_mut().map(body)
    }

    /// What was counted by this process and those before it.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.0.tenure).snapshot()
    }

    /// Stops accepting and finishes, within the limit that it was started with. No other process takes over any more;
    /// one that has taken over goes on. [`wait`](Upgradable::wait) tells when it is done.
    pub fn end(&self) {
        lock(&self.0.tenure).end(Ended::Told);
    }

    /// Waits until nothing is left to do here, because another process has taken over or the service was to end.
    pub fn wait(&self) -> Ended {
        let mut ended = lock(&self.0.ended);
        loop {
            match *ended {
                Some(ended) => return ended,
                None => ended = self.0.has_ended.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl std::fmt::Debug for Upgradable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgradable").field("offer", &self.0.offer).finish_non_exhaustive()
    }
}

impl Shared {
    /// Starts the threads that serve the offer, hear the process before, and end engines.
    fn run(self: &Arc<Shared>, inbox: Receiver<Event>) -> std::io::Result<()> {
        let spawn = |name: &str, body: fn(&Shared)| {
            let shared = self.clone();
            thread::Builder::new().name(name.into()).spawn(move || body(&shared)).map(drop)
        };
        let shared = self.clone();
        thread::Builder::new().name("finisher".into()).spawn(move || shared.finish(&inbox))?;
        spawn("takeover", Shared::give_way)?;
        if lock(&self.tenure).predecessor.is_some() {
            spawn("predecessor", Shared::outlive)?;
        }
        Ok(())
    }

    /// Lets other processes take over. How that ends is seen in the tenure.
    fn give_way(&self) {
        let served = || self.offer.serve(&self.tenure);
        if catch_unwind(AssertUnwindSafe(served)).is_err() {
            // What describes the engine is the program's own, and may have panicked when nobody accepts.
            tracing::error!(event = "takeover", "a takeover has ended in a panic: this service ends");
            lock(&self.tenure).end(Ended::Failed);
        }
    }

    /// Waits for the end of the process before.
    fn outlive(&self) {
        let (predecessor, legacy) = {
            let tenure = lock(&self.tenure);
            (tenure.predecessor.clone(), tenure.legacy.clone())
        };
        let Some(predecessor) = predecessor else { return };
        let ended = predecessor.await_its_end(&legacy);
        let mut tenure = lock(&self.tenure);
        tenure.predecessor_lives = false;
        match ended {
            Ok(()) => {
                tracing::info!(event = "takeover", "process {} has left", predecessor.process());
                tenure.tell(Event::Look);
            }
            Err(error) => {
                tracing::error!(event = "takeover", "{error}");
                tenure.end(Ended::Displaced);
            }
        }
    }

    /// Ends engines, one after the other, until nothing is left to do here.
    fn finish(&self, inbox: &Receiver<Event>) {
        // Since when nothing is left here but to pass on what the process before still counts.
        let mut idle: Option<Instant> = None;
        let limit = lock(&self.tenure).limit;
        let ended = loop {
            let patience = idle.map(|since| limit.saturating_sub(since.elapsed()));
            let event = match patience {
                Some(patience) => inbox.recv_timeout(patience),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Retire(mut engine, end)) => self.has_finished(engine.retire(until(end))),
                Ok(Event::Drain(mut engine, end)) => self.has_finished(engine.drain(until(end))),
                Ok(Event::Look) => {}
                Err(_) => {
                    tracing::warn!("the process before has not left in time: what it still counts is lost");
                    lock(&self.tenure).predecessor_lives = false;
                }
            }
            match lock(&self.tenure).conclusion() {
                Conclusion::Ended(ended) => break ended,
                Conclusion::Awaits => idle = idle.or(Some(Instant::now())),
                Conclusion::Serves => idle = None,
            }
        };
        self.offer.conclude(|| lock(&self.tenure).account());
        self.offer.leave();
        *lock(&self.ended) = Some(ended);
        self.has_ended.notify_all();
    }

    fn has_finished(&self, in_time: bool) {
        if !in_time {
            tracing::warn!("not everything of the engine before ended within its time");
        }
        lock(&self.tenure).collect();
    }
}

/// Those that end at the same time are not given more of it for waiting for each other.
fn until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// What is left to do.
enum Conclusion {
    /// Somebody is served here, or what was begun is finished.
    Serves,
    /// Nothing, but the process before still counts.
    Awaits,
    /// Nothing.
    Ended(Ended),
}

impl Tenure {
    fn tell(&self, event: Event) {
        let _ = self.events.send(event); // the finisher ends last
    }

    /// Never accepts again, for the first reason that there is.
    fn end(&mut self, why: Ended) {
        self.ending.get_or_insert(why);
        self.forget();
        self.leave_predecessor();
        match self.engine.take() {
            Some(engine) => self.hand_on(engine, Event::Drain),
            None => self.tell(Event::Look),
        }
    }

    /// Lets the finisher have an engine.
    fn hand_on(&mut self, engine: Engine, event: fn(Engine, Instant) -> Event) {
        let now = Instant::now();
        self.finishing.push(engine.meter());
        self.tell(event(engine, now.checked_add(self.limit).unwrap_or(now + FOREVER)));
    }

    /// The first of those that were to end has ended.
    fn collect(&mut self) {
        let ended = self.finishing.remove(0).snapshot();
        match &mut self.past {
            Some(past) => *past += &ended,
            past => *past = Some(ended),
        }
    }

    /// The process before shall not accept again when this one ends.
    fn leave_predecessor(&mut self) {
        self.predecessor.take().iter().for_each(|predecessor| predecessor.leave());
    }

    /// What is left to do. If nothing is, this process accepts no more, whatever happens.
    fn conclusion(&mut self) -> Conclusion {
        let ended = self.ending.or(self.successor.map(Ended::TakenOver));
        match ended {
            Some(ended) if self.engine.is_none() && self.finishing.is_empty() => {
                if self.successor.is_some() && self.predecessor_lives {
                    return Conclusion::Awaits;
                }
                self.ending = Some(ended);
                self.forget();
                Conclusion::Ended(ended)
            }
            _ => Conclusion::Serves,
        }
    }

    fn snapshot(&self) -> Snapshot {
        let meters = self.engine.iter().map(Engine::meter).chain(self.finishing.iter().cloned());
        let all = meters.map(|meter| meter.snapshot()).chain(self.past.clone()).reduce(|mut all, one| {
            all += &one;
            all
        });
        let mut all = all.expect("an engine accepts, ends or has ended");
        self.legacy.add_to(&mut all);
        all
    }

    fn accepting(&self) -> Result<&Engine, Error> {
        let why_not = match self.successor {
            Some(_) => "another process has taken over",
            None => "it is about to end",
        };
        self.engine.as_ref().ok_or_else(|| Error::other(why_not))
    }

    /// Another engine, on the sockets of the one before.
    fn start_again(&mut self, given: Given) -> Result<(), Error> {
        let (mut kept, counts) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.counts));
        let builder = (self.describe)().client_counts(counts).adopt(|address| {
            let its = kept.extract_if(.., |(bound, _)| *bound == address);
            its.map(|(_, socket)| socket).collect()
        });
        let next = builder.start().map_err(Error::Start)?;
        next.take_in(given.pending);
        next.take_in_sessions(given.sessions);
        if let Some(mut old) = self.engine.replace(next) {
            // What it counts of clients is counted there now.
            self.engine.iter().for_each(|next| old.leave_counts_to(next));
            self.hand_on(old, Event::Retire);
        }
        self.successor = None;
        Ok(())
    }
}

impl Host for Tenure {
    fn offer(&mut self) -> Result<Vec<Offered>, Error> {
        let sockets = self.accepting()?.sockets().map_err(Error::System)?;
        let offered =
            |(address, socket): (SocketAddr, TcpListener)| Offered { address, name: address.to_string(), socket };
        Ok(sockets.into_iter().map(offered).collect())
    }

    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, Error> {
        let engine = self.accepting()?;
        (self.kept, self.counts) = (engine.sockets().map_err(Error::System)?, engine.client_counts());
        let limit = self.limit;
        Ok(self.engine.as_mut().map(|engine| engine.hand_over(listeners, limit)).unwrap_or_default())
    }

    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        self.engine.as_mut().map(Engine::hand_over_sessions).unwrap_or_default()
    }

    fn client_debts(&self) -> Vec<ClientDebt> {
        self.engine.as_ref().map_or_else(Vec::new, Engine::client_debts)
    }

    fn account(&self) -> String {
        self.snapshot().to_text()
    }

    fn let_go(&mut self, successor: u32) {
        self.successor = Some(successor);
        // Should that process fail, this one accepts again, and no third one.
        self.leave_predecessor();
        if let Some(engine) = self.engine.take() {
            self.hand_on(engine, Event::Retire);
        }
    }

    fn stay(&mut self, given: Given) {
        if self.ending.is_some() {
            return tracing::info!(event = "takeover", "nobody accepts any more: this process was told to end");
        }
        match self.start_again(given) {
            Ok(()) => tracing::info!(event = "takeover", "accepting again"),
            Err(error) => {
                tracing::error!(event = "takeover", "cannot accept again: {error}");
                self.end(Ended::Failed);
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
        self.ending.is_some() && self.engine.is_none() && self.finishing.is_empty()
    }

    fn progress(&self) -> Option<String> {
        let (engines, awaits) = (self.finishing.len(), self.predecessor_lives);
        let awaited = "nothing is left to finish here but to pass on what the process before still counts";
        match engines {
            0 => awaits.then(|| awaited.to_owned()),
            engines => Some(format!("{engines} engines still finish here")),
        }
    }

    fn counters(&self, form: Form) -> String {
        let snapshot = self.snapshot();
        match form {
            Form::Table => format!("{snapshot}\n"),
            Form::Json => json(&snapshot),
        }
    }
}

/// The counters by name. Names of counters need no escapes.
fn json(snapshot: &Snapshot) -> String {
    let counters = snapshot.counters().iter().map(|(name, count)| format!("\"{name}\":{count}"));
    format!("{{\"counters\":{{{}}}}}\n", counters.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests;

//! Who is alive: one thread that checks the servers of all backends, and one that looks up their names.
//!
//! ```text
//! backend --next_check--> Checks --Verdict--> backend.checked --Change--> log
//!    ^                                                |-- down, maint: Command::LetGo --> every ring
//!    '-- the bell: a session has failed, a state is set '-- places: Grant --> Letterbox --> the ring of who waits
//! ```
//! What a check says and when the next one is due is the [`Backend`](crate::backend::Backend)'s; this room gives it sockets
//! and the time. It begins with the first relay of an engine and ends with the engine.

mod checks;
mod names;
mod once;
#[cfg(test)]
mod tests;
mod trial;

pub use names::{NAMES_EVERY, Resolver, address_among};
pub use once::{Asked, ServerFinding, check_once};

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::relay::Terms;
use super::{Command, Reach, StartError};
use crate::backend::{AdminState, CheckKind, CheckTimes, Finding, NextCheck, ServerIndex, Settings, Verdict};
use crate::relay::End;
use crate::ring::{Epoll, Waker};
use checks::{Checks, Task};
use names::Names;

/// Configurations that may wait to be taken up.
const CONFIGURATIONS_MAX: usize = 16;

/// The threads; dropping it ends them.
#[derive(Debug)]
pub struct Prober {
    handle: Option<JoinHandle<()>>,
    /// `None` only while it is dropped: a closed inbox tells the thread to end.
    inbox: Option<Sender<Vec<Arc<Terms>>>>,
    bell: Arc<Waker>,
    names: Names,
}

impl Prober {
    /// A prober without backends. `rings` are told whose sessions are to be let go, by commands.
    pub fn start(rings: Vec<Reach>, resolver: Resolver) -> Result<Prober, StartError> {
        let names = Names::start(resolver).map_err(StartError::System)?;
        let waker = Waker::new().map_err(StartError::System)?;
        let bell = Arc::new(waker.clone());
        let (sender, inbox) = crossbeam_channel::bounded(CONFIGURATIONS_MAX);
        let (ready, is_ready) = crossbeam_channel::bounded(1);
        let body = move || match checks::driver(waker) {
            Ok(driver) => {
                let _ = ready.send(Ok(()));
                let probing = Probing { driver, checks: Checks::new(), watched: Vec::new(), rings };
                if let Err(error) = probing.run(&inbox) {
                    tracing::error!("servers are not checked any more: {error}");
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let handle = thread::Builder::new().name("prober".into()).spawn(body).map_err(StartError::System)?;
        let prober = Prober { handle: Some(handle), inbox: Some(sender), bell, names };
        match is_ready.recv() {
            Ok(Ok(())) => Ok(prober),
            Ok(Err(error)) => Err(StartError::Ring(error)),
            Err(_) => Err(StartError::System(io::Error::other("the prober has ended before it was ready"))),
        }
    }

    /// Has the backends of these relays in its charge from now on, and no others. A backend of several relays is checked
    /// once, as the first of them speaks to it.
    pub fn watch(&self, relays: &[Arc<Terms>]) {
        let mut different: Vec<Arc<Terms>> = Vec::new();
        for terms in relays {
            if !different.iter().any(|known| known.backend.is(&terms.backend)) {
                terms.backend.attend(&self.bell);
                different.push(terms.clone());
            }
        }
        if !self.names.watch(different.iter().map(|terms| terms.backend.clone()).collect()) {
            tracing::warn!(
                "names of new servers are not looked up again before the next reload: no name server answers"
            );
        }
        if let Some(inbox) = &self.inbox {
            // Nobody takes them any more if the thread has ended, which it has said.
            let _ = inbox.send_timeout(different, super::COMMAND_PATIENCE);
        }
        self.bell.wake();
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.inbox = None;
        self.bell.wake();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

/// A check of a server as the backend is set.
fn task(terms: &Arc<Terms>, settings: &Settings, server: ServerIndex, address: SocketAddr, kind: CheckKind) -> Task {
    let greeting = CheckTimes::default().greeting.min(terms.greeting_timeout);
    let times = CheckTimes { connect: settings.connect_timeout, greeting };
    Task { terms: terms.clone(), server, address, kind, times, is_trial: false }
}

/// A backend in the prober's charge.
struct Watched {
    terms: Arc<Terms>,
    /// Servers that are down or in maint and whose sessions were let go.
    emptied: HashSet<ServerIndex>,
}

/// Why the sessions of a server are let go.
#[derive(Clone, Copy, Debug)]
struct Emptying {
    server: ServerIndex,
    sessions: u32,
    /// By an operator's wish; else because it is down.
    maint: bool,
}

/// The prober's thread.
struct Probing {
    driver: Epoll,
    checks: Checks<OwnedFd>,
    watched: Vec<Watched>,
    rings: Vec<Reach>,
}

impl Probing {
    /// Until the inbox is closed.
    fn run(mut self, inbox: &Receiver<Vec<Arc<Terms>>>) -> io::Result<()> {
        loop {
            loop {
                match inbox.try_recv() {
                    Ok(relays) => self.take_up(relays),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            let next = self.look();
            self.checks.turn(&mut self.driver, next)?;
            for (task, verdict) in self.checks.take_over() {
                self.judge(&task, verdict, Instant::now());
            }
        }
    }

    /// Other backends, or the same: what is known of those that stay is kept.
    fn take_up(&mut self, relays: Vec<Arc<Terms>>) {
        let mut before = std::mem::take(&mut self.watched);
        let keep = |terms: Arc<Terms>| {
            let known = before.iter_mut().find(|watched| watched.terms.backend.is(&terms.backend));
            let emptied = known.map(|known| std::mem::take(&mut known.emptied)).unwrap_or_default();
            Watched { terms, emptied }
        };
        self.watched = relays.into_iter().map(keep).collect();
    }

    /// Does what is due at the backends; when the next thing is.
    fn look(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        // When there is no room for all checks, each backend gets its turn.
        let count = self.watched.len();
        self.watched.rotate_left(1.min(count));
        for at in 0..count {
            let begun = self.begin_checks(at, now);
            self.empty_servers(at, now);
            let woken = self.grant_places(at, now);
            next = next.into_iter().chain(begun).chain(woken).min();
        }
        next
    }

    /// Begins the checks of a backend that are due, as far as there is room; when the next one is.
    fn begin_checks(&mut self, at: usize, now: Instant) -> Option<Instant> {
        while self.checks.room() > 0 {
            let terms = &self.watched[at].terms;
            let mut backend = terms.backend.lock();
            let (server, address) = match backend.next_check(now) {
                NextCheck::Now { server, address } => (server, address),
                NextCheck::At(next) => return Some(next),
                NextCheck::Never => return None,
            };
            let settings = backend.settings();
            let task = task(terms, settings, server, address, settings.check.kind);
            drop(backend);
            self.checks.begin(&mut self.driver, task, now);
        }
        // The end of a check makes room.
        None
    }

    /// Lets the sessions go of servers that are in maint, once.
    fn empty_servers(&mut self, at: usize, now: Instant) {
        let Watched { terms, emptied } = &mut self.watched[at];
        let backend = terms.backend.lock();
        let lost = || backend.servers(now).filter(|server| !server.up || server.state == AdminState::Maint);
        emptied.retain(|server| lost().any(|view| view.index == *server));
        let news = lost().filter(|view| view.state == AdminState::Maint && !emptied.contains(&view.index));
        let news: Vec<Emptying> =
            news.map(|view| Emptying { server: view.index, sessions: view.sessions, maint: true }).collect();
        drop(backend);
        news.into_iter().for_each(|emptying| self.empty(at, emptying));
    }

    /// Gives places to those who wait; when the time alone makes some.
    fn grant_places(&mut self, at: usize, now: Instant) -> Option<Instant> {
        let backend = &self.watched[at].terms.backend;
        backend.grant_places(now);
        backend.lock().wake_at()
    }

    /// What a check has found, and what follows.
    fn judge(&mut self, task: &Task, verdict: Verdict, now: Instant) {
        let speaks_against = !verdict.finding.is_good() && verdict.finding != Finding::OwnFault;
        let backend = &task.terms.backend;
        let (change, lost) = {
            let mut state = backend.lock();
            let change = state.checked(task.server, verdict, now);
            let server = state.server(task.server, now);
            let lost = Emptying { server: task.server, sessions: server.sessions, maint: false };
            (change, (speaks_against && !server.up).then_some(lost))
        };
        if let Some(change) = change {
            backend.tell(task.server, &change, now);
        }
        // Failures of sessions may have brought it down before; a check that agrees is what their end takes.
        let at = self.watched.iter().position(|watched| watched.terms.backend.is(backend));
        if let (Some(at), Some(lost)) = (at, lost) {
            self.empty(at, lost);
        }
    }

    /// Tells every ring to let the sessions of a server go, unless they were told before.
    fn empty(&mut self, at: usize, Emptying { server, sessions, maint }: Emptying) {
        let Watched { terms, emptied } = &mut self.watched[at];
        if !emptied.insert(server) || sessions == 0 {
            return;
        }
        let (backend, name) = (terms.backend.name(), terms.backend.server_name(server).unwrap_or_default());
        let (why, over) = (if maint { "in maintenance" } else { "down" }, terms.disconnect_delay);
        tracing::info!(
            "backend {backend}: server {name} is {why}: its sessions ({sessions}) are let go within {} s",
            over.as_secs()
        );
        for ring in &self.rings {
            ring.command(Command::LetGo { backend: terms.backend.clone(), server, end: End::ServerDown, over });
        }
    }
}

//! Rings, listeners and pools put together: one pinned thread a ring, each running an acceptor.
//!
//! ```text
//! EngineBuilder --start--> Engine
//!                            |-- RingThread 0: Acceptor<D, Pools> --,
//!                            |-- RingThread 1: Acceptor<D, Pools> --+--> queues --> pools' workers
//!                            '-- commands (drain) --> each ring
//! ```
//! `D` is the driver that the engine was started on, of io_uring or of epoll; here both are called rings.
//! Rings share nothing but the ends of the pools' queues and the report of refusals. A ring that fails is replaced on the
//! same sockets (`mend.rs`) while the others go on; a thread that ends closes them, so that the kernel gives new connections
//! to the other rings.
#![forbid(unsafe_code)]

mod acceptor;
mod accounts;
mod amend;
mod asker;
#[cfg(feature = "tokio")]
mod awaited;
mod door;
mod driver;
mod exposition;
mod fault;
mod handshake;
#[cfg(test)]
mod kernel;
mod ledger;
mod listener;
mod locked;
mod mend;
mod outsiders;
mod pools;
mod prober;
mod records;
mod refusals;
mod refused;
mod relay;
mod replace;
mod report;
#[cfg(test)]
mod simulation;
mod snapshot;
mod start;
mod takeover;
mod tally;
#[cfg(test)]
mod tests;
mod tls_seen;
mod uses;

pub use accounts::{BackendAccount, ServerAccount};
pub use amend::{AmendError, InForce, Which};
pub use asker::{Asker, SessionsSeen};
#[cfg(feature = "tokio")]
pub use awaited::AsyncEngine;
pub use driver::{DriverChoice, DriverInUse};
pub use handshake::HANDSHAKE_THREADS_MAX;
pub use ledger::NoSnapshot;
pub use listener::{Listener, TIMEOUT_DEFAULT, TIMEOUT_MAX};
#[doc(hidden)]
pub use locked::{GivesWay, Rings, Step};
pub use outsiders::{OUTSIDERS_MAX, OutsiderSeen};
pub use prober::{Asked, NAMES_EVERY, Resolver, ServerFinding, address_among, check_once};
pub use refusals::{REFUSALS_MAX, REFUSED_BYTES_MAX, RefusalSeen};
pub use refused::Refused;
pub use relay::{
    DISCONNECT_DELAY_DEFAULT, GREETING_TIMEOUT_DEFAULT, HALF_CLOSED_TIMEOUT_DEFAULT, HELD_MOVED_MAX,
    IDLE_TIMEOUT_DEFAULT, LiveSession, Relay, SessionFilter, SessionLog, SessionRecord, SessionSeen, SessionState,
    SharedBackend,
};
pub use replace::{Kept, Replaced};
pub use snapshot::{Ended, ListenerAccount, Meter, NetworkUse, RingAccount, Snapshot};
pub use start::{Bound, EngineBuilder, PENDING_LIMIT_DEFAULT, PENDING_LIMIT_MAX, RINGS_MAX, StartError, cpus};
pub use takeover::{ClientCounts, Pending};
pub use tally::Count;
pub use tls_seen::{TlsEnd, TlsSeen};
pub use uses::NETWORKS_TOLD_MAX;

pub use crate::admission::{CLIENT_DEBTS_MAX, ClientDebt};
pub use crate::ring::SetupError;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::admission::Clients;
use crate::backend::ServerIndex;
use crate::dispatch::{Incoming, PoolRecord, Queue, RunningWorkers};
use crate::relay::End;
use crate::ring::{Sizes, Waker};
use acceptor::Departing;
use handshake::Threads;
use prober::Prober;
use relay::Question;
use report::Report;
use start::{Plan, RingPlan};
use tally::Tally;

// A completion finds its slot's user by a generation that must fit into what the kernel gives back.
const _: () = assert!(crate::conn::GENERATION_BITS == crate::ring::GENERATION_BITS);

/// Commands that may wait for one ring.
const COMMANDS_MAX: usize = 16;
/// How long a full inbox is waited for.
const COMMAND_PATIENCE: Duration = Duration::from_secs(1);
/// How long headers that are under way may still take when a drain begins.
const DRAIN_GRACE: Duration = Duration::from_millis(200);
/// The part of a drain's time over which sessions are let go.
const SESSIONS_SHARE: f64 = 0.9;
/// As good as for ever, and still an instant: limits beyond it are taken for it.
const FOREVER: Duration = Duration::from_secs(1 << 32);
/// How often a drain looks whether the rings have ended.
const DRAIN_STEP: Duration = Duration::from_millis(2);

/// A running accept tier. Dropping it without [`drain`](Engine::drain) ends the rings at once.
pub struct Engine {
    /// By listener.
    addresses: Vec<SocketAddr>,
    /// How many of the listeners were asked for; the others are for sockets beyond one a ring.
    declared: usize,
    /// By listener: whether its connections begin with a header.
    proxied: Vec<bool>,
    /// The rings' sockets, for an engine that takes over; a ring that ends, or gives a socket up, closes it. Empty once a
    /// drain has begun.
    sockets: Vec<(SocketAddr, Weak<TcpListener>)>,
    /// From the first relay until a drain begins. Stands before the rings, whose inboxes it knows.
    prober: Option<Prober>,
    /// How it looks names up.
    resolver: Resolver,
    threads: Vec<RingThread>,
    /// Stand behind the rings: they end when those have.
    handshakes: Threads,
    workers: Mutex<Vec<Box<dyn RunningWorkers>>>,
    /// What the program has not asked for yet.
    incoming: Mutex<Vec<Incoming>>,
    /// The queues of pools that it pulls, for another configuration to go on with; none once a drain has begun.
    pulled: Vec<Queue>,
    pools: Vec<Arc<PoolRecord>>,
    /// Of the present relays, and of former ones whose servers still have sessions.
    backends: Vec<SharedBackend>,
    clients: Mutex<Clients>,
    /// What the rings do; `None` once a drain has begun.
    plan: Mutex<Option<Arc<Plan>>>,
    report: Arc<Report>,
    /// What each ring was made for.
    sizes: Sizes,
    /// Bytes that they may keep locked; 0: no limit.
    locked_memory_limit: u64,
    /// What they run on.
    driver: DriverInUse,
}

/// A ring's thread; dropping it ends the ring at once and waits for that.
struct RingThread {
    handle: Option<JoinHandle<()>>,
    /// `None` only while it is dropped: a closed inbox tells the ring to end.
    commands: Option<Sender<Command>>,
    waker: Waker,
    tally: Arc<Tally>,
}

#[derive(Debug)]
enum Command {
    /// Do what a configuration says, the first or another one.
    Change { plan: RingPlan, done: Sender<()> },
    /// Trust and limit as a plan says that is otherwise the present one.
    Amend { plan: Arc<Plan>, done: Sender<()> },
    /// Stop accepting; headers that are under way have this long, and sessions end within the other time, none at once if another
    /// process has taken over.
    Drain { grace: Duration, sessions: Duration, taken_over: bool },
    /// The same, and those that await their header on the listeners of these addresses leave for another process.
    HandOver { listeners: Vec<SocketAddr>, grace: Duration, to: Sender<Departing<OwnedFd>> },
    /// Sessions leave for another process; those that cannot are counted.
    HandOverSessions { to: Sender<LiveSession>, stay: Arc<AtomicUsize> },
    /// Sessions of another process.
    TakeSessions(Vec<LiveSession>),
    /// See to the backlogs, woken or not.
    Look,
    /// Connections from another process.
    TakeIn(Vec<Departing<OwnedFd>>),
    /// The sessions of a server end, spread over a time.
    LetGo { backend: SharedBackend, server: ServerIndex, end: End, over: Duration },
    /// Somebody wants to know of sessions, or to end some.
    Ask(Question),
    /// End at once.
    Quit,
    /// Panic.
    #[cfg(test)]
    Panic,
    /// Take the ring for broken.
    #[cfg(test)]
    Break,
}

impl Engine {
    /// Describes an engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The addresses that the listeners are bound to, in the order they were added; port 0 has become a real one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses[..self.declared]
    }

    /// What its threads run on.
    pub fn driver(&self) -> &DriverInUse {
        &self.driver
    }

    /// What all rings and pools have counted and measured so far.
    pub fn snapshot(&self) -> Snapshot {
        self.meter().snapshot()
    }

    /// The connections of a pool made by [`Pool::incoming`](crate::Pool::incoming), once; `None` if there is no such pool or
    /// somebody has them already. They go on over [`replace`](Engine::replace) as long as a configuration has such a pool; only of
    /// one that is new, or has another queue, they are to be asked for anew: see [`Incoming`].
    pub fn incoming(&self, pool: &str) -> Option<Incoming> {
        let mut incoming = lock(&self.incoming);
        let place = incoming.iter().position(|one| one.pool() == Some(pool))?;
        Some(incoming.swap_remove(place))
    }

    /// The same for another thread, also while the engine ends.
    pub fn meter(&self) -> Meter {
        let rings = self.threads.iter().map(|thread| thread.tally.clone()).collect();
        Meter {
            rings,
            pools: self.pools.clone(),
            clients: lock(&self.clients).clone(),
            report: self.report.clone(),
            driver: self.driver.clone(),
            backends: self.backends.clone(),
        }
    }

    /// The listeners, by service and name, whose socket some ring could not accept on any more, and which it has given up;
    /// [`replace`](Engine::replace) tries them anew. They should not be: whoever connects there may not be served.
    pub fn given_up(&self) -> Vec<(String, String)> {
        self.report.given_up().into_iter().map(|named| (named.service, named.name)).collect()
    }

    /// For a watchdog on another thread.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.threads.iter().map(|thread| (thread.tally.clone(), thread.waker.clone())).collect())
    }

    /// Shuts down in order: stop accepting, take in what waits in the backlogs, let headers under way become complete for
    /// a moment, let queued connections reach their workers and the workers finish, and let relayed sessions go, those
    /// first that have been silent longest, spread over the time: all within `limit`. Tells whether everything ended in
    /// time; a session that was let go has.
    pub fn drain(&mut self, limit: Duration) -> bool {
        self.end(DRAIN_GRACE.min(limit), limit, false)
    }

    /// Shuts down after another engine has taken over the [sockets](Engine::sockets): like [`drain`](Engine::drain),
    /// but headers under way have until `limit`, or their own deadline if that is earlier, and no session has to go at once: of
    /// so many on a ring the first is let go after so manieth a part of the time.
    pub fn retire(&mut self, limit: Duration) -> bool {
        self.end(limit, limit, true)
    }

    fn end(&mut self, grace: Duration, limit: Duration, taken_over: bool) -> bool {
        let end = Instant::now() + limit.min(FOREVER);
        // The last of them a little before: ending in order is no failure.
        let sessions = limit.min(FOREVER).mul_f64(SESSIONS_SHARE);
        self.sockets.clear();
        self.prober = None;
        // Nobody will ask for them.
        self.incoming = Mutex::default();
        self.pulled.clear();
        self.handshakes.close();
        for thread in &self.threads {
            thread.command(Command::Drain { grace, sessions, taken_over });
        }
        let mut in_time = true;
        for thread in &mut self.threads {
            in_time &= thread.join(end);
        }
        *lock(&self.plan) = None;
        for workers in lock(&self.workers).iter_mut() {
            in_time &= workers.join(end.saturating_duration_since(Instant::now()));
        }
        self.report.flush();
        in_time
    }
}

/// A lock over state that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rings = self.threads.len();
        f.debug_struct("Engine").field("addresses", &self.addresses()).field("rings", &rings).finish_non_exhaustive()
    }
}

/// Tells whether the rings still turn.
#[derive(Clone, Debug)]
pub struct Pulse(Vec<(Arc<Tally>, Waker)>);

impl Pulse {
    /// Wakes every ring and waits, at most `patience`, until each has made a turn. A ring that has ended makes none.
    pub fn beats(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let before: Vec<u64> = self.0.iter().map(|(tally, _)| tally.turns()).collect();
        self.0.iter().for_each(|(_, waker)| waker.wake());
        let mut rings = self.0.iter().zip(before);
        rings.all(|((tally, _), before)| {
            while tally.turns() == before && Instant::now() < end {
                std::thread::sleep(DRAIN_STEP);
            }
            tally.turns() != before
        })
    }
}

/// The way to a ring, for another thread.
#[derive(Clone, Debug)]
struct Reach {
    commands: Sender<Command>,
    waker: Waker,
}

impl Reach {
    fn command(&self, command: Command) {
        // A ring that has ended takes none, and one that does not look for so long is stuck.
        let _ = self.commands.send_timeout(command, COMMAND_PATIENCE);
        self.waker.wake();
    }
}

impl RingThread {
    fn command(&self, command: Command) {
        if let Some(ring) = self.reach() {
            ring.command(command);
        }
    }

    fn reach(&self) -> Option<Reach> {
        Some(Reach { commands: self.commands.clone()?, waker: self.waker.clone() })
    }

    fn has_ended(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the thread's end until `end`.
    fn join(&mut self, end: Instant) -> bool {
        while self.handle.as_ref().is_some_and(|handle| !handle.is_finished()) {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(DRAIN_STEP);
        }
        !matches!(self.handle.take().map(JoinHandle::join), Some(Err(_)))
    }
}

impl Drop for RingThread {
    fn drop(&mut self) {
        // Said, too, because others may have a way to the ring.
        self.command(Command::Quit);
        self.commands = None;
        self.waker.wake();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

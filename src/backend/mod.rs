//! Who can serve, pure: the servers of a backend, their state and load, and whose turn it is.
//!
//! Nothing in here knows a ring, a socket, or the clock: the time is a parameter. One [`Backend`] is shared by all rings
//! and by the prober, behind a lock that somebody else holds; so what a session needs of it is short and allocates nothing:
//! [`Backend::choose`] when it begins, [`Backend::release`] when it ends, and a word on how it went in between.
//!
//! | a server that is | takes new sessions | takes those that stick to it |
//! |---|---|---|
//! | ready, up, with a weight | yes; a backup only while no other server does | yes |
//! | ready, up, `weight = 0`; or in drain | no | yes |
//! | in maint, down, without an address | no | no |
//!
//! At its limit, no server takes anybody. A client whose home (`stick = source`) cannot take it goes to a stand-in and
//! comes home later: an entry outlives the server's maint and its failures as long as the client is seen within
//! `stick_table_expire`.
//!
//! When all that take new sessions are at their limit, sessions may wait. The first who waits gets the next place, whoever
//! has tried what. The places of a server in drain are given to nobody.
//!
//! If all servers are down there is nobody, even though checks may be wrong: a server that fails its check would fail the
//! client as well, or worse, take its mail under a wrong address.
#![forbid(unsafe_code)]

mod check;
mod choice;
mod client;
mod health;
mod map;
mod ramp;
mod server;
mod settings;
mod stick;
mod succession;
mod traffic;
mod verdict;
mod view;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use check::{CheckTimes, Dialogue, Ending, Step};
pub use choice::{Choice, ServerIndex, Tried};
pub use health::{Change, ConnectFailure, FAST_INTERVAL_MIN, OUT_FOR, fast_interval};
pub use server::{NextCheck, OVERLOAD_EASE, OVERLOADS_APART};
pub use settings::{
    AdminState, Balance, CheckKind, CheckSettings, QUEUE_MAX, RETRIES_MAX, SERVERS_MAX, STICK_TABLE_MAX,
    ServerSettings, Settings, StickSettings, WEIGHT_MAX,
};
pub use succession::TooManyServers;
pub use traffic::{Closed, Traffic};
pub use verdict::{Finding, Verdict};
pub use view::{BackendView, ServerTotals, ServerView, Totals};

use crate::relay::End;
use choice::{Field, Pick};
use client::{ClientKey, Dice, Hashed, Secret};
use map::LinkedMap;
use server::Server;
use stick::{Memory, StickTable};

/// The servers of a backend, and who has which.
#[derive(Debug)]
pub struct Backend {
    /// Without its servers: those are below.
    settings: Settings,
    origin: Instant,
    secret: Secret,
    dice: Dice,
    /// By [`ServerIndex`], also those that a reload has taken away and that still have sessions.
    servers: Vec<Server>,
    field: Field,
    stick: Option<StickTable>,
    line: LinkedMap<Waiter, Waiting>,
    waiting_max: usize,
    /// When the first of the servers without checks is tried again.
    back_at: Option<u64>,
    totals: Totals,
    /// Ends of sessions that had no server.
    unserved: [u64; End::COUNT],
}

/// A session that waits: its ring, and the number by which the ring knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// Number of the ring.
    pub ring: u32,
    /// The session's number there.
    pub session: u64,
}

impl Hashed for Waiter {
    fn hashed(&self, secret: &Secret) -> u64 {
        secret.hash(self.session, self.ring.into())
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    client: ClientKey,
    /// There was a free place when it began to wait, at a server that it had tried: it waits for another one.
    choosy: bool,
}

/// As many sessions wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFull;

/// A place for a session that has waited; it is counted there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who has waited.
    pub waiter: Waiter,
    /// The server.
    pub index: ServerIndex,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Backend {
    /// A backend whose servers are taken to be up. `seed` decides jitter, where clients are in tables and, for
    /// `balance = source`, which client belongs to which server: the same seed gives the same servers in every process.
    /// `now` is any moment not after the later ones.
    pub fn new(mut settings: Settings, seed: u64, now: Instant) -> Backend {
        let secret = Secret::new(seed);
        let servers = std::mem::take(&mut settings.servers);
        let stick = settings.stick.map(|stick| StickTable::new(stick.size, seconds(stick.expire), secret));
        let line = LinkedMap::new(settings.queue as usize, secret);
        let mut backend = Backend {
            settings,
            origin: now,
            secret,
            dice: Dice(seed),
            servers: Vec::with_capacity(servers.len()),
            field: Field::default(),
            stick,
            line,
            waiting_max: 0,
            back_at: None,
            totals: Totals::default(),
            unserved: [0; End::COUNT],
        };
        servers.into_iter().for_each(|server| backend.push_server(server, 0));
        (0..backend.servers.len()).for_each(|at| _ = backend.settle(ServerIndex(at as u16)));
        backend
    }

    /// The server for a new session of `client`, counted there from now on; not one of those it has `tried`. Remembers it
    /// where clients keep their servers.
    pub fn choose(&mut self, client: IpAddr, tried: &Tried, now: Instant) -> Choice {
        let nanos = self.nanos(now);
        self.bring_back(nanos);
        match self.assign(ClientKey::of(client), tried, nanos) {
            Pick::Server(index) => {
                self.servers[index.at()].totals.redispatched += u64::from(!tried.is_empty());
                Choice::Server { index, address: self.seat(index) }
            }
            Pick::Full => {
                self.totals.full += 1;
                Choice::Full
            }
            Pick::Nobody => {
                self.totals.nobody += 1;
                Choice::Nobody
            }
        }
    }

    /// Counts a session at a server that was chosen for it elsewhere, such as in another process, whatever the server's
    /// state and limits, and though its name may have no address here. Whoever chose it has counted it among those that were
    /// given to it. `None`: there is no server of this name.
    pub fn adopt(&mut self, server: &str, client: IpAddr, now: Instant) -> Option<ServerIndex> {
        let index = self.find(server)?;
        self.count_at(index);
        let (client, nanos) = (ClientKey::of(client), self.nanos(now));
        // One that has other sessions keeps the server that it is known to have.
        if self.recall(client, nanos).is_none() {
            self.remember(client, None, index, &Tried::NONE, nanos);
        }
        Some(index)
    }

    /// A session for which [`choose`](Backend::choose) has just found everything full waits for a place, behind all who
    /// wait already. It is the caller's to [`abandon`](Backend::abandon) it after `queue_timeout`, or when its client goes.
    ///
    /// # Errors
    /// [`LineFull`] if `queue` sessions wait already.
    pub fn wait(&mut self, waiter: Waiter, client: IpAddr, now: Instant) -> Result<(), LineFull> {
        self.bring_back(self.nanos(now));
        let waiting = Waiting { client: ClientKey::of(client), choosy: self.has_place() };
        if self.line.len() >= self.settings.queue as usize || !self.line.push(waiter, waiting) {
            self.totals.line_full += 1;
            return Err(LineFull);
        }
        self.totals.waited += 1;
        self.waiting_max = self.waiting_max.max(self.line.len());
        Ok(())
    }

    /// The session waits no more. `false`: it does not wait, so it has been granted a place meanwhile, which it must
    /// [`release`](Backend::release).
    pub fn abandon(&mut self, waiter: Waiter) -> bool {
        let Some(place) = self.line.find(waiter) else { return false };
        self.line.remove(place);
        self.totals.abandoned += 1;
        true
    }

    /// A session at this server is over, or was never made: exactly once for each that was counted. Its place goes to the
    /// first who waits, if the server takes new sessions.
    pub fn release(&mut self, server: ServerIndex, now: Instant) -> Option<Grant> {
        let load = &mut self.field.loads[server.at()];
        debug_assert!(load.sessions > 0, "every session is released once");
        load.sessions = load.sessions.saturating_sub(1);
        if load.is_full() || self.line.len() == 0 || !self.field.is_active(server) {
            return None;
        }
        self.grant(Some(server), self.nanos(now))
    }

    /// A place for the first who waits, if there is one. To be called until it gives none after everything that may have
    /// made places: a changed state, weight or address, a server that has come up, a reload, [`wake_at`](Backend::wake_at).
    pub fn next_grant(&mut self, now: Instant) -> Option<Grant> {
        let nanos = self.nanos(now);
        self.bring_back(nanos);
        self.grant(None, nanos)
    }

    /// What it is set to; its servers are in [`servers`](Backend::servers).
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The names of all servers, by index.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.settings.name.as_str())
    }

    /// The server of this name.
    pub fn find(&self, name: &str) -> Option<ServerIndex> {
        let is_it = |server: &Server| !server.gone && server.settings.name == name;
        self.servers.iter().position(is_it).map(|at| ServerIndex(at as u16))
    }

    /// Its servers as they are now.
    pub fn servers(&self, now: Instant) -> impl Iterator<Item = ServerView<'_>> {
        let here = (0..self.servers.len()).filter(|&at| !self.servers[at].gone);
        here.map(move |at| self.server(ServerIndex(at as u16), now))
    }

    /// Itself as it is now.
    pub fn view(&self) -> BackendView<'_> {
        BackendView {
            name: &self.settings.name,
            waiting: self.line.len(),
            waiting_max: self.waiting_max,
            queue: self.settings.queue as usize,
            stick_used: self.stick.as_ref().map_or(0, StickTable::len),
            stick_size: self.stick.as_ref().map_or(0, StickTable::size),
            totals: self.totals,
            unserved: &self.unserved,
        }
    }

    /// Panics if anything is not as it must be; sweeps everything, for tests and simulations.
    pub fn check_invariants(&self) {
        self.field.check_invariants();
        self.line.check_invariants();
        self.stick.iter().for_each(StickTable::check_invariants);
        assert!(self.line.len() <= self.line.room(), "the line is bounded");
        for (at, server) in self.servers.iter().enumerate() {
            let load = &self.field.loads[at];
            assert_eq!((load.takes_new, load.takes_known), (server.takes_new(), server.takes_known()), "{at}");
            assert!(server.sessions_max >= load.sessions);
            assert!(!server.gone || !load.takes_known, "who is gone takes nobody");
        }
        assert_eq!(self.back_at, self.servers.iter().filter_map(|server| server.health.back_at).min());
        if self.has_place() {
            assert!(self.line.iter().all(|(_, waiting)| waiting.choosy), "nobody waits while a place is free");
        }
    }

    /// Gives a session to the server.
    fn seat(&mut self, index: ServerIndex) -> SocketAddr {
        self.count_at(index);
        let server = &mut self.servers[index.at()];
        server.totals.sessions += 1;
        server.settings.address.expect("a server that takes sessions has an address")
    }

    fn count_at(&mut self, index: ServerIndex) {
        let (load, server) = (&mut self.field.loads[index.at()], &mut self.servers[index.at()]);
        load.sessions += 1;
        server.sessions_max = server.sessions_max.max(load.sessions);
    }

    /// A place for the first who waits: at this server, or at any.
    fn grant(&mut self, server: Option<ServerIndex>, nanos: u64) -> Option<Grant> {
        let place = self.line.oldest()?;
        let (waiter, client) = (self.line.key(place), self.line.value(place).client);
        let index = match server {
            Some(server) => {
                let memory = self.recall(client, nanos);
                self.remember(client, memory, server, &Tried::NONE, nanos);
                server
            }
            None => match self.assign(client, &Tried::NONE, nanos) {
                Pick::Server(index) => index,
                Pick::Full | Pick::Nobody => return None,
            },
        };
        self.line.remove(place);
        self.servers[index.at()].totals.granted += 1;
        Some(Grant { waiter, index, address: self.seat(index) })
    }

    /// The server of a client: the one that it keeps, or one that is picked and then kept.
    fn assign(&mut self, client: ClientKey, tried: &Tried, nanos: u64) -> Pick {
        let memory = self.recall(client, nanos);
        if let Some(memory) = memory {
            let kept = [Some(memory.home), memory.stand_in].into_iter().flatten();
            if let Some(server) = kept.into_iter().find(|&server| self.may_keep(server, tried)) {
                self.remember(client, Some(memory), server, tried, nanos);
                return Pick::Server(server);
            }
        }
        let pick = self.field.pick(self.settings.balance, client.hashed(&self.secret), tried, nanos);
        if let Pick::Server(server) = pick {
            self.remember(client, memory, server, tried, nanos);
        }
        pick
    }

    fn recall(&mut self, client: ClientKey, nanos: u64) -> Option<Memory> {
        self.stick.as_mut()?.recall(client, whole_seconds(nanos))
    }

    fn may_keep(&self, server: ServerIndex, tried: &Tried) -> bool {
        let load = &self.field.loads[server.at()];
        load.takes_known && !load.is_full() && !tried.contains(server)
    }

    fn remember(&mut self, client: ClientKey, memory: Option<Memory>, server: ServerIndex, tried: &Tried, nanos: u64) {
        let Some(stick) = &mut self.stick else { return };
        let again = tried.is_empty();
        match memory {
            None => stick.learn(client, server, whole_seconds(nanos)),
            Some(memory) if memory.home == server => stick.at_home(memory, again),
            Some(memory) if memory.fresh && tried.contains(memory.home) => stick.move_home(memory, server),
            Some(memory) => stick.away(memory, server, again),
        }
    }

    /// Whether a new session would find a place.
    fn has_place(&self) -> bool {
        let has_place = |at: usize| !self.field.loads[at].is_full() && self.field.is_active(ServerIndex(at as u16));
        (0..self.servers.len()).any(has_place)
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.origin))
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.origin.checked_add(Duration::from_nanos(nanos)).unwrap_or(self.origin)
    }
}

const NANOS_A_SECOND: u64 = 1_000_000_000;

fn nanos(duration: Duration) -> u64 {
    // 584 years fit.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn whole_seconds(nanos: u64) -> u32 {
    u32::try_from(nanos / NANOS_A_SECOND).unwrap_or(u32::MAX)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

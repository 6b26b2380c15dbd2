//! What the backends of an engine have come to, as part of its snapshot.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::relay::SharedBackend;
use crate::backend::{AdminState, BackendView, ServerTotals, ServerView, Totals, Traffic};
use crate::relay::End;

/// Bytes of a table or a JSON line that servers may take, about.
const SERVERS_SHOWN_MAX: usize = 24 << 10;
/// Bytes that one takes beside its names.
const SERVER_ROOM: usize = 800;

/// A backend at the moment of a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendAccount {
    /// Tells it from others of the same name.
    number: u64,
    taken: Instant,
    /// Its name.
    pub name: String,
    /// Sessions that wait for a place.
    pub waiting: usize,
    /// Most of them at a time so far.
    pub waiting_max: usize,
    /// Most that may wait.
    pub queue: usize,
    /// Clients in the stick table.
    pub stick_used: usize,
    /// Most clients that it holds; 0: there is none.
    pub stick_size: usize,
    /// What has happened.
    pub totals: Totals,
    /// Ends of sessions that had no server, by [`End::index`].
    pub unserved: [u64; End::COUNT],
    /// Its servers.
    pub servers: Vec<ServerAccount>,
}

/// A server at the moment of a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerAccount {
    /// Its name.
    pub name: String,
    /// Where it listens; empty: its name has no address yet.
    pub address: String,
    /// What the operator wants.
    pub state: AdminState,
    /// Whether it is up.
    pub up: bool,
    /// How long it has been up or down.
    pub since: Duration,
    /// Why it is down; empty while it is up.
    pub why: String,
    /// Whether it serves only while no other does.
    pub backup: bool,
    /// Its weight as it is set.
    pub weight: u32,
    /// Its weight as it counts now.
    pub weight_now: f64,
    /// Sessions at it.
    pub sessions: u32,
    /// Most of them at a time so far.
    pub sessions_max: u32,
    /// Most that may be; `None`: any number.
    pub limit: Option<u32>,
    /// What has happened at it.
    pub totals: ServerTotals,
    /// What its sessions have come to that have ended.
    pub traffic: Traffic,
}

impl BackendAccount {
    /// Of a backend as it is now.
    pub(super) fn of(backend: &SharedBackend, now: Instant) -> BackendAccount {
        let state = backend.lock();
        let BackendView { waiting, waiting_max, queue, stick_used, stick_size, totals, unserved, .. } = state.view();
        BackendAccount {
            number: backend.unique(),
            taken: now,
            name: backend.name().to_owned(),
            waiting,
            waiting_max,
            queue,
            stick_used,
            stick_size,
            totals,
            unserved: *unserved,
            servers: state.servers(now).map(|view| ServerAccount::of(&view, now)).collect(),
        }
    }

    /// Of a backend of which nothing is known.
    pub(super) fn empty(name: String, now: Instant) -> BackendAccount {
        BackendAccount {
            number: u64::MAX,
            taken: now,
            name,
            waiting: 0,
            waiting_max: 0,
            queue: 0,
            stick_used: 0,
            stick_size: 0,
            totals: Totals::default(),
            unserved: [0; End::COUNT],
            servers: Vec::new(),
        }
    }

    /// Adds what a backend of this name has come to before, and servers of the same names.
    pub(super) fn inherit(&mut self, before: &BackendAccount) {
        let Totals { full, nobody, waited, line_full, abandoned } = before.totals;
        self.totals.full += full;
        self.totals.nobody += nobody;
        self.totals.waited += waited;
        self.totals.line_full += line_full;
        self.totals.abandoned += abandoned;
        self.waiting_max = self.waiting_max.max(before.waiting_max);
        self.unserved.iter_mut().zip(before.unserved).for_each(|(all, count)| *all += count);
        for server in &mut self.servers {
            if let Some(same) = before.servers.iter().find(|one| one.name == server.name) {
                server.inherit(same);
            }
        }
    }

    /// How often sessions of its servers, and those that had none, have ended for each reason that has occurred.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        let of_servers = self.servers.iter().map(|server| &server.traffic.ends);
        let mut sums = self.unserved;
        of_servers.for_each(|ends| sums.iter_mut().zip(ends).for_each(|(sum, count)| *sum += count));
        counted(&sums)
    }

    /// How often sessions that had no server have ended for each reason that has occurred.
    pub fn unserved_ends(&self) -> Vec<(&'static str, u64)> {
        counted(&self.unserved)
    }
}

impl ServerAccount {
    fn of(view: &ServerView<'_>, now: Instant) -> ServerAccount {
        ServerAccount {
            name: view.name.to_owned(),
            address: view.address.map_or(String::new(), |address| address.to_string()),
            state: view.state,
            // What health has found belongs to an address.
            up: view.up && view.address.is_some(),
            since: now.saturating_duration_since(view.since),
            why: view.address.map_or("its name has no address", |_| view.why).to_owned(),
            backup: view.backup,
            weight: view.weight,
            weight_now: view.weight_now,
            sessions: view.sessions,
            sessions_max: view.sessions_max,
            limit: view.limit,
            totals: view.totals,
            traffic: view.traffic.clone(),
        }
    }

    /// Adds what a server of this name has come to before.
    fn inherit(&mut self, before: &ServerAccount) {
        self.sessions_max = self.sessions_max.max(before.sessions_max);
        self.totals.add(&before.totals);
        self.traffic.merge(&before.traffic);
    }

    /// How often its sessions have ended for each reason that has occurred.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        counted(&self.traffic.ends)
    }

    /// What its sessions took, by name, with the unit: to connect and to greet in microseconds, in all in milliseconds.
    pub fn times(&self) -> [(&'static str, &Histogram<u64>); 3] {
        let Traffic { connect, greeting, lasted, .. } = &self.traffic;
        [("connect-us", connect), ("greeting-us", greeting), ("session-ms", lasted)]
    }

    /// In a word, as HAProxy's page has it: `UP`, `DOWN`, `DRAIN`, `MAINT`.
    pub fn status(&self) -> &'static str {
        match (self.state, self.up) {
            (AdminState::Maint, _) => "MAINT",
            (_, false) => "DOWN",
            (AdminState::Drain, true) => "DRAIN",
            (AdminState::Ready, true) => "UP",
        }
    }
}

/// Of a server of which nothing is known.
pub(super) fn empty_server(name: String) -> ServerAccount {
    ServerAccount {
        name,
        address: String::new(),
        state: AdminState::Ready,
        up: false,
        since: Duration::ZERO,
        why: String::new(),
        backup: false,
        weight: 0,
        weight_now: 0.0,
        sessions: 0,
        sessions_max: 0,
        limit: None,
        totals: ServerTotals::default(),
        traffic: Traffic::default(),
    }
}

/// Adds the accounts of another engine. Engines of one process share their backends: of one that both know, the later
/// view stands.
pub(super) fn merge(all: &mut Vec<BackendAccount>, others: &[BackendAccount]) {
    for other in others {
        match all.iter_mut().find(|one| one.number == other.number && one.name == other.name) {
            Some(known) if known.taken < other.taken => *known = other.clone(),
            Some(_) => {}
            None => all.push(other.clone()),
        }
    }
}

/// The first servers that an answer has room for, with their backends, and how many more there are.
pub(super) fn main_servers(all: &[BackendAccount]) -> (Vec<(&BackendAccount, &ServerAccount)>, usize) {
    let pairs = || all.iter().flat_map(|backend| backend.servers.iter().map(move |server| (backend, server)));
    let mut size = 0;
    let fitting = pairs().take_while(|(backend, server)| {
        size += backend.name.len() + server.name.len() + SERVER_ROOM;
        size <= SERVERS_SHOWN_MAX
    });
    let shown: Vec<_> = fitting.collect();
    let more = pairs().count() - shown.len();
    (shown, more)
}

/// The part of the table that is about servers.
pub(super) fn write(all: &[BackendAccount], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (shown, more) = main_servers(all);
    if shown.is_empty() {
        return Ok(());
    }
    write!(
        f,
        "\n\n{:<24} {:>6} {:>8} {:>8} {:>10} {:>12} {:>12}",
        "server", "state", "now", "max", "total", "in", "out"
    )?;
    write!(f, " {:>8} {:>10} {:>10}", "errors", "connect-us", "greet-us")?;
    for (backend, server) in shown {
        let ServerAccount { sessions, sessions_max, totals, traffic, .. } = server;
        let name = format!("{}/{}", backend.name, server.name);
        let errors = totals.connect_errors + totals.own_faults + totals.not_greeted;
        let median = |times: &Histogram<u64>| times.value_at_quantile(0.5);
        write!(f, "\n{name:<24} {:>6} {sessions:>8} {sessions_max:>8} {:>10}", server.status(), totals.sessions)?;
        write!(f, " {:>12} {:>12} {errors:>8}", traffic.from_clients, traffic.to_clients)?;
        write!(f, " {:>10} {:>10}", median(&traffic.connect), median(&traffic.greeting))?;
    }
    if more > 0 {
        write!(f, "\n... and {more} more servers")?;
    }
    Ok(())
}

fn counted(ends: &[u64; End::COUNT]) -> Vec<(&'static str, u64)> {
    End::codes().zip(ends.iter().copied()).filter(|(_, count)| *count > 0).collect()
}

//! Stand-in until the room is built: one after the other, limits, a line.
use super::{AdminState, Settings};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
/// Index of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerIndex(pub u16);
/// Tried.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<ServerIndex>);
impl Tried {
    /// Adds.
    pub fn add(&mut self, index: ServerIndex) {
        if !self.0.contains(&index) {
            self.0.push(index);
        }
    }
    /// Count.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
/// Waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// Ring.
    pub ring: u32,
    /// Key.
    pub key: u64,
}
/// Choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Server.
    Server {
        /// Index.
        index: ServerIndex,
        /// Address.
        address: SocketAddr,
    },
    /// Full.
    Full,
    /// Nobody.
    Nobody,
}
/// Grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Waiter.
    pub waiter: Waiter,
    /// Server.
    pub index: ServerIndex,
    /// Address.
    pub address: SocketAddr,
}
/// Line full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFull;
/// A server.
#[derive(Clone, Copy, Debug)]
pub struct ServerView {
    /// Sessions that count.
    pub sessions: u32,
    /// Whether new ones may come.
    pub takes_new: bool,
}
/// The line.
#[derive(Clone, Copy, Debug)]
pub struct BackendView {
    /// Who waits.
    pub waiting: usize,
}
/// Backend.
#[derive(Debug)]
pub struct Backend {
    settings: Settings,
    next: usize,
    sessions: Vec<u32>,
    line: VecDeque<(Waiter, bool)>,
}
#[allow(missing_docs)]
impl Backend {
    pub fn new(settings: Settings, _seed: u64, _now: Instant) -> Backend {
        let sessions = vec![0; settings.servers.len()];
        Backend { settings, next: 0, sessions, line: VecDeque::new() }
    }
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    fn takes(&self, at: usize) -> bool {
        let server = &self.settings.servers[at];
        server.address.is_some() && server.state == AdminState::Ready
    }
    fn is_full(&self, at: usize) -> bool {
        let limit = self.settings.servers[at].connection_limit;
        limit > 0 && self.sessions[at] >= limit
    }
    fn has_place(&self) -> bool {
        (0..self.sessions.len()).any(|at| self.takes(at) && !self.is_full(at))
    }
    fn pick(&mut self, tried: &Tried) -> Choice {
        let count = self.settings.servers.len();
        let mut full = false;
        for _ in 0..count {
            let at = self.next % count;
            self.next += 1;
            let index = ServerIndex(at as u16);
            if tried.0.contains(&index) || !self.takes(at) {
                continue;
            }
            if self.is_full(at) {
                full = true;
                continue;
            }
            self.sessions[at] += 1;
            return Choice::Server { index, address: self.settings.servers[at].address.expect("it takes") };
        }
        if full { Choice::Full } else { Choice::Nobody }
    }
    pub fn choose(&mut self, _client: IpAddr, tried: &Tried, _now: Instant) -> Choice {
        self.pick(tried)
    }
    pub fn wait(&mut self, waiter: Waiter, _client: IpAddr, _now: Instant) -> Result<(), LineFull> {
        if self.line.len() >= self.settings.queue as usize {
            return Err(LineFull);
        }
        self.line.push_back((waiter, self.has_place()));
        Ok(())
    }
    pub fn abandon(&mut self, waiter: Waiter) -> bool {
        let before = self.line.len();
        self.line.retain(|(known, _)| *known != waiter);
        self.line.len() < before
    }
    pub fn release(&mut self, server: ServerIndex, _now: Instant) -> Option<Grant> {
        let at = server.0 as usize;
        assert!(self.sessions[at] > 0, "every session is released once");
        self.sessions[at] -= 1;
        if !self.takes(at) || self.is_full(at) {
            return None;
        }
        let (waiter, _) = self.line.pop_front()?;
        self.sessions[at] += 1;
        Some(Grant { waiter, index: server, address: self.settings.servers[at].address.expect("it takes") })
    }
    pub fn next_grant(&mut self, _now: Instant) -> Option<Grant> {
        let waiter = self.line.front()?.0;
        let Choice::Server { index, address } = self.pick(&Tried::default()) else { return None };
        self.line.pop_front();
        Some(Grant { waiter, index, address })
    }
    pub fn set_state(&mut self, server: ServerIndex, state: AdminState, _now: Instant) {
        self.settings.servers[server.0 as usize].state = state;
    }
    pub fn server(&self, server: ServerIndex, _now: Instant) -> ServerView {
        let at = server.0 as usize;
        ServerView { sessions: self.sessions[at], takes_new: self.takes(at) }
    }
    pub fn settings_len(&self) -> u16 {
        self.sessions.len() as u16
    }
    pub fn view(&self) -> BackendView {
        BackendView { waiting: self.line.len() }
    }
    pub fn check_invariants(&self) {
        assert!(!self.has_place() || self.line.iter().all(|(_, choosy)| *choosy), "nobody waits while a place is free");
    }
    pub fn connected(&mut self, _server: ServerIndex, _took: Duration, _now: Instant) {}
    pub fn connect_failed(&mut self, _server: ServerIndex, _now: Instant) {}
    pub fn greeted(&mut self, _server: ServerIndex, _took: Duration, _now: Instant) {}
    pub fn not_greeted(&mut self, _server: ServerIndex, _now: Instant) {}
}

//! Stand-in until the room is built.
use super::Settings;
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
        self.0.push(index);
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
/// Backend.
#[derive(Debug)]
pub struct Backend {
    settings: Settings,
    next: usize,
}
#[allow(missing_docs)]
impl Backend {
    pub fn new(settings: Settings, _seed: u64, _now: Instant) -> Backend {
        Backend { settings, next: 0 }
    }
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    pub fn choose(&mut self, _client: IpAddr, tried: &Tried, _now: Instant) -> Choice {
        let count = self.settings.servers.len();
        for _ in 0..count {
            let at = self.next % count;
            self.next += 1;
            let index = ServerIndex(at as u16);
            if let (false, Some(address)) = (tried.0.contains(&index), self.settings.servers[at].address) {
                return Choice::Server { index, address };
            }
        }
        Choice::Nobody
    }
    pub fn wait(&mut self, _waiter: Waiter, _client: IpAddr, _now: Instant) -> Result<(), LineFull> {
        Err(LineFull)
    }
    pub fn abandon(&mut self, _waiter: Waiter) -> bool {
        true
    }
    pub fn release(&mut self, _server: ServerIndex, _now: Instant) -> Option<Grant> {
        None
    }
    pub fn connected(&mut self, _server: ServerIndex, _took: Duration, _now: Instant) {}
    pub fn connect_failed(&mut self, _server: ServerIndex, _now: Instant) {}
    pub fn greeted(&mut self, _server: ServerIndex, _took: Duration, _now: Instant) {}
    pub fn not_greeted(&mut self, _server: ServerIndex, _now: Instant) {}
}

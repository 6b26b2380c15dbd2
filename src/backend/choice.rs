//! Whose turn it is: one pass over what a choice needs to know of the servers, 24 bytes each, side by side.
//!
//! Why a pass and not an ordered structure: it is exact, needs nothing kept in order when a session ends, and for a
//! hundred servers takes less than a system call. What is seldom needed of a server is elsewhere.

use std::net::SocketAddr;

use super::ramp::Ramp;
use super::settings::{Balance, RETRIES_MAX};

/// A server by its number, which it keeps as long as the daemon runs, also over reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerIndex(pub u16);

impl ServerIndex {
    pub(super) fn at(self) -> usize {
        self.0.into()
    }
}

/// Most servers that one session tries.
const TRIED_MAX: usize = RETRIES_MAX as usize + 1;

/// The servers that a session has tried in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    len: u8,
    servers: [u16; TRIED_MAX],
}

impl Tried {
    /// None yet.
    pub const NONE: Tried = Tried { len: 0, servers: [0; TRIED_MAX] };

    /// One more; `false` if there are [`RETRIES_MAX`] + 1 already, and nothing was added.
    pub fn add(&mut self, server: ServerIndex) -> bool {
        if self.contains(server) {
            return true;
        }
        let Some(free) = self.servers.get_mut(usize::from(self.len)) else { return false };
        *free = server.0;
        self.len += 1;
        true
    }

    /// Whether the server is among them.
    pub fn contains(&self, server: ServerIndex) -> bool {
        self.servers[..self.len.into()].contains(&server.0)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Who serves a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This server, at which the session is counted from now on.
    Server {
        /// Its number.
        index: ServerIndex,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Some could serve, and all of them are at their limit.
    Full,
    /// None can serve.
    Nobody,
}

/// What a choice needs to know of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Sessions that are counted at it.
    pub(super) sessions: u32,
    /// Most of them; `u32::MAX`: any number.
    pub(super) limit: u32,
    /// Its weight as it counts now, in units of 1/[`WEIGHT_ONE`].
    pub(super) weight: u32,
    /// Its weight as it is set.
    pub(super) base: u16,
    /// New sessions may come: up, ready, with an address and a weight.
    pub(super) takes_new: bool,
    /// Sessions of clients that stick to it may come.
    pub(super) takes_known: bool,
    pub(super) backup: bool,
    /// On its way back, and it has had its part of the new sessions for now.
    held_back: bool,
    /// `roundrobin`: what it has been passed over for.
    credit: i32,
}

const _: () = assert!(size_of::<Load>() == 24);

/// A weight of 1.
pub(super) const WEIGHT_ONE: u32 = 256;

impl Load {
    /// Of a server without sessions, closed until it is opened.
    pub(super) fn new(limit: u32, base: u16, backup: bool) -> Load {
        Load { limit, base, backup, weight: u32::from(base) * WEIGHT_ONE, ..Load::default() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.sessions >= self.limit
    }
}

/// What one pass over the servers gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    Server(ServerIndex),
    Full,
    Nobody,
}

/// All servers, as a choice sees them.
#[derive(Debug, Default)]
pub(super) struct Field {
    pub(super) loads: Vec<Load>,
    /// Hashes of the servers' names, for `source`.
    pub(super) names: Vec<u64>,
    /// Those that are brought back slowly.
    ramps: Vec<Ramp>,
    /// Servers that take new sessions, without and with the backups among them.
    regulars: usize,
    backups: usize,
    /// Where the next search begins: equals take turns.
    turn: usize,
}

impl Field {
    pub(super) fn push(&mut self, load: Load, name: u64) {
        self.loads.push(load);
        self.names.push(name);
        self.ramps.reserve(self.loads.len() - self.ramps.len());
    }

    /// Sets whether new sessions may come, and those that stick. `true`: new ones may come from now on.
    pub(super) fn open(&mut self, server: ServerIndex, takes_new: bool, takes_known: bool) -> bool {
        let load = &mut self.loads[server.at()];
        let was = std::mem::replace(&mut load.takes_new, takes_new);
        load.takes_known = takes_known;
        let count = if load.backup { &mut self.backups } else { &mut self.regulars };
        *count = *count + usize::from(takes_new) - usize::from(was);
        if was && !takes_new {
            self.end_ramp(server);
        }
        !was && takes_new
    }

    /// Whether the server takes new sessions now: backups only while no other server does.
    pub(super) fn is_active(&self, server: ServerIndex) -> bool {
        let load = &self.loads[server.at()];
        load.takes_new && (!load.backup || self.regulars == 0)
    }

    /// Gives the server less than its share for a while. A ramp that is under way goes on from what it gives now.
    pub(super) fn begin_ramp(&mut self, ramp: Ramp) {
        self.end_ramp(ramp.server);
        let load = &mut self.loads[ramp.server.at()];
        (load.held_back, load.credit) = (false, 0);
        load.weight = ramp.weight(load.base, ramp.begun);
        self.ramps.push(ramp);
    }

    /// The ramp of a server, if it has one.
    pub(super) fn ramp(&self, server: ServerIndex) -> Option<&Ramp> {
        self.ramps.iter().find(|ramp| ramp.server == server)
    }

    fn end_ramp(&mut self, server: ServerIndex) {
        self.ramps.retain(|ramp| ramp.server != server);
        let load = &mut self.loads[server.at()];
        (load.weight, load.held_back) = (u32::from(load.base) * WEIGHT_ONE, false);
    }

    /// Sets a server's weight.
    pub(super) fn set_base(&mut self, server: ServerIndex, base: u16, nanos: u64) {
        let weight = self.ramp(server).map_or(u32::from(base) * WEIGHT_ONE, |ramp| ramp.weight(base, nanos));
        let load = &mut self.loads[server.at()];
        (load.base, load.weight) = (base, weight);
    }

    /// The server for a new session. Says nothing of its address and counts nothing.
    pub(super) fn pick(&mut self, balance: Balance, client: u64, tried: &Tried, nanos: u64) -> Pick {
        self.advance_ramps(nanos);
        let mut full = false;
        if self.regulars > 0 {
            let (best, some_full) = self.pick_among(false, balance, client, tried);
            if let Some(server) = best {
                return Pick::Server(server);
            }
            full = some_full;
        }
        // A session that has tried all others in vain may have a backup; one that would find a place later waits for it.
        if self.backups > 0 && !full {
            let (best, some_full) = self.pick_among(true, balance, client, tried);
            if let Some(server) = best {
                return Pick::Server(server);
            }
            full = some_full;
        }
        if full { Pick::Full } else { Pick::Nobody }
    }

    fn pick_among(
        &mut self,
        backup: bool,
        balance: Balance,
        client: u64,
        tried: &Tried,
    ) -> (Option<ServerIndex>, bool) {
        let mut full = false;
        let eligible = |load: &Load, at: usize| {
            if !load.takes_new || load.backup != backup || tried.contains(ServerIndex(at as u16)) {
                return false;
            }
            full |= load.is_full();
            !load.is_full()
        };
        let best = match balance {
            Balance::LeastConn => least_conn(&self.loads, self.turn, eligible),
            Balance::RoundRobin => round_robin(&mut self.loads, eligible),
            Balance::Source => rendezvous(&self.loads, &self.names, client, eligible),
        };
        if let Some(at) = best {
            self.chosen(at);
        }
        (best.map(|at| ServerIndex(at as u16)), full)
    }

    fn chosen(&mut self, at: usize) {
        self.turn = at + 1;
        if !self.ramps.is_empty()
            && let Some(ramp) = self.ramps.iter_mut().find(|ramp| ramp.server.at() == at)
        {
            ramp.spend();
        }
    }

    /// A new session is about to be given away: every server on its way back has a right to a part of it.
    fn advance_ramps(&mut self, nanos: u64) {
        let mut next = 0;
        while next < self.ramps.len() {
            let ramp = &mut self.ramps[next];
            let server = ramp.server;
            if ramp.is_over(nanos) {
                self.end_ramp(server);
                continue;
            }
            let load = &mut self.loads[server.at()];
            load.weight = ramp.weight(load.base, nanos);
            load.held_back = !ramp.earn(nanos);
            next += 1;
        }
    }

    pub(super) fn check_invariants(&self) {
        let open = |backup| self.loads.iter().filter(|load| load.takes_new && load.backup == backup).count();
        assert_eq!((self.regulars, self.backups), (open(false), open(true)), "the counts of open servers");
        assert!(self.ramps.capacity() >= self.loads.len() && self.names.len() == self.loads.len());
        for (at, load) in self.loads.iter().enumerate() {
            let ramps = self.ramps.iter().filter(|ramp| ramp.server.at() == at).count();
            assert!(ramps <= usize::from(load.takes_new), "only who takes new sessions is brought back, once");
            assert!(ramps == 1 || load.weight == u32::from(load.base) * WEIGHT_ONE, "else its weight is whole");
            assert!(!load.takes_new || load.takes_known, "who takes all takes those who stick");
        }
    }
}

/// Fewest sessions for the weight, this one included; of equals the first after the one chosen last. A server that is held
/// back comes after all others.
fn least_conn(loads: &[Load], turn: usize, mut eligible: impl FnMut(&Load, usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, &Load)> = None;
    let (before, after) = loads.split_at(turn.min(loads.len()));
    let numbered = after.iter().zip(before.len()..).chain(before.iter().zip(0..));
    for (load, at) in numbered {
        if eligible(load, at) && best.is_none_or(|(_, other)| is_less_loaded(load, other)) {
            best = Some((at, load));
        }
    }
    best.map(|(at, _)| at)
}

fn is_less_loaded(load: &Load, other: &Load) -> bool {
    if load.held_back != other.held_back {
        return other.held_back;
    }
    // Sessions a weight, without dividing: 33 + 17 bits fit.
    let cross = |one: &Load, by: &Load| (u64::from(one.sessions) + 1) * u64::from(by.weight);
    cross(load, other) < cross(other, load)
}

/// Everybody earns its weight and the richest pays for all (nginx's smooth order: for weights 5, 1, 1 it is a a b a c a a).
fn round_robin(loads: &mut [Load], mut eligible: impl FnMut(&Load, usize) -> bool) -> Option<usize> {
    let (mut best, mut total) = (None::<(usize, i32)>, 0);
    for (at, load) in loads.iter_mut().enumerate() {
        if eligible(load, at) {
            // At most 1024 servers of 256 * 256: credits stay within 2^27.
            load.credit = load.credit.saturating_add(load.weight as i32);
            total += load.weight as i32;
            if best.is_none_or(|(_, credit)| load.credit > credit) {
                best = Some((at, load.credit));
            }
        }
    }
    let (at, credit) = best?;
    loads[at].credit = credit.saturating_sub(total);
    Some(at)
}

/// Each pair of client and server has a number of its own, and the server with the smallest for its weight has the client:
/// without it, its clients go to their second one each, and nobody else moves. A server's way back does not count here.
fn rendezvous(
    loads: &[Load],
    names: &[u64],
    client: u64,
    mut eligible: impl FnMut(&Load, usize) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, (load, name)) in loads.iter().zip(names).enumerate() {
        if !eligible(load, at) {
            continue;
        }
        // In (0, 1]; -ln of it is the time to the first event at a rate of 1, and a weight is a rate.
        let chance = ((mix(client, *name) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        let weight = f64::from(load.base);
        let least = best.map_or(f64::INFINITY, |(_, least)| least);
        // 1 - x <= -ln x: most servers are out of the question without a logarithm.
        if (1.0 - chance) / weight < least {
            let time = -chance.ln() / weight;
            if time < least {
                best = Some((at, time));
            }
        }
    }
    best.map(|(at, _)| at)
}

/// Client and name are hashed with the seed already; this keeps the pairs apart.
fn mix(client: u64, name: u64) -> u64 {
    let mut word = client ^ name.rotate_left(32);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

//! What is known of each client, in a table that never grows.
//!
//! The table is an array of buckets. A keyed hash names the bucket of a client, so that nobody can choose it, and a bucket
//! has room for [`WAYS`] clients behind a lock of its own: rings and workers hardly ever meet at one. Nothing is allocated
//! after the table was made.
//!
//! Invariant: an entry with live connections belongs to its client until the last of them has ended; a [`Ticket`] names
//! the entry, so it needs no search and no generation. An entry that has nothing to remember (no live connection, its
//! rate allowance whole again) is free. Where a bucket has neither a free entry nor one without live connections, a new
//! client passes uncounted: a limit is there to stop single sources, not everybody.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Refusal;
use super::limits::{ClientLimits, ClientRate};

/// Clients that share a bucket.
const WAYS: usize = 8;
/// Fewest clients that a table has room for.
pub const CLIENTS_MIN: u32 = 1024;
/// Most clients that a table has room for.
pub const CLIENTS_MAX: u32 = 1 << 24;

/// Most clients whose debts go from one process to another.
pub const CLIENT_DEBTS_MAX: usize = 1 << 18;

/// A client that has spent of its connection rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientDebt {
    /// What it is counted by: its network, as an IPv6 address.
    pub client: [u8; 16],
    /// How long until its allowance is whole again.
    pub left: Duration,
}

/// The clients of all rings.
#[derive(Debug)]
pub struct ClientTable {
    buckets: Box<[Mutex<Bucket>]>,
    hash: RandomState,
    origin: Instant,
    evicted: AtomicU64,
    uncounted: AtomicU64,
}

type Bucket = [Entry; WAYS];

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    client: [u8; 16],
    /// When the rate allowance is whole again, in nanoseconds since the table was made.
    whole_at: u64,
    /// When the client last came, in seconds since the table was made.
    used_at: u32,
    /// Connections that have not ended.
    live: u32,
}

/// Half a cache line: a bucket is four lines and its lock.
const _: () = assert!(size_of::<Entry>() == 32);

/// The entry of a connection that counts; it must be given back by [`ClientTable::release`] exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Ticket {
    fn new(bucket: usize, way: usize) -> Ticket {
        Ticket((bucket * WAYS + way) as u64)
    }

    /// As a number, to travel through layers that know nothing of tables.
    pub fn token(self) -> u64 {
        self.0
    }

    /// From [`token`](Ticket::token).
    pub fn from_token(token: u64) -> Ticket {
        Ticket(token)
    }
}

impl ClientTable {
    /// Room for at least `clients`, [`CLIENTS_MIN`]..=[`CLIENTS_MAX`]; values outside are clamped. `now` is any moment.
    pub fn new(clients: u32, now: Instant) -> ClientTable {
        let buckets = clients.clamp(CLIENTS_MIN, CLIENTS_MAX).div_ceil(WAYS as u32);
        ClientTable {
            buckets: (0..buckets).map(|_| Mutex::default()).collect(),
            hash: RandomState::new(),
            origin: now,
            evicted: AtomicU64::new(0),
            uncounted: AtomicU64::new(0),
        }
    }

    /// How many clients it has room for.
    pub fn room(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Its memory in bytes: all of it, for ever.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// Clients that were forgotten early, in favour of newer ones, although their rate was not whole again.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Connections that passed uncounted because every entry that could hold their client has live connections.
    pub fn uncounted(&self) -> u64 {
        self.uncounted.load(Ordering::Relaxed)
    }

    /// Clients that it remembers something of. Looks at every entry: not for the way of a connection.
    pub fn known(&self, now: Instant) -> usize {
        let nanos = self.nanos(now);
        let known = |bucket: &Mutex<Bucket>| lock(bucket).iter().filter(|entry| !entry.is_free(nanos)).count();
        self.buckets.iter().map(known).sum()
    }

    /// Lets one more connection of the client in, if the limits allow. No ticket: it does not count.
    pub(super) fn admit(&self, client: IpAddr, limits: &ClientLimits, now: Instant) -> Result<Option<Ticket>, Refusal> {
        let client = limits.key(client);
        let nanos = self.nanos(now);
        let index = (self.hash.hash_one(client) % self.buckets.len() as u64) as usize;
        let mut bucket = lock(&self.buckets[index]);
        let Some(way) = self.find(&mut bucket, client, nanos) else {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let entry = &mut bucket[way];
        entry.used_at = (nanos / NANOS_A_SECOND).try_into().unwrap_or(u32::MAX);
        entry.admit(limits, nanos)?;
        if limits.connections.is_none() {
            return Ok(None);
        }
        entry.live += 1;
        Ok(Some(Ticket::new(index, way)))
    }

    /// Counts a connection of a client that was let in elsewhere, whatever the limits; nothing is spent of its rate. No ticket:
    /// it does not count.
    pub(super) fn count(&self, client: IpAddr, limits: &ClientLimits, now: Instant) -> Option<Ticket> {
        limits.connections?;
        let (index, way) = self.entry_of(limits.key(client), self.nanos(now), |entry| entry.live += 1)?;
        Some(Ticket::new(index, way))
    }

    /// The clients whose allowance is not whole, by what they are counted by, and how long that lasts: at most
    /// [`CLIENT_DEBTS_MAX`] of them, those first that it lasts longest for. Looks at every entry: not for the way of a
    /// connection.
    pub fn debts(&self, now: Instant) -> Vec<ClientDebt> {
        let nanos = self.nanos(now);
        let debt = |entry: &Entry| {
            let left = entry.whole_at.checked_sub(nanos).filter(|left| *left > 0)?;
            Some(ClientDebt { client: entry.client, left: Duration::from_nanos(left) })
        };
        let of_bucket = |bucket: &Mutex<Bucket>| lock(bucket).iter().filter_map(debt).collect::<Vec<_>>();
        let mut all: Vec<ClientDebt> = self.buckets.iter().flat_map(of_bucket).collect();
        all.sort_unstable_by_key(|debt| std::cmp::Reverse(debt.left));
        all.truncate(CLIENT_DEBTS_MAX);
        all
    }

    /// Puts what a client has spent elsewhere to what it has spent here, up to a whole period.
    pub(super) fn owe(&self, debt: &ClientDebt, rate: ClientRate, now: Instant) {
        let at = self.nanos(now);
        self.entry_of(debt.client, at, |entry| {
            let whole_at = entry.whole_at.max(at).saturating_add(nanos(debt.left));
            entry.whole_at = whole_at.min(at.saturating_add(nanos(rate.period)));
        });
    }

    /// Changes a client's entry, and tells its place.
    fn entry_of(&self, client: [u8; 16], nanos: u64, change: impl FnOnce(&mut Entry)) -> Option<(usize, usize)> {
        let index = (self.hash.hash_one(client) % self.buckets.len() as u64) as usize;
        let mut bucket = lock(&self.buckets[index]);
        let Some(way) = self.find(&mut bucket, client, nanos) else {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        bucket[way].used_at = (nanos / NANOS_A_SECOND).try_into().unwrap_or(u32::MAX);
        change(&mut bucket[way]);
        Some((index, way))
    }

    /// A connection has ended.
    pub fn release(&self, ticket: Ticket) {
        let (bucket, way) = (ticket.0 as usize / WAYS, ticket.0 as usize % WAYS);
        let entry = &mut lock(&self.buckets[bucket])[way];
        debug_assert!(entry.live > 0, "every ticket is given back once");
        entry.live = entry.live.saturating_sub(1);
    }

    /// The client's entry: the one it has, a free one, or that of whoever has been away longest.
    fn find(&self, bucket: &mut Bucket, client: [u8; 16], nanos: u64) -> Option<usize> {
        if let Some(way) = bucket.iter().position(|entry| entry.client == client) {
            return Some(way);
        }
        let idle = (0..WAYS).filter(|&way| bucket[way].live == 0);
        let way = idle.min_by_key(|&way| (!bucket[way].is_free(nanos), bucket[way].used_at))?;
        if !bucket[way].is_free(nanos) {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        bucket[way] = Entry { client, ..Entry::default() };
        Some(way)
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.origin))
    }
}

impl Entry {
    fn is_free(&self, nanos: u64) -> bool {
        self.live == 0 && self.whole_at <= nanos
    }

    fn admit(&mut self, limits: &ClientLimits, nanos: u64) -> Result<(), Refusal> {
        if limits.connections.is_some_and(|most| self.live >= most.get()) {
            return Err(Refusal::ClientConnectionLimit);
        }
        limits.rate.map_or(Ok(()), |rate| self.spend(rate, nanos))
    }

    /// Takes one connection's share of the allowance (the generic cell rate algorithm: one time stamp holds it all).
    fn spend(&mut self, rate: ClientRate, nanos_now: u64) -> Result<(), Refusal> {
        let period = nanos(rate.period);
        let share = period / u64::from(rate.connections.get());
        let whole_at = self.whole_at.max(nanos_now).saturating_add(share);
        if whole_at - nanos_now > period {
            return Err(Refusal::ClientRateLimit);
        }
        self.whole_at = whole_at;
        Ok(())
    }
}

const NANOS_A_SECOND: u64 = 1_000_000_000;

fn nanos(duration: Duration) -> u64 {
    // 584 years fit.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    // Nothing panics between lock and unlock that could leave an entry half written.
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! Which server a client keeps.
//!
//! An entry names the client's home. While the home cannot take the client (maint, down, at its limit, tried and failed)
//! the client has a stand-in, which it keeps for as long as it needs one; when the home is back it goes home. So a
//! server's maint moves its clients away and back, and none is scattered over several servers meanwhile.
//!
//! A client whose very first session fails at its home has not been there yet: whoever serves it becomes its home.

use super::ServerIndex;
use super::client::{ClientKey, Secret};
use super::map::{LinkedMap, Place};

/// Entries past their time that one look-up removes besides: more than one, so that they become fewer.
const PURGED_AT_ONCE: usize = 2;

#[derive(Debug)]
pub(super) struct StickTable {
    clients: LinkedMap<ClientKey, Entry>,
    expire_seconds: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    home: u16,
    /// `NOBODY`: none.
    stand_in: u16,
    /// Last use, in seconds since the backend was made.
    seen: u32,
    /// Only its first session has come so far.
    fresh: bool,
}

const NOBODY: u16 = u16::MAX;

/// What is remembered of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    place: Place,
    pub(super) home: ServerIndex,
    pub(super) stand_in: Option<ServerIndex>,
    pub(super) fresh: bool,
}

impl StickTable {
    pub(super) fn new(size: u32, expire_seconds: u32, secret: Secret) -> StickTable {
        StickTable { clients: LinkedMap::new(size as usize, secret), expire_seconds }
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn size(&self) -> usize {
        self.clients.room()
    }

    pub(super) fn set_expire(&mut self, seconds: u32) {
        self.expire_seconds = seconds;
    }

    /// What is remembered of the client, which has just been seen.
    pub(super) fn recall(&mut self, client: ClientKey, seconds: u32) -> Option<Memory> {
        self.purge(seconds);
        let place = self.clients.find(client)?;
        if self.is_over(place, seconds) {
            self.clients.remove(place);
            return None;
        }
        self.clients.touch(place);
        let entry = self.clients.value_mut(place);
        entry.seen = seconds;
        let stand_in = (entry.stand_in != NOBODY).then_some(ServerIndex(entry.stand_in));
        Some(Memory { place, home: ServerIndex(entry.home), stand_in, fresh: entry.fresh })
    }

    /// The client has been given to its home.
    pub(super) fn at_home(&mut self, memory: Memory, again: bool) {
        let entry = self.clients.value_mut(memory.place);
        entry.stand_in = NOBODY;
        entry.fresh &= !again;
    }

    /// The client has been given to another server, which stands in for its home.
    pub(super) fn away(&mut self, memory: Memory, server: ServerIndex, again: bool) {
        let entry = self.clients.value_mut(memory.place);
        entry.stand_in = server.0;
        entry.fresh &= !again;
    }

    /// The client has a new home.
    pub(super) fn move_home(&mut self, memory: Memory, server: ServerIndex) {
        let entry = self.clients.value_mut(memory.place);
        (entry.home, entry.stand_in) = (server.0, NOBODY);
    }

    /// A client of which nothing is remembered has been given to a server; the one unseen longest makes room.
    pub(super) fn learn(&mut self, client: ClientKey, server: ServerIndex, seconds: u32) {
        if self.clients.is_full()
            && let Some(oldest) = self.clients.oldest()
        {
            self.clients.remove(oldest);
        }
        self.clients.push(client, Entry { home: server.0, stand_in: NOBODY, seen: seconds, fresh: true });
    }

    /// Forgets servers that are no more: their clients find a new home, their stand-in if they have one.
    pub(super) fn forget(&mut self, is_gone: impl Fn(ServerIndex) -> bool) {
        let gone = |server: u16| server != NOBODY && is_gone(ServerIndex(server));
        self.clients.retain(|entry| {
            if gone(entry.stand_in) {
                entry.stand_in = NOBODY;
            }
            if gone(entry.home) {
                (entry.home, entry.stand_in) = (entry.stand_in, NOBODY);
            }
            entry.home != NOBODY
        });
    }

    /// A table of another size with the same clients, those seen last if not all find room.
    pub(super) fn resized(&self, size: u32, secret: Secret) -> StickTable {
        let mut other = StickTable::new(size, self.expire_seconds, secret);
        let too_many = self.len().saturating_sub(other.size());
        for (client, entry) in self.clients.iter().skip(too_many) {
            other.clients.push(client, *entry);
        }
        other
    }

    pub(super) fn check_invariants(&self) {
        self.clients.check_invariants();
        let ages: Vec<u32> = self.clients.iter().map(|(_, entry)| entry.seen).collect();
        assert!(ages.is_sorted(), "the one unseen longest comes first");
    }

    fn purge(&mut self, seconds: u32) {
        for _ in 0..PURGED_AT_ONCE {
            match self.clients.oldest() {
                Some(place) if self.is_over(place, seconds) => self.clients.remove(place),
                _ => return,
            }
        }
    }

    fn is_over(&self, place: Place, seconds: u32) -> bool {
        seconds.saturating_sub(self.clients.value(place).seen) > self.expire_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u32) -> ClientKey {
        ClientKey::of(n.to_be_bytes().into())
    }

    fn table(size: u32) -> StickTable {
        StickTable::new(size, 60, Secret::new(7))
    }

    fn home(table: &mut StickTable, n: u32, seconds: u32) -> Option<u16> {
        table.recall(client(n), seconds).map(|memory| memory.home.0)
    }

    #[test]
    fn the_one_unseen_longest_makes_room() {
        let mut table = table(3);
        (1..=3).for_each(|n| table.learn(client(n), ServerIndex(n as u16), n));
        assert_eq!(home(&mut table, 1, 4), Some(1), "now 2 is unseen longest");
        table.learn(client(4), ServerIndex(4), 5);
        assert_eq!((table.len(), home(&mut table, 2, 6)), (3, None));
        assert_eq!([1, 3, 4].map(|n| home(&mut table, n, 6)), [Some(1), Some(3), Some(4)]);
        table.check_invariants();
    }

    #[test]
    fn who_was_not_seen_for_long_is_forgotten() {
        let mut table = table(100);
        (0..50).for_each(|n| table.learn(client(n), ServerIndex(1), 0));
        assert_eq!(home(&mut table, 7, 60), Some(1), "seen in time, and kept from here");
        assert_eq!(home(&mut table, 8, 61), None);
        (0..50).for_each(|n| _ = home(&mut table, 1000 + n, 61));
        assert_eq!((table.len(), home(&mut table, 7, 120)), (1, Some(1)), "others' look-ups have removed the rest");
    }

    #[test]
    fn a_lost_server_leaves_its_clients_to_the_stand_in() {
        let mut table = table(10);
        (1..=2).for_each(|n| table.learn(client(n), ServerIndex(1), 0));
        let memory = table.recall(client(1), 1).expect("learnt");
        table.away(memory, ServerIndex(2), true);
        table.forget(|server| server == ServerIndex(1));
        assert_eq!((home(&mut table, 1, 2), home(&mut table, 2, 2)), (Some(2), None));
    }

    #[test]
    fn a_smaller_table_keeps_those_seen_last() {
        let mut table = table(10);
        (0..10).for_each(|n| table.learn(client(n), ServerIndex(n as u16), n));
        let mut small = table.resized(4, Secret::new(8));
        small.check_invariants();
        assert_eq!((small.len(), home(&mut small, 5, 10), home(&mut small, 6, 10)), (4, None, Some(6)));
    }
}

//! A bounded map that keeps its entries in an order: the stick table's is that of last use, the waiting line's that of
//! arrival. Finding, adding, moving to the end and removing take the same few steps whatever its size.
//!
//! All memory is reserved when it is made and none is touched before it is needed; nothing is allocated afterwards.
//!
//! Invariant: every entry is either in the free list or in exactly one chain and in the order.

use super::client::{Hashed, Secret};

#[derive(Debug)]
pub(super) struct LinkedMap<K, V> {
    entries: Vec<Entry<K, V>>,
    /// First entry of each chain; a power of two of them.
    heads: Box<[Link]>,
    free: Link,
    oldest: Link,
    newest: Link,
    len: usize,
    room: usize,
    secret: Secret,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    chain: Link,
    older: Link,
    newer: Link,
}

/// Index of an entry plus one; 0: none. Zeroed memory is an empty table, which the system gives away without touching it.
type Link = u32;

/// Where an entry is, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(Link);

impl<K: Copy + Eq + Hashed, V> LinkedMap<K, V> {
    /// Room for `room` entries, less than 2^31.
    pub(super) fn new(room: usize, secret: Secret) -> LinkedMap<K, V> {
        let heads = vec![0; room.next_power_of_two()].into_boxed_slice();
        let entries = Vec::with_capacity(room);
        LinkedMap { entries, heads, free: 0, oldest: 0, newest: 0, len: 0, room, secret }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == self.room
    }

    pub(super) fn find(&self, key: K) -> Option<Place> {
        let mut link = self.heads[self.bucket(key)];
        while link != 0 {
            let entry = self.entry(link);
            if entry.key == key {
                return Some(Place(link));
            }
            link = entry.chain;
        }
        None
    }

    pub(super) fn key(&self, place: Place) -> K {
        self.entry(place.0).key
    }

    pub(super) fn value(&self, place: Place) -> &V {
        &self.entry(place.0).value
    }

    pub(super) fn value_mut(&mut self, place: Place) -> &mut V {
        &mut self.entry_mut(place.0).value
    }

    /// The first in order.
    pub(super) fn oldest(&self) -> Option<Place> {
        (self.oldest != 0).then_some(Place(self.oldest))
    }

    /// Adds a key that is not there, at the end of the order. `false`: there is no room.
    pub(super) fn push(&mut self, key: K, value: V) -> bool {
        debug_assert!(self.find(key).is_none(), "a key is there once");
        if self.is_full() {
            return false;
        }
        let bucket = self.bucket(key);
        let fresh = Entry { key, value, chain: self.heads[bucket], older: 0, newer: 0 };
        let link = match self.free {
            0 => {
                self.entries.push(fresh);
                self.entries.len() as Link
            }
            link => {
                self.free = self.entry(link).chain;
                *self.entry_mut(link) = fresh;
                link
            }
        };
        self.heads[bucket] = link;
        self.len += 1;
        self.append(link);
        true
    }

    /// Moves an entry to the end of the order.
    pub(super) fn touch(&mut self, place: Place) {
        if self.newest != place.0 {
            self.detach(place.0);
            self.append(place.0);
        }
    }

    pub(super) fn remove(&mut self, place: Place) {
        let link = place.0;
        self.detach(link);
        let (bucket, after) = (self.bucket(self.entry(link).key), self.entry(link).chain);
        match self.before_in_chain(bucket, link) {
            0 => self.heads[bucket] = after,
            before => self.entry_mut(before).chain = after,
        }
        self.entry_mut(link).chain = self.free;
        self.free = link;
        self.len -= 1;
    }

    /// In order, the first one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let mut link = self.oldest;
        std::iter::from_fn(move || {
            let entry = (link != 0).then(|| self.entry(link))?;
            link = entry.newer;
            Some((entry.key, &entry.value))
        })
    }

    /// Keeps those of which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        let mut link = self.oldest;
        while link != 0 {
            let next = self.entry(link).newer;
            if !keep(self.value_mut(Place(link))) {
                self.remove(Place(link));
            }
            link = next;
        }
    }

    /// Sweeps everything; for tests.
    pub(super) fn check_invariants(&self) {
        let in_order = self.iter().count();
        assert_eq!(in_order, self.len, "the order holds every entry");
        assert!(self.len <= self.room && self.entries.capacity() >= self.room, "bounded, and nothing was allocated");
        assert!(self.iter().all(|(key, _)| self.find(key).is_some()), "every entry can be found");
        let mut free = 0;
        let mut link = self.free;
        while link != 0 {
            (free, link) = (free + 1, self.entry(link).chain);
        }
        assert_eq!(self.len + free, self.entries.len(), "an entry is in use or free");
    }

    fn bucket(&self, key: K) -> usize {
        key.hashed(&self.secret) as usize & (self.heads.len() - 1)
    }

    fn entry(&self, link: Link) -> &Entry<K, V> {
        &self.entries[link as usize - 1]
    }

    fn entry_mut(&mut self, link: Link) -> &mut Entry<K, V> {
        &mut self.entries[link as usize - 1]
    }

    fn before_in_chain(&self, bucket: usize, sought: Link) -> Link {
        let (mut before, mut link) = (0, self.heads[bucket]);
        while link != sought {
            (before, link) = (link, self.entry(link).chain);
        }
        before
    }

    fn append(&mut self, link: Link) {
        let newest = self.newest;
        let entry = self.entry_mut(link);
        (entry.older, entry.newer) = (newest, 0);
        match newest {
            0 => self.oldest = link,
            newest => self.entry_mut(newest).newer = link,
        }
        self.newest = link;
    }

    fn detach(&mut self, link: Link) {
        let (older, newer) = (self.entry(link).older, self.entry(link).newer);
        match older {
            0 => self.oldest = newer,
            older => self.entry_mut(older).newer = newer,
        }
        match newer {
            0 => self.newest = older,
            newer => self.entry_mut(newer).older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hashed for u32 {
        fn hashed(&self, secret: &Secret) -> u64 {
            // Few buckets, so that chains are long.
            secret.hash((*self).into(), 0) & 3
        }
    }

    #[test]
    fn agrees_with_a_plain_list_on_random_moves() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut map: LinkedMap<u32, u32> = LinkedMap::new(12, Secret::new(1));
        let mut model: Vec<(u32, u32)> = Vec::new();
        for step in 0..50_000 {
            let key = random.u32(..20);
            let at = model.iter().position(|(k, _)| *k == key);
            let place = map.find(key);
            assert_eq!(place.map(|place| *map.value(place)), at.map(|at| model[at].1));
            match (place, at, random.u32(..3)) {
                (Some(place), Some(at), 0) => {
                    map.remove(place);
                    model.remove(at);
                }
                (Some(place), Some(at), _) => {
                    map.touch(place);
                    let entry = model.remove(at);
                    model.push(entry);
                }
                _ => {
                    let room = model.len() < 12;
                    assert_eq!(map.push(key, step), room);
                    if room {
                        model.push((key, step));
                    }
                }
            }
            if step % 1000 == 0 {
                map.retain(|value| *value % 2 == 0);
                model.retain(|(_, value)| value % 2 == 0);
            }
            map.check_invariants();
            assert!(map.iter().map(|(key, value)| (key, *value)).eq(model.iter().copied()));
            assert_eq!(map.oldest().map(|place| map.key(place)), model.first().map(|(key, _)| *key));
        }
    }

    #[test]
    fn no_room_at_all_is_room_for_none() {
        let mut map: LinkedMap<u32, ()> = LinkedMap::new(0, Secret::new(1));
        assert!(!map.push(1, ()) && map.is_full() && map.find(1).is_none() && map.oldest().is_none());
    }
}

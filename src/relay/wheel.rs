//! One deadline a session: set, moved and given up in constant time.
//!
//! A wheel of buckets, one a [`TICK`]. A deadline beyond its reach is kept in the last bucket; whoever is woken too early
//! sets it again. Nobody moves a deadline because of a message: a session notes when it was last active, and looks when it
//! is woken.
//!
//! Invariant: a slot is in the list of exactly the bucket that its link names, or in none.

use std::time::{Duration, Instant};

/// How late a deadline may be noticed.
pub const TICK: Duration = Duration::from_millis(50);
/// A power of two.
const BUCKETS: usize = 4096;
/// As many as a word has bits.
const WORDS: usize = BUCKETS / 64;
const NONE: u32 = u32::MAX;

/// The deadlines of slots that are numbered from 0.
#[derive(Debug)]
pub struct Wheel {
    base: Instant,
    /// All earlier ticks are over.
    tick: u64,
    /// By bucket: the first slot.
    heads: Box<[u32]>,
    /// One bit a bucket: whether it has a slot.
    occupied: [u64; WORDS],
    /// One bit a word of these: whether it has a bit.
    words: u64,
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// [`NONE`] if the slot has no deadline.
    bucket: u32,
}

const UNLINKED: Link = Link { next: NONE, previous: NONE, bucket: NONE };

impl Wheel {
    /// Without deadlines; none may lie before `now`.
    pub fn new(now: Instant) -> Wheel {
        let heads = vec![NONE; BUCKETS].into();
        Wheel { base: now, tick: 0, heads, occupied: [0; WORDS], words: 0, links: Vec::new() }
    }

    /// Sets a slot's deadline, in place of another if it has one.
    pub fn set(&mut self, slot: u32, deadline: Instant) {
        self.clear(slot);
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, UNLINKED);
        }
        let due = self.tick_of(deadline).clamp(self.tick, self.tick + BUCKETS as u64 - 1);
        let bucket = due as usize % BUCKETS;
        let next = std::mem::replace(&mut self.heads[bucket], slot);
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.links[slot as usize] = Link { next, previous: NONE, bucket: bucket as u32 };
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.words |= 1 << (bucket / 64);
    }

    /// Gives a slot's deadline up, if it has one.
    pub fn clear(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else { return };
        let Link { next, previous, bucket } = std::mem::replace(link, UNLINKED);
        if bucket == NONE {
            return;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
        } else {
            self.heads[bucket as usize] = next;
            if next == NONE {
                self.vacate(bucket as usize);
            }
        }
    }

    /// A slot whose deadline has passed, or is further away than the wheel reaches; it has none any more.
    pub fn expire(&mut self, now: Instant) -> Option<u32> {
        let last = (now.saturating_duration_since(self.base).as_nanos() / TICK.as_nanos()) as u64;
        let due = self.next_tick()?;
        if due > last {
            return None;
        }
        self.tick = due;
        let slot = self.heads[due as usize % BUCKETS];
        self.clear(slot);
        Some(slot)
    }

    /// When to ask again.
    pub fn next(&self) -> Option<Instant> {
        self.next_tick().map(|due| self.base + Duration::from_nanos(due * TICK.as_nanos() as u64))
    }

    fn vacate(&mut self, bucket: usize) {
        self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        if self.occupied[bucket / 64] == 0 {
            self.words &= !(1 << (bucket / 64));
        }
    }

    fn next_tick(&self) -> Option<u64> {
        if self.words == 0 {
            return None;
        }
        let start = self.tick as usize % BUCKETS;
        let first = self.occupied[start / 64] & (u64::MAX << (start % 64));
        let bucket = if first != 0 {
            start / 64 * 64 + first.trailing_zeros() as usize
        } else {
            // The first word comes last: what stands before the start.
            let behind = start / 64 + 1;
            let index = (behind + self.words.rotate_right(behind as u32 % 64).trailing_zeros() as usize) % WORDS;
            index * 64 + self.occupied[index].trailing_zeros() as usize
        };
        Some(self.tick + ((bucket + BUCKETS - start) % BUCKETS) as u64)
    }

    fn tick_of(&self, deadline: Instant) -> u64 {
        let since = deadline.saturating_duration_since(self.base).as_nanos();
        u64::try_from(since.div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX >> 1)
    }
}

#[cfg(test)]
impl Wheel {
    /// Whether a slot has a deadline.
    pub fn is_set(&self, slot: u32) -> bool {
        self.links.get(slot as usize).is_some_and(|link| link.bucket != NONE)
    }

    /// What must hold between two calls.
    pub fn check_invariants(&self) {
        let mut linked = 0;
        for (bucket, head) in self.heads.iter().enumerate() {
            let (mut slot, mut previous) = (*head, NONE);
            assert_eq!(slot != NONE, self.occupied[bucket / 64] >> (bucket % 64) & 1 == 1, "bucket {bucket}");
            while slot != NONE {
                let link = &self.links[slot as usize];
                assert_eq!((link.bucket as usize, link.previous), (bucket, previous), "slot {slot}");
                (previous, slot) = (slot, link.next);
                linked += 1;
            }
        }
        for (index, word) in self.occupied.iter().enumerate() {
            assert_eq!(*word != 0, self.words >> index & 1 == 1, "word {index}");
        }
        let set = self.links.iter().filter(|link| link.bucket != NONE).count();
        assert_eq!(linked, set, "a slot is in the list of its bucket");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;

    use super::*;

    /// What the wheel should be: a table.
    #[derive(Default)]
    struct Naive(BTreeMap<u32, Instant>);

    #[test]
    fn agrees_with_a_table() {
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let mut now = Instant::now();
            let (mut wheel, mut naive) = (Wheel::new(now), Naive::default());
            for _ in 0..400 {
                let slot = rng.u32(..20);
                match rng.u8(..4) {
                    0 | 1 => {
                        let deadline = now + Duration::from_millis(rng.u64(..300_000));
                        wheel.set(slot, deadline);
                        naive.0.insert(slot, deadline);
                    }
                    2 => {
                        wheel.clear(slot);
                        naive.0.remove(&slot);
                    }
                    _ => {
                        now += Duration::from_millis(rng.u64(..20_000));
                        expire(&mut wheel, &mut naive, now);
                    }
                }
                wheel.check_invariants();
                check_next(&wheel, &naive, now);
            }
        }
    }

    fn expire(wheel: &mut Wheel, naive: &mut Naive, now: Instant) {
        while let Some(slot) = wheel.expire(now) {
            let deadline = naive.0[&slot];
            if deadline > now {
                // Further away than the wheel reached when it was set.
                wheel.set(slot, deadline);
            } else {
                naive.0.remove(&slot);
            }
        }
        assert!(naive.0.values().all(|deadline| *deadline + TICK > now), "nobody is forgotten");
    }

    fn check_next(wheel: &Wheel, naive: &Naive, now: Instant) {
        let first = naive.0.values().min();
        assert_eq!(wheel.next().is_some(), first.is_some());
        let Some(&first) = first else { return };
        assert!(wheel.next().expect("as asserted") <= first.max(now) + TICK, "it asks in time");
    }

    #[test]
    fn nobody_is_woken_before_time_within_reach() {
        let now = Instant::now();
        let mut wheel = Wheel::new(now);
        wheel.set(3, now + Duration::from_secs(30));
        assert_eq!(wheel.expire(now + Duration::from_millis(29_999)), None);
        assert_eq!(wheel.expire(now + Duration::from_secs(30) + TICK), Some(3));
        assert_eq!((wheel.expire(now + Duration::from_secs(60)), wheel.next()), (None, None));
    }
}

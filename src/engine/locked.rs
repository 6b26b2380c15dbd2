//! A limit on the memory that rings keep locked, shared among them before they are made.

use std::fmt;

use super::start::{EngineBuilder, StartError};
use crate::ring::{COMPLETIONS_MIN, Sizes, completion_entries};

/// How many rings there are to be, and of what sizes.
#[doc(hidden)] // for whoever asks beforehand whether the machine can do it
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    /// How many.
    pub count: usize,
    /// Those of each.
    pub sizes: Sizes,
}

/// What of the rings gives way to a limit on locked memory.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivesWay {
    /// The buffers are not registered.
    Buffers,
    /// The queues are smaller.
    Queues {
        /// Entries of each completion queue.
        entries: u32,
        /// What they were to be.
        wanted: u32,
    },
    /// There are fewer.
    Count {
        /// How many.
        count: usize,
    },
}

/// A step that a limit has forced, in words that say what to do.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Step {
    limit: u64,
    what: GivesWay,
    /// How many there were to be.
    rings: usize,
    /// Bytes with which it would not have been.
    enough: u64,
}

impl Rings {
    /// Bytes that all of them keep locked.
    pub fn locked(&self) -> u64 {
        self.sizes.locked().saturating_mul(self.count as u64)
    }

    /// What of these fits in `limit` bytes: as many rings as can be, with completion queues as large as can be, and with
    /// registered buffers if there is room for those of all. So buffers give way first, the queues next, and the number of
    /// rings last. `None` if not even one ring fits.
    fn within(&self, limit: u64) -> Option<Rings> {
        let most = limit / self.least().sizes.locked();
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.count);
        let completions =
            std::iter::successors(Some(self.sizes.completions), |entries| self.fewer_completions(*entries));
        let sizes = completions.flat_map(|completions| {
            [self.sizes.registered, false].map(|registered| Sizes { completions, registered, ..self.sizes })
        });
        (count > 0).then_some(sizes)?.map(|sizes| Rings { count, sizes }).find(|rings| rings.locked() <= limit)
    }

    /// Half as many completions, if that is not too few.
    fn fewer_completions(&self, entries: u32) -> Option<u32> {
        let half = completion_entries(entries) / 2;
        (half >= self.least().sizes.completions).then_some(half)
    }

    /// The smallest that can be made in their place.
    fn least(&self) -> Rings {
        let completions = completion_entries(self.sizes.completions).min(COMPLETIONS_MIN);
        Rings { sizes: Sizes { completions, registered: false, ..self.sizes }, ..*self }
    }

    /// What has given way of these so that they became others, what gives way first before the rest.
    fn steps(&self, others: &Rings, limit: u64) -> Vec<Step> {
        let [wanted, entries] = [self, others].map(|rings| completion_entries(rings.sizes.completions));
        let plain = Rings { sizes: Sizes { registered: false, ..self.sizes }, ..*self };
        let given_way = [
            (self.sizes.registered != others.sizes.registered, GivesWay::Buffers, *self),
            (entries < wanted, GivesWay::Queues { entries, wanted }, plain),
            (others.count < self.count, GivesWay::Count { count: others.count }, self.least()),
        ];
        let given_way = given_way.into_iter().filter(|(has, ..)| *has);
        given_way.map(|(_, what, enough)| Step { limit, what, rings: self.count, enough: enough.locked() }).collect()
    }
}

impl EngineBuilder {
    /// So many rings as its limit on locked memory allows them to be, and what had to give way.
    ///
    /// # Errors
    /// [`StartError::LockedMemory`] if not even one ring fits.
    #[doc(hidden)]
    pub fn within_locked_memory(&self, rings: usize) -> Result<(Rings, Vec<Step>), StartError> {
        let wanted = Rings { count: rings, sizes: self.ring_sizes() };
        let limit = self.locked_memory_limit;
        if limit == 0 {
            return Ok((wanted, Vec::new()));
        }
        let too_little = || StartError::LockedMemory { limit, needed: wanted.least().sizes.locked() };
        let fitting = wanted.within(limit).ok_or_else(too_little)?;
        Ok((fitting, wanted.steps(&fitting, limit)))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, enough, rings) = (Kib(self.limit), Kib(self.enough), self.rings);
        write!(f, "locked_memory_limit is {limit}: ")?;
        match self.what {
            GivesWay::Buffers => write!(
                f,
                "reads go by RECV, not by READ_FIXED, which costs some CPU; {enough} are enough for the registered buffers \
                 of {rings} rings"
            ),
            GivesWay::Queues { entries, wanted } => write!(
                f,
                "a ring has room for {entries} completions instead of {wanted}, and a burst that overflows it costs time \
                 (cq-overflow); {enough} are enough for {rings} whole rings that read by RECV"
            ),
            GivesWay::Count { count } => write!(
                f,
                "there are {count} of {rings} rings; {enough} are enough for {rings} of the smallest, and rings = {count} \
                 says that it is meant so"
            ),
        }
    }
}

/// Bytes, shown in KiB; what is left over counts as one.
pub(super) struct Kib(pub(super) u64);

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0.div_ceil(1024))
    }
}

/// A limit in bytes; 0 is none.
pub(super) struct Limit(pub(super) u64);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("unlimited"),
            bytes => Kib(bytes).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that one may make of the rings that were wanted.
    fn every_way(wanted: &Rings) -> Vec<Rings> {
        let mut all = Vec::new();
        for count in 1..=wanted.count {
            let mut entries = completion_entries(wanted.sizes.completions);
            while entries >= COMPLETIONS_MIN.min(completion_entries(wanted.sizes.completions)) {
                for registered in [false, wanted.sizes.registered] {
                    all.push(Rings { count, sizes: Sizes { completions: entries, registered, ..wanted.sizes } });
                }
                entries /= 2;
            }
        }
        all
    }

    /// What matters, the most first.
    fn worth(rings: &Rings) -> (usize, u32, bool) {
        (rings.count, completion_entries(rings.sizes.completions), rings.sizes.registered)
    }

    #[test]
    fn a_limit_is_shared_as_by_trying_every_way() {
        let mut seen = [0; 4];
        for seed in 0..4000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let sizes = Sizes {
                slots: rng.u32(1..20_000),
                longest: 4352,
                completions: rng.u32(1..70_000),
                registered: rng.u8(0..8) > 0,
            };
            let wanted = Rings { count: rng.usize(1..9), sizes };
            let limit = rng.u64(0..=wanted.locked() + wanted.locked() / 8) >> rng.u32(0..8);
            let best = every_way(&wanted).into_iter().filter(|way| way.locked() <= limit).map(|way| worth(&way)).max();
            let found = wanted.within(limit);
            assert_eq!(found.as_ref().map(worth), best, "seed {seed}: {wanted:?} in {limit} bytes");
            seen[found.map_or(3, |found| wanted.steps(&found, limit).len().min(2))] += 1;
        }
        assert!(seen.iter().all(|&times| times > 20), "too few of a kind: {seen:?}");
    }

    #[test]
    fn what_a_step_says_is_enough_is_enough_and_a_byte_less_is_not() {
        let mut steps_seen = 0;
        for seed in 0..1000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (slots, completions) = (rng.u32(1..20_000), 5000 << rng.u32(0..4));
            let sizes = Sizes { slots, longest: 4352, completions, registered: rng.bool() };
            let wanted = Rings { count: rng.usize(1..6), sizes };
            let limit = rng.u64(0..=wanted.locked()) >> rng.u32(0..8);
            let steps = |limit| wanted.within(limit).map_or(Vec::new(), |found| wanted.steps(&found, limit));
            for step in steps(limit) {
                let has_same = |limit| {
                    let same = |one: &Step| std::mem::discriminant(&one.what) == std::mem::discriminant(&step.what);
                    steps(limit).iter().any(same)
                };
                assert!(!has_same(step.enough) && has_same(step.enough - 1), "seed {seed}: {step:?} of {wanted:?}");
                steps_seen += 1;
            }
        }
        assert!(steps_seen > 500, "too few: {steps_seen}");
    }

    #[test]
    fn a_limit_that_is_reached_exactly_forces_nothing() {
        let sizes = Sizes { slots: 17_408, longest: 4352, completions: 25_600, registered: true };
        let wanted = Rings { count: 3, sizes };
        let steps = |limit| wanted.steps(&wanted.within(limit).expect("it fits"), limit);
        assert!(steps(wanted.locked()).is_empty() && steps(u64::MAX).is_empty());
        assert_eq!(steps(wanted.locked() - 1).iter().map(|step| step.what).collect::<Vec<_>>(), [GivesWay::Buffers]);
    }
}

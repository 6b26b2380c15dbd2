//! How a server is brought back to its whole share: slowly after a return, and after it has said that it is overloaded.
//!
//! While it rises from a small part to the whole, two things hold the server back. Its weight counts for that part; and of
//! the new sessions that the fewest sessions would bring it (all of them, when the others have been there for days) it
//! gets that part only. The second is what keeps an empty server from being flooded: by weight alone it would get every
//! new session until it had its part of the others' load.

use super::choice::{ServerIndex, WEIGHT_ONE};

/// The whole share.
const WHOLE: u32 = 1 << 16;
/// The share that a server begins with, and has at least: a hundredth.
const SHARE_MIN: u32 = WHOLE / 100;

#[derive(Clone, Debug)]
pub(super) struct Ramp {
    pub(super) server: ServerIndex,
    /// The share at its beginning, of [`WHOLE`].
    from: u32,
    /// In nanoseconds since the backend was made.
    pub(super) begun: u64,
    lasts: u64,
    /// What it may take of new sessions, of [`WHOLE`] each.
    earned: u32,
}

impl Ramp {
    /// From the smallest share to the whole over `lasts` nanoseconds.
    pub(super) fn slow_start(server: ServerIndex, begun: u64, lasts: u64) -> Ramp {
        Ramp { server, from: SHARE_MIN, begun, lasts, earned: 0 }
    }

    /// From half of what the server has now, over at least `lasts` nanoseconds and what its present ramp still needs.
    pub(super) fn halved(server: ServerIndex, present: Option<&Ramp>, now: u64, lasts: u64) -> Ramp {
        let share = present.map_or(WHOLE, |ramp| ramp.share(now));
        let rest = present.map_or(0, |ramp| (ramp.begun + ramp.lasts).saturating_sub(now));
        Ramp { server, from: (share / 2).max(SHARE_MIN), begun: now, lasts: lasts.max(rest), earned: 0 }
    }

    pub(super) fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.begun) >= self.lasts
    }

    /// Grows evenly with the time, [`SHARE_MIN`]..=[`WHOLE`].
    fn share(&self, now: u64) -> u32 {
        if self.is_over(now) {
            return WHOLE;
        }
        let gone = u128::from(now.saturating_sub(self.begun));
        let risen = u128::from(WHOLE - self.from) * gone / u128::from(self.lasts);
        self.from + risen as u32
    }

    /// A weight as it counts now; one that is not 0 stays so.
    pub(super) fn weight(&self, base: u16, now: u64) -> u32 {
        let whole = u64::from(base) * u64::from(WEIGHT_ONE);
        let now = whole * u64::from(self.share(now)) / u64::from(WHOLE);
        (now as u32).max(u32::from(base > 0))
    }

    /// A new session is given away: the server's right to one grows by its share. `true`: it has a right to a whole one.
    /// Less than a second one is saved up.
    pub(super) fn earn(&mut self, now: u64) -> bool {
        self.earned = (self.earned + self.share(now)).min(2 * WHOLE - 1);
        self.earned >= WHOLE
    }

    /// The session was given to this server.
    pub(super) fn spend(&mut self) {
        self.earned = self.earned.saturating_sub(WHOLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_rises_evenly_to_the_whole() {
        let ramp = Ramp::slow_start(ServerIndex(0), SECOND, 100 * SECOND);
        assert_eq!([0, 1, 51, 101, 500].map(|s| ramp.weight(100, s * SECOND)), [255, 255, 12927, 25600, 25600]);
        assert_eq!((ramp.weight(0, SECOND), ramp.weight(1, SECOND)), (0, 2), "and a weight of 0 stays 0");
    }

    #[test]
    fn it_earns_its_share_of_sessions_and_saves_up_no_more_than_one() {
        let mut ramp = Ramp::slow_start(ServerIndex(0), 0, 100 * SECOND);
        let mut taken = |at: u64, of: u32| {
            (0..of)
                .filter(|_| {
                    ramp.earn(at) && {
                        ramp.spend();
                        true
                    }
                })
                .count()
        };
        assert_eq!([taken(0, 1000), taken(25 * SECOND, 1000), taken(80 * SECOND, 1000)], [9, 258, 802]);
        let mut idle = Ramp::slow_start(ServerIndex(0), 0, 100 * SECOND);
        (0..1000).for_each(|_| _ = idle.earn(50 * SECOND));
        let at_once = (0..10)
            .take_while(|_| {
                idle.earn(0) && {
                    idle.spend();
                    true
                }
            })
            .count();
        assert!(at_once <= 2, "however long it got nothing: {at_once}");
    }

    #[test]
    fn overload_halves_what_there_is_and_never_ends_a_longer_ramp() {
        let first = Ramp::halved(ServerIndex(0), None, 0, 10 * SECOND);
        assert_eq!((first.weight(256, 0), first.weight(256, 5 * SECOND)), (32768, 49152));
        let again = Ramp::halved(ServerIndex(0), Some(&first), 5 * SECOND, 10 * SECOND);
        assert_eq!(again.weight(256, 5 * SECOND), 24576);
        let slow = Ramp::slow_start(ServerIndex(0), 0, 60 * SECOND);
        let halved = Ramp::halved(ServerIndex(0), Some(&slow), 10 * SECOND, 10 * SECOND);
        assert!(!halved.is_over(59 * SECOND) && halved.is_over(60 * SECOND));
    }
}

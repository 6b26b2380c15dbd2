//! When the next connection is due. Pure: the clock is a parameter.
//!
//! Latency is measured from the *intended* start. In the open loop that is a point of a fixed grid, whether or not
//! the swarm or the server was ready for it; a stall therefore shows in every connection that it delayed, not only in
//! the one that met it (coordinated omission).

use std::time::{Duration, Instant};

/// How long after the end a start that was due before it is still made, if it finds a place. It counts from its place on
/// the grid, and without it every pause of the client at the end would cost the run its slowest connections.
const LATE_MAX: Duration = Duration::from_millis(100);

/// The order of starts of one thread.
#[derive(Clone, Debug)]
pub struct Schedule {
    pace: Pace,
    begin: Instant,
    /// No start is due at or after this.
    end: Instant,
    /// Most connections open at once.
    open_max: usize,
    issued: u64,
    issued_max: u64,
    paused_until: Instant,
}

/// What decides the next start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as one of `open_max` places is free.
    Closed,
    /// At `begin + offset + n * interval`.
    Open {
        /// Between two starts, in nanoseconds; a fraction so that rates do not drift.
        interval_nanos: f64,
        /// Of the first start, in nanoseconds.
        offset_nanos: f64,
    },
}

/// The bounds of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// No start is due at or after `begin + duration`.
    pub duration: Duration,
    /// Most connections open at once.
    pub open_max: usize,
    /// Most starts in all.
    pub issued_max: u64,
}

impl Schedule {
    /// A schedule that begins at `begin`.
    pub fn new(pace: Pace, begin: Instant, bounds: Bounds) -> Schedule {
        Schedule {
            pace,
            begin,
            end: begin + bounds.duration,
            open_max: bounds.open_max,
            issued: 0,
            issued_max: bounds.issued_max,
            paused_until: begin,
        }
    }

    /// The intended start of the next connection if one is to be started `now`, with `open` open already.
    pub fn start(&mut self, now: Instant, open: usize) -> Option<Instant> {
        if open >= self.open_max {
            return None;
        }
        let due = self.due(now)?;
        if due > now {
            return None;
        }
        self.issued += 1;
        Some(due)
    }

    /// How long until the next start could be due, or until the end when only a closed connection can bring one before.
    /// Only before [`Schedule::is_over`].
    pub fn wait(&self, now: Instant, open: usize) -> Duration {
        let due = if open < self.open_max { self.due(now) } else { None };
        due.unwrap_or(self.end).saturating_duration_since(now)
    }

    /// Whether no further connection is to be started, with `open` open.
    pub fn is_over(&self, now: Instant, open: usize) -> bool {
        let too_late = now >= self.end + LATE_MAX || open >= self.open_max || self.due(now).is_none();
        self.issued >= self.issued_max || (now >= self.end && too_late)
    }

    /// When the duration is over.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// No start before `until`: lets a closed loop that only fails do so at a civil rate.
    pub fn pause(&mut self, until: Instant) {
        if self.pace == Pace::Closed {
            self.paused_until = until;
        }
    }

    /// Ends the schedule at `now`.
    pub fn stop(&mut self, now: Instant) {
        self.end = self.end.min(now);
    }

    /// Starts that were due before the end and never made: all places were taken, or the client was busy for too long.
    pub fn missed(&self) -> u64 {
        let Pace::Open { interval_nanos, offset_nanos } = self.pace else { return 0 };
        let span = self.end.saturating_duration_since(self.begin).as_nanos() as f64 - offset_nanos;
        let due = (span / interval_nanos).ceil().max(0.0) as u64;
        due.min(self.issued_max).saturating_sub(self.issued)
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        if self.issued >= self.issued_max {
            return None;
        }
        let due = match self.pace {
            Pace::Closed => now.max(self.paused_until),
            Pace::Open { interval_nanos, offset_nanos } => {
                self.begin + Duration::from_nanos((offset_nanos + self.issued as f64 * interval_nanos) as u64)
            }
        };
        Some(due).filter(|due| *due < self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bounds(open_max: usize, issued_max: u64) -> Bounds {
        Bounds { duration: 100 * MS, open_max, issued_max }
    }

    fn every(interval: Duration) -> Pace {
        Pace::Open { interval_nanos: interval.as_nanos() as f64, offset_nanos: 0.0 }
    }

    #[test]
    fn the_closed_loop_fills_its_places_and_no_more() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(Pace::Closed, begin, bounds(2, 3));
        assert_eq!(schedule.start(begin, 0), Some(begin));
        assert_eq!(schedule.start(begin + MS, 1), Some(begin + MS));
        assert_eq!(schedule.start(begin + MS, 2), None);
        assert_eq!(schedule.wait(begin + MS, 2), 99 * MS, "only an end can bring the next start");
        assert_eq!(schedule.start(begin + 2 * MS, 1), Some(begin + 2 * MS));
        assert!(schedule.is_over(begin + 2 * MS, 2), "three were asked for");
        assert_eq!(schedule.missed(), 0);
    }

    #[test]
    fn a_stall_does_not_move_the_intended_starts() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(every(MS), begin, bounds(100, u64::MAX));
        assert_eq!(schedule.start(begin, 0), Some(begin));
        assert_eq!(schedule.start(begin, 1), None);
        assert_eq!(schedule.wait(begin, 1), MS);
        // The loop was held up for 10 ms: the starts it owes keep their places on the grid.
        let late = begin + 10 * MS;
        let intended: Vec<Instant> = std::iter::from_fn(|| schedule.start(late, 0)).collect();
        assert_eq!(intended, (1..=10).map(|n| begin + n * MS).collect::<Vec<_>>());
    }

    #[test]
    fn starts_without_a_place_are_missed_not_forgotten() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(every(MS), begin, bounds(1, u64::MAX));
        assert!(schedule.start(begin, 0).is_some());
        assert_eq!(schedule.start(begin + 50 * MS, 1), None);
        assert!(!schedule.is_over(begin + 99 * MS, 1));
        assert!(schedule.is_over(begin + 100 * MS, 1), "nothing is waited for beyond the end");
        assert_eq!(schedule.missed(), 99);
    }

    #[test]
    fn what_is_due_before_the_end_is_made_behind_it_where_there_is_a_place() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(every(MS), begin, bounds(100, u64::MAX));
        // The client slept from the 98th start on.
        let made = std::iter::from_fn(|| schedule.start(begin + 97 * MS, 0)).count();
        assert_eq!(made, 98);
        let late = begin + 103 * MS;
        assert!(!schedule.is_over(late, 0));
        let intended: Vec<Instant> = std::iter::from_fn(|| schedule.start(late, 0)).collect();
        assert_eq!(intended, [begin + 98 * MS, begin + 99 * MS], "the end is exclusive");
        assert!(schedule.is_over(late, 0));
        assert_eq!(schedule.missed(), 0);
    }

    #[test]
    fn a_client_that_cannot_keep_up_gives_up_soon_after_the_end() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(every(MS), begin, bounds(100, u64::MAX));
        assert!(schedule.start(begin, 0).is_some());
        let end = begin + 100 * MS;
        assert!(!schedule.is_over(end + LATE_MAX - MS, 0));
        assert!(schedule.is_over(end + LATE_MAX, 0));
        assert_eq!(schedule.missed(), 99);
    }

    #[test]
    fn the_closed_loop_ends_at_the_end() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(Pace::Closed, begin, bounds(2, u64::MAX));
        let end = begin + 100 * MS;
        assert!(!schedule.is_over(end - MS, 0));
        assert!(schedule.is_over(end, 0));
        assert_eq!(schedule.start(end, 0), None);
    }

    #[test]
    fn a_fractional_interval_does_not_drift() {
        let begin = Instant::now();
        let pace = Pace::Open { interval_nanos: 1e9 / 3.0, offset_nanos: 0.0 };
        let mut schedule =
            Schedule::new(pace, begin, Bounds { duration: Duration::from_secs(1000), open_max: 1, issued_max: 10_000 });
        let late = begin + Duration::from_secs(999);
        let last = std::iter::from_fn(|| schedule.start(late, 0)).last().expect("some");
        assert_eq!((last - begin).as_secs(), 999);
        assert_eq!(schedule.missed(), 2);
    }

    #[test]
    fn a_pause_holds_the_closed_loop_only() {
        let begin = Instant::now();
        let mut closed = Schedule::new(Pace::Closed, begin, bounds(1, 9));
        closed.pause(begin + 5 * MS);
        assert_eq!(closed.start(begin, 0), None);
        assert_eq!(closed.wait(begin, 0), 5 * MS);
        assert!(closed.start(begin + 5 * MS, 0).is_some());
        let mut open = Schedule::new(every(MS), begin, bounds(1, 9));
        open.pause(begin + 5 * MS);
        assert_eq!(open.start(begin, 0), Some(begin));
    }

    #[test]
    fn stopping_ends_it_at_once() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(every(MS), begin, bounds(1, u64::MAX));
        schedule.stop(begin + 3 * MS);
        assert!(schedule.is_over(begin + 3 * MS, 1), "its place is taken");
        assert_eq!(schedule.missed(), 3);
    }
}

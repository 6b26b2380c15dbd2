//! Which of many alike events deserve a log line.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most keys remembered at a time; an event with a key beyond them is passed over until others have expired.
pub const REPEATS_KEYS_MAX: usize = 4096;

/// Lets the first event of each key through and passes over the others of the same period, counting them, so that one
/// noisy peer cannot flood the log.
#[derive(Debug)]
pub struct Repeats<K> {
    period: Duration,
    known: Mutex<HashMap<K, Last>>,
}

#[derive(Debug)]
struct Last {
    logged_at: Instant,
    passed_over: u64,
}

impl<K: Eq + Hash> Repeats<K> {
    /// At most one line a key and `period`.
    pub fn new(period: Duration) -> Repeats<K> {
        Repeats { period, known: Mutex::new(HashMap::new()) }
    }

    /// Whether to log an event now; if so, what to put at the end of the line.
    pub fn admit(&self, key: K, now: Instant) -> Option<PassedOver> {
        // A panic under the lock leaves at worst a wrong count.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = known.get_mut(&key) {
            return last.again(now, self.period);
        }
        if known.len() >= REPEATS_KEYS_MAX {
            known.retain(|_, last| !last.expired(now, self.period));
        }
        if known.len() >= REPEATS_KEYS_MAX {
            return None;
        }
        known.insert(key, Last { logged_at: now, passed_over: 0 });
        Some(PassedOver(0))
    }
}

/// How many events alike were passed over since the last line; shown as `; 7 more since the last line`, or as nothing
/// where there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOver(pub u64);

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, "; {count} more since the last line"),
        }
    }
}

impl Last {
    fn again(&mut self, now: Instant, period: Duration) -> Option<PassedOver> {
        if self.expired(now, period) {
            self.logged_at = now;
            return Some(PassedOver(std::mem::take(&mut self.passed_over)));
        }
        self.passed_over += 1;
        None
    }

    fn expired(&self, now: Instant, period: Duration) -> bool {
        now.saturating_duration_since(self.logged_at) >= period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn one_line_a_key_and_period_with_the_count_of_the_others() {
        let repeats = Repeats::new(PERIOD);
        let start = Instant::now();
        assert_eq!(repeats.admit("a", start), Some(PassedOver(0)));
        assert_eq!(repeats.admit("b", start), Some(PassedOver(0)));
        for second in 1..60 {
            assert_eq!(repeats.admit("a", start + Duration::from_secs(second)), None);
        }
        assert_eq!(repeats.admit("a", start + PERIOD), Some(PassedOver(59)));
        assert_eq!(repeats.admit("a", start + 2 * PERIOD), Some(PassedOver(0)));
        assert_eq!(repeats.admit("b", start + PERIOD), Some(PassedOver(0)));
    }

    #[test]
    fn the_end_of_the_line() {
        assert_eq!(format!("failed{}", PassedOver(0)), "failed");
        assert_eq!(format!("failed{}", PassedOver(7)), "failed; 7 more since the last line");
    }

    #[test]
    fn a_full_table_stays_bounded_and_recovers() {
        let repeats = Repeats::new(PERIOD);
        let start = Instant::now();
        for key in 0..REPEATS_KEYS_MAX {
            assert_eq!(repeats.admit(key, start), Some(PassedOver(0)));
        }
        assert_eq!(repeats.admit(REPEATS_KEYS_MAX, start), None);
        assert_eq!(repeats.known.lock().expect("no panic").len(), REPEATS_KEYS_MAX);
        assert_eq!(repeats.admit(REPEATS_KEYS_MAX, start + PERIOD), Some(PassedOver(0)));
        assert_eq!(repeats.known.lock().expect("no panic").len(), 1);
    }
}

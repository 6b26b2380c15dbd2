//! Which of many alike events deserve a log line.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most keys told apart at a time; events with keys beyond them are counted together.
pub const REPEATS_KEYS_MAX: usize = 4096;

/// Lets the first event of each key through and passes over the others of the same period, counting them, so that one
/// noisy peer cannot flood the log. What was passed over is told with the first event, of whatever key, after the period.
#[derive(Debug)]
pub struct Repeats<K> {
    period: Duration,
    windows: Mutex<Windows<K>>,
}

/// What became of one event.
#[derive(Debug, PartialEq, Eq)]
pub struct Noted<K> {
    /// The how-manieth of its key in this period, from 1, which deserves a line; `None` where too many keys are known.
    pub nth: Option<u64>,
    /// What was passed over in periods that have ended, oldest first: a line each.
    pub ended: Vec<PassedOver<K>>,
}

impl<K> Noted<K> {
    /// Whether the event is the first of its key.
    pub fn is_first(&self) -> bool {
        self.nth == Some(1)
    }
}

/// Events that had no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOver<K> {
    /// What they had in common; `None`: nothing, they came while [`REPEATS_KEYS_MAX`] other keys were known.
    pub key: Option<K>,
    /// How many, at least 1.
    pub count: u64,
}

#[derive(Debug)]
struct Windows<K> {
    /// Events of each key in its period.
    seen: HashMap<K, u64>,
    /// The keys by the beginning of their period, oldest first.
    order: VecDeque<(Instant, K)>,
    /// Events beyond [`REPEATS_KEYS_MAX`].
    others: u64,
    /// Of periods that have ended, and not told yet.
    ended: Vec<PassedOver<K>>,
}

impl<K: Clone + Eq + Hash> Repeats<K> {
    /// At most one line a key and `period`.
    pub fn new(period: Duration) -> Repeats<K> {
        let windows = Windows { seen: HashMap::new(), order: VecDeque::new(), others: 0, ended: Vec::new() };
        Repeats { period, windows: Mutex::new(windows) }
    }

    /// An event.
    pub fn note(&self, key: K, now: Instant) -> Noted<K> {
        self.note_all(key, 1, now)
    }

    /// So many events at once, at least 1; the answer is of the first of them.
    pub fn note_all(&self, key: K, times: u64, now: Instant) -> Noted<K> {
        let mut windows = self.lock();
        windows.end_old(now, self.period);
        Noted { nth: windows.note(key, times, now), ended: std::mem::take(&mut windows.ended) }
    }

    /// The same of a key that its period has seen before; `None`, and nothing is counted: it has not.
    pub fn note_known(&self, key: &K, times: u64, now: Instant) -> Option<Noted<K>> {
        let mut windows = self.lock();
        windows.end_old(now, self.period);
        let nth = windows.note_known(key, times)?;
        Some(Noted { nth: Some(nth), ended: std::mem::take(&mut windows.ended) })
    }

    /// How many events of this key its period has seen up to `now`.
    pub fn seen(&self, key: &K, now: Instant) -> u64 {
        let mut windows = self.lock();
        windows.end_old(now, self.period);
        windows.seen.get(key).copied().unwrap_or_default()
    }

    /// Ends all periods: what was passed over up to now.
    pub fn end_all(&self) -> Vec<PassedOver<K>> {
        let mut windows = self.lock();
        windows.end_while(|_| true);
        std::mem::take(&mut windows.ended)
    }

    fn lock(&self) -> MutexGuard<'_, Windows<K>> {
        // A panic under the lock leaves at worst a wrong count.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Windows<K> {
    fn note(&mut self, key: K, times: u64, now: Instant) -> Option<u64> {
        if let Some(nth) = self.note_known(&key, times) {
            return Some(nth);
        }
        if self.seen.len() >= REPEATS_KEYS_MAX {
            self.others += times;
            return None;
        }
        self.seen.insert(key.clone(), times);
        self.order.push_back((now, key));
        Some(1)
    }

    fn note_known(&mut self, key: &K, times: u64) -> Option<u64> {
        let seen = self.seen.get_mut(key)?;
        *seen += times;
        Some(*seen - times + 1)
    }

    fn end_old(&mut self, now: Instant, period: Duration) {
        self.end_while(|since| now.saturating_duration_since(since) >= period);
    }

    /// Ends the oldest periods, and with any of them the count of those that were not told apart.
    fn end_while(&mut self, over: impl Fn(Instant) -> bool) {
        let before = self.order.len();
        while self.order.front().is_some_and(|(since, _)| over(*since))
            && let Some((_, key)) = self.order.pop_front()
        {
            let count = self.seen.remove(&key).unwrap_or_default().saturating_sub(1);
            if count > 0 {
                self.ended.push(PassedOver { key: Some(key), count });
            }
        }
        if self.order.len() < before && self.others > 0 {
            self.ended.push(PassedOver { key: None, count: std::mem::take(&mut self.others) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn first<K>(ended: Vec<PassedOver<K>>) -> Noted<K> {
        Noted { nth: Some(1), ended }
    }

    #[test]
    fn a_flood_makes_one_line_a_period_and_a_count() {
        let repeats = Repeats::new(PERIOD);
        let start = Instant::now();
        assert_eq!(repeats.note("a", start), first(vec![]));
        for nth in 2..=1000 {
            let noted = repeats.note("a", start + PERIOD / 2);
            assert!(noted.nth == Some(nth) && !noted.is_first() && noted.ended.is_empty(), "{noted:?}");
        }
        assert_eq!(repeats.note("b", start + PERIOD / 2), first(vec![]), "another key has its own line");
        let told = PassedOver { key: Some("a"), count: 999 };
        assert_eq!(repeats.note("a", start + PERIOD), first(vec![told]));
        assert_eq!(repeats.note("b", start + 2 * PERIOD), first(vec![]), "nothing was passed over");
    }

    #[test]
    fn many_at_once_count_as_many_and_the_first_of_them_has_the_line() {
        let repeats = Repeats::new(PERIOD);
        let start = Instant::now();
        assert_eq!(repeats.note_known(&"a", 3, start), None, "it is not known");
        assert_eq!(repeats.note_all("a", 3, start), first(vec![]));
        assert_eq!(repeats.note_known(&"a", 5, start).map(|noted| noted.nth), Some(Some(4)));
        assert_eq!(repeats.note_all("a", 2, start).nth, Some(9));
        assert_eq!(repeats.note("b", start + PERIOD), first(vec![PassedOver { key: Some("a"), count: 9 }]));
    }

    #[test]
    fn says_what_was_seen_and_counts_nothing_by_it() {
        let repeats = Repeats::new(PERIOD);
        let start = Instant::now();
        assert_eq!(repeats.seen(&"a", start), 0);
        repeats.note("a", start);
        repeats.note("b", start + PERIOD / 2);
        for _ in 0..2 {
            assert_eq!((repeats.seen(&"a", start), repeats.seen(&"b", start + PERIOD / 2)), (1, 1));
        }
        assert_eq!((repeats.seen(&"a", start + PERIOD), repeats.seen(&"b", start + PERIOD)), (0, 1));
    }

    #[test]
    fn its_memory_is_bounded_and_nothing_goes_uncounted() {
        let repeats = Repeats::new(PERIOD);
        let start = Instant::now();
        for key in 0..2 * REPEATS_KEYS_MAX {
            assert_eq!(repeats.note(key, start).nth, (key < REPEATS_KEYS_MAX).then_some(1));
        }
        assert_eq!(repeats.lock().seen.len(), REPEATS_KEYS_MAX);
        assert_eq!(repeats.end_all(), [PassedOver { key: None, count: REPEATS_KEYS_MAX as u64 }]);
        assert!(repeats.lock().seen.is_empty() && repeats.lock().order.is_empty());
        assert_eq!(repeats.note(0, start), first(vec![]), "it recovers");
    }
}

//! What has happened of late, for those who follow it: a part of the log's lines, sorted by kind. Those who are slow lose the
//! oldest and are told how many; whoever makes a line never waits for them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tracing::Level;

use super::lock;
use super::log::json::stamp;

/// Events that are kept.
pub const EVENTS_MAX: usize = 1024;
/// Characters of one that are kept.
const TEXT_MAX: usize = 1024;
/// The kinds: `log` for all lines that are of no other, and [`RELAY`].
pub const KINDS: [&str; 10] =
    ["refusal", "server", "session", "ban", "drain", "reload", "takeover", "ring", "log", RELAY];
/// The lines of relayed sessions: there may be thousands a second, so that they are kept only while somebody follows them.
pub const RELAY: &str = "relay";

/// One of them.
#[derive(Debug)]
pub struct Told {
    /// One more than that of the one before.
    pub number: u64,
    /// Of [`KINDS`].
    pub kind: &'static str,
    at: SystemTime,
    level: Level,
    service: String,
    text: String,
}

impl Told {
    /// As an object.
    pub fn value(&self) -> Value {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let level = match self.level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => "info",
        };
        json!({
            "number": self.number, "time": stamp(since.as_secs(), since.subsec_micros()), "event": self.kind,
            "level": level, "service": self.service, "message": self.text,
        })
    }
}

/// What a follower has not heard yet.
#[derive(Debug, Default)]
pub struct News {
    /// So many came before these, and are not kept any more.
    pub lost: u64,
    /// The others, in order.
    pub told: Vec<Arc<Told>>,
}

/// Those that are kept.
#[derive(Default)]
pub struct Events {
    kept: Mutex<Kept>,
    news: Condvar,
}

#[derive(Default)]
struct Kept {
    next: u64,
    ring: VecDeque<Arc<Told>>,
}

/// How many follow the sessions of relays.
static WHO_FOLLOW_RELAYS: AtomicUsize = AtomicUsize::new(0);

/// As long as there is one, the lines of relayed sessions are kept.
pub struct FollowsRelays(());

impl FollowsRelays {
    /// One more.
    pub fn begin() -> FollowsRelays {
        WHO_FOLLOW_RELAYS.fetch_add(1, Ordering::Relaxed);
        FollowsRelays(())
    }

    /// Whether there is one.
    pub fn is_anybody() -> bool {
        WHO_FOLLOW_RELAYS.load(Ordering::Relaxed) > 0
    }
}

impl Drop for FollowsRelays {
    fn drop(&mut self) {
        WHO_FOLLOW_RELAYS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Those of this process.
static OF_THIS_PROCESS: Events =
    Events { kept: Mutex::new(Kept { next: 0, ring: VecDeque::new() }), news: Condvar::new() };

/// A line of the log.
pub fn note(kind: Option<&str>, level: Level, service: &str, text: &str) {
    OF_THIS_PROCESS.note(kind, level, service, text);
}

/// Those of this process.
pub fn all() -> &'static Events {
    &OF_THIS_PROCESS
}

impl Events {
    fn note(&self, kind: Option<&str>, level: Level, service: &str, text: &str) {
        let kind = kind.and_then(|kind| KINDS.iter().find(|known| **known == kind)).unwrap_or(&"log");
        let (service, text) = (service.to_owned(), text.chars().take(TEXT_MAX).collect());
        let mut kept = lock(&self.kept);
        if kept.ring.len() >= EVENTS_MAX {
            kept.ring.pop_front();
        }
        let number = kept.next;
        kept.next += 1;
        kept.ring.push_back(Arc::new(Told { number, kind, at: SystemTime::now(), level, service, text }));
        drop(kept);
        self.news.notify_all();
    }

    /// The number of the first that a follower wants who wants the last `count` of some kinds, and all that come.
    pub fn last(&self, count: usize, wanted: impl Fn(&Told) -> bool) -> u64 {
        let kept = lock(&self.kept);
        let mut some = kept.ring.iter().rev().filter(|told| wanted(told)).take(count);
        some.by_ref().last().map_or(kept.next, |first| first.number)
    }

    /// All from this number on; waits for one, if there is none, for a while.
    pub fn since(&self, number: u64, patience: Duration) -> News {
        let kept = lock(&self.kept);
        let none = |kept: &mut Kept| kept.next <= number;
        let waited = self.news.wait_timeout_while(kept, patience, none);
        let kept = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(kept, _)| kept);
        let first = kept.next - kept.ring.len() as u64;
        let told = kept.ring.iter().filter(|told| told.number >= number).cloned().collect();
        News { lost: first.saturating_sub(number), told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(events: &Events, kind: &str, text: &str) {
        events.note(Some(kind), Level::INFO, "imap-login", text);
    }

    #[test]
    fn the_slow_lose_the_oldest_and_are_told_how_many() {
        let events = Events::default();
        assert_eq!(events.since(0, Duration::ZERO).told.len(), 0);
        for number in 0..EVENTS_MAX + 5 {
            note(&events, "server", &number.to_string());
        }
        let News { lost, told } = events.since(2, Duration::ZERO);
        assert_eq!((lost, told.len(), told[0].text.as_str()), (3, EVENTS_MAX, "5"));
        assert!(told.windows(2).all(|two| two[0].number + 1 == two[1].number));
        let News { lost, told } = events.since(EVENTS_MAX as u64 + 4, Duration::ZERO);
        assert_eq!((lost, told.len()), (0, 1));
    }

    #[test]
    fn a_follower_begins_with_the_last_of_its_kinds() {
        let events = Events::default();
        for kind in ["server", "ban", "nonsense", "ban", "ban"] {
            note(&events, kind, &"x".repeat(2 * TEXT_MAX));
        }
        let bans = |told: &Told| told.kind == "ban";
        assert_eq!((events.last(2, bans), events.last(9, bans), events.last(0, bans)), (3, 1, 5));
        let told = events.since(2, Duration::ZERO).told;
        assert_eq!((told[0].kind, told[0].text.len()), ("log", TEXT_MAX));
    }

    #[test]
    fn whoever_waits_hears_of_the_next_one() {
        let events = Events::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| events.since(0, Duration::from_secs(30)).told.len());
            note(&events, "ban", "one");
            assert_eq!(waits.join().expect("nobody panics"), 1);
        });
    }
}

//! Questions to the rings from another thread: who is served, who was, and who is to be served no longer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::{FOUND_MAX, Found, LiveSession, Question, SessionFilter, SessionSeen, Wish};
use super::{Command, Engine, Reach};
use crate::relay::End;

/// How long the rings may take to answer; they need milliseconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Asks an engine's rings for their sessions, also while the engine ends. A ring that has ended has none.
#[derive(Clone, Debug)]
pub struct Asker(Vec<Reach>);

/// What the rings have answered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionsSeen {
    /// The sessions, those first that have lasted longest; of those that are over, the latest first.
    pub sessions: Vec<SessionSeen>,
    /// How many more there are than were asked for.
    pub more: usize,
}

impl Engine {
    /// For questions from another thread.
    pub fn asker(&self) -> Asker {
        Asker(self.threads.iter().filter_map(|thread| thread.reach()).collect())
    }
}

impl Asker {
    /// The sessions that are there, at most `limit` of them and at most 10,000.
    pub fn sessions(&self, filter: &SessionFilter, limit: usize) -> SessionsSeen {
        let mut seen = self.seen(filter, Wish::List { limit });
        seen.cut(limit, |one| std::cmp::Reverse(one.age));
        seen
    }

    /// Sessions that have ended lately: each ring remembers about a thousand.
    pub fn ended(&self, filter: &SessionFilter, limit: usize) -> SessionsSeen {
        let mut seen = self.seen(filter, Wish::Ended { limit });
        seen.cut(limit, |one| one.ended);
        seen
    }

    /// Ends sessions, spread over a time, for this reason; tells how many.
    pub fn end_sessions(&self, filter: &SessionFilter, end: End, over: Duration) -> usize {
        self.ask(filter, Wish::End { end, over }).iter().map(|found| found.count).sum()
    }

    /// Takes the sessions out that can move, for another engine: of one that ends, before they are let go.
    pub fn take_sessions(&self) -> Vec<LiveSession> {
        let (to, from) = crossbeam_channel::unbounded(); // bounded by the rings' sessions
        for ring in &self.0 {
            ring.command(Command::HandOverSessions { to: to.clone(), stay: Arc::default() });
        }
        drop(to);
        let end = Instant::now() + ANSWER_PATIENCE;
        std::iter::from_fn(|| from.recv_deadline(end).ok()).collect()
    }

    fn seen(&self, filter: &SessionFilter, wish: Wish) -> SessionsSeen {
        let mut all = SessionsSeen::default();
        for found in self.ask(filter, wish) {
            all.more += found.count - found.seen.len();
            all.sessions.extend(found.seen);
        }
        all
    }

    fn ask(&self, filter: &SessionFilter, wish: Wish) -> Vec<Found> {
        let (to, from) = crossbeam_channel::bounded(self.0.len().max(1));
        let filter = Arc::new(filter.clone());
        for ring in &self.0 {
            ring.command(Command::Ask(Question { filter: filter.clone(), wish, to: to.clone() }));
        }
        drop(to);
        let end = Instant::now() + ANSWER_PATIENCE;
        std::iter::from_fn(|| from.recv_deadline(end).ok()).collect()
    }
}

impl SessionsSeen {
    /// Brings what several engines or rings have answered in order, and within the limit.
    fn cut<K: Ord>(&mut self, limit: usize, key: impl Fn(&SessionSeen) -> K) {
        self.sessions.sort_by_key(key);
        let limit = limit.min(FOUND_MAX);
        self.more += self.sessions.len().saturating_sub(limit);
        self.sessions.truncate(limit);
    }
}

//! A pool without workers: the ring that has accepted a connection serves it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Accepted, Losses, PoolRecord};
use crate::stats::{Latency, Repeats};

/// A handler on a ring that takes so long holds up everybody else there; a debug build warns of it.
const LONG: Duration = Duration::from_millis(100);
/// A pool warns once in this time.
const WARN_PERIOD: Duration = Duration::from_secs(10);

/// What serves a connection without ever blocking.
pub(crate) type Hands = Arc<dyn Fn(Accepted) + Send + Sync>;

/// One ring's way to serve the connections of a pool itself; every ring has a clone of its own.
pub struct Here {
    hands: Hands,
    record: Arc<PoolRecord>,
    losses: Arc<Losses>,
    wait: Arc<Latency>,
    warnings: Arc<Repeats<()>>,
}

impl Here {
    pub(super) fn new(hands: Hands, record: Arc<PoolRecord>) -> Here {
        Here::beside(hands, record, Arc::new(Repeats::new(WARN_PERIOD)))
    }

    fn beside(hands: Hands, record: Arc<PoolRecord>, warnings: Arc<Repeats<()>>) -> Here {
        let (wait, losses) = (record.new_wait(), record.losses_of_pool());
        Here { hands, record, losses, wait, warnings }
    }

    /// Serves a connection in a turn that began at `now`. A panic costs this connection only.
    pub fn serve(&self, connection: Accepted, now: Instant) {
        self.wait.record(now.saturating_duration_since(connection.accepted_at()));
        let begun = cfg!(debug_assertions).then(Instant::now);
        self.losses.contain(connection.client(), || (self.hands)(connection));
        if let Some(begun) = begun {
            self.judge(begun.elapsed());
        }
    }

    /// Whether a handler that took so long is worth a warning.
    fn judge(&self, took: Duration) -> bool {
        let warn = took >= LONG && self.warnings.note((), Instant::now()).is_first();
        if warn {
            tracing::warn!(
                service = self.record.name(),
                "a handler took {} ms on its ring, which served nobody else meanwhile: what may wait belongs into a pool \
                 of threads or tasks",
                took.as_millis()
            );
        }
        warn
    }
}

impl Clone for Here {
    fn clone(&self) -> Here {
        Here::beside(self.hands.clone(), self.record.clone(), self.warnings.clone())
    }
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Here").field("name", &self.record.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::mute;

    fn here(hands: impl Fn(Accepted) + Send + Sync + 'static) -> Here {
        Here::new(Arc::new(hands), Arc::new(PoolRecord::new("imap")))
    }

    #[test]
    fn a_panic_is_counted_and_the_next_is_served() {
        let one = here(|connection| assert!(connection.residual().is_empty(), "as told"));
        let other = one.clone();
        one.serve(mute(), Instant::now());
        other.serve(crate::dispatch::testing::proxied(b"a").1, Instant::now());
        other.serve(mute(), Instant::now());
        let mut waits = crate::stats::empty_histogram();
        one.record.add_waits_to(&mut waits);
        assert_eq!((one.record.losses(), waits.len()), (1, 3));
    }

    #[test]
    fn a_ring_s_way_goes_on_counting_where_one_that_is_gone_has_stopped() {
        let first = here(drop);
        let record = first.record.clone();
        first.serve(mute(), Instant::now());
        for _ in 0..100 {
            // As in a reload: the next is there before the one before has gone.
            let next = first.clone();
            next.serve(mute(), Instant::now());
        }
        drop(first);
        let mut waits = crate::stats::empty_histogram();
        record.add_waits_to(&mut waits);
        assert_eq!((waits.len(), record.times_kept()), (101, 2));
    }

    #[test]
    fn who_takes_long_is_warned_of_once_in_a_while() {
        let one = here(drop);
        assert!(!one.judge(LONG / 2));
        assert!(one.judge(LONG));
        assert!(!one.clone().judge(LONG), "all rings of a pool warn together");
    }
}

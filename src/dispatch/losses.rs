//! What a pool loses by a fault of its own: a handler's panic costs its connection, nothing else.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::stats::{PassedOver, Repeats};

/// A pool logs one loss in this time; the next one tells how many came between.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Counts and logs the connections that one pool has lost.
#[derive(Debug)]
pub struct Losses {
    pool: String,
    count: AtomicU64,
    lines: Repeats<()>,
}

impl Losses {
    pub(super) fn new(pool: &str) -> Losses {
        Losses { pool: pool.into(), count: AtomicU64::new(0), lines: Repeats::new(LOG_PERIOD) }
    }

    /// Runs `work`, which serves `client` and owns its connection, and keeps a panic from going further.
    pub fn contain<T>(&self, client: SocketAddr, work: impl FnOnce() -> T) -> Option<T> {
        // The connection does not survive. A handler is shared by threads, so what it leaves half done stands under a
        // lock of its own, which is poisoned.
        catch_unwind(AssertUnwindSafe(work)).map_err(|payload| self.record(client, &Panic(&*payload))).ok()
    }

    /// [`Losses::contain`] for a future.
    pub async fn contain_future<T>(&self, client: SocketAddr, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|context| match self.contain(client, || work.as_mut().poll(context)) {
            Some(poll) => poll.map(Some),
            None => Poll::Ready(None),
        })
        .await
    }

    /// Counts a connection that was lost, and logs the cause if the last line is old enough.
    pub fn record(&self, client: SocketAddr, cause: &dyn fmt::Display) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let noted = self.lines.note((), Instant::now());
        self.tell(&noted.ended);
        if noted.is_first() {
            tracing::error!(service = self.pool, "Connection lost (rip={}): {cause}", client.ip());
        }
    }

    fn tell(&self, ended: &[PassedOver<()>]) {
        for PassedOver { count, .. } in ended {
            tracing::error!(service = self.pool, "{count} more connections lost since the last line");
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Losses {
    fn drop(&mut self) {
        self.tell(&self.lines.end_all());
    }
}

/// What was said at `panic!`.
struct Panic<'a>(&'a (dyn Any + Send));

impl fmt::Display for Panic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.downcast_ref::<&str>().copied();
        let text = text.or_else(|| self.0.downcast_ref().map(String::as_str));
        write!(f, "worker panicked: {}", text.unwrap_or("no message"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Keeps the fields of events.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<(&'static str, String)>>>);

    impl Subscriber for Heard {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    impl Visit for Heard {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.lock().expect("nobody panics here").push((field.name(), format!("{value:?}")));
        }
        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.lock().expect("nobody panics here").push((field.name(), value.into()));
        }
    }

    #[test]
    fn the_log_names_the_service_in_its_own_field() {
        let heard = Heard::default();
        let losses = Losses::new("imap-login");
        let lose = || losses.record(SocketAddr::from(([192, 0, 2, 1], 4000)), &"as told");
        tracing::subscriber::with_default(heard.clone(), lose);
        let heard = heard.0.lock().expect("nobody panics here");
        assert!(heard.contains(&("service", "imap-login".into())), "{heard:?}");
        assert!(heard.contains(&("message", "Connection lost (rip=192.0.2.1): as told".into())), "{heard:?}");
    }

    #[test]
    fn a_panic_is_contained_and_named() {
        let losses = Losses::new("imap");
        let client = SocketAddr::from(([192, 0, 2, 1], 4000));
        assert_eq!(losses.contain(client, || 7), Some(7));
        assert_eq!(losses.contain(client, || panic!("as told")), None::<()>);
        assert_eq!(losses.count(), 1);
        for (payload, text) in [
            (Box::new("a") as Box<dyn Any + Send>, "worker panicked: a"),
            (Box::new(String::from("b")), "worker panicked: b"),
            (Box::new(5), "worker panicked: no message"),
        ] {
            assert_eq!(Panic(&*payload).to_string(), text);
        }
    }
}

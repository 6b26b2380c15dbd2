//! A panic in a handler costs its connection, nothing else.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::stats::Repeats;

/// A pool logs one panic in this time; the next line says how many came between.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Counts and logs the panics of one pool's handlers.
#[derive(Debug)]
pub struct Panics {
    pool: String,
    count: AtomicU64,
    lines: Repeats<()>,
}

impl Panics {
    pub(super) fn new(pool: &str) -> Panics {
        Panics { pool: pool.into(), count: AtomicU64::new(0), lines: Repeats::new(LOG_PERIOD) }
    }

    /// Runs `work`, which serves `client`, and keeps a panic from going further. What `work` owns is dropped either
    /// way: the connection must be among it.
    pub fn contain<T>(&self, client: SocketAddr, work: impl FnOnce() -> T) -> Option<T> {
        // The connection does not survive; of a handler it is asked that it be shared by threads, so what it leaves
        // half done under a lock is poisoned and its own affair.
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => Some(done),
            Err(payload) => {
                self.record(client, &*payload);
                None
            }
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn record(&self, client: SocketAddr, payload: &(dyn Any + Send)) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(passed_over) = self.lines.admit((), Instant::now()) {
            let (pool, rip, message) = (&self.pool, client.ip(), Message(payload));
            tracing::error!("{pool}: Worker panicked, connection closed (rip={rip}): {message}{passed_over}");
        }
    }
}

/// What was said at `panic!`.
struct Message<'a>(&'a (dyn Any + Send));

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.downcast_ref::<&str>().copied();
        f.write_str(text.or_else(|| self.0.downcast_ref().map(String::as_str)).unwrap_or("no message"))
    }
}

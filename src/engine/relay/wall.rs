//! What time it is by the calendar, of which sessions' ids are made.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it was by the calendar at some moment, asked again now and then: clocks are set.
#[derive(Clone, Copy, Debug)]
pub struct Wall {
    pub at: Instant,
    unix: Duration,
}

impl Wall {
    /// How old a reading may be.
    pub const ASK_EVERY: Duration = Duration::from_secs(10);

    /// Asks the clock.
    pub fn ask(at: Instant) -> Wall {
        Wall { at, unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    /// Microseconds since 1970 at a moment.
    pub fn micros(self, then: Instant) -> u64 {
        let since = then.saturating_duration_since(self.at);
        (self.unix + since).as_micros() as u64 - self.at.saturating_duration_since(then).as_micros() as u64
    }
}

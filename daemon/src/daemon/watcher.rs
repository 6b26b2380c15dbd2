//! A look at the tier that does not wait for it: while it is busy with a takeover or a reload, what was seen of it last is
//! good enough.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::lock;
use super::tier::{Glance, Tier};

/// How long the tier may be busy until what was seen of it last is good enough.
const GLANCE_PATIENCE: Duration = Duration::from_millis(200);
/// Rest between two looks whether the tier is free.
const LOOK_REST: Duration = Duration::from_millis(5);

/// Who looks at a tier, for the control socket and for HTTP.
pub struct Watcher {
    tier: Arc<Mutex<Tier>>,
    last: Mutex<Glance>,
}

impl Watcher {
    /// Of a tier that nobody holds.
    pub fn new(tier: Arc<Mutex<Tier>>) -> Arc<Watcher> {
        let last = Mutex::new(lock(&tier).glance());
        Arc::new(Watcher { tier, last })
    }

    /// The engines as they are now, or, while the tier is busy, as they were.
    pub fn glance(&self) -> Glance {
        match self.tier_within(GLANCE_PATIENCE) {
            Some(tier) => {
                let glance = tier.glance();
                drop(tier);
                *lock(&self.last) = glance.clone();
                glance
            }
            None => lock(&self.last).clone(),
        }
    }

    /// The tier, once it is free, if that is soon enough.
    pub fn tier_within(&self, patience: Duration) -> Option<MutexGuard<'_, Tier>> {
        let end = Instant::now() + patience;
        loop {
            match self.tier.try_lock() {
                Ok(tier) => return Some(tier),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(LOOK_REST),
            }
        }
    }
}

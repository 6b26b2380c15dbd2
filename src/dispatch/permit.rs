//! A connection that counts against a limit, until it ends.

use std::fmt;
use std::sync::Arc;

/// Who counts.
pub trait Release: Send + Sync {
    /// The connection that got `token` has ended. Called once, from any thread; must not block.
    fn release(&self, token: u64);
}

/// A counted connection; it counts until this is dropped, by whomever and for whatever reason.
pub struct Permit {
    owner: Arc<dyn Release>,
    token: u64,
}

impl Permit {
    /// `token` is what `owner` knows the connection by.
    pub(crate) fn new(owner: Arc<dyn Release>, token: u64) -> Permit {
        Permit { owner, token }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.owner.release(self.token);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.token).finish()
    }
}

//! Which configuration is in force, since when, and what has failed last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// It, at one moment.
#[derive(Clone)]
pub struct InForce {
    /// Where it was read from; `None`: it is the built-in one.
    pub file: Option<PathBuf>,
    /// Since when.
    pub since: Instant,
    /// Reloads that have put one in force.
    pub reloads: u64,
    /// The last reload, if that one has failed.
    pub failed: Option<Failed>,
}

/// A reload that has failed.
#[derive(Clone)]
pub struct Failed {
    /// When.
    pub at: Instant,
    /// Why.
    pub errors: Arc<[String]>,
}

impl InForce {
    /// What a process begins with.
    pub fn now(file: Option<PathBuf>) -> InForce {
        InForce { file, since: Instant::now(), reloads: 0, failed: None }
    }

    /// Another one was to be in force.
    pub fn reloaded(&mut self, done: Result<(), &[String]>) {
        let now = Instant::now();
        match done {
            Ok(()) => (self.since, self.reloads, self.failed) = (now, self.reloads + 1, None),
            Err(errors) => self.failed = Some(Failed { at: now, errors: errors.into() }),
        }
    }
}

//! What the process that this one has taken over from, and those before it, have counted: told at the hand-over, and
//! again until that one has left. Each account takes the place of the one before, so that nothing is counted twice; of
//! a process that is killed what it had counted after its last account is lost.

use std::sync::{Arc, Mutex};

use super::lock;
use crate::engine::Snapshot;

/// What the processes before this one have counted, for all who show counts. Clones are the same.
///
/// ```
/// use vestibule::takeover::Legacy;
///
/// # fn f(engine: &vestibule::Engine) {
/// let legacy = Legacy::default(); // Claim::take_over and Predecessor::await_its_end fill it
/// let mut counted = engine.snapshot();
/// legacy.add_to(&mut counted);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Legacy(Arc<Mutex<Option<Snapshot>>>);

impl Legacy {
    /// The process before has counted this so far, says its [account](super::Taken::account). One that is not
    /// understood is passed over, with a line in the log.
    pub fn replace(&self, account: &str) {
        match Snapshot::from_text(account) {
            Ok(snapshot) => *lock(&self.0) = Some(snapshot),
            Err(error) => tracing::warn!("what the process before has counted is not understood: {error}"),
        }
    }

    /// It has left: whatever it had not finished is over.
    pub fn settle(&self) {
        lock(&self.0).iter_mut().for_each(Snapshot::settle);
    }

    /// Adds it to what was counted here.
    pub fn add_to(&self, here: &mut Snapshot) {
        lock(&self.0).iter().for_each(|before| here.inherit(before));
    }
}

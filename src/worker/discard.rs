//! The worker `discard`: closes without an answer, to measure what accepting alone costs.

use super::Handler;
use crate::dispatch::Accepted;

/// Closes every connection at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Handler for Discard {
    fn handle(&self, connection: Accepted) {
        drop(connection);
    }
}

//! Debian 13's mail servers, or a visible skip.

use std::path::Path;

pub use vestibule_peers::debian13::command_in;

/// The folder that holds them, which is fetched if this is the first to ask; `None`: the test counts as skipped.
pub fn debian13() -> Option<&'static Path> {
    vestibule_peers::debian13::folder()
        .map_err(|reason| super::record_skip(&format!("Debian 13's packages: {reason}")))
        .ok()
}

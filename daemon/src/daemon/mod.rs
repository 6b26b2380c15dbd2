//! What a running daemon consists of beyond its engine: how it starts and ends (`run`), the engines that follow one another
//! (`tier`), what they are made from (`configuration`, `plan`, `relays`), what
//! operators are told of a takeover (`takeover`, `successor`),
//! where operators ask (`control`, `http`), and what the system is asked for (`capacity`, `privileges`, `systemd`, `inherited`,
//! `init`, `log`). What all commands print goes by `print`.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod capacity;
pub mod configuration;
pub mod control;
mod events;
mod figures;
mod http;
mod in_force;
mod inherited;
mod init;
mod log;
mod mailbox;
pub mod plan;
pub mod print;
pub mod privileges;
mod ready;
pub mod relays;
mod run;
mod sessions;
mod successor;
mod systemd;
pub mod takeover;
mod tier;
mod watcher;

pub use run::run;

/// Anything that ends a subcommand with exit code 1 and one line that names cause and remedy.
pub type Error = Box<dyn std::error::Error>;

/// Exit code for a wrong configuration (`EX_CONFIG` of sysexits(3)).
pub const EXIT_CONFIG: u8 = 78;

/// A lock over state that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

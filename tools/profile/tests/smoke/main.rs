//! The measuring programs on this host, with whatever peers are installed: short, and only whether they work.

mod compare;
mod programs;
mod relay;
#[path = "../../../../tests/support/skip.rs"]
mod skip;
mod versus;

//! The library's `worker::quota` on loom.

pub mod models;
#[path = "../../../../src/worker/quota.rs"]
mod quota;

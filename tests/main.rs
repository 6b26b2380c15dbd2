//! The integration tests: one binary, one module a subject. `./tests/run` installs what they need and runs them.

mod codec_cli;
mod config;
mod doctor;
mod header;
mod layers;
mod limits;
mod peers;
#[allow(dead_code)]
mod support;

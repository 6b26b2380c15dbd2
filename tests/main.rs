//! The integration tests: one binary, one module a subject. `./tests/run` installs what they need and runs them.

mod codec_cli;
mod config;
mod doctor;
mod faults;
mod handover;
mod header;
mod interop;
mod layers;
mod lifecycle;
mod limits;
mod log_target;
mod log_words;
mod no_io_uring;
mod operations;
mod peers;
mod pools;
mod receivers;
mod refusals;
mod security;
mod serving;
mod splits;
mod support;
mod takeover;
mod tls;
mod wrong_configuration;

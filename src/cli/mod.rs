//! The command line: one file a subcommand, each with its `Args` and a `run`. What a running daemon consists of beyond its
//! engine is in `tier`, `plan`, `takeover`, `systemd`, `privileges` and `log`.

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::{Parser, Subcommand};

mod capacity;
mod check;
mod config;
mod configuration;
mod control;
mod ctl;
mod decode;
mod doctor;
mod encode;
mod explain;
mod hex;
mod http;
mod init;
mod log;
mod plan;
mod privileges;
mod relays;
mod serve;
mod sessions;
mod systemd;
mod takeover;
mod tier;
mod watcher;

/// Anything that ends a subcommand with exit code 1 and one line that names cause and remedy.
pub type Error = Box<dyn std::error::Error>;

/// Exit code for a wrong configuration (`EX_CONFIG` of sysexits(3)).
pub const EXIT_CONFIG: u8 = 78;

/// A lock over state that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Parser)]
#[command(
    name = "vestibule",
    version = vestibule::VERSION,
    about = "The front of a mail cluster: PROXY protocol connections, accepted, verified and carried on to mail servers, on \
             io_uring."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Config(config::Args),
    Ctl(ctl::Args),
    Doctor(doctor::Args),
    Decode(decode::Args),
    Encode(encode::Args),
}

/// Reads the command line and runs the subcommand; without one, `serve` with the built-in configuration.
pub fn run() -> Result<ExitCode, Error> {
    match Arguments::parse().command.unwrap_or(Command::Serve(serve::Args::default())) {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Config(args) => config::run(args),
        Command::Ctl(args) => ctl::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Encode(args) => encode::run(args),
    }
}

//! The command line: one file a subcommand, each with its `Args` and a `run`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::daemon::Error;

mod check;
mod config;
mod ctl;
mod decode;
mod doctor;
mod encode;
mod explain;
#[cfg(test)]
mod generated;
mod serve;

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

//! `vestibule-profile`: how fast Vestibule is on this machine, beside what else could stand in its place, and where its
//! time goes.
#![forbid(unsafe_code)]

mod bench;
mod compare;
mod duties;
mod flame;
mod handshake;
mod load;
mod machine;
mod measure;
mod pending;
mod proc;
mod receiver;
mod relay;
mod reload;
mod report;
mod rounds;
mod scale;
mod scrape;
mod serve;
mod server;
mod stages;
mod stats;
mod storm;
mod syscalls;
mod systems;
mod versus;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  Vestibule beside HAProxy, nginx, Dovecot, tokio and the floor; about 3 minutes:
    vestibule-profile compare

  Does it work here? About 20 seconds, figures of no worth:
    vestibule-profile compare --quick

  Where does the time go, and how often is the kernel asked?
    vestibule-profile flame --job discard
    vestibule-profile stages
    vestibule-profile syscalls --systems vestibule,nginx

  What does a relayed session cost beside HAProxy, nginx, tokio and the floor? About 10 minutes:
    vestibule-profile relay

  What do 100,000 connections cost that say nothing?
    vestibule-profile pending

  Does a connection cost the same beside 50,000 others?
    vestibule-profile scale

Every subcommand writes PREFIX.html (one file, readable offline) and PREFIX.json (its data).
Build all three programs before: cargo build --release --workspace";

/// Measures Vestibule on this machine: compares it with its peers and shows where its time goes.
#[derive(Debug, Parser)]
#[command(name = "vestibule-profile", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Server CPU a connection, latency and memory beside HAProxy, nginx, Dovecot, a tokio server and the floor
    Compare(compare::Args),
    /// Where a server's CPU time goes, kernel and user, as a flame graph
    Flame(flame::Args),
    /// CPU time of a full TLS handshake beside HAProxy
    Handshake(handshake::Args),
    /// Memory and CPU of connections that send no header, and how exactly their deadline is kept
    Pending(pending::Args),
    /// A relayed session beside HAProxy, nginx, a tokio relay and the floor: CPU, memory, latency
    Relay(relay::Args),
    /// CPU time of a reload of one trusted network, beside another build of the daemon
    Reload(reload::Args),
    /// Whether a connection costs the same with many established ones, many trusted networks, many listeners
    Scale(scale::Args),
    /// CPU time of a scrape of the metrics beside HAProxy's exporter
    Scrape(scrape::Args),
    /// How long a connection takes inside Vestibule, from the engine's own histograms
    Stages(stages::Args),
    /// System calls and io_uring operations a connection, counted
    Syscalls(syscalls::Args),
    /// The mail server behind the relays that `relay` measures; until it is ended
    #[command(hide = true)]
    RelayBackend(relay::backend::Args),
    /// The clients of the relays that `relay` measures; does what its standard input says
    #[command(hide = true)]
    RelayClient(relay::client::Args),
    /// The engine that `scale` measures; until it is ended
    #[command(hide = true)]
    ServeEngine(scale::ServeArgs),
    /// The floor that `compare` measures: multishot accept, read, close; until it is ended
    ServeFloor(serve::Args),
    /// The floor that `relay` measures: multishot poll, receive, send; until it is ended
    #[command(hide = true)]
    ServeRelayFloor(relay::floor::Args),
    /// The tokio relay that `relay` measures; until it is ended
    #[command(hide = true)]
    ServeRelayTokio(relay::floor::Args),
    /// The process that takes what a floor hands off, by its standard input; until that ends
    #[command(hide = true)]
    ServeTaker(receiver::TakerArgs),
    /// A daemon, and the process that takes what it hands off; until it is ended
    #[command(hide = true)]
    ServeReceiver(receiver::Args),
    /// The tokio server that `compare` measures; until it is ended
    ServeTokio(serve::Args),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vestibule-profile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Compare(args) => compare::run(&args),
        Command::Flame(args) => flame::run(&args),
        Command::Handshake(args) => handshake::run(&args),
        Command::Pending(args) => pending::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::RelayBackend(args) => relay::backend::serve(&args),
        Command::RelayClient(args) => relay::client::serve(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Scrape(args) => scrape::run(&args),
        Command::Stages(args) => stages::run(&args),
        Command::Syscalls(args) => syscalls::run(&args),
        Command::ServeEngine(args) => scale::serve(&args),
        Command::ServeFloor(args) => serve::floor(&args),
        Command::ServeRelayFloor(args) => relay::floor::serve(&args),
        Command::ServeTaker(args) => receiver::take(&args),
        Command::ServeReceiver(args) => receiver::serve(&args),
        Command::ServeRelayTokio(args) => relay::tokio::serve(&args),
        Command::ServeTokio(args) => serve::tokio(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_fits_the_terminal() {
        const COLUMNS: usize = 96; // from 100 on lines are broken once more
        let command = Arguments::command();
        for one in command.get_subcommands().chain([&command]) {
            let help = one.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                assert!(line.len() <= COLUMNS, "{}: {} columns: {line}", one.get_name(), line.len());
            }
        }
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().filter(|line| line.starts_with("    vestibule-profile")) {
            Arguments::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}

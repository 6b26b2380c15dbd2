//! `vestibule-load`: a client swarm on io_uring that opens connections the way balancers do, and the way they should
//! not, and checks every answer.
//!
//! Data goes one way: [`cli`] (what was typed) becomes a [`plan`] (what it means); one [`swarm`] a thread asks its
//! [`schedule`] when to start a connection, lets [`conn`] decide each step, and adds the outcome to its [`tally`];
//! the merged tally becomes a [`report`], whose form is this package's library, and which [`output`] prints.
#![forbid(unsafe_code)]

mod behaviour;
mod cli;
mod conn;
mod garbage;
mod header;
mod limits;
mod mix;
mod output;
mod plan;
mod report;
mod run;
mod schedule;
mod sources;
mod swarm;
mod table;
mod tally;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// The run could not start or could not go on (also clap's own code for a wrong command line).
const EXIT_NO_RUN: u8 = 2;

fn main() -> ExitCode {
    match run::run(cli::Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vestibule-load: {error}");
            ExitCode::from(EXIT_NO_RUN)
        }
    }
}

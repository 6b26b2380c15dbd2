//! `vestibule check`.

use std::process::ExitCode;

use super::Error;

/// (help text)
#[derive(clap::Args, Default)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<ExitCode, Error> {
    Err("not built yet".into())
}

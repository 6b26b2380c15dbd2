//! `vestibule config`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use vestibule::config;

use crate::daemon::{Error, configuration};

/// Show what was understood of a configuration, in Dovecot's form.
///
/// Listeners are shown complete: what they inherit from their service stands in them. Comments at the end name the
/// listeners that Dovecot would have without a line of configuration and that are not bound here, and every setting and
/// section that has no effect, with file and line.
#[derive(clap::Args, Default)]
#[command(after_help = "\
Exit code: 0, or 78 if the configuration is wrong.

Examples:
  vestibule config -c /etc/vestibule.conf         what differs from the defaults
  vestibule config -a                             every setting of the built-in configuration
  vestibule config -c FILE | grep '^# ignored'    what of Dovecot's file is not used")]
pub struct Args {
    /// The configuration file, in Dovecot's syntax; - is standard input [default: the built-in configuration]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Show settings that have their default value, too
    #[arg(short, long)]
    all: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let loaded = match configuration::read(args.file.as_deref()) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(configuration::refuse(&problems)),
    };
    configuration::print_warnings(&loaded.warnings);
    std::io::stdout().write_all(config::dump(&loaded, args.all).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

//! `vestibule ctl`: questions to a running daemon.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use vestibule::engine::Snapshot;

use super::takeover::{self, Form};
use super::{Error, configuration};

/// Ask a running daemon.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Stats(Stats),
}

/// Show what a running daemon has counted since its start: the table that it prints at its end.
///
/// The daemon is asked at its takeover_socket, which its configuration must name; root and the user that it runs as may
/// ask. It goes on accepting meanwhile. Rows of zero are left out of the table, but not of the JSON. What each counter
/// means: docs/operations.md.
#[derive(clap::Args)]
#[command(after_help = "\
Exit code: 0, or 1 if no daemon answers, or 78 if the configuration is wrong.

Examples:
  vestibule ctl stats -c /etc/vestibule.conf
  vestibule ctl stats --socket /run/vestibule/takeover.sock
  watch vestibule ctl stats -c /etc/vestibule.conf
  vestibule ctl stats -c /etc/vestibule.conf --json | jq .counters.proxied")]
struct Stats {
    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Which daemon.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The configuration file of the daemon, which has the path as its takeover_socket
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The path itself
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let Command::Stats(Stats { daemon: Whom { config, socket }, json }) = args.command;
    let socket = match socket {
        Some(path) => path,
        None => {
            let loaded = match configuration::read(config.as_deref()) {
                Ok(loaded) => loaded,
                Err(problems) => return Ok(configuration::refuse(&problems)),
            };
            let file = config.unwrap_or_default();
            let remedy = "add `takeover_socket = /run/vestibule/takeover.sock` and restart the daemon";
            let missing = || format!("{}: takeover_socket is not set; {remedy}", file.display());
            loaded.settings.takeover_socket.ok_or_else(missing)?
        }
    };
    let form = if json { Form::Json } else { Form::Table };
    let text = takeover::ask(&socket, form).map_err(|problem| format!("{}: {problem}", socket.display()))?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// All counters and latencies, in one line.
pub fn json(snapshot: &Snapshot) -> String {
    let microseconds: Map<String, Value> = snapshot
        .latencies()
        .into_iter()
        .map(|(name, histogram)| {
            let quantiles = Snapshot::QUANTILES.map(|(name, quantile)| (name, histogram.value_at_quantile(quantile)));
            (name.replace(' ', "-"), object(quantiles.into_iter().chain([("count", histogram.len())])))
        })
        .collect();
    let counters = object(snapshot.counters().iter().copied());
    let (endings, more) = snapshot.main_endings();
    let ended: Vec<Value> = endings
        .iter()
        .map(
            |one| json!({ "service": one.service, "listener": one.listener, "reason": one.reason, "count": one.count }),
        )
        .collect();
    let all = json!({ "counters": counters, "ended": ended, "ended-not-shown": more, "microseconds": microseconds });
    format!("{all}\n")
}

fn object(numbers: impl Iterator<Item = (&'static str, u64)>) -> Value {
    numbers.map(|(name, number)| (name.to_owned(), number.into())).collect::<Map<_, _>>().into()
}

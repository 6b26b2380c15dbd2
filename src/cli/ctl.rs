//! `vestibule ctl`: questions to a running daemon, and what it is told to do.

mod tables;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::daemon::control::{self, Form, NotAsked, Request};
use crate::daemon::{Error, configuration, takeover};

/// Ask a running daemon, or tell it what to do.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Stats(Stats),
    Backends(Backends),
    Server(Server),
    Who(Who),
    Session(Session),
    Refused(Refused),
    Kick(Kick),
    Trust(Trust),
    Ban(Ban),
    Unban(Unban),
    Bans(Bans),
    Reload(Reload),
    Drain(Drain),
    Resume(Resume),
    Rebalance(Rebalance),
    Shutdown(Shutdown),
}

/// Show what a running daemon has counted since its start: the table that it prints at its end.
///
/// The daemon is asked at its control_socket, or at its takeover_socket if it has no other; root and the user that it
/// runs as may ask. It goes on accepting meanwhile. Rows of zero are left out of the table, but not of the JSON. What each
/// counter means: docs/operations.md.
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

/// Show the backends and their servers.
#[derive(clap::Args)]
struct Backends {
    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Change a server until the next reload: what it is to do, or its weight.
///
/// ready: sessions may come. drain: sessions stay, and only clients that stick to it come. maint: nobody comes, and
/// those who are there are let go, spread over login_proxy_max_disconnect_delay.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl server imap/mail1 maint -c /etc/vestibule.conf
  vestibule ctl server imap/mail1 weight 50 -c /etc/vestibule.conf")]
struct Server {
    /// Which one
    #[arg(value_name = "BACKEND/SERVER")]
    server: String,

    /// What it is to be: ready, drain, maint, or weight and a number from 0 to 256
    #[arg(value_name = "ready|drain|maint|weight N", num_args = 1..=2, required = true)]
    change: Vec<String>,

    #[command(flatten)]
    daemon: Whom,
}

/// Show who was refused of late, why, and what they had sent, the last first.
///
/// Connections that were refused alike (listener, source, reason and what their bytes look like) stand in one line, with
/// their number; the daemon remembers 256 such lines. Bytes that are not printable ASCII stand as \\xNN.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl refused -c /etc/vestibule.conf
  vestibule ctl refused -c /etc/vestibule.conf --json | jq '.refusals[] | select(.reason == \"untrusted\") | .source'")]
struct Refused {
    /// Most that are shown
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,

    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Show the sessions that there are, the oldest first.
#[derive(clap::Args)]
struct Who {
    /// Only those of this client: an address or a network
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    client: Option<String>,

    /// Only those of this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Only those at servers of this name
    #[arg(long, value_name = "NAME")]
    server: Option<String>,

    /// Most that are shown, up to 10000
    #[arg(long, value_name = "NUMBER", default_value_t = control::WHO_DEFAULT)]
    limit: usize,

    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Find a session by its id: as this daemon logs it, or as Dovecot does.
///
/// Dovecot's id names the client's address, its port and the time. That finds the session here, live or among those
/// that have ended last.
#[derive(clap::Args)]
struct Session {
    /// What stands behind session= in the log
    id: String,

    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// End the sessions of a client, or one session.
#[derive(clap::Args)]
struct Kick {
    /// Whose: an address, a network, or a session's id
    #[arg(value_name = "CLIENT|SESSION")]
    whom: String,

    #[command(flatten)]
    daemon: Whom,
}

/// Read the configuration again, and tell how that went.
#[derive(clap::Args)]
#[command(after_help = "\
Exit code: 0 if the configuration is in force; 1 if not, and what was in force before still is.")]
struct Reload {
    #[command(flatten)]
    daemon: Whom,
}

/// End sessions of the fullest server of a backend, so that their clients come to the others.
///
/// Those go that it has beyond its share by weight, the longest silent first, so many a second. Servers that take no new
/// sessions, and backup servers, do not count. Once it is done servers are in balance if clients come back at once.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vestibule ctl rebalance imap --rate 20 -c /etc/vestibule.conf")]
struct Rebalance {
    /// Which backend
    #[arg(value_name = "BACKEND")]
    backend: String,

    /// Sessions that are ended in a second
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    rate: u32,

    #[command(flatten)]
    daemon: Whom,
}

/// Accept again after `drain` or SIGUSR1; sessions that were not let go yet go on.
#[derive(clap::Args)]
struct Resume {
    #[command(flatten)]
    daemon: Whom,
}

/// Stop accepting and finish what is there, as SIGUSR1 does; `resume` takes it back.
#[derive(clap::Args)]
struct Drain {
    #[command(flatten)]
    daemon: Whom,
}

/// Which daemon.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The configuration file of the daemon, which has the path as its control_socket
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The path itself
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Show which listeners let an address send PROXY headers, and by which network.
#[derive(clap::Args)]
struct Trust {
    /// The peer's address
    #[arg(value_name = "ADDRESS")]
    address: String,

    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Ban a client, as the headers name it, for a time or for good.
///
/// It holds at once on every ring, over reloads, and over a takeover by a process whose control_socket is the same. New
/// connections are refused (reason=client-banned); sessions that there are go on, unless they are ended by `ctl kick`. A
/// ban of the same network replaces the one before.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl ban 198.51.100.7 10m -c /etc/vestibule.conf
  vestibule ctl ban 2001:db8:7::/48 -c /etc/vestibule.conf
      for good: as long as daemons take over from one another")]
struct Ban {
    /// Whom
    #[arg(value_name = "ADDRESS[/BITS]")]
    network: String,

    /// For how long: a number and s, m, h or d; if not given, for good
    #[arg(value_name = "TIME", value_parser = seconds)]
    time: Option<u64>,

    #[command(flatten)]
    daemon: Whom,
}

/// Lift a ban.
#[derive(clap::Args)]
struct Unban {
    /// The network as it was banned
    #[arg(value_name = "ADDRESS[/BITS]")]
    network: String,

    #[command(flatten)]
    daemon: Whom,
}

/// Show the bans in force, the first to end first.
#[derive(clap::Args)]
struct Bans {
    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// End the daemon as SIGTERM does: drain, then leave.
#[derive(clap::Args)]
struct Shutdown {
    #[command(flatten)]
    daemon: Whom,
}

/// A time as people write it: `90`, `90s`, `10m`, `2h`, `7d`.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => return Err(format!("{other} is no unit: write s, m, h or d")),
    };
    let number: u64 = digits.parse().map_err(|_| "a time is a number and s, m, h or d, such as 10m".to_owned())?;
    match number.checked_mul(unit) {
        None | Some(0) => {
            Err("a ban lasts a second at least, and not for ever: leave the time out for that".to_owned())
        }
        Some(seconds) => Ok(seconds),
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let (request, daemon, json) = match args.command {
        Command::Stats(Stats { daemon, json }) => {
            (Request::Stats { form: if json { Form::Json } else { Form::Table } }, daemon, json)
        }
        Command::Backends(Backends { daemon, json }) => (Request::Backends {}, daemon, json),
        Command::Server(Server { server, change, daemon }) => (change_of(&server, &change)?, daemon, false),
        Command::Who(Who { client, backend, server, limit, daemon, json }) => {
            (Request::Who { client, backend, server, limit: Some(limit) }, daemon, json)
        }
        Command::Session(Session { id, daemon, json }) => (Request::Session { id }, daemon, json),
        Command::Refused(Refused { limit, daemon, json }) => (Request::Refused { limit }, daemon, json),
        Command::Kick(Kick { whom, daemon }) => (Request::Kick { whom }, daemon, false),
        Command::Trust(Trust { address, daemon, json }) => (Request::Trust { address }, daemon, json),
        Command::Ban(Ban { network, time, daemon }) => (Request::Ban { network, seconds: time }, daemon, false),
        Command::Unban(Unban { network, daemon }) => (Request::Unban { network }, daemon, false),
        Command::Bans(Bans { daemon, json }) => (Request::Bans {}, daemon, json),
        Command::Shutdown(Shutdown { daemon }) => (Request::Shutdown {}, daemon, false),
        Command::Reload(Reload { daemon }) => (Request::Reload {}, daemon, false),
        Command::Drain(Drain { daemon }) => (Request::Drain {}, daemon, false),
        Command::Resume(Resume { daemon }) => (Request::Resume {}, daemon, false),
        Command::Rebalance(Rebalance { backend, rate, daemon }) => {
            (Request::Rebalance { backend, rate }, daemon, false)
        }
    };
    let socket = match daemon.socket(&request)? {
        Ok(socket) => socket,
        Err(exit) => return Ok(exit),
    };
    let said = |problem: &dyn std::fmt::Display| format!("{}: {problem}", socket.display());
    let text = match control::ask(&socket, &request) {
        Ok(answer) => tables::show(&request, &answer, json),
        Err(NotAsked::NobodyThere(error)) => match request {
            // A daemon without control_socket, or of a version before, answers this one at its takeover_socket.
            Request::Stats { form } => {
                let form = if form == Form::Json { takeover::Form::Json } else { takeover::Form::Table };
                takeover::ask(&socket, form).map_err(|problem| said(&problem))?
            }
            _ => {
                return Err(said(&format!(
                    "{error}; nobody listens there: name the control_socket of a running daemon"
                ))
                .into());
            }
        },
        Err(NotAsked::Failed(problem)) => return Err(said(&problem).into()),
        Err(NotAsked::Refused(errors)) => return Err(errors.join("\n").into()),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl Whom {
    /// Where the daemon is asked; or how the program ends, if its configuration is wrong.
    fn socket(self, request: &Request) -> Result<Result<PathBuf, ExitCode>, Error> {
        if let Some(path) = self.socket {
            return Ok(Ok(path));
        }
        let settings = match configuration::read(self.config.as_deref()) {
            Ok(loaded) => loaded.settings,
            Err(problems) => return Ok(Err(configuration::refuse(&problems))),
        };
        let otherwise = if matches!(request, Request::Stats { .. }) { settings.takeover_socket } else { None };
        let file = self.config.unwrap_or_default();
        let remedy = "add `control_socket = /run/vestibule/control.sock` and restart the daemon";
        let missing = || format!("{}: control_socket is not set; {remedy}", file.display());
        Ok(Ok(settings.control_socket.or(otherwise).ok_or_else(missing)?))
    }
}

fn change_of(server: &str, change: &[String]) -> Result<Request, Error> {
    let (backend, server) = server.split_once('/').ok_or_else(|| format!("{server} is not BACKEND/SERVER"))?;
    let (backend, server) = (backend.to_owned(), server.to_owned());
    let words: Vec<&str> = change.iter().map(String::as_str).collect();
    match words[..] {
        ["weight", weight] => {
            let weight = weight.parse().map_err(|_| format!("a weight is a number from 0 to 256, not {weight}"))?;
            Ok(Request::Server { backend, server, state: None, weight: Some(weight) })
        }
        [state @ ("ready" | "drain" | "maint")] => {
            Ok(Request::Server { backend, server, state: Some(state.to_owned()), weight: None })
        }
        _ => Err(format!("a server can be ready, drain, maint or weight N, not {}", words.join(" ")).into()),
    }
}

//! `vestibule ctl`: questions to a running daemon, and what it is told to do.

mod tables;
mod top;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::control::{self, Form, NotAsked, Request};
use crate::daemon::takeover::not_asked;
use crate::daemon::{Error, configuration, print};

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
    Events(Events),
    Log(Log),
    Top(Top),
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
/// their number; the daemon remembers 256 such lines. Bytes that are not printable ASCII stand as \xNN. Of a client that speaks
/// TLS, here or with the balancer, stand there what is known of it: the version, the server name that it has asked for, and
/// whether it has shown a certificate. Why a TLS handshake has failed here stands below the table.
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
///
/// Where a client speaks TLS, its version stands there, the server name that it has asked for and whether it has shown a
/// certificate: of TLS that ends here as it was agreed, of TLS that ends at the balancer as its header says. What TLS passes
/// through to a server holds nobody knows here. After a takeover no more is known of a balancer's than that it is there,
/// and of the certificate.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl who --client 198.51.100.0/24 -c /etc/vestibule.conf
  vestibule ctl who --tls no --server mail1 -c /etc/vestibule.conf
  vestibule ctl who --json -c /etc/vestibule.conf | jq -r '.sessions[].tls.version' | sort | uniq -c")]
struct Who {
    #[command(flatten)]
    which: Which,

    /// Most that are shown, up to 10000
    #[arg(long, value_name = "NUMBER", default_value_t = control::WHO_DEFAULT)]
    limit: usize,

    #[command(flatten)]
    daemon: Whom,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Which sessions: those that all of these hold of.
#[derive(clap::Args)]
struct Which {
    /// Only those of this client: an address or a network
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    client: Option<String>,

    /// Only those of this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Only those at servers of this name
    #[arg(long, value_name = "NAME")]
    server: Option<String>,

    /// Only those whose client speaks TLS, wherever that ends; or only the others
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    tls: Option<bool>,

    /// Only those whose client has asked for this server name by TLS
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
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

/// End the sessions of a client, one session, or those that `ctl who` shows with the same filters.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl kick 198.51.100.7 -c /etc/vestibule.conf
  vestibule ctl kick --client 2001:db8::/32 --server mail1 -c /etc/vestibule.conf
  vestibule ctl kick --backend imap --tls no -c /etc/vestibule.conf")]
struct Kick {
    /// Whose: an address, a network, or a session's id
    #[arg(value_name = "CLIENT|SESSION", conflicts_with_all = ["client", "backend", "server", "tls", "sni"])]
    #[arg(required_unless_present_any = ["client", "backend", "server", "tls", "sni"])]
    whom: Option<String>,

    #[command(flatten)]
    which: Which,

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

/// Follow what happens, as `tail -f` does: refusals, servers, sessions ended by operators, bans, drains, reloads, takeovers.
///
/// These are lines of the daemon's log, by kind; of refusals that are alike one a minute. The daemon keeps the last 1024.
/// Who reads more slowly than they come loses the oldest and is told how many; 8 may follow at a time. When another process
/// takes over, the next one is followed.
#[derive(clap::Args)]
#[command(after_help = "\
Kinds: refusal, server, session, ban, drain, reload, takeover, ring; relay, for the lines of relayed sessions, which are kept \
only while somebody follows them; and log, for all other lines.

Examples:
  vestibule ctl events -c /etc/vestibule.conf
  vestibule ctl events --kind server --kind takeover --last 100 -c /etc/vestibule.conf
  vestibule ctl events --once --last 1024 --json -c /etc/vestibule.conf | jq -r 'select(.event == \"ban\") | .message'")]
struct Events {
    /// So many of the past first
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    last: usize,

    /// Only these kinds; all but relay and log if none is named
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,

    /// Only those of the past
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    daemon: Whom,

    /// Print a line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Follow the daemon's log, wherever that goes, as `tail -f` does.
///
/// These are its lines from now on, and those that are kept of the last 1024; those of relayed sessions are told only from now
/// on, and while somebody follows them they take the places of others sooner. It is `ctl events` with all kinds: who reads more
/// slowly than lines come loses the oldest and is told how many, and when another process takes over, the next one is followed.
/// Where the log goes stays as it is.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl log -c /etc/vestibule.conf
  vestibule ctl log --last 1024 --once -c /etc/vestibule.conf
  vestibule ctl log --json -c /etc/vestibule.conf | jq -r 'select(.level != \"info\") | .message'")]
struct Log {
    /// So many of the past first
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    last: usize,

    /// Only those of the past
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    daemon: Whom,

    /// Print a line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Show it live: rates, servers, what is wrong, and who is refused, drawn anew every second.
///
/// Needs a terminal; 80x24 is enough, a larger one shows more. Keys: q (or Ctrl-C) leaves, p stops and goes on. What has a
/// colour says the same in words; NO_COLOR leaves colours out.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vestibule ctl top -c /etc/vestibule.conf")]
struct Top {
    #[command(flatten)]
    daemon: Whom,
}

/// Accept again after `drain` or SIGUSR1, or at a listener that was drained; sessions that were not let go yet go on.
#[derive(clap::Args)]
struct Resume {
    /// Only at this listener
    #[arg(value_name = "LISTENER|SERVICE/LISTENER")]
    listener: Option<String>,

    #[command(flatten)]
    daemon: Whom,
}

/// Stop accepting and finish what is there, as SIGUSR1 does; `resume` takes it back.
///
/// With a listener: stop accepting there and nowhere else. Its address is closed, and its sessions go on. That holds over
/// reloads, until it is resumed or another process takes over.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl drain -c /etc/vestibule.conf
  vestibule ctl drain imap-login/imap_haproxy -c /etc/vestibule.conf")]
struct Drain {
    /// Only this listener
    #[arg(value_name = "LISTENER|SERVICE/LISTENER")]
    listener: Option<String>,

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

/// Show which networks may send PROXY headers and when each was used last, and who has come from outside; or what becomes
/// of one address.
///
/// Without an address: for each network of haproxy_trusted_networks how many connections it has brought and when the last one
/// came; a balancer that is gone shows there. Below them stand the last 256 peers that were turned away because no network
/// holds them, with what they had sent first where that is known; a balancer that is missing shows there.
///
/// With an address: which listeners let it send headers, and by which network. The last column is the file and the line
/// that sets haproxy_trusted_networks for the listener: where an address is to be entered, or taken out.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vestibule ctl trust -c /etc/vestibule.conf
  vestibule ctl trust -c /etc/vestibule.conf --json | jq -r '.listeners[].networks[] | select(.last == null) | .network'
      networks that nobody has come from
  vestibule ctl trust 192.0.2.10 -c /etc/vestibule.conf
  vestibule ctl trust explain 192.0.2.10 -c /etc/vestibule.conf
      the same")]
struct Trust {
    /// A peer's address
    #[arg(value_name = "[explain] ADDRESS", num_args = 1..=2)]
    address: Vec<String>,

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

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(format!("it is yes or no, not {other}")),
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
        Command::Who(Who { which: Which { client, backend, server, tls, sni }, limit, daemon, json }) => {
            (Request::Who { client, backend, server, tls, sni, limit: Some(limit) }, daemon, json)
        }
        Command::Session(Session { id, daemon, json }) => (Request::Session { id }, daemon, json),
        Command::Refused(Refused { limit, daemon, json }) => (Request::Refused { limit }, daemon, json),
        Command::Kick(Kick { whom, which: Which { client, backend, server, tls, sni }, daemon }) => {
            (Request::Kick { whom, client, backend, server, tls, sni }, daemon, false)
        }
        Command::Events(Events { last, kinds, once, daemon, json }) => {
            return follow(
                &Request::Events { last, kinds, once },
                daemon,
                if json { told_as_json } else { tables::event },
            );
        }
        Command::Log(Log { last, once, daemon, json }) => {
            let kinds = control::KINDS.map(str::to_owned).into();
            let form = if json { told_as_json } else { tables::log_line };
            return follow(&Request::Events { last, kinds, once }, daemon, form);
        }
        Command::Top(Top { daemon }) => {
            return match daemon.socket(&Request::Refused { limit: None })? {
                Ok(socket) => top::run(&socket),
                Err(exit) => Ok(exit),
            };
        }
        Command::Trust(Trust { address, daemon, json }) => {
            (Request::Trust { address: address_of(&address)?.map(str::to_owned) }, daemon, json)
        }
        Command::Ban(Ban { network, time, daemon }) => (Request::Ban { network, seconds: time }, daemon, false),
        Command::Unban(Unban { network, daemon }) => (Request::Unban { network }, daemon, false),
        Command::Bans(Bans { daemon, json }) => (Request::Bans {}, daemon, json),
        Command::Shutdown(Shutdown { daemon }) => (Request::Shutdown {}, daemon, false),
        Command::Reload(Reload { daemon }) => (Request::Reload {}, daemon, false),
        Command::Drain(Drain { listener, daemon }) => (Request::Drain { listener }, daemon, false),
        Command::Resume(Resume { listener, daemon }) => (Request::Resume { listener }, daemon, false),
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
            Request::Stats { form } => asked_where_others_take_over(&socket, form)?,
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

/// What a daemon answers that has no other socket.
fn asked_where_others_take_over(socket: &Path, form: Form) -> Result<String, String> {
    use vestibule::takeover::{self, Error};

    let form = if form == Form::Json { takeover::Form::Json } else { takeover::Form::Table };
    takeover::ask(socket, form).map_err(|error| {
        let words = match error {
            Error::Late | Error::Closed => "; another process may be taking over from it: try again",
            _ => "",
        };
        not_asked(socket, &error, "name the control_socket of a running daemon, or its takeover_socket") + words
    })
}

/// The address behind `trust`, or `trust explain`, if there is one.
fn address_of(words: &[String]) -> Result<Option<&str>, Error> {
    match words {
        [] => Ok(None),
        [explain] if explain == "explain" => Err("`trust explain` needs the address of a peer".into()),
        [address] => Ok(Some(address)),
        [explain, address] if explain == "explain" => Ok(Some(address)),
        _ => Err(format!("{} is no address", words.join(" ")).into()),
    }
}

/// How long nobody may listen until the next process does that takes over.
const NEXT_PATIENCE: Duration = Duration::from_secs(5);
/// Rest between two tries.
const NEXT_REST: Duration = Duration::from_millis(100);

/// Prints what happens, of one daemon and of those that take over from it, until nobody reads it any more or none is left.
fn follow(request: &Request, daemon: Whom, form: fn(&Value) -> String) -> Result<ExitCode, Error> {
    let socket = match daemon.socket(request)? {
        Ok(socket) => socket,
        Err(exit) => return Ok(exit),
    };
    let mut request = request.clone();
    let once = matches!(request, Request::Events { once: true, .. });
    let (mut heard_any, mut patience_ends) = (false, Instant::now());
    loop {
        let mut enough = false;
        let done = control::follow(&socket, &request, |told| {
            (heard_any, patience_ends) = (true, Instant::now() + NEXT_PATIENCE);
            enough = show(told, form, once).is_err();
            enough
        });
        match done {
            _ if enough => return Ok(ExitCode::SUCCESS),
            Ok(()) if once => return Ok(ExitCode::SUCCESS),
            // It is gone: perhaps another one has taken over, or is started.
            Ok(()) | Err(NotAsked::NobodyThere(_) | NotAsked::Failed(_)) if heard_any => {
                if Instant::now() >= patience_ends {
                    print::complain(format_args!("{}: nobody is left to follow", socket.display()));
                    return Ok(ExitCode::FAILURE);
                }
                std::thread::sleep(NEXT_REST);
                // All that the next process has to say is new.
                if let Request::Events { last, .. } = &mut request {
                    *last = 1024;
                }
            }
            Ok(()) => return Ok(ExitCode::FAILURE),
            Err(NotAsked::Refused(errors)) => return Err(errors.join("\n").into()),
            Err(NotAsked::NobodyThere(error)) => {
                let words = format!("{error}; nobody listens there: name the control_socket of a running daemon");
                return Err(format!("{}: {words}", socket.display()).into());
            }
            Err(NotAsked::Failed(problem)) => return Err(format!("{}: {problem}", socket.display()).into()),
        }
    }
}

/// Prints a line of those who are followed, and beside them whom and until when, unless it is said `once`; an error if nobody
/// reads it.
fn show(told: &Value, form: fn(&Value) -> String, once: bool) -> std::io::Result<()> {
    if let Some(lost) = told["lost"].as_u64() {
        print::complain(format_args!("{lost} events were lost: they came faster than they were read"));
    }
    if let (Some(why), false) = (told["end"].as_str(), once) {
        print::complain(format_args!("-- {why}"));
    }
    if let (Some(pid), false) = (told["pid"].as_u64(), once) {
        print::complain(format_args!("-- process {pid}"));
    }
    if told["event"].is_null() {
        return Ok(());
    }
    let mut out = std::io::stdout();
    out.write_all(form(told).as_bytes()).and_then(|()| out.flush())
}

fn told_as_json(told: &Value) -> String {
    format!("{told}\n")
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

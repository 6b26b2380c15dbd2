//! `vestibule check`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use vestibule::admission::{EndpointId, EndpointRules, OnMissingEndpoint};
use vestibule::config::{self, Backend, Dovecot, DriverKind, InetListener, Loaded, Problem, Service, Settings};
use vestibule::engine::{StartError, Step, cpus};
use vestibule::relay::Forward;

use crate::daemon::configuration::Source;
use crate::daemon::plan::{self, Means};
use crate::daemon::{EXIT_CONFIG, Error, configuration, print, privileges};

/// Lines of one kind that are printed.
const LINES_SHOWN: usize = 200;
/// Private endpoints that are shown of one listener.
const ENDPOINTS_SHOWN: usize = 16;
/// Servers that are shown of one backend.
const SERVERS_SHOWN: usize = 16;

/// Read a configuration and say what is wrong with it.
///
/// Every error is one line `FILE line N: MESSAGE` on standard error, warnings start with `warning: `. Certificates are
/// read too, users and groups looked up. Without an error, standard output says where the daemon would listen. No port
/// is ever opened.
#[derive(clap::Args, Default)]
#[command(after_help = "\
Exit code: 0 if nothing is wrong with the configuration, 78 if something is.

What only the start itself can show is not looked at: whether the ports are free, whether this
system offers what the rings need, whether the daemon may become its user, and whether the
directories of takeover_socket and chroot, which the start may make, are there.

Examples:
  vestibule check -c /etc/vestibule.conf
  vestibule check -c /etc/dovecot/dovecot.conf --dovecot auto    would Dovecot read it, too?
  doveconf -n | vestibule check -c -                             what Dovecot itself has understood
  ExecReload=vestibule check -c FILE, then kill -HUP             in a systemd unit")]
pub struct Args {
    /// The configuration file, in Dovecot's syntax; - is standard input [default: the built-in configuration]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Take warnings for errors: exit code 78 if there is one
    #[arg(long)]
    strict: bool,

    /// Also say, in Dovecot's own words, what Dovecot would refuse; exit code 78 if it would
    #[arg(long, value_name = "VERSION")]
    dovecot: Option<Strict>,
}

/// The Dovecot whose opinion is asked.
#[derive(Clone, Copy, ValueEnum)]
enum Strict {
    /// The one that the file is written for.
    Auto,
    #[value(name = "2.3")]
    V23,
    #[value(name = "2.4")]
    V24,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let source = match args.file.as_deref().map(Source::read).transpose() {
        Ok(source) => source,
        Err(problem) => return Ok(configuration::refuse(&[problem])),
    };
    let valid = match examine(source.as_ref())? {
        Ok(loaded) => match limited(&loaded.settings) {
            Ok(steps) => {
                report(args.file.as_deref(), &loaded)?;
                steps.iter().for_each(|step| print::complain(format_args!("warning: {step}")));
                loaded.warnings.is_empty() && steps.is_empty() || !args.strict
            }
            Err(error) => {
                print::complain(error);
                false
            }
        },
        Err(problems) => {
            configuration::refuse(&problems);
            false
        }
    };
    let strictly_valid = match (&args.dovecot, &source) {
        (Some(strict), Some(source)) => dovecot_reads(source, *strict)?,
        _ => true,
    };
    Ok(if valid && strictly_valid { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

/// What the daemon reads before it starts, and whom it looks up.
fn examine(source: Option<&Source>) -> Result<Result<Loaded, Vec<Problem>>, Error> {
    let loaded = match source.map(Source::load) {
        None => config::builtin(),
        Some(Ok(ready)) => ready.loaded,
        Some(Err(problems)) => return Ok(Err(problems)),
    };
    Ok(privileges::look_up(&loaded.settings.privileges)?.map(|_| loaded))
}

/// What `locked_memory_limit` takes from the rings that this host would have; where nothing is locked, nothing.
fn limited(settings: &Settings) -> Result<Vec<Step>, StartError> {
    if settings.driver == DriverKind::Epoll {
        return Ok(Vec::new());
    }
    let engine = plan::builder(settings, &Means::default(), |_| Ok(Vec::new())).expect("no socket is asked for");
    let rings = settings.rings.unwrap_or_else(cpus).get();
    engine.within_locked_memory(rings).map(|(_, steps)| steps)
}

fn report(file: Option<&Path>, loaded: &Loaded) -> io::Result<()> {
    configuration::print_warnings(&loaded.warnings);
    let name = file.unwrap_or(Path::new("built-in configuration")).display();
    print::line(format_args!("{name}: valid; would listen on"))?;
    let settings = &loaded.settings;
    let lines = settings.services.iter().flat_map(|service| {
        service.listeners.iter().flat_map(move |listener| {
            let addresses = listener.addresses.iter().map(|&ip| SocketAddr::new(ip, listener.port));
            addresses.map(move |address| line(settings, service, listener, address))
        })
    });
    print_some(lines, "addresses")?;
    print_some(settings.backends.iter().map(backend), "backends")?;
    match &settings.ssl_cert {
        Some(certificate) => print::line(format_args!("  TLS with the certificate in {}", certificate.path.display())),
        None => Ok(()),
    }
}

/// Of very many lines the first, and how many there are.
fn print_some(mut lines: impl Iterator<Item = String>, what: &str) -> io::Result<()> {
    lines.by_ref().take(LINES_SHOWN).try_for_each(print::line)?;
    match lines.count() {
        0 => Ok(()),
        more => print::line(format_args!("  and {more} more {what}")),
    }
}

fn line(settings: &Settings, service: &Service, listener: &InetListener, address: SocketAddr) -> String {
    let tls = if listener.ssl { ", TLS" } else { "" };
    let relay = service.backend.and_then(|index| settings.backends.get(index));
    let relay = relay.map_or(String::new(), |backend| format!(", relayed to backend {}", backend.servers.name));
    let name = format!("{}/{}", service.name, listener.name);
    if !listener.haproxy {
        return format!("  {address} {name}: plain{tls}{relay}");
    }
    let trusted = configuration::show_networks(&listener.networks);
    let others = if listener.plain_untrusted { ", others plain" } else { "" };
    let endpoints = endpoints(&listener.policy.endpoints);
    format!(
        "  {address} {name}: haproxy from {trusted} within {} s{others}{endpoints}{tls}{relay}",
        listener.timeout.as_secs()
    )
}

/// Private endpoints through which clients may come; of very many the first.
fn endpoints(rules: &EndpointRules) -> String {
    let shown: Vec<String> = rules.allowed.iter().take(ENDPOINTS_SHOWN).map(EndpointId::to_string).collect();
    let more = match rules.allowed.iter().count() {
        0 => return String::new(),
        all if all > ENDPOINTS_SHOWN => format!(" and {} more endpoints", all - ENDPOINTS_SHOWN),
        _ => String::new(),
    };
    let none = if rules.missing == OnMissingEndpoint::Allow { " or none" } else { "" };
    format!(", clients through {}{more}{none}", shown.join(" "))
}

fn backend(backend: &Backend) -> String {
    let servers = &backend.servers.servers;
    let shown: Vec<String> = servers.iter().take(SERVERS_SHOWN).map(|server| server.name.clone()).collect();
    let more = match servers.len().saturating_sub(SERVERS_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let forward = Forward::ALL.iter().find(|(forward, _)| *forward == backend.forward).map_or("", |(_, word)| word);
    format!("  backend {}: {} by {forward}: {}{more}", backend.servers.name, count(servers.len()), shown.join(" "))
}

fn count(servers: usize) -> String {
    if servers == 1 { "1 server".into() } else { format!("{servers} servers") }
}

fn dovecot_reads(source: &Source, strict: Strict) -> io::Result<bool> {
    let asked = match strict {
        Strict::Auto => None,
        Strict::V23 => Some(Dovecot::V23),
        Strict::V24 => Some(Dovecot::V24),
    };
    let (dovecot, problems) = source.lint(asked);
    match problems.is_empty() {
        true => print::line(format_args!(
            "Dovecot {dovecot} is not known to refuse it: judged are the grammar, names, and values of settings in use here, not the values of others"
        ))?,
        false => print::complain(format_args!("Dovecot {dovecot} would refuse it:")),
    }
    problems.iter().for_each(print::complain);
    Ok(problems.is_empty())
}

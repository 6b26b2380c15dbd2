//! `vestibule check`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use vestibule::config::{self, Dovecot, InetListener, Loaded, Problem, Service};

use super::{EXIT_CONFIG, Error, configuration, privileges};

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
  ExecReload=vestibule check -c FILE, then kill -HUP             in a systemd unit")]
pub struct Args {
    /// The configuration file, in Dovecot's syntax [default: the built-in configuration]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,

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
    let right = match examine(args.file.as_deref())? {
        Ok(loaded) => {
            report(args.file.as_deref(), &loaded);
            true
        }
        Err(problems) => {
            configuration::refuse(&problems);
            false
        }
    };
    let strictly_right = match (&args.dovecot, &args.file) {
        (Some(strict), Some(file)) => dovecot_reads(file, *strict),
        _ => true,
    };
    Ok(if right && strictly_right { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

/// What the daemon reads before it starts, and whom it looks up.
fn examine(file: Option<&Path>) -> Result<Result<Loaded, Vec<Problem>>, Error> {
    let loaded = match configuration::load(file) {
        Ok(ready) => ready.loaded,
        Err(problems) => return Ok(Err(problems)),
    };
    Ok(privileges::look_up(&loaded.settings.privileges)?.map(|_| loaded))
}

fn report(file: Option<&Path>, loaded: &Loaded) {
    configuration::print_warnings(&loaded.warnings);
    let name = file.unwrap_or(Path::new("built-in configuration")).display();
    println!("{name}: right; would listen on");
    let settings = &loaded.settings;
    for service in &settings.services {
        for listener in &service.listeners {
            let addresses = listener.addresses.iter().map(|&ip| SocketAddr::new(ip, listener.port));
            addresses.for_each(|address| println!("{}", line(service, listener, address)));
        }
    }
    if let Some(certificate) = &settings.ssl_cert {
        println!("  TLS with the certificate in {}", certificate.path.display());
    }
}

fn line(service: &Service, listener: &InetListener, address: SocketAddr) -> String {
    let tls = if listener.ssl { ", TLS" } else { "" };
    let name = format!("{}/{}", service.name, listener.name);
    if !listener.haproxy {
        return format!("  {address} {name}: plain{tls}");
    }
    let networks: Vec<String> = listener.networks.iter().map(ToString::to_string).collect();
    let trusted = if networks.is_empty() { "nobody".into() } else { networks.join(" ") };
    format!("  {address} {name}: haproxy from {trusted} within {} s{tls}", listener.timeout.as_secs())
}

fn dovecot_reads(file: &Path, strict: Strict) -> bool {
    let asked = match strict {
        Strict::Auto => None,
        Strict::V23 => Some(Dovecot::V23),
        Strict::V24 => Some(Dovecot::V24),
    };
    let (dovecot, problems) = config::lint(file, asked);
    match problems.is_empty() {
        true => println!("Dovecot {dovecot} finds no fault with it, as far as Vestibule can judge"),
        false => eprintln!("Dovecot {dovecot} would refuse it:"),
    }
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    problems.is_empty()
}

//! `scrape`: what it costs a server to be asked for its metrics, beside HAProxy's exporter.

use std::fmt::{self, Write as _};
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use vestibule_peers::{find_program, temp_dir};

use crate::bench::{self, Bench};
use crate::machine::Machine;
use crate::measure::used_by;
use crate::report::{FORMAT, Page};
use crate::server::{Recipe, Server, free_address, is_interrupted};
use crate::systems::{Tools, version, write};
use crate::versus::{Round, Versus};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is at most so long.
const ANSWER_MAX: u64 = 1 << 26;
/// Most of the other's CPU time that ours may be.
const AT_MOST: f64 = 1.0;
/// Scrapes before it is measured.
const WARM_UP: u32 = 20;

/// What `scrape` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile scrape
  vestibule-profile scrape --listeners 8 --servers 4 --rounds 11

Each scrape is a connection of its own that asks for /metrics and gets the whole answer,
uncompressed. HAProxy has a frontend for each listener, and its servers in one backend.")]
pub struct Args {
    /// Rounds: each measures both
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Scrapes a round
    #[arg(short = 'n', long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    scrapes: u32,

    /// Listeners
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    listeners: u32,

    /// Servers of the backend
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=250))]
    servers: u32,

    #[command(flatten)]
    bench: bench::Args,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Exporter {
    Vestibule,
    Haproxy,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    haproxy: String,
    listeners: u32,
    servers: u32,
    #[serde(flatten)]
    both: Versus<Exporter>,
}

impl fmt::Display for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exporter::Vestibule => "Vestibule",
            Exporter::Haproxy => "HAProxy's exporter",
        })
    }
}

impl Exporter {
    /// A metric of each server: there must be as many samples of it as servers.
    fn of_each_server(self) -> &'static str {
        match self {
            Exporter::Vestibule => "vestibule_server_up{",
            Exporter::Haproxy => "haproxy_server_sessions_total{",
        }
    }

    fn recipe(self, tools: &Tools, args: &Args) -> Result<Recipe, String> {
        let (address, directory) = (free_address(), temp_dir());
        let command = match self {
            Exporter::Vestibule => {
                let mut command = Command::new(&tools.vestibule);
                let file = write(&directory, "vestibule.conf", &vestibule(address, args))?;
                command.arg("serve").arg("-c").arg(file);
                command
            }
            Exporter::Haproxy => {
                let recipe = vestibule_peers::Recipe::haproxy(&haproxy(address, args), vec![address]);
                return Recipe::of(self.to_string(), recipe);
            }
        };
        Ok(Recipe { name: self.to_string(), command, address, directory: Some(directory) })
    }
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    find_program("haproxy").ok_or("haproxy is not installed")?;
    let bench = Bench::new(&args.bench)?;
    let both = Versus::measure(
        &bench,
        ("scrape", AT_MOST),
        args.rounds,
        [Exporter::Vestibule, Exporter::Haproxy],
        |exporter| measure(&bench, exporter, args),
    )?;
    let results = Results {
        tool: "vestibule-profile scrape",
        format: FORMAT,
        machine: Machine::here(&bench.tools),
        haproxy: version(&find_program("haproxy").unwrap_or_default(), "-v"),
        listeners: args.listeners,
        servers: args.servers,
        both,
    };
    print!("\n{} listeners, {} servers\n{}", args.listeners, args.servers, results.both.text());
    let files = page(&results).write(&Bench::prefix(&args.bench, "scrape"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn measure(bench: &Bench, exporter: Exporter, args: &Args) -> Result<Round, String> {
    let server = Server::start(exporter.recipe(&bench.tools, args)?, bench.server_cpu)?;
    for _ in 0..WARM_UP {
        check(&scrape(server.address)?, exporter, args.servers)?;
    }
    let (used, body) = used_by(bench, server.pid(), || {
        let mut last = String::new();
        for _ in 0..args.scrapes {
            if is_interrupted() {
                return Err("interrupted".to_owned());
            }
            last = scrape(server.address)?;
        }
        Ok(last)
    })?;
    check(&body, exporter, args.servers)?;
    let samples = body.lines().filter(|line| !line.starts_with('#') && line.contains(' ')).count();
    let cpu_us = used.cpu().as_secs_f64() * 1e6 / f64::from(args.scrapes);
    Ok(Round { cpu_us, detail: format!("{samples} samples, {} bytes", body.len()) })
}

/// Head and body of the answer.
fn scrape(address: SocketAddr) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // In one piece: several small ones wait for each other's acknowledgements.
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().map_err(|error| format!("a scrape of {address}: {error}"))
}

fn check(answer: &str, exporter: Exporter, servers: u32) -> Result<(), String> {
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(format!("it answers {:?}", answer.lines().next().unwrap_or_default()));
    }
    let found = answer.lines().filter(|line| line.starts_with(exporter.of_each_server())).count();
    if found == servers as usize { Ok(()) } else { Err(format!("{found} of {servers} servers are in its answer")) }
}

fn vestibule(address: SocketAddr, args: &Args) -> String {
    let mut text = format!(
        "http_listen = {address}\nhaproxy_trusted_networks = 127.0.0.0/8\nservice imap-login {{\n  worker = relay\n  \
         backend = imap\n"
    );
    for number in 0..args.listeners {
        let place = free_address();
        let _ = write!(
            text,
            "  inet_listener l{number} {{\n    address = {}\n    port = {}\n    haproxy = yes\n  }}\n",
            place.ip(),
            place.port()
        );
    }
    text.push_str("}\nbackend imap {\n  check = none\n");
    for number in 1..=args.servers {
        let _ = write!(text, "  server s{number} {{\n    address = 192.0.2.{number}\n    port = 143\n  }}\n");
    }
    text.push_str("}\n");
    text
}

fn haproxy(address: SocketAddr, args: &Args) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout client 10s\n  timeout connect 1s\n  \
         timeout server 10s\nfrontend metrics\n  mode http\n  bind {address}\n  http-request use-service \
         prometheus-exporter if {{ path /metrics }}\n"
    );
    for number in 0..args.listeners {
        let _ = write!(text, "frontend l{number}\n  bind {} accept-proxy\n  default_backend imap\n", free_address());
    }
    text.push_str("backend imap\n");
    for number in 1..=args.servers {
        let _ = writeln!(text, "  server s{number} 192.0.2.{number}:143");
    }
    text
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("What a scrape costs", &results.machine);
    page.paragraph(&format!(
        "CPU time of the server a scrape of /metrics, microseconds, with {} listeners and {} servers and no traffic: median, \
         smallest and largest of the rounds, each of which starts both afresh on one core, in an order that is shuffled \
         (seed {}). {}.",
        results.listeners, results.servers, results.both.order_seed, results.haproxy
    ));
    results.both.table(&mut page);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_with_all_servers_in_it() {
        let sample = |number: u32| format!("vestibule_server_up{{server=\"s{number}\"}} 0\n");
        let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}{}", sample(1), sample(2));
        assert_eq!(check(&answer, Exporter::Vestibule, 2), Ok(()));
        assert!(check(&answer, Exporter::Vestibule, 3).is_err());
        assert!(check(&answer, Exporter::Haproxy, 2).is_err());
        assert!(check("HTTP/1.1 404 Not Found\r\n\r\n", Exporter::Vestibule, 0).is_err());
    }
}

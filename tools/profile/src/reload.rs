//! `reload`: what it costs a daemon to put in force a configuration in which one trusted network is another one, beside
//! another build of it.

use std::fmt::{self, Write as _};
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::time::clock_getcpuclockid;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use vestibule_peers::temp_dir;

use crate::bench::{self, Bench};
use crate::machine::Machine;
use crate::report::{Cell, FORMAT, Page, number};
use crate::rounds::{SEED, Subject, rounds};
use crate::server::{Recipe, Server, free_address, pause};
use crate::stats::{Spread, ratios};
use crate::systems::write;

/// How long a reload, or an answer, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a daemon rests before its CPU time is read: what it still does for the reload belongs to it.
const REST: Duration = Duration::from_millis(60);
const STEP: Duration = Duration::from_millis(2);
/// Reloads before it is measured.
const WARM_UP: u8 = 3;
/// Most of the other build's CPU time that ours may be.
const AT_MOST: f64 = 0.05;
/// What a reload says when it has succeeded.
const RELOADED: &str = " reloaded: ";
const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";

/// What `reload` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile reload
  vestibule-profile reload --beside OTHER/vestibule --listeners 2,64 --rounds 9

Each reload is a SIGHUP to a daemon of two rings with a file in which one trusted network is
another than before. After each, outside of what is measured, a client of the new network is
served by every listener, and one of the network before is not.")]
pub struct Args {
    /// Rounds: each measures every build with every number of listeners
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Reloads a round
    #[arg(short = 'n', long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=200))]
    reloads: u8,

    /// Listeners
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_values_t = [2, 8, 64], value_parser = clap::value_parser!(u16).range(1..=512))]
    listeners: Vec<u16>,

    #[command(flatten)]
    bench: bench::Args,
}

/// A build of the daemon with so many listeners.
#[derive(Debug, Serialize)]
struct Measured {
    /// Whether it is the other build.
    beside: bool,
    listeners: u16,
    /// CPU time of all its threads for a reload, microseconds: the median of each round.
    rounds: Vec<f64>,
    cpu_us: Option<Spread>,
    /// This build's CPU / the other one's, round by round.
    ratio: Option<Spread>,
    /// Why it was left out from some round on.
    failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    /// The other build's version.
    beside: Option<String>,
    order_seed: u64,
    reloads: u8,
    measured: Vec<Measured>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.beside { "vestibule-beside" } else { "vestibule" };
        write!(f, "{name}, {} listeners", self.listeners)
    }
}

impl Subject for Measured {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let builds: &[bool] = if bench.tools.beside.is_some() { &[false, true] } else { &[false] };
    let subjects = args.listeners.iter().flat_map(|&listeners| builds.iter().map(move |&beside| (beside, listeners)));
    let mut measured: Vec<Measured> = subjects
        .map(|(beside, listeners)| Measured {
            beside,
            listeners,
            rounds: Vec::new(),
            cpu_us: None,
            ratio: None,
            failure: None,
        })
        .collect();
    let say = |line| bench.say(line);
    rounds("round", usize::from(args.rounds), &mut measured, say, |one| {
        let cpu_us = measure(&bench, one.beside, one.listeners, args.reloads)?;
        one.rounds.push(cpu_us);
        Ok(format!("{cpu_us:8.0} us CPU a reload"))
    });
    conclude(&mut measured);
    let results = Results {
        tool: "vestibule-profile reload",
        format: FORMAT,
        machine: Machine::here(&bench.tools),
        beside: bench.tools.beside_version(),
        order_seed: SEED,
        reloads: args.reloads,
        measured,
    };
    print!("{}", text(&results));
    let files = page(&results).write(&Bench::prefix(&args.bench, "reload"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

/// Medians, and this build's beside the other one's with as many listeners.
fn conclude(measured: &mut [Measured]) {
    let ours: Vec<(u16, Vec<f64>)> =
        measured.iter().filter(|one| !one.beside).map(|one| (one.listeners, one.rounds.clone())).collect();
    for one in measured {
        one.cpu_us = Spread::over(&one.rounds, |cpu_us| *cpu_us);
        let same = ours.iter().find(|(listeners, _)| one.beside && *listeners == one.listeners);
        one.ratio = same.and_then(|(_, ours)| Spread::of(ratios(ours, &one.rounds, |cpu_us| *cpu_us)));
    }
}

/// The middle of what some reloads of a fresh daemon cost, in microseconds.
fn measure(bench: &Bench, beside: bool, listeners: u16, reloads: u8) -> Result<f64, String> {
    let scene = Scene::start(bench, beside, listeners)?;
    let mut costs = Vec::new();
    for number in 1..=WARM_UP + reloads {
        let cost = scene.reload(number)?;
        scene.check(number)?;
        if number > WARM_UP {
            costs.push(cost.as_secs_f64() * 1e6);
        }
    }
    Spread::of(costs).map(|costs| costs.median).ok_or_else(|| "no reload was measured".to_owned())
}

/// A running daemon, where it listens, and its file.
struct Scene {
    server: Server,
    addresses: Vec<SocketAddr>,
    directory: TempDir,
}

impl Scene {
    fn start(bench: &Bench, beside: bool, listeners: u16) -> Result<Scene, String> {
        let directory = temp_dir();
        let addresses: Vec<SocketAddr> = (0..listeners).map(|_| free_address()).collect();
        let file = write(&directory, FILE, &configuration(&addresses, 0))?;
        let program = if beside { bench.tools.beside.as_ref() } else { Some(&bench.tools.vestibule) };
        let mut command = Command::new(program.ok_or("there is no other build")?);
        command.arg("serve").arg("-c").arg(file);
        let address = *addresses.last().ok_or("a daemon without listeners")?;
        let recipe = Recipe { name: "vestibule".to_owned(), command, address, directory: None };
        Ok(Scene { server: Server::start(recipe, bench.server_cpu)?, addresses, directory })
    }

    /// Lets it reload with another network, and tells the CPU time that this took.
    fn reload(&self, number: u8) -> Result<Duration, String> {
        replace(self.directory.path(), &configuration(&self.addresses, number))?;
        pause(REST)?;
        let (before, said) = (self.cpu()?, self.server.said(RELOADED));
        let process = Pid::from_raw(self.server.pid() as i32).ok_or("no process")?;
        kill_process(process, Signal::HUP).map_err(|error| error.to_string())?;
        let end = Instant::now() + PATIENCE;
        while self.server.said(RELOADED) == said {
            if Instant::now() > end {
                return Err(format!("it does not reload; it said:\n{}", self.server.output()));
            }
            pause(STEP)?;
        }
        pause(REST)?;
        Ok(self.cpu()?.saturating_sub(before))
    }

    /// CPU time of the daemon so far. By its own clock, which knows of threads that have ended, to the nanosecond: a build that
    /// makes a second engine ends some with each reload.
    fn cpu(&self) -> Result<Duration, String> {
        let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(self.server.pid() as i32));
        clock.and_then(|clock| clock.now()).map(Duration::from).map_err(|error| format!("its CPU time: {error}"))
    }

    /// An error unless every listener trusts the network of this reload and none that of the one before.
    fn check(&self, number: u8) -> Result<(), String> {
        self.addresses.iter().try_for_each(|&listener| {
            match (serves(network(number), listener)?, serves(network(number - 1), listener)?) {
                (true, false) => Ok(()),
                (trusted, former) => Err(format!(
                    "after reload {number} {listener} serves the new network: {trusted}, and the former one: {former}; it \
                     said:\n{}",
                    self.server.output()
                )),
            }
        })
    }
}

const FILE: &str = "vestibule.conf";

/// The network of a reload: one address of this host's own.
fn network(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 1, 0, number + 1).into()
}

fn configuration(addresses: &[SocketAddr], number: u8) -> String {
    let mut text = format!(
        "rings = 2\nhaproxy_trusted_networks = 192.0.2.0/24 {}\nservice bench {{\n  worker = whoami\n",
        network(number)
    );
    for (index, address) in addresses.iter().enumerate() {
        let _ = write!(
            text,
            "  inet_listener l{index} {{\n    address = {}\n    port = {}\n    haproxy = yes\n  }}\n",
            address.ip(),
            address.port()
        );
    }
    text.push_str("}\n");
    text
}

/// In one step, as an editor does.
fn replace(directory: &Path, text: &str) -> Result<(), String> {
    let (new, file) = (directory.join("new"), directory.join(FILE));
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).map_err(|error| error.to_string())
}

/// Whether a listener answers a client that comes from this address.
fn serves(from: IpAddr, listener: SocketAddr) -> Result<bool, String> {
    let ask = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&listener.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = TcpStream::from(socket);
        let mut answer = Vec::new();
        // Who is not trusted is closed, or reset, at any time.
        let asked = stream.write_all(HEADER).and_then(|()| stream.read_to_end(&mut answer));
        match asked.map_err(|error| error.kind()) {
            Err(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Err(std::io::ErrorKind::TimedOut.into())
            }
            _ => Ok(!answer.is_empty()),
        }
    };
    ask().map_err(|error: std::io::Error| format!("a client from {from} at {listener}: {error}"))
}

/// The table for a terminal.
fn text(results: &Results) -> String {
    let mut text = "\n| build | CPU us/reload (min-max) | this build / the other |\n|---|---|---|\n".to_owned();
    for one in &results.measured {
        let Some(cpu) = one.cpu_us else { continue };
        let ratio = one
            .ratio
            .map_or("–".to_owned(), |ratio| format!("{:.3} ({:.3}–{:.3})", ratio.median, ratio.min, ratio.max));
        let _ = writeln!(text, "| {one} | {:.0} ({:.0}–{:.0}) | {ratio} |", cpu.median, cpu.min, cpu.max);
    }
    text
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("What a reload costs", &results.machine);
    page.paragraph(&format!(
        "CPU time of all threads of a daemon of two rings on one core, microseconds, for a reload in which one trusted network is \
         another one: the median of {} reloads in each round, of which median, smallest and largest are shown. Each round \
         starts every daemon afresh, in an order that is shuffled (seed {}).{}",
        results.reloads,
        results.order_seed,
        results.beside.as_ref().map_or(String::new(), |version| format!(" The other build: {version}.")),
    ));
    page.table(
        &["build", "CPU µs", "min–max", "this build / the other", "min–max"],
        results.measured.iter().filter_map(|one| {
            let cpu = one.cpu_us?;
            let (verdict, range) = match one.ratio {
                Some(ratio) => (
                    Cell::Verdict(ratio.median <= AT_MOST, format!("{:.3}", ratio.median)),
                    format!("{:.3}–{:.3}", ratio.min, ratio.max),
                ),
                None => (number(None, 0), String::new()),
            };
            let range_of_cpu = Cell::Number(format!("{:.0}–{:.0}", cpu.min, cpu.max));
            Some(vec![one.to_string().into(), number(Some(cpu.median), 0), range_of_cpu, verdict, Cell::Number(range)])
        }),
    );
    page.left_out(results.measured.iter().filter_map(|one| Some((one.to_string(), one.failure.as_deref()?))));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_set_beside_the_other_one_with_as_many_listeners() {
        let one = |beside, listeners, rounds: &[f64]| Measured {
            beside,
            listeners,
            rounds: rounds.to_vec(),
            cpu_us: None,
            ratio: None,
            failure: None,
        };
        let mut all =
            [one(false, 2, &[1.0, 3.0]), one(true, 2, &[10.0, 10.0]), one(false, 8, &[4.0]), one(true, 8, &[8.0])];
        conclude(&mut all);
        let ratios: Vec<Option<f64>> = all.iter().map(|one| one.ratio.map(|ratio| ratio.median)).collect();
        assert_eq!(ratios, [None, Some(0.2), None, Some(0.5)]);
        assert_eq!(all[0].cpu_us.map(|cpu| cpu.median), Some(2.0));
    }

    #[test]
    fn only_the_network_differs_from_reload_to_reload() {
        let addresses = [SocketAddr::from(([127, 0, 0, 1], 1143))];
        let [one, other] = [0, 1].map(|number| configuration(&addresses, number));
        let differing = one.lines().zip(other.lines()).filter(|(one, other)| one != other).count();
        assert_eq!((one.lines().count(), differing), (other.lines().count(), 1), "{one}{other}");
    }
}

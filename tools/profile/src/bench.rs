//! What all measurements have in common: which CPUs, which programs, where the report goes.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};
use vestibule_peers::find_program;

use crate::load::{DRAIN, Load, Pace};
use crate::server::{self, Server, allowed_cpus};
use crate::systems::{System, Tools};

/// Connections that a fresh server gets before it is measured; their answers are checked.
const WARM_UP: u64 = 2000;

/// Options of every measuring subcommand.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The CPU that servers run on [default: the first allowed]
    #[arg(long, value_name = "CPU", help_heading = "Machine")]
    server_cpu: Option<usize>,

    /// The CPU that clients run on [default: the last allowed]
    #[arg(long, value_name = "CPU", help_heading = "Machine")]
    client_cpu: Option<usize>,

    /// The daemon [default: `vestibule` beside this program, or on the PATH]
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    vestibule: Option<PathBuf>,

    /// Another build of the daemon, measured as a program of its own: vestibule-beside
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub beside: Option<PathBuf>,

    /// The load generator [default: `vestibule-load` beside this program, or on the PATH]
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    load: Option<PathBuf>,

    /// Where the report goes: PREFIX.html and PREFIX.json [default: vestibule- and the subcommand's name]
    #[arg(short, long, value_name = "PREFIX")]
    pub output: Option<PathBuf>,
}

/// A bench, ready to measure.
pub struct Bench {
    /// Our own programs.
    pub tools: Tools,
    /// The CPU that servers run on.
    pub server_cpu: usize,
    /// The CPU that clients run on.
    pub client_cpu: usize,
    begun: Instant,
}

impl Bench {
    /// Finds programs and CPUs.
    pub fn new(args: &Args) -> Result<Bench, String> {
        server::catch_signals()?;
        let cpus = allowed_cpus()?;
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        let (server_cpu, client_cpu) = (args.server_cpu.unwrap_or(first), args.client_cpu.unwrap_or(last));
        if let Some(cpu) = [server_cpu, client_cpu].into_iter().find(|cpu| !cpus.contains(cpu)) {
            return Err(format!("CPU {cpu} is not among those that this process may use: {cpus:?} (see taskset(1))"));
        }
        let profile = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
        let tools = Tools {
            vestibule: program("vestibule", args.vestibule.as_deref(), &profile)?,
            beside: args.beside.as_deref().map(|path| program("vestibule", Some(path), &profile)).transpose()?,
            load: program("vestibule-load", args.load.as_deref(), &profile)?,
            profile,
        };
        let bench = Bench { tools, server_cpu, client_cpu, begun: Instant::now() };
        if server_cpu == client_cpu {
            bench.say("servers and clients share one CPU: latencies say little, CPU times still do");
        }
        Ok(bench)
    }

    /// A line of progress.
    pub fn say(&self, line: impl std::fmt::Display) {
        eprintln!("{:>5.1} s  {line}", self.begun.elapsed().as_secs_f64());
    }

    /// A load on a server.
    pub fn load<'a>(&'a self, server: &Server, expect: &'a str, pace: Pace) -> Load<'a> {
        Load {
            program: &self.tools.load,
            cpu: self.client_cpu,
            target: server.address,
            expect,
            pace,
            drain: DRAIN,
            more: &[],
            under: &[],
        }
    }

    /// Starts a system on the server's CPU and lets it serve its first connections, whose answers are checked.
    pub fn warm(&self, system: System) -> Result<Server, String> {
        let server = Server::start(system.recipe(&self.tools)?, self.server_cpu)?;
        self.warm_up(&server, system.expected())?;
        Ok(server)
    }

    /// Lets a server serve its first connections.
    pub fn warm_up(&self, server: &Server, expect: &str) -> Result<(), String> {
        let warmed = self.load(server, expect, Pace::Count(WARM_UP)).run();
        warmed.map(drop).map_err(|error| format!("{error}\n{} said:\n{}", server.name, server.output()))
    }

    /// Waits until a child has ended in success.
    pub fn wait_for(&self, child: &mut Child, limit: Duration) -> Result<(), String> {
        const STEP: Duration = Duration::from_millis(20);
        let end = Instant::now() + limit;
        loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("has failed ({status})")),
                None if Instant::now() > end => return Err(format!("still runs after {limit:?}")),
                None => server::pause(STEP)?,
            }
        }
    }

    /// What stands between the prefix of a report and its suffix.
    pub fn prefix(args: &Args, name: &str) -> PathBuf {
        args.output.clone().unwrap_or_else(|| format!("vestibule-{name}").into())
    }
}

fn program(name: &str, given: Option<&Path>, profile: &Path) -> Result<PathBuf, String> {
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => [Some(profile.with_file_name(name)), find_program(name)].into_iter().flatten().collect(),
    };
    let shown = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" nor ");
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no {name} at {shown}; build it with `cargo build --release --workspace`"))
}

/// `250ms`, `2s`: a time on the command line, 100 ms to 10 minutes.
pub fn time(text: &str) -> Result<Duration, String> {
    const RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; try 2s or 500ms"))?;
    if RANGE.contains(&time) { Ok(time) } else { Err("a time from 100ms to 10m".into()) }
}

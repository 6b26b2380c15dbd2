//! `vestibule doctor`: what of this machine matters to the daemon, each thing with a verdict and a remedy.
//!
//! [`Facts`] are read first; the findings are pure functions of them and of what the configuration [`Needs`].

mod backends;
mod facts;
mod findings;

use std::path::PathBuf;
use std::process::ExitCode;

use vestibule::config::{DriverKind, Settings};
use vestibule::engine::Rings;
use vestibule::ring::{self, SLOT_BYTES, Sizes};

use self::facts::Facts;
use self::findings::{Finding, Verdict};
use crate::daemon::plan::{self, Means};
use crate::daemon::{Error, configuration, print};

/// Say whether this machine can run the daemon, and what keeps it from running well.
///
/// One line each: verdict (ok, warn, fail), what was looked at, its value, why it matters, and the remedy. Rings are
/// really made, as many and as large as the configuration asks for; no port is opened.
///
/// With --backends the servers of its backends are looked at instead.
#[derive(clap::Args, Default)]
#[command(after_help = "\
Exit code: 0, or 1 if the daemon cannot run here or a server does not serve (a line says fail), or 78 if the
configuration is wrong.

Limits belong to a process: run it as the daemon will run, for example
  systemd-run --pipe -p User=vestibule -p LimitNOFILE=1048576 \\
      vestibule doctor -c /etc/vestibule.conf")]
pub struct Args {
    /// The configuration whose needs are looked at [default: the built-in configuration]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Look at the servers of the backends, not at this machine: each is asked once, as a session would begin, and a line
    /// says what its port speaks. Each writes as much into its log as a check does. Takes 15 seconds at most, unless there
    /// are more than 64 servers
    #[arg(long)]
    backends: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let loaded = match configuration::read(args.file.as_deref()) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(configuration::refuse(&problems)),
    };
    let findings = match args.backends {
        true => backends::findings(&loaded.settings)?,
        false => machine(&loaded.settings),
    };
    if findings.is_empty() {
        print::line("no service has worker = relay, so there are no servers to look at")?;
    }
    findings.iter().try_for_each(print::line)?;
    let can_run = findings.iter().all(|finding| finding.verdict != Verdict::Fail);
    Ok(if can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn machine(settings: &Settings) -> Vec<Finding> {
    let cpus = ring::allowed_cpus().map_or(1, |cpus| cpus.len());
    let needs = Needs::of(settings, cpus);
    findings::all(&Facts::read(&needs), &needs)
}

/// Files of the process itself: standard streams, rings, event counters, certificate, log.
const FILES_OF_ITS_OWN: u64 = 64;
/// What the kernel holds for one idle connection, about: socket, inode, dentry, file, a first segment.
const KERNEL_BYTES_A_CONNECTION: u64 = 6 * 1024;

/// What a configuration asks of the machine.
#[derive(Clone, Debug)]
struct Needs {
    driver: DriverKind,
    rings: usize,
    /// As the engine makes each.
    sizes: Sizes,
    /// What `locked_memory_limit` takes from them, each step with its remedy; or that not even one ring fits.
    limited: Result<Vec<String>, String>,
    /// Most connections at once: pending, queued, and with a worker.
    connections: u64,
    /// Listening sockets; each ring has its own.
    sockets: u64,
    /// `ssl_ktls`.
    kernel_tls: bool,
}

impl Needs {
    fn of(settings: &Settings, cpus: usize) -> Needs {
        let wanted = settings.rings.map_or(cpus, usize::from);
        let addresses: usize = settings.services.iter().flat_map(|s| &s.listeners).map(|l| l.addresses.len()).sum();
        let threaded = settings.services.iter().filter_map(|s| Some((s.queue, plan::workers(s)?)));
        let at_pools: usize = threaded.map(|(queue, workers)| queue + workers.get()).sum();
        let engine = plan::builder(settings, &Means::default(), |_| Ok(Vec::new())).expect("no socket is asked for");
        let (Rings { count: rings, sizes, .. }, limited) = match engine.within_locked_memory(wanted) {
            Ok((rings, steps)) => (rings, Ok(steps.iter().map(ToString::to_string).collect())),
            Err(error) => (Rings { count: wanted, sizes: engine.ring_sizes() }, Err(error.to_string())),
        };
        Needs {
            driver: settings.driver,
            rings,
            sizes,
            limited,
            connections: rings as u64 * u64::from(settings.pending_limit) + at_pools as u64,
            sockets: (rings * addresses) as u64,
            kernel_tls: settings.ssl_ktls,
        }
    }

    fn open_files(&self) -> u64 {
        self.connections + self.sockets + FILES_OF_ITS_OWN
    }

    /// In bytes.
    fn memory(&self) -> u64 {
        let buffers = self.rings as u64 * u64::from(self.sizes.slots) * u64::from(SLOT_BYTES);
        buffers + self.connections * KERNEL_BYTES_A_CONNECTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vestibule::config;
    use vestibule::ring::BACKLOG;

    #[test]
    fn the_rings_of_a_trial_are_those_that_serve_makes() {
        let settings = config::builtin().settings;
        let sizes = Needs::of(&settings, 1).sizes;
        assert!(sizes.slots > settings.pending_limit, "the engine has slots to spare: {sizes:?}");
        assert_eq!((sizes.completions, sizes.longest), (sizes.slots + BACKLOG, settings.header_limit + SLOT_BYTES));
    }
}

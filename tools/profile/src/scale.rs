//! `scale`: whether a connection costs the same whatever else the daemon has to do with.

use std::fmt;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use vestibule::admission::{BANS_MAX, Bans, ClientLimits};
use vestibule::dispatch::{Accepted, Pool};
use vestibule::engine::{Engine, Listener};
use vestibule::net::Network;
use vestibule::ring;
use vestibule::worker::Discard;

use crate::bench::{self, Bench, time};
use crate::load::{Load, Pace};
use crate::machine::Machine;
use crate::measure::{Round, measure};
use crate::report::{Cell, FORMAT, Page, number};
use crate::rounds::{SEED, Subject, rounds};
use crate::server::{Process, Recipe, Server, established, free_address, open_files, pause};
use crate::stats::{Spread, ratios};

/// Descriptors that programs need beside connections.
const SPARE: u64 = 512;
const RAMP: f64 = 10_000.0;
const NETWORKS_MAX: u32 = 65_536;
/// What the job discard does.
const EXPECTED: &str = "close";
/// Cost may grow by this part.
const FLAT: f64 = 1.10;

/// What `scale` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile scale
  vestibule-profile scale --rounds 10 --established 1,50000

Job discard, with TCP_DEFER_ACCEPT. Varies one thing at a time: connections that workers already
hold, trusted networks, banned clients (each until a time), listeners. The peer that connects is
trusted by the last network of the list.")]
pub struct Args {
    /// Rounds: each measures every point once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// How long each point is measured in a round
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "1s")]
    duration: Duration,

    /// Connections that workers hold; what the limit of open files does not allow is lowered to it
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,5000,50000")]
    established: Vec<u32>,

    /// Trusted networks
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,256,65536",
          value_parser = clap::value_parser!(u32).range(1..=NETWORKS_MAX as i64))]
    networks: Vec<u32>,

    /// Banned clients, each for an hour; none of them connects
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "0,10000",
          value_parser = clap::value_parser!(u32).range(0..=BANS_MAX as i64))]
    bans: Vec<u32>,

    /// Listeners; the load is on one of them
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,8,64",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    listeners: Vec<u32>,

    #[command(flatten)]
    bench: bench::Args,
}

/// What `serve-engine` takes.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Where connections are validated and closed
    #[arg(value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where connections are validated and kept
    #[arg(long, value_name = "ADDRESS:PORT")]
    hold: SocketAddr,
    /// Trusted networks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=NETWORKS_MAX as i64))]
    networks: u32,
    /// Banned clients
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=BANS_MAX as i64))]
    bans: u32,
    /// Listeners beside the one for connections to keep
    #[arg(long, value_name = "N", default_value_t = 1)]
    listeners: u32,
}

/// One thing that grows, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Point {
    what: &'static str,
    count: u32,
    established: u32,
    networks: u32,
    bans: u32,
    listeners: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} {}", self.count, self.what)
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    point: Point,
    rounds: Vec<Round>,
    /// Microseconds of server CPU a connection.
    cpu_us: Option<Spread>,
    /// To the first point of its kind, round by round.
    ratio: Option<Spread>,
    /// Why it was left out from some round on.
    failure: Option<String>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.point.fmt(f)
    }
}

impl Subject for Measured {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    /// What the orders of the rounds came from.
    order_seed: u64,
    measured: Vec<Measured>,
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let room = u32::try_from(open_files().saturating_sub(SPARE)).unwrap_or(u32::MAX);
    let mut measured: Vec<Measured> = points(args, room)
        .into_iter()
        .map(|point| Measured { point, rounds: Vec::new(), cpu_us: None, ratio: None, failure: None })
        .collect();
    let say = |line| bench.say(line);
    rounds("round", usize::from(args.rounds), &mut measured, say, |one| {
        let round = measure_point(&bench, one.point, args.duration)?;
        let result = round.to_string();
        one.rounds.push(round);
        Ok(result)
    });
    if measured.iter().all(|one| one.rounds.is_empty()) {
        return Err("nothing could be measured: see above".to_owned());
    }
    conclude(&mut measured);
    let results = Results {
        tool: "vestibule-profile scale",
        format: FORMAT,
        machine: Machine::with_own_engine(),
        order_seed: SEED,
        measured,
    };
    print!("{}", text(&results));
    let files = page(&results).write(&Bench::prefix(&args.bench, "scale"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn points(args: &Args, room: u32) -> Vec<Point> {
    let plain = Point { what: "", count: 0, established: 1, networks: 1, bans: 0, listeners: 1 };
    let established = args.established.iter().map(|&count| count.min(room)).map(|count| Point {
        what: "established connections",
        count,
        established: count,
        ..plain
    });
    let networks =
        args.networks.iter().map(|&count| Point { what: "trusted networks", count, networks: count, ..plain });
    let listeners = args.listeners.iter().map(|&count| Point { what: "listeners", count, listeners: count, ..plain });
    let bans = args.bans.iter().map(|&count| Point { what: "banned clients", count, bans: count, ..plain });
    established.chain(networks).chain(bans).chain(listeners).collect()
}

/// A fresh engine as the point wants it, under load.
fn measure_point(bench: &Bench, point: Point, time: Duration) -> Result<Round, String> {
    let (address, hold) = (free_address(), free_address());
    let mut command = Command::new(&bench.tools.profile);
    command.args(["serve-engine", &address.to_string(), "--hold", &hold.to_string()]);
    command.args(["--networks", &point.networks.to_string(), "--listeners", &point.listeners.to_string()]);
    command.args(["--bans", &point.bans.to_string()]);
    let recipe = Recipe { name: "vestibule's engine".into(), command, address, directory: None };
    let server = Server::start(recipe, bench.server_cpu)?;
    let _held = keep(bench, &server, hold, point.established)?;
    bench.warm_up(&server, EXPECTED)?;
    let (round, _) = measure(bench, &server, EXPECTED, Pace::Closed { in_flight: 64, time })?;
    Ok(round)
}

/// Opens connections that stay until the returned client is dropped.
fn keep(bench: &Bench, server: &Server, hold: SocketAddr, count: u32) -> Result<Process, String> {
    const PATIENCE: Duration = Duration::from_secs(20);
    const STEP: Duration = Duration::from_millis(50);
    let (count_text, rate) = (count.to_string(), RAMP.to_string());
    let more = ["--hold", &count_text, "--rate", &rate, "-d", "300s"];
    let load = Load { target: hold, more: &more, ..bench.load(server, "any", Pace::Given) };
    let (client, _files) = load.start()?;
    let end = Instant::now() + PATIENCE;
    while established(hold)? < u64::from(count) {
        if Instant::now() > end {
            let there = established(hold)?;
            return Err(format!("{there} of {count} connections are held; vestibule-load said:\n{}", client.output()));
        }
        pause(STEP)?;
    }
    Ok(client)
}

fn conclude(measured: &mut [Measured]) {
    for index in 0..measured.len() {
        let first = measured.iter().position(|other| other.point.what == measured[index].point.what).unwrap_or(index);
        let ratio = Spread::of(ratios(&measured[index].rounds, &measured[first].rounds, |round| round.cpu_us));
        let one = &mut measured[index];
        (one.cpu_us, one.ratio) = (Spread::over(&one.rounds, |round| round.cpu_us), ratio);
    }
}

fn text(results: &Results) -> String {
    let mut text = "\n| what | how many | CPU us/conn (min-max) | ratio to the first |\n|---|---|---|---|\n".to_owned();
    for one in &results.measured {
        let (Some(cpu), Some(ratio)) = (one.cpu_us, one.ratio) else { continue };
        text.push_str(&format!(
            "| {} | {} | {:.1} ({:.1}–{:.1}) | {:.2} ({:.2}–{:.2}) |\n",
            one.point.what, one.point.count, cpu.median, cpu.min, cpu.max, ratio.median, ratio.min, ratio.max
        ));
    }
    text
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("Cost of a connection as the rest grows", &results.machine);
    page.paragraph(&format!(
        "Server CPU a connection, job discard: median, smallest and largest of the rounds; and its ratio, round by round, \
         to the first point of its kind. One thing grows at a time. The goal is at most 1.10. CPU is that of the server's \
         processes and of the kernel's thread for soft interrupts on its CPU, as in compare; the order of the points is \
         shuffled for each round (seed {}).",
        results.order_seed
    ));
    page.table(
        &["what", "how many", "CPU µs", "min–max", "ratio", "min–max"],
        results.measured.iter().filter_map(|one| {
            let (cpu, ratio) = (one.cpu_us?, one.ratio?);
            Some(vec![
                one.point.what.into(),
                Cell::Number(one.point.count.to_string()),
                number(Some(cpu.median), 1),
                Cell::Number(format!("{:.1}–{:.1}", cpu.min, cpu.max)),
                Cell::Verdict(ratio.median <= FLAT, format!("{:.2}", ratio.median)),
                Cell::Number(format!("{:.2}–{:.2}", ratio.min, ratio.max)),
            ])
        }),
    );
    page.left_out(results.measured.iter().filter_map(|one| Some((one.to_string(), one.failure.as_deref()?))));
    page
}

/// The engine with a pool that closes connections and one that keeps them; until it is ended.
pub fn serve(args: &ServeArgs) -> Result<(), String> {
    ring::raise_open_files().map_err(|error| format!("the limit of open files: {error}"))?;
    let kept: Mutex<Vec<Accepted>> = Mutex::default();
    let keep = move |connection: Accepted| kept.lock().expect("no holder of the lock panics").push(connection);
    let listener = |address: SocketAddr, pool: &str| Listener::proxy(address).trust(networks(args.networks)).pool(pool);
    let limits = ClientLimits { bans: bans(args.bans), ..ClientLimits::default() };
    let mut builder = Engine::builder().client_limits(limits);
    builder = builder.pool(Pool::here("close", Discard)).pool(Pool::threads("keep", 1, keep));
    for _ in 1..args.listeners {
        builder = builder.listen(listener(SocketAddr::new(args.listen.ip(), 0), "close"));
    }
    builder = builder.listen(listener(args.hold, "keep")).listen(listener(args.listen, "close"));
    let _engine = builder.start().map_err(|error| error.to_string())?;
    loop {
        std::thread::park();
    }
}

/// So many clients, none of which is a peer of documentation or measurement.
fn bans(count: u32) -> Bans {
    const AN_HOUR: Duration = Duration::from_secs(3600);
    let (bans, now) = (Bans::new(), Instant::now());
    for index in 0..count {
        let [_, b, c, d] = index.to_be_bytes();
        let client = Network::new([10, b, c, d].into(), 32).expect("32 bits fit");
        bans.set(client, Some(now + AN_HOUR), now).expect("the table has room for them");
    }
    bans
}

/// So many networks that cannot be merged into fewer; the last one is the loopback.
fn networks(count: u32) -> Vec<Network> {
    let strange = (1..count).map(|index| {
        let [_, _, high, low] = index.to_be_bytes();
        Network::new([10, high, low, 0].into(), 25).expect("25 bits fit")
    });
    strange.chain([Network::new([127, 0, 0, 0].into(), 8).expect("8 bits fit")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_as_many_as_asked_for_and_trust_the_loopback() {
        for count in [1, 2, NETWORKS_MAX] {
            let networks = networks(count);
            assert_eq!(networks.len(), count as usize);
            let trusting = networks.iter().filter(|network| network.contains([127, 1, 0, 9].into())).count();
            assert_eq!(trusting, 1);
        }
    }

    #[test]
    fn a_point_is_set_beside_the_first_of_its_kind() {
        let point = |what, count| Point { what, count, established: 1, networks: 1, bans: 0, listeners: 1 };
        let one = |what, count, rounds: &[f64]| Measured {
            point: point(what, count),
            rounds: rounds.iter().map(|cpu| Round::test(*cpu)).collect(),
            cpu_us: None,
            ratio: None,
            failure: None,
        };
        let mut measured = vec![one("a", 1, &[10.0, 20.0]), one("b", 1, &[8.0, 8.0]), one("a", 9, &[11.0, 22.0])];
        conclude(&mut measured);
        assert!((measured[2].ratio.expect("two rounds").median - 1.1).abs() < 1e-9);
        assert_eq!(measured[1].ratio.expect("itself").median, 1.0);
    }
}

//! `stages`: how long a connection takes inside Vestibule, from the engine's own histograms. The engine runs in this
//! process, pinned as the daemon would be.

use std::time::Duration;

use serde::Serialize;
use vestibule::dispatch::Pool;
use vestibule::engine::{Engine, Listener, Snapshot};
use vestibule::worker::{Discard, Whoami};

use crate::bench::{self, Bench, time};
use crate::load::{self, CURVE, Load, Pace};
use crate::machine::Machine;
use crate::report::plot::{self, Line};
use crate::report::{FORMAT, Page, number};
use crate::server::on_cpus;
use crate::systems::Job;

/// How long the engine may take to end.
const DRAIN: Duration = Duration::from_secs(5);
const POOL: &str = "bench";

/// What `stages` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile stages                    at a half, 0.9 and the whole of what a core can
  vestibule-profile stages --rate 5000        at a rate of your own
  vestibule-profile stages --no-defer-accept  with the wait for the first byte inside the engine

With TCP_DEFER_ACCEPT, which listeners for PROXY headers have, the kernel reports a connection
when its first byte is there: from accept to header is then the time of one read.")]
pub struct Args {
    /// How long each load lasts
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "3s")]
    duration: Duration,

    /// What the workers do
    #[arg(long, value_enum, default_value_t = Job::Whoami)]
    job: Job,

    /// Connections a second
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// Accept connections before their first byte is there
    #[arg(long)]
    no_defer_accept: bool,

    #[command(flatten)]
    bench: bench::Args,
}

/// Quantiles in microseconds.
#[derive(Debug, Serialize)]
struct Stage {
    name: &'static str,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
    curve: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Run {
    /// Connections a second; what came of it in the closed loop.
    rate: f64,
    closed_loop: bool,
    connections: u64,
    stages: Vec<Stage>,
    counters: Vec<(&'static str, u64)>,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    job: Job,
    defer_accept: bool,
    runs: Vec<Run>,
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let mut runs = Vec::new();
    let time = args.duration;
    match args.rate {
        Some(rate) => runs.push(one(&bench, args, Pace::Open { rate: f64::from(rate), time })?),
        None => {
            let saturated = one(&bench, args, Pace::Closed { in_flight: 64, time })?;
            for part in [0.5, 0.9] {
                runs.push(one(&bench, args, Pace::Open { rate: (saturated.rate * part).round(), time })?);
            }
            runs.push(saturated);
        }
    }
    let machine = Machine::with_own_engine();
    let results = Results {
        tool: "vestibule-profile stages",
        format: FORMAT,
        machine,
        job: args.job,
        defer_accept: !args.no_defer_accept,
        runs,
    };
    print!("{}", text(&results));
    let files = page(&results)?.write(&Bench::prefix(&args.bench, "stages"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn one(bench: &Bench, args: &Args, pace: Pace) -> Result<Run, String> {
    let mut engine = on_cpus(&[bench.server_cpu], || engine(args))??;
    let expect = if args.job == Job::Whoami { "answer" } else { "close" };
    let load = Load {
        program: &bench.tools.load,
        cpu: bench.client_cpu,
        target: engine.addresses()[0],
        expect,
        pace,
        drain: load::DRAIN,
        more: &[],
        under: &[],
    };
    let outcome = load.run()?;
    engine.drain(DRAIN);
    let closed_loop = matches!(pace, Pace::Closed { .. });
    bench.say(format!(
        "{:.0} /s{}",
        outcome.report.rate,
        if closed_loop { ", as fast as 64 at a time go" } else { "" }
    ));
    let snapshot = engine.snapshot();
    let counters = snapshot.counters().iter().copied().filter(|(_, count)| *count > 0).collect();
    let mut stages = of_engine(&snapshot);
    let seen = match args.job {
        Job::Whoami => (&outcome.report.latency.first_byte, &outcome.curves.first_byte),
        _ => (&outcome.report.latency.end, &outcome.curves.end),
    };
    stages.push(Stage {
        name: if args.job == Job::Whoami { "client: start to first byte" } else { "client: start to end" },
        p50: seen.0.p50,
        p90: seen.0.p90,
        p99: seen.0.p99,
        p999: seen.0.p999,
        max: seen.0.max,
        curve: seen.1.iter().map(|micros| *micros as u64).collect(),
    });
    Ok(Run {
        rate: outcome.report.rate,
        closed_loop,
        connections: outcome.report.connections.started,
        stages,
        counters,
    })
}

fn engine(args: &Args) -> Result<Engine, String> {
    let pool = match args.job {
        Job::Whoami => Pool::threads(POOL, 1, Whoami),
        Job::Discard => Pool::threads(POOL, 1, Discard),
        other => return Err(format!("no stages to measure for job {other}; there are discard and whoami")),
    };
    let address = crate::server::free_address();
    let trusted = "127.0.0.0/8".parse().expect("a network");
    let listener = Listener::proxy(address).trust([trusted]).pool(POOL).defer_accept(!args.no_defer_accept);
    Engine::builder().pool(pool).listen(listener).start().map_err(|error| error.to_string())
}

fn of_engine(snapshot: &Snapshot) -> Vec<Stage> {
    let stages = [
        ("accept to header complete, and offered to the pool", snapshot.header_wait()),
        ("accept to worker", snapshot.accept_to_worker()),
    ];
    stages
        .into_iter()
        .map(|(name, histogram)| {
            let at = |quantile| histogram.value_at_quantile(quantile);
            let curve = CURVE.into_iter().map(at).collect();
            Stage { name, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max(), curve }
        })
        .collect()
}

fn title(run: &Run) -> String {
    match run.closed_loop {
        true => format!("As fast as 64 at a time go: {:.0} connections a second", run.rate),
        false => format!("{:.0} connections a second", run.rate),
    }
}

fn text(results: &Results) -> String {
    let mut text =
        "\n| load | from ... to ... (microseconds) | p50 | p90 | p99 | p99.9 | max |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for run in &results.runs {
        for Stage { name, p50, p90, p99, p999, max, .. } in &run.stages {
            text.push_str(&format!("| {} | {name} | {p50} | {p90} | {p99} | {p999} | {max} |\n", title(run)));
        }
    }
    text
}

fn page(results: &Results) -> Result<Page, String> {
    let mut page = Page::new("Stages of a connection inside Vestibule", &results.machine);
    page.paragraph(&format!(
        "Job {}, one ring and one worker thread on one core, listener {} TCP_DEFER_ACCEPT. The clock of a connection starts \
         when its ring sees the completion of the accept, and is read once a turn of the ring's loop: header complete and \
         offer to the pool are in the same turn. The clock of the client starts when the connection should have started.",
        results.job,
        if results.defer_accept { "with" } else { "without" }
    ));
    for run in &results.runs {
        page.heading(&title(run));
        let lines: Vec<Line> = run.stages.iter().enumerate().map(line).collect();
        page.figure(&plot::percentiles(&lines, "microseconds")?, &format!("{} connections", run.connections));
        page.table(
            &["stage", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "max µs"],
            run.stages.iter().map(|stage| {
                let values = [stage.p50, stage.p90, stage.p99, stage.p999, stage.max];
                let values = values.into_iter().map(|value| number(Some(value as f64), 0));
                std::iter::once(stage.name.into()).chain(values).collect()
            }),
        );
    }
    Ok(page)
}

fn line((colour, stage): (usize, &Stage)) -> Line {
    let points =
        CURVE.iter().zip(&stage.curve).map(|(quantile, micros)| (1.0 / (1.0 - quantile), (*micros).max(1) as f64));
    Line { name: stage.name.to_owned(), points: points.collect(), colour }
}

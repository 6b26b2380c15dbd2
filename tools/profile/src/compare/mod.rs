//! `compare`: Vestibule and its peers one after another on one core, in interleaved rounds.

mod goals;
mod page;
mod results;

use std::path::PathBuf;
use std::time::Duration;

use crate::bench::{self, Bench, time};
use crate::load::{Outcome, Pace};
use crate::machine::Machine;
use crate::measure::{Round, measure};
use crate::report::plot;
use crate::rounds::rounds;
use crate::server::is_interrupted;
use crate::systems::{Job, Program, System, versions};
use results::{LatencyRound, Measured, Results};

const QUICK_ROUNDS: usize = 1;
const QUICK_TIME: Duration = Duration::from_millis(250);
const LATENCY_ROUNDS_MAX: usize = 5;
/// Part of the saturation rate at which latencies are taken.
const LATENCY_LOAD: f64 = 0.5;

/// What `compare` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile compare                       everything that is installed; about 3 minutes
  vestibule-profile compare --quick               does it work here? 20 seconds
  vestibule-profile compare --jobs discard --systems vestibule,haproxy --rounds 10
                                                  one pair, with a good view of the spread
  vestibule-profile compare --beside old/vestibule --systems vestibule,vestibule-beside,floor
                                                  two builds of the daemon
  vestibule-profile compare --rate 4000           latencies at a rate of your own
  vestibule-profile compare --svg compare.svg     the picture also by itself

What is compared is CPU time of the server a connection: all its processes and threads, kernel
included. On loopback the client's core pays for most of the handshake, so connections a second
tell about the load generator.")]
pub struct Args {
    /// Rounds: each measures every system once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// How long each system is measured in a round
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "1s")]
    duration: Duration,

    /// Connections at any time
    #[arg(short = 'c', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,

    /// What servers have to do
    #[arg(long, value_delimiter = ',', value_name = "JOB,...")]
    jobs: Vec<Job>,

    /// Which programs; the ratio needs vestibule
    #[arg(long, value_delimiter = ',', value_name = "PROGRAM,...")]
    systems: Vec<Program>,

    /// Starts a second for latencies; 0: none [default: half of what the slowest but Dovecot can do]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,

    /// One short round: only whether it works
    #[arg(long)]
    quick: bool,

    /// Write the bars to this file as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    bench: bench::Args,
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let mut measured: Vec<Measured> = Vec::new();
    for system in wanted(args) {
        match system.missing(&bench.tools) {
            Some(what) => bench.say(format!("skipped: {system}: {what}")),
            None => measured.push(Measured::new(system)),
        }
    }
    if measured.is_empty() {
        return Err("nothing to measure: no program of --systems that is installed has a job of --jobs".to_owned());
    }
    cpu_rounds(&bench, args, &mut measured);
    if measured.iter().all(|one| one.rounds.is_empty()) {
        return Err("nothing could be measured: see above".to_owned());
    }
    let rate = args.rate.unwrap_or_else(|| half_of_saturation(&measured));
    let rate = if is_interrupted() { 0.0 } else { rate };
    if rate > 0.0 {
        latency_rounds(&bench, args, rate, &mut measured);
    }
    let results = Results::new(Machine::here(&bench.tools), versions(&bench.tools), rate, measured);
    let svg = page::picture(&results)?;
    if let Some(path) = &args.svg {
        std::fs::write(path, plot::standalone(&svg)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    print!("{}", page::text(&results));
    let files = page::page(&results, &svg, &bench)?.write(&Bench::prefix(&args.bench, "compare"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn wanted(args: &Args) -> impl Iterator<Item = System> {
    System::all().filter(|system| {
        let asked_for = system.program != Program::VestibuleBeside || args.bench.beside.is_some();
        asked_for
            && (args.jobs.is_empty() || args.jobs.contains(&system.job))
            && (args.systems.is_empty() || args.systems.contains(&system.program))
    })
}

fn cpu_rounds(bench: &Bench, args: &Args, measured: &mut [Measured]) {
    let (count, time) = extent(args);
    let pace = Pace::Closed { in_flight: usize::from(args.in_flight), time };
    let say = |line| bench.say(line);
    rounds("round", count, measured, say, |one| {
        let (round, _) = afresh(bench, one.system, pace)?;
        let result = round.to_string();
        one.rounds.push(round);
        Ok(result)
    });
}

/// Rounds, and for how long each system is measured in one.
fn extent(args: &Args) -> (usize, Duration) {
    if args.quick { (QUICK_ROUNDS, QUICK_TIME) } else { (usize::from(args.rounds), args.duration) }
}

/// Measures a system that was started for it.
fn afresh(bench: &Bench, system: System, pace: Pace) -> Result<(Round, Outcome), String> {
    let server = bench.warm(system)?;
    measure(bench, &server, cheap(system), pace)
}

/// The warm-up has checked every answer; while it is measured the client looks at less.
fn cheap(system: System) -> &'static str {
    match system.expected() {
        "whoami" => "answer",
        other => other,
    }
}

fn half_of_saturation(measured: &[Measured]) -> f64 {
    let rates = measured.iter().filter(|one| one.system.program != Program::Dovecot).filter_map(Measured::rate);
    (rates.fold(f64::INFINITY, f64::min).min(1e6) * LATENCY_LOAD / 100.0).round() * 100.0
}

fn latency_rounds(bench: &Bench, args: &Args, rate: f64, measured: &mut [Measured]) {
    let (count, time) = extent(args);
    let say = |line| bench.say(line);
    rounds("latency", count.min(LATENCY_ROUNDS_MAX), measured, say, |one| {
        // Dovecot is slower than the others: it gets half of what it can do.
        let rate = one.rate().map_or(rate, |own| rate.min(own * LATENCY_LOAD));
        let (round, outcome) = afresh(bench, one.system, Pace::Open { rate, time })?;
        let latencies = LatencyRound::new(one.system.job, rate, round, outcome);
        let result = latencies.to_string();
        one.latencies.push(latencies);
        Ok(result)
    });
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1e6).contains(&rate) => Ok(rate),
        _ => Err("connections a second, 0 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bounded() {
        assert_eq!(rate("0"), Ok(0.0));
        assert!(["-1", "nan", "1e7", "x"].into_iter().all(|text| rate(text).is_err()));
    }
}

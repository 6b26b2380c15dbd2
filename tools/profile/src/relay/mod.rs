//! `relay`: what a relayed session costs, beside HAProxy, nginx, a tokio relay and the floor.

pub mod backend;
pub mod client;
pub mod floor;
mod goals;
mod jobs;
mod page;
mod results;
mod scale;
mod site;
mod systems;
mod task;
pub mod tokio;
mod words;

use std::fmt::Display;
use std::time::Duration;

use crate::bench::{self, Bench, time};
use crate::machine::Machine;
use crate::rounds::rounds;
use crate::server::{is_interrupted, open_files};
use jobs::{Extent, Job};
use results::{Measured, Results};
use systems::System;

const ROUNDS_QUICK: usize = 1;
/// Most descriptors that a relay needs beside two a session.
const SPARE: u64 = 600;
/// Sessions that chat in `chatter` and `mixed`, and how much.
const CHATTERS: u32 = 1000;
const CHATTER_RATE: u32 = 5000;
const ANSWER: u64 = 64 << 20;
/// As long as HAProxy and others take to give back what idle sessions do not need, and more.
const REST: f64 = 2.0;

/// What `relay` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile relay                         everything that is installed; about 10 minutes
  vestibule-profile relay --quick                 does it work here? A minute
  vestibule-profile relay --jobs short,connect --systems vestibule,haproxy --rounds 10
                                                  one pair, with a good view of the spread
  vestibule-profile relay --jobs idle --sessions 4000

Relays run on one CPU, clients and a mail server made for it on another. What is compared is CPU
time of the relay, kernel included; its memory; and the latency of small messages. Every byte of
every answer is checked, and sessions are counted by client, mail server and session log.")]
pub struct Args {
    /// Rounds: each measures every system once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// How long each system is measured in a round
    #[arg(short = 'd', long = "seconds", visible_alias = "duration", value_name = "TIME", value_parser = time,
          default_value = "2s")]
    duration: Duration,

    /// Sessions held in `idle`, and at most in `scale`; what the limit of open files does not allow is lowered to it
    #[arg(short = 'n', long, value_name = "N", default_value_t = 9000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    sessions: u32,

    /// What relays have to do [default: everything]
    #[arg(long, value_delimiter = ',', value_name = "JOB,...")]
    jobs: Vec<Job>,

    /// Which relays; ratios need vestibule [default: all]
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM,...")]
    systems: Vec<System>,

    /// One short round with few sessions: only whether it works
    #[arg(long)]
    quick: bool,

    #[command(flatten)]
    bench: bench::Args,
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let extent = extent(args, open_files());
    let count = if args.quick { ROUNDS_QUICK } else { usize::from(args.rounds) };
    for system in all_systems().filter(|system| wants(&args.systems, *system)) {
        if let Some(what) = system.missing() {
            bench.say(format!("skipped: {system}: {what}"));
        }
    }
    let mut measured = Vec::new();
    for job in all_jobs().filter(|job| wants(&args.jobs, *job)) {
        measured.extend(measure(&bench, args, job, count, &extent));
    }
    let scale = match wants(&args.jobs, Job::Scale) && wants(&args.systems, System::Vestibule) && !is_interrupted() {
        true => scale::measure(&bench, count, &extent, args.quick),
        false => Vec::new(),
    };
    if measured.iter().all(|one| one.rounds.is_empty()) && scale.iter().all(|one| one.rounds.is_empty()) {
        return Err("nothing could be measured: see above".to_owned());
    }
    let results = Results::new(Machine::here(&bench.tools), systems::versions(&bench.tools), extent, measured, scale);
    print!("{}", page::text(&results));
    let files = page::page(&results, &bench)?.write(&Bench::prefix(&args.bench, "relay"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

/// All systems of one job, in rounds.
fn measure(bench: &Bench, args: &Args, job: Job, count: usize, extent: &Extent) -> Vec<Measured> {
    let wanted = System::of(job).filter(|system| wants(&args.systems, *system) && system.missing().is_none());
    let mut measured: Vec<Measured> = wanted.map(|system| Measured::new(job, system)).collect();
    if is_interrupted() {
        return measured;
    }
    let say = |line| bench.say(line);
    rounds("round", count, &mut measured, say, |one| {
        let round = job.measure(bench, one.system, extent)?;
        let result = round.to_string();
        one.rounds.push(round);
        Ok(result)
    });
    measured
}

fn extent(args: &Args, open_files: u64) -> Extent {
    let room = u32::try_from(open_files.saturating_sub(SPARE) / 2).unwrap_or(u32::MAX);
    match args.quick {
        true => Extent { seconds: 0.25, idle: 64, chatters: 50, chatter_rate: 1000, answer: 1 << 20, rest: 0.2 },
        false => Extent {
            seconds: args.duration.as_secs_f64(),
            idle: args.sessions.min(room),
            chatters: CHATTERS,
            chatter_rate: CHATTER_RATE,
            answer: ANSWER,
            rest: REST,
        },
    }
}

fn wants<T: PartialEq>(asked: &[T], one: T) -> bool {
    asked.is_empty() || asked.contains(&one)
}

fn all_systems() -> impl Iterator<Item = System> {
    <System as clap::ValueEnum>::value_variants().iter().copied()
}

/// All but the one that has points.
fn all_jobs() -> impl Iterator<Item = Job> {
    <Job as clap::ValueEnum>::value_variants().iter().copied().filter(|job| *job != Job::Scale)
}

/// Puts before an error what was tried.
fn failed<E: Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// A runtime on this thread.
fn local_runtime() -> Result<::tokio::runtime::Runtime, String> {
    ::tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("a runtime"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        Line::try_parse_from([&["relay"], words].concat()).expect("a valid command line").args
    }

    #[test]
    fn held_sessions_fit_the_open_files() {
        assert_eq!(extent(&args(&[]), 20_000).idle, 9000);
        assert_eq!(extent(&args(&[]), 1024).idle, 212);
        assert_eq!(extent(&args(&["-n", "500"]), 20_000).idle, 500);
    }

    #[test]
    fn systems_and_jobs_are_chosen_by_name() {
        let args = args(&["--systems", "vestibule,nginx-256k,haproxy-nolog", "--jobs", "short8,mixed"]);
        assert_eq!(args.systems, [System::Vestibule, System::Nginx256k, System::HaproxyNolog]);
        assert_eq!(args.jobs, [Job::Short8, Job::Mixed]);
    }
}

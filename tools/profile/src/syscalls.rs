//! `syscalls`: what a server asks of the kernel for one connection, counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use vestibule_peers::{find_program, temp_dir};

use crate::bench::{self, Bench};
use crate::load::{Load, Pace};
use crate::machine::Machine;
use crate::proc;
use crate::report::{Cell, FORMAT, Page, number};
use crate::server::{Process, pause};
use crate::systems::{Job, Program, System};

/// How long strace may take to attach.
const ATTACH: Duration = Duration::from_secs(1);
const DETACH: Duration = Duration::from_secs(10);
/// What is asked for less often belongs to the start or the end of the run.
const SHOWN_FROM: f64 = 0.0005;

/// What `syscalls` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile syscalls
  vestibule-profile syscalls --job discard --systems vestibule,haproxy -n 50000
  vestibule-profile syscalls --systems vestibule -c 4096

Counts by tracepoints through perf(1), system calls and io_uring operations; where perf is not
there or not allowed, by strace(1), which sees system calls only. Counting slows a server down:
this says how often, not how long.")]
pub struct Args {
    /// Connections
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    connections: u64,

    /// Connections at any time
    #[arg(short = 'c', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,

    /// What servers have to do
    #[arg(long, value_enum, default_value_t = Job::Whoami)]
    job: Job,

    /// Which programs
    #[arg(long, value_delimiter = ',', value_name = "PROGRAM,...")]
    systems: Vec<Program>,

    #[command(flatten)]
    bench: bench::Args,
}

/// How it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Counter {
    Perf,
    Strace,
}

/// Counts of one system, by name.
#[derive(Debug, Serialize)]
struct Counted {
    system: System,
    connections: u64,
    system_calls: BTreeMap<String, u64>,
    /// Tracepoints of io_uring; empty with strace.
    io_uring: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    counter: Counter,
    counted: Vec<Counted>,
}

/// Counts and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let counter = counter()?;
    let wanted = System::all().filter(|system| {
        // One of each is enough: TCP_DEFER_ACCEPT changes when, and how much at once; Vestibule comes with it.
        let with_it =
            [Program::Vestibule, Program::VestibuleBeside, Program::VestibuleEpoll, Program::Floor, Program::Haproxy];
        let usual = system.defer || !with_it.contains(&system.program);
        let asked_for = system.program != Program::VestibuleBeside || args.bench.beside.is_some();
        usual
            && asked_for
            && system.job == args.job
            && (args.systems.is_empty() || args.systems.contains(&system.program))
    });
    let mut counted = Vec::new();
    for system in wanted {
        if let Some(what) = system.missing(&bench.tools) {
            bench.say(format!("skipped: {system}: {what}"));
            continue;
        }
        let one = match counter {
            Counter::Perf => by_perf(&bench, system, args)?,
            Counter::Strace => by_strace(&bench, system, args)?,
        };
        bench.say(format!("{system:<36} {:.2} system calls a connection", each(&one, total(&one.system_calls))));
        counted.push(one);
    }
    let results = Results {
        tool: "vestibule-profile syscalls",
        format: FORMAT,
        machine: Machine::here(&bench.tools),
        counter,
        counted,
    };
    print!("{}", text(&results));
    let files = page(&results).write(&Bench::prefix(&args.bench, "syscalls"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn counter() -> Result<Counter, String> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "syscalls:sys_enter_close", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    if perf.status().is_ok_and(|status| status.success()) {
        return Ok(Counter::Perf);
    }
    find_program("strace").map(|_| Counter::Strace).ok_or_else(|| {
        "neither can perf(1) count tracepoints here (install it, Debian: linux-perf, and run it as root) nor is strace(1) \
         installed (Debian: strace)"
            .to_owned()
    })
}

fn pids(root: u32) -> Vec<String> {
    proc::tree(root).iter().map(|process| process.pid.to_string()).collect()
}

/// perf counts while the load generator, its own child, runs.
fn by_perf(bench: &Bench, system: System, args: &Args) -> Result<Counted, String> {
    let server = bench.warm(system)?;
    let files = temp_dir();
    let counts = files.path().join("counts");
    let under = ["perf", "stat", "-x,", "-e", "syscalls:sys_enter_*", "-e", "io_uring:*", "-p"].map(String::from);
    let under = under.into_iter().chain([pids(server.pid()).join(","), "-o".into(), counts.display().to_string()]);
    let under: Vec<String> = under.chain(["--".into()]).collect();
    let in_flight = args.in_flight.to_string();
    let load = bench.load(&server, system.expected(), Pace::Count(args.connections));
    let outcome = Load { under: &under, more: &["-c", &in_flight], ..load }.run()?;
    let said = fs::read_to_string(&counts).map_err(|error| format!("perf has counted nothing: {error}"))?;
    let mut counted = Counted {
        system,
        connections: outcome.report.connections.started,
        system_calls: BTreeMap::new(),
        io_uring: BTreeMap::new(),
    };
    for (event, count) in perf_counts(&said) {
        match event.split_once(':') {
            Some(("syscalls", name)) => counted.system_calls.insert(name.replace("sys_enter_", ""), count),
            _ => counted.io_uring.insert(event.replace("io_uring:io_uring_", ""), count),
        };
    }
    match total(&counted.system_calls) {
        0 => Err(format!("perf has seen no system call of {system}; it said:\n{said}")),
        _ => Ok(counted),
    }
}

fn by_strace(bench: &Bench, system: System, args: &Args) -> Result<Counted, String> {
    let server = bench.warm(system)?;
    let files = temp_dir();
    let counts = files.path().join("counts");
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-o"]).arg(&counts);
    for pid in pids(server.pid()) {
        command.args(["-p", &pid]);
    }
    let mut strace = Process::start(command, &[bench.client_cpu])?;
    pause(ATTACH)?;
    let in_flight = args.in_flight.to_string();
    let load = bench.load(&server, system.expected(), Pace::Count(args.connections));
    let outcome = Load { more: &["-c", &in_flight], ..load }.run()?;
    strace.interrupt(DETACH).map_err(|error| format!("strace {error}"))?;
    let table = read(&counts)?;
    let system_calls: BTreeMap<String, u64> = strace_counts(&table).collect();
    match system_calls.is_empty() {
        true => Err(format!("strace has seen no system call of {system}; it said:\n{table}{}", strace.output())),
        false => Ok(Counted {
            system,
            connections: outcome.report.connections.started,
            system_calls,
            io_uring: BTreeMap::new(),
        }),
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The lines of `perf stat -x,`: count, unit, event, ...; counts that are not zero.
fn perf_counts(text: &str) -> impl Iterator<Item = (String, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok().filter(|count| *count > 0)?;
        Some((fields.nth(1)?.to_owned(), count))
    })
}

/// The table of `strace -c`: % time, seconds, usecs/call, calls, errors (may be empty), syscall.
fn strace_counts(text: &str) -> impl Iterator<Item = (String, u64)> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.last().filter(|name| fields.len() >= 5 && **name != "total")?;
        fields[0].parse::<f64>().ok()?;
        Some(((*name).to_owned(), fields[3].parse().ok()?))
    })
}

fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

fn each(counted: &Counted, count: u64) -> f64 {
    count as f64 / counted.connections.max(1) as f64
}

/// (kind, name, by system), the most frequent first.
fn rows(results: &Results) -> Vec<(&'static str, String, Vec<f64>)> {
    let mut rows = Vec::new();
    for (kind, counts) in
        [("system call", Counted::calls as fn(&Counted) -> &BTreeMap<String, u64>), ("io_uring", |c| &c.io_uring)]
    {
        let names: std::collections::BTreeSet<&String> =
            results.counted.iter().flat_map(|one| counts(one).keys()).collect();
        for name in names {
            let of = |one: &Counted| each(one, counts(one).get(name).copied().unwrap_or(0));
            let values: Vec<f64> = results.counted.iter().map(of).collect();
            if values.iter().any(|value| *value >= SHOWN_FROM) {
                rows.push((kind, name.clone(), values));
            }
        }
    }
    rows.sort_by(|a, b| b.0.cmp(a.0).then(sum(&b.2).total_cmp(&sum(&a.2))));
    rows
}

fn sum(values: &[f64]) -> f64 {
    values.iter().sum()
}

impl Counted {
    fn calls(&self) -> &BTreeMap<String, u64> {
        &self.system_calls
    }
}

fn text(results: &Results) -> String {
    let names = results.counted.iter().map(|one| one.system.program.to_string()).collect::<Vec<_>>().join(" | ");
    let line = "---|".repeat(results.counted.len() + 1);
    let mut text = format!("\n| per connection | {names} |\n|{line}\n");
    let totals: Vec<f64> = results.counted.iter().map(|one| each(one, total(&one.system_calls))).collect();
    for (name, values) in std::iter::once(("all system calls".to_owned(), totals))
        .chain(rows(results).into_iter().map(|(kind, name, values)| (format!("{kind} {name}"), values)))
    {
        let values = values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" | ");
        text.push_str(&format!("| {name} | {values} |\n"));
    }
    text
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("System calls and io_uring operations a connection", &results.machine);
    page.heading(&format!("Job {}", results.counted.first().map_or(Job::Whoami, |one| one.system.job)));
    page.paragraph(
        "How often a server asks something of the kernel, divided by the connections served, in a closed loop of 64. The \
         rows of io_uring are its tracepoints: submit_req is an operation submitted, complete a completion posted. What \
         is asked for less often than once in 2,000 connections is left out.",
    );
    let names: Vec<String> = results.counted.iter().map(|one| one.system.program.to_string()).collect();
    let columns: Vec<&str> = ["what", "name"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let all = results.counted.iter().map(|one| number(Some(each(one, total(&one.system_calls))), 3));
    let first: Vec<Cell> = ["system calls".into(), "all".into()].into_iter().chain(all).collect();
    let rest = rows(results).into_iter().map(|(kind, name, values)| {
        let values = values.into_iter().map(|value| number(Some(value), 3));
        [kind.into(), name.into()].into_iter().chain(values).collect()
    });
    page.table(&columns, std::iter::once(first).chain(rest));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_perf_are_read() {
        let text = "# started on Mon\n\n12,,syscalls:sys_enter_close,100,100.00,,\n0,,syscalls:sys_enter_read,1,100.00,,\n\
                    <not counted>,,io_uring:io_uring_defer,0,0.00,,\n";
        assert_eq!(perf_counts(text).collect::<Vec<_>>(), [("syscalls:sys_enter_close".to_owned(), 12)]);
    }

    #[test]
    fn the_table_of_strace_is_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n \
                    62.79    0.055122           2     20000       139 futex\n \
                    37.21    0.032668           1     20003           close\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.087790           2     40003       139 total\n";
        let counts: Vec<_> = strace_counts(text).collect();
        assert_eq!(counts, [("futex".to_owned(), 20_000), ("close".to_owned(), 20_003)]);
    }
}

//! `pending`: what connections cost that have not sent their header yet, and how exactly they are ended.

use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use vestibule_load::BehaviourReport;
use vestibule_peers::temp_dir;

use crate::bench::{self, Bench};
use crate::load::{Load, Outcome, Pace};
use crate::machine::Machine;
use crate::proc::Memory;
use crate::report::{Cell, FORMAT, Page, number};
use crate::server::{Recipe, Server, established, free_address, open_files, pause};

/// The smallest `pending_limit` that the daemon takes.
const PENDING_LIMIT_MIN: u64 = 16;
/// How long a client waits for the end of silent connections: longer than any timeout here.
const LONGEST: Duration = Duration::from_secs(70);
/// How fast silent connections are opened.
const RATE: f64 = 10_000.0;
/// Descriptors that programs need beside connections.
const SPARE: u64 = 256;
/// How long the CPU use of waiting connections is watched.
const WATCH: Duration = Duration::from_secs(3);
/// `haproxy_timeout` while deadlines are measured, in seconds.
const DEADLINE: u32 = 3;
/// How long a connection may outlive its deadline.
const LATE_AT_MOST: Duration = Duration::from_millis(100);

/// What `pending` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile pending     100,000 silent connections, or as many as open files are allowed
  vestibule-profile pending -n 20000

First the connections wait under a timeout so long that none ends: their memory and CPU. Then
under one of 3 s: how long after it each is closed. The listener is without TCP_DEFER_ACCEPT, so
that every silent connection is the daemon's own from the start.")]
pub struct Args {
    /// Silent connections
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    connections: u32,

    /// Silent connections whose deadlines are measured
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    deadlines: u32,

    #[command(flatten)]
    bench: bench::Args,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    /// Why fewer than asked for were opened.
    limited: Option<String>,
    waiting: Waiting,
    deadlines: Deadlines,
}

#[derive(Debug, Serialize)]
struct Waiting {
    connections: u64,
    /// A daemon with room for 16, idle.
    memory_idle: Memory,
    /// A daemon with room for all, idle.
    memory_room: Memory,
    /// The same with all of them waiting.
    memory_waiting: Memory,
    /// (`memory_waiting` - `memory_idle`) / connections, by PSS.
    bytes_each: f64,
    /// Part of a core used while they wait.
    core: f64,
}

#[derive(Debug, Serialize)]
struct Deadlines {
    connections: u64,
    /// Closed by the daemon.
    closed: u64,
    timeout_seconds: f64,
    /// From the start of a connection to its end, seconds.
    first: f64,
    median: f64,
    p99: f64,
    last: f64,
    /// `last` - `timeout_seconds`, which still holds the client's own lateness.
    late_at_most: f64,
    /// Whether all were closed, none before the deadline and none later than 100 ms after it: what the goal asks for.
    within_100_ms: bool,
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let room = open_files();
    let limit = |wanted: u32| u64::from(wanted).min(room.saturating_sub(SPARE));
    let (count, deadlines) = (limit(args.connections), limit(args.deadlines));
    let limited = (count < u64::from(args.connections))
        .then(|| format!("the limit of open files is {room} (`ulimit -Hn`): {count} instead of {}", args.connections));
    if let Some(why) = &limited {
        bench.say(why);
    }
    let waiting = waiting(&bench, count)?;
    let deadlines = deadline_precision(&bench, deadlines)?;
    let machine = Machine::here(&bench.tools);
    let results = Results { tool: "vestibule-profile pending", format: FORMAT, machine, limited, waiting, deadlines };
    print!("{}", text(&results));
    let files = page(&results).write(&Bench::prefix(&args.bench, "pending"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn daemon(bench: &Bench, pending_limit: u64, timeout: u32) -> Result<Server, String> {
    let (address, directory) = (free_address(), temp_dir());
    let text = format!(
        "haproxy_trusted_networks = 127.0.0.0/8\nhaproxy_timeout = {timeout} secs\npending_limit = {pending_limit}\n\
         service bench {{\n  worker = discard\n  inet_listener proxy {{\n    address = {}\n    port = {}\n    \
         haproxy = yes\n    defer_accept = no\n  }}\n}}\n",
        address.ip(),
        address.port()
    );
    let file = directory.path().join("vestibule.conf");
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut command = Command::new(&bench.tools.vestibule);
    command.arg("serve").arg("-c").arg(file);
    let recipe = Recipe { name: "vestibule".into(), command, address, directory: Some(directory) };
    Server::start(recipe, bench.server_cpu)
}

fn silent<'a>(bench: &'a Bench, server: &Server, more: &'a [&'a str], opening: f64) -> Load<'a> {
    // All have been opened before the time is over; then the client waits for their ends.
    let time = Duration::from_secs_f64(opening + 1.0);
    Load { more, drain: LONGEST, ..bench.load(server, "any", Pace::Open { rate: RATE, time }) }
}

fn waiting(bench: &Bench, count: u64) -> Result<Waiting, String> {
    const TIMEOUT: u32 = 60;
    let idle = daemon(bench, PENDING_LIMIT_MIN, TIMEOUT)?;
    let memory_idle = idle.memory();
    drop(idle);
    let server = daemon(bench, count, TIMEOUT)?;
    let memory_room = server.memory();
    let number = count.to_string();
    let more = ["--behaviour", "silent", "-n", &number, "-c", &number, "--deadline", "70s"];
    let opening = count as f64 / RATE;
    let (client, _files) = silent(bench, &server, &more, opening).start()?;
    pause(Duration::from_secs_f64(opening + 1.0))?;
    let (before, begun) = (server.usage(), Instant::now());
    pause(WATCH)?;
    let (used, watched) = (server.usage() - before, begun.elapsed());
    let memory_waiting = server.memory();
    let open = established(server.address)?;
    if open != count {
        let (ours, theirs) = (server.output(), client.output());
        return Err(format!(
            "{open} of {count} silent connections were there; vestibule said:\n{ours}\nvestibule-load said:\n{theirs}"
        ));
    }
    drop(client);
    let grown = memory_waiting.pss_kib.saturating_sub(memory_idle.pss_kib) * 1024;
    let core = used.cpu.as_secs_f64() / watched.as_secs_f64();
    bench.say(format!("{open} wait: {:.0} bytes each, {:.2} % of a core", grown as f64 / open as f64, core * 100.0));
    let bytes_each = grown as f64 / open as f64;
    Ok(Waiting { connections: open, memory_idle, memory_room, memory_waiting, bytes_each, core })
}

fn deadline_precision(bench: &Bench, count: u64) -> Result<Deadlines, String> {
    let server = daemon(bench, count, DEADLINE)?;
    let number = count.to_string();
    let more = ["--behaviour", "silent", "-n", &number, "-c", &number, "--deadline", "10s"];
    let outcome: Outcome = silent(bench, &server, &more, count as f64 / RATE).run()?;
    let [silent] = outcome.report.behaviours.as_slice() else {
        return Err("no results for silent connections".to_owned());
    };
    let deadlines = Deadlines::new(silent);
    bench.say(format!(
        "{} of {} silent connections closed, {:.3} to {:.3} s after their start",
        deadlines.closed, deadlines.connections, deadlines.first, deadlines.last
    ));
    Ok(deadlines)
}

impl Deadlines {
    fn new(silent: &BehaviourReport) -> Deadlines {
        let (end, seconds) = (&silent.latency.end, |micros: u64| micros as f64 / 1e6);
        let timeout = Duration::from_secs(DEADLINE.into());
        let kept = timeout.as_micros()..=(timeout + LATE_AT_MOST).as_micros();
        let all_kept = [end.min, end.max].into_iter().all(|micros| kept.contains(&micros.into()));
        Deadlines {
            connections: silent.started,
            closed: silent.ok,
            timeout_seconds: timeout.as_secs_f64(),
            first: seconds(end.min),
            median: seconds(end.p50),
            p99: seconds(end.p99),
            last: seconds(end.max),
            late_at_most: seconds(end.max) - timeout.as_secs_f64(),
            within_100_ms: all_kept && silent.ok == silent.started,
        }
    }
}

fn rows(results: &Results) -> Vec<(&'static str, String)> {
    let (waiting, deadlines) = (&results.waiting, &results.deadlines);
    let mib = |memory: &Memory| format!("{:.1} MiB", memory.pss_kib as f64 / 1024.0);
    vec![
        ("silent connections", waiting.connections.to_string()),
        ("memory (PSS), room for 16, idle", mib(&waiting.memory_idle)),
        ("memory (PSS), room for all, idle", mib(&waiting.memory_room)),
        ("memory (PSS), all of them waiting", mib(&waiting.memory_waiting)),
        ("own memory a waiting connection", format!("{:.0} bytes", waiting.bytes_each)),
        ("CPU while they wait", format!("{:.2} % of a core", waiting.core * 100.0)),
        ("deadlines: connections closed", format!("{} of {}", deadlines.closed, deadlines.connections)),
        ("deadline", format!("{:.3} s", deadlines.timeout_seconds)),
        ("first, median, 99th percentile, last", {
            format!("{:.3}, {:.3}, {:.3}, {:.3} s", deadlines.first, deadlines.median, deadlines.p99, deadlines.last)
        }),
        ("late at most", format!("{:.1} ms", deadlines.late_at_most * 1e3)),
    ]
}

fn text(results: &Results) -> String {
    let head = "\n| what | value |\n|---|---|\n".to_owned();
    rows(results).into_iter().fold(head, |text, (name, value)| format!("{text}| {name} | {value} |\n"))
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("Connections that wait for their header", &results.machine);
    if let Some(why) = &results.limited {
        page.paragraph(why);
    }
    page.paragraph(
        "Own memory: PSS of the daemon with all of them waiting, less that of an idle daemon with room for 16 connections, \
         so that buffers allocated at the start count too; the kernel's socket buffers are not in it. The time of a \
         deadline runs from the moment the client should have started the connection, so it holds the handshake and the \
         client's own lateness.",
    );
    page.table(
        &["what", "value"],
        rows(results).into_iter().map(|(name, value)| vec![name.into(), Cell::Number(value)]),
    );
    page.table(
        &["goal", "at most", "measured"],
        goals(results).map(|(name, most, value, met)| {
            vec![name.into(), number(Some(most), 0), Cell::Verdict(met, format!("{value:.2}"))]
        }),
    );
    page
}

/// (goal, at most, measured, whether it is met).
fn goals(results: &Results) -> [(&'static str, f64, f64, bool); 3] {
    let Results { waiting, deadlines, .. } = results;
    let at_most = |name, most, value| (name, most, value, value <= most);
    let late = "milliseconds after the deadline; all closed, none before it";
    [
        at_most("bytes a waiting connection", 512.0, waiting.bytes_each),
        at_most("percent of a core while they wait", 1.0, waiting.core * 100.0),
        (late, LATE_AT_MOST.as_secs_f64() * 1e3, deadlines.late_at_most * 1e3, deadlines.within_100_ms),
    ]
}

#[cfg(test)]
mod tests {
    use vestibule_load::{LatencyReport, Quantiles};

    use super::*;

    fn silent(ok: u64, min: u64, max: u64) -> BehaviourReport {
        let end = Quantiles { count: ok, min, max, ..Quantiles::default() };
        let latency = LatencyReport { end, ..LatencyReport::default() };
        BehaviourReport { started: 10, ok, latency, ..BehaviourReport::default() }
    }

    #[test]
    fn a_deadline_is_kept_by_all_and_from_both_sides() {
        for (silent, kept) in [
            (silent(10, 3_000_000, 3_100_000), true),
            (silent(10, 2_999_999, 3_000_000), false),
            (silent(10, 3_000_000, 3_100_001), false),
            (silent(9, 3_000_000, 3_000_000), false),
        ] {
            assert_eq!(Deadlines::new(&silent).within_100_ms, kept, "{silent:?}");
        }
    }
}

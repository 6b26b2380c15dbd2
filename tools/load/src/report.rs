//! The results of a run: the keys of the JSON output, which stay as they are once published.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::behaviour::Deserves;
use crate::conn::{Cause, Phase};
use crate::garbage::KINDS;
use crate::header::SHAPES;
use crate::plan::{Mode, Plan};
use crate::tally::{Counts, Latencies, Part, Tally};

/// Goes up when a key changes its meaning or goes away.
const FORMAT: u32 = 1;

/// Clocks of a run.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From the first start to the last outcome.
    pub elapsed: Duration,
    /// From the first start to the last, or to the end of the duration.
    pub starting: Duration,
    /// CPU time of this process.
    pub cpu: Duration,
}

/// All results. Latencies are in microseconds, from the intended start of the connection.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `vestibule-load`.
    pub tool: &'static str,
    /// Of the tool.
    pub version: &'static str,
    /// Of these keys.
    pub format: u32,
    /// The command line, as typed.
    pub command: Vec<String>,
    /// Address and port.
    pub target: String,
    /// `closed`, `open` or `hold`.
    pub mode: &'static str,
    /// Starts a second that were asked for; null in the closed loop.
    pub rate_asked: Option<f64>,
    /// Most connections that could be open at once.
    pub in_flight_max: usize,
    /// Threads.
    pub threads: usize,
    /// Of the random choices.
    pub seed: u64,
    /// From the first start to the last outcome, in seconds.
    pub elapsed_seconds: f64,
    /// From the first start to the last, in seconds: what `rate` is over.
    pub starting_seconds: f64,
    /// Starts a second that were made.
    pub rate: f64,
    /// CPU time of the client, in seconds.
    pub client_cpu_seconds: f64,
    /// Outcomes of all connections.
    pub connections: Connections,
    /// Bytes of all connections.
    pub bytes: Bytes,
    /// How the receiver ended streams.
    pub ends: Ends,
    /// Failures by phase and cause.
    pub failures: Vec<Failed>,
    /// Wrong answers by kind.
    pub wrong_answers: Vec<WrongAnswers>,
    /// The first wrong answers.
    pub wrong_examples: Vec<String>,
    /// Of the connections that deserve an answer and got one, right or wrong.
    pub latency: LatencyReport,
    /// How late connections were started, in microseconds: the client's own part in `latency`.
    pub start_lag: Quantiles,
    /// By behaviour, in the order asked for.
    pub behaviours: Vec<BehaviourReport>,
    /// Connections by header.
    pub headers: Vec<HeaderReport>,
    /// Garbage sent, by kind, with the reason that it is to be refused for.
    pub garbage: Vec<GarbageReport>,
}

/// Outcomes. `started` is the sum of `ok`, `wrong`, `failed` and `unfinished`.
#[derive(Debug, Serialize)]
pub struct Connections {
    /// Begun.
    pub started: u64,
    /// As they should be.
    pub ok: u64,
    /// With a wrong answer.
    pub wrong: u64,
    /// Without an answer to judge: refused, reset, too late.
    pub failed: u64,
    /// Still open when the run was over.
    pub unfinished: u64,
    /// Due in the open loop and never started, because all places were taken.
    pub not_started: u64,
    /// Most open at once.
    pub open_max: usize,
}

/// Bytes.
#[derive(Debug, Serialize)]
pub struct Bytes {
    /// Handed to the kernel.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

/// Ends by the receiver.
#[derive(Debug, Serialize)]
pub struct Ends {
    /// In order.
    pub fin: u64,
    /// By reset.
    pub reset: u64,
}

/// One kind of failure.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// `socket`, `connect`, `send`, `first-byte`, `end` or `hold`.
    pub phase: &'static str,
    /// The errno's name, `deadline` or `closed`.
    pub cause: String,
    /// How many.
    pub count: u64,
}

/// One kind of wrong answer.
#[derive(Debug, Serialize)]
pub struct WrongAnswers {
    /// Its code.
    pub kind: &'static str,
    /// How many.
    pub count: u64,
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub struct LatencyReport {
    /// Until connect(2) was through.
    pub connect: Quantiles,
    /// Until the first byte of the answer.
    pub first_byte: Quantiles,
    /// Until the end of the connection.
    pub end: Quantiles,
}

/// A distribution, in microseconds; all zero where `count` is.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub stdev: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

/// One behaviour.
#[derive(Debug, Serialize)]
pub struct BehaviourReport {
    /// As asked for.
    pub name: String,
    /// What the receiver had to do: `answer`, `refusal`, `nothing`.
    pub deserves: &'static str,
    /// Begun.
    pub started: u64,
    /// As they should be.
    pub ok: u64,
    /// With a wrong answer.
    pub wrong: u64,
    /// Without an answer to judge.
    pub failed: u64,
    /// Still open when the run was over.
    pub unfinished: u64,
    /// Of those that were ok or wrong.
    pub latency: LatencyReport,
}

/// One header.
#[derive(Debug, Serialize)]
pub struct HeaderReport {
    /// As `--header` names it.
    pub name: &'static str,
    /// Connections that were to send it.
    pub count: u64,
}

/// One kind of garbage.
#[derive(Debug, Serialize)]
pub struct GarbageReport {
    /// As `--behaviour garbage:KIND` names it.
    pub kind: &'static str,
    /// The reason code of the refusal.
    pub reason: &'static str,
    /// Connections that were to send it.
    pub count: u64,
}

impl Report {
    /// The results of `tally`.
    pub fn new(plan: &Plan, tally: &Tally, measured: Measured) -> Report {
        let counts = tally.counts();
        Report {
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            command: std::env::args().collect(),
            target: plan.target.to_string(),
            mode: mode(plan.mode),
            rate_asked: rate_asked(plan.mode),
            in_flight_max: plan.open_max,
            threads: plan.threads,
            seed: plan.seed,
            elapsed_seconds: measured.elapsed.as_secs_f64(),
            starting_seconds: measured.starting.as_secs_f64(),
            rate: counts.started as f64 / measured.starting.as_secs_f64().max(1e-6),
            client_cpu_seconds: measured.cpu.as_secs_f64(),
            connections: connections(&counts, tally),
            bytes: Bytes { sent: tally.bytes_sent, received: tally.bytes_received },
            ends: Ends { fin: tally.fins, reset: tally.resets },
            failures: failures(tally),
            wrong_answers: tally
                .wrongs
                .iter()
                .map(|(wrong, count)| WrongAnswers { kind: wrong.code(), count: *count })
                .collect(),
            wrong_examples: tally.examples.clone(),
            latency: LatencyReport::new(&honest_latencies(plan, tally)),
            start_lag: Quantiles::new(&tally.lag),
            behaviours: behaviours(plan, tally),
            headers: headers(plan, tally),
            garbage: garbage(tally),
        }
    }

    /// Whether something ended, and everything that ended was as it should be.
    pub fn is_good(&self) -> bool {
        let connections = &self.connections;
        connections.ok > 0 && connections.wrong == 0 && connections.failed == 0
    }
}

/// The latencies of the connections that deserve an answer.
pub fn honest_latencies(plan: &Plan, tally: &Tally) -> Latencies {
    let mut total = Latencies::default();
    for (behaviour, part) in plan.behaviours.items().iter().zip(&tally.parts) {
        if behaviour.deserves() == Deserves::Answer {
            total.add(&part.latencies);
        }
    }
    total
}

impl LatencyReport {
    fn new(latencies: &Latencies) -> LatencyReport {
        LatencyReport {
            connect: Quantiles::new(&latencies.connect),
            first_byte: Quantiles::new(&latencies.first_byte),
            end: Quantiles::new(&latencies.end),
        }
    }
}

impl Quantiles {
    fn new(histogram: &Histogram<u64>) -> Quantiles {
        Quantiles {
            count: histogram.len(),
            min: if histogram.is_empty() { 0 } else { histogram.min() },
            mean: histogram.mean(),
            stdev: histogram.stdev(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Closed => "closed",
        Mode::Open { .. } => "open",
        Mode::Hold { .. } => "hold",
    }
}

fn rate_asked(mode: Mode) -> Option<f64> {
    match mode {
        Mode::Closed => None,
        Mode::Open { rate } | Mode::Hold { rate } => Some(rate),
    }
}

fn connections(counts: &Counts, tally: &Tally) -> Connections {
    Connections {
        started: counts.started,
        ok: counts.ok,
        wrong: counts.wrong,
        failed: counts.failed,
        unfinished: counts.unfinished,
        not_started: tally.missed,
        open_max: tally.open_max,
    }
}

fn failures(tally: &Tally) -> Vec<Failed> {
    let one = |(failure, count): (&crate::conn::Failure, &u64)| Failed {
        phase: phase(failure.phase),
        cause: cause(failure.cause),
        count: *count,
    };
    tally.failures.iter().map(one).collect()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Socket => "socket",
        Phase::Connect => "connect",
        Phase::Send => "send",
        Phase::FirstByte => "first-byte",
        Phase::End => "end",
        Phase::Hold => "hold",
    }
}

fn cause(cause: Cause) -> String {
    match cause {
        Cause::Deadline => "deadline".into(),
        Cause::Closed => "closed".into(),
        Cause::Errno(number) => errno_name(number),
    }
}

/// The errnos that sockets end in; others by number.
fn errno_name(number: i32) -> String {
    use rustix::io::Errno;
    let names = [
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::PIPE, "EPIPE"),
        (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PERM, "EPERM"),
    ];
    match names.iter().find(|(errno, _)| errno.raw_os_error() == number) {
        Some((_, name)) => (*name).into(),
        None => format!("errno {number}"),
    }
}

fn behaviours(plan: &Plan, tally: &Tally) -> Vec<BehaviourReport> {
    let one = |(behaviour, part): (&crate::behaviour::Behaviour, &Part)| BehaviourReport {
        name: behaviour.to_string(),
        deserves: match behaviour.deserves() {
            Deserves::Answer => "answer",
            Deserves::Refusal => "refusal",
            Deserves::Nothing => "nothing",
        },
        started: part.counts.started,
        ok: part.counts.ok,
        wrong: part.counts.wrong,
        failed: part.counts.failed,
        unfinished: part.counts.unfinished,
        latency: LatencyReport::new(&part.latencies),
    };
    plan.behaviours.items().iter().zip(&tally.parts).map(one).collect()
}

fn headers(plan: &Plan, tally: &Tally) -> Vec<HeaderReport> {
    let name = |shape| SHAPES.iter().find(|(_, known)| *known == shape).map_or("", |(name, _)| *name);
    let shapes = plan.headers.items().iter().zip(&tally.headers);
    shapes.map(|(shape, count)| HeaderReport { name: name(*shape), count: *count }).collect()
}

fn garbage(tally: &Tally) -> Vec<GarbageReport> {
    let sent = KINDS.iter().zip(&tally.garbage).filter(|(_, count)| **count > 0);
    sent.map(|(kind, count)| GarbageReport { kind: kind.name, reason: kind.reason, count: *count }).collect()
}

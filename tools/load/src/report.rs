//! The results of a run, put together.

use std::time::Duration;

use vestibule_load::{
    BehaviourReport, Bytes, Connections, Ends, FORMAT, Failed, GarbageReport, HeaderReport, LatencyReport, Quantiles,
    Report, WrongAnswers,
};

use crate::behaviour::Deserves;
use crate::conn::{Cause, Phase};
use crate::garbage::KINDS;
use crate::header::SHAPES;
use crate::plan::{Mode, Plan};
use crate::tally::{Counts, Distribution, Latencies, Part, Tally};

/// Clocks of a run.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From the first start to the last outcome.
    pub elapsed: Duration,
    /// CPU time of this process.
    pub cpu: Duration,
    /// Whether a signal ended it early.
    pub interrupted: bool,
}

/// The results of `tally`.
pub fn report(plan: &Plan, tally: &Tally, measured: Measured) -> Report {
    let counts = tally.counts();
    Report {
        tool: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        format: FORMAT,
        command: std::env::args().collect(),
        target: plan.target.to_string(),
        mode: mode(plan.mode).into(),
        rate_asked: rate_asked(plan.mode),
        in_flight_max: plan.open_max,
        threads: plan.threads,
        seed: plan.seed,
        elapsed_seconds: measured.elapsed.as_secs_f64(),
        starting_seconds: tally.starting.as_secs_f64(),
        rate: counts.started as f64 / tally.starting.as_secs_f64().max(1e-6),
        interrupted: measured.interrupted,
        client_cpu_seconds: measured.cpu.as_secs_f64(),
        connections: connections(&counts, tally),
        bytes: Bytes { sent: tally.bytes_sent, received: tally.bytes_received },
        ends: Ends { fin: tally.fins, reset: tally.resets },
        failures: failures(tally),
        wrong_answers: tally
            .wrongs
            .iter()
            .map(|(wrong, count)| WrongAnswers { kind: wrong.code().into(), count: *count })
            .collect(),
        wrong_examples: tally.examples.clone(),
        latency: latency(&honest_latencies(plan, tally)),
        start_lag: quantiles(&tally.lag),
        behaviours: behaviours(plan, tally),
        headers: headers(plan, tally),
        garbage: garbage(tally),
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

fn latency(latencies: &Latencies) -> LatencyReport {
    LatencyReport {
        connect: quantiles(&latencies.connect),
        first_byte: quantiles(&latencies.first_byte),
        end: quantiles(&latencies.end),
        first_byte_in_time: quantiles(&latencies.in_time.first_byte),
        end_in_time: quantiles(&latencies.in_time.end),
    }
}

fn quantiles(distribution: &Distribution) -> Quantiles {
    let histogram = distribution.histogram();
    Quantiles {
        count: histogram.len(),
        min: distribution.min(),
        mean: histogram.mean(),
        stdev: histogram.stdev(),
        p50: distribution.at(0.5),
        p90: distribution.at(0.9),
        p99: distribution.at(0.99),
        p999: distribution.at(0.999),
        max: distribution.max(),
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
        phase: phase(failure.phase).into(),
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
        deserves: deserves(behaviour.deserves()).into(),
        started: part.counts.started,
        ok: part.counts.ok,
        wrong: part.counts.wrong,
        failed: part.counts.failed,
        unfinished: part.counts.unfinished,
        latency: latency(&part.latencies),
    };
    plan.behaviours.items().iter().zip(&tally.parts).map(one).collect()
}

fn deserves(deserves: Deserves) -> &'static str {
    match deserves {
        Deserves::Answer => "answer",
        Deserves::Refusal => "refusal",
        Deserves::Nothing => "nothing",
    }
}

fn headers(plan: &Plan, tally: &Tally) -> Vec<HeaderReport> {
    let name = |shape| SHAPES.iter().find(|(_, known)| *known == shape).map_or("", |(name, _)| *name);
    let shapes = plan.headers.items().iter().zip(&tally.headers);
    shapes.map(|(shape, count)| HeaderReport { name: name(*shape).into(), count: *count }).collect()
}

fn garbage(tally: &Tally) -> Vec<GarbageReport> {
    let sent = KINDS.iter().zip(&tally.garbage).filter(|(_, count)| **count > 0);
    sent.map(|(kind, count)| GarbageReport { kind: kind.name.into(), reason: kind.reason.into(), count: *count })
        .collect()
}

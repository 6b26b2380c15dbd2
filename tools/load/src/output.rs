//! What is shown and written: progress, table, JSON, HdrHistogram files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use vestibule_load::{Quantiles, Report};

use crate::cli::Args;
use crate::plan::Plan;
use crate::report::honest_latencies;
use crate::swarm::{SAMPLE_EVERY, Sample};
use crate::tally::{Counts, Latencies, Tally};

/// Off a terminal, one line in so many seconds.
const LINE_EVERY: u64 = 5;
/// Steps of a percentile distribution per halving of the distance to 100 %.
const HGRM_TICKS: u32 = 5;
/// Above this share of a core, the client is likely to be what limits the run.
const CLIENT_BUSY: f64 = 0.9;

/// The line that shows a run under way, on standard error.
pub struct Progress {
    shown: bool,
    in_place: bool,
    threads: Vec<Option<Sample>>,
    previous: Counts,
}

impl Progress {
    /// Nothing is shown when `quiet`.
    pub fn new(plan: &Plan, quiet: bool) -> Progress {
        let threads = (0..plan.threads).map(|_| None).collect();
        Progress { shown: !quiet, in_place: io::stderr().is_terminal(), threads, previous: Counts::default() }
    }

    /// Takes one thread's sample; when the last thread's is there, shows them together.
    pub fn show(&mut self, sample: Sample) {
        let (interval, last) = (sample.interval, sample.thread + 1 == self.threads.len());
        let thread = sample.thread;
        self.threads[thread] = Some(sample);
        if self.shown && last && (self.in_place || interval % LINE_EVERY == LINE_EVERY - 1) {
            let line = self.line(interval);
            // Progress that cannot be shown is not worth a failure.
            let _ =
                if self.in_place { write!(io::stderr(), "\r{line}\x1b[K") } else { writeln!(io::stderr(), "{line}") };
        }
    }

    /// Leaves the line.
    pub fn end(&self) {
        if self.shown && self.in_place {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&mut self, interval: u64) -> String {
        let (mut counts, mut open, mut latencies) = (Counts::default(), 0, Latencies::default());
        for sample in self.threads.iter().flatten() {
            counts.add(&sample.counts);
            open += sample.open;
            latencies.add(&sample.latencies);
        }
        let seconds = if self.in_place { 1 } else { LINE_EVERY };
        let rate = (counts.started - self.previous.started) / seconds;
        self.previous = counts;
        format!(
            "{:>4} s  {rate:>7}/s  open {open}  ok {}  wrong {}  failed {}  p50 {}  p99 {}",
            interval + 1,
            counts.ok,
            counts.wrong,
            counts.failed,
            micros(latencies.end.at(0.5)),
            micros(latencies.end.at(0.99)),
        )
    }
}

/// The histograms of every interval, all threads together.
pub struct IntervalLog {
    wanted: bool,
    started: SystemTime,
    intervals: BTreeMap<u64, Latencies>,
}

impl IntervalLog {
    /// Collects nothing unless `wanted`.
    pub fn new(wanted: bool) -> IntervalLog {
        IntervalLog { wanted, started: SystemTime::UNIX_EPOCH, intervals: BTreeMap::new() }
    }

    /// The run begins.
    pub fn begin(&mut self, started: SystemTime) {
        self.started = started;
    }

    /// Adds one thread's interval.
    pub fn add(&mut self, sample: &Sample) {
        if self.wanted {
            self.intervals.entry(sample.interval).or_default().add(&sample.latencies);
        }
    }

    fn write(&self, to: &mut impl Write) -> Result<(), String> {
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("vestibule-load: microseconds from the intended start")
            .with_start_time(self.started)
            .with_base_time(self.started)
            .with_max_value_divisor(1.0)
            .begin_log_with(to, &mut serializer)
            .map_err(|error| error.to_string())?;
        for (interval, latencies) in &self.intervals {
            let start = SAMPLE_EVERY * u32::try_from(*interval).unwrap_or(u32::MAX);
            for (name, histogram) in named(latencies) {
                log.write_histogram(histogram, start, SAMPLE_EVERY, Tag::new(name))
                    .map_err(|error| format!("{error:?}"))?;
            }
        }
        Ok(())
    }
}

/// Writes everything that was asked for.
pub fn write_outputs(
    args: &Args,
    report: &Report,
    tally: &Tally,
    plan: &Plan,
    log: &IntervalLog,
) -> Result<(), String> {
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if !args.quiet {
        let table = table(report);
        let shown = if to_stdout { write!(io::stderr(), "{table}") } else { write!(io::stdout(), "{table}") };
        shown.map_err(|error| format!("the table: {error}"))?;
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())? + "\n";
        let written = if to_stdout { io::stdout().write_all(json.as_bytes()) } else { fs::write(path, json) };
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(prefix) = &args.hgrm {
        for (name, histogram) in named(&honest_latencies(plan, tally)) {
            write_file(&with_suffix(prefix, name), hgrm(histogram).as_bytes())?;
        }
    }
    if let Some(path) = &args.histogram_log {
        let mut bytes = Vec::new();
        log.write(&mut bytes)?;
        write_file(path, &bytes)?;
    }
    Ok(())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn with_suffix(prefix: &Path, name: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!(".{name}.hgrm"));
    path.into()
}

fn named(latencies: &Latencies) -> [(&'static str, &Histogram<u64>); 3] {
    [
        ("connect", latencies.connect.histogram()),
        ("first-byte", latencies.first_byte.histogram()),
        ("end", latencies.end.histogram()),
    ]
}

/// The percentile distribution as HdrHistogram's own tools print it, so that its plotters read it.
fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(HGRM_TICKS) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to(), step.quantile_iterated_to());
        let inverse = if quantile < 1.0 { format!("{:.2}", 1.0 / (1.0 - quantile)) } else { "inf".into() };
        let _ = writeln!(text, "{value:>12.3} {quantile:>14.12} {total:>10} {inverse:>14}");
    }
    let _ = writeln!(text, "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]", histogram.mean(), histogram.stdev());
    let _ = writeln!(text, "#[Max     = {:>12.3}, Total count    = {:>12}]", histogram.max(), histogram.len());
    let _ = writeln!(
        text,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.buckets(),
        histogram.distinct_values()
    );
    text
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let connections = &report.connections;
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14}{value}"); // writing to a String cannot fail
    };
    row("target", format!("{}, {}, {} thread(s)", report.target, mode(report), report.threads));
    row("connections", outcomes(report));
    row(
        "rate",
        format!(
            "{:.0}/s over {:.1} s, at most {} open{}",
            report.rate,
            report.starting_seconds,
            connections.open_max,
            if connections.not_started > 0 {
                format!("; {} due starts were not made", connections.not_started)
            } else {
                String::new()
            }
        ),
    );
    row(
        "ends",
        format!(
            "{} FIN, {} RST; {} bytes sent, {} received",
            report.ends.fin, report.ends.reset, report.bytes.sent, report.bytes.received
        ),
    );
    for failed in &report.failures {
        row("failed", format!("{} at {}: {}", failed.count, failed.phase, failed.cause));
    }
    for wrong in &report.wrong_answers {
        row("wrong", format!("{}: {}", wrong.count, wrong.kind));
    }
    for example in &report.wrong_examples {
        row("  such as", example.clone());
    }
    text.push_str(&latency_table(report));
    text.push_str(&behaviour_table(report));
    text.push_str(&client_note(report));
    text
}

fn mode(report: &Report) -> String {
    match report.rate_asked {
        None => format!("{} at a time", report.in_flight_max),
        Some(rate) if report.mode == "hold" => format!("{} to be held, {rate:.0}/s", report.in_flight_max),
        Some(rate) => format!("{rate:.0}/s asked for"),
    }
}

fn outcomes(report: &Report) -> String {
    let connections = &report.connections;
    let mut text = format!(
        "{} started: {} ok, {} wrong, {} failed",
        connections.started, connections.ok, connections.wrong, connections.failed
    );
    if connections.unfinished > 0 {
        let _ = write!(text, ", {} unfinished", connections.unfinished);
    }
    text
}

fn latency_table(report: &Report) -> String {
    let mut text = format!(
        "{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}   from the intended start\n",
        "latency", "p50", "p90", "p99", "p99.9", "max"
    );
    let latency = &report.latency;
    for (name, quantiles) in [("connect", &latency.connect), ("first byte", &latency.first_byte), ("end", &latency.end)]
    {
        text.push_str(&latency_row(name, quantiles));
    }
    text
}

fn latency_row(name: &str, quantiles: &Quantiles) -> String {
    if quantiles.count == 0 {
        return format!("  {name:<12}{:>10}\n", "-");
    }
    let Quantiles { p50, p90, p99, p999, max, .. } = *quantiles;
    let columns: String = [p50, p90, p99, p999, max].iter().map(|value| format!("{:>10}", micros(*value))).collect();
    format!("  {name:<12}{columns}\n")
}

/// Only where there is more than one behaviour.
fn behaviour_table(report: &Report) -> String {
    if report.behaviours.len() < 2 {
        return String::new();
    }
    let mut text = format!(
        "{:<22}{:>10}{:>10}{:>8}{:>8}{:>12}{:>10}{:>10}\n",
        "behaviour", "started", "ok", "wrong", "failed", "unfinished", "end p50", "end max"
    );
    for part in &report.behaviours {
        let end = &part.latency.end;
        let _ = writeln!(
            text,
            "  {:<20}{:>10}{:>10}{:>8}{:>8}{:>12}{:>10}{:>10}",
            part.name,
            part.started,
            part.ok,
            part.wrong,
            part.failed,
            part.unfinished,
            shown(end, end.p50),
            shown(end, end.max)
        );
    }
    text
}

fn shown(quantiles: &Quantiles, value: u64) -> String {
    if quantiles.count == 0 { "-".into() } else { micros(value) }
}

fn client_note(report: &Report) -> String {
    let cores = report.client_cpu_seconds / report.elapsed_seconds.max(1e-6);
    let busy = cores > CLIENT_BUSY * report.threads as f64;
    let note = if busy { "; the client is saturated: its own queueing is in the latencies" } else { "" };
    format!("{:<14}{cores:.2} of a core, starts late by p99 {}{note}\n", "client", micros(report.start_lag.p99))
}

/// `870us`, `12.3ms`, `4.56s`.
fn micros(value: u64) -> String {
    match Duration::from_micros(value) {
        _ if value < 1000 => format!("{value}us"),
        time if value < 1_000_000 => format!("{:.1}ms", time.as_secs_f64() * 1e3),
        time => format!("{:.2}s", time.as_secs_f64()),
    }
}

//! `vestibule-load` as a child process on the client's CPU, and its results.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::server::{Process, directory};

/// How long beyond its duration and drain the client may take.
const SLACK: Duration = Duration::from_secs(20);
/// Longest wait for the last connections, where nothing else is needed.
pub const DRAIN: Duration = Duration::from_secs(3);

/// Percentiles at which latency curves are drawn.
pub const CURVE: [f64; 14] =
    [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.99975, 0.9999];

/// What to ask of `vestibule-load`.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// The program.
    pub program: &'a Path,
    /// The CPU that it runs on.
    pub cpu: usize,
    /// Where to.
    pub target: SocketAddr,
    /// The right answer.
    pub expect: &'a str,
    /// How it goes about it.
    pub pace: Pace,
    /// Longest wait for what is still open after the last start.
    pub drain: Duration,
    /// Further options.
    pub more: &'a [&'a str],
    /// A program, with its options, that is to run it; empty: none.
    pub under: &'a [String],
}

/// How connections follow each other.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many in all, as fast as they go, 64 at a time.
    Count(u64),
    /// For so long, this many at any time.
    Closed {
        /// At a time.
        in_flight: usize,
        /// For.
        time: Duration,
    },
    /// As the further options say.
    Given,
    /// So many a second.
    Open {
        /// Starts a second.
        rate: f64,
        /// For.
        time: Duration,
    },
}

/// What came of it. Latencies in microseconds, from the intended start.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// Outcomes of connections.
    pub connections: Connections,
    /// Starts a second.
    pub rate: f64,
    /// How late the client made its starts.
    pub start_lag: Quantiles,
    /// Latencies.
    pub latency: Latency,
    /// CPU time of the client.
    pub client_cpu_seconds: f64,
    /// From the first start to the last outcome.
    pub elapsed_seconds: f64,
    /// By behaviour.
    #[serde(default)]
    pub behaviours: Vec<Behaviour>,
    /// Why connections failed.
    #[serde(default)]
    pub failures: Vec<serde_json::Value>,
    /// Answers that were wrong.
    #[serde(default)]
    pub wrong_answers: Vec<serde_json::Value>,
    /// Percentile curves: first byte and end, at [`CURVE`].
    #[serde(default)]
    pub curves: Curves,
}

/// Outcomes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Connections {
    /// Begun.
    pub started: u64,
    /// As they should be.
    pub ok: u64,
    /// Answered wrongly.
    pub wrong: u64,
    /// Not answered.
    pub failed: u64,
    /// Open at the end.
    pub unfinished: u64,
    /// Due and never begun.
    pub not_started: u64,
}

/// One behaviour of clients.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Behaviour {
    /// Begun.
    pub started: u64,
    /// As they should be.
    pub ok: u64,
    /// Latencies.
    pub latency: Latency,
}

/// Latencies until an event.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Latency {
    /// The first byte of the answer.
    pub first_byte: Quantiles,
    /// The end of the connection.
    pub end: Quantiles,
}

/// A distribution in microseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Smallest.
    pub min: u64,
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

/// Latency at the percentiles of [`CURVE`], in microseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Curves {
    /// Until the first byte.
    pub first_byte: Vec<f64>,
    /// Until the end.
    pub end: Vec<f64>,
}

impl Load<'_> {
    /// Makes the run. An error if it could not be made, or more than a thousandth of its connections went wrong.
    pub fn run(&self) -> Result<Outcome, String> {
        let (mut process, files) = self.start()?;
        let status = process.wait(self.longest()).map_err(|error| format!("vestibule-load {error}"))?;
        let said = process.output();
        let failed = |what: &str| format!("vestibule-load on {}: {what} ({status}); it said:\n{said}", self.target);
        let json = fs::read_to_string(files.path().join("json")).map_err(|_| failed("no results"))?;
        let mut outcome: Outcome = serde_json::from_str(&json).map_err(|error| failed(&error.to_string()))?;
        let Connections { started, ok, wrong, failed: lost, .. } = outcome.connections;
        if ok == 0 || (wrong + lost) * 1000 > started {
            let why = format!("{:?} {:?}", outcome.failures, outcome.wrong_answers);
            return Err(failed(&format!("{ok} of {started} connections went as they should: {why}")));
        }
        outcome.curves = Curves {
            first_byte: curve(&fs::read_to_string(files.path().join("curve.first-byte.hgrm")).unwrap_or_default()),
            end: curve(&fs::read_to_string(files.path().join("curve.end.hgrm")).unwrap_or_default()),
        };
        Ok(outcome)
    }

    /// Starts it; results come into the directory.
    pub fn start(&self) -> Result<(Process, tempfile::TempDir), String> {
        let files = directory()?;
        let mut command = match self.under {
            [] => Command::new(self.program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(self.program);
                command
            }
        };
        command.arg(self.target.to_string()).args(["--expect", self.expect, "--quiet"]);
        command.arg("--cpu").arg(self.cpu.to_string());
        command.arg("--json").arg(files.path().join("json")).arg("--hgrm").arg(files.path().join("curve"));
        command.arg("--drain").arg(seconds(self.drain)).args(self.more);
        match self.pace {
            Pace::Count(count) => command.arg("-n").arg(count.to_string()),
            Pace::Closed { in_flight, time } => {
                command.arg("-c").arg(in_flight.to_string()).arg("-d").arg(seconds(time))
            }
            Pace::Given => &mut command,
            Pace::Open { rate, time } => command.arg("--rate").arg(rate.to_string()).arg("-d").arg(seconds(time)),
        };
        Ok((Process::start(command, &[self.cpu])?, files))
    }

    fn longest(&self) -> Duration {
        let active = match self.pace {
            Pace::Count(_) | Pace::Given => Duration::from_secs(10),
            Pace::Closed { time, .. } | Pace::Open { time, .. } => time,
        };
        active + self.drain + SLACK
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

/// The values at [`CURVE`] of a percentile distribution as HdrHistogram prints it: value, percentile, count.
fn curve(hgrm: &str) -> Vec<f64> {
    let points: Vec<(f64, f64)> = hgrm
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<f64>);
            let (value, percentile) = (fields.next()?.ok()?, fields.next()?.ok()?);
            Some((percentile, value))
        })
        .collect();
    let at = |quantile| points.iter().find(|(percentile, _)| *percentile >= quantile).map(|(_, value)| *value);
    CURVE.into_iter().map_while(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_read_off_a_percentile_distribution() {
        let text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n\
            10.000 0.000000000000          1           1.00\n\
            20.000 0.600000000000         60           2.50\n\
            30.000 0.999000000000         99        1000.00\n\
            40.000 1.000000000000        100            inf\n\
            #[Mean    =       15.0, StdDeviation   =        3.0]\n";
        let curve = curve(text);
        assert_eq!(curve.len(), CURVE.len());
        assert_eq!((curve[0], curve[2], curve[3], curve[10], curve[13]), (10.0, 20.0, 30.0, 30.0, 40.0));
    }

    #[test]
    fn no_distribution_no_curve() {
        assert!(curve("").is_empty());
    }
}

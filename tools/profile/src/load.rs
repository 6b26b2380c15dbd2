//! `vestibule-load` as a child process on the client's CPU, and its results.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vestibule_load::{Connections, Report};
use vestibule_peers::temp_dir;

use crate::server::Process;

/// How long beyond its duration and drain the client may take.
const SLACK: Duration = Duration::from_secs(20);
/// Longest wait for the last connections, where nothing else is needed.
pub const DRAIN: Duration = Duration::from_secs(3);

/// A run is no measurement if more than one in so many of its connections went wrong, failed or hung, or of its starts were
/// not made: whatever they would have taken is in none of its figures.
const TOLERATED: u64 = 1000;

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

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What `vestibule-load` says.
    pub report: Report,
    /// Percentile curves.
    pub curves: Curves,
}

/// Latency at the percentiles of [`CURVE`], in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// Until the first byte.
    pub first_byte: Vec<f64>,
    /// Until the end.
    pub end: Vec<f64>,
}

impl Load<'_> {
    /// Makes the run. An error if it could not be made, or what came of it is no measurement.
    pub fn run(&self) -> Result<Outcome, String> {
        let (mut process, files) = self.start()?;
        let status = process.wait(self.longest()).map_err(|error| format!("vestibule-load {error}"))?;
        let said = process.output();
        let failed = |what: &str| format!("vestibule-load on {}: {what} ({status}); it said:\n{said}", self.target);
        let json = fs::read_to_string(files.path().join("json")).map_err(|_| failed("no results"))?;
        let report: Report = serde_json::from_str(&json).map_err(|error| failed(&error.to_string()))?;
        check(&report).map_err(|error| failed(&error))?;
        let curve = |name: &str| curve(&fs::read_to_string(files.path().join(name)).unwrap_or_default());
        let curves = Curves { first_byte: curve("curve.first-byte.hgrm"), end: curve("curve.end.hgrm") };
        Ok(Outcome { report, curves })
    }

    /// Starts it; results come into the directory.
    pub fn start(&self) -> Result<(Process, tempfile::TempDir), String> {
        let files = temp_dir();
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

/// Connections that were answered wrongly, failed, or hung until the client had waited long enough.
pub fn lost(connections: &Connections) -> u64 {
    connections.wrong + connections.failed + connections.unfinished
}

/// Whether a run can stand as a measurement.
fn check(report: &Report) -> Result<(), String> {
    let Connections { started, ok, unfinished, not_started, .. } = report.connections;
    if report.interrupted {
        return Err("it was interrupted".to_owned());
    }
    if ok == 0 || lost(&report.connections) * TOLERATED > started {
        let failures = report.failures.iter().map(|it| format!("{} at {}: {}", it.count, it.phase, it.cause));
        let wrong = report.wrong_answers.iter().map(|it| format!("{} wrong: {}", it.count, it.kind));
        let hung = (unfinished > 0).then(|| format!("{unfinished} hung"));
        let why = failures.chain(wrong).chain(hung).collect::<Vec<_>>().join(", ");
        return Err(format!("{ok} of {started} connections went as they should; {why}"));
    }
    if not_started * TOLERATED > started + not_started {
        return Err(format!(
            "{not_started} connections were due and not started: the client had no place for them or no time. Ask for a \
             lower rate than {:.0} a second",
            report.rate_asked.unwrap_or(report.rate)
        ));
    }
    Ok(())
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
    fn a_run_with_more_than_one_in_a_thousand_lost_or_left_out_is_no_measurement() {
        let good = Connections { started: 2000, ok: 1998, ..Connections::default() };
        let interrupted = Report { connections: good.clone(), interrupted: true, ..Report::default() };
        assert!(check(&interrupted).is_err(), "a part of a round is none");
        let judged = |connections: Connections| check(&Report { connections, ..Report::default() });
        for tolerated in [
            Connections { wrong: 1, failed: 1, ..good.clone() },
            Connections { unfinished: 2, ..good.clone() },
            Connections { not_started: 2, ..good.clone() },
        ] {
            assert_eq!(judged(tolerated.clone()), Ok(()), "{tolerated:?}");
        }
        for (refused, word) in [
            (Connections { unfinished: 3, ..good.clone() }, "3 hung"),
            (Connections { wrong: 1, failed: 1, unfinished: 1, ..good.clone() }, "1998 of 2000"),
            (Connections { not_started: 3, ..good.clone() }, "lower rate"),
            (Connections { ok: 0, ..good }, "0 of 2000"),
        ] {
            let error = judged(refused.clone()).expect_err("no measurement");
            assert!(error.contains(word), "{refused:?}: {error}");
        }
    }

    #[test]
    fn no_distribution_no_curve() {
        assert!(curve("").is_empty());
    }
}

//! The report of `vestibule-load`: the keys of its `--json`, for programs that run it and read what came of it.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Goes up when a key changes its meaning or goes away.
pub const FORMAT: u32 = 1;

/// All results. Latencies are in microseconds, from the intended start of the connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// `vestibule-load`.
    pub tool: String,
    /// Of the tool.
    pub version: String,
    /// Of these keys.
    pub format: u32,
    /// The command line, as typed.
    pub command: Vec<String>,
    /// Address and port.
    pub target: String,
    /// `closed`, `open` or `hold`.
    pub mode: String,
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
    /// From the first start to the last, or to the end of the duration, in seconds: what `rate` is over.
    pub starting_seconds: f64,
    /// Starts a second that were made.
    pub rate: f64,
    /// Whether a signal ended the run early.
    pub interrupted: bool,
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// Due in the open loop and never started: all places were taken, or the client could not keep up.
    pub not_started: u64,
    /// Most open at once.
    pub open_max: usize,
}

/// Bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bytes {
    /// Handed to the kernel.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

/// Ends by the receiver.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ends {
    /// In order.
    pub fin: u64,
    /// By reset.
    pub reset: u64,
}

/// One kind of failure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Failed {
    /// `socket`, `connect`, `send`, `first-byte`, `end` or `hold`.
    pub phase: String,
    /// The errno's name, `deadline` or `closed`.
    pub cause: String,
    /// How many.
    pub count: u64,
}

/// One kind of wrong answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WrongAnswers {
    /// Its code.
    pub kind: String,
    /// How many.
    pub count: u64,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LatencyReport {
    /// Until connect(2) was through.
    pub connect: Quantiles,
    /// Until the first byte of the answer.
    pub first_byte: Quantiles,
    /// Until the end of the connection.
    pub end: Quantiles,
    /// Until the first byte, of those connections that the client started within 100 µs of their time.
    #[serde(default)]
    pub first_byte_in_time: Quantiles,
    /// The same until the end.
    #[serde(default)]
    pub end_in_time: Quantiles,
}

/// A distribution, in microseconds; all zero where `count` is. Percentiles are to three digits, `min` and `max` exact.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BehaviourReport {
    /// As asked for.
    pub name: String,
    /// What the receiver had to do: `answer`, `refusal`, `nothing`.
    pub deserves: String,
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeaderReport {
    /// As `--header` names it.
    pub name: String,
    /// Connections that were to send it.
    pub count: u64,
}

/// One kind of garbage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GarbageReport {
    /// As `--behaviour garbage:KIND` names it.
    pub kind: String,
    /// The reason code of the refusal.
    pub reason: String,
    /// Connections that were to send it.
    pub count: u64,
}

impl Report {
    /// Whether the run made the load that it was asked for, and every connection was as it should be. One that was still
    /// open has hung, unless a signal has ended the run before its time was up.
    pub fn is_good(&self) -> bool {
        let Connections { ok, wrong, failed, unfinished, not_started, .. } = self.connections;
        ok > 0 && wrong == 0 && failed == 0 && not_started == 0 && (unfinished == 0 || self.interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_run_has_nothing_wrong_lost_hung_or_left_out() {
        let good = Connections { started: 9, ok: 9, ..Connections::default() };
        let is_good =
            |connections: Connections, interrupted| Report { connections, interrupted, ..Report::default() }.is_good();
        assert!(is_good(good.clone(), false));
        for bad in [
            Connections::default(),
            Connections { wrong: 1, ..good.clone() },
            Connections { failed: 1, ..good.clone() },
            Connections { not_started: 1, ..good.clone() },
        ] {
            assert!(!is_good(bad.clone(), false) && !is_good(bad.clone(), true), "{bad:?}");
        }
        let hung = Connections { unfinished: 1, ..good };
        assert!(!is_good(hung.clone(), false), "nobody has asked it to end");
        assert!(is_good(hung, true), "the user did not want to wait");
    }
}

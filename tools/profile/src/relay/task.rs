//! What the client is asked to do and what it answers: a line of JSON each.

use serde::{Deserialize, Serialize};

/// What the client is to do next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Sessions, one after the other, so many at a time.
    Sessions {
        /// At a time.
        in_flight: u32,
        /// Commands in each.
        commands: u32,
        /// Whether client and backend say goodbye; otherwise the client just closes.
        goodbye: bool,
        /// Different clients that headers name.
        clients: u32,
        /// How many.
        until: Limit,
    },
    /// Opens sessions until so many are held, each with a greeting and one command.
    Hold {
        /// All that are held then.
        count: u32,
    },
    /// Round trips over the held sessions, at a rate, whether or not answers come.
    Chatter {
        /// Round trips a second.
        rate: u32,
        /// How many.
        until: Limit,
    },
    /// Large answers.
    Bulk {
        /// Sessions at a time; each fetches one after the other.
        streams: u32,
        /// Bytes of an answer.
        bytes: u64,
        /// How many answers.
        until: Limit,
    },
    /// Ends the held sessions politely.
    Release,
}

/// How long a task goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Until so many are begun.
    Count(u64),
    /// For so many seconds.
    Seconds(f64),
}

/// What came of a task.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Sessions, round trips or answers that went as they should, byte by byte.
    pub done: u64,
    /// Those that did not.
    pub failed: u64,
    /// What was wrong with the first of them.
    pub failure: Option<String>,
    /// Bytes of large answers, all checked.
    pub bytes: u64,
    /// For how long it went on.
    pub seconds: f64,
    /// Round trips, microseconds from the moment when they were due.
    pub latency: Option<Latency>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// How late the client itself was, 99th percentile: part of the above.
    pub client_late_p99: f64,
}

/// What the backend has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Sessions with a header of version 1.
    pub v1: u64,
    /// Sessions with a header of version 2.
    pub v2: u64,
    /// Sessions that are over.
    pub ended: u64,
    /// Commands answered, LOGOUT and FETCH not counted.
    pub commands: u64,
    /// Connections without a header that says who the client is, and sessions with words that no client says.
    pub wrong: u64,
    /// Bytes of large answers.
    pub bytes: u64,
}

impl Seen {
    /// All sessions.
    pub fn sessions(&self) -> u64 {
        self.v1 + self.v2
    }

    /// What came after `earlier`.
    pub fn since(&self, earlier: Seen) -> Seen {
        Seen {
            v1: self.v1 - earlier.v1,
            v2: self.v2 - earlier.v2,
            ended: self.ended - earlier.ended,
            commands: self.commands - earlier.commands,
            wrong: self.wrong - earlier.wrong,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// The value that so many of the sorted ones do not exceed; 0 of none.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let index = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let sorted: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.99, 0.999, 1.0].map(|part| quantile(&sorted, part)),
            [1.0, 500.0, 990.0, 999.0, 1000.0]
        );
        assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 0.99)), (0.0, 7.0));
    }

    #[test]
    fn a_task_survives_its_line() {
        let task = Task::Bulk { streams: 4, bytes: 1 << 30, until: Limit::Seconds(0.5) };
        let line = serde_json::to_string(&task).expect("plain data");
        assert_eq!(line, r#"{"bulk":{"streams":4,"bytes":1073741824,"until":{"seconds":0.5}}}"#);
        assert!(matches!(serde_json::from_str(&line), Ok(Task::Bulk { streams: 4, .. })));
    }
}

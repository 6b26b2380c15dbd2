//! Where Vestibule wants to be: server CPU a connection beside each peer's.

use serde::Serialize;

use super::results::Summary;
use crate::stats::Spread;
use crate::systems::{Job, Program};

/// (job, beside whom, whether that has TCP_DEFER_ACCEPT, at most).
const GOALS: [(Job, Program, bool, f64); 11] = [
    (Job::Discard, Program::Haproxy, false, 0.50),
    (Job::Discard, Program::Haproxy, true, 0.84),
    (Job::Discard, Program::Floor, true, 1.08),
    (Job::Discard, Program::Floor, false, 1.08),
    (Job::Whoami, Program::Nginx, false, 0.47),
    (Job::Whoami, Program::Tokio, false, 0.46),
    (Job::Whoami, Program::Floor, true, 1.15),
    (Job::Refuse, Program::Floor, true, 1.10),
    (Job::Refuse, Program::Haproxy, true, 0.94),
    (Job::Refuse, Program::Haproxy, false, 0.68),
    (Job::HandOff, Program::Floor, true, 1.25),
];

/// A goal and where we are.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What servers had to do.
    pub job: Job,
    /// Beside whom.
    pub program: Program,
    /// Whether the other has TCP_DEFER_ACCEPT.
    pub defer: bool,
    /// Vestibule's CPU / the other's, at most.
    pub at_most: f64,
    /// Vestibule as it comes, with TCP_DEFER_ACCEPT; beside the floor with the floor's setting.
    pub ratio: Spread,
    /// Vestibule with the other's setting.
    pub ratio_equal: Option<Spread>,
    /// Whether the median of `ratio` is at most `at_most`.
    pub reached: bool,
}

/// Judges the goals for which there are figures.
pub fn judge(summaries: &[Summary]) -> Vec<Judged> {
    let judged = |&(job, program, defer, at_most): &(Job, Program, bool, f64)| {
        let system = crate::systems::System { job, program, defer };
        let summary = summaries.iter().find(|summary| summary.system == system)?;
        let ratio = if program == Program::Floor { summary.ratio_equal? } else { summary.ratio_default? };
        let reached = ratio.median <= at_most;
        Some(Judged { job, program, defer, at_most, ratio, ratio_equal: summary.ratio_equal, reached })
    };
    GOALS.iter().filter_map(judged).collect()
}

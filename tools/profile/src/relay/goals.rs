//! Where Vestibule wants to be, beside each peer and beside itself.

use serde::Serialize;

use super::jobs::Job;
use super::results::{ScalePoint, Summary};
use super::systems::System;
use crate::stats::Spread;

use Job::{Bulk, Chatter, Connect, Idle, Mixed, Scale, Short, Short8};
use System::{Floor, Haproxy, Haproxy256k, Nginx, Nginx256k, Vestibule};

/// (job, beside whom, at most). Beside itself: the cost as it is.
const GOALS: [(Job, System, f64); 18] = [
    (Short, Haproxy, 0.97),
    (Short, Nginx, 0.90),
    (Short, Floor, 1.06),
    (Short8, Haproxy, 0.91),
    (Short8, Floor, 1.06),
    (Connect, Haproxy, 0.97),
    (Connect, Nginx, 0.82),
    (Connect, Floor, 1.08),
    (Chatter, Haproxy, 0.90),
    (Chatter, Nginx, 0.95),
    (Bulk, Haproxy, 0.42),
    (Bulk, Nginx, 0.45),
    (Bulk, Haproxy256k, 1.08),
    (Bulk, Nginx256k, 1.08),
    (Idle, Haproxy, 0.16),
    (Idle, Nginx, 0.06),
    (Idle, Vestibule, 600.0),
    (Mixed, Vestibule, 1.5),
];
/// Cost may grow by this part.
pub const FLAT: f64 = 1.10;

/// A goal and where we are.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What relays had to do.
    pub job: Job,
    /// Beside whom, in words.
    pub beside: String,
    /// Vestibule's cost / the other's, at most; beside itself its cost.
    pub at_most: f64,
    /// What it is.
    pub measured: Spread,
    /// Whether the median is at most `at_most`.
    pub reached: bool,
}

impl Judged {
    fn new(job: Job, beside: String, at_most: f64, measured: Spread) -> Judged {
        Judged { job, beside, at_most, measured, reached: measured.median <= at_most }
    }
}

/// Judges the goals for which there are figures.
pub fn judge(summaries: &[Summary], scale: &[ScalePoint]) -> Vec<Judged> {
    let judged = |&(job, system, at_most): &(Job, System, f64)| {
        let summary = summaries.iter().find(|one| (one.job, one.system) == (job, system))?;
        let (beside, measured) = match system {
            Vestibule => (format!("({})", job.unit()), summary.cost),
            other => (other.to_string(), summary.ratio?),
        };
        Some(Judged::new(job, beside, at_most, measured))
    };
    let points = scale.iter().filter(|point| !point.is_first).filter_map(|point| {
        Some(Judged::new(Scale, format!("{} instead of {}", point, point.first), FLAT, point.ratio?))
    });
    GOALS.iter().filter_map(judged).chain(points).collect()
}

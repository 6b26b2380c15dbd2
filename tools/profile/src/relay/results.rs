//! What was measured, and what follows from it: the keys of the JSON report.

use std::fmt;

use serde::Serialize;

use super::goals::{self, Judged};
use super::jobs::{Extent, Job, Round};
use super::systems::System;
use super::task::Latency;
use crate::machine::Machine;
use crate::report::FORMAT;
use crate::rounds::{SEED, Subject};
use crate::stats::{Spread, ratios};

/// One system with one job.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// What it had to do.
    pub job: Job,
    /// Which.
    pub system: System,
    /// Complete ones.
    pub rounds: Vec<Round>,
    /// Why it was left out from some round on.
    pub failure: Option<String>,
}

/// Vestibule with so much of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct ScalePoint {
    /// Of what.
    pub what: &'static str,
    /// How much.
    pub count: u32,
    /// How much the first point of its kind has.
    pub first: u32,
    /// Whether it is that one.
    pub is_first: bool,
    /// Complete ones.
    pub rounds: Vec<Round>,
    /// Microseconds of CPU a session.
    pub cost: Option<Spread>,
    /// To the first point of its kind, round by round.
    pub ratio: Option<Spread>,
    /// Why it was left out from some round on.
    pub failure: Option<String>,
}

/// Medians and spreads of one system, and Vestibule beside it. Ratios are below 1 where Vestibule is cheaper.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What it had to do.
    pub job: Job,
    /// Which.
    pub system: System,
    /// In the unit of the job.
    pub cost: Spread,
    /// Of that in user mode.
    pub user: Spread,
    /// Part of the relay's CPU that others used meanwhile.
    pub others_core: Spread,
    /// Part of the relay's CPU that it used.
    pub core: Spread,
    /// Sessions, round trips or bytes a second.
    pub rate: Spread,
    /// Vestibule's cost / this one's, round by round.
    pub ratio: Option<Spread>,
    /// Of small messages, alone.
    pub latency: Option<Latencies>,
    /// Of small messages, beside bulk.
    pub beside_bulk: Option<Latencies>,
}

/// Spreads of latencies, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latencies {
    /// Median.
    pub p50: Spread,
    /// 99th percentile.
    pub p99: Spread,
    /// 99.9th percentile.
    pub p999: Spread,
    /// How late the client itself was, 99th percentile: part of the above.
    pub client_late_p99: Spread,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Results {
    tool: &'static str,
    format: u32,
    /// Where and how.
    pub machine: Machine,
    /// What the orders of the rounds came from.
    pub order_seed: u64,
    /// What the programs say of themselves.
    pub versions: Vec<(System, String)>,
    /// How much of everything.
    pub extent: Extent,
    /// Round by round.
    pub measured: Vec<Measured>,
    /// In short.
    pub summaries: Vec<Summary>,
    /// Vestibule as the rest grows.
    pub scale: Vec<ScalePoint>,
    /// Where it wants to be.
    pub goals: Vec<Judged>,
}

impl Measured {
    /// Nothing measured yet.
    pub fn new(job: Job, system: System) -> Measured {
        Measured { job, system, rounds: Vec::new(), failure: None }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.job, self.system)
    }
}

impl Subject for Measured {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

impl fmt::Display for ScalePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.what)
    }
}

impl Subject for ScalePoint {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

impl Latencies {
    fn of(rounds: &[Round], which: impl Fn(&Round) -> Option<Latency>) -> Option<Latencies> {
        let spread =
            |value: fn(&Latency) -> f64| Spread::of(rounds.iter().filter_map(|round| Some(value(&which(round)?))));
        Some(Latencies {
            p50: spread(|latency| latency.p50)?,
            p99: spread(|latency| latency.p99)?,
            p999: spread(|latency| latency.p999)?,
            client_late_p99: spread(|latency| latency.client_late_p99)?,
        })
    }
}

impl Summary {
    fn new(one: &Measured, all: &[Measured]) -> Option<Summary> {
        let over = |value: fn(&Round) -> f64| Spread::over(&one.rounds, value);
        let ours = all.iter().find(|other| (other.job, other.system) == (one.job, System::Vestibule));
        Some(Summary {
            job: one.job,
            system: one.system,
            cost: over(|round| round.cost)?,
            user: over(|round| round.user)?,
            others_core: over(|round| round.others_core)?,
            core: over(|round| round.core)?,
            rate: over(|round| round.rate)?,
            ratio: ours.and_then(|ours| ratio(&ours.rounds, &one.rounds)),
            latency: Latencies::of(&one.rounds, |round| round.latency),
            beside_bulk: Latencies::of(&one.rounds, |round| round.beside_bulk),
        })
    }
}

impl Results {
    /// What follows.
    pub fn new(
        machine: Machine,
        versions: Vec<(System, String)>,
        extent: Extent,
        measured: Vec<Measured>,
        mut scale: Vec<ScalePoint>,
    ) -> Results {
        let summaries: Vec<Summary> = measured.iter().filter_map(|one| Summary::new(one, &measured)).collect();
        conclude(&mut scale);
        let goals = goals::judge(&summaries, &scale);
        let (tool, format) = ("vestibule-profile relay", FORMAT);
        Results { tool, format, machine, order_seed: SEED, versions, extent, measured, summaries, scale, goals }
    }

    /// What was left out from some round on, and why.
    pub fn failures(&self) -> impl Iterator<Item = (String, &str)> {
        let measured = self.measured.iter().map(|one| (one.to_string(), &one.failure));
        let scale = self.scale.iter().map(|one| (format!("scale {one}"), &one.failure));
        measured.chain(scale).filter_map(|(what, failure)| Some((what, failure.as_deref()?)))
    }
}

/// Round by round. None to what costs nothing: few idle sessions fit in memory that a relay has had before.
fn ratio(ours: &[Round], theirs: &[Round]) -> Option<Spread> {
    let costs_something = theirs.iter().all(|round| round.cost > 0.0);
    Spread::of(ratios(ours, theirs, |round| round.cost)).filter(|_| costs_something)
}

/// Sets every point beside the first of its kind.
fn conclude(scale: &mut [ScalePoint]) {
    for index in 0..scale.len() {
        let first = scale.iter().find(|other| other.is_first && other.what == scale[index].what);
        let ratio = first.and_then(|first| ratio(&scale[index].rounds, &first.rounds));
        let one = &mut scale[index];
        (one.cost, one.ratio) = (Spread::over(&one.rounds, |round| round.cost), ratio);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(cost: f64) -> Round {
        Round { cost, user: 1.0, others_core: 0.0, core: 0.5, count: 1, rate: 1.0, latency: None, beside_bulk: None }
    }

    fn measured(job: Job, system: System, costs: &[f64]) -> Measured {
        Measured { rounds: costs.iter().map(|cost| round(*cost)).collect(), ..Measured::new(job, system) }
    }

    fn point(count: u32, first: u32, costs: &[f64]) -> ScalePoint {
        ScalePoint {
            what: "servers",
            count,
            first,
            is_first: count == first,
            rounds: costs.iter().map(|cost| round(*cost)).collect(),
            cost: None,
            ratio: None,
            failure: None,
        }
    }

    fn results(measured: Vec<Measured>, scale: Vec<ScalePoint>) -> Results {
        let extent = Extent { seconds: 1.0, idle: 1, chatters: 1, chatter_rate: 1, answer: 1, rest: 0.0 };
        Results::new(Machine::test(), Vec::new(), extent, measured, scale)
    }

    #[test]
    fn goals_are_judged_by_the_median_of_the_ratios_of_rounds() {
        // The machine was slow in the second round: ratios do not show it.
        let results = results(
            vec![
                measured(Job::Short, System::Vestibule, &[96.0, 192.0, 99.0]),
                measured(Job::Short, System::Haproxy, &[100.0, 200.0, 100.0]),
                measured(Job::Short, System::Nginx, &[100.0, 200.0, 100.0]),
                measured(Job::Idle, System::Vestibule, &[601.0]),
                measured(Job::Connect, System::Haproxy, &[50.0]),
            ],
            vec![point(1, 1, &[10.0, 20.0]), point(200, 1, &[10.5, 21.0])],
        );
        let judged: Vec<_> =
            results.goals.iter().map(|goal| (goal.job, goal.at_most, goal.measured.median, goal.reached)).collect();
        assert_eq!(
            judged,
            [
                (Job::Short, 0.97, 0.96, true),
                (Job::Short, 0.90, 0.96, false),
                (Job::Idle, 600.0, 601.0, false),
                (Job::Scale, 1.10, 1.05, true),
            ]
        );
    }

    #[test]
    fn without_vestibule_there_is_nothing_to_judge() {
        let results = results(vec![measured(Job::Short, System::Haproxy, &[100.0])], Vec::new());
        assert!(results.goals.is_empty() && results.summaries[0].ratio.is_none());
    }
}

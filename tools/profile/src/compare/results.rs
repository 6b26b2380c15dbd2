//! What was measured, and what follows from it: the keys of the JSON report.

use std::fmt;

use serde::Serialize;

use super::goals::{self, Judged};
use crate::load::Outcome;
use crate::machine::Machine;
use crate::measure::Round;
use crate::report::FORMAT;
use crate::rounds::{self, Subject};
use crate::stats::{Spread, ratios};
use crate::systems::{Job, Program, System};

/// One system in one round, open loop. Latencies in microseconds from the intended start of a connection.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyRound {
    /// Connections a second.
    pub rate: f64,
    /// `first byte` of the answer, or `end` of a connection without one.
    pub until: &'static str,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// How late the client started connections, 99th percentile: part of the above.
    pub start_lag_p99: u64,
    /// 99th percentile of those that it started within 100 µs of their time.
    pub p99_in_time: u64,
    /// Connections without a latency, as in [`Round`].
    pub lost: u64,
    /// CPU time of the server a connection at this rate, microseconds, as in [`Round`].
    pub cpu_us: f64,
    /// Part of the server's CPU that others used meanwhile.
    pub others_core: f64,
    /// At the percentiles of [`crate::load::CURVE`].
    pub curve: Vec<f64>,
}

/// One system.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which.
    pub system: System,
    /// Closed loop.
    pub rounds: Vec<Round>,
    /// Open loop.
    pub latencies: Vec<LatencyRound>,
    /// Why it was left out from some round on.
    pub failure: Option<String>,
}

/// Medians and spreads of one system, and Vestibule beside it. Ratios are below 1 where Vestibule is cheaper.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Which.
    pub system: System,
    /// Its name, in words.
    pub name: String,
    /// CPU time, microseconds a connection.
    pub cpu_us: Spread,
    /// In user mode.
    pub user_us: Spread,
    /// In kernel mode.
    pub system_us: Spread,
    /// Context switches a connection, both kinds.
    pub switches: Spread,
    /// Part of the server's CPU that others used meanwhile.
    pub others_core: Spread,
    /// Connections a second.
    pub rate: Spread,
    /// Part of a core that the client used.
    pub client_core: Spread,
    /// KiB, shared pages counted by share.
    pub pss_kib: Spread,
    /// KiB resident.
    pub rss_kib: Spread,
    /// CPU of Vestibule / CPU of this, round by round, both with the same TCP_DEFER_ACCEPT.
    pub ratio_equal: Option<Spread>,
    /// The same, Vestibule as it comes: with TCP_DEFER_ACCEPT.
    pub ratio_default: Option<Spread>,
    /// Medians of the latency rounds.
    pub latency: Option<LatencySummary>,
}

/// Medians over rounds, microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct LatencySummary {
    /// Connections a second.
    pub rate: f64,
    /// `first byte` or `end`.
    pub until: &'static str,
    /// Median.
    pub p50: Spread,
    /// 99th percentile.
    pub p99: Spread,
    /// 99.9th percentile.
    pub p999: Spread,
    /// How late the client started connections, 99th percentile.
    pub start_lag_p99: Spread,
    /// 99th percentile of those that it started within 100 µs of their time.
    pub p99_in_time: Spread,
    /// CPU time of the server a connection.
    pub cpu_us: Spread,
    /// Medians of the rounds at the percentiles of [`crate::load::CURVE`].
    pub curve: Vec<f64>,
}

/// A whole comparison.
#[derive(Debug, Serialize)]
pub struct Results {
    /// `vestibule-profile compare`.
    pub tool: &'static str,
    /// Of these keys.
    pub format: u32,
    /// Where, when and how.
    pub machine: Machine,
    /// What the programs say of themselves.
    pub versions: Vec<(Program, String)>,
    /// What the orders of the rounds came from.
    pub order_seed: u64,
    /// Connections a second at which latencies were taken; 0: not taken.
    pub latency_rate: f64,
    /// What follows.
    pub summaries: Vec<Summary>,
    /// How far Vestibule is where it wants to be.
    pub goals: Vec<Judged>,
    /// What was measured, round by round.
    pub measured: Vec<Measured>,
}

impl LatencyRound {
    /// From a round of the open loop.
    pub fn new(job: Job, rate: f64, round: Round, outcome: Outcome) -> LatencyRound {
        let Round { cpu_us, others_core, lost, .. } = round;
        let Outcome { report, curves } = outcome;
        let latency = report.latency;
        let (until, quantiles, in_time, curve) = match job {
            Job::Discard | Job::Refuse | Job::HandOff => ("end", latency.end, latency.end_in_time, curves.end),
            Job::Whoami => ("first byte", latency.first_byte, latency.first_byte_in_time, curves.first_byte),
        };
        let (p50, p99, p999) = (quantiles.p50, quantiles.p99, quantiles.p999);
        let (start_lag_p99, p99_in_time) = (report.start_lag.p99, in_time.p99);
        LatencyRound { rate, until, p50, p99, p999, start_lag_p99, p99_in_time, lost, cpu_us, others_core, curve }
    }
}

impl fmt::Display for LatencyRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:7.0} /s  p50 {} us  p99 {} us  p99.9 {} us  {:6.2} us CPU",
            self.rate, self.p50, self.p99, self.p999, self.cpu_us
        )
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.system.fmt(f)
    }
}

impl Subject for Measured {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

impl Measured {
    /// Nothing yet.
    pub fn new(system: System) -> Measured {
        Measured { system, rounds: Vec::new(), latencies: Vec::new(), failure: None }
    }

    /// Connections a second, median.
    pub fn rate(&self) -> Option<f64> {
        Spread::over(&self.rounds, |round| round.rate).map(|rate| rate.median)
    }
}

impl Results {
    /// Works out everything that follows.
    pub fn new(
        machine: Machine,
        versions: Vec<(Program, String)>,
        latency_rate: f64,
        measured: Vec<Measured>,
    ) -> Results {
        let summaries: Vec<Summary> = measured.iter().filter_map(|one| summary(one, &measured)).collect();
        Results {
            tool: "vestibule-profile compare",
            format: FORMAT,
            machine,
            versions,
            order_seed: rounds::SEED,
            latency_rate,
            goals: goals::judge(&summaries),
            summaries,
            measured,
        }
    }
}

fn summary(one: &Measured, all: &[Measured]) -> Option<Summary> {
    let rounds = &one.rounds;
    let vestibule = |defer: bool| {
        let ours = System { program: Program::Vestibule, defer, ..one.system };
        all.iter().find(|other| other.system == ours)
    };
    let ratio = |ours: Option<&Measured>| Spread::of(ratios(&ours?.rounds, rounds, |round: &Round| round.cpu_us));
    Some(Summary {
        system: one.system,
        name: one.system.program.to_string(),
        cpu_us: Spread::over(rounds, |round| round.cpu_us)?,
        user_us: Spread::over(rounds, |round| round.user_us)?,
        system_us: Spread::over(rounds, |round| round.system_us)?,
        switches: Spread::over(rounds, |round| round.voluntary + round.involuntary)?,
        others_core: Spread::over(rounds, |round| round.others_core)?,
        rate: Spread::over(rounds, |round| round.rate)?,
        client_core: Spread::over(rounds, |round| round.client_core)?,
        pss_kib: Spread::over(rounds, |round| round.memory.pss_kib as f64)?,
        rss_kib: Spread::over(rounds, |round| round.memory.rss_kib as f64)?,
        ratio_equal: ratio(vestibule(one.system.defer)),
        ratio_default: ratio(vestibule(true)),
        latency: latency(&one.latencies),
    })
}

fn latency(rounds: &[LatencyRound]) -> Option<LatencySummary> {
    let points = rounds.iter().map(|round| round.curve.len()).min()?;
    let at = |index: usize| Spread::over(rounds, |round| round.curve[index]).map(|spread| spread.median);
    Some(LatencySummary {
        rate: rounds[0].rate,
        until: rounds[0].until,
        p50: Spread::over(rounds, |round| round.p50 as f64)?,
        p99: Spread::over(rounds, |round| round.p99 as f64)?,
        p999: Spread::over(rounds, |round| round.p999 as f64)?,
        start_lag_p99: Spread::over(rounds, |round| round.start_lag_p99 as f64)?,
        p99_in_time: Spread::over(rounds, |round| round.p99_in_time as f64)?,
        cpu_us: Spread::over(rounds, |round| round.cpu_us)?,
        curve: (0..points).map_while(at).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(program: Program, defer: bool, cpu: &[f64]) -> Measured {
        let system = System { job: Job::Discard, program, defer };
        Measured { rounds: cpu.iter().map(|cpu| Round::test(*cpu)).collect(), ..Measured::new(system) }
    }

    fn results() -> Results {
        let measured = vec![
            measured(Program::Vestibule, true, &[15.0, 30.0, 16.0]),
            measured(Program::Vestibule, false, &[20.0, 40.0, 20.0]),
            measured(Program::Haproxy, false, &[40.0, 80.0, 40.0]),
        ];
        Results::new(Machine::test(), Vec::new(), 0.0, measured)
    }

    #[test]
    fn vestibule_is_set_beside_each_with_the_same_setting_and_as_it_comes() {
        let results = results();
        let haproxy = &results.summaries[2];
        assert_eq!(haproxy.ratio_equal, Some(Spread { median: 0.5, min: 0.5, max: 0.5 }));
        assert_eq!(haproxy.ratio_default.expect("it was measured").median, 0.375);
        assert_eq!(results.summaries[0].ratio_equal.expect("beside itself").median, 1.0);
        assert_eq!(haproxy.switches.median, 0.75);
        assert!(haproxy.latency.is_none());
    }

    #[test]
    fn who_failed_before_its_first_round_is_reported_but_has_no_figures() {
        let failed = Measured { failure: Some("it hung".into()), ..measured(Program::Nginx, false, &[]) };
        let results =
            Results::new(Machine::test(), Vec::new(), 0.0, vec![measured(Program::Floor, true, &[9.0]), failed]);
        assert_eq!((results.summaries.len(), results.measured.len()), (1, 2));
        let json = serde_json::to_string(&results).expect("it is data");
        assert!(json.contains("it hung"), "{json}");
    }

    #[test]
    fn goals_are_judged_only_where_both_were_measured() {
        let goals = results().goals;
        assert_eq!(goals.len(), 1);
        assert_eq!((goals[0].program, goals[0].reached), (Program::Haproxy, true));
    }
}

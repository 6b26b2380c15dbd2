//! What was measured, and what follows from it: the keys of the JSON report.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::goals::{self, Judged};
use crate::load::Outcome;
use crate::machine::Machine;
use crate::proc::{CpuTime, Memory, Usage};
use crate::stats::{Spread, ratios};
use crate::systems::{Job, Program, System};

/// A round in which others used more than this part of the server's CPU counts as disturbed.
pub const DISTURBED: f64 = 0.05;

/// One system in one round, closed loop. Times in microseconds a connection.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// CPU time of the server, user and kernel.
    pub cpu_us: f64,
    /// Of that in user mode (sampled by the kernel's clock tick: coarse).
    pub user_us: f64,
    /// Of that in kernel mode.
    pub system_us: f64,
    /// CPU time of the server CPU's thread for soft interrupts, which is included in `cpu_us` and `system_us`.
    pub softirq_us: f64,
    /// Part of the server's CPU that others used meanwhile: what disturbed the measurement.
    pub others_core: f64,
    /// Context switches a connection that the server made by waiting.
    pub voluntary: f64,
    /// Context switches a connection that were forced on it.
    pub involuntary: f64,
    /// Connections a second; bounded by the client.
    pub rate: f64,
    /// Connections.
    pub connections: u64,
    /// Part of a core that the client used.
    pub client_core: f64,
    /// Memory at the end of the load.
    pub memory: Memory,
}

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
    /// Goes up when a key changes its meaning or goes away.
    pub format: u32,
    /// Where, when and how.
    pub machine: Machine,
    /// What the programs say of themselves.
    pub versions: Vec<(Program, String)>,
    /// Connections a second at which latencies were taken; 0: not taken.
    pub latency_rate: f64,
    /// What follows.
    pub summaries: Vec<Summary>,
    /// How far Vestibule is where it wants to be.
    pub goals: Vec<Judged>,
    /// What was measured, round by round.
    pub measured: Vec<Measured>,
}

/// What was used while a system was measured.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// By the server.
    pub server: Usage,
    /// On the server's CPU, by everybody.
    pub cpu: CpuTime,
    /// For how long.
    pub time: Duration,
}

impl Round {
    /// From what a server has used for an outcome.
    pub fn new(used: Used, memory: Memory, outcome: &Outcome) -> Round {
        let connections = outcome.connections.started - outcome.connections.unfinished;
        let each = |total: f64| total / connections.max(1) as f64;
        let micros = |time: Duration| each(time.as_secs_f64() * 1e6);
        let Used { server: used, cpu, time } = used;
        let user_us = micros(used.cpu) * used.user_share();
        let cpu_us = micros(used.cpu + cpu.softirq_thread);
        let others = cpu.busy.saturating_sub(used.cpu + cpu.softirq_thread);
        Round {
            cpu_us,
            user_us,
            system_us: cpu_us - user_us,
            softirq_us: micros(cpu.softirq_thread),
            others_core: others.as_secs_f64() / time.as_secs_f64().max(1e-6),
            voluntary: each(used.voluntary as f64),
            involuntary: each(used.involuntary as f64),
            rate: outcome.rate,
            connections,
            client_core: outcome.client_cpu_seconds / outcome.elapsed_seconds.max(1e-6),
            memory,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:6.2} us CPU  {:7.0} /s  {:5.2} switches",
            self.cpu_us,
            self.rate,
            self.voluntary + self.involuntary
        )
    }
}

impl LatencyRound {
    /// From an outcome.
    pub fn new(job: Job, rate: f64, used: Used, outcome: Outcome) -> LatencyRound {
        let Round { cpu_us, others_core, .. } = Round::new(used, Memory::default(), &outcome);
        let (until, quantiles, curve) = match job {
            Job::Discard => ("end", outcome.latency.end, outcome.curves.end),
            Job::Whoami => ("first byte", outcome.latency.first_byte, outcome.curves.first_byte),
        };
        let (p50, p99, p999) = (quantiles.p50, quantiles.p99, quantiles.p999);
        let start_lag_p99 = outcome.start_lag.p99;
        LatencyRound { rate, until, p50, p99, p999, start_lag_p99, cpu_us, others_core, curve }
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
            format: 1,
            machine,
            versions,
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
        cpu_us: Spread::over(rounds, |round| round.cpu_us)?,
        curve: (0..points).map_while(at).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(cpu_us: f64) -> Round {
        Round {
            cpu_us,
            user_us: 1.0,
            system_us: cpu_us - 1.0,
            softirq_us: 0.0,
            others_core: 0.0,
            voluntary: 0.5,
            involuntary: 0.25,
            rate: 1000.0,
            connections: 1,
            client_core: 1.0,
            memory: Memory::default(),
        }
    }

    fn measured(program: Program, defer: bool, cpu: &[f64]) -> Measured {
        let system = System { job: Job::Discard, program, defer };
        Measured { rounds: cpu.iter().map(|cpu| round(*cpu)).collect(), ..Measured::new(system) }
    }

    fn results() -> Results {
        let measured = vec![
            measured(Program::Vestibule, true, &[15.0, 30.0, 16.0]),
            measured(Program::Vestibule, false, &[20.0, 40.0, 20.0]),
            measured(Program::Haproxy, false, &[40.0, 80.0, 40.0]),
        ];
        Results::new(Machine::here(), Vec::new(), 0.0, measured)
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
    fn goals_are_judged_only_where_both_were_measured() {
        let goals = results().goals;
        assert_eq!(goals.len(), 1);
        assert_eq!((goals[0].program, goals[0].reached), (Program::Haproxy, true));
    }

    #[test]
    fn cost_is_shared_among_connections() {
        let json = r#"{"connections":{"started":1010,"ok":1000,"wrong":0,"failed":0,"unfinished":10,"not_started":0},
            "rate":500.0,"start_lag":{"count":0,"min":0,"p50":0,"p90":0,"p99":0,"p999":0,"max":0},
            "latency":{"first_byte":{"count":0,"min":0,"p50":0,"p90":0,"p99":0,"p999":0,"max":0},
                       "end":{"count":1,"min":7,"p50":7,"p90":7,"p99":8,"p999":9,"max":9}},
            "client_cpu_seconds":1.0,"elapsed_seconds":2.0}"#;
        let outcome: Outcome = serde_json::from_str(json).expect("the keys of vestibule-load");
        let server =
            Usage { cpu: Duration::from_millis(20), user_ticks: 1, system_ticks: 3, voluntary: 500, involuntary: 0 };
        let cpu = CpuTime { busy: Duration::from_millis(125), softirq_thread: Duration::from_millis(5) };
        let used = Used { server, cpu, time: Duration::from_secs(1) };
        let round = Round::new(used, Memory::default(), &outcome);
        assert_eq!((round.cpu_us, round.user_us, round.system_us, round.softirq_us), (25.0, 5.0, 20.0, 5.0));
        assert_eq!((round.voluntary, round.client_core, round.connections), (0.5, 0.5, 1000));
        assert!((round.others_core - 0.1).abs() < 1e-9);
        assert_eq!(LatencyRound::new(Job::Discard, 1.0, used, outcome).p99, 8);
    }
}

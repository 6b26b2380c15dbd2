//! A server under load: what it used and held, and what its clients saw.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use vestibule_load::Report;

use crate::bench::Bench;
use crate::load::{Outcome, Pace, lost};
use crate::proc::{CpuTime, Memory, Usage, cpu_time, memory, usage};
use crate::server::{Server, pause};

/// A round in which others used more than this part of the server's CPU counts as disturbed.
pub const DISTURBED: f64 = 0.05;
/// How long a server rests before its CPU time is read: what it still does for the last connections belongs to them.
const REST: Duration = Duration::from_millis(60);

/// One server in one round. Times in microseconds a connection.
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
    /// Connections that were answered wrongly, failed or hung: at most one in a thousand, or there is no round.
    pub lost: u64,
    /// Part of a core that the client used.
    pub client_core: f64,
    /// Memory at the end of the load.
    pub memory: Memory,
}

/// What was used while a server was measured.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// By the server.
    pub server: Usage,
    /// On the server's CPU, by everybody.
    pub cpu: CpuTime,
    /// For how long.
    pub time: Duration,
    /// What the server held at the end of the work.
    pub memory: Memory,
}

impl Used {
    /// CPU time of the server, with that of its CPU's thread for soft interrupts.
    pub fn cpu(&self) -> Duration {
        self.server.cpu + self.cpu.softirq_thread
    }

    /// Part of the server's CPU that others used meanwhile.
    pub fn others_core(&self) -> f64 {
        self.cpu.busy.saturating_sub(self.cpu()).as_secs_f64() / self.time.as_secs_f64().max(1e-6)
    }
}

/// Reads what a server with that process id, and others on its CPU, use while `work` is done.
pub fn used_by<T>(bench: &Bench, pid: u32, work: impl FnOnce() -> Result<T, String>) -> Result<(Used, T), String> {
    pause(REST)?;
    let (before, cpu, begun) = (usage(pid), cpu_time(bench.server_cpu), Instant::now());
    let done = work()?;
    let memory = memory(pid);
    pause(REST)?;
    let cpu = cpu_time(bench.server_cpu) - cpu;
    Ok((Used { server: usage(pid) - before, cpu, time: begun.elapsed(), memory }, done))
}

/// Puts a warm server under load and reads what it, and others on its CPU, have used.
pub fn measure(bench: &Bench, server: &Server, expect: &str, pace: Pace) -> Result<(Round, Outcome), String> {
    let (used, outcome) = used_by(bench, server.pid(), || bench.load(server, expect, pace).run())?;
    Ok((Round::new(used, &outcome.report), outcome))
}

impl Round {
    /// From what a server has used for an report.
    fn new(used: Used, report: &Report) -> Round {
        let connections = report.connections.started - report.connections.unfinished;
        let each = |total: f64| total / connections.max(1) as f64;
        let micros = |time: Duration| each(time.as_secs_f64() * 1e6);
        let Used { server, cpu, memory, .. } = used;
        let user_us = micros(server.cpu) * server.user_share();
        let cpu_us = micros(used.cpu());
        Round {
            cpu_us,
            user_us,
            system_us: cpu_us - user_us,
            softirq_us: micros(cpu.softirq_thread),
            others_core: used.others_core(),
            voluntary: each(server.voluntary as f64),
            involuntary: each(server.involuntary as f64),
            rate: report.rate,
            connections,
            lost: lost(&report.connections),
            client_core: report.client_cpu_seconds / report.elapsed_seconds.max(1e-6),
            memory,
        }
    }
}

#[cfg(test)]
impl Round {
    /// One for tests.
    pub fn test(cpu_us: f64) -> Round {
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
            lost: 0,
            client_core: 1.0,
            memory: Memory::default(),
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

#[cfg(test)]
mod tests {
    use vestibule_load::Connections;

    use super::*;

    #[test]
    fn cost_is_shared_among_connections() {
        let connections = Connections { started: 1010, ok: 999, failed: 1, unfinished: 10, ..Connections::default() };
        let report =
            Report { connections, rate: 500.0, client_cpu_seconds: 1.0, elapsed_seconds: 2.0, ..Report::default() };
        let server =
            Usage { cpu: Duration::from_millis(20), user_ticks: 1, system_ticks: 3, voluntary: 500, involuntary: 0 };
        let cpu = CpuTime { busy: Duration::from_millis(125), softirq_thread: Duration::from_millis(5) };
        let used = Used { server, cpu, time: Duration::from_secs(1), memory: Memory::default() };
        let round = Round::new(used, &report);
        assert_eq!((round.cpu_us, round.user_us, round.system_us, round.softirq_us), (25.0, 5.0, 20.0, 5.0));
        assert_eq!((round.voluntary, round.client_core), (0.5, 0.5));
        assert_eq!((round.connections, round.lost), (1000, 11));
        assert!((round.others_core - 0.1).abs() < 1e-9);
    }
}

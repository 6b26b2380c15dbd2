//! What a server has used, read from /proc (proc(5)): all its processes and all their threads.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// Use of CPU by a tree of processes since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time, to the nanosecond where the kernel has /proc/PID/schedstat, else to a clock tick.
    pub cpu: Duration,
    /// Clock ticks in user mode. The kernel samples these: only their proportion to `system_ticks` is used.
    pub user_ticks: u64,
    /// Clock ticks in kernel mode.
    pub system_ticks: u64,
    /// Times that a thread gave up the CPU by itself.
    pub voluntary: u64,
    /// Times that a thread was made to give up the CPU.
    pub involuntary: u64,
}

/// What a CPU has done since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTime {
    /// In use, by whomever, to a clock tick.
    pub busy: Duration,
    /// In use by its thread for soft interrupts, `ksoftirqd/N`: network work that was too much for the one who caused it.
    pub softirq_thread: Duration,
}

impl Sub for CpuTime {
    type Output = CpuTime;

    fn sub(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            busy: self.busy.saturating_sub(earlier.busy),
            softirq_thread: self.softirq_thread.saturating_sub(earlier.softirq_thread),
        }
    }
}

/// Memory of a tree of processes, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident, pages shared among the processes counted in each.
    pub rss_kib: u64,
    /// Resident, shared pages counted by share.
    pub pss_kib: u64,
    /// Resident, of no file.
    pub anonymous_kib: u64,
    /// The kernel's own to find them.
    pub page_tables_kib: u64,
}

/// One process, as /proc/PID/stat has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    user: u64,
    system: u64,
    /// Of children that have ended and were waited for.
    children_user: u64,
    children_system: u64,
    /// Clock ticks after boot: tells a process from a later one with the same id.
    started: u64,
}

/// A process that can be told from a later one with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    started: u64,
}

impl Identity {
    /// Whether this very process is still there.
    pub fn is_alive(self) -> bool {
        read_stat(self.pid).is_some_and(|stat| stat.started == self.started)
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }
}

impl Usage {
    /// Part of the CPU time that was spent in user mode.
    pub fn user_share(&self) -> f64 {
        match self.user_ticks + self.system_ticks {
            0 => 0.0,
            all => self.user_ticks as f64 / all as f64,
        }
    }
}

/// The process `root` and its descendants, the root first.
pub fn tree(root: u32) -> Vec<Identity> {
    let all: BTreeMap<u32, Stat> =
        numeric_names("/proc").into_iter().filter_map(|pid| Some((pid, read_stat(pid)?))).collect();
    let mut found: Vec<u32> = all.contains_key(&root).then_some(root).into_iter().collect();
    let mut looked_at = 0;
    while let Some(&parent) = found.get(looked_at) {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(&pid, _)| pid));
        looked_at += 1;
    }
    found.into_iter().map(|pid| Identity { pid, started: all[&pid].started }).collect()
}

/// What `root` and its descendants have used so far.
pub fn usage(root: u32) -> Usage {
    let mut total = Usage::default();
    for process in tree(root) {
        add_process(&mut total, process.pid);
    }
    total
}

/// What a CPU has done so far.
pub fn cpu_time(cpu: usize) -> CpuTime {
    let busy = busy_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpu);
    let name = format!("ksoftirqd/{cpu}\n");
    let comm = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == name);
    let thread = numeric_names("/proc").into_iter().find(comm);
    let schedstat = thread.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/schedstat")).ok());
    CpuTime { busy: ticks(busy), softirq_thread: run_time(&schedstat.unwrap_or_default()) }
}

/// What `root` and its descendants hold.
pub fn memory(root: u32) -> Memory {
    let mut total = Memory::default();
    for process in tree(root) {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).unwrap_or_default();
        total.rss_kib += field(&rollup, "Rss:");
        total.pss_kib += field(&rollup, "Pss:");
        total.anonymous_kib += field(&rollup, "Anonymous:");
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
        total.page_tables_kib += field(&status, "VmPTE:");
    }
    total
}

fn add_process(total: &mut Usage, pid: u32) {
    let Some(stat) = read_stat(pid) else { return };
    let mut on_cpu = Duration::ZERO;
    for task in numeric_names(format!("/proc/{pid}/task")) {
        let path = format!("/proc/{pid}/task/{task}");
        on_cpu += run_time(&fs::read_to_string(format!("{path}/schedstat")).unwrap_or_default());
        let status = fs::read_to_string(format!("{path}/status")).unwrap_or_default();
        total.voluntary += field(&status, "voluntary_ctxt_switches:");
        total.involuntary += field(&status, "nonvoluntary_ctxt_switches:");
    }
    // The ticks are rounded down, so they are more only where threads have ended.
    total.cpu += on_cpu.max(ticks(stat.user + stat.system)) + ticks(stat.children_user + stat.children_system);
    total.user_ticks += stat.user + stat.children_user;
    total.system_ticks += stat.system + stat.children_system;
}

fn ticks(count: u64) -> Duration {
    Duration::from_nanos(count * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

fn numeric_names(directory: impl AsRef<Path>) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may itself hold parentheses and blanks; fields are counted behind its last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // proc(5) counts from 1 and has the state, the first field here, as number 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        user: number(14)?,
        system: number(15)?,
        children_user: number(16)?,
        children_system: number(17)?,
        started: number(22)?,
    })
}

/// The line of a CPU in /proc/stat: user, nice, system, idle, iowait, irq, softirq, ...
fn busy_ticks(stat: &str, cpu: usize) -> u64 {
    const IDLE: [usize; 2] = [3, 4];
    const COUNTED: usize = 7;
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
    let fields = line.split_whitespace().take(COUNTED).enumerate().filter(|(index, _)| !IDLE.contains(index));
    fields.filter_map(|(_, text)| text.parse::<u64>().ok()).sum()
}

/// The first field of a schedstat file: nanoseconds on a CPU.
fn run_time(schedstat: &str) -> Duration {
    Duration::from_nanos(schedstat.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The number behind `name` in a file of lines such as `Rss:   123 kB`; 0 if it is not there.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_the_last_parenthesis() {
        let line = "77 (a b) c) S 5 77 77 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 9911 1 2 3";
        let expected = Stat { parent: 5, user: 11, system: 12, children_user: 13, children_system: 14, started: 9911 };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("77 (short) S 5"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 3);
        assert_eq!(field(text, "Pss:"), 0);
        assert_eq!(run_time("1500 2 3\n"), Duration::from_nanos(1500));
        assert_eq!(run_time(""), Duration::ZERO);
    }

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  9 9 9 9 9 9 9 9\ncpu0 1 2 4 1000 2000 8 16 5000 0 0\ncpu10 7 0 0 0 0 0 0 0\n";
        assert_eq!((busy_ticks(stat, 0), busy_ticks(stat, 10), busy_ticks(stat, 1)), (31, 7, 0));
    }

    #[test]
    fn work_of_this_process_shows_up() {
        let before = usage(std::process::id());
        let end = Instant::now() + Duration::from_secs(10);
        // To ask is work enough; other tests of this process may work as well.
        while (usage(std::process::id()) - before).cpu < Duration::from_millis(5) {
            assert!(Instant::now() < end, "work does not show up");
        }
        assert!(memory(std::process::id()).pss_kib > 0);
        assert!(tree(std::process::id())[0].is_alive());
    }
}

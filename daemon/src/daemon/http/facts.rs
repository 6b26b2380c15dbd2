//! What is known of this process and its host beside the engine: for `/metrics` and the page.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use vestibule::metrics::{Scrape, families as f};

use crate::daemon::log::LostLines;

/// What does not change while the process lives, and where the rest is found.
pub struct Facts {
    started: SystemTime,
    kernel: String,
    lost: LostLines,
}

/// What the process uses at one moment. What cannot be known (there is no /proc in a chroot) is `None`.
pub struct Usage {
    /// Processor time in seconds.
    pub cpu: Option<f64>,
    /// Resident memory in bytes.
    pub resident: Option<u64>,
    /// Open files.
    pub files: Option<usize>,
    /// Most of them.
    pub files_max: Option<u64>,
}

impl Facts {
    /// Of a process that begins now.
    pub fn new(lost: LostLines) -> Facts {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Facts { started: SystemTime::now(), kernel: kernel.trim().to_owned(), lost }
    }

    /// The kernel's release; empty where it cannot be known.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// When the process began, in seconds since 1970.
    pub fn started(&self) -> f64 {
        self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    /// Log lines that were lost.
    pub fn lines_lost(&self) -> u64 {
        self.lost.count()
    }

    /// Enters everything.
    pub fn enter(&self, scrape: &mut Scrape) {
        scrape.info(&f::BUILD, [vestibule::VERSION, &self.kernel]);
        scrape.count(&f::LOG_LINES_LOST, [], self.lines_lost());
        if let Some([overflows, drops]) = backlogs() {
            scrape.count(&f::LISTEN_OVERFLOWS, [], overflows);
            scrape.count(&f::LISTEN_DROPS, [], drops);
        }
        scrape.gauge(&f::PROCESS_START, [], self.started());
        let Usage { cpu, resident, files, files_max } = usage();
        cpu.into_iter().for_each(|seconds| scrape.count(&f::PROCESS_CPU, [], seconds));
        resident.into_iter().for_each(|bytes| scrape.gauge(&f::PROCESS_RESIDENT, [], bytes));
        files.into_iter().for_each(|count| scrape.gauge(&f::PROCESS_FDS, [], count));
        files_max.into_iter().for_each(|count| scrape.gauge(&f::PROCESS_FDS_MAX, [], count));
    }
}

/// What the process uses now.
pub fn usage() -> Usage {
    let cpu = getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| {
        let times = [usage.user_time(), usage.system_time()];
        times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6).sum()
    });
    let status = fs::read_to_string("/proc/self/status").ok();
    let resident = status.as_deref().and_then(|status| kilobytes(status, "VmRSS:")).map(|kilobytes| kilobytes << 10);
    // The one that reads the directory is not counted.
    let files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1));
    let files_max = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
    Usage { cpu, resident, files, files_max }
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// ListenOverflows and ListenDrops of this network namespace.
fn backlogs() -> Option<[u64; 2]> {
    backlogs_of(&fs::read_to_string("/proc/net/netstat").ok()?)
}

fn backlogs_of(netstat: &str) -> Option<[u64; 2]> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let of = |wanted: &str| {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse().ok())
    };
    Some([of("ListenOverflows")?, of("ListenDrops")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_found_by_name() {
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(backlogs_of(netstat), Some([22, 333]));
        assert_eq!(backlogs_of("IpExt: a\nIpExt: 1\n"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage();
        assert!(usage.cpu.is_some_and(|seconds| seconds >= 0.0));
        assert!(usage.files_max.is_some_and(|files| files > 0));
    }
}

//! What the machine says, read and tried out; no verdicts.

use std::fs;
use std::sync::Barrier;
use std::thread;

use vestibule::config::DriverKind;
use vestibule::ring::{self, Epoll, Native, Resource, Ring, Sizes, Waker};

use super::Needs;

/// The machine as this process sees it; `None` where the kernel does not tell.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) kernel: Option<String>,
    /// Rings made for a trial; where the configuration asks for epoll it says why none were.
    pub(super) trial: Result<Trial, Refusal>,
    /// Whether epoll is there, as it is for the servers' checks in any case.
    pub(super) epoll: Result<(), String>,
    pub(super) io_uring_disabled: Option<u64>,
    /// `fs.epoll.max_user_watches`.
    pub(super) epoll_watches: Option<u64>,
    /// The `Seccomp:` field of /proc/self/status: 0 none, 1 strict, 2 a filter.
    pub(super) seccomp: Option<u64>,
    pub(super) somaxconn: Option<u64>,
    pub(super) syn_backlog: Option<u64>,
    pub(super) syncookies: Option<u64>,
    pub(super) migrate_req: Option<u64>,
    /// Soft and hard.
    pub(super) open_files: Option<(u64, u64)>,
    /// Soft and hard, in bytes.
    pub(super) locked_memory: Option<(u64, u64)>,
    /// Why the kernel does not go on with TLS sessions, if so.
    pub(super) kernel_tls: Result<(), String>,
    /// Bytes; `None` also where the control group sets no limit.
    pub(super) memory_limit: Option<u64>,
}

/// What the rings that were made for a trial say.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// DEFER_TASKRUN.
    pub(super) deferred: bool,
    /// Why buffers could not be registered.
    pub(super) unregistered: Option<String>,
    /// Bytes of memory that all of them kept locked.
    pub(super) locked_memory: u64,
    /// Why rings are not locked to their operations.
    pub(super) unlocked: Option<String>,
}

/// Why there is no ring.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) words: String,
    /// No limit is at fault: a daemon with `driver = auto` runs on epoll here.
    pub(super) for_good: bool,
}

impl Facts {
    pub(super) fn read(needs: &Needs) -> Facts {
        Facts {
            kernel: sysctl("kernel/osrelease"),
            trial: try_rings(needs),
            epoll: try_epoll(),
            io_uring_disabled: number("kernel/io_uring_disabled"),
            epoll_watches: number("fs/epoll/max_user_watches"),
            seccomp: seccomp(),
            somaxconn: number("net/core/somaxconn"),
            syn_backlog: number("net/ipv4/tcp_max_syn_backlog"),
            syncookies: number("net/ipv4/tcp_syncookies"),
            migrate_req: number("net/ipv4/tcp_migrate_req"),
            open_files: ring::limit(Resource::OpenFiles).ok(),
            locked_memory: ring::limit(Resource::LockedMemory).ok(),
            kernel_tls: ring::kernel_tls(),
            memory_limit: memory_limit(),
        }
    }
}

/// Makes all rings, one a thread as the daemon does, and holds them together: locked memory is counted in one sum.
fn try_rings(needs: &Needs) -> Result<Trial, Refusal> {
    if needs.driver == DriverKind::Epoll {
        return Err(Refusal { words: "the configuration says driver = epoll".into(), for_good: true });
    }
    let all_made = Barrier::new(needs.rings);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..needs.rings).map(|_| scope.spawn(|| try_ring(needs, &all_made))).collect();
        let trials: Result<Vec<Trial>, Refusal> =
            threads.into_iter().map(|thread| thread.join().expect("a trial does not panic")).collect();
        let worst = |trial: &Trial| (trial.unregistered.is_some(), trial.unlocked.is_some());
        let trials = trials?;
        let locked_memory = trials.iter().map(|trial| trial.locked_memory).sum();
        let worst = trials.into_iter().max_by_key(worst).expect("one ring at least");
        Ok(Trial { locked_memory, ..worst })
    })
}

fn try_ring(needs: &Needs, all_made: &Barrier) -> Result<Trial, Refusal> {
    let made = waker().map_err(|words| Refusal { words, for_good: false }).and_then(|waker| {
        let refused =
            |error: ring::SetupError| Refusal { words: error.to_string(), for_good: error.rules_io_uring_out() };
        Ring::new(needs.sizes, Vec::new(), waker).map_err(refused)
    });
    all_made.wait();
    let ring = made?;
    let unregistered = ring.unregistered().map(ToString::to_string);
    let unlocked = ring.unlocked().map(ToString::to_string);
    Ok(Trial { deferred: ring.rung().defer_taskrun, unregistered, locked_memory: ring.locked(), unlocked })
}

fn try_epoll() -> Result<(), String> {
    let sizes = Sizes { slots: 0, longest: 0, completions: 0, registered: false };
    Epoll::new(sizes, Vec::new(), waker()?).map(drop).map_err(|error| error.to_string())
}

fn waker() -> Result<Waker, String> {
    Waker::new().map_err(|error| format!("no event counter: {error}"))
}

fn sysctl(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_string())
}

fn number(name: &str) -> Option<u64> {
    sysctl(name)?.parse().ok()
}

fn seccomp() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?.trim().parse().ok()
}

/// The control group's own limit, in version 2 or 1. In a container the host's path may not exist; there the container's
/// group is the root of what is mounted.
fn memory_limit() -> Option<u64> {
    // Version 1 says "no limit" with a number near the largest; version 2 says "max", which is no number at all.
    const NO_LIMIT: u64 = 1 << 60;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let found = limit_files(&groups).iter().find_map(|file| fs::read_to_string(file).ok())?;
    found.trim().parse().ok().filter(|&bytes| bytes < NO_LIMIT)
}

/// Where the limit may stand, the likeliest first. `groups`: lines `ID:CONTROLLERS:PATH`.
fn limit_files(groups: &str) -> [String; 4] {
    let path =
        |separator: &str| groups.lines().find_map(|line| Some(line.split_once(separator)?.1)).unwrap_or_default();
    [
        format!("/sys/fs/cgroup/memory{}/memory.limit_in_bytes", path(":memory:")),
        format!("/sys/fs/cgroup{}/memory.max", path("0::")),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_string(),
        "/sys/fs/cgroup/memory.max".to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups() {
        let unified = limit_files("0::/system.slice/vestibule.service\n");
        assert!(unified.contains(&"/sys/fs/cgroup/system.slice/vestibule.service/memory.max".to_string()));
        let separate = limit_files("9:name=systemd:/\n4:memory:/mail/a\n0::/\n");
        assert_eq!(separate[0], "/sys/fs/cgroup/memory/mail/a/memory.limit_in_bytes");
    }
}

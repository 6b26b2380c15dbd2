//! Setting up a ring: the flags, what to do where the kernel does not know one, and what to say where it refuses.

use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode};

use super::locked::COMPLETIONS_MIN;
use super::sys::{self, Resource};

/// Submission queue entries. A fuller turn submits in between.
pub const SQ_ENTRIES: u32 = 256;
/// Most completion queue entries that are asked for (the kernel's own maximum is 65536).
pub const CQ_ENTRIES_MAX: u32 = 65_536;

/// Attempts when memory is short: a ring closed a moment ago gives its locked memory back with a delay.
const MEMORY_ATTEMPTS: u32 = 5;
const MEMORY_PAUSE: Duration = Duration::from_millis(20);

/// Flags that older kernels lack, tried from all to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// No indirection between submission queue and entries (6.6).
    pub no_sqarray: bool,
    /// Completion work runs only when this thread asks for completions, not in the middle of anything (6.1).
    pub defer_taskrun: bool,
}

/// The ladder; the first rung that the kernel accepts is taken.
pub const LADDER: [Rung; 3] = [
    Rung { no_sqarray: true, defer_taskrun: true },
    Rung { no_sqarray: false, defer_taskrun: true },
    Rung { no_sqarray: false, defer_taskrun: false },
];

/// Every operation that a ring is asked for. It is locked to them, so that who gets hold of the process finds no way around
/// a filter of system calls in its rings.
pub const OPERATIONS: &[u8] = &[
    opcode::AcceptMulti::CODE,
    opcode::AsyncCancel::CODE,
    opcode::PollAdd::CODE,
    opcode::Read::CODE,
    opcode::ReadFixed::CODE,
    opcode::Recv::CODE,
];

/// What a ring may do once it is set up (IORING_REGISTER_RESTRICTIONS): nothing can be registered with it any more, and no
/// operation but these succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Its [`OPERATIONS`].
    Own,
    /// Only these, and nothing was registered before.
    #[cfg(test)]
    Fewer(&'static [u8]),
    /// Everything, as where the kernel refuses a lock.
    Open,
}

/// What a ring may use of its kernel. Tests take away what others lack, and so go the ways around it on a real kernel.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// The rung to begin with: what stands above it is not tried.
    pub rung: usize,
    /// What is left of the kernel's operations.
    pub lock: Lock,
}

impl Abilities {
    /// Whatever the kernel has.
    pub const ALL: Abilities = Abilities { rung: 0, lock: Lock::Own };

    /// Whether memory may be registered.
    pub fn registers(&self) -> bool {
        matches!(self.lock, Lock::Own | Lock::Open)
    }

    /// Every way to have less: each lower rung, no lock, and each rung with nothing but the operations that a ring which accepts
    /// cannot do without.
    #[cfg(test)]
    pub fn fewer() -> impl Iterator<Item = Abilities> {
        use opcode::{AcceptMulti, AsyncCancel, Read, Recv};
        Abilities::fewer_than(&[AcceptMulti::CODE, AsyncCancel::CODE, Read::CODE, Recv::CODE])
    }

    /// [`Abilities::fewer`] for a ring that relays too.
    #[cfg(test)]
    pub fn fewer_for_streams() -> impl Iterator<Item = Abilities> {
        use opcode::{AcceptMulti, AsyncCancel, PollAdd, Read, Recv};
        Abilities::fewer_than(&[AcceptMulti::CODE, AsyncCancel::CODE, Read::CODE, Recv::CODE, PollAdd::CODE])
    }

    #[cfg(test)]
    fn fewer_than(needed: &'static [u8]) -> impl Iterator<Item = Abilities> {
        let rungs = 0..LADDER.len();
        let lower = rungs.clone().skip(1).map(|rung| Abilities { rung, lock: Lock::Own });
        let open = Abilities { rung: 0, lock: Lock::Open };
        lower.chain([open]).chain(rungs.map(move |rung| Abilities { rung, lock: Lock::Fewer(needed) }))
    }
}

/// A ring with room for `completions` completions; must be called on the thread that will use it. Unless its lock is open it
/// takes operations only after [`lock`] or [`begin`].
///
/// # Errors
/// [`SetupError`] names cause and remedy.
pub fn ring(completions: u32, abilities: Abilities) -> Result<(IoUring, Rung), SetupError> {
    let mut entries = completion_entries(completions);
    let mut rung = abilities.rung;
    let mut attempts = 0;
    loop {
        match build(LADDER[rung], entries, abilities.lock != Lock::Open) {
            Ok(ring) => return Ok((ring, LADDER[rung])),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL) if rung + 1 < LADDER.len() => rung += 1,
                Some(libc::ENOMEM) if attempts < MEMORY_ATTEMPTS => {
                    attempts += 1;
                    thread::sleep(MEMORY_PAUSE);
                    if attempts == MEMORY_ATTEMPTS && entries > COMPLETIONS_MIN {
                        (entries, attempts) = (entries / 2, 0);
                    }
                }
                _ => return Err(SetupError::new(error)),
            },
        }
    }
}

/// Allows a ring these operations alone, and nothing to be registered any more, from its begin on.
///
/// # Errors
/// The kernel's, or those of a filter of system calls; the ring is as it was then.
pub fn lock(ring: &IoUring, operations: &[u8]) -> io::Result<()> {
    let mut allowed: Vec<Restriction> = operations.iter().map(|&operation| Restriction::sqe_op(operation)).collect();
    ring.submitter().register_restrictions(&mut allowed)
}

/// Lets a ring that is set up take operations.
///
/// # Errors
/// Those of a filter of system calls: there is no way to use this ring then.
pub fn begin(ring: &IoUring) -> io::Result<()> {
    ring.submitter().register_enable_rings()
}

fn build(rung: Rung, completions: u32, disabled: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        // Room for every connection of a full backlog and every read in flight: a full completion queue loses accepts on
        // some kernels.
        .setup_cqsize(completions)
        .setup_clamp()
        // One bad entry must not keep the rest of a batch from being submitted.
        .setup_submit_all()
        // Lets us see that completion work is pending without a system call.
        .setup_taskrun_flag();
    if rung.defer_taskrun {
        builder.setup_single_issuer().setup_defer_taskrun();
    } else {
        builder.setup_coop_taskrun();
    }
    if rung.no_sqarray {
        builder.setup_no_sqarray();
    }
    if disabled {
        builder.setup_r_disabled();
    }
    // The kernel wants at least as many completion entries as submission entries.
    builder.build(SQ_ENTRIES.min(completions))
}

/// Why there is no ring, with the remedy.
#[derive(Debug)]
pub struct SetupError {
    cause: Cause,
    error: io::Error,
}

#[derive(Debug, PartialEq, Eq)]
enum Cause {
    /// kernel.io_uring_disabled is 1 or 2.
    Sysctl {
        disabled: u32,
        group: String,
    },
    /// EPERM though the sysctl allows it: a filter of system calls. EACCES: a security module.
    Filter,
    /// ENOSYS.
    Missing,
    /// ENOMEM.
    Memory {
        limit_kib: u64,
    },
    /// EINVAL even for the lowest rung.
    Old,
    Other,
    /// It was asked for epoll.
    Epoll,
}

impl SetupError {
    /// Whether this process cannot have io_uring at all, whatever its limits: only another driver is left.
    pub fn rules_io_uring_out(&self) -> bool {
        matches!(self.cause, Cause::Sysctl { .. } | Cause::Filter | Cause::Missing | Cause::Old)
    }

    /// Why there is no driver on epoll.
    pub(super) fn of_epoll(error: io::Error) -> SetupError {
        SetupError { cause: Cause::Epoll, error }
    }

    pub(super) fn new(error: io::Error) -> SetupError {
        let cause = match error.raw_os_error() {
            Some(libc::EPERM) => match disabled_by_sysctl() {
                Some(disabled) if disabled > 0 => Cause::Sysctl { disabled, group: sysctl("io_uring_group") },
                _ => Cause::Filter,
            },
            Some(libc::EACCES) => Cause::Filter,
            Some(libc::ENOSYS) => Cause::Missing,
            Some(libc::ENOMEM) => {
                Cause::Memory { limit_kib: sys::limit(Resource::LockedMemory).map_or(0, |(soft, _)| soft / 1024) }
            }
            Some(libc::EINVAL) => Cause::Old,
            _ => Cause::Other,
        };
        SetupError { cause, error }
    }

    /// Whether it is only memory that was short: there may be enough for fewer rings.
    pub fn is_for_want_of_memory(&self) -> bool {
        matches!(self.cause, Cause::Memory { .. })
    }
}

/// Entries of the completion queue of a ring that is asked to have room for so many completions, where memory is not short.
pub fn completion_entries(completions: u32) -> u32 {
    completions.min(CQ_ENTRIES_MAX).next_power_of_two()
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cause == Cause::Epoll {
            return write!(
                f,
                "epoll is not available ({}): run `vestibule doctor` for the kernel's limits",
                self.error
            );
        }
        write!(f, "io_uring is not available ({}): ", self.error)?;
        match &self.cause {
            Cause::Sysctl { disabled: 1, group } => write!(
                f,
                "kernel.io_uring_disabled = 1 and this process is not in kernel.io_uring_group ({group}); add its group, \
                 or run `sysctl kernel.io_uring_disabled=0`"
            ),
            Cause::Sysctl { disabled, .. } => write!(
                f,
                "kernel.io_uring_disabled = {disabled} switches it off; run `sysctl kernel.io_uring_disabled=0`"
            ),
            Cause::Filter => f.write_str(
                "a filter of system calls forbids it (Seccomp in /proc/self/status; container defaults do); the profile \
                 must allow io_uring_setup, io_uring_enter and io_uring_register",
            ),
            Cause::Missing => f.write_str(
                "the kernel has no io_uring or a sandbox hides it; Vestibule needs Linux 6.1 or later with CONFIG_IO_URING, \
                 and a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
            ),
            Cause::Memory { limit_kib } => write!(
                f,
                "locked memory is limited to {limit_kib} KiB (RLIMIT_MEMLOCK); raise it (`LimitMEMLOCK=infinity` in the \
                 unit, `ulimit -l unlimited` in a shell), or use fewer rings"
            ),
            Cause::Old => f.write_str(
                "the kernel knows no set-up that Vestibule can use, as those before Linux 5.19, which have no multishot \
                 accept; run Linux 6.1 or later",
            ),
            Cause::Epoll | Cause::Other => f.write_str("run `vestibule doctor` for the kernel's limits"),
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// `kernel.io_uring_disabled`; `None` where the kernel has no such setting (before 6.6).
pub fn disabled_by_sysctl() -> Option<u32> {
    sysctl("io_uring_disabled").parse().ok()
}

fn sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_remedy() {
        for (errno, words) in [
            (libc::ENOSYS, "Linux 6.1 or later"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (
                libc::EPERM,
                if disabled_by_sysctl().is_some_and(|disabled| disabled > 0) {
                    "sysctl"
                } else {
                    "filter of system calls"
                },
            ),
            (libc::EINVAL, "before Linux 5.19"),
            (libc::EFAULT, "vestibule doctor"),
        ] {
            let text = SetupError::new(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn the_lowest_rung_works_too() {
        for rung in LADDER {
            match build(rung, 512, true) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{rung:?}: {error}"),
            }
        }
        build(LADDER[2], 512, true).expect("every kernel since 5.19 knows these flags");
    }
}

//! A kernel that refuses io_uring: one message with cause and remedy, exit code 1. The refusal is emulated by a seccomp
//! filter, as containers' default profiles have one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::support::daemon::{vestibule, vestibule_run};
use crate::support::process::{Finished, run};
use crate::support::{free_port, temp_dir};
use crate::{needs, needs_root, skip};

/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`: the same numbers on every architecture.
const IO_URING_CALLS: std::ops::RangeInclusive<i64> = 425..=427;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;

#[test]
fn serve_says_what_refuses_io_uring_and_what_to_do() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    let text = crate::support::daemon::haproxy_configuration(free_port(), "", "");
    std::fs::write(&file, text).expect("it can be written");
    let name = file.to_str().expect("a plain path");
    for (errno, cause) in
        [(EPERM, "Seccomp in /proc/self/status"), (ENOSYS, "CONFIG_IO_URING"), (EINVAL, "run Linux 6.1 or later")]
    {
        let finished = without_io_uring(errno, &["serve", "-c", name]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let message: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("io_uring")).collect();
        assert_eq!(message.len(), 1, "one message: {finished:?}");
        assert!(message[0].contains(cause), "{message:?}");
    }
    let refused = without_io_uring(EPERM, &["serve", "-c", name]);
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(refused.stderr.contains(call), "the remedy names the calls to allow: {refused:?}");
    }
}

#[test]
fn doctor_says_that_it_cannot_run() {
    let finished = without_io_uring(EPERM, &["doctor"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("io_uring"), "{finished:?}");
    assert!(finished.stdout.contains("seccomp"), "{finished:?}");
}

/// The sysctl belongs to the whole machine. So the daemon gets a mount namespace in which the file says 2, and the kernel's
/// refusal is emulated; on a machine with no other user of io_uring, `VESTIBULE_SYSCTL=1` switches it off for real.
#[test]
fn the_sysctl_is_named_where_it_forbids_io_uring() {
    needs_root!();
    needs!("unshare", "mount");
    if !Path::new(SYSCTL).exists() {
        skip!("kernel.io_uring_disabled, which Linux has since 6.6");
    }
    let port = free_port();
    let file = temp_dir();
    let name = file.path().join("vestibule.conf");
    std::fs::write(&name, crate::support::daemon::haproxy_configuration(port, "", "")).expect("it can be written");
    let name = name.to_str().expect("a plain path");
    let refused = if std::env::var_os("VESTIBULE_SYSCTL").is_some() {
        let _off = SysctlOff::switch();
        vestibule_run(&["serve", "-c", name], b"")
    } else {
        let says_two = file.path().join("two");
        std::fs::write(&says_two, "2\n").expect("it can be written");
        let inside = format!("mount --bind {} {SYSCTL} && exec \"$@\"", says_two.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &inside, "sh"]).arg(vestibule().get_program()).args(["serve", "-c", name]);
        under_filter(EPERM, || run(command, b""))
    };
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let remedy = "kernel.io_uring_disabled = 2 switches it off; run `sysctl kernel.io_uring_disabled=0`";
    assert!(refused.stderr.contains(remedy), "{refused:?}");
}

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// io_uring is off on this machine; dropped, it is as it was.
struct SysctlOff(String);

impl SysctlOff {
    fn switch() -> SysctlOff {
        let before = std::fs::read_to_string(SYSCTL).expect("Linux 6.6 and later have it");
        std::fs::write(SYSCTL, "2").expect("root may write it");
        SysctlOff(before)
    }
}

impl Drop for SysctlOff {
    fn drop(&mut self) {
        std::fs::write(SYSCTL, self.0.trim()).expect("root may write it");
    }
}

#[test]
fn what_needs_no_ring_works_without() {
    let finished = without_io_uring(EPERM, &["config"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

/// Runs `vestibule` where every io_uring call fails with `errno`.
fn without_io_uring(errno: u32, arguments: &[&str]) -> Finished {
    under_filter(errno, || vestibule_run(arguments, b""))
}

fn under_filter(errno: u32, body: impl FnOnce() -> Finished + Send) -> Finished {
    std::thread::scope(|scope| {
        // The filter holds for this thread and the processes that it starts, not for the other tests.
        let child = scope.spawn(|| {
            seccompiler::apply_filter(&refusal(errno)).expect("the kernel takes a seccomp filter");
            body()
        });
        child.join().expect("it does not panic")
    })
}

fn refusal(errno: u32) -> BpfProgram {
    let rules = IO_URING_CALLS.map(|call| (call, Vec::new())).collect::<BTreeMap<_, _>>();
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), architecture)
        .and_then(BpfProgram::try_from)
        .expect("three calls make a filter")
}

//! A kernel that refuses io_uring: one message with cause and remedy, exit code 1. The refusal is emulated by a seccomp
//! filter, as containers' default profiles have one.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::support::daemon::vestibule_run;
use crate::support::process::Finished;
use crate::support::{free_port, temp_dir};

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

#[test]
fn what_needs_no_ring_works_without() {
    let finished = without_io_uring(EPERM, &["config"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

/// Runs `vestibule` where every io_uring call fails with `errno`.
fn without_io_uring(errno: u32, arguments: &[&str]) -> Finished {
    std::thread::scope(|scope| {
        // The filter holds for this thread and the processes that it starts, not for the other tests.
        let child = scope.spawn(|| {
            seccompiler::apply_filter(&refusal(errno)).expect("the kernel takes a seccomp filter");
            vestibule_run(arguments, b"")
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

//! `vestibule doctor` on this machine, as it is and with less than it needs.

use std::process::Command;

use crate::support::daemon::{vestibule, vestibule_run};
use crate::support::process::{Finished, run};
use crate::support::temp_dir;
use crate::{needs, needs_root, skip};

/// A user who is not root, whose locked memory the kernel counts: nobody.
const SOMEBODY: &str = "65534";

/// The line about a subject.
fn line<'a>(report: &'a Finished, subject: &str) -> &'a str {
    let found = report.stdout.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(subject)));
    found.unwrap_or_else(|| panic!("no line about {subject}:\n{}{}", report.stdout, report.stderr))
}

/// The report of a user who may lock so many bytes of memory.
fn with_locked_memory(bytes: u32) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SOMEBODY, "--clear-groups", "prlimit"]).arg(format!("--memlock={bytes}:{bytes}"));
    command.arg(vestibule().get_program()).arg("doctor");
    run(command, b"")
}

/// Major and minor version.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux has it");
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().expect("a number"));
    (numbers.next().expect("major"), numbers.next().expect("minor"))
}

#[test]
fn it_reports_what_the_kernel_says() {
    let report = vestibule_run(&["doctor"], b"");
    let fails = report.stdout.lines().filter(|line| line.starts_with("fail")).count();
    assert_eq!(report.code, Some(i32::from(fails > 0)), "{}", report.stdout);
    for line in report.stdout.lines() {
        let verdict = line.split(' ').next().unwrap_or_default();
        assert!(["ok", "warn", "fail"].contains(&verdict), "{line}");
        assert_eq!(line.contains("; remedy: "), verdict != "ok", "{line}");
    }
    for (sysctl, file) in [
        ("kernel ", "/proc/sys/kernel/osrelease"),
        ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
        ("net.ipv4.tcp_max_syn_backlog", "/proc/sys/net/ipv4/tcp_max_syn_backlog"),
    ] {
        let value = std::fs::read_to_string(file).expect("Linux has it");
        let line = line(&report, sysctl);
        assert!(line.split_whitespace().any(|word| word == value.trim()), "{line} is not {value}");
    }
}

#[test]
fn without_memory_for_a_ring_it_fails_and_names_the_limit() {
    needs_root!();
    needs!("setpriv", "prlimit");
    if !line(&vestibule_run(&["doctor"], b""), "io_uring ").starts_with("ok") {
        skip!("io_uring");
    }
    if kernel() < (6, 14) {
        skip!("a kernel that counts a ring's memory against RLIMIT_MEMLOCK, as all do since 6.14");
    }
    let report = with_locked_memory(4096);
    let line = line(&report, "io_uring ");
    assert_eq!(report.code, Some(1), "{}{}", report.stdout, report.stderr);
    assert!(line.starts_with("fail") && line.contains("RLIMIT_MEMLOCK"), "{line}");
}

#[test]
fn it_judges_by_the_needs_of_a_configuration() {
    needs!("prlimit");
    let directory = temp_dir();
    let file = directory.path().join("t.conf");
    let mut lines = Vec::new();
    for limit in [16, 16384] {
        let text = format!(
            "rings = 1\npending_limit = {limit}\nservice s {{\nqueue = 1\nworkers = 1\ninet_listener l {{\nport = 1\n}}\n}}\n"
        );
        std::fs::write(&file, text).expect("the file can be written");
        let mut command = Command::new("prlimit");
        command.arg("--nofile=256:256").arg(vestibule().get_program()).args(["doctor", "-c"]).arg(&file);
        lines.push(line(&run(command, b""), "RLIMIT_NOFILE").to_string());
    }
    assert!(lines[0].starts_with("ok") && lines[0].contains("room for 18 connections"), "{lines:?}");
    assert!(lines[1].starts_with("warn") && lines[1].contains("LimitNOFILE="), "{lines:?}");
}

#[test]
fn a_wrong_configuration_is_not_the_machines_fault() {
    let report = vestibule_run(&["doctor", "-c", "/nonexistent/t.conf"], b"");
    assert_eq!((report.code, report.stdout.as_str()), (Some(78), ""));
    assert!(report.stderr.starts_with("/nonexistent/t.conf: cannot be read"), "{}", report.stderr);
}

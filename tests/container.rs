//! Process 1 of a container, whose end is the end of every other process there: an upgrade must not be.

use std::process::Command;

use rustix::process::Signal;

use crate::support::client::{Client, loopback};
use crate::support::daemon::{haproxy_configuration, vestibule};
use crate::support::process::{Process, kill_by_id, run};
use crate::support::{PATIENCE, free_port, header, temp_dir, wait_until};
use crate::{needs, needs_root};

/// The daemon as process 1 of a PID namespace of its own.
struct Container {
    /// `unshare`, which ends as process 1 does.
    outside: Process,
    /// Process 1, by its number outside.
    first: u32,
    port: u16,
    directory: tempfile::TempDir,
}

impl Container {
    fn start() -> Container {
        let (directory, port) = (temp_dir(), free_port());
        let globals = format!("takeover_socket = {}", directory.path().join("takeover.sock").display());
        let file = directory.path().join("vestibule.conf");
        std::fs::write(&file, haproxy_configuration(port, &globals, "")).expect("it is ours");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(vestibule().get_program());
        command.args(["serve", "-c"]).arg(file);
        let outside = Process::start(command);
        outside.wait_for_output("is ready");
        let first = *children(outside.id()).first().expect("unshare has started it");
        Container { outside, first, port, directory }
    }

    /// Sends SIGUSR2 to process 1 and waits until another process serves; gives its number outside.
    fn upgrade(&self, from: &[u32]) -> u32 {
        let count = || self.outside.output().matches("has taken over from process").count();
        let before = count();
        kill_by_id(self.first, Signal::USR2);
        assert!(wait_until(PATIENCE, || count() > before), "{}", self.outside.output());
        // Whoever was taken over from leaves, and nobody stays behind as a zombie.
        let newest = || children(self.first).into_iter().find(|pid| !from.contains(pid));
        let alone = wait_until(PATIENCE, || newest().is_some() && children(self.first).len() == 1);
        assert!(alone, "children {:?}:\n{}", children(self.first), self.outside.output());
        newest().expect("it was there")
    }

    fn assert_serves(&self) {
        assert_eq!(Client::send_to(loopback(self.port), &header::local()).whoami()["command"], "LOCAL");
    }

    fn wait_for(&self, text: &str) {
        self.outside.wait_for_output(text);
    }
}

/// The numbers of a process's children, those that have ended and were not asked for among them.
fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        of == Some(parent)
    };
    numbers.filter(has_parent).collect()
}

#[test]
fn process_1_stays_over_upgrades_reaps_passes_signals_on_and_ends_with_the_last() {
    needs!("unshare");
    needs_root!();
    let mut container = Container::start();
    let second = container.upgrade(&[]);
    container.wait_for("this is process 1: it stays until process");
    container.assert_serves();
    // The signal for the next upgrade comes to process 1, as the container's runtime sends it.
    let third = container.upgrade(&[second]);
    assert_ne!(second, third);
    container.assert_serves();
    kill_by_id(container.first, Signal::HUP);
    container.wait_for("reloaded: accepting on 1 addresses");
    kill_by_id(container.first, Signal::TERM);
    assert_eq!(container.outside.wait(PATIENCE).code(), Some(0), "{}", container.outside.output());
    assert!(container.outside.output().contains("SIGTERM is passed on to process"), "{}", container.outside.output());
}

#[test]
fn process_1_ends_with_the_exit_code_of_a_successor_that_is_killed() {
    needs!("unshare");
    needs_root!();
    let mut container = Container::start();
    let second = container.upgrade(&[]);
    container.wait_for("this is process 1: it stays until process");
    kill_by_id(second, Signal::KILL);
    // 128 and the signal, as a shell says it.
    assert_eq!(container.outside.wait(PATIENCE).code(), Some(128 + 9), "{}", container.outside.output());
}

#[test]
fn process_1_outlives_a_successor_that_was_started_by_hand() {
    needs!("unshare", "nsenter");
    needs_root!();
    let mut container = Container::start();
    let mut command = Command::new("nsenter");
    command.args(["--target", &container.first.to_string(), "--pid", "--mount"]).arg(vestibule().get_program());
    command.args(["serve", "-c"]).arg(container.directory.path().join("vestibule.conf"));
    command.arg("--takeover").arg(container.directory.path().join("takeover.sock"));
    let mut second = Process::start(command);
    second.wait_for_output("has taken over from process 1");
    container.wait_for("this is process 1: it stays until process");
    container.assert_serves();
    kill_by_id(container.first, Signal::TERM);
    assert_eq!(second.wait(PATIENCE).code(), Some(0), "{}", second.output());
    assert_eq!(container.outside.wait(PATIENCE).code(), Some(0), "{}", container.outside.output());
}

#[test]
fn process_1_asks_for_the_exit_codes_of_orphans() {
    needs!("unshare", "nsenter", "sh");
    needs_root!();
    let container = Container::start();
    let mut command = Command::new("nsenter");
    command.args([
        "--target",
        &container.first.to_string(),
        "--pid",
        "--mount",
        "sh",
        "-c",
        "sleep 3 </dev/null >/dev/null 2>&1 & exit",
    ]);
    assert_eq!(run(command, b"").code, Some(0));
    let came = wait_until(PATIENCE, || !children(container.first).is_empty());
    let gone = wait_until(PATIENCE, || children(container.first).is_empty());
    assert!(came && gone, "an orphan ({came}) is left behind: {:?}", children(container.first));
}

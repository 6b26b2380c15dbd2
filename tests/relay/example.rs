//! `examples/cluster/run`: what the README promises, by one command.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::needs;
use crate::support::client::loopback;
use crate::support::process::{Process, run};
use crate::support::{PATIENCE, is_listening, temp_dir};

/// Where the example listens.
const PORTS: [u16; 4] = [1143, 10144, 10151, 10152];

#[test]
fn the_example_of_a_cluster_runs_logs_in_and_cleans_up() {
    needs!("haproxy", "dovecot", "curl");
    let directory = temp_dir();
    let finished = run(command(directory.path(), &["--once"]), b"");
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let said = &finished.stdout;
    for words in [
        "< A002 OK",                                  // the client
        "user=<alice>, method=PLAIN, rip=127.0.0.7,", // Dovecot
        "Session started (rip=127.0.0.7, ",           // Vestibule
        "end=",
    ] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    assert_clean(directory.path());

    // And until Ctrl-C.
    let mut process = Process::start(command(directory.path(), &[]));
    process.wait_for_output("It serves on");
    assert!(PORTS.iter().all(|&port| is_listening(loopback(port))), "it serves on");
    process.signal(Signal::INT);
    assert_eq!(process.wait(PATIENCE).code(), Some(130));
    assert_clean(directory.path());
}

fn command(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("examples/cluster/run"));
    command.args(arguments).env("VESTIBULE", env!("CARGO_BIN_EXE_vestibule")).env("TMPDIR", scratch);
    command
}

fn assert_clean(scratch: &Path) {
    let left: Vec<_> = std::fs::read_dir(scratch).expect("it is ours").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let open: Vec<u16> = PORTS.into_iter().filter(|&port| is_listening(loopback(port))).collect();
    assert!(open.is_empty(), "still open: {open:?}");
}

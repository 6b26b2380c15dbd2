//! `vestibule ctl stats`: what a running daemon has counted, without disturbing it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::support::client::{Client, address, loopback};
use crate::support::daemon::{Daemon, counted, haproxy_configuration, vestibule, vestibule_run};
use crate::support::process::{Finished, run};
use crate::support::{PATIENCE, free_port, header, temp_dir, wait_until};
use crate::{needs, needs_root};

/// A daemon that can be asked, and where.
struct Scene {
    daemon: Daemon,
    directory: TempDir,
    port: u16,
}

impl Scene {
    fn new() -> Scene {
        let (directory, port) = (temp_dir(), free_port());
        let daemon = Daemon::start(&configuration(directory.path(), port), &[port]);
        daemon.wait_for_output("is ready");
        Scene { daemon, directory, port }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("takeover.sock")
    }

    fn serve(&self, connections: usize) {
        for _ in 0..connections {
            assert_eq!(Client::send_to(loopback(self.port), &header::local()).whoami()["command"], "LOCAL");
        }
    }

    fn ask(&self, more: &[&str]) -> Finished {
        let socket = self.socket();
        vestibule_run(&[&["ctl", "stats", "--socket", &*socket.to_string_lossy()], more].concat(), b"")
    }

    fn table(&self) -> String {
        let answer = self.ask(&[]);
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
        answer.stdout
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.ask(&["--json"]).stdout).expect("one line of JSON")
    }
}

fn configuration(directory: &Path, port: u16) -> String {
    let globals = format!("haproxy_timeout = 60 secs\ntakeover_socket = {}/takeover.sock", directory.display());
    haproxy_configuration(port, &globals, "")
}

#[test]
fn it_prints_the_closing_table_of_a_daemon_that_goes_on() {
    let scene = Scene::new();
    scene.serve(7);
    Client::connect(address("127.0.0.9:0").ip(), loopback(scene.port)).read_to_end();
    let table = scene.table();
    for (name, count) in [("accepted", Some(8)), ("local", Some(7)), ("untrusted", Some(1)), ("shed", None)] {
        assert_eq!(counted(&table, name), count, "{name} in\n{table}");
    }
    // Also by the configuration, and over a reload.
    scene.daemon.signal(Signal::HUP);
    scene.daemon.wait_for_output("reloaded: ");
    scene.serve(3);
    let file = scene.daemon.file();
    let again = vestibule_run(&["ctl", "stats", "-c", &file.to_string_lossy()], b"");
    assert_eq!(counted(&again.stdout, "local"), Some(10), "{again:?}");
    let json = scene.json();
    assert_eq!((&json["counters"]["local"], &json["counters"]["shed"]), (&10.into(), &0.into()), "{json}");
    let wait = &json["microseconds"]["header-wait"];
    assert_eq!(wait["count"], 10, "{json}");
    assert!(wait["p50"].as_u64() <= wait["p99.9"].as_u64() && wait["max"].as_u64() > Some(0), "{json}");
    let log = scene.daemon.stop();
    let closing = log.find("driver     ").map(|at| &log[at..]).expect("a table");
    // But for what its rings had, which are gone by then.
    let head = |table: &str| -> Vec<String> {
        table.lines().filter(|line| !line.starts_with("locked memory")).take(6).map(str::to_owned).collect()
    };
    assert_eq!(head(closing), head(&again.stdout));
}

#[test]
fn a_daemon_that_was_asked_is_taken_over_and_the_next_one_answers() {
    let mut scene = Scene::new();
    scene.serve(2);
    assert_eq!(scene.json()["counters"]["accepted"], 2);
    let next = Daemon::taking_over(&scene.socket(), &configuration(scene.directory.path(), scene.port));
    next.wait_for_output("is ready");
    let mut first = std::mem::replace(&mut scene.daemon, next);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    scene.serve(1);
    assert_eq!(scene.json()["counters"]["accepted"], 3, "it goes on counting where the one before has stopped");
    scene.daemon.stop();
}

#[test]
fn while_it_drains_it_answers() {
    let mut scene = Scene::new();
    scene.serve(1);
    scene.daemon.signal(Signal::USR1);
    scene.daemon.wait_for_output("drained in");
    assert_eq!(scene.json()["counters"]["local"], 1);
    assert!(scene.daemon.exited().is_none());
}

#[test]
fn a_takeover_under_way_is_not_disturbed() {
    let scene = Scene::new();
    let claimant = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    claimant.connect(&SockAddr::unix(scene.socket()).expect("a short path")).expect("it listens");
    claimant.send(b"\x01VESTIBUL\x00\x01").expect("Hello fits");
    scene.daemon.wait_for_output("asks to take over");
    let late = scene.ask(&[]);
    assert_eq!(late.code, Some(1));
    assert!(late.stderr.contains("no answer in time; another process may be taking over"), "{late:?}");
    assert!(!scene.daemon.output().contains("everything stays"), "{}", scene.daemon.output());
    drop(claimant);
    assert!(wait_until(Duration::from_secs(2), || scene.daemon.output().contains("everything stays")));
    assert_eq!(counted(&scene.table(), "accepted"), None);
}

#[test]
fn whoever_cannot_be_answered_is_told_what_to_do() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    std::fs::write(&file, haproxy_configuration(free_port(), "", "")).expect("it is ours");
    let (file, nobody) = (file.to_string_lossy().into_owned(), directory.path().join("nobody.sock"));
    for (arguments, code, words) in [
        (&["-c", &*file][..], 1, "control_socket is not set; add `control_socket = "),
        (&["--socket", &nobody.to_string_lossy()], 1, "nobody listens there: name the control_socket"),
        (&["-c", "/nonexistent/t.conf"], 78, "cannot be read"),
        (&[], 2, "--socket <PATH>"),
    ] {
        let answer = vestibule_run(&[&["ctl", "stats"], arguments].concat(), b"");
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(code), ""), "{answer:?}");
        assert!(answer.stderr.contains(words), "{answer:?}");
    }
}

#[test]
fn only_root_and_the_same_user_are_answered() {
    needs_root!();
    needs!("setpriv");
    let scene = Scene::new();
    let ask = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups"]).arg(vestibule().get_program());
        command.args(["ctl", "stats", "--socket"]).arg(scene.socket());
        run(command, b"")
    };
    let ended = ask();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("only root and the user of the running daemon may ask"), "{ended:?}");
    // Whoever gets at the file all the same is asked who he is, and asks that of the other side.
    std::fs::set_permissions(scene.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("it is ours");
    let ended = ask();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    scene.serve(1);
}

//! `locked_memory_limit`: what gives way to it, what is said, and what is told of the memory that rings keep locked.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::daemon::{Daemon, haproxy_configuration, vestibule_run};
use crate::support::http::{get, sample, try_get};
use crate::support::{PATIENCE, free_port, header, temp_dir, wait_until};

/// A daemon of rings with a limit, and what it tells.
struct Scene {
    daemon: Daemon,
    port: u16,
    http: u16,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(rings: usize, limit: &str) -> Scene {
        let (port, http, directory) = (free_port(), free_port(), temp_dir());
        let daemon = Daemon::start(&configuration(port, http, directory.path(), rings, limit), &[port]);
        daemon.wait_for_output("is ready");
        Scene { daemon, port, http, directory }
    }

    /// What it keeps locked, in bytes; the metrics say the same.
    fn locked(&self) -> u64 {
        let socket = self.directory.path().join("control");
        let stats = |more: &[&str]| {
            let socket = socket.to_str().expect("a plain path");
            vestibule_run(&[&["ctl", "stats", "--socket", socket], more].concat(), b"")
        };
        assert!(wait_until(PATIENCE, || stats(&[]).code == Some(0)), "{:?}", stats(&[]));
        let json: Value = serde_json::from_str(&stats(&["--json"]).stdout).expect("JSON");
        let bytes = json["locked-memory-bytes"].as_u64().expect("a number");
        let (table, line) =
            (stats(&[]).stdout, format!("{:<24} {:>12}", "locked memory", format!("{} KiB", bytes / 1024)));
        assert!(table.lines().any(|one| one == line), "{line}:\n{table}");
        assert!(wait_until(PATIENCE, || try_get(loopback(self.http), "/healthz", &[]).is_ok()));
        let metrics = get(loopback(self.http), "/metrics", &[]).text();
        assert_eq!(sample(&metrics, "vestibule_locked_memory_bytes "), bytes as f64);
        bytes
    }

    /// What the kernel says that this process keeps pinned, in bytes: of all that is locked, the registered buffers.
    fn pinned(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).expect("Linux has it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    fn assert_serves(&self) {
        for split in [1, 10, 15] {
            let (client, header) = (Client::connect(TRUSTED, loopback(self.port)), header::local());
            client.send(&header[..split]).expect("the kernel takes it");
            std::thread::sleep(Duration::from_millis(20));
            client.send(&header[split..]).expect("the kernel takes it");
            assert_eq!(client.whoami()["command"], "LOCAL");
        }
    }

    /// The warnings about the limit in its log.
    fn warnings(&self) -> Vec<String> {
        self.daemon.output().lines().filter(|line| line.contains("locked_memory_limit")).map(str::to_owned).collect()
    }
}

fn configuration(port: u16, http: u16, directory: &std::path::Path, rings: usize, limit: &str) -> String {
    let globals = format!(
        "driver = io_uring\nrings = {rings}\nlocked_memory_limit = {limit}\nhttp_listen = 127.0.0.1:{http}\n\
         control_socket = {}",
        directory.join("control").display()
    );
    haproxy_configuration(port, &globals, "")
}

/// Slots of a ring times the bytes of each, with the default `pending_limit`.
const BUFFERS: u64 = 17_408 * 256;

#[test]
fn without_a_limit_what_is_told_is_what_the_kernel_has_pinned_and_the_queues() {
    let scene = Scene::new(2, "unlimited");
    let (locked, pinned) = (scene.locked(), scene.pinned());
    // Of a huge page that holds a part of them the kernel counts all.
    assert!((2 * BUFFERS..=2 * BUFFERS + (8 << 20)).contains(&pinned), "{pinned}");
    assert!((2 * BUFFERS..3 * BUFFERS).contains(&locked), "{locked}");
    assert_eq!(scene.warnings(), [""; 0]);
    scene.assert_serves();
}

#[test]
fn a_limit_without_room_for_the_buffers_makes_it_read_by_recv() {
    let scene = Scene::new(2, "2 M");
    assert!((1..=2 << 20).contains(&scene.locked()));
    assert_eq!(scene.pinned(), 0);
    let warnings = scene.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("locked_memory_limit is 2048 KiB: reads go by RECV, not by READ_FIXED"),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("KiB are enough for the registered buffers of 2 rings"), "{warnings:?}");
    scene.assert_serves();
    // What the rings are made for stays, and is said.
    let text = configuration(scene.port, scene.http, scene.directory.path(), 2, "4 M");
    std::fs::write(scene.daemon.file(), text).expect("it is ours");
    scene.daemon.signal(Signal::HUP);
    scene.daemon.wait_for_output(
        "locked_memory_limit stays at 2048 KiB until the daemon is restarted or taken over (4096 KiB was asked for)",
    );
    scene.assert_serves();
}

#[test]
fn a_limit_without_room_for_all_rings_makes_it_have_fewer_of_the_smallest() {
    // One ring more than fits, on pages of any size.
    let scene = Scene::new(8, "130 k");
    let locked = scene.locked();
    assert!((1..=130 << 10).contains(&locked), "{locked}");
    let metrics = get(loopback(scene.http), "/metrics", &[]).text();
    let rings = sample(&metrics, "vestibule_rings ");
    assert!((1.0..8.0).contains(&rings), "{rings}");
    let warnings = scene.warnings();
    let said = |words: &str| warnings.iter().filter(|line| line.contains(words)).count();
    assert_eq!((said("reads go by RECV"), said("a ring has room for")), (1, 1), "{warnings:?}");
    assert_eq!(said(&format!("there are {rings} of 8 rings")), 1, "{warnings:?}");
    // Also those that the kernel's choice would have given to rings that there are not.
    (0..8).for_each(|_| scene.assert_serves());
}

#[test]
fn check_says_beforehand_what_gives_way() {
    let directory = temp_dir();
    let file = directory.path().join("t.conf");
    std::fs::write(&file, configuration(1, 2, directory.path(), 2, "2 M")).expect("it is ours");
    let file = file.to_str().expect("a plain path");
    let checked = vestibule_run(&["check", "-c", file], b"");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stderr.starts_with("warning: locked_memory_limit is 2048 KiB: reads go by RECV"), "{checked:?}");
    assert_eq!(vestibule_run(&["check", "--strict", "-c", file], b"").code, Some(78));
}

#[test]
fn a_limit_that_is_less_than_a_ring_needs_is_refused_with_its_line_before_anything_is_bound() {
    let (directory, port) = (temp_dir(), free_port());
    let file = directory.path().join("t.conf");
    std::fs::write(&file, configuration(port, free_port(), directory.path(), 1, "32 k")).expect("it is ours");
    for command in ["check", "serve"] {
        let ended = vestibule_run(&[command, "-c", file.to_str().expect("a plain path")], b"");
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(
            ended.stderr.contains("line 4: Invalid size 32 k: not unlimited, nor in the range 64 k to 1 T"),
            "{ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    assert!(TcpStream::connect(loopback(port)).is_err(), "nobody listens");
}

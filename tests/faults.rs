//! Faults of the real kernel: too few descriptors, too little locked memory.

use std::time::Duration;

use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::daemon::{Daemon, counted, haproxy_configuration};
use crate::support::{PATIENCE, free_port, header, wait_until};
use crate::{needs, needs_root};

/// Descriptors that the daemon may have: enough for itself and a few connections.
const FEW: u64 = 48;

#[test]
fn without_descriptors_it_waits_without_spinning_and_recovers() {
    needs!("prlimit");
    let port = free_port();
    let globals = "rings = 1\nhaproxy_timeout = 60 secs";
    let configuration = haproxy_configuration(port, globals, "defer_accept = no");
    let limit = format!("--nofile={FEW}:{FEW}");
    let daemon = Daemon::start_under(&["prlimit", &limit], &configuration, &[port]);

    let silent: Vec<Client> = (0..2 * FEW).map(|_| Client::send_to(loopback(port), b"PROXY ")).collect();
    daemon.wait_for_output("accepting has to wait");
    assert!(daemon.open_files() >= FEW as usize, "every descriptor is in use");
    std::thread::sleep(Duration::from_secs(2));

    // The silent ones go; those that waited in the backlog come in, go too, and an honest client is served.
    drop(silent);
    let honest = Client::send_to(loopback(port), &header::local());
    assert_eq!(honest.whoami()["command"], "LOCAL");
    assert!(wait_until(PATIENCE, || daemon.open_files() < FEW as usize / 2), "descriptors are free again");

    let log = daemon.stop();
    let failures = counted(&log, "out-of-resources").expect("it is counted");
    // A spin would make thousands of attempts in two seconds; the rests double from 10 to 500 ms.
    assert!((1..100).contains(&failures), "{failures} attempts");
    assert_eq!(counted(&log, "accepted"), Some(2 * FEW + 1), "nobody was lost:\n{log}");
}

#[test]
fn silent_clients_that_hold_every_descriptor_make_room_long_before_their_deadline() {
    needs!("prlimit");
    let port = free_port();
    let configuration = haproxy_configuration(port, "rings = 1\nhaproxy_timeout = 60 secs", "defer_accept = no");
    let limit = format!("--nofile={FEW}:{FEW}");
    let daemon = Daemon::start_under(&["prlimit", &limit], &configuration, &[port]);

    let silent: Vec<Client> = (0..2 * FEW).map(|_| Client::connect(TRUSTED, loopback(port))).collect();
    daemon.wait_for_output("accepting has to wait");
    let honest: Vec<Client> = (0..FEW).map(|_| Client::send_to(loopback(port), &header::local())).collect();
    for client in &honest {
        assert_eq!(client.whoami()["command"], "LOCAL");
    }

    drop(silent);
    let log = daemon.stop();
    // The backlog is a queue: behind all the silent ones, the honest ones came in only as those made room.
    let shed = counted(&log, "shed").expect("it is counted");
    assert!((FEW..=2 * FEW).contains(&shed), "{shed} made room:\n{log}");
    assert_eq!(counted(&log, "local"), Some(FEW), "every honest one was served:\n{log}");
    assert_eq!(counted(&log, "accepted"), Some(3 * FEW), "nobody was lost:\n{log}");
}

#[test]
fn without_locked_memory_for_its_buffers_it_reads_by_recv_and_says_so() {
    needs_root!();
    needs!("setpriv", "prlimit");
    let port = free_port();
    let configuration = haproxy_configuration(port, "driver = io_uring\nrings = 1", "");
    // Enough for the ring, not for 4 MiB of buffers. Root is exempt, so it must be somebody else.
    let wrapper = ["setpriv", "--reuid", "65534", "--clear-groups", "prlimit", "--memlock=2097152:2097152"];
    let daemon = Daemon::start_under(&wrapper, &configuration, &[port]);
    for split in [1, 10, 15] {
        let client = Client::connect(TRUSTED, loopback(port));
        let header = header::local();
        client.send(&header[..split]).expect("the kernel takes it");
        std::thread::sleep(Duration::from_millis(50));
        client.send(&header[split..]).expect("the kernel takes it");
        assert_eq!(client.whoami()["command"], "LOCAL");
    }
    let log = daemon.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("RECV")).collect();
    assert_eq!(lines.len(), 1, "one line that says why:\n{log}");
    assert!(lines[0].contains("RLIMIT_MEMLOCK is 2048 KiB"), "{}", lines[0]);
}

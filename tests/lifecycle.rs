//! Signals: how the daemon ends, and what becomes of the connections that it holds.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::daemon::{Daemon, counted};
use crate::support::{PATIENCE, free_port, header, is_listening, wait_until};

/// Far below every deadline of the daemon, with room for a slow machine.
const PROMPTLY: Duration = Duration::from_secs(2);

#[test]
fn term_and_int_end_it_cleanly_and_abort_pending_headers() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut daemon, listener) = Daemon::haproxy("haproxy_timeout = 60 secs", "");
        let pending = Client::send_to(listener, b"PROXY ");
        Client::send_to(listener, &header::local()).whoami(); // both were accepted in order
        daemon.signal(signal);
        let status = daemon.wait(PROMPTLY);
        assert_eq!(status.code(), Some(0), "{}", daemon.output());
        assert_eq!(pending.read_to_end().0, b"");
        assert!(!is_listening(listener));
    }
}

#[test]
fn the_closing_table_counts_what_was_done() {
    let (daemon, listener) = Daemon::haproxy("", "");
    for _ in 0..37 {
        Client::send_to(listener, &header::local()).whoami();
    }
    Client::connect(address("127.0.0.9:0").ip(), listener).send(b"x").expect("the kernel takes it");
    let log = daemon.stop();
    for (name, count) in [("accepted", 38), ("local", 37), ("untrusted", 1)] {
        assert_eq!(counted(&log, name), Some(count), "{name} in\n{log}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let port = free_port();
    let configuration = format!(
        "service imap-login {{\n inet_listener imaps {{\n address = 127.0.0.1\n port = {port}\n ssl = yes\n }}\n}}\n"
    );
    let mut daemon = Daemon::start(&configuration, &[port]);
    // A handshake that never comes holds a worker, and with it the drain.
    let silent = Client::connect(TRUSTED, loopback(port));
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    assert!(wait_until(PATIENCE, || !is_listening(loopback(port))), "the first signal stops accepting");
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.exited().is_none(), "the first signal waits for the worker; it said:\n{}", daemon.output());
    daemon.signal(Signal::TERM);
    daemon.wait(PROMPTLY);
    drop(silent);
}

#[test]
fn a_port_in_use_is_named_and_nothing_else_is_bound() {
    let (taken, free) = (free_port(), free_port());
    let holder = std::net::TcpListener::bind(loopback(taken)).expect("it was free");
    let directory = crate::support::temp_dir();
    let file = directory.path().join("vestibule.conf");
    let listener = |name: &str, port: u16| {
        format!(" inet_listener {name} {{\n address = 127.0.0.1\n port = {port}\n haproxy = yes\n }}\n")
    };
    let text = format!(
        "haproxy_trusted_networks = 127.0.0.1\nservice imap-login {{\n{}{}}}\n",
        listener("good", free),
        listener("taken", taken)
    );
    std::fs::write(&file, text).expect("it can be written");
    let mut command: Command = crate::support::daemon::vestibule();
    command.arg("serve").arg("-c").arg(&file);
    let finished = crate::support::process::run(command, b"");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(&format!("127.0.0.1:{taken}")), "{finished:?}");
    assert!(!is_listening(loopback(free)));
    drop(holder);
}

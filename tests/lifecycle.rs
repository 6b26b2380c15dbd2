//! Signals: how the daemon ends, and what becomes of the connections that it holds.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::support::client::{Client, TRUSTED, address, loopback, whoami};
use crate::support::daemon::{Daemon, counted};
use crate::support::swarm::{CONNECTIONS, swarm};
use crate::support::{PATIENCE, free_port, header, is_listening, temp_dir, wait_until};

#[test]
fn term_and_int_end_it_cleanly_and_abort_pending_headers() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut daemon, listener) = Daemon::haproxy("haproxy_timeout = 60 secs", "");
        let pending = Client::send_to(listener, b"PROXY ");
        Client::send_to(listener, &header::local()).whoami(); // both were accepted in order
        daemon.signal(signal);
        // The pending header has more time than this test has patience.
        let status = daemon.wait(PATIENCE);
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

/// A daemon of which a receiver has taken a connection and does not end it, that receiver's end, and the client.
fn with_a_held_worker(globals: &str) -> (Daemon, u16, (Socket, TempDir, Client)) {
    let (port, directory) = (free_port(), temp_dir());
    let path = directory.path().join("imap.sock");
    let listener = format!("inet_listener imap {{\n address = 127.0.0.1\n port = {port}\n }}");
    let service = format!("worker = handoff\n handoff_socket = {}\n {listener}", path.display());
    let daemon = Daemon::start(&format!("{globals}\nservice imap-login {{\n {service}\n}}\n"), &[port]);
    let receiver = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    receiver.connect(&SockAddr::unix(&path).expect("a short path")).expect("the daemon listens there");
    receiver.send(b"hello 1 8").expect("it hears");
    let client = Client::connect(TRUSTED, loopback(port));
    let mut record = [std::mem::MaybeUninit::uninit(); 4096];
    assert!(receiver.recv(&mut record).expect("a connection is offered") > 0);
    receiver.send(b"taken 0").expect("it hears");
    std::thread::sleep(Duration::from_millis(300));
    (daemon, port, (receiver, directory, client))
}

#[test]
fn a_second_signal_ends_it_at_once() {
    // Also when it drains already.
    for signals in [&[Signal::TERM][..], &[Signal::USR1, Signal::TERM]] {
        let (mut daemon, port, _held) = with_a_held_worker("");
        for &signal in signals {
            daemon.signal(signal);
            assert!(wait_until(PATIENCE, || !is_listening(loopback(port))), "the first signal stops accepting");
            std::thread::sleep(Duration::from_millis(300));
            assert!(daemon.exited().is_none(), "{signal:?} waits for the worker; it said:\n{}", daemon.output());
        }
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(PATIENCE).code(), Some(1), "a drain that came to its end would say 0");
    }
}

#[test]
fn usr1_drains_and_stays_until_term() {
    let (mut daemon, listener) = Daemon::haproxy("", "");
    daemon.signal(Signal::USR1);
    daemon.wait_for_output("drained in");
    assert!(!is_listening(listener));
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("not reloaded: it is draining");
    assert!(daemon.exited().is_none() && !is_listening(listener), "{}", daemon.output());
    daemon.stop();
}

#[test]
fn a_drain_that_was_incomplete_before_term_is_said_by_the_exit_code() {
    let (mut daemon, _, _held) = with_a_held_worker("drain_timeout = 1 secs");
    daemon.signal(Signal::USR1);
    daemon.wait_for_output("not everything ended within drain_timeout");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(1), "{}", daemon.output());
}

#[test]
fn workers_that_never_end_do_not_keep_the_daemon_beyond_drain_timeout() {
    let (mut daemon, port, held) = with_a_held_worker("drain_timeout = 1 secs");
    // With the receiver, beyond what it takes, in the queue.
    let silent: Vec<Client> = (0..20).map(|_| Client::connect(TRUSTED, loopback(port))).collect();
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    let status = daemon.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "an incomplete drain is said by the exit code:\n{}", daemon.output());
    assert!(daemon.output().contains("not everything ended within drain_timeout"), "{}", daemon.output());
    drop(held);
    silent.iter().for_each(|client| assert_eq!(client.read_to_end().0, b""));
}

#[test]
fn clients_that_owe_their_handshake_do_not_keep_a_drain_from_its_end() {
    let port = free_port();
    let listener = format!("inet_listener imaps {{\n address = 127.0.0.1\n port = {port}\n ssl = yes\n }}");
    let globals = "drain_timeout = 2 secs\nssl_handshake_timeout = 1 hours";
    let mut daemon = Daemon::start(&format!("{globals}\nservice imap-login {{\n {listener}\n}}\n"), &[port]);
    let silent: Vec<Client> = (0..20).map(|_| Client::connect(TRUSTED, loopback(port))).collect();
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
    assert_eq!(counted(&daemon.output(), "drained"), Some(20), "{}", daemon.output());
    silent.iter().for_each(|client| assert_eq!(client.read_to_end().0, b""));
}

#[test]
fn a_port_in_use_is_named_and_nothing_else_is_bound() {
    let (taken, free) = (free_port(), free_port());
    let holder = std::net::TcpListener::bind(loopback(taken)).expect("it was free");
    let directory = temp_dir();
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

#[test]
fn hup_takes_the_new_configuration_and_keeps_every_connection() {
    let (daemon, listener) = Daemon::haproxy("haproxy_timeout = 20 secs", "");
    let half = header::local();
    let pending = Client::send_to(listener, &half[..10]);
    let stranger = || Client::connect(address("127.0.0.9:0").ip(), listener);
    stranger().read_to_end();

    let wider = std::fs::read_to_string(daemon.file()).expect("it is there").replace("127.0.0.0/29", "127.0.0.0/24");
    std::fs::write(daemon.file(), wider).expect("it can be written");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("reloaded");

    let known = stranger();
    known.send(&half).expect("the kernel takes it");
    assert_eq!(known.whoami()["command"], "LOCAL", "the new trust list counts");
    pending.send(&half[10..]).expect("the kernel takes it");
    assert_eq!(pending.whoami()["command"], "LOCAL", "a header that was half read is completed");
    let log = daemon.stop();
    for (name, count) in [("untrusted", 1), ("local", 2), ("accepted", 3)] {
        assert_eq!(counted(&log, name), Some(count), "{name} over both configurations in\n{log}");
    }
}

#[test]
fn hup_with_a_configuration_that_does_not_check_changes_nothing() {
    let (daemon, listener) = Daemon::haproxy("", "");
    std::fs::write(daemon.file(), "service imap-login {\n  inet_listener l {\n    haproxi = yes\n")
        .expect("it can be written");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("not reloaded");
    assert!(daemon.output().contains("line 2: Missing"), "the error says where:\n{}", daemon.output());
    assert_eq!(Client::send_to(listener, &header::local()).whoami()["command"], "LOCAL");
    daemon.stop();
}

#[test]
fn hup_adds_and_removes_listeners() {
    let (daemon, old) = Daemon::haproxy("", "");
    let port = free_port();
    let moved = std::fs::read_to_string(daemon.file()).expect("it is there");
    let moved = moved.replace(&format!("port = {}", old.port()), &format!("port = {port}"));
    std::fs::write(daemon.file(), moved).expect("it can be written");
    daemon.signal(Signal::HUP);
    assert!(wait_until(PATIENCE, || !is_listening(old)), "the old address is left");
    assert_eq!(Client::send_to(loopback(port), &header::local()).whoami()["command"], "LOCAL");
    daemon.stop();
}

#[test]
fn reloads_under_load_lose_nobody() {
    const RELOADS: usize = 20;
    let (daemon, listener) = Daemon::haproxy("", "");
    let right = std::thread::scope(|scope| {
        let load = scope.spawn(|| swarm(listener, |said, source| whoami(said)["client"] == source.to_string()));
        for _ in 0..RELOADS {
            std::thread::sleep(Duration::from_millis(100));
            daemon.signal(Signal::HUP);
        }
        load.join().expect("the clients do not panic")
    });
    assert_eq!(right, CONNECTIONS as usize, "every connection of the load was answered");
    let log = daemon.stop();
    assert!(log.matches("reloaded").count() >= RELOADS / 2, "signals that come together count as one:\n{log}");
}

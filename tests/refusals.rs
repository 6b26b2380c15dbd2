//! What is refused: when, how it ends on the wire, and what the log says.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::support::client::{Client, Ending, TRUSTED, address, loopback};
use crate::support::daemon::{Daemon, counted};
use crate::support::header::{self, hex};
use crate::support::{PATIENCE, free_port};

/// Outside the networks that the tests' configurations trust.
fn stranger() -> IpAddr {
    address("127.0.0.9:0").ip()
}

/// The default of `haproxy_timeout`: no earlier ends a connection whose header is right so far. How much later depends on
/// the machine, so nothing is said of that but that the client's patience was enough.
const DEADLINE: Duration = Duration::from_secs(3);

/// A deadline that nobody lives to see: whoever is closed before the client's patience ends was not closed by it.
const NEVER: &str = "haproxy_timeout = 60 secs";
const _: () = assert!(PATIENCE.as_secs() < 60);

// spec 2 SHOULD "proper access filtering"
#[test]
fn an_untrusted_peer_is_aborted_at_once_and_nothing_of_it_is_read() {
    let (daemon, listener) = Daemon::haproxy(NEVER, "");
    for _ in 0..20 {
        let client = Client::connect(stranger(), listener);
        client.send(&header::local()).expect("the kernel takes the bytes");
        let (said, ending, _) = client.read_to_end();
        assert_eq!(said, b"");
        assert_eq!(ending, Ending::Reset, "an orderly end would mean that the header was read");
    }
    daemon.wait_for_output("haproxy: Client not trusted (rip=127.0.0.9");
    daemon.wait_for_output("diagnosis=header-from-untrusted");
}

#[test]
fn an_untrusted_peer_is_aborted_before_it_speaks() {
    let (_daemon, listener) = Daemon::haproxy(NEVER, "defer_accept = no");
    let (said, ending, _) = Client::connect(stranger(), listener).read_to_end();
    assert_eq!((said.len(), ending), (0, Ending::Closed));
}

#[test]
fn without_trusted_networks_nobody_is_trusted() {
    let port = free_port();
    let _daemon = Daemon::start(
        &format!(
            "service imap-login {{\n inet_listener i {{\n address = 127.0.0.1\n port = {port}\n haproxy = yes\n }}\n}}\n"
        ),
        &[port],
    );
    let (said, ending, _) = Client::send_to(loopback(port), &header::local()).read_to_end();
    assert_eq!((said.len(), ending), (0, Ending::Reset));
}

// spec 2 MAY "apply a short timeout"
#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let (deferring, with_defer) = Daemon::haproxy("", "");
    let (_plain, without_defer) = Daemon::haproxy("", "defer_accept = no");
    let half = &header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[])[..10];
    thread::scope(|scope| {
        for listener in [with_defer, without_defer] {
            scope.spawn(move || assert_deadline("silent", &Client::connect(TRUSTED, listener)));
            scope.spawn(move || assert_deadline("half a header", &Client::send_to(listener, half)));
            scope.spawn(move || {
                let client = Client::connect(TRUSTED, listener);
                thread::scope(|scope| {
                    let trickling = scope.spawn(|| trickle(&client));
                    assert_deadline("trickling", &client);
                    assert!(trickling.join().expect("no panic"), "it was waited for to the last byte");
                });
            });
        }
    });
    deferring.wait_for_output("haproxy: Client timed out (rip=127.0.0.1");
}

#[test]
fn the_second_that_the_kernel_defers_a_connection_counts() {
    let (deferring, plain) = (free_port(), free_port());
    let _daemon = Daemon::start(
        &format!(
            "haproxy_trusted_networks = 127.0.0.1\nservice imap-login {{\n inet_listener later {{\n \
             address = 127.0.0.1\n port = {plain}\n haproxy = yes\n defer_accept = no\n haproxy_timeout = 4 secs\n }}\n \
             inet_listener deferring {{\n address = 127.0.0.1\n port = {deferring}\n haproxy = yes\n }}\n}}\n"
        ),
        &[deferring, plain],
    );
    // If the second did not count, 3 s would be 4 s, and this one would still be open when that with 4 s has ended.
    let later = Client::connect(TRUSTED, loopback(plain));
    let silent = Client::connect(TRUSTED, loopback(deferring));
    later.read_to_end();
    silent.stream.set_nonblocking(true).expect("a socket can be set so");
    assert_eq!(silent.stream.peek(&mut [0]).expect("it has ended"), 0);
}

#[test]
fn a_listener_may_have_a_timeout_of_its_own() {
    let (_daemon, listener) = Daemon::haproxy(NEVER, "haproxy_timeout = 1 secs");
    let (_, _, took) = Client::send_to(listener, b"PROXY").read_to_end();
    assert!(took >= Duration::from_secs(1), "ended after {took:?}");
}

// spec 5 MUST NOT "automatically detect"
#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    let (daemon, listener) = Daemon::haproxy(NEVER, "");
    let cases: &[&[u8]] = &[
        b"EHLO mail.test\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"PROXYxTCP4",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        &hex("0d0a0d0a000d0a515549540a 31"),
        &hex("0d0a0d0a000d0a515549540a 22"),
    ];
    for bytes in cases {
        assert_eq!(Client::send_to(listener, bytes).read_to_end().0, b"", "{bytes:?}");
    }
    let right_so_far = hex("0d0a0d0a000d0a515549540a 2111000c");
    let (_daemon, patient) = Daemon::haproxy("", "");
    assert_deadline("right so far", &Client::send_to(patient, &right_so_far));
    daemon.wait_for_output("Failed to read valid HAproxy data (rip=127.0.0.1");
    daemon.wait_for_output("Unsupported protocol version (version=03, rip=127.0.0.1");
    daemon.wait_for_output("Invalid command (cmd=02, rip=127.0.0.1");
}

#[test]
fn a_flood_of_garbage_is_a_few_lines_and_all_of_it_is_counted() {
    const CONNECTIONS: usize = 1000;
    let (daemon, listener) = Daemon::haproxy("", "");
    for _ in 0..CONNECTIONS {
        assert_eq!(Client::send_to(listener, b"GET / HTTP/1.0\r\n\r\n").read_to_end().0, b"");
    }
    let log = daemon.stop();
    let lines = log.lines().filter(|line| line.contains("rip=127.0.0.1")).count();
    assert!((1..=10).contains(&lines), "{lines} lines for one source and reason:\n{log}");
    assert!(log.contains(&format!("{} more like this suppressed", CONNECTIONS - 1)), "{log}");
    assert_eq!(counted(&log, "absent"), Some(CONNECTIONS as u64), "{log}");
}

#[test]
fn checks_by_connect_and_close_are_counted_and_not_logged() {
    const CHECKS: usize = 64;
    let (daemon, listener) = Daemon::haproxy("", "defer_accept = no");
    for _ in 0..CHECKS {
        drop(Client::connect(TRUSTED, listener));
    }
    // Answered after them: by then they have been seen.
    Client::send_to(listener, &header::local()).whoami();
    thread::sleep(Duration::from_millis(200));
    let log = daemon.stop();
    assert!(!log.contains("rip=127.0.0.1"), "{log}");
    assert_eq!(counted(&log, "closed-empty"), Some(CHECKS as u64), "{log}");
}

#[test]
fn a_listener_refuses_what_its_settings_refuse() {
    let dgram = hex("0d0a0d0a000d0a515549540a 2112000c 0a000001 0a000002 1234 0019");
    let tcp4 = header::v1(address("198.51.100.7:5000"), address("192.0.2.1:143"));
    let twice = [tcp4.clone(), tcp4.clone()].concat();
    let multicast = header::v1(address("224.0.0.1:1"), address("192.0.2.1:143"));
    let cases: &[(&str, &[u8], &[u8])] = &[
        // setting, refused by it, accepted under it
        ("haproxy_versions = v2", &tcp4, &header::local()),
        ("haproxy_unknown = reject", b"PROXY UNKNOWN\r\n", &tcp4),
        ("haproxy_checksum = require", &tcp4, &header::local()),
        ("", &dgram, &tcp4),
        ("", &header::raw(0x21, 0x00, b""), &tcp4),
        ("haproxy_unspec = peer", &dgram, &header::raw(0x21, 0x00, b"")),
        ("", &multicast, &tcp4),
        ("haproxy_source = any", &dgram, &multicast),
        ("", &twice, &tcp4),
        ("haproxy_second_header = pass", &dgram, &twice),
    ];
    for (setting, refused, accepted) in cases {
        let (_daemon, listener): (_, SocketAddr) = Daemon::haproxy(NEVER, setting);
        assert_eq!(Client::send_to(listener, refused).read_to_end().0, b"", "{setting}: {refused:02x?}");
        assert!(Client::send_to(listener, accepted).whoami().is_object(), "{setting}: {accepted:02x?}");
    }
}

fn assert_deadline(what: &str, client: &Client) {
    let (said, _, took) = client.read_to_end();
    assert_eq!(said, b"", "{what}");
    assert!(took >= DEADLINE, "{what}: ended after {took:?}");
}

/// A right beginning, a byte at a time, which takes more than twice the deadline; whether the other side had enough of it.
fn trickle(client: &Client) -> bool {
    b"PROXY UNKNOWN ".iter().chain(&[b'x'; 60]).any(|byte| {
        thread::sleep(Duration::from_millis(100));
        client.send(&[*byte]).is_err()
    })
}

//! TLS sessions that the kernel goes on with (`ssl_ktls`): an upgrade takes them along. Needs a kernel that does, as Debian's:
//! `tests/old-kernel -t kernel_tls` boots one.

use std::net::IpAddr;

use vestibule::ring;

use crate::support::backend::Backend;
use crate::support::client::{TRUSTED, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::{Daemon, counted};
use crate::support::mail::Wire;
use crate::support::{PATIENCE, free_port, record_skip, temp_dir};

/// Clients of each run.
const CLIENTS: usize = 20;
/// Longer than a record, and than what a socket sends at once.
const LONG: usize = 100_000;

#[test]
fn an_upgrade_takes_sessions_by_tls_along_and_both_ends_stay_in_order() {
    if ring::kernel_tls().is_err() {
        return record_skip("a kernel that takes TLS sessions (`modprobe tls`, or tests/old-kernel -t kernel_tls)");
    }
    let (directory, port) = (temp_dir(), free_port());
    let server = Backend::greeting("* OK ready\r\n");
    let path = directory.path().join("takeover.sock");
    for driver in ["io_uring", "epoll"] {
        let configuration = format!(
            "driver = {driver}\nssl_ktls = yes\nrings = 1\ndrain_timeout = 2 secs\ntakeover_socket = {}\nservice imap-login {{\n  worker = relay\n  \
             inet_listener imaps {{\n    address = 127.0.0.1\n    port = {port}\n    ssl = yes\n  }}\n}}\n{}",
            path.display(),
            backend("imap", "check = none", &[server.address])
        );
        let mut daemon = Daemon::start(&configuration, &[port]);
        daemon.wait_for_output("is ready");
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| connect(TRUSTED, port)).collect();
        for round in 0..3 {
            let next = Daemon::taking_over(&path, &configuration);
            next.wait_for_output("is ready");
            let mut before = std::mem::replace(&mut daemon, next);
            assert_eq!(before.wait(PATIENCE).code(), Some(0), "nobody has stayed there: {}", before.output());
            for (number, client) in clients.iter_mut().enumerate() {
                let said = format!("{round} {number} {}", "x".repeat(if number % 4 == 0 { LONG } else { number }));
                client.say(&said);
                assert_eq!(client.line(), said);
            }
        }
        // One that comes to the last is the kernel's as well; counts go along, and each has moved three times.
        clients.push(connect(TRUSTED, port));
        clients[0].say("bye");
        assert_eq!(clients[0].line(), "bye");
        let log = daemon.stop();
        assert_eq!(["session-taken", "tls-to-kernel"].map(|name| counted(&log, name)), [Some(60), Some(21)], "{log}");
        clients.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
    }
}

/// A client that was greeted.
fn connect(from: IpAddr, port: u16) -> Wire {
    let mut client = Wire::connect_tls(from, loopback(port));
    client.expect("* OK ready");
    client
}

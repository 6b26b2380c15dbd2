//! Takeovers while threads compute TLS handshakes (`ssl_handshake_threads`): who is served by TLS stays where he is, who shakes
//! hands does so to the end, and nobody who comes is turned away.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::StreamOwned;

use crate::needs;
use crate::support::backend::Backend;
use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::{Daemon, counted};
use crate::support::mail::Wire;
use crate::support::process::run;
use crate::support::swarm::hello;
use crate::support::{PATIENCE, free_port, temp_dir, wait_until};

const UPGRADES: usize = 3;
/// Clients that each process is left with, and those of them whose handshake has begun and no more.
const HELD: usize = 6;
const HALF: usize = 6;
/// Threads that come, talk and go without a pause.
const COMING: usize = 6;
const GREETING: &str = "* OK ready\r\n";

#[test]
fn over_upgrades_sessions_stay_and_handshakes_under_way_come_to_their_end() {
    needs!("openssl");
    let directory = temp_dir();
    let files = expensive_key(directory.path());
    let server = Backend::greeting(GREETING);
    for driver in ["io_uring", "epoll"] {
        let (path, port) = (directory.path().join(driver), free_port());
        // Long enough that nobody is let go, nor late, on a machine that is busy.
        let patience = "drain_timeout = 1 days\nssl_handshake_timeout = 10 mins";
        let configuration = format!(
            "driver = {driver}\nrings = 2\n{patience}\nssl_handshake_threads = 2\n{files}\ntakeover_socket = {}\n\
             service imap-login {{\n  worker = relay\n  inet_listener imaps {{\n    address = 127.0.0.1\n    port = {port}\n    \
             ssl = yes\n  }}\n}}\n{}",
            path.display(),
            backend("imap", "check = none", &[server.address])
        );
        let mut newest = Daemon::start(&configuration, &[port]);
        newest.wait_for_output("is ready");
        let (done, come) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (mut before, mut held) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            let _done = Done(&done); // also when an assertion fails
            for _ in 0..COMING {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        come_and_go(port);
                        come.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..UPGRADES {
                held.extend((0..HELD).map(|_| connect(port)));
                let half: Vec<HalfHello> = (0..HALF).map(|_| HalfHello::connect(port)).collect();
                let next = Daemon::taking_over(&path, &configuration);
                next.wait_for_output("has taken over from process");
                before.push(std::mem::replace(&mut newest, next));
                held.iter_mut().enumerate().for_each(|(number, client)| talk(client, number));
                half.into_iter().for_each(HalfHello::go_on);
                let arrived = come.load(Ordering::Relaxed) + 2 * COMING;
                assert!(wait_until(PATIENCE, || come.load(Ordering::Relaxed) > arrived), "the newest serves");
            }
        });
        held.iter_mut().enumerate().for_each(|(number, client)| talk(client, number));
        drop(held);
        for mut old in before {
            assert_eq!(old.wait(PATIENCE).code(), Some(0), "{driver}: {}", old.output());
            let log = old.output();
            assert!(log.contains(" stay and finish here"), "{driver}: {log}");
            assert!(!log.contains("Error") && !log.contains("TLS handshaking failed"), "{driver}: {log}");
        }
        // The newest has counted what all have.
        let all = (UPGRADES * (HELD + HALF) + come.into_inner()) as u64;
        let log = newest.stop();
        assert_eq!(counted(&log, "tls-established"), Some(all), "{driver}: {log}");
        let failures = ["tls-failed", "drained", "lost-in-ring", "killed", "service-ended"];
        assert_eq!(failures.map(|name| counted(&log, name)), [None; 5], "{driver}: {log}");
    }
}

/// An RSA key of 4096 bits, with which a handshake is long under way, and its certificate; the settings that name them.
fn expensive_key(directory: &Path) -> String {
    let (certificate, key) = (directory.join("crt.pem"), directory.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "2", "-subj", "/CN=mail.test", "-keyout"]);
    openssl.arg(&key).arg("-out").arg(&certificate);
    assert_eq!(run(openssl, b"").code, Some(0), "a key is made");
    format!("ssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display())
}

/// A client that was greeted.
fn connect(port: u16) -> Wire {
    let mut client = Wire::connect_tls(TRUSTED, loopback(port));
    client.expect(GREETING.trim_end());
    client
}

fn talk(client: &mut Wire, number: usize) {
    let said = format!("{number} {}", "x".repeat(1 + number * 1000));
    client.say(&said);
    assert_eq!(client.line(), said);
}

fn come_and_go(port: u16) {
    let mut client = connect(port);
    talk(&mut client, 1);
}

/// A client that has said a half of its first message.
struct HalfHello {
    tls: rustls::ClientConnection,
    client: Client,
    rest: Vec<u8>,
}

impl HalfHello {
    fn connect(port: u16) -> HalfHello {
        let (mut tls, mut said) = (hello(), Vec::new());
        tls.write_tls(&mut said).expect("a vector takes every write");
        let rest = said.split_off(said.len() / 2);
        HalfHello { tls, client: Client::send_to(loopback(port), &said), rest }
    }

    /// Says the other half, and is served as anybody.
    fn go_on(self) {
        self.client.send(&self.rest).expect("nobody has ended it");
        let mut stream = StreamOwned::new(self.tls, self.client.stream);
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting).expect("it is served");
        assert_eq!(greeting, GREETING.as_bytes());
        stream.write_all(b"echo").expect("it is served");
        stream.read_exact(&mut greeting[..4]).expect("it is served");
        assert_eq!(&greeting[..4], b"echo");
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

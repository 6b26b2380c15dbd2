//! `ssl = yes`: the TLS handshake comes behind the header.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use rustls::StreamOwned;

use crate::support::client::{Client, TRUSTED, address, loopback, whoami};
use crate::support::daemon::{Daemon, counted, vestibule};
use crate::support::process::run;
use crate::support::swarm::{hello, secured_client};
use crate::support::{PATIENCE, certificate, free_port, header, temp_dir, wait_until};
use crate::{needs, needs_root};

fn tls_configuration(port: u16, certificate: &str) -> String {
    format!(
        "haproxy_trusted_networks = 127.0.0.1\n{certificate}\n\
         service imap-login {{\n inet_listener imaps_haproxy {{\n address = 127.0.0.1\n port = {port}\n ssl = yes\n \
         haproxy = yes\n }}\n}}\n"
    )
}

#[test]
fn openssl_behind_a_hand_made_header() {
    needs!("openssl");
    let directory = temp_dir();
    let (certificate, key) = certificate(directory.path());
    let port = free_port();
    let files = format!("ssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display());
    let daemon = Daemon::start(&tls_configuration(port, &files), &[port]);
    let source = "198.51.100.7:5000";
    let header = header::v2(source.parse().expect("an address"), "192.0.2.1:993".parse().expect("an address"), &[]);
    let front = header_adder(loopback(port), header);
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-verify_return_error", "-servername", "mail.test", "-alpn", "imap"]);
    openssl.arg("-CAfile").arg(&certificate).arg("-connect").arg(front.to_string());
    let finished = run(openssl, b"");
    let answer = whoami(finished.stdout.as_bytes());
    assert_eq!(answer["client"], source);
    assert_eq!(answer["tls"], true, "{answer}");
    assert!(answer.to_string().contains("mail.test"), "the server name that was asked for: {answer}");
    let log = daemon.stop();
    assert!(!log.contains("self-signed"), "{log}");
}

#[test]
fn a_client_of_tls_1_2_is_served_unless_1_3_is_the_least() {
    needs!("openssl");
    let directory = temp_dir();
    let (certificate, key) = certificate(directory.path());
    let files = format!("ssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display());
    for (setting, version, served) in [
        ("", "-tls1_2", true),
        ("", "-tls1_3", true),
        ("ssl_min_protocol = TLSv1.2", "-tls1_2", true),
        ("ssl_min_protocol = TLSv1.3", "-tls1_2", false),
        ("ssl_min_protocol = TLSv1.3", "-tls1_3", true),
    ] {
        let port = free_port();
        let _daemon = Daemon::start(&tls_configuration(port, &format!("{files}\n{setting}")), &[port]);
        let front = header_adder(loopback(port), header::local());
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", version, "-connect"]).arg(front.to_string());
        let finished = run(openssl, b"");
        assert_eq!(finished.stdout.contains("\"tls\":true"), served, "{setting} {version}: {finished:?}");
    }
}

#[test]
fn curl_sends_its_header_before_the_handshake() {
    needs!("curl");
    let port = free_port();
    let _daemon = Daemon::start(&tls_configuration(port, ""), &[port]);
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-k",
        "-m",
        "10",
        "--no-alpn",
        "--http0.9",
        "--haproxy-protocol",
        &format!("https://localhost:{port}/"),
    ]);
    let finished = run(curl, b"");
    let answer = whoami(finished.stdout.as_bytes());
    assert_eq!((&answer["version"], &answer["tls"]), (&"v1".into(), &true.into()), "{answer}");
}

#[test]
fn without_a_certificate_a_self_signed_one_is_made_and_the_listener_named() {
    let port = free_port();
    let daemon = Daemon::start(&tls_configuration(port, ""), &[port]);
    daemon.wait_for_output("self-signed");
    let log = daemon.output();
    assert!(log.lines().any(|line| line.contains("self-signed") && line.contains("imaps_haproxy")), "{log}");
}

#[test]
fn no_handshake_and_no_tls_cost_that_connection_only() {
    let port = free_port();
    let daemon = Daemon::start(&tls_configuration(port, ""), &[port]);
    let plain = Client::send_to(loopback(port), &[&header::local()[..], b"a NOOP\r\n"].concat());
    let (said, _, _) = plain.read_to_end();
    assert!(!said.starts_with(b"{"), "no answer without TLS: {}", String::from_utf8_lossy(&said));
    let mut gone = Client::send_to(loopback(port), &header::local());
    gone.stream.flush().expect("nothing to flush");
    drop(gone);
    let log = daemon.stop();
    assert_eq!(log.matches("panicked").count(), 0);
    let line = log.lines().find(|line| line.contains("TLS handshaking failed")).expect("it is logged");
    let begin =
        "Z imap-login: Warning: TLS handshaking failed (rip=127.0.0.1, lip=127.0.0.1): no TLS: first=a\\x20NOOP";
    assert!(line.contains(begin) && line.contains(" diagnosis=plaintext-on-tls ("), "{line}");
    assert!(line.contains(": listener=imaps_haproxy peer=127.0.0.1:"), "{line}");
    assert_eq!(counted(&log, "tls-failed"), Some(1), "{log}");
    assert_eq!(counted(&log, "tls-checked"), Some(1), "{log}");
}

#[test]
fn a_header_on_a_plain_tls_port_is_named_with_its_remedy() {
    let port = free_port();
    let listener = format!("address = 127.0.0.1\n port = {port}\n ssl = yes");
    let daemon =
        Daemon::start(&format!("service imap-login {{\n inet_listener imaps {{\n {listener}\n }}\n}}\n"), &[port]);
    for bytes in [header::local(), b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 993\r\n".to_vec()] {
        Client::send_to(loopback(port), &bytes).read_to_end();
    }
    let log = daemon.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("TLS handshaking failed")).collect();
    assert_eq!(lines.len(), 2, "one, and how many more: {log}");
    assert!(lines[0].contains("diagnosis=header-on-tls (") && lines[0].contains("set haproxy = yes on it"), "{log}");
    assert!(lines[0].contains(": listener=imaps peer=127.0.0.1:"), "{log}");
    assert!(
        lines[1].contains("1 more like this suppressed (rip=127.0.0.1): reason=header-on-tls listener=imaps"),
        "{log}"
    );
    assert!(!log.contains("InvalidContentType"), "{log}");
}

#[test]
fn a_key_that_this_user_must_not_read_is_said_to_be_so() {
    needs_root!();
    needs!("openssl", "setpriv");
    let directory = temp_dir();
    let (certificate, key) = certificate(directory.path());
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("it is ours");
    let file = directory.path().join("vestibule.conf");
    let files = format!("ssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display());
    std::fs::write(&file, tls_configuration(free_port(), &files)).expect("it is ours");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(vestibule().get_program()).args(["check", "-c"]).arg(&file);
    let checked = run(command, b"");
    assert_eq!(checked.code, Some(78), "{checked:?}");
    let words =
        "Permission denied (os error 13); this is user nobody: let it in by a group (SupplementaryGroups= in the unit)";
    assert!(checked.stderr.contains(words) && checked.stderr.contains("ssl_key"), "{checked:?}");
}

/// Listens for one connection and joins it to a new one to `server`, on which it has sent `header` first: no usual client
/// speaks TLS behind a header of another's choice.
fn header_adder(server: SocketAddr, header: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind(loopback(0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("openssl connects");
        let upstream = Client::connect(TRUSTED, server).stream;
        (&upstream).write_all(&header).expect("the daemon listens");
        join(client, upstream);
    });
    address
}

/// Carries bytes between two connections until both have ended.
pub fn join(client: TcpStream, upstream: TcpStream) {
    let back = (upstream.try_clone().expect("a copy"), client.try_clone().expect("a copy"));
    let backward = thread::spawn(move || copy(back.0, back.1));
    copy(client, upstream);
    backward.join().expect("it does not panic");
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// What openssl says of a connection that tries to resume the session in `file`, and keeps a new one there.
fn resuming(port: u16, version: &str, file: &Path, is_there: bool) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", version, "-ign_eof", "-servername", "mail.test", "-connect"]);
    openssl.arg(format!("127.0.0.1:{port}")).arg("-sess_out").arg(file);
    if is_there {
        openssl.arg("-sess_in").arg(file);
    }
    run(openssl, b"").stdout
}

#[test]
fn sessions_are_resumed_also_after_a_reload_and_a_renewed_certificate_is_shown_to_the_next_client() {
    needs!("openssl");
    let directory = temp_dir();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).expect("a directory");
        certificate(folder);
    }
    let (port, current) = (free_port(), directory.path().join("current"));
    std::os::unix::fs::symlink(&first, &current).expect("a link");
    let (name, key) = (current.join("crt.pem"), current.join("key.pem"));
    let files = format!("ssl_cert = <{}\nssl_key = <{}", name.display(), key.display());
    let listener = format!("address = 127.0.0.1\n port = {port}\n ssl = yes");
    let daemon = Daemon::start(
        &format!("{files}\nservice imap-login {{\n inet_listener imaps {{\n {listener}\n }}\n}}\n"),
        &[port],
    );
    let reload = |times: usize| {
        daemon.signal(Signal::HUP);
        let reloaded = || daemon.output().matches("reloaded: accepting on").count() == times;
        assert!(wait_until(PATIENCE, reloaded), "{}", daemon.output());
    };
    let shown = |said: &str| said.split("-----BEGIN CERTIFICATE-----").nth(1).map(|rest| rest[..200].to_owned());
    let sessions = ["-tls1_2", "-tls1_3"].map(|version| (version, directory.path().join(version)));
    for (version, file) in &sessions {
        let full = resuming(port, version, file, false);
        assert!(full.contains("New, TLSv1.") && full.contains("\"tls\":true"), "{full}");
        let again = resuming(port, version, file, true);
        assert!(again.contains("Reused, TLSv1.") && again.contains("\"tls\":true"), "{version}: {again}");
    }
    reload(1);
    for (version, file) in &sessions {
        let again = resuming(port, version, file, true);
        assert!(again.contains("Reused, TLSv1."), "the certificate is the same: {version}: {again}");
    }
    let before = shown(&resuming(port, "-tls1_3", &sessions[1].1, false)).expect("a certificate");
    std::fs::remove_file(&current).expect("it is ours");
    std::os::unix::fs::symlink(&second, &current).expect("a link");
    reload(2);
    for (version, file) in &sessions {
        let fresh = resuming(port, version, file, true);
        assert!(fresh.contains("New, TLSv1."), "of another certificate nothing is resumed: {version}: {fresh}");
        assert_ne!(shown(&fresh), Some(before.clone()), "the new one is shown");
    }
    let log = daemon.stop();
    assert_eq!(counted(&log, "tls-resumed"), Some(4), "{log}");
}

#[test]
fn five_hundred_silent_clients_take_no_thread_and_hold_nobody_up() {
    needs!("openssl");
    const SILENT: usize = 500;
    for driver in ["io_uring", "epoll"] {
        let port = free_port();
        let listener = format!("address = 127.0.0.1\n port = {port}\n ssl = yes");
        let globals = format!("driver = {driver}\nssl_handshake_timeout = 3 secs");
        let daemon = Daemon::start(
            &format!("{globals}\nservice imap-login {{\n inet_listener imaps {{\n {listener}\n }}\n}}\n"),
            &[port],
        );
        let ask = || {
            let mut openssl = Command::new("openssl");
            openssl.args(["s_client", "-quiet", "-connect"]).arg(format!("127.0.0.1:{port}"));
            let answer = whoami(run(openssl, b"").stdout.as_bytes());
            assert_eq!(answer["tls"], true, "{answer}");
        };
        ask(); // whatever starts with the first connection has started
        let threads = || std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it runs").count();
        let before = threads();
        let silent: Vec<Client> = (0..SILENT).map(|_| Client::connect(TRUSTED, loopback(port))).collect();
        for _ in 0..5 {
            ask();
        }
        assert_eq!(threads(), before, "{driver}");
        silent.iter().for_each(|client| assert_eq!(client.read_to_end().0, b""));
        let log = daemon.stop();
        assert_eq!(counted(&log, "tls-failed"), Some(SILENT as u64), "{driver}: {log}");
        assert_eq!(counted(&log, "tls-established"), Some(6), "{driver}: {log}");
    }
}

#[test]
fn threads_sign_with_an_expensive_key_and_plain_clients_are_served_beside_them() {
    needs!("openssl");
    const CLIENTS: usize = 16;
    const EACH: usize = 10;
    let directory = temp_dir();
    let (certificate, key) = (directory.path().join("crt.pem"), directory.path().join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "2", "-subj", "/CN=mail.test", "-keyout"]);
    openssl.arg(&key).arg("-out").arg(&certificate);
    assert_eq!(run(openssl, b"").code, Some(0), "a key is made");
    let [secured, plain] = [free_port(), free_port()];
    let configuration = |threads: usize| {
        let files = format!("ssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display());
        let listener = |name, port, ssl| {
            format!("inet_listener {name} {{\n address = 127.0.0.1\n port = {port}\n ssl = {ssl}\n }}")
        };
        let (secured, plain) = (listener("imaps", secured, "yes"), listener("imap", plain, "no"));
        format!("{files}\nssl_handshake_threads = {threads}\nservice imap-login {{\n {secured}\n {plain}\n}}\n")
    };
    let daemon = Daemon::start(&configuration(2), &[secured, plain]);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it runs");
        let names = tasks.map(|task| std::fs::read_to_string(task.expect("it runs").path().join("comm")));
        names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("handshake-"))).count()
    };
    assert!(wait_until(PATIENCE, || threads() == 2), "they are there before anybody has come");
    let (storming, plain_served) = (AtomicUsize::new(CLIENTS), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    // Each client is new, so that nothing is resumed.
                    assert_eq!(whoami(&secured_client(loopback(secured))(b""))["tls"], true);
                }
                storming.fetch_sub(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while storming.load(Ordering::Relaxed) > 0 {
                assert_eq!(Client::connect(TRUSTED, loopback(plain)).whoami()["tls"], false);
                plain_served.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-tls1_2", "-connect"]).arg(format!("127.0.0.1:{secured}"));
    assert_eq!(whoami(run(openssl, b"").stdout.as_bytes())["tls"], true, "and whoever speaks TLS 1.2");
    std::fs::write(daemon.file(), configuration(3)).expect("it is ours");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output(
        "ssl_handshake_threads stays at 2 until the daemon is restarted or taken over (3 was asked for)",
    );
    assert_eq!(threads(), 2);
    let log = daemon.stop();
    let established = (CLIENTS * EACH + 1) as u64;
    assert_eq!(counted(&log, "tls-established"), Some(established), "{log}");
    for name in ["tls-resumed", "tls-failed", "tls-threads-full"] {
        assert_eq!(counted(&log, name), None, "{name}: {log}");
    }
    assert_eq!(counted(&log, "plain"), Some(established + plain_served.into_inner() as u64), "{log}");
}

#[test]
fn a_client_that_takes_every_place_with_half_hellos_costs_others_none() {
    const LIMIT: usize = 16;
    // As the ring has them for handshakes: its slots.
    const PLACES: usize = LIMIT + 1024;
    // Fewer than may await their header.
    const EACH: usize = 8;
    let globals = format!("rings = 1\npending_limit = {LIMIT}\nssl_handshake_timeout = 1 hours");
    let (daemon, listener) = Daemon::haproxy(&globals, "ssl = yes");
    let of = |source: &str| header::v2(address(source), address("192.0.2.1:993"), &[]);
    let mut slow = hello();
    let mut said = Vec::new();
    slow.write_tls(&mut said).expect("a vector takes every write");
    let client = Client::send_to(listener, &[&of("198.51.100.7:5000")[..], &said[..50]].concat());
    let greedy = [&of("203.0.113.9:5000")[..], &said[..50]].concat();
    let (ask, mut held) = (secured_client(listener), Vec::new());
    for _ in 0..2 * PLACES / EACH {
        // Another one in between: those before it have been let in by then, and it is served.
        assert_eq!(whoami(&ask(&of("198.51.100.8:5000")))["tls"], true);
        held.extend((0..EACH).map(|_| Client::send_to(listener, &greedy)));
    }
    assert_eq!(whoami(&ask(&of("198.51.100.8:5000")))["tls"], true);
    client.send(&said[50..]).expect("it has kept its place");
    let mut stream = StreamOwned::new(slow, client.stream);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("TLS until close_notify");
    assert_eq!(whoami(&answer)["client"], "198.51.100.7:5000");
    drop(held);
    let log = daemon.stop();
    assert_eq!(counted(&log, "tls-failed"), Some(2 * PLACES as u64), "the greedy one's: {log}");
    assert!(log.contains("(rip=203.0.113.9, lip=192.0.2.1): too many handshakes are awaited"), "{log}");
    assert!(!log.contains("rip=198.51.100"), "{log}");
}

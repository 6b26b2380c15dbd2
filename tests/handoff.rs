//! Connections that other processes serve, in the languages of the examples: nothing is lost while receivers come, go and
//! are killed.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use vestibule::worker::HandOff;
use vestibule::{Engine, Listener, Pool};

use crate::needs;
use crate::support::client::{Client, Ending, address, loopback};
use crate::support::daemon::{Daemon, counted};
use crate::support::process::Process;
use crate::support::swarm::{CONNECTIONS, secured_client, secured_swarm, swarm};
use crate::support::{PATIENCE, free_port, header, open_connections, temp_dir, wait_until};

/// How often a receiver is killed under load.
const KILLS: usize = 20;

fn examples() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("examples/handoff")
}

/// The receiver in Python, for `capacity` connections at a time.
fn python(socket: &Path, capacity: usize) -> Process {
    let mut command = Command::new("python3");
    command.arg(examples().join("receiver.py")).arg(socket).arg(capacity.to_string());
    Process::start(command)
}

/// The receiver in C, built in `directory`.
fn compiled(directory: &Path) -> PathBuf {
    let program = directory.join("receiver");
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-Wall", "-Werror", "-o"]).arg(&program).arg(examples().join("receiver.c"));
    let compiled = compile.output().expect("cc runs");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    program
}

/// An engine that hands off at a socket in `directory`.
fn engine(socket: &Path, pool: impl FnOnce(Pool) -> Pool) -> Engine {
    let listener = Listener::proxy(loopback(0)).trust(["127.0.0.1".parse().expect("a network")]).pool("imap");
    let pool = pool(Pool::hand_off("imap", HandOff::at(socket)));
    Engine::builder().pool(pool).listen(listener).start().expect("the engine starts")
}

fn greets(said: &[u8], client: SocketAddr) -> bool {
    let said = String::from_utf8_lossy(said);
    said.starts_with(&format!("* OK hello {client} from ")) && said.ends_with("\r\n")
}

#[test]
fn ten_thousand_connections_to_receivers_in_python() {
    needs!("python3");
    let directory = temp_dir();
    let socket = directory.path().join("imap.sock");
    let mut engine = engine(&socket, |pool| pool);
    let receivers = [(); 2].map(|()| python(&socket, 64));
    let right = swarm(engine.addresses()[0], greets);
    assert_eq!(right, CONNECTIONS as usize);
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.count("proxied"), snapshot.count("lost-in-pool")), (u64::from(CONNECTIONS), 0), "{snapshot}");
    assert!(engine.drain(PATIENCE), "the receivers are done");
    drop(receivers);
    assert!(wait_until(PATIENCE, || open_connections(engine.addresses()[0].port()) == 0));
}

/// The daemon with TLS on a listener whose connections go to receivers at `socket`.
fn secured_daemon(socket: &Path) -> (Daemon, SocketAddr) {
    let service = format!("service imap-login {{\n  worker = handoff\n  handoff_socket = {}\n}}", socket.display());
    Daemon::haproxy(&format!("ssl_handshake_timeout = 60 secs\n{service}"), "ssl = yes")
}

#[test]
fn ten_thousand_by_tls_to_receivers_in_python() {
    needs!("python3");
    let directory = temp_dir();
    let socket = directory.path().join("imap.sock");
    let (daemon, listener) = secured_daemon(&socket);
    let idle = daemon.open_files();
    let receivers = [(); 2].map(|()| python(&socket, 64));
    assert!(!secured_client(listener)(&header::local()).is_empty());
    // One socket a receiver, and nothing of the client.
    let settled = || wait_until(PATIENCE, || daemon.open_files() == idle + 2);
    assert!(settled(), "{idle} open files before, {} after one client", daemon.open_files());
    let right = secured_swarm(listener, greets);
    assert_eq!(right, CONNECTIONS as usize);
    assert!(settled(), "{idle} open files before, {} after all", daemon.open_files());
    let log = daemon.stop();
    let all = u64::from(CONNECTIONS);
    let counts = ["proxied", "tls-established", "lost-in-pool", "overload"].map(|name| counted(&log, name));
    assert_eq!(counts, [Some(all), Some(all + 1), None, None], "{log}");
    drop(receivers);
}

/// What a receiver had not taken when it was killed is served by the next, session and all.
#[test]
fn receivers_of_clients_by_tls_are_killed_and_cost_what_they_had_taken() {
    needs!("python3");
    let directory = temp_dir();
    let socket = directory.path().join("imap.sock");
    let (daemon, listener) = secured_daemon(&socket);
    let source = address("198.51.100.7:5000");
    let header = header::v2(source, address("192.0.2.1:143"), &[]);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let last = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let ask = secured_client(listener);
                while !over.load(Ordering::SeqCst) {
                    // Of one that is killed amid its answer the client hears less, but always the end of its session.
                    if greets(&ask(&header), source) {
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for _ in 0..KILLS {
            let mut receiver = python(&socket, 4);
            let so_far = served.load(Ordering::SeqCst);
            let busy = wait_until(PATIENCE, || served.load(Ordering::SeqCst) > so_far + 10);
            assert!(busy, "it serves; it said: {}", receiver.output());
            receiver.signal(Signal::KILL);
            receiver.wait(PATIENCE);
        }
        let last = python(&socket, 4);
        let so_far = served.load(Ordering::SeqCst);
        assert!(wait_until(PATIENCE, || served.load(Ordering::SeqCst) > so_far), "and the next one");
        over.store(true, Ordering::SeqCst);
        last
    });
    let log = daemon.stop();
    drop(last);
    assert!(counted(&log, "lost-in-pool").unwrap_or(0) <= (KILLS as u64 + 1) * 4, "{log}");
    assert_eq!(counted(&log, "overload"), None, "{log}");
}

/// The receiver is killed 20 times and comes back: what it had taken ends with it and is counted, all else is served.
#[test]
fn a_receiver_that_is_killed_costs_what_it_had_taken_and_no_more() {
    needs!("python3");
    let directory = temp_dir();
    let socket = directory.path().join("imap.sock");
    let mut engine = engine(&socket, |pool| pool.queue(64));
    let listener = engine.addresses()[0];
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (answered, aborted) = thread::scope(|scope| {
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| ask_until(listener, &over, &served))).collect();
        for _ in 0..KILLS {
            let mut receiver = python(&socket, 8);
            let so_far = served.load(Ordering::SeqCst);
            let busy = wait_until(PATIENCE, || served.load(Ordering::SeqCst) > so_far + 30);
            assert!(busy, "it serves; it said: {}", receiver.output());
            receiver.signal(Signal::KILL);
            receiver.wait(PATIENCE);
        }
        let last = python(&socket, 8);
        over.store(true, Ordering::SeqCst);
        let counts: Vec<(u64, u64)> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        drop(last);
        (counts.iter().map(|count| count.0).sum::<u64>(), counts.iter().map(|count| count.1).sum::<u64>())
    });
    let snapshot = engine.snapshot();
    assert_eq!(answered + aborted, snapshot.count("proxied"), "{snapshot}");
    let lost = || engine.snapshot().count("lost-in-pool");
    // One that was answered in full may have been killed before it said that it was done.
    assert!(wait_until(PATIENCE, || lost() >= aborted), "{aborted} aborted, {} counted", lost());
    assert!(lost() <= (KILLS as u64 + 1) * 8, "no more than it may have had: {}", lost());
    assert!(engine.drain(PATIENCE));
}

/// One client after the other; counts those who were greeted, and those whose connection ended without a word or within it.
fn ask_until(listener: SocketAddr, over: &AtomicBool, served: &AtomicUsize) -> (u64, u64) {
    let (mut answered, mut aborted) = (0, 0);
    while !over.load(Ordering::SeqCst) {
        let source = address("198.51.100.7:5000");
        let client = Client::send_to(
            listener,
            &[&header::v2(source, address("192.0.2.1:143"), &[])[..], b"a NOOP\r\n"].concat(),
        );
        match client.read_to_end() {
            (said, Ending::Closed, _) if said.ends_with(b"a NOOP\r\n") => {
                answered += 1;
                served.fetch_add(1, Ordering::SeqCst);
            }
            _ => aborted += 1,
        }
    }
    (answered, aborted)
}

#[test]
fn a_receiver_in_c_finds_the_residual_in_the_record_or_in_the_socket() {
    needs!("cc");
    let directory = temp_dir();
    let program = compiled(directory.path());
    for exact in [false, true] {
        let socket = directory.path().join(format!("{exact}.sock"));
        let mut engine = engine(&socket, |pool| if exact { pool.exact_residual() } else { pool });
        let mut command = Command::new(&program);
        command.arg(&socket);
        let receiver = Process::start(command);
        for number in 0..200 {
            let source = SocketAddr::from(([198, 51, 100, 7], 1024 + number));
            let header = header::v2(source, address("192.0.2.1:143"), &[]);
            let client = Client::send_to(engine.addresses()[0], &[&header[..], b"a NOOP\r\n"].concat());
            client.stream.shutdown(std::net::Shutdown::Write).expect("connected");
            let said = String::from_utf8(client.read_to_end().0).expect("text");
            // In the socket, where this receiver reads it away.
            let rest = if exact { "" } else { "a NOOP\r\n" };
            let right =
                said.starts_with("* OK hello ::ffff:198.51.100.7 from ") && said.ends_with(&format!("\r\n{rest}"));
            assert!(right, "{said:?}");
        }
        assert_eq!(engine.snapshot().count("lost-in-pool"), 0);
        assert!(engine.drain(PATIENCE));
        drop(receiver);
    }
}

#[test]
fn a_receiver_in_c_serves_clients_by_tls_as_it_is() {
    needs!("cc");
    let directory = temp_dir();
    let program = compiled(directory.path());
    let socket = directory.path().join("imap.sock");
    let (daemon, listener) = secured_daemon(&socket);
    let mut command = Command::new(&program);
    command.arg(&socket);
    let receiver = Process::start(command);
    let ask = secured_client(listener);
    for number in 0..50 {
        let source = SocketAddr::from(([198, 51, 100, 7], 1024 + number));
        let said = String::from_utf8(ask(&header::v2(source, address("192.0.2.1:143"), &[]))).expect("text");
        assert!(said.starts_with("* OK hello ::ffff:198.51.100.7 from ") && said.ends_with("\r\n"), "{said:?}");
    }
    assert_eq!(counted(&daemon.stop(), "proxied"), Some(50));
    drop(receiver);
}

/// Through the daemon: receivers outlive a reload, which makes the socket anew, and find it again.
#[test]
fn the_daemon_hands_off_over_a_reload_and_its_socket_has_the_mode_that_was_asked_for() {
    needs!("python3");
    let directory = temp_dir();
    let (socket, port) = (directory.path().join("imap.sock"), free_port());
    let configuration = format!(
        "haproxy_trusted_networks = 127.0.0.1\nservice imap-login {{\n  worker = handoff\n  handoff_socket = {}\n  \
         handoff_mode = 0660\n  inet_listener imap_haproxy {{\n    address = 127.0.0.1\n    port = {port}\n    \
         haproxy = yes\n  }}\n}}\n",
        socket.display()
    );
    let daemon = Daemon::start(&configuration, &[port]);
    let mode = || std::fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777).ok();
    assert_eq!(mode(), Some(0o660));
    let receiver = python(&socket, 4);
    let ask = || {
        let source = address("198.51.100.7:5000");
        let client = Client::send_to(loopback(port), &header::v2(source, address("192.0.2.1:143"), &[]));
        assert!(greets(&client.read_to_end().0, source));
    };
    for round in 1..=5 {
        (0..20).for_each(|_| ask());
        daemon.signal(Signal::HUP);
        let reloaded = || daemon.output().matches("reloaded: accepting on").count() >= round;
        assert!(wait_until(PATIENCE, reloaded), "{}", daemon.output());
        assert_eq!(mode(), Some(0o660));
    }
    (0..20).for_each(|_| ask());
    assert_eq!(counted(&daemon.stop(), "proxied"), Some(120));
    assert!(wait_until(Duration::from_secs(5), || !socket.exists()), "the socket goes with the daemon");
    drop(receiver);
}

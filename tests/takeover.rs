//! `vestibule serve --takeover`: one daemon takes the place of another, and nobody who is connected notices.
//!
//! The long form, 100 reloads and 20 takeovers:
//! `VESTIBULE_RELOADS=100 VESTIBULE_TAKEOVERS=20 cargo test --test integration takeover::nobody -- --nocapture`

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::daemon::{Daemon, counted, haproxy_configuration, vestibule, vestibule_run};
use crate::support::process::{kill_by_id, run};
use crate::support::steady::{Outcome, steady};
use crate::support::{PATIENCE, free_port, header, is_listening, number_from, temp_dir, wait_until};
use crate::tls::join;
use crate::{needs, needs_root};

/// Connections a second of the steady load.
const RATE: u32 = 2000;
/// Half-read headers that wait during every takeover of the long run.
const WAITING: usize = 20;
/// The first message of a process that wants to take over: its kind, a magic word, version 1.
const HELLO: &[u8] = b"\x01VESTIBUL\x00\x01";

/// An address, a configuration that listens there, and the path at which daemons take over.
struct Scene {
    directory: TempDir,
    port: u16,
    globals: String,
    settings: &'static str,
}

impl Scene {
    fn new(globals: &str) -> Scene {
        Scene { directory: temp_dir(), port: free_port(), globals: globals.to_owned(), settings: "" }
    }

    /// With a listener whose workers can be held up, and its port.
    fn with_tls() -> (Scene, u16) {
        let port = free_port();
        let listener = format!("inet_listener imaps {{\n address = 127.0.0.1\n port = {port}\n ssl = yes\n }}");
        (Scene::new(&format!("haproxy_timeout = 60 secs\nservice imaps {{\n {listener}\n}}")), port)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("takeover.sock")
    }

    fn listener(&self) -> SocketAddr {
        loopback(self.port)
    }

    fn configuration(&self) -> String {
        let globals = format!("takeover_socket = {}\n{}", self.path().display(), self.globals);
        haproxy_configuration(self.port, &globals, self.settings)
    }

    fn first(&self) -> Daemon {
        let daemon = Daemon::start(&self.configuration(), &[self.port]);
        daemon.wait_for_output("is ready");
        daemon
    }

    fn next(&self) -> Daemon {
        Daemon::taking_over(&self.path(), &self.configuration())
    }

    /// The next daemon, when it has taken over.
    fn successor(&self) -> Daemon {
        let next = self.next();
        next.wait_for_output("is ready");
        next
    }

    fn assert_served(&self) {
        assert_eq!(Client::send_to(self.listener(), &header::local()).whoami()["command"], "LOCAL");
    }
}

/// A header that names a client of its own, and that client.
fn with_client(number: usize) -> (Vec<u8>, String) {
    let client = SocketAddr::from(([198, 51, 100, number as u8], 5000 + number as u16));
    (header::v2(client, address("192.0.2.1:143"), &[(0x04, b"padding")]), client.to_string())
}

/// Clients that have sent the first bytes of their header: client n the first n.
fn half_headers(to: SocketAddr, count: usize) -> Vec<Client> {
    (0..count).map(|number| Client::send_to(to, &with_client(number).0[..number])).collect()
}

/// They send the rest, byte by byte, and are told who they are.
fn complete(clients: &[Client]) {
    for (number, client) in clients.iter().enumerate() {
        for byte in &with_client(number).0[number..] {
            client.send(&[*byte]).expect("the connection is open");
        }
    }
    for (number, client) in clients.iter().enumerate() {
        let answer = client.whoami();
        assert_eq!(answer["client"], with_client(number).1, "{answer}");
        assert_eq!(answer["peer"], client.local().to_string(), "{answer}");
    }
}

/// A connection that occupies a worker for a while: its handshake does not come.
fn hold_a_worker(port: u16) -> Client {
    let held = Client::connect(TRUSTED, loopback(port));
    thread::sleep(Duration::from_millis(200));
    held
}

/// It has left by itself; gives what it wrote.
fn assert_left(mut daemon: Daemon) -> String {
    let status = daemon.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "it said:\n{}", daemon.output());
    daemon.output()
}

#[test]
fn nobody_is_lost_over_reloads_and_takeovers_at_a_steady_rate() {
    let (reloads, takeovers) = (number_from("VESTIBULE_RELOADS", 5), number_from("VESTIBULE_TAKEOVERS", 3));
    let scene = Scene::new("haproxy_timeout = 60 secs\npending_limit = 1024");
    let mut daemon = scene.first();
    let (stop, mut logs) = (AtomicBool::new(false), Vec::new());
    let (outcome, last) = thread::scope(|scope| {
        let load = scope.spawn(|| steady(scene.listener(), RATE, &stop));
        // Also when an assertion below fails: the load must end.
        let _stop = StopOnDrop(&stop);
        for round in 0..takeovers.max(1) {
            for _ in 0..reloads * (round + 1) / takeovers.max(1) - reloads * round / takeovers.max(1) {
                let before = daemon.output().matches("reloaded: ").count();
                daemon.signal(Signal::HUP);
                assert!(wait_until(PATIENCE, || daemon.output().matches("reloaded: ").count() > before), "it reloads");
                thread::sleep(Duration::from_millis(50));
            }
            if round < takeovers {
                let waiting = half_headers(scene.listener(), WAITING);
                thread::sleep(Duration::from_millis(100)); // most are accepted by then
                let next = scene.successor();
                logs.push(assert_left(std::mem::replace(&mut daemon, next)));
                complete(&waiting);
            }
        }
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        (load.join().expect("the load does not panic"), daemon)
    });
    logs.push(last.stop());
    let Outcome { made, right, .. } = outcome;
    let rate = outcome.rate();
    println!("{reloads} reloads, {takeovers} takeovers: {made} connections at {rate:.0}/s, {right} right");
    outcome.assert_perfect();
    // Each goes on counting where the one before has stopped.
    let total = |name: &str| logs.last().and_then(|log| counted(log, name)).unwrap_or(0);
    println!("{} connections were handed over with half a header", total("handed-over"));
    assert_eq!(total("handed-over"), total("taken-over"), "whatever one gives the next one gets");
    assert_eq!(total("proxied"), made + (takeovers * WAITING) as u64, "everybody was served by one of them");
    assert_eq!(logs.iter().map(|log| log.matches("reloaded: ").count()).sum::<usize>(), reloads);
}

/// Stops the load also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn half_read_headers_go_from_one_daemon_to_the_next() {
    const CLIENTS: usize = 30;
    let scene = Scene::new("haproxy_timeout = 60 secs\nrings = 1");
    let first = scene.first();
    let clients = half_headers(scene.listener(), CLIENTS);
    scene.assert_served(); // with one ring, the others were accepted before
    let second = scene.successor();
    let log = assert_left(first);
    // Silent ones may be in the kernel's hands still (TCP_DEFER_ACCEPT): there is one.
    assert!(counted(&log, "handed-over") >= Some(CLIENTS as u64 - 1), "{log}");
    let third = scene.successor();
    assert_left(second);
    complete(&clients);
    let log = third.stop();
    assert_eq!(counted(&log, "proxied"), Some(CLIENTS as u64), "the third has served all:\n{log}");
    assert!(!scene.path().exists(), "the last one has taken its socket away");
}

#[test]
fn what_the_old_daemon_s_workers_hold_is_finished_there() {
    needs!("openssl");
    let (scene, tls) = Scene::with_tls();
    let mut first = scene.first();
    let held = hold_a_worker(tls);
    let second = scene.successor();
    scene.assert_served();
    assert!(first.exited().is_none(), "it waits for the worker:\n{}", first.output());
    let front = TcpListener::bind(loopback(0)).expect("a free port");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-connect"]).arg(front.local_addr().expect("it is bound").to_string());
    let bridge = thread::spawn(move || join(front.accept().expect("openssl connects").0, held.stream));
    let said = run(openssl, b"").stdout;
    assert!(said.contains("\"tls\":true"), "the handshake and the answer come from the old one's worker: {said}");
    bridge.join().expect("it does not panic");
    assert_left(first);
    second.stop();
}

#[test]
fn whoever_kills_the_new_daemon_at_any_time_finds_the_address_served() {
    let (scene, tls) = Scene::with_tls();
    let mut first = scene.first();
    let mut lost_before = 0;
    for millis in [0, 2, 5, 10, 15, 20, 30, 50, 80].map(Some).into_iter().chain([None]) {
        let waiting = half_headers(scene.listener(), 3);
        // Keeps the old one from leaving.
        let _held = hold_a_worker(tls);
        let mut next = scene.next();
        match millis {
            Some(millis) => thread::sleep(Duration::from_millis(millis)),
            None => next.wait_for_output("has taken over from"),
        }
        next.signal(Signal::KILL);
        next.wait(PATIENCE);
        scene.assert_served();
        // The old one may know better than the killed one's log how far it had come.
        let count = |words| first.output().matches(words).count();
        let ends = ["everything stays", "has not taken over", "is gone, this one goes on"];
        let settled = || count("asks to take over") == ends.map(count).iter().sum::<usize>();
        assert!(wait_until(PATIENCE, settled), "after {millis:?} ms:\n{}", first.output());
        let lost = count(ends[2]);
        if lost == lost_before {
            complete(&waiting);
        }
        lost_before = lost;
    }
    first.wait_for_output("accepting again on");
    assert!(first.exited().is_none(), "{}", first.output());
    let second = scene.successor();
    scene.assert_served();
    drop((first, second));
}

#[test]
fn whoever_kills_the_old_daemon_after_the_takeover_finds_the_address_served() {
    let scene = Scene::new("haproxy_timeout = 60 secs\nrings = 1");
    let mut first = scene.first();
    let clients = half_headers(scene.listener(), 5);
    scene.assert_served();
    let second = scene.next();
    second.wait_for_output("has taken over from");
    first.signal(Signal::KILL);
    first.wait(PATIENCE);
    scene.assert_served();
    complete(&clients);
    scene.assert_served();
    second.stop();
}

#[test]
fn a_daemon_that_cannot_start_takes_nothing_over() {
    let scene = Scene::new("haproxy_timeout = 60 secs");
    let first = scene.first();
    let waiting = half_headers(scene.listener(), 5);
    let taken = TcpListener::bind(loopback(0)).expect("a free port");
    let taken_port = taken.local_addr().expect("it is bound").port();
    let wrong_port = haproxy_configuration(taken_port, "", "");
    for (configuration, code, words) in [
        ("haproxi {\n", 78, "line 1"),
        (&*format!("{}{wrong_port}", scene.configuration()), 1, "another program listens there"),
    ] {
        let mut next = Daemon::taking_over(&scene.path(), configuration);
        let status = next.wait(PATIENCE);
        assert_eq!(status.code(), Some(code), "{}", next.output());
        assert!(next.output().contains(words), "{}", next.output());
        scene.assert_served();
    }
    assert!(wait_until(PATIENCE, || first.output().contains("does not take over, everything stays")));
    complete(&waiting);
    let log = first.stop();
    assert_eq!(log.matches("does not take over").count(), 1, "{log}");
}

#[test]
fn garbage_on_the_takeover_socket_costs_a_line() {
    let scene = Scene::new("");
    let first = scene.first();
    let noise: Vec<u8> = (0..60_000).map(|n| (n * 31 % 251) as u8).collect();
    let garbage: [&[u8]; 5] = [b"x", b"GET / HTTP/1.1\r\n\r\n", &noise, &[0; 4096], &HELLO[..7]];
    for packet in garbage {
        let socket = connect_to(&scene.path());
        socket.send(packet).expect("it fits");
        let mut answer = [0; 600];
        let length = (&socket).read(&mut answer).expect("it is answered");
        assert_eq!(answer[0], 255, "refused: {:?}", String::from_utf8_lossy(&answer[..length]));
    }
    drop(connect_to(&scene.path())); // only looks whether somebody is there
    let half_way = connect_to(&scene.path());
    half_way.send(HELLO).expect("it fits");
    half_way.send(b"\x04\xff\xff").expect("it fits");
    assert!(wait_until(PATIENCE, || first.output().contains("everything stays")));
    scene.assert_served();
    let log = first.stop();
    assert_eq!(log.matches("is turned away").count(), garbage.len(), "{log}");
}

#[test]
fn only_root_and_the_same_user_may_take_over() {
    needs_root!();
    needs!("setpriv");
    let scene = Scene::new("");
    std::fs::set_permissions(scene.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("the directory is ours");
    let first = scene.first();
    let mut other = std::process::Command::new("setpriv");
    other.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_vestibule"), "serve", "--takeover"]);
    other.arg(scene.path());
    let ended = run(other, b"");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("only root and the user of the running daemon"), "{ended:?}");
    // Whoever gets at the file all the same is asked who he is.
    std::fs::set_permissions(scene.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("it is ours");
    let mut other = std::process::Command::new("setpriv");
    other.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_vestibule"), "serve", "--takeover"]);
    other.arg(scene.path());
    let ended = run(other, b"");
    assert!(ended.stderr.contains("user id 0 listens there") || ended.stderr.contains("runs as user id"), "{ended:?}");
    scene.assert_served();
    first.stop();
}

#[test]
fn a_daemon_that_gives_up_root_takes_over_from_one_that_did() {
    needs_root!();
    let scene = Scene::new("user = nobody\nrings = 1\nhaproxy_timeout = 60 secs");
    std::fs::set_permissions(scene.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the directory is ours");
    let first = scene.first();
    let waiting = half_headers(scene.listener(), 3);
    scene.assert_served();
    let second = scene.successor();
    assert_left(first);
    complete(&waiting);
    second.stop();
}

#[test]
fn the_new_configuration_decides_which_listeners_there_are() {
    let mut old = Scene::new("haproxy_timeout = 60 secs\nrings = 1");
    // What the kernel has not delivered yet when nobody listens any more is lost.
    old.settings = "defer_accept = no";
    let first = old.first();
    let waiting = half_headers(old.listener(), 5);
    old.assert_served();
    let moved = Scene::new("rings = 2");
    let second = Daemon::taking_over(&old.path(), &moved.configuration());
    second.wait_for_output("is ready");
    assert!(second.output().contains("listener imap_haproxy on 127.0.0.1:"), "{}", second.output());
    moved.assert_served();
    // The old one finishes those that the new one has no listener for.
    complete(&waiting);
    let log = assert_left(first);
    assert_eq!(counted(&log, "handed-over"), None, "{log}");
    assert!(!is_listening(old.listener()), "the address is left");
    second.stop();
}

#[test]
fn without_a_running_daemon_there_is_nothing_to_take_over_and_beside_one_nothing_to_start() {
    let scene = Scene::new("");
    let mut alone = scene.next();
    assert_eq!(alone.wait(PATIENCE).code(), Some(1));
    assert!(alone.output().contains("start without --takeover"), "{}", alone.output());
    let first = scene.first();
    let second = Scene::new("");
    let configuration =
        second.configuration().replace(&second.path().display().to_string(), &scene.path().display().to_string());
    let file = second.directory.path().join("vestibule.conf");
    std::fs::write(&file, configuration).expect("a temporary file");
    let beside = crate::support::daemon::vestibule_run(&["serve", "-c", &file.to_string_lossy()], b"");
    assert_eq!(beside.code, Some(1));
    assert!(beside.stderr.contains("another process listens there"), "{beside:?}");
    first.stop();
}

/// A daemon that has been taken over from, one of whose workers is still held by an engine from before a reload.
fn finishing_what_an_earlier_engine_has() -> (Scene, Daemon, Daemon, Client) {
    let (scene, tls) = Scene::with_tls();
    let first = scene.first();
    let held = hold_a_worker(tls);
    first.signal(Signal::HUP);
    first.wait_for_output("reloaded: ");
    let second = scene.successor();
    thread::sleep(Duration::from_millis(200)); // the engine that was taken over has nothing to finish
    (scene, first, second, held)
}

#[test]
fn the_new_daemon_s_death_is_made_up_for_at_once_though_an_earlier_engine_still_finishes() {
    let (scene, first, mut second, _held) = finishing_what_an_earlier_engine_has();
    second.signal(Signal::KILL);
    second.wait(PATIENCE);
    scene.assert_served();
    first.wait_for_output("accepting again on");
    first.signal(Signal::KILL); // it would wait for its worker
}

#[test]
fn an_old_daemon_that_still_finishes_obeys_signals() {
    let (scene, mut first, mut second, _held) = finishing_what_an_earlier_engine_has();
    first.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(100));
    assert!(first.exited().is_none(), "it waits for the worker:\n{}", first.output());
    second.signal(Signal::KILL);
    second.wait(PATIENCE);
    first.wait_for_output("nobody accepts any more: this process was told to end");
    assert!(wait_until(PATIENCE, || !is_listening(scene.listener())), "nobody waits where nobody comes");
    first.signal(Signal::TERM);
    assert_eq!(first.wait(PATIENCE).code(), Some(1), "the second signal: {}", first.output());
}

#[test]
fn a_new_daemon_that_is_told_to_end_does_not_bring_the_old_one_back() {
    let (scene, tls) = Scene::with_tls();
    let mut first = scene.first();
    let held = hold_a_worker(tls);
    scene.successor().stop();
    first.wait_for_output("ends on purpose: this one does not accept again");
    let left = || !is_listening(scene.listener()) && !scene.path().exists();
    assert!(wait_until(PATIENCE, left), "nobody waits where nobody comes");
    assert!(first.exited().is_none(), "it waits for the worker:\n{}", first.output());
    drop(held);
    assert!(!assert_left(first).contains("accepting again"));
}

#[test]
fn of_three_daemons_only_the_last_accepts() {
    let (scene, tls) = Scene::with_tls();
    let first = scene.first();
    let held = hold_a_worker(tls);
    let mut second = scene.successor();
    let _held_there = hold_a_worker(tls);
    let third = scene.successor();
    // While it still finishes, so that only what it has said before can keep the first from accepting again.
    second.signal(Signal::KILL);
    second.wait(PATIENCE);
    first.wait_for_output("ends on purpose: this one does not accept again");
    for _ in 0..20 {
        scene.assert_served();
    }
    drop(held);
    assert!(!assert_left(first).contains("accepting again"));
    assert_eq!(counted(&third.stop(), "local"), Some(20));
}

/// A place where somebody listens who speaks for himself; what a running daemon would say is up to the test.
fn place_of_somebody(directory: &Path) -> (PathBuf, Socket) {
    let path = directory.join("somebody.sock");
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    listener.bind(&SockAddr::unix(&path).expect("a short path")).expect("the directory is ours");
    listener.listen(1).expect("it is bound");
    (path, listener)
}

#[test]
fn a_daemon_that_waits_for_a_silent_one_can_be_interrupted() {
    let directory = temp_dir();
    let (path, listener) = place_of_somebody(directory.path());
    for signal in [Signal::INT, Signal::TERM] {
        let mut next = Daemon::taking_over(&path, &haproxy_configuration(free_port(), "", ""));
        let _silent = listener.accept().expect("it asks to take over");
        next.signal(signal);
        assert_eq!(next.wait(PATIENCE).code(), Some(1), "{}", next.output());
    }
}

#[test]
fn a_daemon_whose_place_is_taken_back_ends_without_a_word_to_the_service_manager() {
    let directory = temp_dir();
    let (path, listener) = place_of_somebody(directory.path());
    let (manager, variable) = service_manager(directory.path());
    let port = free_port();
    let mut next = Daemon::taking_over_under(&["env", &variable], &path, &haproxy_configuration(port, "", ""));
    let (old, _) = listener.accept().expect("it asks to take over");
    let hear = |kind: u8| {
        let mut packet = [0; 512];
        let length = (&old).read(&mut packet).expect("it says something");
        assert!(length > 0 && packet[0] == kind, "{:?}", &packet[..length]);
    };
    hear(1);
    old.send(b"\x02VESTIBUL\x00\x03\0\0\0\0").expect("Welcome, without a socket");
    hear(4);
    old.send(b"\x06\0\0\0\0").expect("the end of no pending connections");
    hear(7);
    told_next(&manager, "MAINPID=");
    old.send(b"\xff\0\x04back").expect("a refusal");
    assert_eq!(next.wait(PATIENCE).code(), Some(1), "{}", next.output());
    assert!(next.output().contains("goes on, this one ends: the other process refuses: back"), "{}", next.output());
    let told = everything_told(&manager);
    assert!(told.iter().all(|message| !message.contains("STOPPING")), "it would stop the other one too: {told:?}");
}

#[test]
fn after_a_takeover_the_old_daemon_leaves_reloads_to_the_new_one() {
    let (scene, tls) = Scene::with_tls();
    let (manager, variable) = service_manager(scene.directory.path());
    let first = Daemon::start_under(&["env", &variable], &scene.configuration(), &[scene.port]);
    first.wait_for_output("is ready");
    let held = hold_a_worker(tls);
    let second = scene.successor();
    first.signal(Signal::HUP);
    first.wait_for_output("another process has taken over: tell that one to reload");
    let told = everything_told(&manager);
    assert!(told.iter().all(|message| !message.contains("RELOADING")), "it would wait for ever: {told:?}");
    second.signal(Signal::HUP);
    second.wait_for_output("reloaded: ");
    drop(held);
    assert_left(first);
    scene.assert_served();
    second.stop();
}

#[test]
fn usr2_starts_the_program_anew_and_the_service_manager_follows() {
    let scene = Scene::new("haproxy_timeout = 60 secs\nrings = 1");
    let (manager, variable) = service_manager(scene.directory.path());
    let wrapper = ["env", &variable, "WATCHDOG_USEC=400000"];
    let mut first = Daemon::start_under(&wrapper, &scene.configuration(), &[scene.port]);
    let waiting = half_headers(scene.listener(), 5);
    scene.assert_served();
    first.signal(Signal::USR2);
    let message = told_next(&manager, "MAINPID=");
    let pid = message.lines().next().and_then(|line| line["MAINPID=".len()..].parse().ok());
    let next = Orphan(pid.expect("a number"));
    assert!(message.contains("READY=1\nSTATUS=accepting on 1 addresses"), "{message}");
    assert!(wait_until(PATIENCE, || first.exited().is_some()), "the old one leaves:\n{}", first.output());
    assert_eq!(first.exited().and_then(|status| status.code()), Some(0), "{}", first.output());
    complete(&waiting);
    scene.assert_served();
    everything_told(&manager);
    told_next(&manager, "WATCHDOG=1"); // only the new one is left to feed it
    let listener = scene.listener();
    drop(next);
    assert!(wait_until(PATIENCE, || !is_listening(listener)));
}

#[test]
fn the_service_manager_is_told_of_a_reload_that_has_failed_and_of_the_next_one() {
    let scene = Scene::new("");
    let (manager, variable) = service_manager(scene.directory.path());
    let daemon = Daemon::start_under(&["env", &variable], &scene.configuration(), &[scene.port]);
    told_next(&manager, "READY=1\nSTATUS=accepting on 1 addresses");
    std::fs::write(daemon.file(), "nonsense\n").expect("it is ours");
    daemon.signal(Signal::HUP);
    let told = told_next(&manager, "READY=1\nSTATUS=accepting on 1 addresses; the last reload has failed: ");
    assert!(told.contains(" line 1: "), "{told}");
    std::fs::write(daemon.file(), scene.configuration()).expect("it is ours");
    daemon.signal(Signal::HUP);
    let told = told_next(&manager, "READY=1");
    assert!(!told.contains("failed"), "{told}");
    daemon.stop();
}

#[test]
fn usr2_without_a_takeover_socket_says_what_is_missing() {
    let (daemon, _) = Daemon::haproxy("", "");
    daemon.signal(Signal::USR2);
    daemon.wait_for_output("no process is started to take over: takeover_socket is not set");
    daemon.stop();
}

#[test]
fn sockets_whose_files_were_removed_are_put_back_by_a_reload_and_by_usr2() {
    let directory = temp_dir();
    let place = directory.path().join("run");
    let (control, takeover) = (place.join("control.sock"), place.join("takeover.sock"));
    std::fs::create_dir(&place).expect("it is ours");
    let globals = format!("control_socket = {}\ntakeover_socket = {}", control.display(), takeover.display());
    let (mut daemon, _) = Daemon::haproxy(&globals, "");
    daemon.wait_for_output("is ready");
    std::fs::remove_dir_all(&place).expect("it is ours");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("nobody can connect any more: ");
    daemon.wait_for_output("reloaded: accepting on");
    std::fs::create_dir(&place).expect("it is ours");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("the file of control_socket was gone, and is there again");
    daemon.wait_for_output("the file of takeover_socket was gone, and is there again");
    let asked = vestibule_run(&["ctl", "bans", "--socket", &control.to_string_lossy()], b"");
    assert_eq!(asked.code, Some(0), "{asked:?}");
    std::fs::remove_file(&takeover).expect("it is ours");
    daemon.signal(Signal::USR2);
    daemon.wait_for_output("has taken over from process");
    end_newest(&daemon.output());
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
}

#[test]
fn usr2_with_a_program_that_is_broken_says_so_and_the_running_one_goes_on() {
    let directory = temp_dir();
    let program = directory.path().join("vestibule");
    let install = |text: Option<&str>| {
        // Never written to in place: it may be running.
        let _ = std::fs::remove_file(&program);
        match text {
            Some(text) => std::fs::write(&program, text).expect("it is ours"),
            None => drop(std::fs::copy(vestibule().get_program(), &program).expect("it can be copied")),
        }
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
    };
    install(None);
    let port = free_port();
    let globals = format!("takeover_socket = {}", directory.path().join("takeover.sock").display());
    let run = format!("shift; exec {} \"$@\"", program.display());
    let wrapper = ["sh", "-c", &run, "sh"];
    let mut daemon = Daemon::start_under(&wrapper, &haproxy_configuration(port, &globals, ""), &[port]);
    daemon.wait_for_output("is ready");
    let upgrade = |words: &str| {
        daemon.signal(Signal::USR2);
        daemon.wait_for_output(words);
    };
    std::fs::remove_file(&program).expect("it is ours");
    upgrade(&format!("no process is started to take over: {}: No such file", program.display()));
    install(Some("no program\n"));
    upgrade(&format!("{}: Exec format error", program.display()));
    install(Some("#!/bin/sh\nexit 0\n"));
    upgrade(" has ended with exit code 0: this one goes on");
    install(Some("#!/bin/sh\nexit 3\n"));
    upgrade(" has ended with exit code 3: this one goes on");
    install(Some("#!/bin/sh\nexec sleep 600\n"));
    let started = || daemon.output().matches("is started to take over").count();
    let before = started();
    daemon.signal(Signal::USR2);
    assert!(wait_until(PATIENCE, || started() > before), "{}", daemon.output());
    upgrade(", which was started for that, is still at it; end it if it hangs");
    let output = daemon.output();
    let hangs = output.rsplit_once(", which was started").and_then(|(head, _)| head.rsplit_once("process "));
    kill_by_id(hangs.and_then(|(_, pid)| pid.parse().ok()).expect("its number is told"), Signal::TERM);
    daemon.wait_for_output(" has ended with exit code 143: this one goes on");
    assert_eq!(Client::send_to(loopback(port), &header::local()).whoami()["command"], "LOCAL");
    install(None);
    upgrade("has taken over from process");
    end_newest(&daemon.output());
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
}

/// Ends the process that one with this output has started, and that writes where it does: until then the output does not end.
fn end_newest(output: &str) {
    let newest = output.rsplit_once(" is started to take over").and_then(|(head, _)| head.rsplit_once("process "));
    kill_by_id(newest.and_then(|(_, pid)| pid.parse().ok()).expect("its number is told"), Signal::TERM);
}

/// A process that is nobody's child here; ended when dropped.
struct Orphan(i32);

impl Drop for Orphan {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0).expect("a process id");
        let _ = kill_process(pid, Signal::TERM); // it may be gone
    }
}

/// Where a service manager listens, and the variable that says so.
fn service_manager(directory: &Path) -> (UnixDatagram, String) {
    let address = directory.join("notify");
    let manager = UnixDatagram::bind(&address).expect("a socket in a temporary directory");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (manager, format!("NOTIFY_SOCKET={}", address.display()))
}

/// What the service manager has been told and nobody has looked at yet.
fn everything_told(manager: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 512];
    manager.set_nonblocking(true).expect("a flag");
    let next = || manager.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
    let told = std::iter::from_fn(next).collect();
    manager.set_nonblocking(false).expect("a flag");
    told
}

/// The next thing that the service manager is told and that starts so.
fn told_next(manager: &UnixDatagram, start: &str) -> String {
    let mut buffer = [0; 512];
    let message = || {
        let length = manager.recv(&mut buffer).expect("the manager is told something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    std::iter::repeat_with(message).take(100).find(|text| text.starts_with(start)).expect("in time")
}

/// A connection to a takeover socket, as another program would make it.
fn connect_to(path: &Path) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.connect(&SockAddr::unix(path).expect("a short path")).expect("somebody listens there");
    socket
}

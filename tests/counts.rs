//! Counters go on over takeovers: whatever the clients did is what the newest process has counted, exactly.
//!
//! The long form: `VESTIBULE_TAKEOVERS=10 VESTIBULE_RATE=500 cargo test --test integration counts -- --nocapture`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::crowd::{Crowd, Talker, come_and_go};
use crate::support::daemon::{Daemon, counted, haproxy_configuration, vestibule_run};
use crate::support::http::{get, sample, try_get};
use crate::support::{PATIENCE, free_port, header, number_from, temp_dir, wait_until};

/// A relay with HTTP and a control socket, that can be taken over.
struct Scene {
    directory: TempDir,
    port: u16,
    http: SocketAddr,
    servers: Vec<SocketAddr>,
}

impl Scene {
    fn new(servers: &[SocketAddr]) -> Scene {
        let http = loopback(free_port());
        Scene { directory: temp_dir(), port: free_port(), http, servers: servers.to_vec() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configuration(&self) -> String {
        format!(
            "haproxy_trusted_networks = 127.0.0.1\ntakeover_socket = {}\ncontrol_socket = {}\nhttp_listen = {}\n\
             rings = 2\nservice talk {{\n  worker = relay\n  backend = talk\n  inet_listener talk {{\n    \
             address = 127.0.0.1\n    port = {}\n    haproxy = yes\n  }}\n}}\n{}",
            self.path("takeover.sock").display(),
            self.path("control.sock").display(),
            self.http,
            self.port,
            backend("talk", "check = none", &self.servers)
        )
    }

    fn start(&self) -> Daemon {
        let daemon = Daemon::start(&self.configuration(), &[self.port]);
        daemon.wait_for_output("is ready");
        assert!(wait_until(PATIENCE, || try_get(self.http, "/healthz", &[]).is_ok()), "{}", daemon.output());
        daemon
    }

    /// Another process takes over, and the one before leaves.
    fn upgrade(&self, daemon: &mut Daemon) {
        let next = Daemon::taking_over(&self.path("takeover.sock"), &self.configuration());
        next.wait_for_output("is ready");
        let mut before = std::mem::replace(daemon, next);
        assert_eq!(before.wait(PATIENCE).code(), Some(0), "{}", before.output());
        daemon.wait_for_output(" has left");
    }

    fn metrics(&self) -> String {
        get(self.http, "/metrics", &[]).text()
    }

    fn stats(&self) -> Value {
        let socket = self.path("control.sock");
        let said = vestibule_run(&["ctl", "stats", "--json", "--socket", &socket.to_string_lossy()], b"");
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }
}

/// Stops the load also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Scrapes all the time: tells how often it was answered, and where the count of connections has fallen.
fn scrape(scene: &Scene, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut answers, mut fallen, mut last) = (0, Vec::new(), 0.0);
    while !stop.load(Ordering::Relaxed) {
        // While one process leaves the address and the next one gets it there may be nobody.
        if let Ok(answer) = try_get(scene.http, "/metrics", &[]) {
            let now = sample(&answer.text(), "vestibule_accepted_total");
            if now < last {
                fallen.push(format!("{last} before, {now} then"));
            }
            (answers, last) = (answers + 1, now);
        }
        thread::sleep(Duration::from_millis(10));
    }
    (answers, fallen)
}

#[test]
fn what_clients_have_counted_over_takeovers_is_what_the_last_process_has_counted() {
    const HELD: usize = 60;
    let (takeovers, rate) = (number_from("VESTIBULE_TAKEOVERS", 3), number_from("VESTIBULE_RATE", 100));
    let talker = Talker::start();
    let scene = Scene::new(&[talker.backend.address]);
    let mut daemon = scene.start();
    let mut crowd = Crowd::gather(loopback(scene.port), HELD);
    let stop = AtomicBool::new(false);
    let ((made, failed), (answers, fallen)) = thread::scope(|scope| {
        let load = scope.spawn(|| come_and_go(loopback(scene.port), rate as u32, &stop));
        let scraper = scope.spawn(|| scrape(&scene, &stop));
        scope.spawn(|| crowd.talk(&stop));
        let _stop = StopOnDrop(&stop);
        for _ in 0..takeovers {
            thread::sleep(Duration::from_millis(300));
            scene.upgrade(&mut daemon);
        }
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        (load.join().expect("the load does not panic"), scraper.join().expect("nor who looks"))
    });
    assert!(failed.is_empty(), "{} of {made} failed: {:?}", failed.len(), &failed[..1]);
    assert!(answers > takeovers && fallen.is_empty(), "{answers} answers: {fallen:?}");
    let all = made + HELD as u64;
    println!("{takeovers} takeovers, {all} sessions by the clients' count, {answers} scrapes");
    // The held ones end last: whoever counts their end has not counted their beginning.
    drop(crowd);
    let server = "{backend=\"talk\",server=\"s0\"";
    let ended = || sample(&scene.metrics(), &format!("vestibule_session_ends_total{server}"));
    assert!(wait_until(PATIENCE, || ended() == all as f64), "{} of {all} have ended", ended());
    let metrics = scene.metrics();
    let listener = "{service=\"talk\",listener=\"talk\"";
    for (family, labels) in [
        ("vestibule_accepted_total", listener),
        ("vestibule_headers_total", listener),
        ("vestibule_sessions_total", server),
        ("vestibule_session_seconds_count", "{backend=\"talk\""),
        ("vestibule_connect_seconds_count", "{backend=\"talk\""),
        ("vestibule_header_wait_seconds_count", ""),
    ] {
        assert_eq!(sample(&metrics, &format!("{family}{labels}")), all as f64, "{family}\n{metrics}");
    }
    assert_eq!(sample(&metrics, "vestibule_pending{"), 0.0);
    let moved =
        |direction: &str| sample(&metrics, &format!("vestibule_sessions_moved_total{{direction=\"{direction}\"}}"));
    assert_eq!(moved("in"), moved("out"), "whatever one gives the next one gets");
    assert!(moved("in") >= (takeovers * HELD) as f64, "the held ones have moved each time");
    let stats = scene.stats();
    assert_eq!((&stats["counters"]["accepted"], &stats["counters"]["proxied"]), (&all.into(), &all.into()), "{stats}");
    assert_eq!(stats["servers"][0]["sessions-total"], all, "{stats}");
    let log = daemon.stop();
    assert_eq!(counted(&log, "accepted"), Some(all), "the table at the end: {log}");
}

/// A daemon with a listener that can be taken over, and one whose workers can be held up.
fn with_tls(directory: &TempDir, [port, tls]: [u16; 2]) -> String {
    let listener = format!("inet_listener imaps {{\n address = 127.0.0.1\n port = {tls}\n ssl = yes\n }}");
    let path = directory.path().join("takeover.sock");
    let globals =
        format!("takeover_socket = {}\nhaproxy_timeout = 60 secs\nservice imaps {{\n {listener}\n}}", path.display());
    haproxy_configuration(port, &globals, "")
}

#[test]
fn what_a_process_still_counts_while_it_finishes_reaches_the_newest_one() {
    let (directory, ports) = (temp_dir(), [free_port(), free_port()]);
    let configuration = with_tls(&directory, ports);
    let path = directory.path().join("takeover.sock");
    let mut first = Daemon::start(&configuration, &ports);
    first.wait_for_output("is ready");
    let held = Client::connect(TRUSTED, loopback(ports[1]));
    thread::sleep(Duration::from_millis(200)); // a worker waits for its handshake
    let next = || {
        let next = Daemon::taking_over(&path, &configuration);
        next.wait_for_output("is ready");
        next
    };
    let mut second = next();
    let third = next();
    // The second has nothing left to do but to pass on what the first one still counts.
    assert!(!wait_until(Duration::from_millis(500), || second.exited().is_some()), "{}", second.output());
    drop(held);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    assert_eq!(second.wait(PATIENCE).code(), Some(0), "{}", second.output());
    third.wait_for_output(" has left");
    let log = third.stop();
    // It left before it had said anything, as a check does.
    assert_eq!((counted(&log, "accepted"), counted(&log, "tls-checked")), (Some(1), Some(1)), "{log}");
}

#[test]
fn of_a_process_that_is_killed_what_it_had_told_stays_and_nothing_is_awaited() {
    let (directory, ports) = (temp_dir(), [free_port(), free_port()]);
    let configuration = with_tls(&directory, ports);
    let mut first = Daemon::start(&configuration, &ports);
    first.wait_for_output("is ready");
    assert_eq!(Client::send_to(loopback(ports[0]), &header::local()).whoami()["command"], "LOCAL");
    let _held = Client::connect(TRUSTED, loopback(ports[1]));
    thread::sleep(Duration::from_millis(200));
    let second = Daemon::taking_over(&directory.path().join("takeover.sock"), &configuration);
    second.wait_for_output("is ready");
    first.signal(Signal::KILL);
    first.wait(PATIENCE);
    second.wait_for_output(" has left");
    let log = second.stop();
    assert_eq!((counted(&log, "accepted"), counted(&log, "local")), (Some(2), Some(1)), "{log}");
}

#[test]
fn what_a_client_has_spent_of_its_rate_it_has_spent_in_the_next_process_too() {
    let (directory, port) = (temp_dir(), free_port());
    let path = directory.path().join("takeover.sock");
    let globals = format!("takeover_socket = {}\nclient_rate_limit = 3\nclient_rate_period = 1 hours", path.display());
    let configuration = haproxy_configuration(port, &globals, "");
    let mut first = Daemon::start(&configuration, &[port]);
    first.wait_for_output("is ready");
    let served = || {
        let header = header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[]);
        let (said, ..) = Client::send_to(loopback(port), &header).read_to_end();
        !said.is_empty()
    };
    assert!(served() && served());
    let second = Daemon::taking_over(&path, &configuration);
    second.wait_for_output("is ready");
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    assert!(served(), "one is left");
    assert!(!served(), "the two before count");
    assert!(second.stop().contains("client-rate-limit"));
}

#[test]
fn a_session_keeps_its_server_and_listener_though_no_later_configuration_has_them() {
    let talker = Talker::start();
    let scene = Scene::new(&[talker.backend.address]);
    let mut daemon = scene.start();
    let mut crowd = Crowd::gather(loopback(scene.port), 5);
    // One without the backend and the service; the listener has another name and port.
    let other = format!(
        "haproxy_trusted_networks = 127.0.0.1\ntakeover_socket = {}\ncontrol_socket = {}\n\
         service other {{\n  inet_listener other {{\n    address = 127.0.0.1\n    port = {}\n    haproxy = yes\n  }}\n}}\n",
        scene.path("takeover.sock").display(),
        scene.path("control.sock").display(),
        free_port(),
    );
    for _ in 0..2 {
        let next = Daemon::taking_over(&scene.path("takeover.sock"), &other);
        next.wait_for_output("is ready");
        let mut before = std::mem::replace(&mut daemon, next);
        assert_eq!(before.wait(PATIENCE).code(), Some(0), "{}", before.output());
        assert!(before.output().contains("5 sessions go on in the other process, 0 stay"), "{}", before.output());
        crowd.talk_for(Duration::from_millis(200));
        crowd.assert_well(&talker);
    }
    let socket = scene.path("control.sock");
    let said = vestibule_run(&["ctl", "who", "--json", "--server", "s0", "--socket", &socket.to_string_lossy()], b"");
    let who: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let sessions = who["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 5, "{who}");
    for session in sessions {
        assert_eq!(
            (&session["service"], &session["listener"], &session["server"]),
            (&"talk".into(), &"talk".into(), &"s0".into())
        );
    }
    drop(crowd);
    let log = daemon.stop();
    assert!(log.contains("client-closed") || log.contains("client-reset"), "{log}");
}

#[test]
fn sessions_of_a_server_whose_name_has_no_address_in_the_next_process_go_on() {
    let talker = Talker::start();
    let scene = Scene::new(&[talker.backend.address]);
    let mut first = scene.start();
    let mut crowd = Crowd::gather(loopback(scene.port), 3);
    let server = talker.backend.address;
    let place = |address: &str| format!("address = {address}\n    port = {}", server.port());
    let nowhere = scene.configuration().replace(&place(&server.ip().to_string()), &place("nowhere.invalid"));
    assert_ne!(nowhere, scene.configuration());
    let second = Daemon::taking_over(&scene.path("takeover.sock"), &nowhere);
    second.wait_for_output("is ready");
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    crowd.talk_for(Duration::from_millis(200));
    crowd.assert_well(&talker);
    let log = second.output();
    assert!(!log.contains("panicked"), "{log}");
}

//! Floods: garbage of every kind, clients that misbehave in every way, silent ones by the thousand, more than a backlog
//! holds. Nobody honest suffers, nothing leaks, the log stays short, and everything is counted under its reason.
//!
//! The short forms run with all other tests. The long ones, alone and with a release build for their figures:
//! `VESTIBULE_FLOOD=4200000 VESTIBULE_SLOWLORIS=19000 cargo test --release --test integration floods -- --nocapture --test-threads 1`

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::daemon::{Daemon, counted};
use crate::support::load::{self, load, load_beside, load_under};
use crate::support::{PATIENCE, free_port, header, wait_until};
use crate::{needs, needs_root};

/// Garbage connections that come first: afterwards everything that is made once has been made, such as the log's table of
/// sources and reasons, and the memory of threads.
const WARM_UP: u64 = 40_000;
/// Those that follow in an ordinary run; the long form is named by `VESTIBULE_FLOOD`.
const GARBAGE: u64 = 60_000;
/// Silent connections at a time; the long form is named by `VESTIBULE_SLOWLORIS`.
const SILENT: u64 = 2_000;
/// Where floods come from: few enough sources that the log can be bounded, enough that ports do not run out.
const SOURCES: &str = "127.1.0.0/28";
const SOURCES_COUNT: usize = 14;
/// Kinds of events of a source that the log tells apart, those of which nobody else has had aside (`KINDS_TOLD_MAX`), and one
/// line more for the rest.
const KINDS_TOLD: usize = 8 + 1;
/// Clients that are served before memory is looked at.
const SERVED_BEFORE: u64 = 40;
/// The log's window for one line a source, reason and diagnosis.
const WINDOW: Duration = Duration::from_secs(60);

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// A daemon that trusts the floods' sources.
fn daemon(globals: &str, settings: &str) -> (Daemon, SocketAddr) {
    let port = free_port();
    (Daemon::start(&configuration(port, globals, settings), &[port]), loopback(port))
}

fn configuration(port: u16, globals: &str, settings: &str) -> String {
    format!(
        "haproxy_trusted_networks = 127.0.0.0/29 127.1.0.0/24\n{globals}\nservice imap-login {{\n  inet_listener i {{\n    \
         address = 127.0.0.1\n    port = {port}\n    haproxy = yes\n    {settings}\n  }}\n}}\n"
    )
}

#[test]
fn garbage_of_every_kind_is_refused_counted_and_leaves_nothing_behind() {
    let connections = number_of("VESTIBULE_FLOOD", GARBAGE);
    let (daemon, listener) = daemon("", "");
    let mut sent = BTreeMap::new();
    let mut flood = |connections: u64, seed: &str| {
        let n = connections.to_string();
        let kinds = ["-b", "garbage", "-n", &n, "--seed", seed, "--source", SOURCES, "--duration", "2h"];
        let report = load(listener, &kinds);
        report.assert_ok();
        assert_eq!(report.garbage().map(|(_, count)| count).sum::<u64>(), connections);
        report.garbage().for_each(|(reason, count)| *sent.entry(reason.to_owned()).or_insert(0) += count);
        Client::send_to(listener, &header::local()).whoami()
    };

    let begun = Instant::now();
    flood(WARM_UP, "1");
    // A ring takes memory for its latencies with the first client that it serves: each has had one by then.
    (0..SERVED_BEFORE).for_each(|_| drop(Client::send_to(listener, &header::local()).whoami()));
    let (files, memory) = (daemon.open_files(), daemon.resident());
    flood(connections, "2");
    let took = begun.elapsed();

    let closed = wait_until(PATIENCE, || daemon.open_files() == files);
    assert!(closed, "{files} open files before, {} after", daemon.open_files());
    let now = daemon.resident();
    eprintln!("{connections} garbage connections in {took:?}; {memory} KiB resident before, {now} KiB after");
    assert!(now <= memory + memory / 100, "{memory} KiB before {connections} connections, {now} KiB after");

    let log = daemon.stop();
    for (reason, count) in &sent {
        assert_eq!(counted(&log, reason), Some(*count), "{reason} in\n{log}");
    }
    assert_eq!(counted(&log, "accepted"), Some(WARM_UP + connections + 2 + SERVED_BEFORE), "{log}");
    assert_log_is_short(&log, sent.len(), took);
}

/// In each window one line a source, reason and diagnosis, and later one that tells how many more there were.
fn assert_log_is_short(log: &str, reasons: usize, took: Duration) {
    let windows = took.as_secs() / WINDOW.as_secs() + 1;
    let word = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name)?;
        rest.split([' ', ',', ')']).next().map(str::to_owned)
    };
    let mut lines = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("reason=")) {
        *lines.entry(["rip=", "reason=", "diagnosis="].map(|name| word(line, name))).or_insert(0) += 1;
    }
    for part in [0, 1] {
        assert!(lines.keys().all(|kind| kind[part].is_some()), "source and reason in each line:\n{log}");
    }
    let kinds = lines.keys().map(|[_, reason, diagnosis]| (reason, diagnosis)).collect::<BTreeSet<_>>().len();
    assert!((reasons..=2 * reasons).contains(&kinds), "{kinds} kinds of {reasons} reasons");
    let most = (kinds + SOURCES_COUNT * KINDS_TOLD) * windows as usize;
    assert!(lines.len() <= most, "{} kinds of lines, at most {most} for {kinds} kinds", lines.len());
    let most = lines.values().max().expect("there are lines");
    assert!(*most <= 2 * windows, "{most} lines of one kind in {windows} windows");
}

#[test]
fn clients_that_misbehave_in_every_way_are_told_apart() {
    const CONNECTIONS: &str = "4000";
    const MIX: &str =
        "normal,split:7,bytewise,half-close,lazy,local,silent,trickle,tls,empty,partial:5,reset:0,reset:5,reset";
    let (daemon, listener) = daemon("haproxy_timeout = 2 secs", "defer_accept = no");
    Client::send_to(listener, &header::local()).whoami();
    let files = daemon.open_files();
    let report = load(
        listener,
        &["-b", MIX, "-n", CONNECTIONS, "-c", "1000", "--source", SOURCES, "--gap", "1ms", "--lazy-wait", "300ms"],
    );
    report.assert_ok();
    let closed = wait_until(PATIENCE, || daemon.open_files() == files);
    assert!(closed, "{files} open files before, {} after", daemon.open_files());

    let log = daemon.stop();
    let sent = |names: &[&str]| names.iter().map(|name| report.all_ok(name)).sum::<u64>();
    let counter = |name: &str| counted(&log, name).unwrap_or_default();
    for (name, exactly) in [("local", sent(&["local"]) + 1), ("silent", sent(&["silent"])), ("absent", sent(&["tls"]))]
    {
        assert_eq!(counter(name), exactly, "{name} in\n{log}");
    }
    assert_eq!(counter("timeout"), sent(&["trickle"]), "{log}");
    // A reset is seen as one, or as the end of a stream, or only after its header: that is the kernel's race.
    let resets = sent(&["reset:0", "reset:5", "reset"]);
    let answered = sent(&["normal", "split:7", "bytewise", "half-close", "lazy"]);
    let ended = [("proxied", answered), ("closed-empty", sent(&["empty"])), ("closed-partial", sent(&["partial:5"]))];
    let mut reset = counter("reset-early");
    for (name, at_least) in ended {
        assert!(counter(name) >= at_least, "{name} at least {at_least} in\n{log}");
        reset += counter(name) - at_least;
    }
    assert_eq!(reset, resets, "each reset is counted once, in\n{log}");
    assert_eq!(counter("accepted"), report.number("/connections/started") + 1, "{log}");
}

#[test]
fn silent_clients_by_the_thousand_do_not_hurt_honest_ones() {
    let silent = number_of("VESTIBULE_SLOWLORIS", SILENT);
    let (daemon, listener) = daemon("haproxy_timeout = 60 secs", "defer_accept = no");
    let honest = || {
        let report = load(listener, &["-n", "3000", "--rate", "1500", "-c", "500", "--header", "mixed"]);
        report.assert_ok();
        assert_eq!(report.number("/connections/ok"), 3000);
        report.number("/latency/end/p99")
    };
    honest();
    let alone = honest();
    let files = daemon.open_files();
    let n = silent.to_string();
    let attackers = load_beside(listener, &["-b", "silent", "-c", &n, "--deadline", "120s", "--duration", "120s"]);
    let there = wait_until(PATIENCE, || daemon.open_files() >= files + silent as usize);
    assert!(there, "{} of {silent} are there", daemon.open_files() - files);
    let besieged = honest();
    assert_eq!(daemon.open_files(), files + silent as usize, "and all of them still are");
    drop(attackers);
    assert!(wait_until(PATIENCE, || daemon.open_files() == files), "all of them are gone");
    eprintln!("{silent} silent: p99 of honest clients {alone} us without, {besieged} us with them");
    let log = daemon.stop();
    assert_eq!(counted(&log, "proxied"), Some(9_000), "{log}");
    assert_eq!(counted(&log, "closed-empty"), Some(silent), "{log}");
}

#[test]
fn honest_clients_get_in_when_silent_ones_have_taken_every_place() {
    const PLACES: usize = 64;
    let (daemon, listener) =
        daemon(&format!("rings = 1\npending_limit = {PLACES}\nhaproxy_timeout = 60 secs"), "defer_accept = no");
    let silent: Vec<Client> = (0..2 * PLACES).map(|_| Client::connect(TRUSTED, listener)).collect();
    for _ in 0..PLACES {
        assert_eq!(Client::send_to(listener, &header::local()).whoami()["command"], "LOCAL");
    }
    let log = daemon.stop();
    drop(silent);
    // Each newcomer beyond the limit makes the one leave that has been silent for longest.
    assert_eq!(counted(&log, "local"), Some(PLACES as u64), "{log}");
    assert_eq!(counted(&log, "accepted"), Some(3 * PLACES as u64), "{log}");
    assert!(counted(&log, "shed") >= Some(PLACES as u64), "{log}");
}

#[test]
fn a_storm_above_the_backlog_is_served_to_the_last_client() {
    needs_root!();
    needs!("unshare", "nsenter", "ip");
    load::prepare();
    // A network namespace of its own, since somaxconn belongs to it.
    let inside = "ip link set lo up && echo 256 > /proc/sys/net/core/somaxconn && exec \"$@\"";
    let port = free_port();
    let text = configuration(port, "rings = 1", "");
    let daemon = Daemon::start_under(&["unshare", "--net", "sh", "-c", inside, "sh"], &text, &[port]);
    let id = daemon.id().to_string();
    let enter = ["nsenter", "--target", &id, "--net"];
    // For a moment it accepts nobody, as on a machine that is short of time; then the backlog is full for certain.
    daemon.signal(Signal::STOP);
    let (full, report) = std::thread::scope(|scope| {
        let arguments = ["-n", "3000", "-c", "1000", "--deadline", "60s", "--drain", "60s"];
        let storm = scope.spawn(move || load_under(&enter, loopback(port), &arguments));
        let full = wait_until(PATIENCE, || listen_overflows(&id) > 0);
        daemon.signal(Signal::CONT);
        (full, storm.join().expect("the load does not panic"))
    });
    report.assert_ok();
    assert!(full, "1000 at a time do not fit in a backlog of 256: {report:#?}");
    let log = daemon.stop();
    assert_eq!((counted(&log, "accepted"), counted(&log, "proxied")), (Some(3000), Some(3000)), "{log}");
}

/// `ListenOverflows` of the process's network namespace: handshakes that found the backlog full.
fn listen_overflows(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/net/netstat")).expect("the process runs");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "ListenOverflows").expect("every kernel counts them");
    value.parse().expect("a number")
}

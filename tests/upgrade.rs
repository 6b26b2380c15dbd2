//! Sessions that last days: reloads and upgrades under held sessions that talk all the time, and under new ones.
//!
//! The ordinary run is short. The long form:
//!
//! ```text
//! VESTIBULE_HELD=5000 VESTIBULE_RATE=500 VESTIBULE_UPGRADES=20 VESTIBULE_RELOADS=100 VESTIBULE_KILLS=200 \
//!     cargo test --test integration upgrade -- --nocapture --test-threads 1
//! ```

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use vestibule::worker::Discard;
use vestibule::{Engine, Listener, Pool};

use crate::support::client::{TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::crowd::{Crowd, Talker, come_and_go, wrong};
use crate::support::daemon::Daemon;
use crate::support::dovecot::{Dovecot, Service, Terms, Way, missing};
use crate::support::mail::{Imap, Wire};
use crate::support::process::{kill_by_id, open_files};
use crate::support::{PATIENCE, free_port, header, number_from, record_skip, temp_dir, wait_until};

/// A relay with a place where it can be taken over.
struct Scene {
    directory: TempDir,
    port: u16,
    globals: &'static str,
    servers: Vec<std::net::SocketAddr>,
}

impl Scene {
    fn new(globals: &'static str, servers: &[std::net::SocketAddr]) -> Scene {
        Scene { directory: temp_dir(), port: free_port(), globals, servers: servers.to_vec() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("takeover.sock")
    }

    fn listener(&self) -> std::net::SocketAddr {
        loopback(self.port)
    }

    fn configuration(&self) -> String {
        format!(
            "haproxy_trusted_networks = 127.0.0.1\ntakeover_socket = {}\nrings = 2\n{}\n\
             service talk {{\n  worker = relay\n  backend = talk\n  inet_listener talk {{\n    address = 127.0.0.1\n    \
             port = {}\n    haproxy = yes\n  }}\n}}\n{}",
            self.path().display(),
            self.globals,
            self.port,
            // Several sessions of one client, too, are the same client's in the next process.
            backend("talk", "check = none\n  stick = source", &self.servers)
        )
    }

    fn start(&self) -> Daemon {
        let daemon = Daemon::start(&self.configuration(), &[self.port]);
        daemon.wait_for_output("is ready");
        daemon
    }

    fn next(&self) -> Daemon {
        Daemon::taking_over(&self.path(), &self.configuration())
    }
}

/// A daemon and those that it starts itself, which write where it does.
struct Line {
    first: Daemon,
    /// The process that serves now.
    newest: u32,
}

impl Line {
    fn new(first: Daemon) -> Line {
        let newest = first.id();
        Line { first, newest }
    }

    fn reload(&self) {
        let count = || self.first.output().matches("reloaded: ").count();
        let before = count();
        kill_by_id(self.newest, Signal::HUP);
        assert!(wait_until(PATIENCE, || count() > before), "it reloads:\n{}", self.first.output());
    }

    /// SIGUSR2; the process before must have left when this returns.
    fn upgrade(&mut self) {
        let before = self.newest;
        let from = format!("has taken over from process {before},");
        kill_by_id(before, Signal::USR2);
        self.first.wait_for_output(&from);
        let output = self.first.output();
        let started = output.rsplit_once("is started to take over").and_then(|(head, _)| head.rsplit_once("process "));
        self.newest = started.and_then(|(_, pid)| pid.trim().parse().ok()).expect("the log names the new process");
        let first = self.first.id() == before;
        let gone = wait_until(PATIENCE, || match first {
            true => self.first.exited().is_some(),
            false => !is_running(before),
        });
        assert!(gone, "process {before} has not left:\n{}", self.first.output());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        kill_by_id(self.newest, Signal::TERM);
        let newest = self.newest;
        if !wait_until(Duration::from_secs(5), || !is_running(newest)) {
            kill_by_id(newest, Signal::KILL);
        }
    }
}

/// Whether a process of this number runs; one that nobody has asked for its exit code does not.
fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Stops the load also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").count()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has one");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn no_session_ends_and_no_byte_is_wrong_over_upgrades_and_reloads() {
    let (held, rate) = (number_from("VESTIBULE_HELD", 150), number_from("VESTIBULE_RATE", 100));
    let (upgrades, reloads) = (number_from("VESTIBULE_UPGRADES", 3), number_from("VESTIBULE_RELOADS", 9));
    let talker = Talker::start();
    let scene = Scene::new("", &[talker.backend.address]);
    let mut line = Line::new(scene.start());
    let mut crowd = Crowd::gather(scene.listener(), held);
    let stop = AtomicBool::new(false);
    let (made, failed) = thread::scope(|scope| {
        let load = scope.spawn(|| come_and_go(scene.listener(), rate as u32, &stop));
        scope.spawn(|| crowd.talk(&stop));
        let _stop = StopOnDrop(&stop);
        for upgrade in 0..upgrades {
            for _ in reloads * upgrade / upgrades..reloads * (upgrade + 1) / upgrades {
                line.reload();
                thread::sleep(Duration::from_millis(50));
            }
            line.upgrade();
            thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load does not panic")
    });
    println!("{upgrades} upgrades, {reloads} reloads: {held} held, {made} new sessions, {} bytes", crowd.bytes());
    let log = line.first.output();
    assert!(failed.is_empty(), "{} of {made} new sessions failed: {:?}\n{log}", failed.len(), &failed[..1]);
    crowd.assert_well(&talker);
    assert_eq!(log.matches("reloaded: ").count(), reloads);
    // Two descriptors a session: they live where nobody else runs any more.
    let open = open_files(line.newest);
    assert!(open >= 2 * held, "the newest process has {open} descriptors and not {held} sessions\n{log}");
}

#[test]
fn reloads_with_held_sessions_leave_memory_threads_and_descriptors_level() {
    let (held, reloads) = (number_from("VESTIBULE_HELD", 150), number_from("VESTIBULE_RELOADS", 60));
    let talker = Talker::start();
    let scene = Scene::new("", &[talker.backend.address]);
    let line = Line::new(scene.start());
    let mut crowd = Crowd::gather(scene.listener(), held);
    crowd.talk_for(Duration::from_secs(1));
    // The first ones touch what stays in use.
    (0..10).for_each(|_| line.reload());
    let level = || {
        // What a reload has left closes in its own time.
        thread::sleep(Duration::from_millis(500));
        (resident_kib(line.newest), threads(line.newest), open_files(line.newest))
    };
    let before = level();
    (0..reloads.max(50)).for_each(|_| line.reload());
    let after = level();
    println!("{reloads} reloads with {held} sessions: {before:?} KiB, threads, descriptors before, {after:?} after");
    assert_eq!((after.1, after.2), (before.1, before.2), "threads and descriptors");
    assert!(after.0 as f64 <= before.0 as f64 * 1.05, "{} KiB before, {} after", before.0, after.0);
    crowd.talk_for(Duration::from_millis(300));
    crowd.assert_well(&talker);
}

/// The CPU time that the threads of a process have taken so far.
fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    let spent = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks.map(spent).sum())
}

/// That of all processes that were waited for. Only of use while no other test runs.
fn cpu_of_the_dead() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).expect("it is ours");
    let [user, system] = [usage.user_time(), usage.system_time()];
    let micros =
        |time: nix::sys::time::TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64);
    micros(user) + micros(system)
}

/// Lets another process take over, and tells what that has cost both.
fn take_over(scene: &Scene, mut old: Daemon) -> (Daemon, Duration) {
    let (before, dead) = (cpu_of(old.id()), cpu_of_the_dead());
    let next = scene.next();
    next.wait_for_output("is ready");
    assert_eq!(old.wait(PATIENCE).code(), Some(0), "{}", old.output());
    let of_old = (cpu_of_the_dead() - dead).saturating_sub(before);
    let cost = of_old + cpu_of(next.id());
    (next, cost)
}

#[test]
fn a_hand_over_costs_a_part_of_what_coming_anew_does() {
    let held = number_from("VESTIBULE_HELD", 150);
    let talker = Talker::start();
    let scene = Scene::new("", &[talker.backend.address]);
    // What two processes take that have no sessions.
    let (old, nothing) = take_over(&scene, scene.start());
    let before = cpu_of(old.id());
    let mut crowd = Crowd::gather(scene.listener(), held);
    let anew = cpu_of(old.id()) - before;
    let (_next, cost) = take_over(&scene, old);
    let cost = cost.saturating_sub(nothing);
    crowd.talk_for(Duration::from_millis(300));
    crowd.assert_well(&talker);
    println!("CPU: {held} sessions came within {anew:?}, and moved within {cost:?} ({nothing:?} without sessions)");
    // The long form runs alone.
    assert!(held < 5000 || cost <= anew / 5, "{cost:?} to move {held}, {:?} for a fifth of them anew", anew / 5);
}

#[test]
fn whoever_is_killed_in_a_hand_over_every_session_lives_on_in_one_process_or_ends() {
    const HELD: usize = 60;
    /// From the first word to the last, in microseconds.
    const MOMENTS: u64 = 16_000;
    let kills = number_from("VESTIBULE_KILLS", 14);
    let talker = Talker::start();
    let scene = Scene::new("", &[talker.backend.address]);
    let mut old = scene.start();
    let mut crowd = Crowd::gather(scene.listener(), HELD);
    let (mut ended, mut outlived) = (0, 0);
    let mut random = fastrand::Rng::with_seed(12);
    for round in 0..kills {
        crowd.fill(HELD);
        let (kill_old, stop) = (round % 2 == 1, AtomicBool::new(false));
        let mut next = thread::scope(|scope| {
            scope.spawn(|| crowd.talk(&stop));
            let _stop = StopOnDrop(&stop);
            thread::sleep(Duration::from_millis(30));
            let next = scene.next();
            // Everything that counts happens a few milliseconds after this line.
            let begins = wait_until(PATIENCE, || next.output().contains("takes over from process"));
            assert!(begins, "{}", next.output());
            thread::sleep(Duration::from_micros(random.u64(0..MOMENTS)));
            if kill_old {
                old.signal(Signal::KILL)
            } else {
                next.signal(Signal::KILL)
            }
            thread::sleep(Duration::from_millis(100));
            next
        });
        // Whoever was killed is gone, and who is left serves; unless the old one had left before the new one died.
        let had_left = !kill_old && wait_until(Duration::from_millis(200), || old.exited().is_some());
        if had_left {
            next.wait(PATIENCE);
            assert_eq!(old.wait(PATIENCE).code(), Some(0), "{}", old.output());
            old = scene.start();
        }
        let survivor = if kill_old { &next } else { &old };
        let serves = wait_until(PATIENCE, || std::net::TcpStream::connect(scene.listener()).is_ok());
        assert!(serves, "nobody serves after round {round}:\n{}", survivor.output());
        crowd.talk_for(Duration::from_millis(200));
        crowd.assert_no_byte_wrong(&talker);
        let over = crowd.take_ended();
        assert!(!had_left || crowd.held.is_empty(), "they lived in the process that was killed");
        let wrong: Vec<String> = over.iter().filter_map(|held| wrong(held, &talker)).collect();
        assert!(wrong.is_empty(), "in round {round}: {wrong:#?}");
        // What has not ended lives: it is carried on to the last byte.
        crowd.assert_well(&talker);
        ended += over.len();
        outlived += crowd.held.len();
        match kill_old {
            true => {
                old.wait(PATIENCE);
                next.wait_for_output("is ready");
                old = next;
            }
            false if had_left => {}
            false => {
                next.wait(PATIENCE);
                assert!(old.exited().is_none(), "the old one has left, and the new one is dead:\n{}", old.output());
            }
        }
    }
    println!("{kills} kills: {outlived} sessions lived on, {ended} ended");
    assert!(outlived > 0, "some kills hit nobody");
}

#[test]
fn idle_sessions_of_a_real_dovecot_outlive_upgrades_and_reloads() {
    if let Some(what) = missing().or_else(|| (!rustix::process::geteuid().is_root()).then_some("root")) {
        return record_skip(what);
    }
    const SESSIONS: usize = 8;
    let dovecots = [Dovecot::start(&Terms::default()), Dovecot::start(&Terms::default())];
    let servers = dovecots.each_ref().map(|dovecot| dovecot.address(Service::Imap, Way::Proxied));
    let scene = Scene::new("", &servers);
    let mut line = Line::new(scene.start());
    let client = |number: usize| {
        let mut wire = Wire::connect(TRUSTED, scene.listener());
        wire.send(&header::v2(address(&format!("198.51.100.7:{}", 5000 + number)), address("192.0.2.1:143"), &[]));
        let mut imap = Imap::new(wire).login(&format!("u{number}"));
        imap.command("s SELECT INBOX");
        imap.0.say("i IDLE");
        imap.0.expect("+ idling");
        imap
    };
    let mut idle: Vec<Imap> = (0..SESSIONS).map(client).collect();
    for _ in 0..number_from("VESTIBULE_UPGRADES", 2) {
        line.reload();
        line.upgrade();
    }
    for imap in &mut idle {
        imap.0.say("DONE");
        imap.0.expect("i OK");
        imap.command("n NOOP");
    }
    idle.into_iter().for_each(Imap::logout);
}

#[test]
fn term_with_sessions_ends_with_0_however_many_were_let_go_and_says_how_many() {
    const HELD: usize = 40;
    let talker = Talker::start();
    for (signal, second) in [(Signal::TERM, None), (Signal::USR1, Some(Signal::TERM))] {
        let scene = Scene::new("drain_timeout = 2 secs", &[talker.backend.address]);
        let mut daemon = scene.start();
        let mut crowd = Crowd::gather(scene.listener(), HELD);
        let begun = Instant::now();
        daemon.signal(signal);
        daemon.wait_for_output("draining for at most 2 s");
        // Spread over the time: neither all at once nor all at the end.
        crowd.talk_for(Duration::from_secs(1));
        let early = crowd.take_ended().len();
        assert!((1..HELD).contains(&early), "{early} of {HELD} after a second\n{}", daemon.output());
        if let Some(second) = second {
            daemon.wait_for_output("drained in");
            assert!(daemon.exited().is_none(), "USR1 leaves it running\n{}", daemon.output());
            daemon.signal(second);
        }
        let status = daemon.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", daemon.output());
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert!(daemon.output().contains(&format!("{HELD} sessions were let go")), "{}", daemon.output());
        crowd.assert_no_byte_wrong(&talker);
    }
}

/// What the building of an engine costs that has the doors of [`Scene`], with all its rings: the least that a reload took
/// when each made an engine beside the present one.
fn cost_of_a_second_engine() -> Duration {
    let this = std::process::id();
    let before = cpu_of(this);
    let listener = Listener::proxy(loopback(0)).trust(["127.0.0.1".parse().expect("a network")]).pool("talk");
    let builder = Engine::builder().pool(Pool::here("talk", Discard)).rings(NonZeroUsize::MIN.saturating_add(1));
    let mut engine = builder.listen(listener).start().expect("the machine can have two engines");
    // Threads that have ended are not counted: it is asked while all of them run.
    let cost = cpu_of(this).saturating_sub(before);
    assert!(engine.drain(PATIENCE), "nobody came");
    cost
}

#[test]
fn a_reload_of_one_network_costs_a_part_of_a_second_engine() {
    let (held, reloads) = (number_from("VESTIBULE_HELD", 100), number_from("VESTIBULE_RELOADS", 5) as u32);
    // First: to ask for the CPU time of a process with the threads of many talkers takes some, too.
    let second = (0..reloads).map(|_| cost_of_a_second_engine()).sum::<Duration>() / reloads;
    let talker = Talker::start();
    let scene = Scene::new("", &[talker.backend.address]);
    let line = Line::new(scene.start());
    let mut crowd = Crowd::gather(scene.listener(), held);
    let before = cpu_of(line.newest);
    for number in 0..reloads {
        let networks = format!("haproxy_trusted_networks = 127.0.0.1 192.0.2.{}\n", number % 200 + 1);
        let changed = scene.configuration().replace("haproxy_trusted_networks = 127.0.0.1\n", &networks);
        std::fs::write(line.first.file(), changed).expect("the configuration can be written");
        line.reload();
    }
    let reload = cpu_of(line.newest).saturating_sub(before) / reloads;
    crowd.talk_for(Duration::from_millis(300));
    crowd.assert_well(&talker);
    let ratio = reload.as_secs_f64() / second.as_secs_f64().max(f64::EPSILON);
    // What it costs is told, and only of use while no other test runs.
    println!("CPU: a reload under {held} sessions takes {reload:?}, building a second engine {second:?}: {ratio:.3}");
}

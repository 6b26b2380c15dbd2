//! The service manager keeps the listening sockets of a process that is killed: nobody is refused meanwhile.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::needs;
use crate::support::client::loopback;
use crate::support::daemon::{haproxy_configuration, vestibule};
use crate::support::{PATIENCE, free_port, is_listening, number_from, temp_dir, wait_until};

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
const CLIENTS: usize = 20;
/// Connections a second, all clients together.
const RATE: u32 = 2000;
const BETWEEN_KILLS: Duration = Duration::from_millis(300);

#[test]
fn whoever_connects_while_the_daemon_is_killed_is_served_by_the_next_one() {
    needs!("python3");
    let kills = number_from("VESTIBULE_KILLS", 20);
    let (port, directory) = (free_port(), temp_dir());
    let file = directory.path().join("vestibule.conf");
    std::fs::write(&file, haproxy_configuration(port, "rings = 2", "")).expect("a file in a temporary directory");
    let mut manager = Manager::start(directory.path(), &file);
    let mut outages = Vec::new();
    assert!(wait_until(PATIENCE, || is_listening(loopback(port))), "it listens");
    let (tally, over, begun) = (Tally::default(), AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| connect_on(port, &tally, &over));
        }
        for _ in 0..kills {
            thread::sleep(BETWEEN_KILLS);
            outages.push(manager.kill());
            // The next kill is to hit one that serves.
            let served = tally.served.load(Ordering::Relaxed);
            assert!(wait_until(PATIENCE, || tally.served.load(Ordering::Relaxed) > served + CLIENTS), "{tally:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let losses = tally.losses.lock().expect("nobody panics").clone();
    let all = of(&tally.served) + losses.len();
    let rate = all as f64 / begun.elapsed().as_secs_f64();
    println!("{kills} kills, {all} connections at {rate:.0} a second, {} lost", losses.len());
    assert_eq!((of(&tally.refused), of(&tally.unanswered)), (0, 0), "{tally:?}");
    // Accepted by one that was killed then: under way when it was, and begun before the next one.
    for (begun, ended) in &losses {
        let cut = |(killed, restarted): &(Instant, Instant)| ended >= killed && begun <= restarted;
        assert!(outages.iter().any(cut), "a connection was lost while nobody was killed");
    }
    assert!(losses.len() <= kills * CLIENTS, "at most what was under way: {}", losses.len());
}

/// What clients saw.
#[derive(Debug, Default)]
struct Tally {
    served: AtomicUsize,
    refused: AtomicUsize,
    /// Connected, and cut before the answer: when each was begun and cut.
    losses: Mutex<Vec<(Instant, Instant)>>,
    /// Connected, and nothing came.
    unanswered: AtomicUsize,
}

fn connect_on(port: u16, tally: &Tally, over: &AtomicBool) {
    let step = Duration::from_secs(1) * CLIENTS as u32 / RATE;
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        next += step;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next = next.max(Instant::now() - step);
        let begun = Instant::now();
        let what = match TcpStream::connect_timeout(&loopback(port), PATIENCE) {
            Ok(stream) => ask(stream, tally),
            Err(_) => Some(&tally.refused),
        };
        match what {
            Some(count) => _ = count.fetch_add(1, Ordering::Relaxed),
            None => tally.losses.lock().expect("nobody panics").push((begun, Instant::now())),
        }
    }
}

/// How a conversation went; `None`: it was cut.
fn ask(mut stream: TcpStream, tally: &Tally) -> Option<&AtomicUsize> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut said = String::new();
    match stream.write_all(HEADER).and_then(|()| stream.read_to_string(&mut said)) {
        Ok(_) if said.contains("198.51.100.7:5000") => Some(&tally.served),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Some(&tally.unanswered),
        _ => None,
    }
}

/// The stand-in for the service manager, and the process that it runs.
struct Manager {
    child: Child,
    starts: BufReader<ChildStdout>,
    /// The daemon that was started last.
    current: Pid,
}

impl Manager {
    fn start(directory: &Path, file: &Path) -> Manager {
        let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/kept/manager.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(directory.join("notify")).arg(vestibule().get_program());
        command.args(["serve", "-c"]).arg(file);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.expect("python3 starts");
        let mut starts = BufReader::new(child.stdout.take().expect("it is piped"));
        let current = next_start(&mut starts);
        Manager { child, starts, current }
    }

    /// Kills the daemon that was started last: when, and when that was dead and another one begun.
    fn kill(&mut self) -> (Instant, Instant) {
        let killed = Instant::now();
        kill_process(self.current, Signal::KILL).expect("it runs");
        self.current = next_start(&mut self.starts);
        (killed, Instant::now())
    }
}

/// The process that is started next.
fn next_start(starts: &mut impl BufRead) -> Pid {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(starts.read_line(&mut line).expect("it tells of its starts") > 0, "the manager has ended");
        // The manager's own line of a start, or the daemon's.
        if let Ok(pid) = line.trim().parse() {
            return Pid::from_raw(pid).expect("no process has the number 0");
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

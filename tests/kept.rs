//! The service manager keeps the listening sockets of a process that is killed: nobody is refused meanwhile.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
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
    assert!(wait_until(PATIENCE, || is_listening(loopback(port))), "it listens");
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| connect_on(port, &tally, &over));
        }
        for _ in 0..kills {
            thread::sleep(BETWEEN_KILLS);
            manager.kill();
            // The next kill is to hit one that serves.
            let served = tally.served.load(Ordering::Relaxed);
            assert!(wait_until(PATIENCE, || tally.served.load(Ordering::Relaxed) > served + CLIENTS), "{tally:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!("{kills} kills: {tally:?}");
    assert_eq!((of(&tally.refused), of(&tally.unanswered)), (0, 0), "{tally:?}");
    // Accepted by one that was killed then: at most what was under way.
    assert!(of(&tally.lost) <= kills * CLIENTS, "{tally:?}");
}

/// What clients saw.
#[derive(Debug, Default)]
struct Tally {
    served: AtomicUsize,
    refused: AtomicUsize,
    /// Connected, and cut before the answer.
    lost: AtomicUsize,
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
        let what = match TcpStream::connect_timeout(&loopback(port), PATIENCE) {
            Ok(stream) => ask(stream, tally),
            Err(_) => &tally.refused,
        };
        what.fetch_add(1, Ordering::Relaxed);
    }
}

fn ask(mut stream: TcpStream, tally: &Tally) -> &AtomicUsize {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut said = String::new();
    match stream.write_all(HEADER).and_then(|()| stream.read_to_string(&mut said)) {
        Ok(_) if said.contains("198.51.100.7:5000") => &tally.served,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => &tally.unanswered,
        _ => &tally.lost,
    }
}

/// The stand-in for the service manager, and the process that it runs.
struct Manager {
    child: Child,
    starts: BufReader<ChildStdout>,
}

impl Manager {
    fn start(directory: &Path, file: &Path) -> Manager {
        let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/kept/manager.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(directory.join("notify")).arg(vestibule().get_program());
        command.args(["serve", "-c"]).arg(file);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.expect("python3 starts");
        let starts = BufReader::new(child.stdout.take().expect("it is piped"));
        Manager { child, starts }
    }

    /// Kills the daemon that was started last.
    fn kill(&mut self) {
        let mut line = String::new();
        // The manager's own line of a start, or the daemon's.
        let pid = loop {
            line.clear();
            assert!(self.starts.read_line(&mut line).expect("it tells of its starts") > 0, "the manager has ended");
            if let Ok(pid) = line.trim().parse() {
                break Pid::from_raw(pid).expect("no process has the number 0");
            }
        };
        kill_process(pid, Signal::KILL).expect("it runs");
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

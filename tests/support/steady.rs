//! A steady stream of connections, each with a header of its own, and what became of every one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::client::address;
use super::{PATIENCE, header};

/// Clients at a time: enough for the rate as long as each is answered within a few milliseconds.
const CLIENTS: usize = 32;

/// What came of the load.
#[derive(Debug)]
pub struct Outcome {
    pub made: u64,
    /// Answered with the client that the header named.
    pub right: u64,
    /// Answered otherwise.
    pub wrong: Vec<String>,
    /// Not connected, reset, or not answered.
    pub failed: Vec<String>,
    pub took: Duration,
}

impl Outcome {
    /// Connections a second.
    pub fn rate(&self) -> f64 {
        self.made as f64 / self.took.as_secs_f64()
    }

    /// Nobody was refused, reset, or mistaken for somebody else.
    pub fn assert_perfect(&self) {
        let worst: Vec<&String> = self.failed.iter().chain(&self.wrong).take(5).collect();
        assert!(
            worst.is_empty(),
            "{} failed, {} wrong of {}: {worst:?}",
            self.failed.len(),
            self.wrong.len(),
            self.made
        );
        assert_eq!(self.right, self.made);
    }
}

/// Makes `rate` connections a second to a listener with a whoami worker until `stop` is set: connection number n at n/rate
/// seconds, or as soon as a client is free.
pub fn steady(to: SocketAddr, rate: u32, stop: &AtomicBool) -> Outcome {
    let (next, right) = (AtomicU64::new(0), AtomicU64::new(0));
    let (wrong, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let begun = Instant::now();
    let client = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = begun + Duration::from_secs(1) * number as u32 / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let named = named(number);
            match ask(to, number, named) {
                Ok(said) if says(&said, named) => {
                    right.fetch_add(1, Ordering::Relaxed);
                }
                Ok(said) => wrong.lock().expect("nobody panics").push(format!("{named} is told {said:?}")),
                Err(error) => failed.lock().expect("nobody panics").push(format!("connection {number}: {error}")),
            }
        }
    };
    thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(client))));
    Outcome {
        made: next.into_inner(),
        right: right.into_inner(),
        wrong: wrong.into_inner().expect("nobody panics"),
        failed: failed.into_inner().expect("nobody panics"),
        took: begun.elapsed(),
    }
}

fn ask(to: SocketAddr, number: u64, named: SocketAddr) -> std::io::Result<String> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Several sources: one alone would run out of ports.
    let source = Ipv4Addr::new(127, 0, 0, 1 + (number % 7) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = std::net::TcpStream::from(socket);
    let header = header::v2(named, address("192.0.2.1:143"), &[]);
    // Now and then in two parts, so that some are half read at any time.
    let middle = if number.is_multiple_of(8) { 1 + number as usize / 8 % (header.len() - 1) } else { header.len() };
    stream.set_nodelay(true)?;
    stream.write_all(&header[..middle])?;
    if middle < header.len() {
        thread::sleep(Duration::from_millis(number % 20));
        stream.write_all(&header[middle..])?;
    }
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn says(said: &str, named: SocketAddr) -> bool {
    let answer: Option<serde_json::Value> = serde_json::from_str(said).ok();
    answer.is_some_and(|answer| answer["client"] == named.to_string())
}

/// 198.18.0.0/15 is set aside for benchmarks.
fn named(number: u64) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number % (1 << 17)) as u32);
    (ip, 1024 + (number % 60_000) as u16).into()
}

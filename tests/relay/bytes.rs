//! Bytes through the relay: many sessions at a time with random sizes, splits, stalls and endings on both sides. Whatever
//! arrives must be what was sent, in order; where nobody aborted, all of it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use socket2::SockRef;

use crate::needs;
use crate::support::backend::Backend;
use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::Daemon;
use crate::support::peers::haproxy;
use crate::support::{PATIENCE, free_port, header, wait_until};

/// How many sessions there are, and how many at a time.
const SESSIONS: u32 = 10_000;
const IN_FLIGHT: usize = 256;

/// Most bytes of one direction of a session.
const SIZE_MAX: usize = 1 << 20;

/// About so many writes send the longest flow.
const WRITES: usize = 512;

/// Small stacks: there are a thousand threads.
const STACK: usize = 256 << 10;

/// The first session's client; the others follow. 198.18.0.0/15 is set aside for benchmarks.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// What is sent: each direction of each session is a piece of this from a place of its own.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Rng::with_seed(0x5eed);
    std::iter::repeat_with(|| random.u8(..)).take(4 * SIZE_MAX).collect()
});

#[test]
fn ten_thousand_sessions_arrive_byte_by_byte() {
    let server = Server::start();
    let port = free_port();
    let daemon = Daemon::start(&configuration(port, server.backend.address), &[port]);
    one(loopback(port), 0, Header::Whole).expect("the first session is carried"); // opens what stays open
    let before = daemon.open_files();
    server.assert_carries(loopback(port), (0..SESSIONS).collect(), Header::Cut);
    let same = wait_until(PATIENCE, || daemon.open_files() <= before);
    assert!(same, "{} descriptors before, {} after", before, daemon.open_files());
    let log = daemon.stop();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn haproxy_carries_the_same_sessions() {
    needs!("haproxy");
    let server = Server::start();
    let balancer = haproxy(&format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen front\n  bind @FRONT@ accept-proxy\n  server s1 {} send-proxy-v2\n",
        server.backend.address
    ));
    // It gives up where the client has ended its side before the server is reached and nothing was sent.
    let numbers = (0..SESSIONS / 10).filter(|&number| Plan::of(number).up.size > 0);
    server.assert_carries(balancer.address(), numbers.collect(), Header::Whole);
}

/// How the PROXY header is sent.
#[derive(Clone, Copy)]
enum Header {
    /// In one segment: all that HAProxy takes.
    Whole,
    /// In two, in half of the sessions.
    Cut,
}

/// The server's side of all sessions.
struct Server {
    backend: Backend,
    /// What it says of each session that has ended, by the session's number.
    outcomes: Arc<Mutex<HashMap<u32, Result<(), String>>>>,
}

impl Server {
    fn start() -> Server {
        let outcomes = Arc::new(Mutex::new(HashMap::new()));
        let seen = outcomes.clone();
        let backend = Backend::start(move |stream, client| {
            let number = number_of(client.expect("without health checks every session has a client"));
            let outcome = Plan::of(number).serve(&stream);
            seen.lock().expect("no session panics").insert(number, outcome);
        });
        Server { backend, outcomes }
    }

    /// Has the sessions with these numbers carried by the relay at `relay`, and panics if a byte or an end is wrong.
    fn assert_carries(&self, relay: SocketAddr, numbers: Vec<u32>, header: Header) {
        let wrong = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        let one_after_another = || {
            while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(words) = one(relay, number, header) {
                    wrong.lock().expect("no session panics").push(format!("client of {number}: {words}"));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..IN_FLIGHT {
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, one_after_another).expect("a thread");
            }
        });
        let open = || self.backend.open();
        assert!(wait_until(PATIENCE, || open() == 0), "{} sessions of the server do not end", open());
        let mut wrong = wrong.into_inner().expect("no session panics");
        let outcomes = self.outcomes.lock().expect("no session panics");
        let told = outcomes.iter().filter_map(|(number, outcome)| Some((number, outcome.as_ref().err()?)));
        wrong.extend(told.map(|(number, words)| format!("server of {number}: {words}")));
        // A client that aborts at once may have gone before anybody heard of it.
        let lost = numbers.iter().filter(|number| !Plan::of(**number).aborts() && !outcomes.contains_key(number));
        wrong.extend(lost.map(|number| format!("session {number} has not come to the server")));
        assert!(wrong.is_empty(), "{} things are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    }
}

fn configuration(port: u16, server: SocketAddr) -> String {
    format!(
        "haproxy_trusted_networks = 127.0.0.1\nrings = 2\n\
         service bytes {{\n  worker = relay\n  backend = bytes\n  inet_listener bytes {{\n    address = 127.0.0.1\n    \
         port = {port}\n    haproxy = yes\n  }}\n}}\n{}",
        backend("bytes", "check = none", &[server])
    )
}

/// One session from the client's side.
fn one(to: SocketAddr, number: u32, way: Header) -> Result<(), String> {
    let plan = Plan::of(number);
    let source = (Ipv4Addr::from(u32::from(FIRST) + number), 5000).into();
    let header = header::v2(source, address("192.0.2.1:143"), &[]);
    let client = Client::connect(TRUSTED, to);
    let cut = match way {
        Header::Whole => header.len(),
        Header::Cut => plan.cut.min(header.len()),
    };
    let _ = client.send(&header[..cut]);
    if cut < header.len() {
        thread::sleep(Duration::from_millis(1));
        let _ = client.send(&header[cut..]);
    }
    plan.ask(&client.stream)
}

fn number_of(client: SocketAddr) -> u32 {
    let SocketAddr::V4(client) = client else { panic!("{client} is no client of this test") };
    u32::from(*client.ip()) - u32::from(FIRST)
}

/// What happens in a session, which both sides know by its number.
struct Plan {
    up: Flow,
    down: Flow,
    abort: Option<Abort>,
    /// So much of the header comes first.
    cut: usize,
}

/// Who aborts the session (RST) after having sent how many of its bytes.
#[derive(Clone, Copy)]
enum Abort {
    Client(usize),
    Server(usize),
}

/// One direction.
struct Flow {
    /// Where its bytes begin in [`BYTES`].
    start: usize,
    size: usize,
    /// Most bytes of a write.
    chunk_max: usize,
    /// One of so many writes is preceded by a pause; 0: none is.
    stalls: usize,
    /// One of so many reads is; 0: none is.
    slow: usize,
    seed: u64,
}

impl Plan {
    fn of(number: u32) -> Plan {
        let mut random = Rng::with_seed(u64::from(number));
        let (up, down) = (Flow::random(&mut random), Flow::random(&mut random));
        let abort = match random.u8(..10) {
            0 => Some(Abort::Client(random.usize(..=up.size))),
            1 => Some(Abort::Server(random.usize(..=down.size))),
            _ => None,
        };
        Plan { up, down, abort, cut: random.usize(1..60) }
    }

    fn aborts(&self) -> bool {
        self.abort.is_some()
    }

    fn ask(&self, stream: &TcpStream) -> Result<(), String> {
        let abort_at = match self.abort {
            Some(Abort::Client(at)) => Some(at),
            _ => None,
        };
        converse(stream, &self.up, &self.down, abort_at, self.aborts())
    }

    fn serve(&self, stream: &TcpStream) -> Result<(), String> {
        let abort_at = match self.abort {
            Some(Abort::Server(at)) => Some(at),
            _ => None,
        };
        converse(stream, &self.down, &self.up, abort_at, self.aborts())
    }
}

impl Flow {
    fn random(random: &mut Rng) -> Flow {
        let magnitude = if random.u8(..64) == 0 { SIZE_MAX } else { 1 << random.u32(..16) };
        let size = random.usize(..=magnitude);
        let chunk_max = (1 << random.u32(4..16)).max(size / WRITES);
        // A few pauses in the whole flow.
        let often = (size / chunk_max / 4).max(2);
        Flow {
            start: random.usize(..3 * SIZE_MAX),
            size,
            chunk_max,
            stalls: if random.u8(..4) == 0 { often } else { 0 },
            slow: if random.u8(..8) == 0 { often } else { 0 },
            seed: random.u64(..),
        }
    }

    fn bytes(&self) -> &'static [u8] {
        &BYTES[self.start..][..self.size]
    }

    /// Sends the first `length` bytes; whether all were taken.
    fn send(&self, mut stream: &TcpStream, length: usize) -> bool {
        let mut random = Rng::with_seed(self.seed);
        let mut rest = &self.bytes()[..length];
        while !rest.is_empty() {
            pause(&mut random, self.stalls);
            let (chunk, later) = rest.split_at(random.usize(1..=self.chunk_max.min(rest.len())));
            if stream.write_all(chunk).is_err() {
                return false;
            }
            rest = later;
        }
        true
    }

    /// Receives to the end. An error unless what came is how the flow begins, and all of it if it `must_be_whole`.
    fn receive(&self, mut stream: &TcpStream, must_be_whole: bool) -> Result<(), String> {
        let mut random = Rng::with_seed(self.seed);
        let mut buffer = vec![0; 16 << 10];
        let mut rest = self.bytes();
        let ending = loop {
            pause(&mut random, self.slow);
            let length = match stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(length) => length,
                Err(error) => break Some(error),
            };
            if !rest.starts_with(&buffer[..length]) {
                return Err(format!("wrong bytes behind {} of {}", self.size - rest.len(), self.size));
            }
            rest = &rest[length..];
        };
        match must_be_whole && (ending.is_some() || !rest.is_empty()) {
            true => Err(format!("{} of {} bytes are missing at the end ({ending:?})", rest.len(), self.size)),
            false => Ok(()),
        }
    }
}

/// Both directions at a time, from the side that sends `out`. With `abort_at` it aborts after so many bytes.
fn converse(stream: &TcpStream, out: &Flow, into: &Flow, abort_at: Option<usize>, aborted: bool) -> Result<(), String> {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    thread::scope(|scope| {
        let sender = move || match abort_at {
            Some(at) => {
                out.send(stream, at);
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                let _ = stream.shutdown(Shutdown::Read); // ends our own reading; the RST goes with the descriptor
                true
            }
            None => {
                let all = out.send(stream, out.size);
                let _ = stream.shutdown(Shutdown::Write);
                all
            }
        };
        let sender = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, sender).expect("a thread");
        let received = into.receive(stream, !aborted);
        match sender.join().expect("a sender does not panic") || aborted {
            true => received,
            false => Err(format!("its {} bytes are not taken; {received:?}", out.size)),
        }
    })
}

/// Waits a little, once in `often` times.
fn pause(random: &mut Rng, often: usize) {
    if often > 0 && random.usize(..often) == 0 {
        thread::sleep(Duration::from_millis(random.u64(1..8)));
    }
}

//! Held sessions that talk at random times, byte for byte predictable in both directions: what is lost, doubled or
//! exchanged shows at the first byte that is another one.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::backend::Backend;
use super::client::{Client, address};
use super::{PATIENCE, header, wait_until};

/// What the server says first.
const GREETING: usize = 64;
/// Most bytes of one word.
const WORD_MAX: usize = 3000;
/// How often a session's server speaks unasked, at most and at least.
const PAUSE: std::ops::Range<u64> = 50..1500;
/// The first held session's client, and the first of those that come and go. 198.18.0.0/15 is set aside for benchmarks.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const FIRST_BRIEF: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

/// Whose bytes.
#[derive(Clone, Copy)]
enum From {
    Client,
    Server,
}

/// The bytes of one direction of one session.
#[derive(Clone, Copy)]
struct Stream {
    seed: u64,
    at: u64,
}

impl Stream {
    fn of(client: SocketAddr, from: From) -> Stream {
        let SocketAddr::V4(client) = client else { panic!("clients here have IPv4") };
        let who = u64::from(u32::from(*client.ip())) << 16 | u64::from(client.port());
        Stream { seed: who << 1 | matches!(from, From::Server) as u64, at: 0 }
    }

    /// Byte number `at` (splitmix64 of its place).
    fn byte(&self, at: u64) -> u8 {
        let mut word = (self.seed << 32 ^ at >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31).to_le_bytes()[at as usize & 7]
    }

    fn next(&mut self, count: usize) -> Vec<u8> {
        let bytes = (self.at..self.at + count as u64).map(|at| self.byte(at)).collect();
        self.at += count as u64;
        bytes
    }

    /// Goes on behind these bytes if they are the next ones.
    fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        let wrong = bytes.iter().enumerate().find(|(n, byte)| self.byte(self.at + *n as u64) != **byte);
        if let Some((n, byte)) = wrong {
            let at = self.at + n as u64;
            return Err(format!("byte {at} is {byte:#04x} and not {:#04x}", self.byte(at)));
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// What a session's server has got and sent.
#[derive(Clone, Debug, Default)]
struct Seen {
    got: u64,
    sent: u64,
    wrong: Option<String>,
    over: bool,
}

/// A server that checks what it gets and speaks at random times.
pub struct Talker {
    pub backend: Backend,
    seen: Arc<Mutex<HashMap<SocketAddr, Seen>>>,
}

impl Talker {
    pub fn start() -> Talker {
        let seen: Arc<Mutex<HashMap<SocketAddr, Seen>>> = Arc::default();
        let notes = seen.clone();
        let backend = Backend::start(move |stream, client| {
            if let Some(client) = client {
                talk(&stream, client, &notes);
            }
        });
        Talker { backend, seen }
    }

    fn seen(&self, client: SocketAddr) -> Seen {
        self.seen.lock().expect("nobody panics").get(&client).cloned().unwrap_or_default()
    }
}

fn talk(mut stream: &TcpStream, client: SocketAddr, notes: &Mutex<HashMap<SocketAddr, Seen>>) {
    let (mut own, mut its) = (Stream::of(client, From::Server), Stream::of(client, From::Client));
    let (mut random, mut room) = (Rng::with_seed(own.seed), [0; 4096]);
    let note = |own: &Stream, its: &Stream, wrong: Option<String>, over: bool| {
        let seen = Seen { got: its.at, sent: own.at, wrong, over };
        notes.lock().expect("nobody panics").insert(client, seen);
    };
    let mut say = stream.write_all(&own.next(GREETING));
    loop {
        note(&own, &its, None, say.is_err());
        if say.is_err() {
            return;
        }
        let _ = stream.set_read_timeout(Some(Duration::from_millis(random.u64(PAUSE))));
        match stream.read(&mut room) {
            Ok(0) => return note(&own, &its, None, true),
            Ok(count) => {
                if let Err(wrong) = its.check(&room[..count]) {
                    return note(&own, &its, Some(wrong), true);
                }
                continue;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return note(&own, &its, None, true),
        }
        say = stream.write_all(&own.next(random.usize(1..WORD_MAX)));
    }
}

/// One held session, seen from its client.
pub struct Held {
    stream: TcpStream,
    pub client: SocketAddr,
    own: Stream,
    its: Stream,
    /// It has ended, orderly or not.
    pub ended: Option<String>,
    /// A byte was another one than it had to be.
    pub wrong: Option<String>,
}

impl Held {
    /// A session of the client of this number, when the server has greeted it.
    fn open(to: SocketAddr, client: SocketAddr) -> Result<Held, String> {
        let connection = Client::send_to(to, &header::v2(client, address("192.0.2.1:1"), &[]));
        let (own, its) = (Stream::of(client, From::Client), Stream::of(client, From::Server));
        let mut held = Held { stream: connection.stream, client, own, its, ended: None, wrong: None };
        let mut greeting = [0; GREETING];
        (&held.stream).read_exact(&mut greeting).map_err(|error| format!("no greeting: {error}"))?;
        held.its.check(&greeting)?;
        Ok(held)
    }

    fn is_well(&self) -> bool {
        self.ended.is_none() && self.wrong.is_none()
    }

    /// Says something, and hears all that has come.
    fn step(&mut self, random: &mut Rng) {
        if self.is_well() && random.u8(..) < 64 {
            self.say(random.usize(1..WORD_MAX));
        }
        self.hear();
    }

    /// The socket blocks for reading no longer than it must, and always for writing.
    fn say(&mut self, count: usize) {
        let word = self.own.next(count);
        self.stream.set_nonblocking(false).expect("a flag");
        if let Err(error) = (&self.stream).write_all(&word) {
            self.ended = Some(format!("cannot say anything: {error}"));
        }
    }

    fn hear(&mut self) {
        let mut room = [0; 16 << 10];
        self.stream.set_nonblocking(true).expect("a flag");
        while self.is_well() {
            match (&self.stream).read(&mut room) {
                Ok(0) => self.ended = Some("closed".into()),
                Ok(count) => self.wrong = self.its.check(&room[..count]).err(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.ended = Some(error.to_string()),
            }
        }
    }
}

/// Held sessions, each with its client's address.
pub struct Crowd {
    to: SocketAddr,
    pub held: Vec<Held>,
    opened: u32,
}

/// Threads that speak for all clients.
const VOICES: usize = 4;

impl Crowd {
    /// So many sessions through the relay at `to`.
    pub fn gather(to: SocketAddr, count: usize) -> Crowd {
        let mut crowd = Crowd { to, held: Vec::new(), opened: 0 };
        crowd.fill(count);
        crowd
    }

    /// Opens sessions until there are so many.
    pub fn fill(&mut self, count: usize) {
        while self.held.len() < count {
            let client = (Ipv4Addr::from(u32::from(FIRST) + self.opened), 5000).into();
            self.opened += 1;
            self.held.push(Held::open(self.to, client).unwrap_or_else(|error| panic!("{client}: {error}")));
        }
    }

    /// All talk until `stop` is set.
    pub fn talk(&mut self, stop: &AtomicBool) {
        let each = self.held.len().div_ceil(VOICES).max(1);
        thread::scope(|scope| {
            for (number, some) in self.held.chunks_mut(each).enumerate() {
                scope.spawn(move || {
                    let mut random = Rng::with_seed(number as u64);
                    while !stop.load(Ordering::Relaxed) {
                        some.iter_mut().for_each(|held| held.step(&mut random));
                        thread::sleep(Duration::from_millis(random.u64(1..40)));
                    }
                });
            }
        });
    }

    /// All talk for a time.
    pub fn talk_for(&mut self, time: Duration) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.talk(&stop));
            thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// Takes out the sessions that have ended.
    pub fn take_ended(&mut self) -> Vec<Held> {
        self.held.iter_mut().for_each(Held::hear);
        self.held.extract_if(.., |held| held.ended.is_some()).collect()
    }

    /// Panics unless all live and every byte that was sent either way has arrived as it was.
    pub fn assert_well(&mut self, talker: &Talker) {
        self.held.iter_mut().for_each(|held| held.say(WORD_MAX));
        let settled = |held: &mut Held| {
            held.hear();
            let seen = talker.seen(held.client);
            !held.is_well() || seen.over || (seen.got == held.own.at && seen.sent == held.its.at)
        };
        // The servers go on speaking: each has to be found at rest once.
        let mut left: Vec<&mut Held> = self.held.iter_mut().collect();
        let all = wait_until(PATIENCE, || {
            left.retain_mut(|held| !settled(held));
            left.is_empty()
        });
        let rest: Vec<String> = left.iter().map(|held| state(held, &talker.seen(held.client))).take(5).collect();
        assert!(all, "{} sessions have not got everything: {rest:#?}", left.len());
        let ill = |held: &&Held| !held.is_well() || talker.seen(held.client).over;
        let ill: Vec<String> =
            self.held.iter().filter(ill).map(|held| state(held, &talker.seen(held.client))).collect();
        let (count, all) = (ill.len(), self.held.len());
        assert!(ill.is_empty(), "{count} of {all} sessions are not well: {:#?}", &ill[..count.min(5)]);
    }

    /// Panics if a byte of a session, be it over or not, was another one than it had to be.
    pub fn assert_no_byte_wrong(&self, talker: &Talker) {
        let wrong: Vec<String> = self.held.iter().filter_map(|held| wrong(held, talker)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Bytes that have gone through the sessions, both ways.
    pub fn bytes(&self) -> u64 {
        self.held.iter().map(|held| held.own.at + held.its.at).sum()
    }
}

/// What is wrong in a session's bytes, on either side.
pub fn wrong(held: &Held, talker: &Talker) -> Option<String> {
    let theirs = talker.seen(held.client).wrong;
    held.wrong.clone().or(theirs).map(|wrong| format!("{}: {wrong}", held.client))
}

fn state(held: &Held, seen: &Seen) -> String {
    let Held { client, own, its, ended, wrong, .. } = held;
    format!("{client}: sent {}, got {}, ended {ended:?}, wrong {wrong:?}; its server: {seen:?}", own.at, its.at)
}

/// Sessions that come and go, so many a second, until `stop` is set: how many there were, and what was wrong.
pub fn come_and_go(to: SocketAddr, rate: u32, stop: &AtomicBool) -> (u64, Vec<String>) {
    const CLIENTS: usize = 16;
    let (next, begun, wrong) = (AtomicU64::new(0), Instant::now(), Mutex::new(Vec::new()));
    let client = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = begun + Duration::from_secs(1) * number as u32 / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Err(error) = brief(to, number) {
                wrong.lock().expect("nobody panics").push(format!("session {number}: {error}"));
            }
        }
    };
    thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(client))));
    (next.into_inner(), wrong.into_inner().expect("nobody panics"))
}

/// A session that says something and ends.
fn brief(to: SocketAddr, number: u64) -> Result<(), String> {
    let client = (Ipv4Addr::from(u32::from(FIRST_BRIEF) + (number % 65_536) as u32), 1024 + (number / 65_536) as u16);
    let mut held = Held::open(to, client.into())?;
    held.say(100);
    held.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
    let mut rest = Vec::new();
    (&held.stream).read_to_end(&mut rest).map_err(|error| format!("after its end: {error}"))?;
    held.its.check(&rest)
}

//! A scripted kernel: clients, a backlog, reads in flight, and a clock that only moves when somebody waits.
//!
//! It completes operations in any legal order and with every error that a kernel may report, as the seed decides. It keeps
//! book of every socket, and writes down what must not happen.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::secured;
use crate::dispatch::TlsSession;
use crate::engine::acceptor::LONG_SILENCE;
use crate::engine::fault::{self, Fault};
use crate::ring::{Completion, Driver, Errno, Newcomer, ReadMode, Readiness, SLOT_BYTES, Streams};

/// How late a deadline may be noticed: the longest the scripted kernel oversleeps.
pub const SLACK: Duration = Duration::from_millis(2);
/// Size of a longer buffer.
pub const LONG_BYTES: usize = 4096 + SLOT_BYTES as usize;
/// Longer buffers at once: few, so that they run out.
const LONG_MAX: usize = 2;
/// Connections per thousand that run into each kind of trouble.
const TROUBLE: u32 = 15;

/// One schedule in so many has a kernel that completes what it can while it is asked, as the driver on epoll does.
const EAGER: u64 = 5;

/// How many accepts outside the ring may fail one after the other.
const FAILED_SWEEPS_MAX: u32 = 3;
/// How an accept may fail; the first four for want of descriptors or memory.
const ACCEPT_ERRORS: [i32; 7] =
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ECONNABORTED, libc::ECANCELED, libc::EINTR];

/// After one of them a socket accepts no more.
const FATAL_ERRORS: [i32; 2] = [libc::EBADF, libc::EINVAL];
/// One schedule in so many has a ring that breaks, and one in so many a socket that accepts no more.
const FAULTS: u64 = 4;
/// Waits among which a ring breaks.
const BREAKS_WITHIN: usize = 60;
/// Until another ring takes its place.
const MENDING: Duration = Duration::from_millis(50);

const NO_RELAY: &str = "no pool here is a relay";

/// A client's end of TLS, in memory.
pub trait Peer {
    /// Takes what the server has sent; gives what the client says then.
    fn hear(&mut self, bytes: &[u8]) -> Vec<u8>;

    /// What it has said in its session, in all and with an end; `None` if it has not come to that.
    fn said(&self) -> Option<&[u8]>;

    /// Whether it does what a client should.
    fn is_honest(&self) -> bool;

    /// Whether its session does not stand yet.
    fn is_handshaking(&self) -> bool;

    /// Whether it has heard what it could not make sense of, or was told that it is not understood.
    fn has_failed(&self) -> bool;
}

/// What a client does.
pub struct Client {
    pub listener: u32,
    pub peer: SocketAddr,
    /// When it connects.
    pub connects: Duration,
    pub stream: Vec<u8>,
    /// How many bytes have arrived by when, ascending.
    pub arrivals: Vec<(Duration, usize)>,
    pub end: End,
    /// By TLS: what it says first is in `stream`, and what it says in answer is added to it.
    pub tls: Option<Box<dyn Peer>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Stays,
    Closes(Duration),
    Resets(Duration),
}

impl Client {
    fn arrived(&self, now: Duration) -> usize {
        self.arrivals.iter().rev().find(|(at, _)| *at <= now).map_or(0, |(_, bytes)| *bytes)
    }

    fn has_reset(&self, now: Duration) -> bool {
        matches!(self.end, End::Resets(at) if at <= now)
    }

    fn has_closed(&self, now: Duration) -> bool {
        matches!(self.end, End::Closes(at) if at <= now)
    }

    fn next_event(&self, now: Duration) -> Option<Duration> {
        let end = match self.end {
            End::Stays => None,
            End::Closes(at) | End::Resets(at) => Some(at),
        };
        let times = self.arrivals.iter().map(|(at, _)| *at).chain(end).chain([self.connects]);
        times.filter(|&at| at > now).min()
    }
}

/// The book of one accepted connection.
#[derive(Debug)]
pub struct Book {
    pub client: usize,
    pub accepted: Duration,
    /// Bytes taken out of the socket.
    taken: usize,
    pub closed: u32,
    pub dispatched: u32,
    /// How often it was handed over to another process.
    pub handed_over: u32,
    /// Since when its handshake is awaited.
    shaking: Option<Duration>,
}

/// The watch of a socket.
#[derive(Debug)]
struct Watch {
    place: u32,
    generation: u32,
    book: usize,
    /// Bytes that have arrived by the last time that something was told.
    told: usize,
    told_end: bool,
    told_room: bool,
    /// The kernel goes on with it.
    armed: bool,
    /// Until when there is no room to send.
    full_until: Option<Duration>,
}

#[derive(Debug)]
struct Flight {
    generation: u32,
    book: usize,
    at: usize,
    mode: ReadMode,
    cancelled: bool,
}

#[derive(Debug, Default)]
struct Slot {
    data: Vec<u8>,
    flight: Option<Flight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Off,
    Armed,
    Cancelled,
}

#[derive(Debug)]
struct Listener {
    arm: Arm,
    open: bool,
    backlog: VecDeque<usize>,
    /// It accepts nobody any more.
    useless: bool,
    /// From accept to the earliest and the latest legal end of a silent or unfinished connection.
    limits: Option<(Duration, Duration)>,
}

pub struct World {
    pub rng: Rng,
    /// What can be completed is completed at once: it is told in the same turn.
    eager: bool,
    /// Decides about accepts outside the ring: apart, so that seeds keep the schedule that they had before those failed.
    sweeps: Rng,
    /// How many of them have failed one after the other.
    failed_sweeps: u32,
    base: Instant,
    pub now: Duration,
    /// Decides about rings that break and sockets that fail: apart for the same reason.
    faults: Rng,
    /// Waits until the ring breaks.
    breaks_in: Option<usize>,
    /// Whether a socket fails when it is its turn.
    fails_fatally: bool,
    /// Accepted by a ring that broke before it could tell.
    lost: u64,
    pub clients: Vec<Client>,
    connected: Vec<bool>,
    pub books: Vec<Book>,
    listeners: Vec<Listener>,
    slots: Vec<Slot>,
    watches: Vec<Watch>,
    /// Decides about TLS.
    secured: Rng,
    /// Threads have something to do that the ring will be woken for.
    pub computing: bool,
    /// The ring has failed, and no other turns yet.
    mending: bool,
    /// Completions that are ready: told at the next wait.
    ready: VecDeque<Told>,
    pub violations: Vec<String>,
    /// Only deadlines end connections: nothing is shed, and no drain has begun.
    pub only_deadlines: bool,
    /// The last wait told that descriptors or memory have run out: who has been silent for long may have to make room.
    scarcity: bool,
    /// Connections in the pools' queues that no worker was told of.
    pub silent: usize,
    /// A hash of everything that was told and asked, to compare two runs of one seed.
    pub trace: u64,
    longs: usize,
}

/// A completion before it gets its socket.
#[derive(Debug)]
enum Told {
    Accepted { listener: u32, book: usize, peer: Result<SocketAddr, Errno>, armed: bool },
    AcceptFailed { listener: u32, errno: Errno, armed: bool },
    Phantom { listener: u32, armed: bool },
    Read { slot: u32, generation: u32, result: Result<u32, Errno> },
    Ready { place: u32, generation: u32, readiness: Readiness, armed: bool },
    Woken,
}

/// A socket of the scripted kernel; dropping it closes it.
pub struct Socket {
    pub book: usize,
    world: Rc<RefCell<World>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        world.close(self.book);
        if fault::present(Fault::DoubleClose) {
            world.close(self.book);
        }
    }
}

impl World {
    pub fn new(seed: u64, slots: u32, clients: Vec<Client>, limits: Vec<Option<(Duration, Duration)>>) -> World {
        let listener =
            |limits| Listener { arm: Arm::Off, open: true, backlog: VecDeque::new(), useless: false, limits };
        let mut faults = Rng::with_seed(seed.rotate_left(16));
        World {
            rng: Rng::with_seed(seed),
            eager: seed % EAGER == EAGER - 1,
            sweeps: Rng::with_seed(seed.rotate_left(32)),
            failed_sweeps: 0,
            breaks_in: (faults.u64(..FAULTS) == 0).then(|| faults.usize(..BREAKS_WITHIN)),
            fails_fatally: faults.u64(..FAULTS) == 0,
            faults,
            lost: 0,
            base: Instant::now(),
            now: Duration::ZERO,
            connected: vec![false; clients.len()],
            clients,
            books: Vec::new(),
            listeners: limits.into_iter().map(listener).collect(),
            slots: (0..slots).map(|_| Slot { data: vec![0; SLOT_BYTES as usize], flight: None }).collect(),
            watches: Vec::new(),
            secured: Rng::with_seed(seed.rotate_left(24)),
            computing: false,
            mending: false,
            ready: VecDeque::new(),
            violations: Vec::new(),
            only_deadlines: false,
            scarcity: false,
            silent: 0,
            trace: 0,
            longs: 0,
        }
    }

    /// Whether everything that clients will ever do has happened.
    pub fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| client.next_event(self.now).is_none())
    }

    /// Another process listens on the same sockets, with a ring of its own, after the one before has ended.
    pub fn reopen(&mut self) {
        for listener in &mut self.listeners {
            listener.open = true;
        }
    }

    /// From now on the ring does not break: nothing would take its place.
    pub fn hold(&mut self) {
        self.breaks_in = None;
    }

    /// The ring is gone, with everything that the kernel did for it. What it would have told is lost, too.
    pub fn break_down(&mut self) {
        for listener in &mut self.listeners {
            listener.arm = Arm::Off;
        }
        for slot in &mut self.slots {
            slot.flight = None;
            slot.data.truncate(SLOT_BYTES as usize);
        }
        self.longs = 0;
        self.watches.clear();
        self.mending = true;
        for told in std::mem::take(&mut self.ready) {
            if let Told::Accepted { book, .. } = told {
                self.lost += 1;
                self.close(book);
            }
        }
        self.now += MENDING;
    }

    /// Whether a listening socket has failed for good.
    pub fn is_useless(&self, listener: usize) -> bool {
        self.listeners[listener].useless
    }

    /// Connections that the engine was told of.
    pub fn told(&self) -> u64 {
        self.books.len() as u64 - self.lost
    }

    /// Whether the ring breaks at this wait.
    fn breaks(&mut self) -> bool {
        match &mut self.breaks_in {
            Some(0) => self.breaks_in.take().is_some(),
            Some(waits) => {
                *waits -= 1;
                false
            }
            None => false,
        }
    }

    /// Checks a connection that one process hands over to another: whose it is, when its time is up, and what was taken
    /// out of its socket.
    pub fn check_handed_over(&mut self, number: usize, deadline: Instant, bytes: &[u8]) {
        let book = &mut self.books[number];
        book.handed_over += 1;
        let client = &self.clients[book.client];
        let (earliest, latest) = self.listeners[client.listener as usize].limits.expect("only headers are awaited");
        let (since, deadline) = (book.accepted, deadline - self.base);
        let in_time = (since + earliest..=since + latest + SLACK).contains(&deadline);
        if book.handed_over > 1 || !in_time || client.stream[..book.taken] != *bytes {
            self.violations
                .push(format!("connection {number} is handed over at fault: {book:?}, {deadline:?}, {bytes:?}"));
        }
    }

    /// Whether a drain ends handshakes in its time.
    pub fn lets_handshakes_go(&mut self) -> bool {
        self.clients.iter().any(|client| client.tls.is_some()) && self.secured.bool()
    }

    /// Whether a connection is one of a client by TLS.
    pub fn is_by_tls(&self, book: usize) -> bool {
        self.clients[self.books[book].client].tls.is_some()
    }

    /// Checks a session that a pool gets: whoever has it reads, with what is in the socket, what its client has said.
    pub fn check_session(&mut self, number: usize, mut session: Box<dyn TlsSession>) {
        let book = &mut self.books[number];
        let client = &self.clients[book.client];
        let mut rest = &client.stream[std::mem::replace(&mut book.taken, client.stream.len())..];
        let (mut heard, mut room) = (Vec::new(), [0; 1000]);
        let whole = loop {
            match session.read(&mut room) {
                Ok(0) => break true,
                Ok(count) => heard.extend_from_slice(&room[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !rest.is_empty() => {
                    let (next, behind) = rest.split_at(rest.len().min(500));
                    rest = behind;
                    if session.feed(next).is_err() {
                        break false;
                    }
                }
                Err(_) => break false,
            }
        };
        // One that has closed before the server's last word has said nothing.
        let said = client.tls.as_ref().and_then(|peer| peer.said());
        if said != whole.then_some(&heard[..]) || (!whole && !heard.is_empty()) {
            self.violations.push(format!("{} bytes of the session of connection {number}, {whole}", heard.len()));
        }
    }

    fn watch(&mut self, place: u32, generation: u32, book: usize) {
        self.note(5, place.into());
        self.books[book].shaking.get_or_insert(self.now);
        let told = self.books[book].taken;
        let fresh =
            Watch { place, generation, book, told, told_end: false, told_room: false, armed: true, full_until: None };
        match self.watches.iter_mut().find(|watch| (watch.place, watch.generation) == (place, generation)) {
            None => self.watches.push(fresh),
            Some(ended) if !ended.armed && ended.book == book => *ended = fresh,
            Some(_) => self.violations.push(format!("connection {book} is watched twice")),
        }
        if self.watches.len() > self.slots.len() {
            self.violations.push(format!("{} handshakes in {} places", self.watches.len(), self.slots.len()));
        }
    }

    fn unwatch(&mut self, place: u32, generation: u32) {
        self.note(6, place.into());
        let known = |watch: &Watch| (watch.place, watch.generation) == (place, generation);
        let Some(index) = self.watches.iter().position(known) else {
            return self.violations.push(format!("nothing is watched at {place}"));
        };
        let book = self.watches.swap_remove(index).book;
        self.check_handshake(book);
    }

    /// A handshake is awaited no longer than it may take.
    fn check_handshake(&mut self, book: usize) {
        if self.books[book].shaking.is_some_and(|since| self.now > since + secured::TIMEOUT + SLACK) {
            self.violations.push(format!("the handshake of connection {book} outlives its deadline at {:?}", self.now));
        }
    }

    /// Whether there is something to tell of a watch, and then what.
    fn news(&self, watch: &Watch) -> Option<(usize, Readiness)> {
        let book = &self.books[watch.book];
        let client = &self.clients[book.client];
        let (arrived, broken) = (client.arrived(self.now), client.has_reset(self.now));
        let ended = broken || client.has_closed(self.now);
        let writable = broken || watch.full_until.is_none_or(|until| until <= self.now);
        let is_new = arrived > watch.told || (ended && !watch.told_end) || (writable && !watch.told_room);
        let readable = arrived > book.taken || ended;
        (watch.armed && is_new).then_some((arrived, Readiness { readable, writable, ended, broken }))
    }

    fn run_watches(&mut self) {
        for index in 0..self.watches.len() {
            let Some((arrived, readiness)) = self.news(&self.watches[index]) else { continue };
            if self.secured.u8(..4) == 0 {
                continue;
            }
            let armed = self.secured.u32(..1000) >= TROUBLE;
            let watch = &mut self.watches[index];
            (watch.told, watch.told_end, watch.told_room) = (arrived, readiness.ended, readiness.writable);
            watch.armed = armed;
            let Watch { place, generation, .. } = *watch;
            self.ready.push_back(Told::Ready { place, generation, readiness, armed });
        }
    }

    fn receive(&mut self, number: usize, room: &mut [u8]) -> Result<usize, Errno> {
        let book = &mut self.books[number];
        let client = &self.clients[book.client];
        let there = client.arrived(self.now).saturating_sub(book.taken);
        if self.secured.u32(..1000) < TROUBLE {
            return Err(Errno(libc::EINTR));
        }
        match there.min(room.len()) {
            0 if client.has_reset(self.now) => Err(Errno(libc::ECONNRESET)),
            0 if client.has_closed(self.now) => Ok(0),
            0 => Err(Errno(libc::EAGAIN)),
            count => {
                room[..count].copy_from_slice(&client.stream[book.taken..book.taken + count]);
                book.taken += count;
                Ok(count)
            }
        }
    }

    fn send(&mut self, number: usize, bytes: &[u8]) -> Result<usize, Errno> {
        let index = self.books[number].client;
        let now = self.now;
        if self.clients[index].has_reset(now) {
            return Err(Errno(if self.secured.bool() { libc::ECONNRESET } else { libc::EPIPE }));
        }
        let watch = self.watches.iter_mut().find(|watch| watch.book == number);
        let is_full = |until: Option<Duration>| until.is_some_and(|until| until > now);
        let runs_full = self.secured.u8(..6) == 0;
        if let Some(watch) = watch
            && (is_full(watch.full_until) || runs_full)
        {
            if !is_full(watch.full_until) {
                watch.full_until = Some(now + Duration::from_micros(self.secured.u64(1..3000)));
            }
            watch.told_room = false;
            return Err(Errno(libc::EAGAIN));
        }
        // Not by the length, which may differ from run to run.
        let count = bytes.len().min([1, 50, 700, usize::MAX][self.secured.usize(..4)]);
        if !self.clients[index].has_closed(now) {
            self.answer(index, &bytes[..count]);
        }
        Ok(count)
    }

    /// A client hears something, and says what it says then, in pieces.
    fn answer(&mut self, index: usize, bytes: &[u8]) {
        let client = &mut self.clients[index];
        let Some(peer) = &mut client.tls else { return };
        let said = peer.hear(bytes);
        if peer.is_honest() && peer.has_failed() {
            self.violations.push(format!("client {index} hears what is no answer to it"));
        }
        let (mut at, mut arrived) = *client.arrivals.last().unwrap_or(&(Duration::ZERO, 0));
        at = at.max(self.now);
        // Who has stopped amid what it had to say goes on with nothing.
        let stopped = arrived < client.stream.len();
        client.stream.extend_from_slice(&said);
        while !stopped && arrived < client.stream.len() {
            at += Duration::from_micros(self.secured.u64(..2000));
            if self.secured.u8(..30) == 0 || matches!(client.end, End::Closes(end) | End::Resets(end) if end <= at) {
                break;
            }
            arrived = (arrived + self.secured.usize(1..=400)).min(client.stream.len());
            client.arrivals.push((at, arrived));
        }
    }

    pub fn wake(&mut self) {
        self.ready.push_back(Told::Woken);
    }

    /// What must hold when everything has ended.
    pub fn check_end(&mut self) {
        for (slot, state) in self.slots.iter().enumerate() {
            if state.flight.is_some() {
                self.violations.push(format!("slot {slot} has a read in flight at the end"));
            }
        }
        if self.longs != 0 {
            self.violations.push(format!("{} longer buffers were not given back", self.longs));
        }
        if !self.watches.is_empty() {
            self.violations.push(format!("watches at the end: {:?}", self.watches));
        }
        for (number, book) in self.books.iter().enumerate() {
            if book.closed != 1 {
                self.violations.push(format!("connection {number} was closed {} times: {book:?}", book.closed));
            }
        }
        for (client, connected) in self.connected.iter().enumerate() {
            let useless = self.listeners[self.clients[client].listener as usize].useless;
            if *connected && !useless && !self.books.iter().any(|book| book.client == client) {
                self.violations.push(format!("client {client} was never accepted"));
            }
        }
    }

    fn close(&mut self, book: usize) {
        self.note(1, book as u64);
        self.books[book].closed += 1;
        if self.slots.iter().any(|slot| slot.flight.as_ref().is_some_and(|flight| flight.book == book)) {
            self.violations.push(format!("connection {book} was closed under a read in flight"));
        }
        if self.watches.iter().any(|watch| watch.book == book) {
            self.violations.push(format!("connection {book} was closed under a watch"));
        }
        self.check_not_refused_early(book);
    }

    /// Nobody who does what a client should is given up in a handshake before its time.
    fn check_not_refused_early(&mut self, number: usize) {
        let book = &self.books[number];
        let client = &self.clients[book.client];
        let (Some(since), Some(peer)) = (book.shaking, &client.tls) else { return };
        let left = client.has_closed(self.now) || client.has_reset(self.now);
        let served = book.dispatched > 0 || !peer.is_handshaking();
        let early = self.now < since + secured::TIMEOUT;
        if self.only_deadlines && !self.mending && peer.is_honest() && !left && !served && early {
            self.violations.push(format!("the handshake of connection {number} is given up at {:?}", self.now));
        }
    }

    fn note(&mut self, what: u64, which: u64) {
        self.trace =
            (self.trace ^ (what << 56 | which << 32 | self.now.as_micros() as u64)).wrapping_mul(0x100_0000_01b3);
    }

    fn trouble(&mut self) -> bool {
        self.rng.u32(..1000) < TROUBLE
    }

    fn connect(&mut self) {
        for client in 0..self.clients.len() {
            let Client { connects, listener, .. } = self.clients[client];
            if connects <= self.now && !self.connected[client] && self.listeners[listener as usize].open {
                self.connected[client] = true;
                self.listeners[listener as usize].backlog.push_back(client);
            }
        }
    }

    fn book(&mut self, client: usize) -> (usize, Result<SocketAddr, Errno>) {
        self.books.push(Book {
            client,
            accepted: self.now,
            taken: 0,
            closed: 0,
            dispatched: 0,
            handed_over: 0,
            shaking: None,
        });
        let Client { peer, .. } = self.clients[client];
        let gone = self.clients[client].has_reset(self.now) && self.rng.bool();
        (self.books.len() - 1, if gone { Err(Errno(libc::ENOTCONN)) } else { Ok(peer) })
    }

    /// Completions of one listener's accept.
    fn run_accept(&mut self, listener: u32) {
        let index = listener as usize;
        if self.listeners[index].arm == Arm::Off {
            return;
        }
        if self.trouble() {
            return self.fail_accept(listener);
        }
        if self.fails_fatally && self.faults.u32(..1000) < TROUBLE {
            return self.fail_for_ever(listener);
        }
        for _ in 0..self.rng.usize(..4) {
            let Some(client) = self.listeners[index].backlog.pop_front() else { break };
            let (book, peer) = self.book(client);
            // The kernel may end the multishot together with a connection: its completion queue was full.
            let armed = !self.trouble();
            self.ready.push_back(Told::Accepted { listener, book, peer, armed });
            if !armed {
                self.listeners[index].arm = Arm::Off;
                return;
            }
        }
        if self.listeners[index].arm == Arm::Cancelled && self.rng.bool() {
            self.listeners[index].arm = Arm::Off;
            let errno = Errno(libc::ECANCELED);
            self.ready.push_back(Told::AcceptFailed { listener, errno, armed: false });
        }
    }

    fn fail_accept(&mut self, listener: u32) {
        let armed = self.rng.u8(..4) == 0;
        if !armed {
            self.listeners[listener as usize].arm = Arm::Off;
        }
        let told = match self.rng.usize(..=ACCEPT_ERRORS.len()) {
            7 => Told::Phantom { listener, armed },
            which => Told::AcceptFailed { listener, errno: Errno(ACCEPT_ERRORS[which]), armed },
        };
        self.scarcity |= matches!(told, Told::AcceptFailed { errno, .. } if ACCEPT_ERRORS[..4].contains(&errno.0));
        self.ready.push_back(told);
    }

    /// The socket is of no use any more; at most one a schedule.
    fn fail_for_ever(&mut self, listener: u32) {
        self.fails_fatally = false;
        let state = &mut self.listeners[listener as usize];
        (state.arm, state.useless) = (Arm::Off, true);
        let errno = Errno(*self.faults.choice(&FATAL_ERRORS).expect("there are some"));
        self.ready.push_back(Told::AcceptFailed { listener, errno, armed: false });
    }

    /// The completion of one slot's read, if it is time.
    fn run_read(&mut self, slot: usize) {
        let Some(flight) = &self.slots[slot].flight else { return };
        let client = &self.clients[self.books[flight.book].client];
        let there = client.arrived(self.now).saturating_sub(self.books[flight.book].taken);
        let (reset, closed, cancelled) = (client.has_reset(self.now), client.has_closed(self.now), flight.cancelled);
        if cancelled && (there == 0 || self.rng.bool()) {
            // The cancel is slow now and then.
            if self.rng.u8(..3) > 0 {
                self.complete(slot, Err(Errno(libc::ECANCELED)));
            }
        } else if there > 0 && self.rng.u8(..4) > 0 {
            let count = self.take(slot, there);
            self.complete(slot, Ok(count));
        } else if reset {
            self.complete(slot, Err(Errno(libc::ECONNRESET)));
        } else if closed && there == 0 {
            self.complete(slot, Ok(0));
        } else if self.trouble() {
            let errno = if self.rng.bool() { libc::EINTR } else { libc::EAGAIN };
            self.complete(slot, Err(Errno(errno)));
        }
    }

    /// Moves bytes into the slot's buffer: as many as fit, or fewer.
    fn take(&mut self, slot: usize, there: usize) -> u32 {
        let flight = self.slots[slot].flight.as_ref().expect("the caller has looked");
        let (at, mode, book) = (flight.at, flight.mode, flight.book);
        let room = self.slots[slot].data.len() - at;
        let most = match mode {
            ReadMode::Consume(limit) => there.min(room).min(limit as usize),
            ReadMode::Take | ReadMode::Peek => there.min(room),
        };
        let count = if self.rng.bool() { most } else { self.rng.usize(1..=most) };
        let from = self.books[book].taken;
        let bytes = self.clients[self.books[book].client].stream[from..from + count].to_vec();
        self.slots[slot].data[at..at + count].copy_from_slice(&bytes);
        if mode != ReadMode::Peek {
            self.books[book].taken += count;
        }
        count as u32
    }

    fn complete(&mut self, slot: usize, result: Result<u32, Errno>) {
        let flight = self.slots[slot].flight.take().expect("the caller has looked");
        self.ready.push_back(Told::Read { slot: slot as u32, generation: flight.generation, result });
    }

    /// A completion that belongs to a former user of a slot.
    fn run_stale(&mut self) {
        if self.trouble() {
            let slot = self.rng.usize(..self.slots.len());
            let current = self.slots[slot].flight.as_ref().map(|flight| flight.generation);
            let generation = self.rng.u32(1 << 20..1 << 21);
            if current != Some(generation) {
                self.ready.push_back(Told::Read { slot: slot as u32, generation, result: Ok(1) });
            }
        }
    }

    fn run(&mut self) {
        self.connect();
        let listeners = self.listeners.len();
        let mut order: Vec<usize> = (0..listeners + self.slots.len()).collect();
        self.rng.shuffle(&mut order);
        for which in order {
            if which < listeners { self.run_accept(which as u32) } else { self.run_read(which - listeners) }
        }
        self.run_watches();
        self.run_stale();
    }

    /// Whether an operation could complete without any client doing anything.
    fn is_restless(&self) -> bool {
        let accepting = |listener: &Listener| match listener.arm {
            Arm::Off => false,
            Arm::Armed => !listener.backlog.is_empty(),
            Arm::Cancelled => true,
        };
        let reading = |flight: &Flight| {
            let book = &self.books[flight.book];
            let client = &self.clients[book.client];
            let there = client.arrived(self.now) > book.taken;
            flight.cancelled || there || client.has_reset(self.now) || client.has_closed(self.now)
        };
        let mut flights = self.slots.iter().filter_map(|slot| slot.flight.as_ref());
        let news = self.watches.iter().any(|watch| self.news(watch).is_some());
        self.listeners.iter().any(accepting) || flights.any(reading) || news
    }

    fn check_deadlines(&mut self) {
        for index in 0..self.watches.len() {
            self.check_handshake(self.watches[index].book);
        }
        for slot in &self.slots {
            let Some(flight) = slot.flight.as_ref().filter(|flight| !flight.cancelled) else { continue };
            let book = &self.books[flight.book];
            let listener = &self.listeners[self.clients[book.client].listener as usize];
            if listener.limits.is_some_and(|(_, latest)| self.now > book.accepted + latest + SLACK) {
                self.violations.push(format!("connection {} outlives its deadline at {:?}", flight.book, self.now));
            }
        }
    }

    fn check_not_early(&mut self, book: usize, slot: usize) {
        let Book { client, accepted, taken, .. } = self.books[book];
        let limits = self.listeners[self.clients[client].listener as usize].limits;
        // For those in the backlogs, or for those who need a longer buffer.
        let has_what_is_scarce = (self.scarcity && taken == 0) || self.slots[slot].data.len() == LONG_BYTES;
        let makes_room = has_what_is_scarce && self.now >= accepted + LONG_SILENCE;
        let early = limits.is_some_and(|(earliest, _)| self.now < accepted + earliest);
        if self.only_deadlines && early && !makes_room {
            self.violations.push(format!("connection {book} was given up at {:?}, before its time", self.now));
        }
    }

    fn wait(&mut self, limit: Option<Duration>) {
        // Whatever is left after the last wait must have been cancelled by then if its time was up.
        self.check_deadlines();
        if self.silent > 0 {
            self.violations.push(format!("the ring waits and {} connections with it: no worker knows", self.silent));
        }
        self.mending = false;
        let mut until = self.now + limit.unwrap_or(Duration::from_secs(5));
        if self.computing {
            until = until.min(self.now + Duration::from_micros(self.secured.u64(100..5000)));
        }
        self.scarcity = false;
        loop {
            self.run();
            if !self.ready.is_empty() || self.now >= until || self.trouble() {
                break;
            }
            let room = self.watches.iter().filter_map(|watch| watch.full_until).filter(|at| *at > self.now);
            let next = self.clients.iter().filter_map(|client| client.next_event(self.now)).chain(room).min();
            let next = next.unwrap_or(until);
            // What the kernel could complete already may come at any time, not only when a client moves.
            let soon = Duration::from_micros(self.rng.u64(100..5000));
            let soon = if self.is_restless() { self.now + soon } else { until };
            self.now = next.min(soon).min(until);
        }
        self.now += Duration::from_micros(self.rng.u64(..SLACK.as_micros() as u64));
    }
}

/// The scripted ring.
pub struct Script {
    world: Rc<RefCell<World>>,
    /// The slots' bytes as the engine may see them: copied at each completion.
    seen: Vec<Vec<u8>>,
}

impl Script {
    pub fn new(world: Rc<RefCell<World>>) -> Script {
        let slots = world.borrow().slots.len();
        Script { world, seen: vec![Vec::new(); slots] }
    }

    fn socket(&self, book: usize) -> Socket {
        Socket { book, world: self.world.clone() }
    }
}

/// Handshakes, and nothing else: nothing is relayed here, `engine::relay` has a world of its own.
impl Streams for Script {
    type Socket = Socket;

    fn connect(&mut self, _: SocketAddr, _: Option<IpAddr>) -> Result<Socket, Errno> {
        unreachable!("{NO_RELAY}")
    }

    fn pair(&mut self) -> Result<(Socket, Socket), Errno> {
        unreachable!("{NO_RELAY}")
    }

    fn connected(&self, _: &Socket) -> Result<(), Errno> {
        unreachable!("{NO_RELAY}")
    }

    fn watch(&mut self, place: u32, generation: u32, socket: &Socket) {
        self.world.borrow_mut().watch(place, generation, socket.book);
    }

    fn unwatch(&mut self, place: u32, generation: u32) {
        self.world.borrow_mut().unwatch(place, generation);
    }

    fn receive(&mut self, socket: &Socket, room: &mut [u8]) -> Result<usize, Errno> {
        self.world.borrow_mut().receive(socket.book, room)
    }

    fn send(&mut self, socket: &Socket, bytes: &[u8], _: bool) -> Result<usize, Errno> {
        self.world.borrow_mut().send(socket.book, bytes)
    }

    fn shutdown(&mut self, _: &Socket) {
        unreachable!("{NO_RELAY}")
    }

    fn reset(&mut self, _: &Socket) {
        unreachable!("{NO_RELAY}")
    }

    fn keep_alive(&mut self, _: &Socket) {
        unreachable!("{NO_RELAY}")
    }

    fn has_unsent(&self, _: &Socket) -> bool {
        unreachable!("{NO_RELAY}")
    }

    fn local(&self, _: &Socket) -> Option<SocketAddr> {
        unreachable!("{NO_RELAY}")
    }
}

impl Driver for Script {
    type Listener = u32;

    fn now(&self) -> Instant {
        let world = self.world.borrow();
        world.base + world.now
    }

    fn accept(&mut self, listener: u32) {
        let mut world = self.world.borrow_mut();
        world.note(2, listener.into());
        let state = &mut world.listeners[listener as usize];
        let legal = state.open && state.arm == Arm::Off && !state.useless;
        state.arm = Arm::Armed;
        if !legal {
            world.violations.push(format!("listener {listener} was armed twice or after its end"));
        }
    }

    fn cancel_accept(&mut self, listener: u32) {
        let mut world = self.world.borrow_mut();
        let state = &mut world.listeners[listener as usize];
        if state.arm == Arm::Armed {
            state.arm = Arm::Cancelled;
            if world.eager {
                world.run_accept(listener);
            }
        }
    }

    fn accept_now(&mut self, listener: u32) -> Result<Option<Newcomer<Socket>>, Errno> {
        let (book, peer) = {
            let mut world = self.world.borrow_mut();
            // Often: few schedules have anybody in a backlog that is swept. Not for ever: it must not outlast the grace.
            let fails = world.sweeps.bool() && world.failed_sweeps < FAILED_SWEEPS_MAX;
            world.failed_sweeps = if fails { world.failed_sweeps + 1 } else { 0 };
            if fails {
                return Err(Errno(*world.sweeps.choice(&ACCEPT_ERRORS).expect("there are some")));
            }
            let Some(client) = world.listeners[listener as usize].backlog.pop_front() else { return Ok(None) };
            world.book(client)
        };
        Ok(Some((self.socket(book), peer)))
    }

    fn peek<'b>(&self, socket: &Socket, room: &'b mut [u8]) -> &'b [u8] {
        let world = self.world.borrow();
        let client = &world.clients[world.books[socket.book].client];
        let count = client.arrived(world.now).min(room.len());
        room[..count].copy_from_slice(&client.stream[..count]);
        &room[..count]
    }

    fn open_listener(&mut self, _: u32, _: u32) {
        unreachable!("listeners stay as they are here")
    }

    fn close_listener(&mut self, listener: u32) {
        let mut world = self.world.borrow_mut();
        let state = &mut world.listeners[listener as usize];
        state.open = false;
        let legal = state.arm == Arm::Off && (state.backlog.is_empty() || state.useless);
        if !legal {
            world.violations.push(format!("listener {listener} was closed over an accept or a backlog"));
        }
    }

    fn read(&mut self, slot: u32, generation: u32, socket: &Socket, at: u32, mode: ReadMode) {
        let mut world = self.world.borrow_mut();
        world.note(3, slot.into());
        let state = &mut world.slots[slot as usize];
        let legal = state.flight.is_none() && (at as usize) < state.data.len();
        state.flight = Some(Flight { generation, book: socket.book, at: at as usize, mode, cancelled: false });
        if !legal {
            world.violations.push(format!("slot {slot}: a second read, or one without room"));
        }
        if world.eager {
            world.run_read(slot as usize);
        }
    }

    fn cancel_read(&mut self, slot: u32, generation: u32) {
        let mut world = self.world.borrow_mut();
        world.note(4, slot.into());
        // A read whose completion is ready cannot be cancelled any more (EALREADY, ENOENT): nothing happens then.
        if let Some(flight) =
            world.slots[slot as usize].flight.as_mut().filter(|flight| flight.generation == generation)
        {
            flight.cancelled = true;
            let book = flight.book;
            world.check_not_early(book, slot as usize);
            if world.eager {
                world.run_read(slot as usize);
            }
        }
    }

    fn bytes(&self, slot: u32, len: u32) -> &[u8] {
        assert!(self.world.borrow().slots[slot as usize].flight.is_none(), "a buffer in flight cannot be looked at");
        &self.seen[slot as usize][..len as usize]
    }

    fn capacity(&self, slot: u32) -> u32 {
        self.world.borrow().slots[slot as usize].data.len() as u32
    }

    fn lengthen(&mut self, slot: u32, _: u32) -> bool {
        let mut world = self.world.borrow_mut();
        if world.longs == LONG_MAX || world.slots[slot as usize].data.len() == LONG_BYTES {
            return false;
        }
        world.longs += 1;
        world.slots[slot as usize].data.resize(LONG_BYTES, 0);
        true
    }

    fn longer_left(&self) -> usize {
        LONG_MAX - self.world.borrow().longs
    }

    fn fill(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if self.capacity(slot) < bytes.len() as u32 && !self.lengthen(slot, 0) {
            return false;
        }
        let mut world = self.world.borrow_mut();
        let data = &mut world.slots[slot as usize].data;
        data[..bytes.len()].copy_from_slice(bytes);
        self.seen[slot as usize].clone_from(data);
        true
    }

    fn release(&mut self, slot: u32) {
        let mut world = self.world.borrow_mut();
        if world.slots[slot as usize].data.len() == LONG_BYTES {
            world.longs -= 1;
            world.slots[slot as usize].data.truncate(SLOT_BYTES as usize);
        }
        self.seen[slot as usize].clear();
    }

    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        if world.breaks() {
            return Err(io::Error::from_raw_os_error(libc::EBADR));
        }
        world.wait(limit);
        Ok(())
    }

    fn next(&mut self) -> Option<Completion<Socket>> {
        let told = self.world.borrow_mut().ready.pop_front()?;
        Some(match told {
            Told::Accepted { listener, book, peer, armed } => {
                Completion::Accepted { listener, socket: self.socket(book), peer, armed }
            }
            Told::AcceptFailed { listener, errno, armed } => Completion::AcceptFailed { listener, errno, armed },
            Told::Phantom { listener, armed } => Completion::Phantom { listener, armed },
            Told::Read { slot, generation, result } => {
                let world = self.world.borrow();
                self.seen[slot as usize].clone_from(&world.slots[slot as usize].data);
                Completion::Read { slot, generation, result }
            }
            Told::Ready { place, generation, readiness, armed } => {
                Completion::Ready { place, generation, readiness, armed }
            }
            Told::Woken => Completion::Woken,
        })
    }
}

//! The sessions of one ring: validated connections that go on to a server of a backend, on the ring that accepted them.
//!
//! ```text
//! acceptor --Handoff--> take --choose--> Connecting --> Greeting --> Open --> Parting --> gone
//!                        |  '--all full--> Queued --grant--^           '-- what a Pair decides: bytes, ends
//! ring --Ready--> handle_ready; wheel --expired--> advance
//! ```
//! A [`Pair`](crate::relay::Pair) decides about the bytes, a [`Backend`](crate::backend::Backend) about the server; this
//! room gives them sockets and the time.
//!
//! Invariants: a session is in the slab until it is [finished](Relays::finish), once, for one reason; while it is there its
//! client's socket is watched, and its server's if it has one; it counts at its server exactly as long as `chosen` names
//! one; it has one deadline in the wheel.

mod asked;
mod log;
mod mail;
mod moving;
mod notice;
mod service;
mod session;
mod sources;
mod wire;

pub use asked::{FOUND_MAX, Found, Question, SessionFilter, SessionSeen, Wish};
pub use log::{SessionLog, SessionRecord};
pub use mail::Letterbox;
pub use moving::{HELD_MOVED_MAX, LiveSession, SessionState};
pub use service::{
    DISCONNECT_DELAY_DEFAULT, GREETING_TIMEOUT_DEFAULT, HALF_CLOSED_TIMEOUT_DEFAULT, IDLE_TIMEOUT_DEFAULT, Relay,
    SharedBackend,
};

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::fault::{self, Fault};
use super::tally::Tally;
use crate::backend::{Choice, ServerIndex, Tried, Waiter};
use crate::conn::{GENERATION_BITS, Slab, SlotId};
use crate::dispatch::Handoff;
use crate::net::canonical_socket;
use crate::proxy::Command;
use crate::relay::{
    Course, End, Facts, Flow, Forward, HEADER_MAX, Pair, Preface, Protocol, SessionId, Side, WINDOW_MAX, Wheel, Whom,
    courtesy,
};
use crate::ring::{BATCH_MAX, Errno, Readiness, Streams};
use asked::Asked;
pub use service::Terms;
use session::{Opening, Phase, Session, Times};
pub use sources::connect_in_turn;
use wire::Link;

/// How long a client that was told goodbye has to end its side.
const PARTING_MAX: Duration = Duration::from_secs(2);
/// Bytes of a client that nobody serves which are read and forgotten, so that the close is no reset.
const PARTING_BYTES_MAX: usize = 64 * 1024;

/// So long a connection that came with LOCAL may turn out to be a look whether somebody listens.
const DOUBT: Duration = Duration::from_millis(50);
/// Clients of a server that learn at once that it has ended, in [`LOSSES_WITHIN`].
const LOSSES_AT_ONCE: u32 = 8;
const LOSSES_WITHIN: Duration = Duration::from_secs(1);

/// The sessions of one ring.
pub struct Relays<S> {
    sessions: Slab<Session<S>>,
    wheel: Wheel,
    /// Sessions that have more to do at once.
    busy: VecDeque<SlotId>,
    scratch: Box<[u8]>,
    letterbox: Letterbox,
    /// A waker was rung: there may be mail.
    has_mail: bool,
    tally: Arc<Tally>,
    /// Whose turn it is among the source addresses.
    source: usize,
    /// Clients that a server has lost lately, and since when; one entry a server at most.
    /// By when all sessions have to end.
    closes_at: Option<Instant>,
    losses: HashMap<(usize, ServerIndex), (Instant, u32)>,
    log: Option<Arc<dyn SessionLog>>,
    /// Of this turn.
    lines: String,
    wall: Wall,
    /// Whose session has ended, and why.
    #[cfg(test)]
    ended: Vec<(SocketAddr, End)>,
    /// What others want to know of sessions, or want to end.
    asked: Asked,
}

/// What time it was by the calendar at some moment, asked again now and then: clocks are set.
#[derive(Clone, Copy, Debug)]
struct Wall {
    at: Instant,
    unix: Duration,
}

impl Wall {
    const ASK_EVERY: Duration = Duration::from_secs(10);

    fn ask(at: Instant) -> Wall {
        Wall { at, unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    fn micros(self, then: Instant) -> u64 {
        let since = then.saturating_duration_since(self.at);
        (self.unix + since).as_micros() as u64 - self.at.saturating_duration_since(then).as_micros() as u64
    }
}

/// What the sessions of a ring are made of.
pub struct Parts {
    /// Most sessions.
    pub sessions: u32,
    /// Where places come that are granted to sessions of this ring.
    pub letterbox: Letterbox,
    /// Where to count.
    pub tally: Arc<Tally>,
    /// Who is told of sessions.
    pub log: Option<Arc<dyn SessionLog>>,
}

impl<S> Relays<S> {
    /// No session yet.
    pub fn new(parts: Parts, now: Instant) -> Relays<S> {
        Relays {
            // Zeroed by the kernel when it is touched first: a ring without sessions pays nothing.
            scratch: vec![0; WINDOW_MAX].into(),
            sessions: Slab::new(parts.sessions),
            wheel: Wheel::new(now),
            busy: VecDeque::new(),
            letterbox: parts.letterbox,
            has_mail: false,
            tally: parts.tally,
            source: 0,
            losses: HashMap::new(),
            closes_at: None,
            log: parts.log,
            lines: String::new(),
            wall: Wall::ask(now),
            #[cfg(test)]
            ended: Vec::new(),
            asked: Asked::default(),
        }
    }

    /// Of a ring without relays.
    #[cfg(test)]
    pub fn none(tally: Arc<Tally>) -> Relays<S> {
        let parts = Parts { sessions: 0, letterbox: Letterbox::new(None), tally, log: None };
        Relays::new(parts, Instant::now())
    }

    /// How many sessions are there.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is there.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Somebody has woken the ring.
    pub fn woken(&mut self) {
        self.has_mail = true;
    }

    /// When [`advance`](Relays::advance) has something to do though nothing happens.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let idle = self.busy.is_empty() && !self.has_mail && self.asked.is_empty();
        if idle { self.wheel.next() } else { Some(now) }
    }
}

impl<S> Relays<S> {
    /// A session for a validated connection; `bytes` are the header, if there is one, and what came behind it.
    pub fn prepare<D: Streams<Socket = S>>(
        &self,
        driver: &D,
        terms: &Arc<Terms>,
        handoff: Handoff<S>,
        bytes: &[u8],
        now: Instant,
    ) -> Session<S> {
        let header = handoff.head.and_then(|head| head.over(bytes));
        let early = &bytes[header.as_ref().map_or(0, |header| header.len())..];
        let peer = canonical_socket(handoff.peer);
        let local = || handoff.local.or_else(|| driver.local(&handoff.socket)).map_or(peer, canonical_socket);
        let addresses = match header.and_then(|header| header.head().ip()) {
            Some((source, destination)) => (canonical_socket(source), canonical_socket(destination)),
            None => (peer, local()),
        };
        let id = SessionId::new(self.wall.micros(handoff.accepted_at), addresses.0);
        let facts = Facts { header, client: addresses.0, destination: addresses.1, session: id, tls: None };
        let is_local = header.is_some_and(|header| header.command() == Command::Local);
        let doubted = Phase::Doubted { until: now + DOUBT };
        let opening = Opening {
            announcement: announcement(terms, &facts),
            preface: Preface::new(terms.forward, terms.protocol, &facts, &terms.host),
            early: early.to_vec(),
            tried: Tried::default(),
            queue_until: None,
            connect_until: None,
        };
        let is_tls = is_implicit_tls(addresses.1.port()) || early.starts_with(&[0x16, 0x03]);
        Session {
            client: handoff.socket,
            server: None,
            attempts: 0,
            chosen: None,
            pair: Pair::new(terms.protocol != Protocol::None && !is_tls),
            terms: terms.clone(),
            phase: if is_local && early.is_empty() { doubted } else { Phase::Connecting },
            opening: Some(Box::new(opening)),
            listener: handoff.listener,
            id,
            addresses,
            early: early.len() as u32,
            times: Times::new(handoff.accepted_at, now),
            is_tls,
            served_by: None,
            leaves: None,
            unasked: false,
            is_kept_alive: false,
            busy: false,
            _permit: handoff.permit,
        }
    }

    /// Begins a session. If there are too many, its connection is closed.
    pub fn begin<D: Streams<Socket = S>>(&mut self, driver: &mut D, session: Session<S>, now: Instant) {
        match self.sessions.insert(session) {
            Ok(slot) => {
                let session = self.sessions.get_mut(slot).expect("just put there");
                session.leaves = self.closes_at.map(|until| (until, End::Drained));
                Watch::of(slot, Side::Client, 0).begin(driver, &session.client);
                match session.phase {
                    Phase::Doubted { until } => self.wheel.set(slot.index, until),
                    _ => self.choose(driver, slot, now),
                }
            }
            Err(_session) => {
                #[cfg(test)]
                self.ended.push((_session.addresses.0, End::OutOfResources));
                self.tally.session_ended(End::OutOfResources);
            }
        }
    }

    /// A watched socket is ready.
    pub fn handle_ready<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        place: u32,
        generation: u32,
        readiness: Readiness,
        armed: bool,
        now: Instant,
    ) {
        let side = if place.is_multiple_of(2) { Side::Client } else { Side::Server };
        // One that has ended meanwhile: the end of its watches was asked for.
        let Some(slot) = self.sessions.id_of(place / 2) else { return };
        let session = self.sessions.get_mut(slot).expect("as just found");
        if Watch::of(slot, side, session.attempts) != (Watch { place, generation }) {
            return;
        }
        let Some(socket) = session.socket(side) else { return };
        if !armed {
            driver.watch(place, generation, socket);
        }
        session.pair.ready(side, readiness.readable, readiness.ended);
        let phase = session.phase;
        match phase {
            Phase::Doubted { .. } if readiness.ended => self.finish(driver, slot, End::Probe, now),
            Phase::Doubted { .. } => self.choose(driver, slot, now),
            Phase::Queued { .. } | Phase::Connecting if side == Side::Client => {
                if readiness.broken {
                    self.finish(driver, slot, End::ClientLeft, now);
                }
            }
            Phase::Connecting if readiness.writable => self.connect_ended(driver, slot, readiness.broken, now),
            Phase::Queued { .. } | Phase::Connecting => {}
            Phase::Greeting => self.pump(driver, slot, now),
            Phase::Open if side == Side::Server && readiness.ended && self.must_linger(slot, now) => {}
            Phase::Open => self.pump(driver, slot, now),
            Phase::Lingering { .. } if side == Side::Client => self.look_at_last(driver, slot, now),
            Phase::Lingering { .. } => {}
            Phase::Parting { .. } => self.part_on(driver, slot, side, readiness, now),
        }
    }

    /// What is due: deadlines, grants, sessions with more to do.
    pub fn advance<D: Streams<Socket = S>>(&mut self, driver: &mut D, now: Instant) {
        if std::mem::take(&mut self.has_mail) {
            for (backend, grant) in self.letterbox.take() {
                self.handle_grant(driver, &backend, grant, now);
            }
        }
        for _ in 0..self.busy.len().min(BATCH_MAX) {
            let Some(slot) = self.busy.pop_front() else { break };
            if let Some(session) = self.sessions.get_mut(slot) {
                session.busy = false;
                self.pump(driver, slot, now);
            }
        }
        for _ in 0..BATCH_MAX {
            let Some(index) = self.wheel.expire(now) else { break };
            self.expired(driver, index, now);
        }
        self.answer(now);
        if now.saturating_duration_since(self.wall.at) > Wall::ASK_EVERY {
            self.wall = Wall::ask(now);
        }
        if let (Some(log), false) = (&self.log, self.lines.is_empty()) {
            log.flush(&mut self.lines);
        }
    }

    /// Ends all sessions within a time, also those that begin meanwhile.
    pub fn close_within(&mut self, limit: Duration, now: Instant) {
        self.closes_at = Some(now + limit);
        self.let_go(None, End::Drained, limit, now);
    }

    /// Ends sessions, those first that have been silent longest, spread over a time; `all` or those of one server.
    pub fn let_go(&mut self, whose: Option<(&SharedBackend, ServerIndex)>, end: End, over: Duration, now: Instant) {
        let concerned = |session: &Session<S>| match whose {
            Some((backend, server)) => session.chosen == Some(server) && session.terms.backend.is(backend),
            None => true,
        };
        let mut going: Vec<(Instant, SlotId)> = Vec::new();
        for slot in self.sessions.ids().collect::<Vec<_>>() {
            let session = self.sessions.get_mut(slot).expect("its slot was just there");
            if concerned(session) && session.leaves.is_none() {
                going.push((session.times.active, slot));
            }
        }
        going.sort_by_key(|(active, _)| *active);
        let count = going.len() as u32;
        for (number, (_, slot)) in going.into_iter().enumerate() {
            let session = self.sessions.get_mut(slot).expect("its slot was just there");
            session.leaves = Some((now + over * number as u32 / count, end));
            let deadline = session.deadline();
            self.wheel.set(slot.index, deadline);
        }
    }

    fn expired<D: Streams<Socket = S>>(&mut self, driver: &mut D, index: u32, now: Instant) {
        let Some(slot) = self.sessions.id_of(index) else { return };
        let session = self.sessions.get_mut(slot).expect("as just found");
        let deadline = session.deadline();
        if deadline > now {
            // Only now: sessions that are shorter do not pay for it.
            if !std::mem::replace(&mut session.is_kept_alive, true) {
                [Side::Client, Side::Server].into_iter().filter_map(|side| session.socket(side)).for_each(|socket| {
                    driver.keep_alive(socket);
                });
            }
            return self.wheel.set(index, deadline);
        }
        let leaves = session.leaves.filter(|(until, _)| *until <= now).map(|(_, end)| end);
        match (session.phase, leaves) {
            // It was told already why it is over.
            (Phase::Parting { end, .. }, _) | (_, Some(end)) => self.finish(driver, slot, end, now),
            (Phase::Doubted { .. }, _) => self.choose(driver, slot, now),
            (Phase::Queued { .. }, _) => self.part(driver, slot, End::QueueTimeout, now),
            (Phase::Connecting, _) => self.connect_is_late(driver, slot, now),
            (Phase::Greeting, _) => {
                let server = session.chosen.expect("a server is awaited to greet");
                session.terms.backend.not_greeted(server, now);
                self.part(driver, slot, End::GreetingTimeout, now);
            }
            (Phase::Lingering { .. }, _) => self.look_at_last(driver, slot, now),
            (Phase::Open, _) if session.pair.is_half_closed() => self.finish(driver, slot, End::HalfClosedTimeout, now),
            (Phase::Open, _) => self.finish(driver, slot, End::IdleTimeout, now),
        }
    }

    /// No server has answered in time. One that had half of the time, or more, is blamed for it.
    fn connect_is_late<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let limit = session.terms.backend.lock().settings().connect_timeout;
        if let Some(server) = session.chosen
            && now.saturating_duration_since(session.times.chosen) >= limit / 2
        {
            session.terms.backend.connect_failed(server, Errno(libc::ETIMEDOUT), now);
        }
        self.part(driver, slot, End::ConnectTimeout, now);
    }

    /// Finds a server, or a place in the line.
    fn choose<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        loop {
            let session = self.sessions.get_mut(slot).expect("the caller has it");
            let terms = session.terms.clone();
            let opening = session.opening.as_mut().expect("it has no server yet");
            let client = session.addresses.0.ip();
            let mut backend = terms.backend.lock();
            let connect_timeout = backend.settings().connect_timeout;
            if opening.tried.len() > backend.settings().retries as usize {
                drop(backend);
                return self.part(driver, slot, End::ConnectFailed, now);
            }
            match backend.choose(client, &opening.tried, now) {
                Choice::Server { index, address } => {
                    drop(backend);
                    opening.connect_until.get_or_insert(now + connect_timeout);
                    session.times.chosen = now;
                    if self.connect(driver, slot, index, address, now) {
                        return;
                    }
                }
                Choice::Full => {
                    let waiter = Waiter { ring: self.letterbox.number(), session: packed(slot) };
                    terms.backend.boxes().add(&self.letterbox);
                    let until = *opening.queue_until.get_or_insert(now + backend.settings().queue_timeout);
                    let waits = backend.wait(waiter, client, now).is_ok();
                    drop(backend);
                    if !waits {
                        return self.part(driver, slot, End::QueueFull, now);
                    }
                    session.phase = Phase::Queued { until };
                    // Who has waited for a place has its time to connect before it.
                    if let Some(opening) = &mut session.opening {
                        opening.connect_until = None;
                    }
                    return self.wheel.set(slot.index, until);
                }
                Choice::Nobody => {
                    let end = if opening.tried.is_empty() { End::NoServer } else { End::ConnectFailed };
                    drop(backend);
                    return self.part(driver, slot, end, now);
                }
            }
        }
    }

    /// Begins to connect to a server at which the session counts already; `false` if another must be found.
    fn connect<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        index: ServerIndex,
        address: SocketAddr,
        now: Instant,
    ) -> bool {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        session.chosen = Some(index);
        match connect_in_turn(driver, address, &session.terms.sources, &mut self.source) {
            Ok(socket) => {
                session.attempts += 1;
                Watch::of(slot, Side::Server, session.attempts).begin(driver, &socket);
                session.server = Some(socket);
                session.phase = Phase::Connecting;
                let deadline = session.deadline();
                self.wheel.set(slot.index, deadline);
                true
            }
            Err(errno) if is_our_own(errno) => {
                session.terms.backend.connect_failed(index, errno, now);
                session.terms.backend.short_of(errno, address, &session.terms.sources, now);
                self.part(driver, slot, End::OutOfResources, now);
                true
            }
            Err(errno) => {
                self.give_server_up(slot, errno, now);
                false
            }
        }
    }

    /// A connect has failed: the server is told, and is not tried again.
    fn give_server_up(&mut self, slot: SlotId, errno: Errno, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let Some(index) = session.chosen.take() else { return };
        if let Some(opening) = &mut session.opening
            && !fault::present(Fault::DeadServer)
        {
            opening.tried.add(index);
        }
        let backend = session.terms.backend.clone();
        backend.connect_failed(index, errno, now);
        backend.release(index, now);
    }

    fn connect_ended<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, broken: bool, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let Some(server) = &session.server else { return };
        let failed = driver.connected(server).err().or(broken.then_some(Errno(libc::ECONNRESET)));
        if let Some(errno) = failed {
            Watch::of(slot, Side::Server, session.attempts).end(driver);
            session.server = None;
            // What was told of the one that is gone does not hold for the next.
            session.pair.server_changes();
            self.give_server_up(slot, errno, now);
            return self.choose(driver, slot, now);
        }
        self.opened(driver, slot, now);
    }

    /// The server is connected: it is told what comes first.
    fn opened<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let opening = session.opening.take().expect("it was connecting");
        let index = session.chosen.expect("it was connecting");
        session.terms.backend.lock().connected(index, session.server_greets());
        session.times.connected = now;
        session.times.active = now;
        session.times.greeted = now;
        session.phase = if session.server_greets() { Phase::Greeting } else { Phase::Open };
        let server = session.server.as_ref().expect("it is connected");
        let mut link = Link { driver, client: &session.client, server };
        let Opening { announcement: mut first, mut early, preface, .. } = *opening;
        let protocol = session.terms.protocol;
        let filtered = session.terms.forward == Forward::Xclient;
        let course = preface.map(|preface| Course::new(preface, protocol, filtered, &std::mem::take(&mut early)));
        // Some take it for talking out of turn if the client's bytes stand in the header's segment.
        if session.is_tls || session.terms.target.preset().sends_early(protocol) {
            first.append(&mut early);
        }
        if first.is_empty() && early.is_empty() {
            link.driver.acknowledge(server);
        }
        if fault::present(Fault::BufferLeak) {
            let (announcement, tried) = (first.clone(), Tried::default());
            let leaked = Opening {
                announcement,
                preface: None,
                early: early.clone(),
                tried,
                queue_until: None,
                connect_until: None,
            };
            session.opening = Some(Box::new(leaked));
        }
        session.pair.connected(&mut link, &first, &early, course);
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        self.tell(slot, None, now);
        self.pump(driver, slot, now);
    }

    /// Says that a session has begun, or is over.
    fn tell(&mut self, slot: SlotId, end: Option<End>, now: Instant) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let (Some(log), true) = (&self.log, session.terms.log_sessions) {
            log.tell(&mut self.lines, &session.record(end, now));
        }
    }

    /// Whether a server that has ended unasked has lost so many clients in this second that this one is to learn of it later.
    fn must_linger(&mut self, slot: SlotId, now: Instant) -> bool {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let delay = session.terms.disconnect_delay;
        let unasked = session.is_silent(now);
        let Some(server) = session.chosen.filter(|_| unasked && !delay.is_zero() && !session.pair.is_half_closed())
        else {
            return false;
        };
        let losses = self.losses.entry((session.terms.backend.number(), server)).or_insert((now, 0));
        if now.saturating_duration_since(losses.0) > LOSSES_WITHIN {
            *losses = (now, 0);
        }
        losses.1 += 1;
        if losses.1 <= LOSSES_AT_ONCE {
            return false;
        }
        // Any number that spreads: by golden section, the same on every run.
        let turn = u64::from(losses.1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let until = now + delay.mul_f64(turn as f64 / u32::MAX as f64);
        session.phase = Phase::Lingering { until };
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        true
    }

    /// The client learns now how its server has ended.
    fn look_at_last<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        session.phase = Phase::Open;
        // What is there may have to wait for a slow reader: with a deadline.
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        self.pump(driver, slot, now);
    }

    /// Moves bytes, and whatever follows from that.
    fn pump<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(server) = &session.server else { return };
        let before = (session.pair.progress(), session.pair.is_half_closed());
        let mut link = Link { driver, client: &session.client, server };
        let flow = session.pair.advance(&mut link, &mut self.scratch);
        if !before.1 && session.pair.first_to_end() == Some(Side::Server) && session.pair.progress() == before.0 {
            session.unasked = session.is_silent(now);
        }
        // An end is a sign of life, too: the other side has its time to answer.
        if (session.pair.progress(), session.pair.is_half_closed()) != before || fault::present(Fault::RearmedIdle) {
            session.times.active = now;
        }
        if session.phase == Phase::Greeting && session.pair.is_greeted() {
            session.phase = Phase::Open;
            session.times.greeted = now;
            let index = session.chosen.expect("it has a server");
            session.terms.backend.lock().greeted(index);
            // It may be over sooner than the time to greet was.
            let deadline = session.deadline();
            self.wheel.set(slot.index, deadline);
            if session.pair.is_overloaded() {
                session.terms.backend.overloaded(index, now);
            }
        }
        match flow {
            Flow::Idle if session.pair.is_half_closed() => {
                let deadline = session.deadline();
                self.wheel.set(slot.index, deadline);
            }
            Flow::Idle => {}
            Flow::More if session.busy => {}
            Flow::More => {
                session.busy = true;
                self.busy.push_back(slot);
            }
            Flow::Ended(end) => self.ended(driver, slot, end, now),
        }
    }

    /// The pair is over.
    fn ended<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        if session.phase == Phase::Greeting {
            let index = session.chosen.expect("it has a server");
            let told = session.pair.client_was_told();
            match end {
                // The server has refused this client, in words that the client has got: no fault of the server.
                End::ServerReset | End::ServerClosed if told => return self.part(driver, slot, end, now),
                End::ServerReset | End::ServerClosed | End::PrefaceRefused => {
                    match session.pair.is_overloaded() {
                        true => session.terms.backend.overloaded(index, now),
                        false => session.terms.backend.not_greeted(index, now),
                    }
                    let refused = end == End::PrefaceRefused;
                    return self.part(driver, slot, if refused { end } else { End::NoGreeting }, now);
                }
                // The client has gone first, which says nothing of the server.
                _ => {}
            }
        }
        let end = if end == End::ServerClosed && session.unasked { End::ServerLeft } else { end };
        // A reset is passed on, unless that would lose what is still on its way.
        for side in [Side::Client, Side::Server] {
            let Some(other) = session.socket(side.other()) else { continue };
            if session.pair.is_broken(side) && !driver.has_unsent(other) {
                driver.reset(other);
            }
        }
        self.finish(driver, slot, end, now);
    }

    /// Tells the client that nobody serves it, and waits a moment for its end.
    fn part<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
        self.tell(slot, Some(end), now);
        self.leave_server(driver, slot, end, now);
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        session.opening = None;
        let until = now + PARTING_MAX;
        session.phase = Phase::Parting { end, until };
        if !session.pair.client_was_told() && !session.is_tls {
            let words = courtesy(session.terms.protocol, &session.terms.host, &session.id);
            // A fresh connection has room for a line; if not, there is nothing that could be said.
            if !words.is_empty() {
                let _ = driver.send(&session.client, words.as_bytes(), true);
            }
        }
        driver.shutdown(&session.client);
        self.wheel.set(slot.index, until);
        self.part_on(driver, slot, Side::Client, Readiness { readable: true, ..Readiness::default() }, now);
    }

    /// What a client that nobody serves still sends is forgotten, up to a limit; its end ends the session.
    fn part_on<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        side: Side,
        readiness: Readiness,
        now: Instant,
    ) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let Phase::Parting { end, .. } = session.phase else { return };
        if side == Side::Server || !readiness.readable {
            return;
        }
        let mut left = PARTING_BYTES_MAX;
        while left > 0 {
            match driver.receive(&session.client, &mut self.scratch[..left]) {
                Ok(0) => break,
                Ok(count) => left -= count,
                Err(Errno(libc::EAGAIN)) => return,
                Err(_) => break,
            }
        }
        self.finish(driver, slot, end, now);
    }

    /// The session does not count at its server any more.
    fn leave_server<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let backend = session.terms.backend.clone();
        // Dropped behind the end of its watch.
        if let Some(_server) = session.server.take() {
            Watch::of(slot, Side::Server, session.attempts).end(driver);
        }
        if let Phase::Queued { .. } = session.phase {
            // `false`: a grant is on its way, and comes back when it finds nobody.
            let _ = backend.lock().abandon(Waiter { ring: self.letterbox.number(), session: packed(slot) });
        }
        let (index, closed) = (session.chosen.take(), session.closed(end, now));
        session.served_by = index;
        let grant = {
            let mut state = backend.lock();
            state.account(index, &closed);
            index.and_then(|index| state.release(index, now))
        };
        backend.deliver(grant, now);
    }

    /// The session is over.
    fn finish<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
        let told = matches!(self.sessions.get_mut(slot), Some(Session { phase: Phase::Parting { .. }, .. }));
        if !told && end != End::Probe {
            self.tell(slot, Some(end), now);
        }
        if !told {
            self.leave_server(driver, slot, end, now);
        }
        self.wheel.clear(slot.index);
        Watch::of(slot, Side::Client, 0).end(driver);
        if let Some(session) = self.sessions.remove(slot) {
            #[cfg(test)]
            self.ended.push((session.addresses.0, end));
            self.asked.remember(session, end, now);
        }
        self.tally.session_ended(end);
    }

    /// Ends all sessions without a word to the ring, which is broken, or ends at once. Nothing may follow.
    pub fn forsake(&mut self, end: End, now: Instant) {
        for (backend, grant) in self.letterbox.close() {
            backend.release(grant.index, now);
        }
        for slot in self.sessions.ids().collect::<Vec<_>>() {
            self.tell(slot, Some(end), now);
            let Some(session) = self.sessions.remove(slot) else { continue };
            let backend = &session.terms.backend;
            if let Phase::Queued { .. } = session.phase {
                let _ = backend.lock().abandon(Waiter { ring: self.letterbox.number(), session: packed(slot) });
            }
            if let Some(index) = session.chosen {
                backend.release(index, now);
            }
            self.tally.session_ended(end);
        }
        if let Some(log) = &self.log {
            log.flush(&mut self.lines);
        }
    }

    /// A place at a server for a session that has waited.
    fn handle_grant<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        backend: &SharedBackend,
        grant: crate::backend::Grant,
        now: Instant,
    ) {
        let slot = unpacked(grant.waiter.session);
        let waits = self.sessions.get_mut(slot).is_some_and(|session| matches!(session.phase, Phase::Queued { .. }));
        if !waits {
            return backend.release(grant.index, now);
        }
        let session = self.sessions.get_mut(slot).expect("as just found");
        let connect_timeout = backend.lock().settings().connect_timeout;
        session.phase = Phase::Connecting;
        session.times.chosen = now;
        if let Some(opening) = &mut session.opening {
            opening.connect_until.get_or_insert(now + connect_timeout);
        }
        if !self.connect(driver, slot, grant.index, grant.address, now) {
            self.choose(driver, slot, now);
        }
    }
}

#[cfg(test)]
impl<S> Relays<S> {
    /// What must hold between two calls.
    pub fn check_invariants(&mut self) {
        for slot in self.sessions.ids().collect::<Vec<_>>() {
            let session = self.sessions.get_mut(slot).expect("as listed");
            let (serves, opens) = match session.phase {
                Phase::Queued { .. } | Phase::Doubted { .. } => (false, true),
                Phase::Connecting => (true, true),
                Phase::Greeting | Phase::Open | Phase::Lingering { .. } => (true, false),
                Phase::Parting { .. } => (false, false),
            };
            assert!(session.server.is_some() == serves && session.chosen.is_some() == serves, "{:?}", session.phase);
            assert!(session.opening.is_some() || !opens, "{:?}", session.phase);
            assert!(self.wheel.is_set(slot.index), "every session has a deadline");
            assert_eq!(session.busy, self.busy.contains(&slot), "who has more to do is in the queue, and only who has");
            session.pair.check_invariants();
        }
    }
}

/// The header that the server gets, if it gets one.
fn announcement(terms: &Terms, facts: &Facts<'_>) -> Vec<u8> {
    let Some(announce) = &terms.announce else { return Vec::new() };
    let mut room = [0; HEADER_MAX];
    match announce.write(facts, Whom::Client, &mut room) {
        Ok(announced) => room[..announced.length].to_vec(),
        Err(error) => {
            // The presets' limits have room for the addresses; should one not, the server refuses a session without header.
            tracing::error!("no header for a session of {}: {error}", terms.name);
            Vec::new()
        }
    }
}

/// Ports on which TLS is spoken from the first byte on.
fn is_implicit_tls(port: u16) -> bool {
    matches!(port, 993 | 995 | 465)
}

/// Whether a connect has failed for want of something that other servers would lack too.
fn is_our_own(errno: Errno) -> bool {
    matches!(errno.0, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
}

/// The watch of one socket of a session. Each server that was tried has one of its own, so that what is told of one that
/// was given up is not taken for the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Watch {
    place: u32,
    generation: u32,
}

impl Watch {
    /// Servers of a session whose watches are told apart.
    const ATTEMPTS: u32 = 32;

    fn of(slot: SlotId, side: Side, attempts: u32) -> Watch {
        let place = slot.index * 2 + u32::from(side == Side::Server);
        let generation = match side {
            Side::Client => slot.generation,
            Side::Server => slot.generation.wrapping_mul(Watch::ATTEMPTS) + attempts % Watch::ATTEMPTS,
        };
        Watch { place, generation: generation & GENERATION_MASK }
    }

    fn begin<D: Streams>(self, driver: &mut D, socket: &D::Socket) {
        driver.watch(self.place, self.generation, socket);
    }

    fn end<D: Streams>(self, driver: &mut D) {
        driver.unwatch(self.place, self.generation);
    }
}

const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

fn packed(slot: SlotId) -> u64 {
    u64::from(slot.generation) << 32 | u64::from(slot.index)
}

fn unpacked(packed: u64) -> SlotId {
    SlotId { index: packed as u32, generation: (packed >> 32) as u32 }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;

//! The sessions of one ring: validated connections that go on to a server of a backend, on the ring that accepted them.
//!
//! ```text
//! acceptor --Handoff--> take --choose--> Connecting --> Greeting --> Open --> Parting --> gone     opening.rs,
//!                        |  '--all full--> Queued --grant--^           '-- what a Pair decides     serving.rs,
//! ring --Ready--> handle_ready; wheel --expired--> advance                                         ending.rs
//! ```
//! A [`Pair`](crate::relay::Pair) decides about the bytes, a [`Backend`](crate::backend::Backend) about the server; this
//! room gives them sockets and the time.
//!
//! Invariants: a session is in the slab until it is [finished](Relays::finish), once, for one reason; while it is there its
//! client's socket is watched, and its server's if it has one; it counts at its server exactly as long as `chosen` names
//! one; it has one deadline in the wheel.

mod asked;
mod ending;
#[cfg(test)]
mod invariants;
mod log;
mod mail;
mod moving;
mod notice;
mod opening;
mod secured;
#[cfg(all(test, feature = "tls"))]
mod secured_tests;
mod service;
mod serving;
mod session;
#[cfg(test)]
mod simulation;
mod sources;
#[cfg(test)]
pub(crate) mod tests;
mod wall;
mod watch;
mod wire;

pub use asked::{FOUND_MAX, Found, Question, SessionFilter, SessionSeen, Wish};
pub use log::{SessionLog, SessionRecord};
pub use mail::Letterbox;
pub use moving::{HELD_MOVED_MAX, LiveSession, SessionState};
pub use service::Terms;
pub use service::{
    DISCONNECT_DELAY_DEFAULT, GREETING_TIMEOUT_DEFAULT, HALF_CLOSED_TIMEOUT_DEFAULT, IDLE_TIMEOUT_DEFAULT, Relay,
    SharedBackend,
};
pub use sources::connect_in_turn;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::tally::Tally;
use crate::backend::ServerIndex;
use crate::conn::{Slab, SlotId};
use crate::dispatch::TLS_FEED_MAX;
use crate::relay::{End, Side, WINDOW_MAX, Wheel};
use crate::ring::{BATCH_MAX, Readiness, Streams};
use asked::Asked;
use session::{Phase, Session, Witness};
use wall::Wall;
use watch::Watch;

/// The sessions of one ring.
pub struct Relays<S> {
    sessions: Slab<Session<S>>,
    wheel: Wheel,
    /// Sessions that have more to do at once.
    busy: VecDeque<SlotId>,
    scratch: Box<[u8]>,
    /// For records of TLS, on their way in and out.
    records: Box<[u8]>,
    letterbox: Letterbox,
    /// A waker was rung: there may be mail.
    has_mail: bool,
    tally: Arc<Tally>,
    /// Whose turn it is among the source addresses.
    source: usize,
    /// By when all sessions have to end.
    closes_at: Option<Instant>,
    /// Clients that a server has lost lately, and since when; one entry a server at most.
    losses: HashMap<(usize, ServerIndex), (Instant, u32)>,
    log: Option<Arc<dyn SessionLog>>,
    /// Of this turn.
    lines: String,
    wall: Wall,
    witness: Witness,
    /// What others want to know of sessions, or want to end.
    asked: Asked,
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
            records: vec![0; TLS_FEED_MAX].into(),
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
            witness: Witness::default(),
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

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.sessions.is_full()
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
            // That there is room to write is told at once, and says nothing.
            Phase::Doubted { .. } if readiness.readable => self.choose(driver, slot, now),
            Phase::Doubted { .. } => {}
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
}

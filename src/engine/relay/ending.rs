//! How sessions end: by themselves, by somebody's wish, or with a word to a client that nobody serves.

use std::time::{Duration, Instant};

use super::session::{Phase, Session};
use super::watch::{Watch, packed};
use super::{Relays, SharedBackend};
use crate::backend::{ServerIndex, Waiter};
use crate::conn::SlotId;
use crate::engine::fault::{self, Fault};
use crate::relay::{End, Pair, Side, courtesy};
use crate::ring::{Errno, Readiness, Streams};

/// How long a client that was told goodbye has to end its side.
pub(super) const PARTING_MAX: Duration = Duration::from_secs(2);
/// Bytes of a client that nobody serves which are read and forgotten, so that the close is no reset.
const PARTING_BYTES_MAX: usize = 64 * 1024;

/// Whether the client is to be told, by TLS, that it has got everything: not if its server was reset, as something may be
/// missing then.
fn ends_in_order(pair: &Pair) -> bool {
    let server_was_reset = pair.is_broken(Side::Server) && !fault::present(Fault::FeignedEnd);
    !pair.is_broken(Side::Client) && !server_was_reset
}

impl<S> Relays<S> {
    /// Ends all sessions within a time, also those that begin meanwhile.
    pub fn close_within(&mut self, limit: Duration, now: Instant) {
        self.closes_at = Some(now + limit);
        self.let_go(None, End::Drained, limit, now);
    }

    /// The same, but nobody waits for this one, so that nobody has to go at once: of so many sessions the first goes after so
    /// manieth a part of the time, and a single one has all of it.
    pub fn leave_within(&mut self, limit: Duration, now: Instant) {
        self.closes_at = Some(now + limit);
        self.spread(None, End::Drained, limit, 1, now);
    }

    /// Ends sessions, those first that have been silent longest, spread over a time, the first of them at once; all, or those of
    /// one server.
    pub fn let_go(&mut self, whose: Option<(&SharedBackend, ServerIndex)>, end: End, over: Duration, now: Instant) {
        self.spread(whose, end, over, 0, now);
    }

    /// `first`: after how many parts of the time, of as many as there are sessions, the first of them goes.
    fn spread(
        &mut self,
        whose: Option<(&SharedBackend, ServerIndex)>,
        end: End,
        over: Duration,
        first: u32,
        now: Instant,
    ) {
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
            session.leaves = Some((now + over * (number as u32 + first) / count, end));
            let deadline = session.deadline();
            self.wheel.set(slot.index, deadline);
        }
    }

    /// Tells the client that nobody serves it, and waits a moment for its end.
    pub(super) fn part<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
        self.tell(slot, Some(end), now);
        self.leave_server(driver, slot, end, now);
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        session.opening = None;
        let until = now + PARTING_MAX;
        session.phase = Phase::Parting { end, until };
        if !session.pair.client_was_told() && !session.is_tls {
            let words = courtesy(session.terms.protocol, &session.terms.host, &session.id);
            // A fresh connection has room for a line; if not, there is nothing that could be said.
            match &mut session.tls {
                Some(tls) => tls.farewell(driver, &session.client, words.as_bytes(), &mut self.records),
                None if words.is_empty() => {}
                None => _ = driver.send(&session.client, words.as_bytes(), true),
            }
        } else if let Some(tls) = &mut session.tls {
            tls.farewell(driver, &session.client, &[], &mut self.records);
        }
        driver.shutdown(&session.client);
        self.wheel.set(slot.index, until);
        self.part_on(driver, slot, Side::Client, Readiness { readable: true, ..Readiness::default() }, now);
    }

    /// What a client that nobody serves still sends is forgotten, up to a limit; its end ends the session.
    pub(super) fn part_on<D: Streams<Socket = S>>(
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

    /// The session is over.
    pub(super) fn finish<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
        let told = matches!(self.sessions.get_mut(slot), Some(Session { phase: Phase::Parting { .. }, .. }));
        if !told && end != End::Probe {
            self.tell(slot, Some(end), now);
        }
        if !told {
            self.leave_server(driver, slot, end, now);
        }
        self.wheel.clear(slot.index);
        if let Some(session) = self.sessions.get_mut(slot)
            && let Some(tls) = session.tls.as_mut().filter(|_| !told && ends_in_order(&session.pair))
        {
            tls.farewell(driver, &session.client, &[], &mut self.records);
        }
        Watch::of(slot, Side::Client, 0).end(driver);
        if let Some(session) = self.sessions.remove(slot) {
            self.witness.sees(session.addresses.0, end);
            self.asked.remember(session, end, now);
        }
        self.tally.session_ended(end);
    }

    /// The session does not count at its server any more.
    pub(super) fn leave_server<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        end: End,
        now: Instant,
    ) {
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

    /// Says that a session has begun, or is over.
    pub(super) fn tell(&mut self, slot: SlotId, end: Option<End>, now: Instant) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let (Some(log), true) = (&self.log, session.terms.log_sessions) {
            log.tell(&mut self.lines, &session.record(end, now));
        }
    }

    /// Ends all sessions without a word to the ring, which is broken, or ends at once. Nothing may follow.
    pub fn forsake(&mut self, end: End, now: Instant) {
        for (backend, grant) in self.letterbox.close() {
            backend.release(grant.index, now);
        }
        for slot in self.sessions.ids().collect::<Vec<_>>() {
            let end = match self.sessions.get_mut(slot).map(|session| session.phase) {
                // It was told already why it is over.
                Some(Phase::Parting { end, .. }) => end,
                _ => end,
            };
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
            self.witness.sees(session.addresses.0, end);
        }
        if let Some(log) = &self.log {
            log.flush(&mut self.lines);
        }
    }
}

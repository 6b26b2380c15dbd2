//! A session with a server: bytes go both ways until the pair of its two sides is over.

use std::time::{Duration, Instant};

use super::Relays;
use super::secured::Untold;
use super::session::Phase;
use super::wire::Link;
use crate::conn::SlotId;
use crate::engine::fault::{self, Fault};
use crate::relay::{End, Flow, Pair, Side};
use crate::ring::Streams;

/// Clients of a server that learn at once that it has ended, in [`LOSSES_WITHIN`].
const LOSSES_AT_ONCE: u32 = 8;
const LOSSES_WITHIN: Duration = Duration::from_secs(1);

impl<S> Relays<S> {
    /// Moves bytes, and whatever follows from that.
    pub(super) fn pump<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(server) = &session.server else { return };
        let before = (session.pair.progress(), session.pair.is_half_closed());
        let tls = session.tls.as_deref_mut();
        let sent_before = tls.as_ref().map(|tls| tls.progress());
        let mut link = Link { driver, client: &session.client, server, tls, records: &mut self.records };
        let flow = advance(&mut session.pair, &mut link, &mut self.scratch);
        // Records that have gone out are a sign of life, too.
        if link.tls.as_ref().map(|tls| tls.progress()) != sent_before {
            session.times.active = now;
        }
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
    pub(super) fn ended<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, end: End, now: Instant) {
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

    /// Whether a server that has ended unasked has lost so many clients in this second that this one is to learn of it later.
    pub(super) fn must_linger(&mut self, slot: SlotId, now: Instant) -> bool {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let delay = session.terms.disconnect_delay;
        // Whoever has said something that the server did not take waits for an answer.
        let unasked = session.is_silent(now) && !session.pair.has_unread(Side::Client);
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
    pub(super) fn look_at_last<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        session.phase = Phase::Open;
        // What is there may have to wait for a slow reader: with a deadline.
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        self.pump(driver, slot, now);
    }
}

/// Moves what can be moved, and before and behind it what TLS holds.
fn advance<D: Streams>(pair: &mut Pair, link: &mut Link<'_, D>, scratch: &mut [u8]) -> Flow {
    link.flush(pair);
    let mut flow = pair.advance(link, scratch);
    if flow == Flow::Idle
        && let Some(untold) = link.take_untold()
    {
        pair.ready(Side::Client, true, untold == Untold::End);
        flow = pair.advance(link, scratch);
        if let Some(untold) = link.take_untold() {
            pair.ready(Side::Client, true, untold == Untold::End);
            flow = if flow == Flow::Idle { Flow::More } else { flow };
        }
    }
    // Records that nobody has asked for, such as an answer to new keys.
    let more = link.flush(pair);
    if more && flow == Flow::Idle { Flow::More } else { flow }
}

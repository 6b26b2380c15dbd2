//! TLS between door 2 and whoever serves, where a listener ends it here.

use std::sync::Arc;

use super::{Acceptor, InLine, Sink};
use crate::conn::{Admitted, Ending, Record, SlotId};
use crate::dispatch::{Handoff, Overload, TlsFailure};
use crate::engine::acceptor::Declined;
use crate::engine::fault::{self, Fault};
use crate::engine::handshake::{Guest, HANDSHAKES_A_TURN, Step};
use crate::engine::relay::Terms;
use crate::engine::tally::Count;
use crate::net::canonical_socket;
use crate::ring::{BATCH_MAX, Driver};

impl<D: Driver, K: Sink<D::Socket>> Acceptor<D, K> {
    /// Begins the handshake of a connection that has passed both doors.
    pub(super) fn shake_hands(&mut self, slot: SlotId, admitted: Option<Admitted>) {
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        let door = &mut self.doors[guest.listener as usize];
        let Some(tls) = door.tls.clone() else { return };
        door.shaking += 1;
        let handoff = guest.handoff(door, admitted.as_ref());
        let bytes = self.driver.bytes(slot.index, guest.waiting.taken());
        let shaking = Guest::new(guest.listener, handoff, admitted, bytes, tls.begin());
        self.leave(slot);
        if let Some(shed) = self.handshakes.begin(&mut self.driver, shaking, tls.timeout(), self.now) {
            self.refuse_handshake(shed, Some(&too_many()));
        }
    }

    /// Handshakes whose time is up, and a bounded number of those that have something to do.
    pub(super) fn shake_on(&mut self) {
        for _ in 0..BATCH_MAX {
            let Some((guest, failure)) = self.handshakes.expire(&mut self.driver, self.now) else { break };
            self.refuse_handshake(guest, failure.as_ref());
        }
        for _ in 0..HANDSHAKES_A_TURN {
            match self.handshakes.step(&mut self.driver) {
                None => break,
                Some(Step::Waits) => {}
                Some(Step::Complete(guest)) => self.deliver(guest),
                Some(Step::Failed(guest, failure)) => self.refuse_handshake(guest, Some(&failure)),
            }
        }
    }

    /// Hands over a connection whose session stands.
    fn deliver(&mut self, guest: Guest<D::Socket>) {
        self.tally.count(Count::TlsEstablished);
        if guest.handoff.tls.as_ref().is_some_and(|tls| tls.info().resumed) {
            self.tally.count(Count::TlsResumed);
        }
        let door = &self.doors[guest.listener as usize];
        let pool = door.pool;
        if let Some(terms) = &door.relay {
            let Guest { listener, handoff, admitted, bytes, .. } = guest;
            let to_kernel = door.tls.as_ref().is_some_and(|tls| tls.to_kernel());
            let session = self.relays.prepare(&self.driver, terms, handoff, &bytes, to_kernel, self.now);
            if session.tls.as_ref().is_some_and(|tls| tls.is_in_kernel()) {
                self.tally.count(Count::TlsToKernel);
            }
            self.relays.begin(&mut self.driver, session, self.now);
            self.count_handed(door, admitted.as_ref(), bytes.len());
            self.doors[listener as usize].shaking -= 1;
            return;
        }
        let guest = match door.between.clone() {
            None => guest,
            Some(terms) => match self.relay_to_pool(guest, &terms) {
                Ok(guest) => guest,
                Err(guest) => return self.conclude_handshake(*guest, Ending::Overload),
            },
        };
        let back = if self.lines[pool].is_empty() { self.offer_secured(guest) } else { Some(guest) };
        if let Some(guest) = back {
            self.begin_line(pool);
            self.keep(guest, pool);
        }
    }

    /// Goes on with a client's session here, as a relay does; the pool gets the other end of a pair of sockets.
    ///
    /// # Errors
    /// There are no descriptors for it, or too many sessions.
    fn relay_to_pool(
        &mut self,
        guest: Guest<D::Socket>,
        terms: &Arc<Terms>,
    ) -> Result<Guest<D::Socket>, Box<Guest<D::Socket>>> {
        if self.relays.is_full() {
            return Err(Box::new(guest));
        }
        let (ours, theirs) = match self.driver.pair() {
            Ok(pair) => pair,
            Err(_) => {
                self.tally.count(Count::OutOfResources);
                return Err(Box::new(guest));
            }
        };
        let Guest { listener, handoff, admitted, bytes, .. } = guest;
        let local = handoff.local.or_else(|| self.driver.local(&handoff.socket));
        let other = Handoff {
            socket: theirs,
            listener: handoff.listener.clone(),
            peer: handoff.peer,
            local: local.or(Some(handoff.peer)),
            head: handoff.head,
            accepted_at: handoff.accepted_at,
            permit: handoff.permit,
            tls: None,
            tls_before: handoff.tls.as_ref().map(|tls| Box::new(tls.info().clone())),
        };
        let session =
            self.relays.prepare(&self.driver, terms, Handoff { permit: None, ..handoff }, &bytes, false, self.now);
        let begun = self.relays.begin_with(&mut self.driver, session, (ours, &terms.name), self.now);
        debug_assert!(begun.is_ok(), "there is room, as was just seen");
        Ok(Guest::established(listener, other, admitted, bytes))
    }

    /// Keeps a connection until its pool has room.
    fn keep(&mut self, guest: Guest<D::Socket>, pool: usize) {
        match self.handshakes.keep(guest) {
            Ok(slot) => self.lines[pool].push_back(InLine::Secured(slot)),
            Err(guest) => self.conclude_handshake(*guest, Ending::Overload),
        }
    }

    /// Offers the first in line again; `false` if it has to wait on.
    pub(super) fn offer_kept(&mut self, slot: SlotId, pool: usize) -> bool {
        let Some(guest) = self.handshakes.kept(slot) else { return true };
        let Some(guest) = self.offer_secured(guest) else { return true };
        match self.handshakes.keep(guest) {
            Ok(again) => {
                self.lines[pool][0] = InLine::Secured(again);
                false
            }
            Err(guest) => {
                self.conclude_handshake(*guest, Ending::Overload);
                true
            }
        }
    }

    /// Offers a connection with a session to its pool; it comes back if it has to wait.
    fn offer_secured(&mut self, guest: Guest<D::Socket>) -> Option<Guest<D::Socket>> {
        let Guest { listener, handoff, admitted, bytes, .. } = guest;
        let door = &self.doors[listener as usize];
        let Err(declined) = self.sink.offer(door.pool, handoff, &bytes, self.now) else {
            self.count_handed(door, admitted.as_ref(), bytes.len());
            self.doors[listener as usize].shaking -= 1;
            return None;
        };
        let (handoff, full) = match *declined {
            Declined::Full(handoff) => (handoff, true),
            Declined::Closed(handoff) => (handoff, false),
        };
        let wait = full && self.sink.overload(door.pool) == Overload::Pause;
        let guest = Guest::established(listener, handoff, admitted, bytes);
        if wait {
            return Some(guest);
        }
        self.conclude_handshake(guest, Ending::Overload);
        None
    }

    /// Counts those as lost who have not reached their pools.
    pub(super) fn forsake_handshakes(&mut self) {
        for guest in self.handshakes.forsake() {
            self.conclude_handshake(guest, Ending::LostInRing);
        }
    }

    /// Ends a connection whose handshake has failed, or that has to go without a failure of its own: a drain is over.
    fn refuse_handshake(&mut self, guest: Guest<D::Socket>, failure: Option<&TlsFailure>) {
        let ending = match failure {
            None => Ending::Drained,
            Some(_) if fault::present(Fault::LostHandshake) => return std::mem::forget(guest),
            Some(failure) if failure.is_how_checks_end && guest.handoff.is_check() => Ending::TlsChecked,
            Some(_) => Ending::TlsFailed,
        };
        if let Some(failure) = failure.filter(|_| ending == Ending::TlsFailed) {
            let (handoff, peer) = (&guest.handoff, canonical_socket(guest.handoff.peer));
            let conveyed = handoff.head.and_then(|head| head.ip()).map(|(_, destination)| destination);
            let local = || handoff.local.or_else(|| self.driver.local(&handoff.socket));
            let destination = conveyed.or_else(local).map_or(peer, canonical_socket);
            let door = &self.doors[guest.listener as usize];
            let name = guest.handshake.as_ref().and_then(|handshake| handshake.server_name());
            let of = [handoff.client(), destination, peer];
            self.report.handshake_failed(door, failure, of, (&guest.bytes, name), self.now);
        }
        self.conclude_handshake(guest, ending);
    }

    /// Counts and reports the end of a connection behind door 2.
    fn conclude_handshake(&mut self, guest: Guest<D::Socket>, ending: Ending) {
        let door = &mut self.doors[guest.listener as usize];
        door.shaking -= 1;
        let rules = door.rules();
        door.counts.ended(ending);
        let (peer, local) = (guest.handoff.peer, door.local);
        let waited = self.now.saturating_duration_since(guest.handoff.accepted_at);
        let record = Record { peer, local, bytes: &guest.bytes, rules, waited };
        let tls = guest.handoff.tls.as_ref().map(|tls| tls.info());
        self.report.ended(&self.doors[guest.listener as usize], ending, &record, tls, self.now);
        self.descriptors_freed = true;
    }
}

/// Why somebody who waited has to make room.
fn too_many() -> TlsFailure {
    let words = "too many handshakes are awaited, and this one had to make room".to_owned();
    TlsFailure { code: Some("shed"), is_how_checks_end: false, words }
}

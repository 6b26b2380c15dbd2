//! The way out that leads to another process, and the way in from one, for connections whose header is awaited.
//!
//! A read in flight is cancelled first, and its completion decides: bytes that came all the same belong to what is handed
//! over, a header that they complete is dispatched here. Whoever would begin a read from then on leaves instead, so that
//! [`Acceptor::read`] is the one place from which connections go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::{Acceptor, Door, Guest, Sink, State, is_prompt, permit};
use crate::conn::{Action, Ending, SlotId, Waiting};
use crate::engine::fault::{self, Fault};
use crate::engine::relay::{LiveSession, Terms};
use crate::engine::tally::{Count, Passage};
use crate::relay::End;
use crate::ring::{BATCH_MAX, Driver, SLOT_BYTES};

/// A connection between two processes, its header half read.
#[derive(Debug)]
pub struct Departing<S> {
    /// The socket; nothing reads from it.
    pub socket: S,
    /// The address of its listener.
    pub listener: SocketAddr,
    /// The socket's peer.
    pub peer: SocketAddr,
    /// When the kernel's accept was seen.
    pub accepted_at: Instant,
    /// When its header must be complete.
    pub deadline: Instant,
    /// What was taken out of the socket so far.
    pub bytes: Vec<u8>,
}

/// What a connection has brought from another process.
pub(super) struct Brought {
    pub(super) deadline: Instant,
    /// Until they are in a slot's buffer.
    bytes: Vec<u8>,
}

/// A hand-over in progress.
pub(super) struct Leaving<S> {
    /// By listener: whether its connections leave.
    listeners: Vec<bool>,
    /// Those that may have to be asked yet.
    unasked: Vec<SlotId>,
    /// Cancelled reads that have not completed yet.
    cancelled: usize,
    to: Sender<Departing<S>>,
}

impl<S> Leaving<S> {
    pub(super) fn has_asked_all(&self) -> bool {
        self.unasked.is_empty()
    }

    pub(super) fn read_ended(&mut self) {
        self.cancelled -= 1;
    }
}

impl<D: Driver, K: Sink<D::Socket>> Acceptor<D, K> {
    /// Stops accepting and takes in what waits in the backlogs, as [`drain`](Acceptor::drain) does, and sends every
    /// connection that awaits its header on one of the `listeners` (by address) to another process: `to` is dropped after
    /// the last. The others stay until `grace` is over.
    pub fn hand_over(&mut self, listeners: &[SocketAddr], grace: Duration, to: Sender<Departing<D::Socket>>) {
        self.drain(grace);
        let leaves = |door: &Door| door.proxy.is_some() && listeners.contains(&door.bound);
        let listeners = self.doors.iter().map(leaves).collect();
        let unasked = self.slab.ids().collect();
        self.leaving = Some(Leaving { listeners, unasked, cancelled: 0, to });
    }

    /// Ends all sessions within a time, as [`let_sessions_go`](Acceptor::let_sessions_go) does, but none at once: another
    /// process has taken over, and nobody waits for this one.
    pub fn let_sessions_leave(&mut self, within: Duration) {
        let now = self.driver.now();
        self.relays.leave_within(within, now);
        self.handshakes.close_within(within, now);
    }

    /// Receives connections from another process, in the order of their deadlines and for listeners that expect a header;
    /// at most once.
    pub fn take_in(&mut self, arrivals: Vec<Departing<D::Socket>>) {
        self.now = self.driver.now();
        for Departing { socket, listener, peer, accepted_at, deadline, bytes } in arrivals {
            let awaits = |door: &Door| door.is_present() && door.proxy.is_some() && door.bound == listener;
            // Who sends them has looked; in a configuration that is newer still nobody may await them any more.
            let Some(listener) = self.doors.iter().position(awaits).map(|index| index as u32) else { continue };
            self.tally.count(Count::TakenOver);
            self.doors[listener as usize].counts.passed(Passage::TakenOver);
            self.receive(Guest {
                socket: Some(socket),
                listener,
                peer,
                accepted_at,
                waiting: Waiting::default(),
                state: State::Validated,
                prompt: false,
                pending: false,
                permit: None,
                brought: Some(Box::new(Brought { deadline, bytes })),
            });
        }
    }

    /// Sends every session that can move to another process, and tells how many stay.
    pub fn hand_over_sessions(&mut self, to: &Sender<LiveSession<D::Socket>>) -> usize {
        self.now = self.driver.now();
        self.relays.hand_over(&mut self.driver, to, self.now);
        self.relays.sessions()
    }

    /// Counts those as lost who have not reached their pools, since the ring has failed. Nothing may follow.
    pub fn forsake_guests(&mut self) {
        if fault::present(Fault::UncountedLoss) {
            return;
        }
        self.tell_all_gathered();
        for slot in self.slab.ids().collect::<Vec<_>>() {
            self.settle(slot);
            if let Some(guest) = self.slab.remove(slot) {
                self.conclude(&guest, Ending::LostInRing, &[]);
            }
        }
        self.forsake_handshakes();
        for guest in std::mem::take(&mut self.lobby) {
            if guest.pending {
                self.doors[guest.listener as usize].settle(guest.peer.ip(), &mut self.peers);
            }
            self.conclude(&guest, Ending::LostInRing, &[]);
        }
    }

    /// Ends all sessions at once, though the ring may be broken. Nothing may follow.
    pub fn forsake_sessions(&mut self, end: End) {
        self.relays.forsake(end, self.now);
    }

    /// Goes on with sessions of another process: under the terms of the service of the same name, if there is one.
    pub fn take_in_sessions(&mut self, sessions: Vec<LiveSession<D::Socket>>) {
        self.now = self.driver.now();
        for session in sessions {
            self.tally.count(Count::SessionTaken);
            let serves = |terms: &&Arc<Terms>| *terms.name == *session.state.service;
            let present = self.doors.iter().filter(|door| door.is_present());
            let terms = present.filter_map(|door| door.relay.as_ref()).find(serves).cloned();
            let terms = terms.unwrap_or_else(|| Arc::new(Terms::of_former_service(&session.state.service)));
            // It was let in there: a limit that it exceeds here is no reason to end it.
            let ticket = self.clients.count(session.state.client.ip(), self.now);
            let permit = ticket.and_then(|ticket| permit(&self.clients, ticket));
            self.relays.take_in(&mut self.driver, session, terms, permit, self.now);
        }
    }

    /// Takes in what waits in the backlogs of doors that accept, whether or not the kernel has said so.
    pub fn look(&mut self) {
        self.now = self.driver.now();
        for listener in 0..self.doors.len() {
            let door = &self.doors[listener];
            let accepts = self.draining.is_none() && door.is_present() && !door.is_closed() && !self.has_line(door);
            for _ in 0..if accepts { BATCH_MAX } else { 0 } {
                let Ok(Some((socket, peer))) = self.driver.accept_now(listener as u32) else { break };
                self.handle_accepted(listener as u32, socket, peer);
            }
        }
    }

    /// Reads on where another process has stopped.
    pub(super) fn resume(&mut self, slot: SlotId) {
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        let proxy = self.doors[guest.listener as usize].proxy.as_ref().expect("only such doors await headers");
        let brought = guest.brought.as_mut().expect("the caller has looked");
        let bytes = std::mem::take(&mut brought.bytes);
        self.deadlines.start(slot, self.brought_class, brought.deadline);
        if !bytes.is_empty() {
            self.deadlines.heard(slot);
        }
        let mut action = guest.waiting.resume(&bytes, &proxy.terms);
        if brought.deadline <= self.now {
            // The way here has taken too long.
            action = Action::Close(guest.waiting.expired());
        }
        if !self.driver.fill(slot.index, &bytes) {
            return self.close(slot, Ending::Shed, 0);
        }
        if self.driver.capacity(slot.index) > SLOT_BYTES {
            self.note_long(slot);
        }
        self.act(slot, action);
    }

    /// One step of a hand-over: asks a batch to leave, and ends it when nobody is left.
    pub(super) fn advance_leaving(&mut self) {
        let Some(leaving) = &mut self.leaving else { return };
        let rest = leaving.unasked.len().saturating_sub(BATCH_MAX);
        for slot in leaving.unasked.split_off(rest) {
            self.ask_to_leave(slot);
        }
        for mut guest in std::mem::take(&mut self.lobby) {
            match guest.pending && self.is_leaving(guest.listener) {
                true => {
                    let bytes = guest.brought.as_mut().map(|brought| std::mem::take(&mut brought.bytes));
                    self.send_off(guest, bytes.unwrap_or_default());
                }
                false => self.lobby.push_back(guest),
            }
        }
        let ended = |leaving: &Leaving<_>| leaving.unasked.is_empty() && leaving.cancelled == 0;
        if self.leaving.as_ref().is_some_and(ended)
            && self.doors.iter().all(|door| door.is_closed() || door.is_vacant())
        {
            self.leaving = None;
        }
    }

    /// Whether the connection leaves for another process.
    pub(super) fn leaves(&mut self, slot: SlotId) -> bool {
        let listener = self.slab.get_mut(slot).expect("the caller has it").listener;
        self.is_leaving(listener)
    }

    /// Hands over a connection that has no read in flight.
    pub(super) fn depart(&mut self, slot: SlotId) {
        self.deadlines.stop(slot);
        let Some(guest) = self.slab.remove(slot) else { return };
        let bytes = self.driver.bytes(slot.index, guest.waiting.taken()).to_vec();
        self.driver.release(slot.index);
        self.send_off(guest, bytes);
    }

    fn is_leaving(&self, listener: u32) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.listeners[listener as usize])
    }

    fn ask_to_leave(&mut self, slot: SlotId) {
        // It may have ended since, or be validated: then it stays.
        let Some(guest) = self.slab.get_mut(slot).filter(|guest| guest.state == State::Reading) else { return };
        let leaving = self.leaving.as_mut().expect("the caller has looked");
        if leaving.listeners[guest.listener as usize] {
            guest.state = State::Leaving;
            leaving.cancelled += 1;
            self.deadlines.stop(slot);
            self.driver.cancel_read(slot.index, slot.generation);
        }
    }

    fn send_off(&mut self, mut guest: Guest<D::Socket>, bytes: Vec<u8>) {
        if std::mem::take(&mut guest.pending) {
            self.doors[guest.listener as usize].settle(guest.peer.ip(), &mut self.peers);
        }
        let deadline = self.deadline_to_keep(&guest);
        let Guest { listener, peer, accepted_at, .. } = guest;
        let door = &self.doors[listener as usize];
        let listener = door.bound;
        let socket = guest.socket.take().expect("it is not on offer");
        let leaving = self.leaving.as_ref().expect("the caller has looked");
        match leaving.to.send(Departing { socket, listener, peer, accepted_at, deadline, bytes }) {
            Ok(()) => {
                self.tally.count(Count::HandedOver);
                door.counts.passed(Passage::HandedOver);
            }
            // Nobody waits for it any more; the socket is closed with the message.
            Err(_) => self.conclude(&guest, Ending::Drained, &[]),
        }
    }

    /// The deadline that a connection has here. Whether the kernel has kept a silent newcomer for its silence
    /// (TCP_DEFER_ACCEPT) will not be known any more: it gets the whole time.
    fn deadline_to_keep(&self, guest: &Guest<D::Socket>) -> Instant {
        if let Some(brought) = &guest.brought {
            return brought.deadline;
        }
        let proxy = self.doors[guest.listener as usize].proxy.as_ref().expect("only such doors await headers");
        let unknown = guest.waiting.is_silent() && is_prompt(guest.accepted_at, self.now);
        let class = proxy.prompt_class.filter(|_| guest.prompt || unknown).unwrap_or(proxy.class);
        self.deadlines.deadline(class, guest.accepted_at)
    }
}

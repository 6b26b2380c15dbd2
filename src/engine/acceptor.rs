//! One ring's loop: completions in, actions out, one connection after the other through both doors.
//!
//! It runs on any [`Driver`] and delivers to any [`Sink`], so that a scripted kernel and a model of the workers can take
//! the place of the real ones.
//!
//! Invariants, each kept in one place:
//! - a socket lives in the slab (or the lobby) until it is dispatched, dropped, or handed over to another process:
//!   [`Acceptor::dispatch`], [`Acceptor::close`], [`leaving`];
//! - a slot in state `Reading`, `Cancelling` or `Leaving` has exactly one read in flight, and only its completion frees
//!   the slot: [`Acceptor::handle_read`];
//! - a completion finds its slot by index and generation, or nothing.

mod changing;
mod leaving;
mod shaking;
mod turned_away;

pub use changing::Change;
pub use leaving::Departing;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::FOREVER;
use super::door::{Door, Failure};
use super::fault::{self, Fault};
use super::handshake::{FIRST_PLACE, Given, Handshakes};
use super::relay::{Question, Relays, SharedBackend};
use super::report::Report;
use super::tally::{Count, Passage, Tally};
use crate::admission::{ClientTable, Clients, PendingPeers, Refusal, Ticket};
use crate::backend::ServerIndex;
use crate::conn::{Action, Admitted, Deadlines, Ending, Handed, How, Record, Slab, SlotId, Waiting, of_the_most};
use crate::dispatch::{Handoff, Overload, Permit, Release};
use crate::proxy::Version;
use crate::relay::End;
use crate::ring::{BACKLOG, BATCH_MAX, Completion, Driver, Errno, LONG_MAX, ReadMode};
use leaving::{Brought, Leaving};
use turned_away::Gathered;

/// A connection whose first bytes come within this time of its accept had them ready: TCP_DEFER_ACCEPT delivered it for
/// its data, not because the kernel had waited long enough.
const PROMPT: Duration = Duration::from_millis(100);

/// When descriptors or memory run out, connections make room that have been silent for this time: a balancer sends its
/// header at once, and TCP repeats a lost segment after 200 to 400 ms.
pub(super) const LONG_SILENCE: Duration = Duration::from_millis(500);
/// How many make room at a time.
const SHED_AT_ONCE: usize = 32;
/// Longer buffers that are kept free for newcomers, while those who hold one for long make room.
const LONG_SPARE: usize = 64;

/// Where validated connections go.
pub trait Sink<S> {
    /// Offers a connection to a pool, whose workers may sleep on until [`wake_workers`](Sink::wake_workers). It comes back (boxed, as that
    /// is rare) if there is no room. `now` is when the ring's turn began.
    fn offer(&mut self, pool: usize, handoff: Handoff<S>, bytes: &[u8], now: Instant) -> Result<(), Box<Declined<S>>>;

    /// Makes sure that workers know of what was offered. Called before anything that may wait.
    fn wake_workers(&mut self);

    /// What to do when the pool's queue is full.
    fn overload(&self, pool: usize) -> Overload;

    /// Asks to be woken when the pool's queue has room again; `false` if it has it already.
    fn wake_when_low(&mut self, pool: usize) -> bool;

    /// Nothing more will be offered to a pool.
    fn close(&mut self, pool: usize);
}

/// A connection that a pool did not take.
#[derive(Debug)]
pub enum Declined<S> {
    /// The queue is full.
    Full(Handoff<S>),
    /// The workers are gone.
    Closed(Handoff<S>),
}

/// One connection in the vestibule.
struct Guest<S> {
    /// Taken out only for the moment of an offer.
    socket: Option<S>,
    listener: u32,
    peer: SocketAddr,
    accepted_at: Instant,
    waiting: Waiting,
    state: State,
    prompt: bool,
    /// Counted among those of its peer and listener whose header is awaited: from door 1 until there is a verdict. Never
    /// set for one that comes without a header.
    pending: bool,
    /// Its client's count.
    permit: Option<Permit>,
    /// What it brought from another process that had accepted it.
    brought: Option<Box<Brought>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A read is in flight.
    Reading,
    /// A read is in flight and its end was asked for.
    Cancelling(Ending),
    /// A read is in flight and its end was asked for: another process reads on.
    Leaving,
    /// Validated; waits for room in its pool's queue.
    Validated,
}

/// A connection that waits for room in the queue of its pool.
#[derive(Clone, Copy, Debug)]
enum InLine {
    /// As it came, in a slot.
    Plain(SlotId),
    /// With a TLS session, among the handshakes.
    Secured(SlotId),
}

impl<S> Guest<S> {
    /// What whoever serves gets.
    fn handoff(&mut self, door: &Door, admitted: Option<&Admitted>) -> Handoff<S> {
        Handoff {
            socket: self.socket.take().expect("it is not on offer yet"),
            listener: door.info.clone(),
            peer: self.peer,
            local: door.local,
            head: admitted.map(Admitted::head),
            accepted_at: self.accepted_at,
            permit: self.permit.take(),
            tls: None,
            tls_before: None,
        }
    }
}

/// One ring with its doors, slots and deadlines.
pub struct Acceptor<D: Driver, K> {
    driver: D,
    sink: K,
    doors: Vec<Door>,
    slab: Slab<Guest<D::Socket>>,
    deadlines: Deadlines,
    /// Connections that came when no slot was free. Bounded: while one waits here, no accept is armed.
    lobby: VecDeque<Guest<D::Socket>>,
    /// Who has got a longer buffer, oldest first, among others who are gone.
    long: VecDeque<SlotId>,
    /// The sessions that this ring serves itself.
    relays: Relays<D::Socket>,
    /// Doors of earlier configurations that are not vacant yet.
    retired: usize,
    /// TLS, between door 2 and whoever serves.
    handshakes: Handshakes<D::Socket>,
    /// For each pool, the validated connections that wait for room in its queue, oldest first.
    lines: Vec<VecDeque<InLine>>,
    pending_limit: usize,
    /// Slots beyond it.
    spare: usize,
    peers: PendingPeers,
    clients: Clients,
    tally: Arc<Tally>,
    report: Arc<Report>,
    now: Instant,
    /// Peers that were turned away again and again, and are told of together.
    gathered: Gathered,
    descriptors_freed: bool,
    /// Some pool may have room for its line.
    look_at_lines: bool,
    draining: Option<Draining>,
    /// A hand-over to another process in progress.
    leaving: Option<Leaving<D::Socket>>,
    /// The class of the deadlines that were brought from another process.
    brought_class: usize,
}

/// A shutdown in progress.
#[derive(Clone, Copy, Debug)]
struct Draining {
    /// Headers still awaited then are given up.
    pending_until: Instant,
}

/// What an acceptor is made of.
pub struct Parts<D: Driver, K> {
    /// The ring.
    pub driver: D,
    /// The pools.
    pub sink: K,
    /// The listeners, in the ring's order.
    pub doors: Vec<Door>,
    /// The sessions that the ring serves itself.
    pub relays: Relays<D::Socket>,
    /// Deadlines, with the classes that the doors name.
    pub deadlines: Deadlines,
    /// Number of pools with workers of their own.
    pub pools: usize,
    /// Number of slots.
    pub slots: u32,
    /// The way to threads that compute handshakes.
    pub handshakes: Option<Given>,
    /// Most connections whose header is awaited.
    pub pending_limit: usize,
    /// How many of them one peer may have.
    pub peers: PendingPeers,
    /// Bans and limits on clients.
    pub clients: Clients,
    /// Where to count.
    pub tally: Arc<Tally>,
    /// Where refusals are reported.
    pub report: Arc<Report>,
}

impl<D: Driver, K: Sink<D::Socket>> Acceptor<D, K> {
    /// An acceptor that has not armed anything yet.
    pub fn new(mut parts: Parts<D, K>) -> Acceptor<D, K> {
        Acceptor {
            // No time is added: what is brought is the deadline itself.
            brought_class: parts.deadlines.class(Duration::ZERO, true),
            now: parts.driver.now(),
            driver: parts.driver,
            sink: parts.sink,
            doors: parts.doors,
            slab: Slab::new(parts.slots),
            deadlines: parts.deadlines,
            lobby: VecDeque::new(),
            long: VecDeque::new(),
            lines: (0..parts.pools).map(|_| VecDeque::new()).collect(),
            retired: 0,
            relays: parts.relays,
            handshakes: Handshakes::new(parts.slots, parts.handshakes),
            pending_limit: parts.pending_limit,
            spare: (parts.slots as usize).saturating_sub(parts.pending_limit),
            peers: parts.peers,
            clients: parts.clients,
            tally: parts.tally,
            report: parts.report,
            gathered: Gathered::new(),
            descriptors_freed: false,
            look_at_lines: false,
            draining: None,
            leaving: None,
        }
    }

    /// One turn: arm, wait, handle what has happened. `true` once a drain is complete and nothing is left to do.
    ///
    /// # Errors
    /// Only if the ring itself is broken.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.tend_doors();
        self.tell_gathered();
        self.advance_leaving();
        if !fault::present(Fault::SilentBell) {
            self.sink.wake_workers();
        }
        if self.is_finished() {
            return Ok(true);
        }
        debug_assert!(self.lobby.is_empty() || self.slab.is_full(), "who waits in the lobby waits for a slot");
        self.driver.wait(self.patience())?;
        self.now = self.driver.now();
        for _ in 0..BATCH_MAX {
            let Some(completion) = self.driver.next() else { break };
            self.handle(completion);
        }
        self.expire();
        self.shake_on();
        self.relays.advance(&mut self.driver, self.now);
        // In this order: lines that move on leave slots for the lobby, and nothing else may happen for a long time.
        self.serve_lines();
        self.empty_lobby();
        self.tell_gathered();
        Ok(false)
    }

    /// Stops accepting, takes in what waits in the backlogs, and gives pending headers `grace` to become complete.
    pub fn drain(&mut self, grace: Duration) {
        self.draining = Some(Draining { pending_until: self.driver.now() + grace.min(FOREVER) });
        self.doors.iter_mut().for_each(Door::rise);
    }

    /// Somebody wants to know of sessions, or to end some.
    pub fn ask(&mut self, question: Question) {
        self.relays.ask(question);
    }

    /// Ends all sessions within a time, those first that have been silent longest.
    pub fn let_sessions_go(&mut self, within: Duration) {
        self.now = self.driver.now();
        self.relays.close_within(within, self.now);
        self.handshakes.close_within(within, self.now);
    }

    /// Ends the sessions that a server has, spread over a time.
    pub fn let_go(&mut self, backend: &SharedBackend, server: ServerIndex, end: End, over: Duration) {
        self.relays.let_go(Some((backend, server)), end, over, self.driver.now());
    }

    fn handle(&mut self, completion: Completion<D::Socket>) {
        match completion {
            Completion::Accepted { listener, socket, peer, armed } => {
                let armed = armed || fault::present(Fault::IgnoredEnd);
                self.doors[listener as usize].handle_connection(armed);
                self.handle_accepted(listener, socket, peer);
            }
            Completion::AcceptFailed { listener, errno, armed } => self.handle_accept_failed(listener, errno, armed),
            Completion::Phantom { listener, armed } => {
                self.tally.count(Count::Phantom);
                self.doors[listener as usize].handle_connection(armed);
            }
            Completion::Read { slot, generation, result } => {
                self.handle_read(SlotId { index: slot, generation }, result)
            }
            Completion::Ready { place, generation, readiness, armed } if place >= FIRST_PLACE => {
                let readable = readiness.readable;
                self.handshakes.handle_ready(&mut self.driver, place, generation, readable, armed);
            }
            Completion::Ready { place, generation, readiness, armed } => {
                self.relays.handle_ready(&mut self.driver, place, generation, readiness, armed, self.now);
            }
            Completion::Woken => {
                self.look_at_lines = true;
                self.relays.woken();
            }
            Completion::Overflowed => self.tally.count(Count::CqOverflow),
        }
    }

    fn handle_accepted(&mut self, listener: u32, socket: D::Socket, peer: Result<SocketAddr, Errno>) {
        let counts = &self.doors[listener as usize].counts;
        self.tally.count(Count::Accepted);
        counts.passed(Passage::Accepted);
        let Ok(peer) = peer else {
            self.tally.count(Count::ResetEarly);
            counts.passed(Passage::ResetEarly);
            self.descriptors_freed = true;
            return;
        };
        self.receive(Guest {
            socket: Some(socket),
            listener,
            peer,
            accepted_at: self.now,
            waiting: Waiting::default(),
            state: State::Validated,
            prompt: false,
            pending: false,
            permit: None,
            brought: None,
        });
    }

    /// Door 1, and behind it a slot or the lobby.
    fn receive(&mut self, mut guest: Guest<D::Socket>) {
        let door = &mut self.doors[guest.listener as usize];
        let peer = guest.peer.ip();
        // Of one that was brought a part of the header may have been read: it does not become a client of its own.
        let expects_header = guest.brought.is_some() || door.expects_header(peer);
        let admitted = if expects_header { door.admit_peer(peer, &mut self.peers) } else { Ok(None) };
        guest.pending = expects_header && admitted.is_ok();
        // Who was brought is counted where it was accepted.
        if let (Ok(Some(network)), None) = (admitted, &guest.brought) {
            door.trusted_by(network, self.now);
        }
        if guest.pending && door.shadow_turns_away(peer) {
            door.counts.passed(Passage::ShadowUntrusted);
            self.report.would_refuse(door, Refusal::Untrusted, peer, guest.peer, self.now);
        }
        match admitted {
            Ok(_) if self.lobby.is_empty() => self.admit(guest),
            // Behind those that came before: deadlines are kept in order of arrival.
            Ok(_) => self.lobby.push_back(guest),
            Err(ending) => {
                self.descriptors_freed = true;
                self.turn_away(&guest, ending);
            }
        }
    }

    fn handle_accept_failed(&mut self, listener: u32, errno: Errno, armed: bool) {
        let door = &mut self.doors[listener as usize];
        match door.handle_failure(errno, armed, self.now) {
            Failure::Asked => {}
            Failure::Transient => self.tally.count(Count::AcceptFailed),
            Failure::Resources => {
                self.tally.count(Count::OutOfResources);
                self.report.out_of_resources(door, errno, self.now);
                self.shed_silent();
            }
            Failure::Fatal => {
                self.tally.count(Count::AcceptFailed);
                self.report.listener_failed(&door.info, errno);
                self.driver.close_listener(listener);
            }
        }
    }

    /// Finds a slot for a newcomer that door 1 has let in, or hands it over at once where no header is expected.
    fn admit(&mut self, guest: Guest<D::Socket>) {
        let proxied = guest.pending;
        // A long line before a pool must not take the places of headers that are awaited for others.
        if proxied && (self.deadlines.len() >= self.pending_limit || self.slab.free() < self.spare / 2) {
            self.shed();
        }
        match self.slab.insert(guest) {
            Ok(slot) if proxied => self.await_header(slot),
            Ok(slot) => self.dispatch(slot, None),
            Err(guest) => self.lobby.push_back(guest),
        }
    }

    fn await_header(&mut self, slot: SlotId) {
        let guest = self.slab.get_mut(slot).expect("just put there");
        let proxy = self.doors[guest.listener as usize].proxy.as_ref().expect("only such doors await headers");
        guest.state = State::Reading;
        if guest.brought.is_some() {
            return self.resume(slot);
        }
        let action = guest.waiting.start(&proxy.terms);
        self.deadlines.start(slot, proxy.class, guest.accepted_at);
        self.act(slot, action);
    }

    fn handle_read(&mut self, slot: SlotId, result: Result<u32, Errno>) {
        let Some(guest) = self.slab.get_mut(slot) else {
            self.tally.count(Count::Stale);
            return;
        };
        if let State::Cancelling(ending) = guest.state {
            let known = guest.waiting.taken();
            return self.close(slot, ending, known);
        }
        let proxy = self.doors[guest.listener as usize].proxy.as_ref().expect("only such doors await headers");
        let leaves = guest.state == State::Leaving;
        if leaves {
            self.leaving.as_mut().expect("until the last has left").read_ended();
        }
        let action = match result {
            Ok(_) if leaves && fault::present(Fault::BytesLeftBehind) => guest.waiting.again(&proxy.terms),
            Ok(count) => {
                if count > 0 && guest.waiting.is_silent() {
                    // Who was brought has its deadline already.
                    guest.prompt = guest.brought.is_none() && is_prompt(guest.accepted_at, self.now);
                    self.deadlines.heard(slot);
                }
                if fault::present(Fault::RearmedDeadline) {
                    self.deadlines.stop(slot);
                    self.deadlines.start(slot, proxy.class, self.now);
                }
                let driver = &self.driver;
                let known = guest.waiting.taken() + count;
                let action = guest.waiting.handle_read(count, |len| driver.bytes(slot.index, len), &proxy.terms);
                if let Action::Close(ending) = action {
                    return self.close(slot, ending, known);
                }
                action
            }
            Err(Errno(libc::EINTR | libc::EAGAIN)) => guest.waiting.again(&proxy.terms),
            Err(Errno(libc::ECANCELED)) if leaves => guest.waiting.again(&proxy.terms),
            Err(_) => Action::Close(guest.waiting.closed()),
        };
        self.act(slot, action);
    }

    fn act(&mut self, slot: SlotId, action: Action) {
        match action {
            Action::Read { at, how, room } => self.read(slot, at, how, room),
            Action::Close(ending) => self.close(slot, ending, 0),
            Action::Dispatch(admitted) => self.dispatch(slot, Some(admitted)),
        }
    }

    fn read(&mut self, slot: SlotId, at: u32, how: How, room: u32) {
        if self.leaving.is_some() && self.leaves(slot) {
            return self.depart(slot);
        }
        if self.driver.capacity(slot.index) < room {
            if !self.driver.lengthen(slot.index, at) {
                // Who comes next finds some free.
                let _ = (0..LONG_SPARE).all(|_| self.shed_long());
                return self.close(slot, Ending::Shed, at);
            }
            self.note_long(slot);
        }
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        let socket = guest.socket.as_ref().expect("it is not on offer");
        let mode = match how {
            How::Take => ReadMode::Take,
            How::Peek => ReadMode::Peek,
            How::Consume(len) => ReadMode::Consume(len),
        };
        self.driver.read(slot.index, slot.generation, socket, at, mode);
    }

    /// Offers a validated connection to its pool, behind those that wait for the same.
    fn dispatch(&mut self, slot: SlotId, admitted: Option<Admitted>) {
        self.settle(slot);
        if let Err(refusal) = self.admit_client(slot, admitted.as_ref()) {
            let known = self.slab.get_mut(slot).expect("the caller has it").waiting.taken();
            return self.close(slot, Ending::Refused(refusal), known);
        }
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        guest.state = State::Validated;
        let door = &self.doors[guest.listener as usize];
        let pool = door.relay.is_none().then_some(door.pool);
        let ends_tls = door.tls.is_some();
        if admitted.is_some() {
            self.tally.header_waited(self.now.saturating_duration_since(guest.accepted_at));
        }
        self.report_handed(slot, admitted);
        match pool {
            _ if ends_tls => self.shake_hands(slot, admitted),
            Some(pool) if !self.lines[pool].is_empty() || !self.offer(slot, admitted) => self.wait_in_line(slot, pool),
            Some(_) => {}
            None => _ = self.offer(slot, admitted),
        }
    }

    /// Door 2 for the client. What is the balancer's own (LOCAL, UNKNOWN, a check of a plain port) has none.
    fn admit_client(&mut self, slot: SlotId, admitted: Option<&Admitted>) -> Result<(), Refusal> {
        if self.clients.are_unlimited() {
            return Ok(());
        }
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        let door = &self.doors[guest.listener as usize];
        let client = admitted.map_or_else(|| door.plain_client(guest.peer.ip()), Admitted::client);
        let Some(client) = client else { return Ok(()) };
        let ticket = self.clients.admit(client, self.now)?;
        guest.permit = ticket.and_then(|ticket| permit(&self.clients, ticket));
        match self.clients.try_shadow(client, self.now) {
            Ok(None) => {}
            Ok(Some(ticket)) => guest.permit = with_shadow(guest.permit.take(), &self.clients, ticket),
            Err(refusal) => {
                door.counts.passed(Passage::of_shadow(refusal).0);
                self.report.would_refuse(door, refusal, client, guest.peer, self.now);
            }
        }
        Ok(())
    }

    /// Tells the log of a connection that has passed both doors, if the listener wants it or something looks wrong.
    fn report_handed(&mut self, slot: SlotId, admitted: Option<Admitted>) {
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        let door = &self.doors[guest.listener as usize];
        let handed = Handed {
            peer: guest.peer,
            local: door.local,
            listener: &door.info.name,
            ssl: door.info.ssl,
            admitted,
            bytes: self.driver.bytes(slot.index, guest.waiting.taken()),
            waited: self.now.saturating_duration_since(guest.accepted_at),
        };
        self.report.handed(door, &handed, self.now);
    }

    /// `false` if the connection has to wait in line.
    fn offer(&mut self, slot: SlotId, admitted: Option<Admitted>) -> bool {
        let guest = self.slab.get_mut(slot).expect("the caller has it");
        let door = &self.doors[guest.listener as usize];
        let handoff = guest.handoff(door, admitted.as_ref());
        let taken = guest.waiting.taken();
        if let Some(terms) = &door.relay {
            let bytes = self.driver.bytes(slot.index, taken);
            let session = self.relays.prepare(&self.driver, terms, handoff, bytes, false, self.now);
            self.relays.begin(&mut self.driver, session, self.now);
            self.count_handed(door, admitted.as_ref(), taken as usize);
            self.leave(slot);
            return true;
        }
        let Err(declined) = self.sink.offer(door.pool, handoff, self.driver.bytes(slot.index, taken), self.now) else {
            self.count_handed(door, admitted.as_ref(), taken as usize);
            self.leave(slot);
            return true;
        };
        if fault::present(Fault::LeakOnDecline) {
            std::mem::forget(declined);
            self.leave(slot);
            return true;
        }
        let (handoff, full) = match *declined {
            Declined::Full(handoff) => (handoff, true),
            Declined::Closed(handoff) => (handoff, false),
        };
        (guest.socket, guest.permit) = (Some(handoff.socket), handoff.permit);
        let wait = full && self.sink.overload(door.pool) == Overload::Pause;
        if !wait {
            self.close(slot, Ending::Overload, 0);
        }
        !wait
    }

    fn wait_in_line(&mut self, slot: SlotId, pool: usize) {
        self.begin_line(pool);
        self.lines[pool].push_back(InLine::Plain(slot));
    }

    /// Whoever waits first asks to be told when there is room.
    fn begin_line(&mut self, pool: usize) {
        if self.lines[pool].is_empty() {
            self.tally.count(Count::Paused);
            self.look_at_lines |= !self.sink.wake_when_low(pool);
        }
    }

    /// Offers again what waits in line, after a pool said that it has room.
    fn serve_lines(&mut self) {
        if !std::mem::take(&mut self.look_at_lines) {
            return;
        }
        for pool in 0..self.lines.len() {
            while let Some(&one) = self.lines[pool].front() {
                let taken = match one {
                    InLine::Plain(slot) => {
                        let admitted = self.admitted_again(slot);
                        self.offer(slot, admitted)
                    }
                    InLine::Secured(slot) => self.offer_kept(slot, pool),
                };
                if !taken {
                    self.look_at_lines |= !self.sink.wake_when_low(pool);
                    break;
                }
                self.lines[pool].pop_front();
            }
        }
    }

    /// The header of a connection in line; `None` if it came without one.
    fn admitted_again(&mut self, slot: SlotId) -> Option<Admitted> {
        let guest = self.slab.get_mut(slot).expect("those in line are in the slab");
        let proxy = self.doors[guest.listener as usize].proxy.as_ref()?;
        let bytes = self.driver.bytes(slot.index, guest.waiting.taken());
        guest.waiting.admitted_again(bytes, &proxy.terms)
    }

    /// Counts a connection that a pool has taken.
    fn count_handed(&self, door: &Door, admitted: Option<&Admitted>, bytes: usize) {
        let Some(admitted) = admitted else {
            door.counts.passed(Passage::Plain);
            return self.tally.count(Count::Plain);
        };
        let speaks = admitted.is_user_behind_local(bytes.saturating_sub(admitted.head().len()), door.info.ssl);
        let (count, [v1, v2]) = match speaks {
            true => (Count::LocalUser, [Passage::LocalUserV1, Passage::LocalUserV2]),
            false if admitted.is_local() => (Count::Local, [Passage::LocalV1, Passage::LocalV2]),
            false => (Count::Proxied, [Passage::ProxyV1, Passage::ProxyV2]),
        };
        self.tally.count(count);
        door.counts.passed(if admitted.head().version() == Version::V1 { v1 } else { v2 });
        if admitted.has_loopback_source() {
            self.tally.count(Count::LoopbackSource);
        }
        if admitted.has_port_zero() {
            self.tally.count(Count::PortZero);
        }
    }

    /// Deadlines that have passed: at most a batch a turn.
    fn expire(&mut self) {
        for _ in 0..BATCH_MAX {
            let Some(expired) = self.deadlines.expire(self.now) else { break };
            let guest = self.slab.get_mut(expired.slot).expect("who waits is in the slab");
            let proxy = self.doors[guest.listener as usize].proxy.as_ref().expect("only such doors have deadlines");
            match proxy.prompt_class {
                Some(class) if guest.prompt && expired.class != class => self.deadlines.prolong(expired.slot, class),
                _ => {
                    // spec 2 MAY "apply a short timeout"
                    // spec 2.2 MUST "reject partial protocol headers"
                    let ending = guest.waiting.expired();
                    self.cancel(expired.slot, ending);
                }
            }
        }
        // Whose turn to leave has not come yet is not given up.
        let all_asked = self.leaving.as_ref().is_none_or(Leaving::has_asked_all);
        if all_asked && self.draining.is_some_and(|draining| draining.pending_until <= self.now) {
            for _ in 0..BATCH_MAX {
                let Some(slot) = self.deadlines.shed(self.now) else { break };
                self.cancel(slot, Ending::Drained);
            }
        }
    }

    /// Makes room for one more whose header is awaited.
    fn shed(&mut self) {
        let long_ago = self.now.checked_sub(LONG_SILENCE).unwrap_or(self.now);
        if let Some(slot) = self.of_the_most(self.deadlines.to_shed(long_ago)) {
            self.deadlines.stop(slot);
            self.cancel(slot, Ending::Shed);
        }
    }

    /// Of slots that would make room in this order, one of the peer that has most of them: other peers keep their places.
    fn of_the_most(&self, slots: impl Iterator<Item = SlotId>) -> Option<SlotId> {
        of_the_most(slots.filter_map(|slot| Some((slot, self.slab.get(slot)?.peer.ip()))))
    }

    /// A slot has got a longer buffer: when few are left, one who has held his for long makes room.
    fn note_long(&mut self, slot: SlotId) {
        // Those that are over are still among them.
        if self.long.len() >= 2 * LONG_MAX {
            let slab = &self.slab;
            self.long.retain(|slot| slab.get(*slot).is_some());
        }
        if self.driver.longer_left() < LONG_SPARE {
            self.shed_long();
        }
        // Behind that: no read of him is in flight yet.
        self.long.push_back(slot);
    }

    /// `false`: nobody has held his for long, and looking again would find nobody either.
    fn shed_long(&mut self) -> bool {
        while self.long.front().is_some_and(|slot| self.slab.get(*slot).is_none()) {
            self.long.pop_front();
        }
        let now = self.now;
        let is_old = |slot: &SlotId| {
            let guest = self.slab.get(*slot);
            guest.is_some_and(|guest| guest.state == State::Reading && now >= guest.accepted_at + LONG_SILENCE)
        };
        let Some(slot) = self.of_the_most(self.long.iter().copied().filter(is_old)) else { return false };
        self.deadlines.stop(slot);
        self.cancel(slot, Ending::Shed);
        true
    }

    /// Makes room for those in the backlogs at the cost of those who have said nothing for long. The end of each ends the
    /// accept's rest.
    fn shed_silent(&mut self) {
        for _ in 0..if self.draining.is_none() { SHED_AT_ONCE } else { 0 } {
            let Some(slot) = self.deadlines.longest_silent() else { break };
            let guest = self.slab.get_mut(slot).expect("who waits is in the slab");
            // Not since the wait began: that of one from another process begins at its deadline.
            if self.now < guest.accepted_at + LONG_SILENCE {
                break;
            }
            self.deadlines.stop(slot);
            self.cancel(slot, Ending::Shed);
        }
    }

    /// Asks for the end of a connection's read; its completion closes the connection.
    fn cancel(&mut self, slot: SlotId, ending: Ending) {
        let guest = self.slab.get_mut(slot).expect("who waits is in the slab");
        debug_assert_eq!(guest.state, State::Reading, "only reads can be cancelled");
        guest.state = State::Cancelling(ending);
        self.driver.cancel_read(slot.index, slot.generation);
    }

    /// Closes a connection that has no read in flight; `known` bytes of its buffer tell what came.
    fn close(&mut self, slot: SlotId, ending: Ending, known: u32) {
        self.settle(slot);
        let Some(guest) = self.slab.remove(slot) else { return };
        self.conclude(&guest, ending, self.driver.bytes(slot.index, known));
        self.driver.release(slot.index);
        self.descriptors_freed = true;
    }

    /// Its header is not awaited any more.
    fn settle(&mut self, slot: SlotId) {
        self.deadlines.stop(slot);
        let Some(guest) = self.slab.get_mut(slot) else { return };
        if std::mem::take(&mut guest.pending) {
            self.doors[guest.listener as usize].settle(guest.peer.ip(), &mut self.peers);
        }
    }

    /// Counts and reports the end of a connection.
    fn conclude(&self, guest: &Guest<D::Socket>, ending: Ending, bytes: &[u8]) {
        let door = &self.doors[guest.listener as usize];
        let rules = door.rules();
        door.counts.ended(ending);
        let waited = self.now.saturating_duration_since(guest.accepted_at);
        self.report.ended(
            door,
            ending,
            &Record { peer: guest.peer, local: door.local, bytes, rules, waited },
            None,
            self.now,
        );
    }

    /// Frees the slot of a connection that has been handed over.
    fn leave(&mut self, slot: SlotId) {
        if !fault::present(Fault::LostSlot) {
            self.slab.remove(slot);
        }
        self.driver.release(slot.index);
    }

    /// Gives slots to those who came when none was free; whose time is up goes without.
    fn empty_lobby(&mut self) {
        if self.lobby.is_empty() {
            return;
        }
        for guest in std::mem::take(&mut self.lobby) {
            match self.lobby_deadline(&guest) {
                Some(deadline) if deadline <= self.now => {
                    self.descriptors_freed = true;
                    self.doors[guest.listener as usize].settle(guest.peer.ip(), &mut self.peers);
                    self.conclude(&guest, guest.waiting.expired(), &[]);
                }
                _ => self.lobby.push_back(guest),
            }
        }
        while !self.slab.is_full() {
            let Some(guest) = self.lobby.pop_front() else { break };
            self.admit(guest);
        }
    }

    fn lobby_deadline(&self, guest: &Guest<D::Socket>) -> Option<Instant> {
        if let Some(brought) = &guest.brought {
            return Some(brought.deadline);
        }
        let proxy = self.doors[guest.listener as usize].proxy.as_ref().filter(|_| guest.pending)?;
        Some(self.deadlines.deadline(proxy.class, guest.accepted_at))
    }

    /// Arms, cancels or closes accepts, as the state of slots, pools and shutdown demands.
    fn tend_doors(&mut self) {
        let freed = std::mem::take(&mut self.descriptors_freed);
        for listener in 0..self.doors.len() {
            let door = &mut self.doors[listener];
            let index = listener as u32;
            if self.retired > 0 && !door.is_present() {
                self.tend_retired(index, freed);
                continue;
            }
            let has_line = door.relay.is_none() && !self.lines[door.pool].is_empty();
            if self.draining.is_none() && self.lobby.is_empty() && !has_line {
                if door.arm(self.now, freed) {
                    self.driver.accept(index);
                }
                continue;
            }
            if door.disarm() {
                self.driver.cancel_accept(index);
            }
            if self.draining.is_none() {
                door.rise();
            } else if door.is_ready(self.now, freed) {
                self.sweep(index);
            }
        }
    }

    /// Whether connections wait for room in the queue of a door's pool.
    fn has_line(&self, door: &Door) -> bool {
        door.relay.is_none() && !self.lines[door.pool].is_empty()
    }

    /// Takes in what waits in the backlog of a listener whose accept has ended, and closes the listener. If descriptors
    /// run out meanwhile it comes back after a rest, as long as headers are awaited.
    fn sweep(&mut self, listener: u32) {
        let awaited = self.draining.is_none_or(|draining| self.now < draining.pending_until);
        // More than one backlog cannot wait; what comes while we sweep may be let in twice as often.
        for _ in 0..2 * BACKLOG {
            match self.driver.accept_now(listener) {
                Ok(Some((socket, peer))) => self.handle_accepted(listener, socket, peer),
                Ok(None) => break,
                Err(errno) => {
                    self.handle_accept_failed(listener, errno, false);
                    let door = &mut self.doors[listener as usize];
                    if door.is_closed() {
                        return;
                    }
                    if !awaited {
                        break;
                    }
                    return door.rest_briefly(self.now);
                }
            }
        }
        self.doors[listener as usize].close();
        self.driver.close_listener(listener);
    }

    fn is_finished(&self) -> bool {
        self.draining.is_some()
            && self.slab.is_empty()
            && self.lobby.is_empty()
            && self.relays.is_empty()
            && self.handshakes.is_empty()
            && self.doors.iter().all(|door| door.is_closed() || door.is_vacant())
    }

    /// How long the next wait may be.
    fn patience(&self) -> Option<Duration> {
        if self.look_at_lines || self.leaving.as_ref().is_some_and(|leaving| !leaving.has_asked_all()) {
            return Some(Duration::ZERO);
        }
        let pending = self.draining.filter(|_| !self.deadlines.is_empty()).map(|draining| draining.pending_until);
        let rests = self.doors.iter().filter_map(Door::rests_until);
        let lobby = self.lobby.iter().filter_map(|guest| self.lobby_deadline(guest));
        let served =
            [self.relays.due(self.now), self.handshakes.due(self.now), self.gathered.due()].into_iter().flatten();
        let all = self.deadlines.next_deadline().into_iter().chain(pending).chain(rests).chain(lobby).chain(served);
        let next = all.min()?;
        Some(next.saturating_duration_since(self.now))
    }
}

/// Whether data were there at once, so that TCP_DEFER_ACCEPT has taken nothing of the time.
fn is_prompt(accepted_at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(accepted_at) <= PROMPT
}

/// Makes a client's count go down when the connection ends, wherever that is.
fn permit(clients: &Clients, ticket: Ticket) -> Option<Permit> {
    clients.table().map(|table| Permit::new(table.clone(), ticket.token()))
}

/// The same beside the count of limits that are only tried.
fn with_shadow(permit: Option<Permit>, clients: &Clients, ticket: Ticket) -> Option<Permit> {
    let shadow = clients.shadow_table().map(|table| Permit::new(table.clone(), ticket.token()));
    Some(Permit::new(Arc::new(Both { _permits: [permit, shadow] }), 0))
}

/// Two counts that one connection has; both go down when it is dropped.
struct Both {
    _permits: [Option<Permit>; 2],
}

impl Release for Both {
    /// Its owner is dropped right behind.
    fn release(&self, _: u64) {}
}

impl Release for ClientTable {
    fn release(&self, token: u64) {
        ClientTable::release(self, Ticket::from_token(token));
    }
}

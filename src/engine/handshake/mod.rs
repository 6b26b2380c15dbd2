//! TLS handshakes of one ring: between door 2 and whoever serves, for connections of listeners that end TLS.
//!
//! ```text
//! acceptor --door 2--> begin --Ready--> next_ready, step --complete--> pool or relay, with a session
//!                        |                     '--fails--> counted, told        of clients: told by an alert
//!                        '-- deadline; too many: one makes room
//! ```
//! Where there are threads for it (`ssl_handshake_threads`), what a client has sent is computed by one of them; the ring reads
//! and sends, and does the rest only of what the threads have no room for.
//!
//! A client that says nothing costs a place in the table and a watch, and no thread. What computes is bounded: at most
//! [`HANDSHAKES_A_TURN`] steps a turn, the others are next in the turns that follow, so that nobody else on the ring is
//! held up.
//!
//! Invariants: a connection is in the table until it is given back, once, complete or not; while its handshake is awaited it
//! is watched and has one deadline, from the beginning on, whatever trickles in, and whoever computes. What comes back from a
//! thread finds its connection by slot and generation, or nothing.

mod log;
#[cfg(all(test, feature = "tls"))]
mod plain_pools;
#[cfg(all(test, feature = "tls"))]
pub(crate) mod tests;
mod threads;

pub use log::{Failures, failure_words};
#[cfg(all(test, feature = "tls"))]
pub use threads::Task;
pub use threads::{Entrance, Given, HANDSHAKE_THREADS_MAX, Threads};

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::acceptor::LONG_SILENCE;
use super::fault::{self, Fault};
use super::records::send_records;
use crate::conn::{Admitted, Deadlines, Slab, SlotId, household, of_the_most};
use crate::dispatch::{Cut, Handoff, TlsFailure, TlsHandshake};
use crate::ring::{Errno, Streams};
use threads::Fed;

/// Handshakes that compute in one turn of a ring: a full one takes a fraction of a millisecond.
pub const HANDSHAKES_A_TURN: usize = 8;
/// Bytes read from a client at once.
const READ_AT_ONCE: usize = 16 * 1024;
/// Where the places of handshakes begin among those of watched sockets: behind those of sessions.
pub const FIRST_PLACE: u32 = 1 << 30;

/// A connection that has passed both doors, and its handshake.
pub struct Guest<S> {
    /// Index of its door.
    pub listener: u32,
    /// What whoever serves gets; with the session once that stands.
    pub handoff: Handoff<S>,
    /// How its header was judged.
    pub admitted: Option<Admitted>,
    /// Its header, and what came right behind.
    pub bytes: Box<[u8]>,
    /// Until the session stands, and is in the hand-off; not while a thread has it.
    pub handshake: Option<Box<dyn TlsHandshake>>,
    /// A thread has its handshake.
    pub is_away: bool,
    /// Bytes of the client's have come.
    pub begun: bool,
    /// Its socket may have more than was read.
    has_more: bool,
    /// It is among those that have something to do, or will be when its handshake is back.
    pub is_ready: bool,
}

/// What became of a step.
pub enum Step<S> {
    /// More has to come.
    Waits,
    /// The session stands.
    Complete(Guest<S>),
    /// It fails.
    Failed(Guest<S>, TlsFailure),
}

/// The handshakes of a ring.
pub struct Handshakes<S> {
    guests: Slab<Guest<S>>,
    limit: u32,
    /// Made with the first handshake: most rings have none.
    deadlines: Option<Deadlines>,
    /// Those that have something to do, in the order in which they were told so.
    ready: VecDeque<SlotId>,
    /// What threads have, where there are some.
    given: Option<Given>,
    scratch: Box<[u8]>,
    /// By when all have to end.
    closes_at: Option<Instant>,
}

impl<S> Handshakes<S> {
    /// No handshake yet, and never more than `limit`; `given` is the way to threads.
    pub fn new(limit: u32, given: Option<Given>) -> Handshakes<S> {
        Handshakes {
            guests: Slab::new(limit),
            limit,
            deadlines: None,
            ready: VecDeque::new(),
            given,
            // Zeroed by the kernel when it is touched first: a ring without handshakes pays nothing.
            scratch: vec![0; READ_AT_ONCE].into(),
            closes_at: None,
        }
    }

    /// Whether there is none, nor a session that waits for room in its pool.
    pub fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// When there is something to do though nothing happens.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if !self.ready.is_empty() || self.given.as_ref().is_some_and(Given::has_some_back) {
            return Some(now);
        }
        let deadlines = self.deadlines.as_ref().filter(|deadlines| !deadlines.is_empty())?;
        if fault::present(Fault::SleptThrough) {
            return None;
        }
        deadlines.next_deadline().into_iter().chain(self.closes_at).min()
    }

    /// Ends all handshakes within a time, also those that begin meanwhile.
    pub fn close_within(&mut self, limit: Duration, now: Instant) {
        self.closes_at = Some(now + limit);
    }

    /// Begins a handshake. Whoever has to make room for it comes back: one that has been silent for long, or else one that has
    /// waited longest, and of several in this order one of the client that has most of them. If nobody waits, it is the
    /// newcomer itself.
    pub fn begin<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        mut guest: Guest<S>,
        timeout: Duration,
        now: Instant,
    ) -> Option<Guest<S>> {
        let makes_room = if self.guests.is_full() { self.shed(driver, now) } else { None };
        let early = guest.bytes.len() > guest.header_length();
        guest.is_ready = early;
        match self.guests.insert(guest) {
            Ok(slot) => {
                let deadlines = self.deadlines.get_or_insert_with(|| Deadlines::new(self.limit, now));
                let class = deadlines.class(timeout, false);
                deadlines.start(slot, class, now);
                if early {
                    self.ready.push_back(slot);
                }
                let guest = self.guests.get_mut(slot).expect("just put there");
                driver.watch(place(slot), slot.generation, &guest.handoff.socket);
                makes_room
            }
            Err(guest) => Some(guest),
        }
    }

    /// Takes out who makes room for another one.
    fn shed<D: Streams<Socket = S>>(&mut self, driver: &mut D, now: Instant) -> Option<Guest<S>> {
        // Who has just come has had no time to speak.
        let long_ago = now.checked_sub(LONG_SILENCE).unwrap_or(now);
        let guests = &self.guests;
        let client = |slot| Some((slot, household(guests.get(slot)?.handoff.client().ip())));
        let slot = of_the_most(self.deadlines.as_ref()?.to_shed(long_ago).filter_map(client))?;
        Some(self.take(driver, slot))
    }

    /// A watched socket is ready.
    pub fn handle_ready<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        place: u32,
        generation: u32,
        readable: bool,
        armed: bool,
    ) {
        let slot = SlotId { index: place - FIRST_PLACE, generation };
        // One that has ended meanwhile: the end of its watch was asked for.
        let Some(guest) = self.guests.get_mut(slot).filter(|guest| guest.is_awaited()) else { return };
        if !armed {
            driver.watch(place, generation, &guest.handoff.socket);
        }
        // That a client that has said nothing can be written to is nothing to act on.
        if (readable || guest.begun) && !std::mem::replace(&mut guest.is_ready, true) && !guest.is_away {
            self.ready.push_back(slot);
        }
    }

    /// Does what is to be done for one whose handshake is back from a thread, or else for the one that was told first to have
    /// something to do; `None` if nobody has.
    pub fn step<D: Streams<Socket = S>>(&mut self, driver: &mut D) -> Option<Step<S>> {
        if let Some((slot, fed)) = self.take_back() {
            return Some(self.go_on_with(driver, slot, fed));
        }
        let slot = self.ready.pop_front()?;
        let Some(guest) = self.guests.get_mut(slot) else { return Some(Step::Waits) };
        guest.is_ready = false;
        let heard = guest.begun;
        let taken = guest.take_in(driver, &mut self.scratch, self.given.as_mut().map(|given| (given, slot)));
        if guest.begun
            && !heard
            && let Some(deadlines) = &mut self.deadlines
        {
            deadlines.heard(slot);
        }
        Some(match taken {
            Ok(Taken::Away) => Step::Waits,
            Ok(Taken::Fed(result)) => self.go_on_with(driver, slot, result),
            Err(failure) => Step::Failed(self.take(driver, slot), failure),
        })
    }

    /// The next that a thread has done for somebody who is still there.
    fn take_back(&mut self) -> Option<(SlotId, Result<(), TlsFailure>)> {
        let given = self.given.as_mut()?;
        while let Some(Fed { mut slot, handshake, result }) = given.take_back() {
            if fault::present(Fault::StrayStep) {
                slot = self.guests.id_of(slot.index).unwrap_or(slot);
            }
            if let Some(guest) = self.guests.get_mut(slot) {
                guest.handshake = handshake;
                guest.is_away = false;
                return Some((slot, result));
            }
        }
        None
    }

    /// Sends what came of the client's bytes, and looks whether the session stands.
    fn go_on_with<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        fed: Result<(), TlsFailure>,
    ) -> Step<S> {
        let guest = self.guests.get_mut(slot).expect("the caller has it");
        match guest.answer(driver, &mut self.scratch, fed) {
            Ok(false) => {
                if guest.is_ready || guest.has_more {
                    guest.is_ready = true;
                    self.ready.push_back(slot);
                }
                Step::Waits
            }
            Ok(true) => Step::Complete(self.take(driver, slot)),
            Err(failure) => Step::Failed(self.take(driver, slot), failure),
        }
    }

    /// One whose time is up, and why.
    pub fn expire<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        now: Instant,
    ) -> Option<(Guest<S>, Option<TlsFailure>)> {
        let deadlines = self.deadlines.as_mut()?;
        if let Some(expired) = deadlines.expire(now) {
            let guest = self.take(driver, expired.slot);
            let failure = if guest.is_away { late_here() } else { TlsFailure::late() };
            return Some((guest, Some(failure)));
        }
        self.closes_at.filter(|at| *at <= now)?;
        let slot = deadlines.shed(now)?;
        Some((self.take(driver, slot), None))
    }

    /// Keeps a connection whose session stands, until its pool has room; it has no deadline any more. `Err`: there is no
    /// place for it.
    pub fn keep(&mut self, guest: Guest<S>) -> Result<SlotId, Box<Guest<S>>> {
        self.guests.insert(guest).map_err(Box::new)
    }

    /// Gives back one that was kept.
    pub fn kept(&mut self, slot: SlotId) -> Option<Guest<S>> {
        self.guests.remove(slot)
    }

    /// Takes all out, without a word to the ring, which has failed. Nothing may follow.
    pub fn forsake(&mut self) -> Vec<Guest<S>> {
        let all: Vec<SlotId> = self.guests.ids().collect();
        all.into_iter().filter_map(|slot| self.guests.remove(slot)).collect()
    }

    fn take<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId) -> Guest<S> {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.stop(slot);
        }
        driver.unwatch(place(slot), slot.generation);
        self.guests.remove(slot).expect("the caller has it")
    }
}

fn place(slot: SlotId) -> u32 {
    FIRST_PLACE + slot.index
}

impl<S> Guest<S> {
    /// A connection whose handshake has not begun.
    pub fn new(
        listener: u32,
        handoff: Handoff<S>,
        admitted: Option<Admitted>,
        bytes: &[u8],
        handshake: Box<dyn TlsHandshake>,
    ) -> Guest<S> {
        Guest {
            listener,
            handoff,
            admitted,
            bytes: bytes.into(),
            handshake: Some(handshake),
            is_away: false,
            begun: false,
            has_more: false,
            is_ready: false,
        }
    }

    /// A connection whose session stands.
    pub fn established(listener: u32, handoff: Handoff<S>, admitted: Option<Admitted>, bytes: Box<[u8]>) -> Guest<S> {
        let (handshake, is_away, begun, has_more, is_ready) = (None, false, true, false, false);
        Guest { listener, handoff, admitted, bytes, handshake, is_away, begun, has_more, is_ready }
    }

    fn header_length(&self) -> usize {
        self.handoff.head.map_or(0, |head| head.len())
    }

    /// Whether its session does not stand yet.
    fn is_awaited(&self) -> bool {
        self.handshake.is_some() || self.is_away
    }

    /// Takes what the client has sent and gives it to a thread, or computes it here.
    fn take_in<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        scratch: &mut [u8],
        mut given: Option<(&mut Given, SlotId)>,
    ) -> Result<Taken, TlsFailure> {
        let header = self.header_length();
        let mut handshake = self.handshake.take().expect("it is awaited, and here");
        let early = !self.begun && self.bytes.len() > header;
        self.has_more = true;
        let mut fed = Ok(());
        let mut next = early.then(|| &self.bytes[header..]);
        while fed.is_ok() && !handshake.is_complete() {
            let bytes = match next.take() {
                Some(early) => early,
                None if !self.has_more => break,
                None => match driver.receive(&self.handoff.socket, scratch) {
                    Ok(0) => return Err(self.cut(handshake, Cut::Closed)),
                    Ok(count) => {
                        self.has_more = count == scratch.len();
                        &scratch[..count]
                    }
                    Err(Errno(libc::EAGAIN)) => {
                        self.has_more = false;
                        break;
                    }
                    Err(Errno(libc::EINTR)) => continue,
                    Err(errno) => return Err(self.cut(handshake, broken(errno))),
                },
            };
            self.begun = true;
            if let Some((given, slot)) = &mut given {
                match given.give(*slot, handshake, bytes) {
                    Ok(()) => {
                        self.is_away = true;
                        return Ok(Taken::Away);
                    }
                    Err(back) => handshake = back,
                }
            }
            fed = handshake.feed(bytes);
            if fault::present(Fault::DoubledFeed) && fed.is_ok() {
                fed = handshake.feed(bytes);
            }
        }
        self.handshake = Some(handshake);
        Ok(Taken::Fed(fed))
    }

    /// Sends what is to be sent; `true` when the session stands and is in the hand-off.
    fn answer<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        scratch: &mut [u8],
        fed: Result<(), TlsFailure>,
    ) -> Result<bool, TlsFailure> {
        // A thread that has panicked has brought none.
        let Some(handshake) = &mut self.handshake else { return fed.map(|()| false) };
        let sent = send_records(driver, &self.handoff.socket, &mut **handshake, scratch);
        fed?;
        match sent {
            Ok(sent) if sent.all && handshake.is_complete() => {
                self.handoff.tls = self.handshake.take().map(TlsHandshake::into_session);
                Ok(true)
            }
            Ok(_) => {
                // Of what comes behind the handshake nothing is read here.
                self.has_more &= !handshake.is_complete();
                Ok(false)
            }
            Err(errno) => Err(handshake.cut(broken(errno))),
        }
    }

    /// Why it fails that is cut short now; its handshake is kept for who tells of it.
    fn cut(&mut self, handshake: Box<dyn TlsHandshake>, cut: Cut) -> TlsFailure {
        self.handshake.insert(handshake).cut(cut)
    }
}

/// What became of what a client has sent.
enum Taken {
    /// A thread has it.
    Away,
    /// It was computed here.
    Fed(Result<(), TlsFailure>),
}

fn broken(errno: Errno) -> Cut {
    match errno {
        Errno(libc::ECONNRESET | libc::EPIPE) => Cut::Closed,
        Errno(errno) => Cut::Broken(io::Error::from_raw_os_error(errno)),
    }
}

/// Why it fails whose deadline has passed before a thread had done its part.
fn late_here() -> TlsFailure {
    let words = "no handshake thread had time for it (ssl_handshake_threads)".to_owned();
    TlsFailure { code: Some("threads"), is_how_checks_end: false, words }
}

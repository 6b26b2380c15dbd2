//! The thread that hands connections to receivers and hears what they say.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};

use super::place::Place;
use super::wire::{MESSAGE_MAX, Word, write_record};
use crate::dispatch::{Accepted, Intake, Losses, Permit};

/// Receivers at a time; more are turned away.
const RECEIVERS_MAX: usize = 1024;
/// Rest after a receiver's socket was full, or the system had no room for the descriptor.
const REST: Duration = Duration::from_millis(5);
/// How often an office that cannot pass anything on looks whether its pool is closed.
const LOOK: Duration = Duration::from_millis(250);
/// How long a closed pool waits for a receiver to come for what is left.
const ABANDON: Duration = Duration::from_secs(10);

pub(super) struct Office {
    intake: Intake,
    losses: Arc<Losses>,
    place: Place,
    take_patience: Duration,
    bell: Arc<Bell>,
    waker: Waker,
    receivers: Vec<Receiver>,
    /// To be offered again, before anything from the queue.
    returned: VecDeque<Accepted>,
    next_id: u64,
    record: Vec<u8>,
    /// Since when the pool is closed; its queue is empty then.
    closed: Option<Instant>,
}

/// A process that takes connections.
struct Receiver {
    socket: OwnedFd,
    /// As it has said; 0 before it has.
    capacity: usize,
    /// By id, so in the order in which they were offered.
    held: BTreeMap<u64, Held>,
    /// When it may be offered something again.
    rests_until: Option<Instant>,
    /// The id of the last connection that it was offered.
    last: u64,
    /// Nothing more comes: it was told so.
    told: bool,
}

/// A connection that a receiver has.
enum Held {
    /// It may not know yet; nobody reads from the socket.
    Offered { connection: Box<Accepted>, until: Instant },
    /// It is the receiver's.
    Taken { client: SocketAddr, _permit: Option<Permit> },
}

/// What has happened meanwhile.
#[derive(Default)]
struct Ready {
    /// Somebody wants to become a receiver.
    newcomers: bool,
    /// The places of receivers that have said something.
    receivers: Vec<usize>,
}

/// What became of an offer.
enum Offer {
    Made,
    Full(Accepted),
    Gone(Accepted),
    /// Nobody could take it.
    Impossible(SocketAddr, Errno),
}

/// Wakes the office.
struct Bell(OwnedFd);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Office {
    pub(super) fn new(intake: Intake, place: Place, take_patience: Duration) -> io::Result<Office> {
        let bell = Arc::new(Bell(rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?));
        Ok(Office {
            losses: intake.losses(),
            intake,
            place,
            take_patience,
            waker: Waker::from(bell.clone()),
            bell,
            receivers: Vec::new(),
            returned: VecDeque::new(),
            next_id: 0,
            record: Vec::new(),
            closed: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.intake.name()
    }

    /// Until the pool is closed and the receivers are done.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            self.note_end(now);
            self.offer_all(now);
            if self.closed.is_some_and(|since| self.wind_up(since, now)) {
                return;
            }
            let ready = self.wait(now);
            if ready.newcomers {
                self.receive();
            }
            // From the last on, since those that go change places with it. One message each: who has said more is ready again.
            for place in ready.receivers.into_iter().rev() {
                if let Err(why) = self.receivers[place].hear() {
                    self.dismiss(place, Some(why));
                }
            }
            self.dismiss_late(Instant::now());
        }
    }

    /// Offers what there is to whoever has room.
    fn offer_all(&mut self, now: Instant) {
        for receiver in &mut self.receivers {
            receiver.rests_until = receiver.rests_until.filter(|until| *until > now);
        }
        while let Some(place) = self.roomiest() {
            let Some(connection) = self.returned.pop_front().or_else(|| self.pull(now)) else { return };
            match self.offer(place, connection, now) {
                Offer::Made => {}
                Offer::Full(connection) => {
                    self.receivers[place].rests_until = Some(now + REST);
                    self.returned.push_front(connection);
                }
                Offer::Gone(connection) => {
                    self.returned.push_front(connection);
                    self.dismiss(place, None);
                }
                Offer::Impossible(client, error) => {
                    self.losses.record(client, &format_args!("it cannot be handed off: {error}"));
                }
            }
        }
    }

    /// Empties the queue of a pool that is closed: nothing more comes, and somebody has to know what is left.
    fn note_end(&mut self, now: Instant) {
        while self.closed.is_none() && self.intake.is_closed() {
            let last = self.pull(now);
            self.returned.extend(last);
        }
    }

    fn pull(&mut self, now: Instant) -> Option<Accepted> {
        if self.closed.is_some() {
            return None;
        }
        match self.intake.poll_recv(&self.waker) {
            Poll::Ready(Some(connection)) => Some(connection),
            Poll::Ready(None) => {
                self.closed = Some(now);
                None
            }
            Poll::Pending => None,
        }
    }

    /// The receiver with the fewest connections that has room for one more; of several the one that has waited longest.
    fn roomiest(&self) -> Option<usize> {
        let has_room = |receiver: &Receiver| {
            receiver.held.len() < receiver.capacity && !receiver.told && receiver.rests_until.is_none()
        };
        let able = self.receivers.iter().enumerate().filter(|(_, receiver)| has_room(receiver));
        able.min_by_key(|(_, receiver)| (receiver.held.len(), receiver.last)).map(|(place, _)| place)
    }

    fn offer(&mut self, place: usize, connection: Accepted, now: Instant) -> Offer {
        let receiver = &mut self.receivers[place];
        write_record(self.next_id, &connection, &mut self.record);
        match send(&receiver.socket, &connection, &self.record) {
            Ok(()) => {
                receiver.held.insert(
                    self.next_id,
                    Held::Offered { connection: Box::new(connection), until: now + self.take_patience },
                );
                receiver.last = self.next_id;
                self.next_id += 1;
                Offer::Made
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS | Errno::INTR) => {
                Offer::Full(connection)
            }
            Err(error @ (Errno::MSGSIZE | Errno::INVAL)) => Offer::Impossible(connection.client(), error),
            Err(_) => Offer::Gone(connection),
        }
    }

    /// Tells the receivers of a pool that has been closed `since` then, once nothing is left for them, and gives up what
    /// nobody comes for. Tells whether all is over.
    fn wind_up(&mut self, since: Instant, now: Instant) -> bool {
        let offered = |receiver: &Receiver| receiver.held.values().any(|held| matches!(held, Held::Offered { .. }));
        if self.returned.is_empty() && !self.receivers.iter().any(offered) {
            for receiver in self.receivers.iter_mut().filter(|receiver| !receiver.told) {
                receiver.told = true;
                let _ = rustix::net::shutdown(&receiver.socket, Shutdown::Write);
            }
        }
        if since + ABANDON <= now && self.receivers.is_empty() {
            for connection in self.returned.drain(..) {
                self.losses.record(connection.client(), &"no receiver has come for it");
            }
        }
        self.returned.is_empty() && self.receivers.iter().all(|receiver| receiver.held.is_empty())
    }

    /// Waits until something has happened.
    fn wait(&self, now: Instant) -> Ready {
        let mut sockets = vec![PollFd::new(&self.bell.0, PollFlags::IN), PollFd::new(&self.place, PollFlags::IN)];
        sockets.extend(self.receivers.iter().map(|receiver| PollFd::new(&receiver.socket, PollFlags::IN)));
        let next = self.receivers.iter().filter_map(Receiver::next_deadline).min();
        let look =
            self.receivers.iter().all(|receiver| receiver.held.len() >= receiver.capacity) || self.closed.is_some();
        let left = next.map(|next| next.saturating_duration_since(now)).into_iter().chain(look.then_some(LOOK)).min();
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        if rustix::event::poll(&mut sockets, limit.as_ref()).is_err() {
            return Ready::default();
        }
        let mut ready = sockets.iter().map(|socket| !socket.revents().is_empty());
        if ready.next() == Some(true) {
            let _ = rustix::io::read(&self.bell.0, &mut [0; 8]);
        }
        let newcomers = ready.next() == Some(true);
        Ready { newcomers, receivers: ready.enumerate().filter(|(_, ready)| *ready).map(|(place, _)| place).collect() }
    }

    /// Lets new receivers in.
    fn receive(&mut self) {
        while let Ok(socket) = self.place.accept() {
            if self.receivers.len() < RECEIVERS_MAX {
                self.receivers.push(Receiver::new(socket));
            }
        }
    }

    /// Lets a receiver go. What it says until our end is shut counts; after that it can say nothing any more, and whoever is
    /// slow learns by that that it must not touch what it was offered.
    fn dismiss(&mut self, place: usize, why: Option<String>) {
        let mut receiver = self.receivers.swap_remove(place);
        let _ = rustix::net::shutdown(&receiver.socket, Shutdown::Both);
        // Not for ever: its socket's buffer is bounded, and nobody can write to it now.
        while receiver.hear().is_ok_and(|heard| heard) {}
        let (name, held) = (self.intake.name(), receiver.held.len());
        if let Some(why) = why {
            tracing::warn!(service = name, "a receiver is let go: {why}");
        }
        tracing::debug!(service = name, "a receiver has left, with {held} connections");
        for held in std::mem::take(&mut receiver.held).into_values() {
            match held {
                Held::Offered { connection, .. } => self.returned.push_back(*connection),
                Held::Taken { client, .. } => self.losses.record(client, &"its receiver has gone"),
            }
        }
    }

    /// Lets those go that have been offered something long ago and have not taken it.
    fn dismiss_late(&mut self, now: Instant) {
        for place in (0..self.receivers.len()).rev() {
            if self.receivers[place].first_offer().is_some_and(|until| until <= now) {
                self.dismiss(place, Some("it does not take what it is offered".to_owned()));
            }
        }
    }
}

impl Held {
    /// `false`: it was taken before.
    fn take(&mut self) -> bool {
        let Held::Offered { connection, .. } = self else { return false };
        let taken = Held::Taken { client: connection.client(), _permit: connection.take_permit() };
        *self = taken;
        true
    }
}

impl Receiver {
    fn new(socket: OwnedFd) -> Receiver {
        Receiver { socket, capacity: 0, held: BTreeMap::new(), rests_until: None, last: 0, told: false }
    }

    /// Hears one message; `false` if there is none yet.
    ///
    /// # Errors
    /// Why it is to go.
    fn hear(&mut self) -> Result<bool, String> {
        let mut message = [const { MaybeUninit::uninit() }; MESSAGE_MAX];
        match rustix::net::recv(&self.socket, &mut message[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) => Err("it has closed".to_owned()),
            Ok((_, length)) if length > MESSAGE_MAX => Err(format!("a message of {length} bytes")),
            Ok(((heard, _), _)) => self.obey(heard).map(|()| true),
            Err(Errno::AGAIN) => Ok(false),
            // Told before what it has said: it went without having read everything.
            Err(Errno::INTR | Errno::CONNRESET) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    fn obey(&mut self, message: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(message).map_err(|_| "it says what is no text".to_owned())?;
        text.lines().try_for_each(|line| self.obey_word(Word::read(line).map_err(|nonsense| nonsense.to_string())?))
    }

    fn obey_word(&mut self, word: Word) -> Result<(), String> {
        let known = match word {
            Word::Hello(capacity) => {
                self.capacity = capacity;
                true
            }
            Word::Taken(id) => self.take(id),
            Word::Done(id) => self.end(id),
        };
        if known { Ok(()) } else { Err(format!("it does not have what it speaks of: {word:?}")) }
    }

    /// Its own descriptor is another: ours is closed.
    fn take(&mut self, id: u64) -> bool {
        self.held.get_mut(&id).is_some_and(Held::take)
    }

    fn end(&mut self, id: u64) -> bool {
        let is_taken = matches!(self.held.get(&id), Some(Held::Taken { .. }));
        is_taken && self.held.remove(&id).is_some()
    }

    /// Until when the oldest offer is to be taken.
    fn first_offer(&self) -> Option<Instant> {
        self.held.values().find_map(|held| match held {
            Held::Offered { until, .. } => Some(*until),
            Held::Taken { .. } => None,
        })
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.first_offer().into_iter().chain(self.rests_until).min()
    }
}

fn send(socket: &OwnedFd, connection: &Accepted, record: &[u8]) -> Result<(), Errno> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    let descriptors = [connection.as_fd()];
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fits, "there is room for one");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(record)], &mut ancillary, flags).map(drop)
}

//! The two halves of a session and the bytes between them. States: `LIFECYCLE.md` beside this file.
//!
//! A pair reads from one side and writes to the other until both have ended. It owns no socket: what it does to its two
//! sides it does through a [`Wire`], at once, and what could not be done then is done after the side is ready again.
//! Order of calls: [`connected`](Pair::connected) once; then, whenever a side is ready, [`ready`](Pair::ready) and
//! [`advance`](Pair::advance) until it answers [`Flow::Idle`] or [`Flow::Ended`].
//!
//! Invariants, asserted by [`check_invariants`](Pair::check_invariants):
//! - bytes go out in the order in which they came in, each once; while some are held for a side, nothing is read that would
//!   have to go behind them;
//! - a pair that is idle holds no buffer;
//! - a side's sending is ended once, after the last byte that the other side has sent.

mod half;

pub use half::HalfState;

use super::course::{Course, Outgoing, Way};
use super::{End, HELD_MAX, is_overload};
use half::{Half, Held};

/// Least that is read at once.
pub const WINDOW_MIN: usize = 16 * 1024;
/// Most that is read at once, and so most that is held for a slow reader, in one direction of a session.
pub const WINDOW_MAX: usize = 256 * 1024;
/// Most that is held for one side: a window, or what a filter lets go on at once.
const HELD_BYTES_MAX: usize = WINDOW_MAX + 2 * HELD_MAX;
/// By so much the window grows when a side has filled it and the other has taken all of it.
const WINDOW_GROWTH: usize = 4;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who has connected to us.
    Client,
    /// Whom we have connected to.
    Server,
}

impl Side {
    /// The opposite one.
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing is there now.
    Nothing,
    /// The side has ended its stream.
    End,
    /// The connection is gone.
    Broken,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// So many bytes were taken; if not all, the side is ready again when there is room.
    Bytes(usize),
    /// The connection is gone.
    Broken,
}

/// The two sides' connections. No call waits.
pub trait Wire {
    /// Reads from a side.
    fn receive(&mut self, side: Side, room: &mut [u8]) -> Received;
    /// Writes to a side; `more`: something, or the end, follows at once.
    fn send(&mut self, side: Side, bytes: &[u8], more: bool) -> Sent;
    /// Ends our stream to a side.
    fn shutdown(&mut self, side: Side);
}

/// What is to be done with the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Nothing until a side is ready.
    Idle,
    /// It has more to do at once, but others must have their turn first.
    More,
    /// It is over: close both sides, by a reset if the connection of one was reset.
    Ended(End),
}

/// A pair at rest, as it can go on elsewhere: in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairState {
    /// The server has said something.
    pub greeted: bool,
    /// The client's end is told to the server only when that has greeted.
    pub holds_end: bool,
    /// The client has been sent something.
    pub client_was_told: bool,
    /// Who has ended first, if somebody has.
    pub first_to_end: Option<Side>,
    /// The client's side.
    pub client: HalfState,
    /// The server's side.
    pub server: HalfState,
}

/// A session's two halves.
#[derive(Debug, Default)]
pub struct Pair {
    client: Half,
    server: Half,
    connected: bool,
    /// The server has said something.
    greeted: bool,
    /// It was that it has too many connections.
    overloaded: bool,
    /// The client's end is told to the server only when that has greeted: some drop a client that ends before.
    holds_end: bool,
    first_to_end: Option<Side>,
    /// The way of the bytes, where it is not straight.
    course: Option<Box<Course>>,
    /// Why it cannot go on.
    failed: Option<End>,
    /// The client has been sent something.
    client_was_told: bool,
}

impl Pair {
    /// A pair whose server is not connected yet.
    pub fn new(holds_end: bool) -> Pair {
        Pair { holds_end, ..Pair::default() }
    }

    /// What is to be known to go on elsewhere; `None` if it cannot: its bytes do not go straight, or it is about to end.
    pub fn state(&self) -> Option<PairState> {
        let is_over = self.client.broken || self.server.broken || self.failed.is_some();
        if !self.connected || self.course.is_some() || is_over {
            return None;
        }
        Some(PairState {
            greeted: self.greeted,
            holds_end: self.holds_end,
            client_was_told: self.client_was_told,
            first_to_end: self.first_to_end,
            client: self.client.state(),
            server: self.server.state(),
        })
    }

    /// Goes on where another one was. Both sides are to be looked at: what was told to the other one is not told again.
    pub fn resume(state: PairState) -> Pair {
        Pair {
            client: Half::resume(state.client),
            server: Half::resume(state.server),
            connected: true,
            greeted: state.greeted,
            holds_end: state.holds_end,
            first_to_end: state.first_to_end,
            course: None,
            failed: None,
            client_was_told: state.client_was_told,
            overloaded: false,
        }
    }

    /// The server's connection is there: it gets what is to be said first, in one piece with the client's bytes that are
    /// known already, or in two.
    pub fn connected(&mut self, wire: &mut impl Wire, first: &[u8], early: &[u8], course: Option<Course>) {
        self.connected = true;
        self.course = course.map(Box::new);
        // spec 2 MUST "ensure that the header is sent at once"
        // spec 2.2 MUST "ensure that all the protocol header is sent at once"
        for part in [first, early].into_iter().filter(|part| !part.is_empty()) {
            self.deliver(Side::Server, part, false, wire);
        }
    }

    /// The server could not be reached, and another one follows. What was told of the client still holds: it is told once.
    pub fn server_changes(&mut self) {
        self.server = Half::default();
    }

    /// A side is ready: for reading, for writing, or its end is near.
    pub fn ready(&mut self, side: Side, readable: bool, ended: bool) {
        let half = self.half(side);
        half.readable |= readable;
        half.hung |= ended;
    }

    /// A side takes nothing any more, as was found out otherwise than by a write of the pair's; tells whether that is news.
    pub fn takes_no_more(&mut self, side: Side) -> bool {
        let is_news = !self.half(side).deaf;
        if is_news {
            self.deafen(side);
        }
        is_news
    }

    /// Moves what can be moved. `scratch` has at least [`WINDOW_MAX`] bytes.
    pub fn advance(&mut self, wire: &mut impl Wire, scratch: &mut [u8]) -> Flow {
        for side in [Side::Server, Side::Client] {
            self.flush(side, wire);
            self.pass(side.other(), wire, scratch);
        }
        for side in [Side::Server, Side::Client] {
            self.pass_end(side, wire);
        }
        match self.end() {
            Some(end) => Flow::Ended(end),
            None if self.may_read(Side::Client) || self.may_read(Side::Server) => Flow::More,
            None => Flow::Idle,
        }
    }

    /// Bytes that the client has sent.
    pub fn from_client(&self) -> u64 {
        self.client.received
    }

    /// Bytes that the server has sent.
    pub fn from_server(&self) -> u64 {
        self.server.received
    }

    /// Changes whenever bytes have moved, in or out, or a side takes none any more: what was read, how much of it is held, and
    /// how many sides are deaf.
    pub fn progress(&self) -> (u64, usize, u8) {
        let deaf = u8::from(self.client.deaf) + u8::from(self.server.deaf);
        (self.client.received + self.server.received, self.held(), deaf)
    }

    /// Whether the server has said something.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether the server has said, in place of a greeting, that it has too many connections.
    pub fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// Whether anything was sent to the client.
    pub fn client_was_told(&self) -> bool {
        self.client_was_told
    }

    /// Whether one of the two has ended its stream.
    pub fn is_half_closed(&self) -> bool {
        self.client.is_over() || self.server.is_over()
    }

    /// Whether a side has said something that was not read, as the other takes nothing more for now.
    pub fn has_unread(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.readable,
            Side::Server => self.server.readable,
        }
    }

    /// Who has ended first, if somebody has.
    pub fn first_to_end(&self) -> Option<Side> {
        self.first_to_end
    }

    /// Whether the connection of a side is gone.
    pub fn is_broken(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.broken,
            Side::Server => self.server.broken,
        }
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.client.held.rest().len() + self.server.held.rest().len()
    }

    /// What must hold between two calls.
    pub fn check_invariants(&self) {
        for half in [&self.client, &self.server] {
            assert!(half.held.bytes.len() <= HELD_BYTES_MAX, "what is held is bounded");
            assert!(half.held.is_empty() == (half.held.bytes.capacity() == 0), "an idle half holds no buffer");
            assert!(half.held.is_empty() || !half.shut, "an end is told behind the last byte");
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Writes what is held for a side.
    fn flush(&mut self, side: Side, wire: &mut impl Wire) {
        if !self.connected {
            return;
        }
        let half = self.half(side);
        if half.held.is_empty() {
            return;
        }
        match wire.send(side, half.held.rest(), false) {
            Sent::Bytes(count) => half.held.take(count),
            Sent::Broken => self.deafen(side),
        }
    }

    /// Whether there may be something to read from a side that can go on at once.
    fn may_read(&self, from: Side) -> bool {
        let (half, to) = match from {
            Side::Client => (&self.client, &self.server),
            Side::Server => (&self.server, &self.client),
        };
        let waits = from == Side::Client && self.course.as_ref().is_some_and(|course| course.holds_client());
        self.connected && half.readable && !half.is_over() && to.held.is_empty() && !waits && self.failed.is_none()
    }

    /// Whether the client's end is kept to ourselves for now.
    fn keeps_end(&self, from: Side) -> bool {
        from == Side::Client && self.holds_end && !self.greeted
    }

    /// Reads from a side and writes to the other: all that is there, or one window.
    fn pass(&mut self, from: Side, wire: &mut impl Wire, scratch: &mut [u8]) {
        while self.may_read(from) {
            let Half { window, hung, received, .. } = *self.half(from);
            let count = match wire.receive(from, &mut scratch[..window as usize]) {
                Received::Bytes(count) => count,
                ended => return self.read_ended(from, ended),
            };
            self.half(from).received += count as u64;
            if received == 0 && from == Side::Server {
                self.overloaded = is_overload(&scratch[..count]);
            }
            let full = count == window as usize;
            // Behind the last bytes the end follows: both go in one segment.
            let last = hung && !full && !self.keeps_end(from);
            match self.course.is_some() {
                true => self.take_course(from, &scratch[..count], wire),
                false => {
                    self.greeted |= from == Side::Server;
                    self.deliver(from.other(), &scratch[..count], last, wire);
                }
            }
            if full {
                return;
            }
            // Less than there was room for: what comes later is told. An end that was told already is still to be read.
            self.half(from).readable = hung;
        }
    }

    /// Bytes whose way is not straight.
    fn take_course(&mut self, from: Side, bytes: &[u8], wire: &mut impl Wire) {
        let mut out = Outgoing::default();
        let course = self.course.as_mut().expect("the caller has looked");
        let way = course.take(from, bytes, &mut out);
        self.greeted |= from == Side::Server && (way == Way::Straight || !course.is_exchange());
        for (to, bytes) in [(Side::Client, out.to_client), (Side::Server, out.to_server)] {
            if !bytes.is_empty() {
                self.deliver(to, &bytes, false, wire);
            }
        }
        match way {
            Way::On => {}
            Way::Straight => self.course = None,
            Way::Closed(end) => self.failed = Some(end),
        }
    }

    fn read_ended(&mut self, from: Side, how: Received) {
        let half = self.half(from);
        half.readable = false;
        match how {
            // Of a connection that was reset the kernel tells once, and whoever wrote to it was told: then it looks ended.
            Received::End if !half.deaf => half.ended = true,
            Received::End | Received::Broken => half.broken = true,
            Received::Nothing | Received::Bytes(_) => return,
        }
        self.first_to_end.get_or_insert(from);
    }

    fn deliver(&mut self, to: Side, bytes: &[u8], more: bool, wire: &mut impl Wire) {
        self.client_was_told |= to == Side::Client;
        let half = self.half(to);
        if half.deaf {
            return;
        }
        if !half.held.is_empty() {
            return half.held.keep(bytes);
        }
        match wire.send(to, bytes, more) {
            Sent::Bytes(count) => {
                half.held.keep(&bytes[count..]);
                self.fit_window(to.other(), bytes.len(), count);
            }
            Sent::Broken => self.deafen(to),
        }
    }

    /// As much is read at once as the other side takes at once.
    fn fit_window(&mut self, from: Side, given: usize, taken: usize) {
        let half = self.half(from);
        let window = half.window as usize;
        let fitting = match taken {
            _ if taken < given => taken,
            _ if given == window => window * WINDOW_GROWTH,
            _ => return,
        };
        half.window = fitting.clamp(WINDOW_MIN, WINDOW_MAX) as u32;
    }

    /// A side takes nothing any more. What it has sent before is still to be read, and then tells how it has ended.
    fn deafen(&mut self, side: Side) {
        let half = self.half(side);
        half.deaf = true;
        // Of one that has ended there is nothing left to read.
        half.broken |= half.ended;
        half.held = Held::default();
        half.readable = true;
        half.hung = true;
    }

    /// Whether a server that should greet has ended without: the client is to be told so in words before our end.
    fn is_unserved(&self) -> bool {
        self.holds_end && !self.greeted && self.server.ended
    }

    /// Tells a side that the other one has ended, once it has everything of it.
    fn pass_end(&mut self, to: Side, wire: &mut impl Wire) {
        let from = to.other();
        let ended = self.half(from).ended && self.connected && !self.keeps_end(from) && !self.is_unserved();
        let half = self.half(to);
        // Where both have ended the close tells it.
        if ended && half.held.is_empty() && !half.shut && !half.is_over() {
            half.shut = true;
            wire.shutdown(to);
        }
    }

    fn end(&self) -> Option<End> {
        let Pair { client, server, .. } = self;
        let delivered = client.held.is_empty() && server.held.is_empty();
        if self.failed.is_some() {
            return self.failed.filter(|_| client.held.is_empty());
        }
        match (client.broken, server.broken) {
            (true, _) if server.held.is_empty() => Some(End::ClientReset),
            (_, true) if client.held.is_empty() => Some(End::ServerReset),
            _ if self.is_unserved() && client.held.is_empty() => Some(End::ServerClosed),
            _ if client.ended && server.ended && delivered => Some(match self.first_to_end {
                Some(Side::Server) => End::ServerClosed,
                _ => End::ClientClosed,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;

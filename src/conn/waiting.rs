//! The header of one connection, from the first read to the verdict.

use std::net::IpAddr;
use std::time::Duration;

use super::Ending;
use crate::admission::{PendingPeers, Policy, Refusal, admit_peer};
use crate::net::NetworkSet;
use crate::proxy::{Command, Decoded, Head, Rules, decode};

/// A listener's terms for every connection that must bring a header.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Who may send a header; empty: nobody.
    pub trusted: NetworkSet,
    /// Who may send one by a stricter policy that is only tried (`shadow_trusted_networks`): whoever comes from elsewhere is
    /// counted and told, and served. `None`: none is tried.
    pub shadow_trusted: Option<NetworkSet>,
    /// What the grammar accepts.
    pub rules: Rules,
    /// What is demanded beyond the grammar.
    pub policy: Policy,
    /// Leave the bytes behind the header in the socket: the pool's choice.
    pub(crate) exact: bool,
    /// From accept to the complete header.
    pub timeout: Duration,
    /// Most headers that the listener awaits in one ring; 0: as many as the ring may.
    pub pending_limit: u32,
    /// Whoever is not trusted is a client of its own, without a header; if not, such a peer is turned away
    /// (`haproxy_untrusted`).
    pub plain_untrusted: bool,
}

impl Terms {
    /// Whether a connection of this peer has to begin with a header: decided by its address alone, before a byte is read.
    pub fn expects_header(&self, peer: IpAddr) -> bool {
        !self.plain_untrusted || self.trusted.contains(peer)
    }

    /// Whether the stricter policy that is tried would turn this peer away.
    pub fn shadow_turns_away(&self, peer: IpAddr) -> bool {
        self.shadow_trusted.as_ref().is_some_and(|trusted| !trusted.contains(peer))
    }

    /// Door 1: whether this peer may send a header at all, and whether one more may be awaited beside the listener's
    /// `pending` ones. Counts it in `peers` if so, and tells by which of the [networks](NetworkSet::networks) it is trusted.
    pub fn admit_peer(&self, peer: IpAddr, pending: u32, peers: &mut PendingPeers) -> Result<usize, Ending> {
        let by = admit_peer(&self.trusted, peer).map_err(Ending::Refused)?;
        if self.pending_limit != 0 && pending >= self.pending_limit {
            return Err(Ending::Refused(Refusal::ListenerPendingLimit));
        }
        peers.enter(peer).map_err(Ending::Refused)?;
        Ok(by)
    }
}

/// What is to be done for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read behind the first `at` bytes; the buffer must be able to hold `room` bytes in all.
    Read {
        /// Bytes that stay.
        at: u32,
        /// What to do with the socket's bytes.
        how: How,
        /// Least size of the buffer.
        room: u32,
    },
    /// Close it.
    Close(Ending),
    /// Hand it to its pool, with the header and what came behind.
    Dispatch(Admitted),
}

/// A header that has passed both doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted(Head);

impl Admitted {
    /// The header's fixed part.
    pub fn head(&self) -> Head {
        self.0
    }

    /// Whether it is the balancer's own connection, such as a health check.
    pub fn is_local(&self) -> bool {
        self.0.command() == Command::Local
    }

    /// Whether it is LOCAL with `residual` bytes right behind it: a user whom the balancer could not name, such as one that
    /// reached it by a Unix socket. Where a listener has `ssl` the balancer's own checks speak first, too.
    pub fn is_user_behind_local(&self, residual: usize, ssl: bool) -> bool {
        self.is_local() && residual > 0 && !ssl
    }

    /// The client that the header names; `None` for LOCAL, UNKNOWN and the like: the balancer's own.
    pub fn client(&self) -> Option<IpAddr> {
        self.0.ip().map(|(source, _)| source.ip())
    }

    /// Whether the client claims to be in 127.0.0.0/8 or ::1.
    pub fn has_loopback_source(&self) -> bool {
        self.0.ip().is_some_and(|(source, _)| source.ip().to_canonical().is_loopback())
    }

    /// Whether one of the ports is 0: legal, but no TCP connection has it.
    pub fn has_port_zero(&self) -> bool {
        self.0.ip().is_some_and(|(source, destination)| source.port() == 0 || destination.port() == 0)
    }
}

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Take what is there.
    Take,
    /// Look, and leave it in the socket.
    Peek,
    /// Take at most so many bytes, which were looked at before.
    Consume(u32),
}

/// Where a connection stands that has to bring a header.
///
/// Order of calls: [`start`](Waiting::start) or [`resume`](Waiting::resume) once, then
/// [`handle_read`](Waiting::handle_read) after each read that it asked for, until it answers with something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes taken from the socket.
    taken: u32,
    awaiting: Awaiting,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Awaiting {
    /// More of the stream.
    #[default]
    Bytes,
    /// The taking of bytes up to `target` that were only looked at; they complete the header or not.
    Consume { target: u32, complete: bool },
}

impl Waiting {
    /// The first read.
    pub fn start(&mut self, terms: &Terms) -> Action {
        *self = Waiting::default();
        self.read(terms, 1)
    }

    /// Takes up a header of which another process has taken `bytes` out of the socket; in the place of
    /// [`start`](Waiting::start).
    pub fn resume(&mut self, bytes: &[u8], terms: &Terms) -> Action {
        *self = Waiting::default();
        if bytes.is_empty() { self.read(terms, 1) } else { self.handle_bytes(bytes, false, terms) }
    }

    /// The same read once more, after one that was interrupted.
    pub fn again(&self, terms: &Terms) -> Action {
        match self.awaiting {
            Awaiting::Bytes => self.read(terms, self.taken + 1),
            Awaiting::Consume { target, .. } => {
                Action::Read { at: self.taken, how: How::Consume(target - self.taken), room: target }
            }
        }
    }

    /// Bytes that were taken from the socket so far: the header and, unless `exact`, what came behind it.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether the peer has not sent a byte.
    pub fn is_silent(&self) -> bool {
        self.taken == 0 && self.awaiting == Awaiting::Bytes
    }

    /// Decodes the `taken` bytes of an admitted connection once more: cheaper than keeping the head of all that wait.
    pub fn admitted_again(&self, bytes: &[u8], terms: &Terms) -> Option<Admitted> {
        match decode(bytes, &terms.rules) {
            Decoded::Complete(header) => Some(Admitted(header.head())),
            _ => None,
        }
    }

    /// A read has brought `count` bytes more (0: the peer has closed); `bytes` gives the first so many bytes of the buffer.
    pub fn handle_read<'b>(&mut self, count: u32, bytes: impl FnOnce(u32) -> &'b [u8], terms: &Terms) -> Action {
        if count == 0 {
            return Action::Close(self.closed());
        }
        let known = self.taken + count;
        match self.awaiting {
            Awaiting::Bytes => self.handle_bytes(bytes(known), terms.exact, terms),
            Awaiting::Consume { target, complete } => {
                self.taken = known;
                self.handle_consumed(target, complete, bytes(known), terms)
            }
        }
    }

    /// How the connection ends if its deadline passes now.
    pub fn expired(&self) -> Ending {
        if self.is_silent() { Ending::Silent } else { Ending::Timeout }
    }

    /// How the connection ends if the peer closes or resets now.
    pub fn closed(&self) -> Ending {
        if self.is_silent() { Ending::ClosedEmpty } else { Ending::ClosedPartial }
    }

    /// `peeked`: the last of them are still in the socket.
    fn handle_bytes(&mut self, known: &[u8], peeked: bool, terms: &Terms) -> Action {
        let len = known.len() as u32;
        match decode(known, &terms.rules) {
            Decoded::Complete(header) => {
                if let Err(refusal) = terms.policy.admit(&header, &known[header.len()..]) {
                    return Action::Close(Ending::Refused(refusal));
                }
                if peeked {
                    return self.consume(header.len() as u32, true);
                }
                self.taken = len;
                // spec 2 MUST NOT "start processing the connection"
                Action::Dispatch(Admitted(header.head()))
            }
            Decoded::Incomplete { .. } if peeked => self.consume(len, false),
            // spec 2 MAY "tolerant to partial headers"
            // spec 2 SHOULD "recommendation is to be tolerant"
            Decoded::Incomplete { need } => {
                self.taken = len;
                self.read(terms, need as u32)
            }
            // spec 2 MUST NOT "try to guess"
            // spec 2.1 SHOULD "abort the connection as soon as possible"
            Decoded::Absent { at } => Action::Close(Ending::Absent { at }),
            Decoded::Invalid { reason, at } => Action::Close(Ending::Invalid { reason, at }),
        }
    }

    fn handle_consumed(&mut self, target: u32, complete: bool, known: &[u8], terms: &Terms) -> Action {
        if self.taken < target {
            return self.consume(target, complete);
        }
        self.awaiting = Awaiting::Bytes;
        match decode(known, &terms.rules) {
            Decoded::Complete(header) if complete => Action::Dispatch(Admitted(header.head())),
            Decoded::Incomplete { need } if !complete => self.read(terms, need as u32),
            // The bytes were the same when they were looked at: a socket's stream does not change.
            _ => Action::Close(Ending::Absent { at: 1 }),
        }
    }

    fn consume(&mut self, target: u32, complete: bool) -> Action {
        self.awaiting = Awaiting::Consume { target, complete };
        Action::Read { at: self.taken, how: How::Consume(target - self.taken), room: target }
    }

    fn read(&self, terms: &Terms, need: u32) -> Action {
        let how = if terms.exact { How::Peek } else { How::Take };
        Action::Read { at: self.taken, how, room: need.max(self.taken + 1) }
    }
}

#[cfg(test)]
mod tests;

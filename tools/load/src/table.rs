//! The connections of one swarm, each with its socket and its bytes. A [`LineId`] of one that has ended opens nothing.

use std::ops::Range;
use std::os::fd::OwnedFd;

use vestibule::ring::GENERATION_BITS;

use crate::conn::Conn;

/// Most connections of one table.
pub const PLACES_MAX: usize = 1 << 20;
/// First size of a receive buffer in bytes. It doubles when it is full.
pub const RECV_BYTES_START: usize = 512;
/// Largest receive buffer in bytes; what was received is forgotten then.
pub const RECV_BYTES_MAX: usize = 64 * 1024;

/// A send buffer that grew beyond this many bytes is not used again.
const SEND_BYTES_KEPT: usize = 4096;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// A place in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineId {
    /// Which place.
    pub place: u32,
    /// Its user, [`GENERATION_BITS`] wide.
    pub generation: u32,
}

/// An open connection.
#[derive(Debug)]
pub struct Line {
    /// Connecting or connected.
    pub socket: OwnedFd,
    /// What it does.
    pub conn: Conn,
    /// Whether it is not known yet how the connect has ended.
    pub is_connecting: bool,
    /// All that it may send.
    pub outgoing: Vec<u8>,
    /// What is to be sent as soon as the kernel has room.
    pub unsent: Option<Range<usize>>,
    /// What it has received.
    pub incoming: Incoming,
}

/// A receive buffer.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Bytes up to `filled` are received, the rest is room.
    buffer: Vec<u8>,
    filled: usize,
}

/// The connections.
pub struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Of connections that have ended; at most one a place.
    spare: Vec<(Vec<u8>, Incoming)>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    line: Option<Line>,
}

impl Table {
    /// A table with this many places (1..=[`PLACES_MAX`], clamped).
    pub fn new(places: usize) -> Table {
        let count = places.clamp(1, PLACES_MAX);
        let places = std::iter::repeat_with(Place::default).take(count).collect();
        Table { places, free: (0..count as u32).rev().collect(), spare: Vec::new() }
    }

    /// Whether no place is free.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Empty buffers for a new connection: to send, and to receive.
    pub fn buffers(&mut self) -> (Vec<u8>, Incoming) {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a connection in; `None` if no place is free.
    pub fn insert(&mut self, line: Line) -> Option<LineId> {
        let place = self.free.pop()?;
        let entry = &mut self.places[place as usize];
        entry.line = Some(line);
        Some(LineId { place, generation: entry.generation })
    }

    /// Whether the connection is open.
    pub fn has(&self, id: LineId) -> bool {
        let place = &self.places[id.place as usize];
        place.generation == id.generation && place.line.is_some()
    }

    /// The connection, if it is open.
    pub fn get_mut(&mut self, id: LineId) -> Option<&mut Line> {
        let place = self.places.get_mut(id.place as usize)?;
        place.line.as_mut().filter(|_| place.generation == id.generation)
    }

    /// Takes the connection out, if it is open.
    pub fn remove(&mut self, id: LineId) -> Option<Line> {
        let place = self.places.get_mut(id.place as usize).filter(|place| place.generation == id.generation)?;
        let line = place.line.take()?;
        place.generation = (place.generation + 1) & GENERATION_MASK;
        self.free.push(id.place);
        Some(line)
    }

    /// Keeps the buffers of a connection that was taken out, and closes its socket.
    pub fn recycle(&mut self, line: Line) {
        let Line { mut outgoing, mut incoming, .. } = line;
        if outgoing.capacity() <= SEND_BYTES_KEPT && incoming.buffer.len() <= RECV_BYTES_START {
            outgoing.clear();
            incoming.filled = 0;
            self.spare.push((outgoing, incoming));
        }
    }

    /// All that are open.
    pub fn ids(&self) -> Vec<LineId> {
        let open = self.places.iter().zip(0..).filter(|(place, _)| place.line.is_some());
        open.map(|(&Place { generation, .. }, place)| LineId { place, generation }).collect()
    }
}

impl Incoming {
    /// What was received and not forgotten.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Where the next bytes go, never empty: what does not fit any more is forgotten, as no expectation needs it.
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled == RECV_BYTES_MAX {
            self.filled = 0;
        }
        if self.filled == self.buffer.len() {
            let grown = (self.buffer.len() * 2).clamp(RECV_BYTES_START, RECV_BYTES_MAX);
            self.buffer.resize(grown, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// So many bytes came into the room.
    pub fn fill(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::behaviour::{Behaviour, Pauses};
    use crate::conn::Brief;
    use crate::header::Sent;

    fn line(table: &mut Table) -> Line {
        let target = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 143);
        let pauses = Pauses { gap: Duration::ZERO, trickle: Duration::ZERO, lazy: Duration::ZERO };
        let behaviour: Behaviour = "normal".parse().expect("a behaviour");
        let brief = Brief {
            behaviour: 0,
            deserves: behaviour.deserves(),
            script: behaviour.script(28, &pauses),
            sent: Sent::nothing(),
            source: None,
            target,
            hold: false,
            hold_at_once: false,
        };
        let (outgoing, incoming) = table.buffers();
        Line {
            socket: vestibule::ring::stream_socket(target, None).expect("descriptors are left"),
            conn: Conn::new(brief, Instant::now(), Instant::now()),
            is_connecting: true,
            outgoing,
            unsent: None,
            incoming,
        }
    }

    #[test]
    fn a_key_of_an_earlier_life_opens_nothing() {
        let mut table = Table::new(1);
        let first = line(&mut table);
        let old = table.insert(first).expect("a free place");
        let too_many = line(&mut table);
        assert!(table.is_full() && table.insert(too_many).is_none());
        let ended = table.remove(old).expect("open");
        table.recycle(ended);
        assert!(!table.has(old) && table.get_mut(old).is_none() && table.remove(old).is_none());
        let next = line(&mut table);
        let new = table.insert(next).expect("a free place");
        assert_eq!((new.place, table.ids()), (old.place, vec![new]));
        assert!(!table.has(old) && table.get_mut(old).is_none() && table.remove(old).is_none());
    }

    #[test]
    fn the_last_generation_is_followed_by_the_first() {
        let mut table = Table::new(1);
        table.places[0].generation = GENERATION_MASK;
        let last = line(&mut table);
        let id = table.insert(last).expect("a free place");
        table.remove(id).expect("open");
        assert_eq!(table.places[0].generation, 0);
    }

    #[test]
    fn small_buffers_are_used_again_and_come_back_empty() {
        let mut table = Table::new(2);
        let mut ended = line(&mut table);
        ended.outgoing.extend_from_slice(b"PROXY");
        ended.incoming.room()[..2].copy_from_slice(b"OK");
        ended.incoming.fill(2);
        table.recycle(ended);
        let (outgoing, incoming) = table.buffers();
        assert!(outgoing.is_empty() && outgoing.capacity() >= 5 && incoming.bytes().is_empty());
        let mut large = line(&mut table);
        large.outgoing.reserve(SEND_BYTES_KEPT + 1);
        table.recycle(large);
        assert!(table.spare.is_empty());
    }

    #[test]
    fn long_answers_grow_the_buffer_up_to_its_bound() {
        let mut incoming = Incoming::default();
        let mut sizes = Vec::new();
        while incoming.bytes().len() < RECV_BYTES_MAX {
            let room = incoming.room();
            room.fill(7);
            let count = room.len();
            incoming.fill(count);
            sizes.push(incoming.bytes().len());
        }
        assert_eq!((sizes[0], sizes.len()), (RECV_BYTES_START, 8));
        assert!(incoming.bytes().iter().all(|byte| *byte == 7));
        assert_eq!(incoming.room().len(), RECV_BYTES_MAX);
        assert!(incoming.bytes().is_empty(), "what came before is forgotten");
    }
}

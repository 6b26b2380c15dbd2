//! Who is turned away at door 1. What the report knows of a peer stands in several tables, and looking all of them up costs
//! more than the refusal itself: of peers that come again at once it is told together.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Acceptor, Guest, Sink};
use crate::admission::Refusal;
use crate::conn::{Ending, Record, SHOWN_MAX};
use crate::ring::Driver;

/// How long the report may not know of a peer that it was told of just before.
const GATHER: Duration = Duration::from_millis(50);
/// Peers that are told apart meanwhile; others push them out.
const PLACES: usize = 512;

/// Connections that were turned away unread, behind one of the same peer that the report was told of.
#[derive(Debug)]
pub(super) struct Gathered {
    places: Box<[Option<Alike>]>,
    /// When the report is to be told of those that it does not know of; `None` if there are none.
    due: Option<Instant>,
}

/// What differs in nothing but its port.
#[derive(Debug)]
struct Alike {
    listener: u32,
    ending: Ending,
    /// Of the last one.
    peer: SocketAddr,
    /// How many the report does not know of.
    more: u64,
    told_at: Instant,
}

impl Gathered {
    pub fn new() -> Gathered {
        Gathered { places: (0..PLACES).map(|_| None).collect(), due: None }
    }

    /// When there is something to be told.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes one in, if the report was told of its kind just before.
    fn takes(&mut self, listener: u32, peer: SocketAddr, ending: Ending, now: Instant) -> bool {
        let Some(alike) = &mut self.places[place_of(peer.ip())] else { return false };
        let known = alike.is(listener, peer.ip(), ending) && now < alike.told_at + GATHER;
        if known {
            (alike.peer, alike.more) = (peer, alike.more + 1);
            self.due.get_or_insert(now + GATHER);
        }
        known
    }

    /// Of such as this the report has just been told.
    fn told(&mut self, listener: u32, peer: SocketAddr, ending: Ending, now: Instant) {
        self.places[place_of(peer.ip())] = Some(Alike { listener, ending, peer, more: 0, told_at: now });
    }

    /// Doors change their places: who has come is known by them.
    pub fn forget(&mut self) {
        self.places.fill_with(|| None);
    }

    /// Another needs the place: whom the report does not know of yet.
    fn pushed_out(&mut self, peer: SocketAddr) -> Option<Alike> {
        self.places[place_of(peer.ip())].take_if(|alike| alike.more > 0)
    }
}

impl Alike {
    fn is(&self, listener: u32, peer: IpAddr, ending: Ending) -> bool {
        self.listener == listener && self.peer.ip() == peer && self.ending == ending
    }
}

fn place_of(peer: IpAddr) -> usize {
    let bits = match peer {
        IpAddr::V4(peer) => u128::from(peer.to_bits()),
        IpAddr::V6(peer) => peer.to_bits(),
    };
    let folded = (bits ^ bits >> 64) as u64;
    // The golden ratio: neighbours, and those that differ in one octet only, come to different places.
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % PLACES
}

impl<D: Driver, K: Sink<D::Socket>> Acceptor<D, K> {
    /// Ends a connection at door 1. Nothing is read of it; but where the log tells of a peer that is not trusted, it tells
    /// whether a header had come, since then the peer may be a balancer that nobody has entered.
    pub(super) fn turn_away(&mut self, guest: &Guest<D::Socket>, ending: Ending) {
        let (listener, peer, now) = (guest.listener, guest.peer, self.now);
        if self.gathered.takes(listener, peer, ending, now) {
            return self.doors[listener as usize].counts.ended(ending);
        }
        if let Some(alike) = self.gathered.pushed_out(peer) {
            self.tell(&alike);
        }
        let row = self.doors[listener as usize].row;
        let asks =
            ending == Ending::Refused(Refusal::Untrusted) && self.report.asks_for_bytes(row, peer.ip(), ending, now);
        let mut room = [0; SHOWN_MAX];
        let bytes = match &guest.socket {
            Some(socket) if asks => self.driver.peek(socket, &mut room),
            _ => &[],
        };
        self.conclude(guest, ending, bytes);
        if !asks && !self.report.tells_each() {
            self.gathered.told(listener, peer, ending, now);
        }
    }

    /// Tells the report of those that it does not know of, if it is time or nothing follows.
    pub(super) fn tell_gathered(&mut self) {
        if self.gathered.due.is_some_and(|due| self.now >= due || self.draining.is_some()) {
            self.tell_all_gathered();
        }
    }

    /// Tells it at once.
    pub(super) fn tell_all_gathered(&mut self) {
        self.gathered.due = None;
        for place in 0..PLACES {
            if let Some(mut alike) = self.gathered.places[place].take_if(|alike| alike.more > 0) {
                self.tell(&alike);
                (alike.more, alike.told_at) = (0, self.now);
                self.gathered.places[place] = Some(alike);
            }
        }
    }

    fn tell(&self, alike: &Alike) {
        let &Alike { listener, ending, peer, more, .. } = alike;
        let door = &self.doors[listener as usize];
        let record = Record { peer, local: door.local, bytes: &[], rules: door.rules(), waited: Duration::ZERO };
        self.report.ended_again(door, ending, &record, more, self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTRUSTED: Ending = Ending::Refused(Refusal::Untrusted);

    fn peer(last: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, last], port).into()
    }

    #[test]
    fn who_comes_again_at_once_is_gathered_and_nobody_else() {
        let (mut gathered, start) = (Gathered::new(), Instant::now());
        let soon = start + GATHER - Duration::from_nanos(1);
        assert!(!gathered.takes(0, peer(1, 1), UNTRUSTED, start), "the report does not know of it");
        gathered.told(0, peer(1, 1), UNTRUSTED, start);
        assert_eq!(gathered.due(), None);
        assert!(gathered.takes(0, peer(1, 2), UNTRUSTED, soon));
        assert_eq!(gathered.due(), Some(soon + GATHER));
        assert!(!gathered.takes(1, peer(1, 3), UNTRUSTED, soon), "another listener");
        assert!(!gathered.takes(0, peer(1, 3), Ending::Refused(Refusal::ListenerPendingLimit), soon));
        assert!(!gathered.takes(0, peer(1, 3), UNTRUSTED, start + GATHER), "that was long ago");
        let alike = gathered.pushed_out(peer(1, 3)).expect("one is not known");
        assert_eq!((alike.more, alike.peer), (1, peer(1, 2)));
        assert!(gathered.pushed_out(peer(1, 3)).is_none());
    }

    #[test]
    fn neighbours_do_not_push_each_other_out() {
        for shift in [0, 8, 16] {
            let places: std::collections::HashSet<_> =
                (0..254u32).map(|n| place_of(IpAddr::V4((0x7f01_0000 + (n << shift)).into()))).collect();
            assert_eq!(places.len(), 254, "shifted by {shift}");
        }
    }
}

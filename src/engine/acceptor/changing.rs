//! A new configuration in a running ring: other doors, other limits, the same ring.
//!
//! Doors of the present configuration retire; the new ones take their places beside them, often on the same sockets. A
//! retired door arms no accept any more. When its last accept has ended it lets its socket go, to the door that has it now,
//! or, if none has, after a look into the backlog. When the last connection that came through it has left the vestibule its
//! place is free. Connections keep the terms that they came under; sessions do not even know of doors.

use super::{Acceptor, Door, Sink, Tally};
use crate::admission::{Clients, PendingPeers};
use crate::conn::Deadlines;
use crate::ring::Driver;

/// What a ring is to do from now on.
pub struct Change<L> {
    /// The doors, each with the socket that it listens on. Their pools are those of `pools`.
    pub doors: Vec<(L, Door)>,
    /// By pool of the change: its index at the sink.
    pub pools: Vec<usize>,
    /// Most connections whose header is awaited; the ring's slots bound it.
    pub pending_limit: usize,
    /// How many of them one peer may have, and among how many.
    pub pending_peer_limit: (u32, u32),
    /// Bans and limits on clients.
    pub clients: Clients,
}

impl<D: Driver, K: Sink<D::Socket>> Acceptor<D, K> {
    /// Puts a configuration in the place of the present one.
    pub fn change(&mut self, change: Change<D::Listener>) {
        self.tell_all_gathered();
        self.gathered.forget();
        let lines = change.pools.iter().max().map_or(0, |last| last + 1);
        self.lines.resize_with(self.lines.len().max(lines), Default::default);
        for door in self.doors.iter_mut().filter(|door| door.is_present()) {
            let succeeded = change.doors.iter().any(|(_, next)| next.bound == door.bound);
            door.retire(succeeded);
            self.retired += 1;
        }
        for (socket, mut door) in change.doors {
            door.pool = change.pools.get(door.pool).copied().unwrap_or_default();
            self.hang(socket, door);
        }
        let slots = self.slab.len() + self.slab.free();
        self.pending_limit = change.pending_limit.min(slots);
        self.spare = slots - self.pending_limit;
        self.clients = change.clients;
        let (most, pending) = change.pending_peer_limit;
        self.count_peers(PendingPeers::new(most, pending));
    }

    /// Changes who is trusted at the present doors, and what clients may have. Whoever is in keeps its place.
    pub fn amend(&mut self, clients: Clients, entrust: impl Fn(&mut Door)) {
        self.doors.iter_mut().filter(|door| door.is_present()).for_each(entrust);
        self.clients = clients;
    }

    /// The sink, to add pools.
    pub fn sink_mut(&mut self) -> &mut K {
        &mut self.sink
    }

    /// Where the ring counts.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The deadlines, to add classes.
    pub fn deadlines_mut(&mut self) -> &mut Deadlines {
        &mut self.deadlines
    }

    /// Puts a door in a free place.
    fn hang(&mut self, socket: D::Listener, door: Door) {
        let place = self.doors.iter().position(Door::is_vacant).unwrap_or(self.doors.len());
        self.driver.open_listener(place as u32, socket);
        match self.doors.get_mut(place) {
            Some(vacant) => *vacant = door,
            None => self.doors.push(door),
        }
    }

    fn count_peers(&mut self, peers: PendingPeers) {
        self.peers = peers;
        for slot in self.slab.ids().collect::<Vec<_>>() {
            if let Some(guest) = self.slab.get_mut(slot).filter(|guest| guest.pending) {
                self.peers.count(guest.peer.ip());
            }
        }
        self.lobby.iter().filter(|guest| guest.pending).for_each(|guest| self.peers.count(guest.peer.ip()));
    }

    /// One step of a retired door on its way out.
    pub(super) fn tend_retired(&mut self, listener: u32, descriptors_freed: bool) {
        let door = &mut self.doors[listener as usize];
        if door.is_vacant() {
            return;
        }
        if door.disarm() {
            self.driver.cancel_accept(listener);
        }
        if door.is_ready(self.now, descriptors_freed) {
            if door.is_succeeded() && self.draining.is_none() {
                door.close();
                self.driver.close_listener(listener);
            } else {
                self.sweep(listener);
            }
        }
        let door = &self.doors[listener as usize];
        if door.is_closed() && !door.has_pending() && self.lobby.is_empty() && !self.has_line(door) {
            let pool = door.relay.is_none().then_some(door.pool);
            self.doors[listener as usize].vacate();
            self.retired -= 1;
            if let Some(pool) = pool.filter(|&pool| self.doors.iter().all(|door| !door.leads_to(pool))) {
                self.sink.close(pool);
            }
        }
    }
}

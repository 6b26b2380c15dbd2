//! What goes from one engine to another, in the same process or not: listening sockets, connections whose header is
//! awaited, and the counts of clients.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::acceptor::Departing;
use super::relay::LiveSession;
use super::{Command, DRAIN_STEP, Engine, RingThread, lock};
use crate::admission::{ClientDebt, Clients};

/// How long the rings may take to let go of their pending connections; they need milliseconds.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);

/// A connection whose header is awaited, between two engines. Dropping it closes it.
#[derive(Debug)]
pub struct Pending {
    /// The socket; nothing reads from it.
    pub socket: OwnedFd,
    /// The address that its listener is bound to.
    pub listener: SocketAddr,
    /// The socket's peer: the balancer.
    pub peer: SocketAddr,
    /// When the kernel's accept was seen.
    pub accepted_at: Instant,
    /// When its header must be complete.
    pub deadline: Instant,
    /// What was taken out of the socket so far: the beginning of a header, or nothing.
    pub bytes: Vec<u8>,
}

/// The connections of each client that an engine counts; see [`EngineBuilder::client_counts`](super::EngineBuilder).
#[derive(Clone, Debug, Default)]
pub struct ClientCounts(pub(super) Clients);

impl Engine {
    /// Clones of all sockets that listen, with the addresses they are bound to. Given to the
    /// [`Listener::socket`](super::Listener::socket)s of another engine, they let it take over without refusing a
    /// connection. None once a drain has begun, and none of a ring that has failed.
    ///
    /// # Errors
    /// If descriptors ran out.
    pub fn sockets(&self) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
        let open = self.sockets.iter().filter_map(|(address, socket)| Some((*address, socket.upgrade()?)));
        open.map(|(address, socket)| Ok((address, socket.try_clone()?))).collect()
    }

    /// Whether a listener on this address expects a header.
    pub fn expects_header_at(&self, address: SocketAddr) -> bool {
        self.addresses.iter().zip(&self.proxied).any(|(bound, proxied)| *bound == address && *proxied)
    }

    /// Stops accepting, after another engine has begun to accept on the same [sockets](Engine::sockets), and gives away
    /// every connection that awaits its header on one of the `listeners`. Those of other listeners have until `limit` or
    /// their own deadline. What is validated reaches its worker; [`retire`](Engine::retire) waits for the end of it all.
    pub fn hand_over(&mut self, listeners: &[SocketAddr], limit: Duration) -> Vec<Pending> {
        let (to, from) = crossbeam_channel::unbounded(); // bounded by the rings' slots and backlogs
        for thread in &self.threads {
            thread.command(Command::HandOver { listeners: listeners.to_vec(), grace: limit, to: to.clone() });
        }
        drop(to);
        self.everything(&from)
            .into_iter()
            .map(|left| Pending {
                socket: left.socket,
                listener: left.listener,
                peer: left.peer,
                accepted_at: left.accepted_at,
                deadline: left.deadline,
                bytes: left.bytes,
            })
            .collect()
    }

    /// Gives away every relayed session that can move to another process, after [`hand_over`](Engine::hand_over). Those
    /// that cannot stay: whose bytes a filter has to look at, who have no server yet, and who hold many bytes for a slow
    /// reader. Tells how many stay.
    pub fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        let (to, from) = crossbeam_channel::unbounded(); // bounded by the rings' sessions
        let stay = Arc::new(AtomicUsize::new(0));
        for thread in &self.threads {
            thread.command(Command::HandOverSessions { to: to.clone(), stay: stay.clone() });
        }
        drop(to);
        (self.everything(&from), stay.load(Ordering::Relaxed))
    }

    /// What the rings send, until the last has nothing more. A command that comes to a ring in its last moment may stay in
    /// the inbox with the sender's end in it: whose thread has ended sends nothing.
    fn everything<T>(&self, from: &Receiver<T>) -> Vec<T> {
        let end = Instant::now() + HAND_OVER_LIMIT;
        let mut all = Vec::new();
        loop {
            let ended = self.threads.iter().all(RingThread::has_ended);
            match from.recv_timeout(DRAIN_STEP) {
                Ok(one) => all.push(one),
                Err(RecvTimeoutError::Timeout) if !ended && Instant::now() < end => {}
                Err(_) => return all,
            }
        }
    }

    /// Goes on with sessions of another engine, in this process or not: under the terms of the relay of the same name, if
    /// there is one.
    pub fn take_in_sessions(&self, sessions: Vec<LiveSession>) {
        let mut shares: Vec<Vec<LiveSession>> = self.threads.iter().map(|_| Vec::new()).collect();
        let rings = shares.len();
        sessions.into_iter().enumerate().for_each(|(number, session)| shares[number % rings].push(session));
        for (thread, share) in self.threads.iter().zip(shares) {
            thread.command(Command::TakeSessions(share));
        }
    }

    /// Goes on with connections that another engine has given away; at most once. Whatever does not belong to a listener
    /// that expects a header comes back.
    pub fn take_in(&self, mut pending: Vec<Pending>) -> Vec<Pending> {
        pending.sort_by_key(|one| one.deadline);
        let mut shares: Vec<Vec<Departing<OwnedFd>>> = self.threads.iter().map(|_| Vec::new()).collect();
        let mut rejected = Vec::new();
        for (number, one) in pending.into_iter().enumerate() {
            let ring = number % shares.len();
            match self.expects_header_at(one.listener) {
                true => shares[ring].push(departing(one)),
                false => rejected.push(one),
            }
        }
        for (thread, share) in self.threads.iter().zip(shares) {
            thread.command(Command::TakeIn(share));
        }
        rejected
    }

    /// Takes in who waits in the backlogs though no ring was woken. A process that dies leaves its armed accepts on shared
    /// sockets for a moment, and a connection that wakes one of those wakes nobody else.
    pub fn look(&self) {
        self.threads.iter().for_each(|thread| thread.command(Command::Look));
    }

    /// The counts of clients, for an engine that takes this one's place.
    pub fn client_counts(&self) -> ClientCounts {
        ClientCounts(lock(&self.clients).clone())
    }

    /// Clients that have spent of their connection rate, for an engine in another process.
    pub fn client_debts(&self) -> Vec<ClientDebt> {
        lock(&self.clients).table().map_or_else(Vec::new, |table| table.debts(Instant::now()))
    }

    /// Goes on with what clients have spent of their rates in another process; at most once.
    pub fn take_in_client_debts(&self, debts: &[ClientDebt]) {
        lock(&self.clients).owe(debts, Instant::now());
    }

    /// Leaves the counts of clients to the engine that has taken this one's place: if they are the same table, what
    /// happened to it is no longer part of this engine's [snapshot](Engine::snapshot).
    pub fn leave_counts_to(&mut self, next: &Engine) {
        let same = |one: &Clients, other: &Clients| match (one.table(), other.table()) {
            (Some(one), Some(other)) => std::sync::Arc::ptr_eq(one, other),
            _ => false,
        };
        let mut own = lock(&self.clients);
        if same(&own, &lock(&next.clients)) {
            *own = Clients::default();
        }
    }
}

fn departing(one: Pending) -> Departing<OwnedFd> {
    let Pending { socket, listener, peer, accepted_at, deadline, bytes } = one;
    Departing { socket, listener, peer, accepted_at, deadline, bytes }
}

//! The checks that are under way: their sockets and deadlines. What is said in them decides a
//! [`Dialogue`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::trial::{Said, Talk, Trial};
use crate::backend::{CheckKind, CheckTimes, ConnectFailure, Dialogue, Ending, ServerIndex, Verdict};
use crate::conn::{Slab, SlotId};
use crate::engine::relay::{Terms, connect_in_turn};
use crate::relay::HEADER_MAX;
use crate::ring::{BATCH_MAX, Completion, Driver, Epoll, Errno, Readiness, SetupError, Sizes, Streams, Waker};

/// Most checks at a time; those that are due beyond it wait until one is over.
pub const CHECKS_MAX: u32 = 64;
/// Bytes that are read of a server at once.
const ROOM: usize = 4096;

/// What checks stand on: epoll, whatever the rings are on. So few sockets have nothing to win from a ring, which would lock
/// memory and must be allowed.
pub fn driver(waker: Waker) -> Result<Epoll, SetupError> {
    Epoll::new(Sizes { slots: 0, longest: 0, completions: 0, registered: false }, Vec::new(), waker)
}

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Task {
    /// Those of a service that uses the backend.
    pub terms: Arc<Terms>,
    pub server: ServerIndex,
    /// Where to connect.
    pub address: SocketAddr,
    pub kind: CheckKind,
    pub times: CheckTimes,
    /// The server is told of a client in band, in place of `kind`.
    pub is_trial: bool,
}

impl Task {
    /// What is said on a connection from `local`.
    fn talk(&self, local: Option<SocketAddr>, now: Instant) -> Talk {
        let trial = local.filter(|_| self.is_trial).and_then(|local| Trial::new(self, local, now));
        match trial {
            Some(trial) => Talk::Trial(trial.into()),
            None => {
                let header = self.header(local);
                Talk::Check(Dialogue::new(self.kind, self.terms.protocol, &header, self.times, now))
            }
        }
    }

    /// What is sent first on a connection from `local`.
    fn header(&self, local: Option<SocketAddr>) -> Vec<u8> {
        let (Some(announce), Some(local)) = (&self.terms.announce, local) else { return Vec::new() };
        let mut room = [0; HEADER_MAX];
        // No preset's limit is below what two addresses need.
        let length = announce.write_check(local, self.address, &mut room).map_or(0, |announced| announced.length);
        room[..length].to_vec()
    }
}

/// A check and its socket.
struct Check<S> {
    task: Task,
    socket: S,
    talk: Talk,
    connected: bool,
}

/// The checks under way.
pub struct Checks<S> {
    under_way: Slab<Check<S>>,
    /// Those that are over.
    over: Vec<(Task, Verdict)>,
    /// Whose turn it is among the source addresses.
    source: usize,
    room: Box<[u8]>,
}

impl<S> Checks<S> {
    pub fn new() -> Checks<S> {
        let under_way = Slab::new(CHECKS_MAX);
        Checks { under_way, over: Vec::new(), source: 0, room: vec![0; ROOM].into() }
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.over.is_empty()
    }

    /// How many more may begin.
    pub fn room(&self) -> usize {
        self.under_way.free()
    }

    /// Takes those that are over, with what they have found.
    pub fn take_over(&mut self) -> Vec<(Task, Verdict)> {
        std::mem::take(&mut self.over)
    }

    /// When the first of them expires; at once if one is over.
    pub fn due(&mut self, now: Instant) -> Option<Instant> {
        if !self.over.is_empty() {
            return Some(now);
        }
        let slots: Vec<SlotId> = self.under_way.ids().collect();
        slots.into_iter().filter_map(|slot| Some(self.under_way.get_mut(slot)?.talk.deadline())).min()
    }

    /// Begins a check, if there is room.
    pub fn begin<D: Streams<Socket = S>>(&mut self, driver: &mut D, task: Task, now: Instant) {
        let sources = task.terms.sources.clone();
        let socket = match connect_in_turn(driver, task.address, &sources, &mut self.source) {
            Ok(socket) => socket,
            Err(errno) => {
                let verdict = no_connection(errno, now, now);
                if verdict.finding == crate::backend::Finding::OwnFault {
                    task.terms.backend.short_of(errno, task.address, &sources, now);
                }
                return self.over.push((task, verdict));
            }
        };
        let talk = task.talk(driver.local(&socket), now);
        let check = Check { task, socket, talk, connected: false };
        let Ok(slot) = self.under_way.insert(check) else { return };
        let check = self.under_way.get_mut(slot).expect("just put there");
        driver.watch(slot.index, slot.generation, &check.socket);
    }

    /// A watched socket is ready.
    pub fn handle_ready<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        readiness: Readiness,
        armed: bool,
        now: Instant,
    ) {
        // One that is over already: the end of its watch was asked for.
        let Some(check) = self.under_way.get_mut(slot) else { return };
        if !armed {
            driver.watch(slot.index, slot.generation, &check.socket);
        }
        let verdict = if check.connected { None } else { check.connect_ended(driver, readiness, now) };
        let readable = check.connected && readiness.readable;
        let verdict = match verdict {
            None if readable => check.read(driver, &mut self.room, now),
            decided => decided,
        };
        if let Some(verdict) = verdict {
            self.finish(driver, slot, verdict);
        }
    }

    /// Ends what has lasted too long.
    pub fn expire<D: Streams<Socket = S>>(&mut self, driver: &mut D, now: Instant) {
        for slot in self.under_way.ids().collect::<Vec<_>>() {
            let check = self.under_way.get_mut(slot).expect("its slot was just there");
            if check.talk.deadline() > now {
                continue;
            }
            let said = check.talk.expired(now);
            let verdict = say(driver, &check.socket, said);
            if let Some(verdict) = verdict {
                self.finish(driver, slot, verdict);
            }
        }
    }

    fn finish<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, verdict: Verdict) {
        driver.unwatch(slot.index, slot.generation);
        self.over.extend(self.under_way.remove(slot).map(|check| (check.task, verdict)));
    }
}

impl Checks<OwnedFd> {
    /// Waits until something happens to a check, `until` at the latest, or until somebody wakes it.
    ///
    /// # Errors
    /// Only if epoll is broken.
    pub fn turn(&mut self, driver: &mut Epoll, until: Option<Instant>) -> io::Result<()> {
        let now = Instant::now();
        let until = until.into_iter().chain(self.due(now)).min();
        driver.wait(until.map(|until| until.saturating_duration_since(now)))?;
        let now = Instant::now();
        for _ in 0..BATCH_MAX {
            let Some(completion) = driver.next() else { break };
            if let Completion::Ready { place, generation, readiness, armed } = completion {
                self.handle_ready(driver, SlotId { index: place, generation }, readiness, armed, now);
            }
        }
        self.expire(driver, now);
        Ok(())
    }
}

impl<S> Check<S> {
    fn connect_ended<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        readiness: Readiness,
        now: Instant,
    ) -> Option<Verdict> {
        if !readiness.writable {
            return None;
        }
        let failed = driver.connected(&self.socket).err().or(readiness.broken.then_some(Errno(libc::ECONNRESET)));
        if let Some(errno) = failed {
            return Some(no_connection(errno, self.talk.begun(), now));
        }
        self.connected = true;
        let said = self.talk.connected(now);
        if said.0.is_empty() {
            driver.acknowledge(&self.socket);
        }
        say(driver, &self.socket, said)
    }

    /// Reads all that is there; the dialogue bounds how much that may be.
    fn read<D: Streams<Socket = S>>(&mut self, driver: &mut D, room: &mut [u8], now: Instant) -> Option<Verdict> {
        loop {
            let said = match driver.receive(&self.socket, room) {
                Ok(0) => self.talk.ended(Ending::Eof, now),
                Ok(count) => self.talk.received(&room[..count], now),
                Err(Errno(libc::EAGAIN)) => return None,
                Err(Errno(libc::EINTR)) => continue,
                Err(_) => self.talk.ended(Ending::Reset, now),
            };
            let verdict = say(driver, &self.socket, said);
            if verdict.is_some() {
                return verdict;
            }
        }
    }
}

/// Sends what is to be sent. A few bytes find room in a fresh connection; if it is gone, its end is read next.
fn say<D: Streams>(driver: &mut D, socket: &D::Socket, (bytes, verdict): Said) -> Option<Verdict> {
    if !bytes.is_empty() {
        // spec 2.1 SHOULD NOT "bother handling partial sends"
        let _ = driver.send(socket, &bytes, false);
    }
    verdict
}

fn no_connection(errno: Errno, begun: Instant, now: Instant) -> Verdict {
    let failure = ConnectFailure::of(&io::Error::from_raw_os_error(errno.0));
    Verdict::no_connection(failure, now.saturating_duration_since(begun))
}

//! The driver on epoll(7), for where io_uring is forbidden, as container runtimes do unless they are told otherwise.
//!
//! A ring is given operations and says how each has ended; epoll says which sockets are ready. This driver makes the one out
//! of the other, and holds what an engine relies on:
//!
//! - **A read completes exactly once**, with bytes or with an error, and its buffer cannot be reached in between. It is tried
//!   at once, which is all that most headers need; only if nothing is there yet does the socket enter the set, until bytes,
//!   an end or [`Driver::cancel_read`]. A cancelled read completes with ECANCELED, and what comes later stays in the socket;
//!   one whose completion is on its way cannot be cancelled any more.
//! - **An accept goes on until its last completion says so.** An armed listener stands in the set, told as long as somebody
//!   waits (level-triggered), and at most [`ACCEPTS_MAX`] connections are taken a turn. Any error ends it, as it ends a
//!   multishot accept, and the engine arms it anew; [`Driver::cancel_accept`] ends it with ECANCELED. Who is not asked for
//!   stays in the backlog.
//! - **A watch tells each readiness once** (edge-triggered), beginning with what is true when it begins, and stays armed.
//! - **Nothing is in flight.** The kernel writes to memory only while it is called, so that dropping the driver waits for
//!   nothing.
//!
//! Completions wait in a queue of this driver. It is bounded by what one wait adds (a batch of events, and what each
//! listener brings), since nothing is asked of the kernel while a whole batch waits to be handled.
//!
//! A listening socket is watched without EPOLLEXCLUSIVE. Whoever shares one, two rings of this process or, in a takeover, two
//! processes of which the other may be on io_uring, is then woken in any case, and none depends on the other's diligence.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno as SystemError;
use rustix::net::{RecvFlags, Shutdown, SocketFlags, acceptfrom_with, recv, shutdown};

use super::buffers::Buffers;
use super::driver::{Completion, Driver, Errno, Native, Newcomer, ReadMode};
use super::listener::Sockets;
use super::setup::SetupError;
use super::stream::{Readiness, Watches, errno};
use super::token::Token;
use super::{BATCH_MAX, Sizes, Waker, sys};

/// Most connections that one listener brings in a turn; the others are there in the next.
pub const ACCEPTS_MAX: usize = 256;
/// Longest single wait, so that its milliseconds fit; who waits longer is told of nothing, and waits again.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// A driver on epoll, for one thread.
pub struct Epoll {
    set: OwnedFd,
    buffers: Buffers,
    /// By slot.
    reads: Box<[Option<Read>]>,
    listeners: Sockets,
    /// By listener.
    accepts: Vec<Accept>,
    /// The sockets that are watched, by their tokens.
    watched: HashMap<u64, RawFd>,
    waker: Waker,
    /// What was not told yet.
    told: VecDeque<Completion<OwnedFd>>,
    events: Vec<Event>,
}

/// A read that waits for bytes; its socket is in the set.
#[derive(Clone, Copy)]
struct Read {
    generation: u32,
    at: u32,
    mode: ReadMode,
    socket: RawFd,
}

/// What became of a listener's accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    Off,
    /// Its socket is in the set.
    Armed,
    /// Armed, and told of nothing: a later listener has the same socket, which is in the set once.
    Superseded,
}

impl Epoll {
    /// Makes a driver on this thread, to be used only here. It makes no use of `sizes.completions`.
    ///
    /// # Errors
    /// [`SetupError`], if no descriptor is left.
    pub fn new(sizes: Sizes, listeners: Vec<Arc<TcpListener>>, waker: Waker) -> Result<Epoll, SetupError> {
        let failed = |error: SystemError| SetupError::of_epoll(error.into());
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&set, &waker, data(Token::Wake), EventFlags::IN).map_err(failed)?;
        Ok(Epoll {
            set,
            buffers: Buffers::new(sizes.slots, sizes.longest),
            reads: vec![None; sizes.slots as usize].into(),
            accepts: vec![Accept::Off; listeners.len()],
            listeners: Sockets::new(listeners),
            watched: HashMap::new(),
            waker,
            told: VecDeque::with_capacity(BATCH_MAX),
            events: Vec::with_capacity(BATCH_MAX),
        })
    }
}

impl Native for Epoll {
    const NAME: &'static str = "epoll";

    fn make(sizes: Sizes, waker: Waker) -> Result<Epoll, SetupError> {
        Epoll::new(sizes, Vec::new(), waker)
    }
}

impl Driver for Epoll {
    type Listener = Arc<TcpListener>;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn accept(&mut self, listener: u32) {
        match self.add_listener(listener) {
            Ok(()) => self.accepts[listener as usize] = Accept::Armed,
            Err(errno) => self.told.push_back(Completion::AcceptFailed { listener, errno, armed: false }),
        }
    }

    fn cancel_accept(&mut self, listener: u32) {
        if self.accepts[listener as usize] != Accept::Off {
            self.end_accept(listener, Errno(libc::ECANCELED));
        }
    }

    fn accept_now(&mut self, listener: u32) -> Result<Option<Newcomer<OwnedFd>>, Errno> {
        self.listeners.accept(listener)
    }

    fn peek<'b>(&self, socket: &OwnedFd, room: &'b mut [u8]) -> &'b [u8] {
        // What cannot be read is not there.
        let count = sys::peek(socket.as_fd(), room).unwrap_or_default();
        &room[..count]
    }

    fn open_listener(&mut self, listener: u32, socket: Arc<TcpListener>) {
        self.listeners.open(listener, socket);
        self.accepts.resize(self.accepts.len().max(listener as usize + 1), Accept::Off);
    }

    fn close_listener(&mut self, listener: u32) {
        // Another process may hold the socket, so that closing it would not take it out of the set.
        self.disarm(listener);
        self.listeners.close(listener);
    }

    fn read(&mut self, slot: u32, generation: u32, socket: &OwnedFd, at: u32, mode: ReadMode) {
        self.buffers.lend(slot, at);
        let read = Read { generation, at, mode, socket: socket.as_raw_fd() };
        let tried = self.receive_into(slot, read, socket.as_fd());
        if tried != Err(Errno(libc::EAGAIN)) {
            return self.complete(slot, generation, tried);
        }
        match epoll::add(&self.set, socket, data(Token::Read { slot, generation }), EventFlags::IN) {
            Ok(()) => self.reads[slot as usize] = Some(read),
            Err(error) => self.complete(slot, generation, Err(errno(error))),
        }
    }

    fn cancel_read(&mut self, slot: u32, generation: u32) {
        if self.reads[slot as usize].is_some_and(|read| read.generation == generation) {
            self.end_read(slot, Err(Errno(libc::ECANCELED)));
        }
    }

    fn bytes(&self, slot: u32, len: u32) -> &[u8] {
        self.buffers.bytes(slot, len)
    }

    fn capacity(&self, slot: u32) -> u32 {
        self.buffers.capacity(slot)
    }

    fn lengthen(&mut self, slot: u32, len: u32) -> bool {
        self.buffers.lengthen(slot, len)
    }

    fn longer_left(&self) -> usize {
        self.buffers.longer_left()
    }

    fn fill(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.buffers.fill(slot, bytes)
    }

    fn release(&mut self, slot: u32) {
        self.buffers.release(slot);
    }

    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        // As of a ring: who has a whole batch to handle does not ask for more, and nothing is waited for while some is left.
        if self.told.len() >= BATCH_MAX {
            return Ok(());
        }
        let limit = if self.told.is_empty() { limit } else { Some(Duration::ZERO) };
        self.events.clear();
        match epoll::wait(&self.set, spare_capacity(&mut self.events), limit.map(timeout).as_ref()) {
            Ok(_) | Err(SystemError::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for index in 0..self.events.len() {
            let Event { flags, data, .. } = self.events[index];
            if let Some(token) = Token::unpack(data.u64()) {
                self.handle(token, flags);
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Completion<OwnedFd>> {
        let completion = self.told.pop_front()?;
        if let Completion::Read { slot, .. } = completion {
            self.buffers.give_back(slot);
        }
        Some(completion)
    }
}

impl Watches for Epoll {
    fn begin_watch(&mut self, place: u32, generation: u32, socket: &OwnedFd) {
        let token = Token::Watch { place, generation };
        let flags = EventFlags::from_bits_retain(Readiness::EVENTS) | EventFlags::ET;
        let added = match epoll::add(&self.set, socket, data(token), flags) {
            // To be told anew of what is true now.
            Err(SystemError::EXIST) => epoll::modify(&self.set, socket, data(token), flags),
            added => added,
        };
        match added {
            Ok(()) => _ = self.watched.insert(token.pack(), socket.as_raw_fd()),
            Err(error) => {
                tracing::warn!("a connection is ended because it cannot be watched: {error} (epoll_ctl)");
                // Whoever looks now, as the readiness says that they should, finds an end. It fails only where there is one.
                let _ = shutdown(socket, Shutdown::Both);
                let readiness = Readiness { readable: true, writable: true, ended: true, broken: true };
                self.told.push_back(Completion::Ready { place, generation, readiness, armed: true });
            }
        }
    }

    fn end_watch(&mut self, place: u32, generation: u32) {
        if let Some(socket) = self.watched.remove(&Token::Watch { place, generation }.pack()) {
            self.remove(socket);
        }
    }
}

impl Epoll {
    /// A socket of the set is ready.
    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Accept { listener } => self.accept_some(listener),
            Token::Read { slot, generation } => self.read_on(slot, generation),
            Token::Watch { place, generation } => {
                let readiness = Readiness::of_events(flags.bits());
                self.told.push_back(Completion::Ready { place, generation, readiness, armed: true });
            }
            Token::Wake => {
                self.waker.rest();
                self.told.push_back(Completion::Woken);
            }
            Token::Cancel => {}
        }
    }

    fn accept_some(&mut self, listener: u32) {
        for _ in 0..ACCEPTS_MAX {
            // Blocking, as from a ring: worker threads want them so.
            match acceptfrom_with(self.listeners.get(listener), SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => {
                    let peer = peer.ok_or(Errno(libc::ENOTCONN));
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).map_err(|_| Errno(libc::EAFNOSUPPORT)));
                    self.told.push_back(Completion::Accepted { listener, socket, peer, armed: true });
                }
                Err(SystemError::AGAIN) => return,
                Err(error) => return self.end_accept(listener, errno(error)),
            }
        }
    }

    /// Puts a listening socket into the set, or lets this listener have its place there.
    fn add_listener(&mut self, listener: u32) -> Result<(), Errno> {
        let token = data(Token::Accept { listener });
        let socket = self.listeners.get(listener);
        match epoll::add(&self.set, socket, token, EventFlags::IN) {
            Err(SystemError::EXIST) => {}
            added => return added.map_err(errno),
        }
        epoll::modify(&self.set, socket, token, EventFlags::IN).map_err(errno)?;
        let armed = (0..).zip(&mut self.accepts).filter(|(_, accept)| **accept == Accept::Armed);
        for (_, accept) in armed.filter(|(other, _)| Arc::ptr_eq(self.listeners.get(*other), socket)) {
            *accept = Accept::Superseded;
        }
        Ok(())
    }

    fn end_accept(&mut self, listener: u32, errno: Errno) {
        self.disarm(listener);
        self.told.push_back(Completion::AcceptFailed { listener, errno, armed: false });
    }

    fn disarm(&mut self, listener: u32) {
        if std::mem::replace(&mut self.accepts[listener as usize], Accept::Off) == Accept::Armed {
            self.remove(self.listeners.get(listener).as_raw_fd());
        }
    }

    /// Bytes have come for a read, or an end.
    fn read_on(&mut self, slot: u32, generation: u32) {
        let Some(read) = self.reads[slot as usize].filter(|read| read.generation == generation) else { return };
        // SAFETY: the engine closes a socket only after the completion of its read, which comes below.
        let socket = unsafe { BorrowedFd::borrow_raw(read.socket) };
        match self.receive_into(slot, read, socket) {
            Err(Errno(libc::EAGAIN)) => {}
            result => self.end_read(slot, result),
        }
    }

    fn receive_into(&mut self, slot: u32, read: Read, socket: BorrowedFd<'_>) -> Result<u32, Errno> {
        let room = self.buffers.lent_room(slot, read.at);
        let (limit, flags) = match read.mode {
            ReadMode::Take => (room.len(), RecvFlags::DONTWAIT),
            ReadMode::Peek => (room.len(), RecvFlags::DONTWAIT | RecvFlags::PEEK),
            ReadMode::Consume(len) => (room.len().min(len as usize), RecvFlags::DONTWAIT),
        };
        recv(socket, &mut room[..limit], flags).map(|(count, _)| count as u32).map_err(errno)
    }

    fn end_read(&mut self, slot: u32, result: Result<u32, Errno>) {
        let read = self.reads[slot as usize].take().expect("the caller has looked");
        self.remove(read.socket);
        self.complete(slot, read.generation, result);
    }

    fn complete(&mut self, slot: u32, generation: u32, result: Result<u32, Errno>) {
        self.told.push_back(Completion::Read { slot, generation, result });
    }

    /// Takes a socket out of the set, which knows it as long as anybody holds it open.
    fn remove(&self, socket: RawFd) {
        // SAFETY: the number is that of a socket in the set; the engine ends its read, its watch or its accept, as happens
        // here, before it closes it. The borrow ends with this function.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        if let Err(error) = epoll::delete(&self.set, socket) {
            tracing::debug!(%error, "a socket was not in the set");
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // Nobody writes to what was lent, so that it may go.
        for slot in 0..self.reads.len() as u32 {
            self.buffers.give_back(slot);
        }
    }
}

fn data(token: Token) -> EventData {
    EventData::new_u64(token.pack())
}

/// In whole milliseconds, so that nothing is told before its time.
fn timeout(limit: Duration) -> Timespec {
    let milliseconds = limit.min(WAIT_MAX).as_micros().div_ceil(1000) as i64;
    Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 }
}

//! What the engine asks of a ring: the kernel's, or a scripted one in a simulation.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::setup::SetupError;
use super::stream::{Readiness, Streams};
use super::{Sizes, Waker};

/// An `errno` value, as the kernel reports it in a completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Errno({self})")
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// How a read treats the bytes in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Take whatever is there and fits.
    Take,
    /// Look at it and leave it (`MSG_PEEK`).
    Peek,
    /// Take at most this many bytes: those that were looked at before.
    Consume(u32),
}

/// One thing that happened.
#[derive(Debug)]
pub enum Completion<S> {
    /// A connection.
    Accepted {
        /// Index of its listener.
        listener: u32,
        /// The connection; dropping it closes it.
        socket: S,
        /// Who connected. An error (ENOTCONN) means that the peer has reset the connection meanwhile.
        peer: Result<SocketAddr, Errno>,
        /// Whether the listener's accept stays armed (IORING_CQE_F_MORE). Only this decides about arming again.
        armed: bool,
    },
    /// The listener's accept reported an error, no connection.
    AcceptFailed {
        /// Index of the listener.
        listener: u32,
        /// Why.
        errno: Errno,
        /// Whether the accept stays armed all the same.
        armed: bool,
    },
    /// The kernel reported a connection that does not exist (a known fault of kernels before 6.8 when the completion
    /// queue is full). Nothing was closed; the accept has to be armed again unless `armed`.
    Phantom {
        /// Index of the listener.
        listener: u32,
        /// Whether the accept stays armed.
        armed: bool,
    },
    /// A read ended: bytes (0 = the peer has closed its side), or why not. The buffer is free again.
    Read {
        /// The slot.
        slot: u32,
        /// The generation given with the read.
        generation: u32,
        /// Bytes read.
        result: Result<u32, Errno>,
    },
    /// A watched socket is ready for something.
    Ready {
        /// The place given with the watch.
        place: u32,
        /// The generation given with the watch.
        generation: u32,
        /// For what.
        readiness: Readiness,
        /// Whether the watch goes on. If not, it has to be begun anew.
        armed: bool,
    },
    /// Another thread has asked for attention.
    Woken,
    /// The completion queue was full: completions, this turn's or later ones, had to wait in the kernel. None is lost, but
    /// some kernels have faults there.
    Overflowed,
}

/// A connection and its peer, or why that is not known.
pub type Newcomer<S> = (S, Result<SocketAddr, Errno>);

/// A ring: operations go in, completions come out, and it owns the slots' buffers. The sockets of connections are those of
/// its stream half, [`Streams`].
///
/// Order of calls: any number of operations, then [`wait`](Driver::wait), then [`next`](Driver::next) until `None`.
/// Operations may also be given between two calls of `next`; nothing is called back.
pub trait Driver: Streams {
    /// A listening socket.
    type Listener;

    /// The time. Read once per turn.
    fn now(&self) -> Instant;

    /// Arms the multishot accept of a listener. At most one may be armed.
    fn accept(&mut self, listener: u32);

    /// Asks for the end of a listener's accept; its last completion says `armed: false`.
    fn cancel_accept(&mut self, listener: u32);

    /// Takes one connection that waits in the listener's backlog, if one does, without blocking.
    ///
    /// # Errors
    /// Those of accept(2): one may wait all the same.
    fn accept_now(&mut self, listener: u32) -> Result<Option<Newcomer<Self::Socket>>, Errno>;

    /// The first bytes that wait in the socket, at most as many as there is room for; they stay there.
    fn peek<'b>(&self, socket: &Self::Socket, room: &'b mut [u8]) -> &'b [u8];

    /// Takes a listening socket in as the listener of this index: one that is closed, or the next.
    fn open_listener(&mut self, listener: u32, socket: Self::Listener);

    /// Closes a listener for good, when no accept is armed.
    fn close_listener(&mut self, listener: u32);

    /// Reads into the slot's buffer behind its first `at` bytes.
    ///
    /// # Panics
    /// If a read of this slot is in flight, or the buffer has no room behind `at`.
    fn read(&mut self, slot: u32, generation: u32, socket: &Self::Socket, at: u32, mode: ReadMode);

    /// Asks for the end of a slot's read; the read completes by itself, with an error or with bytes all the same.
    fn cancel_read(&mut self, slot: u32, generation: u32);

    /// The first `len` bytes of the slot's buffer.
    ///
    /// # Panics
    /// If a read of this slot is in flight.
    fn bytes(&self, slot: u32, len: u32) -> &[u8];

    /// Bytes that the slot's buffer holds at present.
    fn capacity(&self, slot: u32) -> u32;

    /// Gives the slot a buffer for the longest header, keeping its first `len` bytes; `false` if none is free.
    fn lengthen(&mut self, slot: u32, len: u32) -> bool;

    /// How many longer buffers are free.
    fn longer_left(&self) -> usize;

    /// Puts bytes that were read elsewhere at the start of the slot's buffer, a longer one if need be; `false` if none is
    /// free or long enough.
    ///
    /// # Panics
    /// If a read of this slot is in flight.
    fn fill(&mut self, slot: u32, bytes: &[u8]) -> bool;

    /// Takes a longer buffer back; called when the slot's user is gone.
    fn release(&mut self, slot: u32);

    /// Submits what was asked for and waits for a completion, at most `limit` (`None`: as long as it takes).
    ///
    /// # Errors
    /// Only if the ring itself is broken.
    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()>;

    /// The next completion of this turn.
    fn next(&mut self) -> Option<Completion<Self::Socket>>;
}

/// A driver that stands on the kernel. Which one it is is decided when a thread starts, and compiled into its loop.
pub trait Native: Driver<Socket = OwnedFd, Listener = Arc<TcpListener>> + Sized {
    /// As the setting `driver` has it.
    const NAME: &'static str;

    /// Makes a driver without listeners on this thread, to be used only here.
    ///
    /// # Errors
    /// [`SetupError`] names cause and remedy.
    fn make(sizes: Sizes, waker: Waker) -> Result<Self, SetupError>;

    /// What it does less well than it could, and why; each in words that follow its name.
    fn shortcomings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Bytes of memory that it keeps locked, as the kernel counts them: see [`Sizes::locked`].
    fn locked(&self) -> u64 {
        0
    }
}

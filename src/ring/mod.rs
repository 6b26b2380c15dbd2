//! The kernel edge: rings, their buffers, listening sockets, and every call of libc.
//!
//! A [`Ring`] belongs to one thread. It owns the memory that the kernel reads into; a buffer in flight cannot be reached
//! from safe code. It has no word of the PROXY protocol: the engine gives it slots and listeners and gets
//! [`Completion`]s. What the engine needs of a ring is the trait [`Driver`], so that a scripted one can take its place.
//!
//! Kernel facts that shape it: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
#![allow(unsafe_code)]

#[doc(hidden)]
pub mod bare;
mod buffers;
pub mod client;
mod driver;
mod listener;
mod setup;
mod stream;
mod sys;
mod token;
mod waker;

pub use buffers::{LONG_MAX, SLOT_BYTES};
pub use driver::{Completion, Driver, Errno, Newcomer, ReadMode};
pub use listener::{BACKLOG, DEFER_ACCEPT_SECONDS, Options, adopt_group, bind_group};
pub use setup::{Abilities, CQ_ENTRIES_MAX, Rung, SQ_ENTRIES, SetupError, disabled_by_sysctl};
pub use stream::{Readiness, Streams};
pub use sys::{Credentials, Resource, allowed_cpus, limit, peer_credentials, pin_to, raise_open_files};
pub use token::GENERATION_BITS;
pub use waker::Waker;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use buffers::Buffers;
use token::Token;

/// Most completions handled in one turn, so that deadlines and commands get theirs under any load.
pub const BATCH_MAX: usize = 1024;

/// What kernels before 6.8 (6.6.18, 6.1.79) may report in place of a connection when the completion queue is full: the
/// accept's poll mask, all of it or what of it is true of a listening socket.
const PHANTOMS: [RawFd; 2] = [
    (libc::POLLIN | libc::POLLPRI | libc::POLLRDNORM | libc::POLLRDBAND) as RawFd,
    (libc::POLLIN | libc::POLLRDNORM) as RawFd,
];

/// These numbers, kept for good so that no connection ever gets one. Empty where somebody had them before.
static RESERVED: OnceLock<Vec<OwnedFd>> = OnceLock::new();

/// What a ring is to hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Slots: connections whose header is awaited, and those that wait for room in a queue.
    pub slots: u32,
    /// Bytes of a longer buffer, for headers that do not fit in [`SLOT_BYTES`].
    pub longest: u32,
    /// Completion queue entries; at least slots + backlog of every listener is advised.
    pub completions: u32,
}

/// The kernel's ring.
pub struct Ring {
    // Order matters for dropping: the ring goes before the buffers that it may write to.
    io: IoUring,
    buffers: Buffers,
    /// `None` once closed. Two rings may have the same socket; it is closed when the last of them lets it go.
    listeners: Vec<Option<Arc<TcpListener>>>,
    /// Completions that have left the kernel's queue: less than a batch, and what one entry brings at most.
    reaped: VecDeque<cqueue::Entry>,
    waker: Waker,
    /// Where the eventfd's counter is read to. Boxed, so that it stays put.
    woken: Box<u64>,
    /// That read is in flight.
    waking: bool,
    /// Nothing is armed any more.
    ending: bool,
    rung: Rung,
    /// Why READ_FIXED is not used, if it is not.
    unregistered: Option<io::Error>,
    /// The completion queue was full, which nobody has been told yet.
    overflowed: bool,
}

impl Ring {
    /// Makes a ring on this thread, to be used only here.
    ///
    /// Where the kernel does not register the buffers, reads go by RECV instead and [`Ring::unregistered`] says why.
    ///
    /// # Errors
    /// [`SetupError`] names cause and remedy.
    pub fn new(sizes: Sizes, listeners: Vec<Arc<TcpListener>>, waker: Waker) -> Result<Ring, SetupError> {
        Ring::with(Abilities::ALL, sizes, listeners, waker)
    }

    /// [`Ring::new`] with no more than `abilities`.
    pub(crate) fn with(
        abilities: Abilities,
        sizes: Sizes,
        listeners: Vec<Arc<TcpListener>>,
        waker: Waker,
    ) -> Result<Ring, SetupError> {
        RESERVED.get_or_init(|| PHANTOMS.into_iter().filter_map(sys::reserve).collect());
        let (io, rung) = setup::ring(sizes.completions, abilities)?;
        let buffers = Buffers::new(sizes.slots, sizes.longest);
        let completions = io.params().cq_entries() as usize;
        let (base, len) = buffers.region();
        let region = libc::iovec { iov_base: base.cast(), iov_len: len };
        // SAFETY: the region lives in `buffers`, which the ring owns until after `io` is gone.
        let registered = unsafe { io.submitter().register_buffers(&[region]) };
        let mut ring = Ring {
            io,
            buffers,
            listeners: listeners.into_iter().map(Some).collect(),
            reaped: VecDeque::with_capacity(completions),
            waker,
            woken: Box::new(0),
            waking: false,
            ending: false,
            rung,
            unregistered: registered.err(),
            overflowed: false,
        };
        ring.arm_waker();
        Ok(ring)
    }

    /// The set-up flags that the kernel has accepted.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Why reads go by RECV and not by READ_FIXED, if they do.
    pub fn unregistered(&self) -> Option<&io::Error> {
        self.unregistered.as_ref()
    }

    fn arm_waker(&mut self) {
        let into: *mut u64 = &mut *self.woken;
        let entry = opcode::Read::new(Fd(self.waker.fd()), into.cast(), size_of::<u64>() as u32).build();
        self.push(entry.user_data(Token::Wake.pack()));
        self.waking = true;
    }

    fn push(&mut self, entry: squeue::Entry) {
        const ATTEMPTS: u32 = 1000;
        for _ in 0..ATTEMPTS {
            // SAFETY: every buffer named in an entry is owned by this ring for its whole life (slots, `woken`), and every
            // descriptor is kept open by its owner until the operation has completed.
            let pushed = unsafe { self.io.submission().push(&entry) };
            match pushed {
                Ok(()) => return,
                Err(_) => self.flush(),
            }
        }
        panic!("the kernel has taken no submission in {ATTEMPTS} attempts");
    }

    /// Submits without waiting, to make room in the submission queue.
    fn flush(&mut self) {
        if let Err(error) = self.io.submit() {
            // EBUSY and EAGAIN pass when completions are taken out of the queue; nothing else is to be expected.
            tracing::debug!(%error, "submitting in mid-turn");
            self.reap();
        }
    }

    fn reap(&mut self) {
        self.reaped.extend(self.io.completion());
    }

    /// What a completion means; `None` if it needs no answer.
    fn understand(&mut self, entry: &cqueue::Entry) -> Option<Completion<OwnedFd>> {
        let armed = cqueue::more(entry.flags());
        match Token::unpack(entry.user_data())? {
            Token::Accept { listener } => Some(self.accepted(listener, entry.result(), armed)),
            Token::Read { slot, generation } => {
                if !self.buffers.give_back(slot) {
                    return None;
                }
                Some(Completion::Read { slot, generation, result: outcome(entry.result()) })
            }
            Token::Watch { place, generation } => {
                // A failed poll, too, says that its user has to look.
                let events = outcome(entry.result()).unwrap_or(libc::POLLERR as u32);
                match entry.result() {
                    // Its end was asked for.
                    result if result == -libc::ECANCELED && !armed => None,
                    _ => Some(Completion::Ready { place, generation, readiness: Readiness::of_events(events), armed }),
                }
            }
            Token::Cancel => None,
            Token::Wake => {
                self.waking = false;
                if !self.ending {
                    self.arm_waker();
                }
                Some(Completion::Woken)
            }
        }
    }

    fn accepted(&mut self, listener: u32, result: i32, armed: bool) -> Completion<OwnedFd> {
        let fd = match outcome(result) {
            Ok(_) => result,
            Err(errno) => return Completion::AcceptFailed { listener, errno, armed },
        };
        match sys::peer_of(fd) {
            Err(Errno(libc::EBADF | libc::ENOTSOCK)) => Completion::Phantom { listener, armed },
            peer => {
                // SAFETY: an accept completion installs a new descriptor and is reaped once, so that nobody else owns it;
                // the numbers that some kernels report without one are reserved, and no sockets.
                let socket = unsafe { sys::adopt(fd) };
                Completion::Accepted { listener, socket, peer, armed }
            }
        }
    }

    fn listener(&self, listener: u32) -> &TcpListener {
        self.listeners[listener as usize].as_ref().expect("operations are asked of open listeners only")
    }
}

impl Driver for Ring {
    type Listener = Arc<TcpListener>;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn accept(&mut self, listener: u32) {
        let fd = Fd(self.listener(listener).as_raw_fd());
        // Not SOCK_NONBLOCK: worker threads want blocking sockets, and asynchronous runtimes set the flag themselves.
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry.user_data(Token::Accept { listener }.pack()));
    }

    fn cancel_accept(&mut self, listener: u32) {
        let entry = opcode::AsyncCancel::new(Token::Accept { listener }.pack()).build();
        self.push(entry.user_data(Token::Cancel.pack()));
    }

    fn accept_now(&mut self, listener: u32) -> Result<Option<Newcomer<OwnedFd>>, Errno> {
        match self.listener(listener).accept() {
            Ok((stream, peer)) => Ok(Some((stream.into(), Ok(peer)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(sys::errno_of(&error)),
        }
    }

    fn peek<'b>(&self, socket: &OwnedFd, room: &'b mut [u8]) -> &'b [u8] {
        // What cannot be read is not there.
        let count = sys::peek(socket.as_fd(), room).unwrap_or_default();
        &room[..count]
    }

    fn open_listener(&mut self, listener: u32, socket: Arc<TcpListener>) {
        let index = listener as usize;
        if index == self.listeners.len() {
            self.listeners.push(None);
        }
        assert!(self.listeners[index].is_none(), "a listener's place is taken only after it was closed");
        self.listeners[index] = Some(socket);
    }

    fn close_listener(&mut self, listener: u32) {
        self.listeners[listener as usize] = None;
    }

    fn read(&mut self, slot: u32, generation: u32, socket: &OwnedFd, at: u32, mode: ReadMode) {
        let lent = self.buffers.lend(slot, at);
        let fd = Fd(socket.as_raw_fd());
        let entry = match mode {
            ReadMode::Take if lent.in_region && self.unregistered.is_none() => {
                opcode::ReadFixed::new(fd, lent.pointer, lent.len, 0).build()
            }
            ReadMode::Take => opcode::Recv::new(fd, lent.pointer, lent.len).build(),
            ReadMode::Peek => opcode::Recv::new(fd, lent.pointer, lent.len).flags(libc::MSG_PEEK).build(),
            ReadMode::Consume(len) => opcode::Recv::new(fd, lent.pointer, len.min(lent.len)).build(),
        };
        self.push(entry.user_data(Token::Read { slot, generation }.pack()));
    }

    fn cancel_read(&mut self, slot: u32, generation: u32) {
        let entry = opcode::AsyncCancel::new(Token::Read { slot, generation }.pack()).build();
        self.push(entry.user_data(Token::Cancel.pack()));
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

    fn fill(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.buffers.fill(slot, bytes)
    }

    fn release(&mut self, slot: u32) {
        self.buffers.release(slot);
    }

    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        // Who has a whole batch to handle must not ask for more: every entry lets the kernel accept all that wait.
        if self.reaped.len() >= BATCH_MAX {
            return Ok(());
        }
        // What is left of the last batch must be handled before anything is waited for.
        let limit = if self.reaped.is_empty() { limit } else { Some(Duration::ZERO) };
        let waited = match limit {
            None => self.io.submitter().submit_and_wait(1),
            Some(limit) => {
                let limit = Timespec::from(limit);
                self.io.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        };
        self.overflowed |= self.io.submission().cq_overflow();
        self.reap();
        waited.map(drop).or_else(pass)
    }

    fn next(&mut self) -> Option<Completion<OwnedFd>> {
        if std::mem::take(&mut self.overflowed) {
            return Some(Completion::Overflowed);
        }
        while let Some(entry) = self.reaped.pop_front() {
            if let Some(completion) = self.understand(&entry) {
                return Some(completion);
            }
        }
        None
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.end_reads() {
            tracing::error!("reads still in flight: their memory is left to the kernel");
            std::mem::forget(std::mem::take(&mut self.woken));
        }
    }
}

impl Ring {
    /// Ends every read before the memory goes; closing the ring would cancel them too, but not at once. `false` if the
    /// kernel does not give them all back.
    fn end_reads(&mut self) -> bool {
        const ATTEMPTS: u32 = 50;
        self.ending = true;
        for _ in 0..ATTEMPTS {
            self.drop_completions();
            if self.is_at_rest() {
                break;
            }
            let everything = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(everything.user_data(Token::Cancel.pack()));
            if self.wait(Some(Duration::from_millis(10))).is_err() {
                break;
            }
        }
        self.reap();
        self.drop_completions();
        self.is_at_rest()
    }

    /// Connections that come out now have nobody left to serve them: dropping closes them.
    fn drop_completions(&mut self) {
        while self.next().is_some() {}
    }

    fn is_at_rest(&self) -> bool {
        self.buffers.busy_count() == 0 && !self.waking
    }
}

/// Whether a ring is whole though waiting for it has failed.
fn pass(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        // The time is up; a signal; or completions must be taken out first, which is always done next.
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
        // An accept, or a slot, would wait for ever.
        Some(libc::EBADR) => {
            Err(io::Error::other("the kernel had no memory for completions and has dropped some (EBADR)"))
        }
        _ => Err(error),
    }
}

fn outcome(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno(-result))
}

#[cfg(test)]
mod tests;

//! The accept half of a ring: listeners, slots with the memory that first bytes are read into, and the turn.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use io_uring::opcode;
use io_uring::types::Fd;

use super::driver::{Completion, Driver, Errno, Native, Newcomer, ReadMode};
use super::setup::SetupError;
use super::token::Token;
use super::{Ring, Sizes, Waker, locked, outcome, sys};

/// What kernels before 6.8 (6.6.18, 6.1.79) may report in place of a connection when the completion queue is full: the
/// accept's poll mask, all of it or what of it is true of a listening socket.
pub const PHANTOMS: [RawFd; 2] = [
    (libc::POLLIN | libc::POLLPRI | libc::POLLRDNORM | libc::POLLRDBAND) as RawFd,
    (libc::POLLIN | libc::POLLRDNORM) as RawFd,
];

/// Where the kernel reports phantoms, keeps their numbers for good, so that no connection ever gets one. Who has one of them
/// already may be a program that this is part of, and keeps it: then a connection that gets the number later, once it is
/// free, is lost and not taken for that program's. It stays open, so that there are never more of them than numbers.
pub fn reserve_phantoms() {
    static RESERVED: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    RESERVED
        .get_or_init(|| PHANTOMS.into_iter().filter(|number| is_phantom(*number)).filter_map(sys::reserve).collect());
}

/// Whether what an accept has reported is no connection.
pub fn is_phantom(number: RawFd) -> bool {
    static REPORTED: OnceLock<bool> = OnceLock::new();
    let release = || std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    PHANTOMS.contains(&number) && *REPORTED.get_or_init(|| reports_phantoms(&release()))
}

/// Whether a kernel of this release may report them; one of which nothing is known may.
pub(super) fn reports_phantoms(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    version.is_none_or(|version| version < (6, 8))
}

impl Driver for Ring {
    type Listener = Arc<TcpListener>;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn accept(&mut self, listener: u32) {
        let fd = Fd(self.listeners.get(listener).as_raw_fd());
        // Not SOCK_NONBLOCK: worker threads want blocking sockets, and asynchronous runtimes set the flag themselves.
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: no memory is named: the peer's address is asked for later.
        unsafe { self.core.push(entry, Token::Accept { listener }) };
    }

    fn cancel_accept(&mut self, listener: u32) {
        self.core.cancel(Token::Accept { listener });
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
    }

    fn close_listener(&mut self, listener: u32) {
        self.listeners.close(listener);
    }

    fn read(&mut self, slot: u32, generation: u32, socket: &OwnedFd, at: u32, mode: ReadMode) {
        let lent = self.buffers.lend(slot, at);
        let fd = Fd(socket.as_raw_fd());
        let entry = match mode {
            ReadMode::Take if lent.in_region && self.registered => {
                opcode::ReadFixed::new(fd, lent.pointer, lent.len, 0).build()
            }
            ReadMode::Take => opcode::Recv::new(fd, lent.pointer, lent.len).build(),
            ReadMode::Peek => opcode::Recv::new(fd, lent.pointer, lent.len).flags(libc::MSG_PEEK).build(),
            ReadMode::Consume(len) => opcode::Recv::new(fd, lent.pointer, len.min(lent.len)).build(),
        };
        // SAFETY: the memory is lent: nobody can reach it before the completion gives it back, and buffers that are still
        // lent when the ring goes are never freed.
        unsafe { self.core.push(entry, Token::Read { slot, generation }) };
    }

    fn cancel_read(&mut self, slot: u32, generation: u32) {
        self.core.cancel(Token::Read { slot, generation });
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
        self.core.wait(limit)
    }

    fn next(&mut self) -> Option<Completion<OwnedFd>> {
        if self.core.take_overflowed() {
            return Some(Completion::Overflowed);
        }
        while let Some((token, entry)) = self.core.next() {
            if let Some(completion) = token.and_then(|token| self.understand(token, &entry)) {
                return Some(completion);
            }
        }
        None
    }
}

impl Native for Ring {
    const NAME: &'static str = "io_uring";

    fn make(sizes: Sizes, waker: Waker) -> Result<Ring, SetupError> {
        Ring::new(sizes, Vec::new(), waker)
    }

    fn shortcomings(&self) -> Vec<String> {
        let mut all = Vec::new();
        let (entries, wanted) = self.core.completion_entries();
        if entries < wanted {
            all.push(format!(
                "has room for {entries} completions instead of {wanted}, for want of memory: raise RLIMIT_MEMLOCK"
            ));
        }
        if let Some(error) = self.unregistered() {
            let limit = sys::limit(sys::Resource::LockedMemory).map_or(0, |(soft, _)| soft / 1024);
            let size = self.buffers.region().map_or(0, |(_, len)| len / 1024);
            all.push(format!(
                "reads by RECV, not by READ_FIXED: registering {size} KiB of buffers failed: {error} (RLIMIT_MEMLOCK is \
                 {limit} KiB)"
            ));
        }
        if let Some(error) = self.unlocked() {
            all.push(format!("is not locked to its operations (IORING_REGISTER_RESTRICTIONS): {error}"));
        }
        all
    }

    fn locked(&self) -> u64 {
        let buffers = self.buffers.region().filter(|_| self.registered).map_or(0, |(_, len)| locked::pages(len as u64));
        self.core.locked() + buffers
    }
}

impl Ring {
    /// What the completion of an accept means.
    pub(super) fn accepted(&mut self, listener: u32, result: i32, armed: bool) -> Completion<OwnedFd> {
        let fd = match outcome(result) {
            Ok(_) => result,
            Err(errno) => return Completion::AcceptFailed { listener, errno, armed },
        };
        if is_phantom(fd) {
            return Completion::Phantom { listener, armed };
        }
        // SAFETY: an accept completion installs a new descriptor and is reaped once, so that nobody else owns it; what some
        // kernels report without one was sorted out.
        let socket = unsafe { sys::adopt(fd) };
        let peer = sys::peer_of(socket.as_fd());
        Completion::Accepted { listener, socket, peer, armed }
    }
}

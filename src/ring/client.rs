//! The client's side of a ring: sockets that connect, send and receive, for the bundled load generator.
//!
//! Safe to use from code that knows nothing of io_uring, because the ring owns all that the kernel may touch:
//!
//! - A slot owns its socket and both buffers until every operation on it has completed. While an operation is in
//!   flight, the buffer it works on cannot be reached ([`Unavailable`]).
//! - A target's address is never changed or freed while the ring lives.
//! - A [`Key`] carries the slot's generation. After [`ClientRing::release`] it opens nothing any more, and the slot is
//!   reused only when the last completion of its old life is in.
//! - Dropping the ring cancels and awaits what is in flight. Should the kernel not answer within [`DROP_WAIT_MAX`],
//!   the memory is leaked rather than freed under the kernel's hand.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::setup::{self, Abilities, SetupError};
use super::sys;

/// First size of a slot's receive buffer in bytes. It doubles when it is full.
pub const RECV_BYTES_START: usize = 512;
/// Largest receive buffer of a slot in bytes; then [`ClientRing::forget_incoming`] must make room.
pub const RECV_BYTES_MAX: usize = 64 * 1024;
/// Most slots of one ring.
pub const SLOTS_MAX: usize = 1 << 20;
/// How long dropping a ring waits for operations in flight.
pub const DROP_WAIT_MAX: Duration = Duration::from_secs(2);

/// A send buffer that grew beyond this many bytes is given back when its slot is released.
const SEND_BYTES_KEPT: usize = 4096;
/// A burst larger than this stays in the kernel's overflow list until the next turn.
const CQ_ENTRIES: u32 = 8192;

/// A slot in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    /// [`GENERATION_BITS`] wide.
    generation: u32,
}

/// A destination registered with [`ClientRing::add_target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(usize);

/// What completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The connection is established, or refused.
    Connect,
    /// Bytes were handed to the kernel, perhaps fewer than asked for.
    Send,
    /// Bytes were appended to the slot's incoming buffer; 0 is the peer's end of stream.
    Recv,
}

/// One finished operation.
#[derive(Debug)]
pub struct Completion {
    /// The slot it belongs to.
    pub key: Key,
    /// Which operation.
    pub op: Op,
    /// Bytes for send and receive, 0 for connect.
    pub result: io::Result<usize>,
}

/// The key's slot was released, or an operation in flight uses what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// A ring, its sockets and their buffers.
pub struct ClientRing {
    ring: IoUring,
    slots: Slots,
    /// Boxed, because the kernel is given their address and the list may grow meanwhile.
    #[allow(clippy::vec_box)]
    targets: Vec<Box<Address>>,
    /// Built, not yet in the submission queue.
    queued: VecDeque<squeue::Entry>,
}

struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    /// Operations built and not yet completed, cancellations not counted.
    in_flight: usize,
}

#[derive(Default)]
struct Slot {
    socket: Option<OwnedFd>,
    generation: u32,
    /// One bit an [`Op`] in flight.
    armed: u8,
    releasing: bool,
    outgoing: Vec<u8>,
    /// Bytes up to `filled` are received, the rest is room for the kernel.
    incoming: Vec<u8>,
    filled: usize,
}

enum Address {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Key {
    /// The slot's number, below the number of slots: an index into a table beside the ring.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed, or an operation in flight holds its buffer")
    }
}

impl std::error::Error for Unavailable {}

/// A TCP socket for `target`, bound to `source` where given; the port is chosen by connect(2), so that it need be
/// unique per destination only (ip(7), `IP_BIND_ADDRESS_NO_PORT`). Fails with the errno of socket(2), setsockopt(2)
/// or bind(2).
pub fn stream_socket(target: &SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes no pointer.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was made in the line above and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(ip) = source {
        sys::bind_without_port(socket.as_fd(), ip)?;
    }
    Ok(socket)
}

impl ClientRing {
    /// A ring for at most `slots` sockets (1..=[`SLOTS_MAX`], clamped). It belongs to the calling thread: no other
    /// may take a turn.
    pub fn new(slots: usize) -> Result<ClientRing, SetupError> {
        let slots = Slots::new(slots.clamp(1, SLOTS_MAX));
        let (ring, _) = setup::ring(CQ_ENTRIES, Abilities::ALL)?;
        Ok(ClientRing { ring, slots, targets: Vec::new(), queued: VecDeque::new() })
    }

    /// Registers a destination for [`ClientRing::connect`].
    pub fn add_target(&mut self, target: SocketAddr) -> Target {
        self.targets.push(Box::new(Address::new(target)));
        Target(self.targets.len() - 1)
    }

    /// Takes a socket in; gives it back when no slot is free.
    pub fn open(&mut self, socket: OwnedFd) -> Result<Key, OwnedFd> {
        self.slots.take(socket)
    }

    /// Slots that [`ClientRing::open`] can still hand out.
    pub fn free_slots(&self) -> usize {
        self.slots.free.len()
    }

    /// The socket, for setsockopt(2) and the like.
    pub fn socket(&self, key: Key) -> Result<BorrowedFd<'_>, Unavailable> {
        self.slots.live(key)?.socket.as_ref().map(AsFd::as_fd).ok_or(Unavailable)
    }

    /// The bytes to send. Unavailable while a send is in flight.
    pub fn outgoing(&self, key: Key) -> Result<&[u8], Unavailable> {
        let slot = self.slots.live(key)?;
        if slot.is_armed(Op::Send) { Err(Unavailable) } else { Ok(&slot.outgoing) }
    }

    /// The bytes to send, to be changed. Emptied when the slot is released. Unavailable while a send is in flight.
    pub fn outgoing_mut(&mut self, key: Key) -> Result<&mut Vec<u8>, Unavailable> {
        Ok(&mut self.slots.idle(key, Op::Send)?.outgoing)
    }

    /// All bytes received and not forgotten. Unavailable while a receive is in flight.
    pub fn incoming(&self, key: Key) -> Result<&[u8], Unavailable> {
        let slot = self.slots.live(key)?;
        if slot.is_armed(Op::Recv) { Err(Unavailable) } else { Ok(&slot.incoming[..slot.filled]) }
    }

    /// Empties the incoming buffer. Unavailable while a receive is in flight.
    pub fn forget_incoming(&mut self, key: Key) -> Result<(), Unavailable> {
        self.slots.idle(key, Op::Recv)?.filled = 0;
        Ok(())
    }

    /// Starts connect(2).
    pub fn connect(&mut self, key: Key, target: Target) -> Result<(), Unavailable> {
        let address = self.targets.get(target.0).ok_or(Unavailable)?;
        let fd = self.slots.idle(key, Op::Connect)?.fd();
        self.arm(key, Op::Connect, opcode::Connect::new(fd, address.as_ptr(), address.len()).build());
        Ok(())
    }

    /// Starts send(2) of `range` of the outgoing buffer. Unavailable too when the buffer is shorter.
    pub fn send(&mut self, key: Key, range: Range<usize>) -> Result<(), Unavailable> {
        let slot = self.slots.idle(key, Op::Send)?;
        let part = slot.outgoing.get(range).ok_or(Unavailable)?;
        let length = u32::try_from(part.len()).map_err(|_| Unavailable)?;
        let entry = opcode::Send::new(slot.fd(), part.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build();
        self.arm(key, Op::Send, entry);
        Ok(())
    }

    /// Starts recv(2) behind what the incoming buffer holds. Unavailable too when it holds [`RECV_BYTES_MAX`].
    pub fn recv(&mut self, key: Key) -> Result<(), Unavailable> {
        let slot = self.slots.idle(key, Op::Recv)?;
        let fd = slot.fd();
        let room = slot.room().ok_or(Unavailable)?;
        let entry = opcode::Recv::new(fd, room.as_mut_ptr(), room.len() as u32).build();
        self.arm(key, Op::Recv, entry);
        Ok(())
    }

    /// Ends the slot's life: cancels what is in flight, then closes the socket. No completion of it is reported any
    /// more. A stale key is ignored.
    pub fn release(&mut self, key: Key) {
        let Ok(slot) = self.slots.live(key) else { return };
        for op in OPS.into_iter().filter(|op| slot.is_armed(*op)) {
            self.queued.push_back(opcode::AsyncCancel::new(token(key, op)).build().user_data(CANCEL));
        }
        self.slots.release(key);
    }

    /// One turn: hands over what was started, waits until something completes or `timeout` is over, and appends the
    /// completions to `done`. May return early with none.
    pub fn turn(&mut self, timeout: Duration, done: &mut Vec<Completion>) -> io::Result<()> {
        if self.hand_over()? {
            // Wait for one even with a zero timeout: without GETEVENTS a DEFER_TASKRUN ring completes nothing.
            let timeout = Timespec::from(timeout);
            let entered = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
            harmless(entered)?;
        }
        for cqe in self.ring.completion() {
            if let Some((key, op)) = untoken(cqe.user_data()) {
                done.extend(self.slots.complete(key, op, cqe.result()));
            }
        }
        Ok(())
    }

    /// Whether everything queued is in the submission queue; if not, the kernel wants completions reaped first.
    fn hand_over(&mut self) -> io::Result<bool> {
        loop {
            self.push_queued();
            if self.queued.is_empty() {
                return Ok(true);
            }
            if !harmless(self.ring.submit())? {
                return Ok(false);
            }
        }
    }

    fn push_queued(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.queued.front() {
            // SAFETY: entries are built in this file only, over memory that stays in place until their completion: a
            // target's address lives as long as the ring, and a buffer can be neither changed nor freed while its
            // slot has the operation's bit set.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.queued.pop_front();
        }
    }

    fn arm(&mut self, key: Key, op: Op, entry: squeue::Entry) {
        self.slots.arm(key, op);
        self.queued.push_back(entry.user_data(token(key, op)));
    }

    /// Cancels everything; whether the kernel has let go of every buffer in time.
    fn quiesce(&mut self) -> bool {
        for index in 0..self.slots.slots.len() as u32 {
            self.release(Key { index, generation: self.slots.slots[index as usize].generation });
        }
        let deadline = Instant::now() + DROP_WAIT_MAX;
        while self.slots.in_flight > 0 && Instant::now() < deadline {
            if self.turn(Duration::from_millis(10), &mut Vec::new()).is_err() {
                return false;
            }
        }
        self.slots.in_flight == 0
    }
}

impl Drop for ClientRing {
    fn drop(&mut self) {
        // Closing a ring does not wait for its operations, so the buffers must not be freed on that account.
        if !self.quiesce() {
            std::mem::forget((std::mem::take(&mut self.slots.slots), std::mem::take(&mut self.targets)));
        }
    }
}

impl Slots {
    fn new(count: usize) -> Slots {
        let slots = (0..count).map(|_| Slot::default()).collect();
        Slots { slots, free: (0..count as u32).rev().collect(), in_flight: 0 }
    }

    fn take(&mut self, socket: OwnedFd) -> Result<Key, OwnedFd> {
        let Some(index) = self.free.pop() else { return Err(socket) };
        let slot = &mut self.slots[index as usize];
        slot.socket = Some(socket);
        Ok(Key { index, generation: slot.generation })
    }

    fn live(&self, key: Key) -> Result<&Slot, Unavailable> {
        self.slots.get(key.index()).filter(|slot| slot.lives_as(key)).ok_or(Unavailable)
    }

    fn idle(&mut self, key: Key, op: Op) -> Result<&mut Slot, Unavailable> {
        let slot = self.slots.get_mut(key.index()).ok_or(Unavailable)?;
        if slot.lives_as(key) && !slot.is_armed(op) { Ok(slot) } else { Err(Unavailable) }
    }

    fn arm(&mut self, key: Key, op: Op) {
        self.slots[key.index()].armed |= op.bit();
        self.in_flight += 1;
    }

    fn release(&mut self, key: Key) {
        self.slots[key.index()].releasing = true;
        self.close_if_idle(key.index);
    }

    fn complete(&mut self, key: Key, op: Op, result: i32) -> Option<Completion> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation || !slot.is_armed(op) {
            return None;
        }
        slot.armed &= !op.bit();
        self.in_flight -= 1;
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        if let (Op::Recv, Ok(received)) = (op, &result) {
            slot.filled = (slot.filled + received).min(slot.incoming.len());
        }
        if slot.releasing {
            self.close_if_idle(key.index);
            return None;
        }
        Some(Completion { key, op, result })
    }

    fn close_if_idle(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.armed == 0 {
            slot.end_life();
            self.free.push(index);
        }
    }
}

impl Slot {
    fn lives_as(&self, key: Key) -> bool {
        self.generation == key.generation && self.socket.is_some() && !self.releasing
    }

    fn is_armed(&self, op: Op) -> bool {
        self.armed & op.bit() != 0
    }

    fn fd(&self) -> Fd {
        Fd(self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd))
    }

    /// Where the next bytes go; `None` when the buffer is full and as large as it may get.
    fn room(&mut self) -> Option<&mut [u8]> {
        if self.filled == self.incoming.len() {
            let grown = (self.incoming.len() * 2).clamp(RECV_BYTES_START, RECV_BYTES_MAX);
            self.incoming.resize(grown, 0);
        }
        Some(&mut self.incoming[self.filled..]).filter(|room| !room.is_empty())
    }

    fn end_life(&mut self) {
        self.socket = None;
        self.generation = (self.generation + 1) & GENERATION_MASK;
        self.releasing = false;
        self.filled = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > SEND_BYTES_KEPT {
            self.outgoing = Vec::new();
        }
        if self.incoming.len() > RECV_BYTES_START {
            self.incoming = Vec::new();
        }
    }
}

impl Op {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Address {
    fn new(address: SocketAddr) -> Address {
        match address {
            SocketAddr::V4(v4) => Address::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Address::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo().to_be(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Address::V4(v4) => ptr::from_ref(v4).cast(),
            Address::V6(v6) => ptr::from_ref(v6).cast(),
        }
    }

    fn len(&self) -> libc::socklen_t {
        match self {
            Address::V4(v4) => size_of_val(v4) as libc::socklen_t,
            Address::V6(v6) => size_of_val(v6) as libc::socklen_t,
        }
    }
}

fn check(result: libc::c_int) -> io::Result<RawFd> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether the kernel took the call as it was; `false` for the errors that mean "reap, then come again".
fn harmless(entered: io::Result<usize>) -> io::Result<bool> {
    match entered {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EBADR | libc::EAGAIN) => Ok(false),
            _ => Err(error),
        },
    }
}

const OPS: [Op; 3] = [Op::Connect, Op::Send, Op::Recv];
/// `user_data` of cancellations, whose own completions say nothing of interest.
const CANCEL: u64 = u64::MAX;
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// `user_data`: operation in the top byte, then the generation, then the index.
fn token(key: Key, op: Op) -> u64 {
    u64::from(op as u8) << 56 | u64::from(key.generation) << 32 | u64::from(key.index)
}

fn untoken(token: u64) -> Option<(Key, Op)> {
    let op = *OPS.get((token >> 56) as usize)?;
    Some((Key { index: token as u32, generation: (token >> 32) as u32 & GENERATION_MASK }, op))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Turns until `wanted` completions are there; the bound only matters when something is broken.
    fn await_completions(ring: &mut ClientRing, wanted: usize) -> Vec<Completion> {
        let mut done = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while done.len() < wanted {
            assert!(Instant::now() < deadline, "only {} of {wanted} completions", done.len());
            ring.turn(Duration::from_millis(100), &mut done).expect("a turn of a healthy ring");
        }
        done
    }

    fn connected(ring: &mut ClientRing, listener: &TcpListener) -> (Key, std::net::TcpStream) {
        let target = listener.local_addr().expect("bound");
        let key = ring.open(stream_socket(&target, None).expect("socket")).expect("free slot");
        let target = ring.add_target(target);
        ring.connect(key, target).expect("idle");
        let done = await_completions(ring, 1);
        assert!(done[0].key == key && done[0].op == Op::Connect && done[0].result.is_ok(), "{done:?}");
        (key, listener.accept().expect("connected").0)
    }

    fn loopback() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("loopback")
    }

    #[test]
    fn bytes_go_out_and_come_back() {
        let listener = loopback();
        let mut ring = ClientRing::new(4).expect("ring");
        let (key, mut server) = connected(&mut ring, &listener);
        ring.outgoing_mut(key).expect("idle").extend_from_slice(b"..PROXY");
        ring.send(key, 2..7).expect("idle");
        ring.recv(key).expect("idle");
        let mut got = [0; 5];
        assert_eq!(await_completions(&mut ring, 1)[0].op, Op::Send);
        server.read_exact(&mut got).expect("five bytes");
        assert_eq!(&got, b"PROXY");
        server.write_all(b"hello").expect("written");
        assert_eq!(*await_completions(&mut ring, 1)[0].result.as_ref().expect("received"), 5);
        assert_eq!(ring.incoming(key).expect("idle"), b"hello");
        drop(server);
        ring.recv(key).expect("idle");
        assert_eq!(*await_completions(&mut ring, 1)[0].result.as_ref().expect("end of stream"), 0);
    }

    #[test]
    fn buffers_in_flight_are_unreachable() {
        let listener = loopback();
        let mut ring = ClientRing::new(1).expect("ring");
        let (key, _server) = connected(&mut ring, &listener);
        ring.recv(key).expect("idle");
        assert_eq!(ring.incoming(key), Err(Unavailable));
        assert_eq!(ring.forget_incoming(key), Err(Unavailable));
        assert_eq!(ring.recv(key), Err(Unavailable));
        ring.outgoing_mut(key).expect("no send in flight").push(b'x');
        ring.send(key, 0..1).expect("idle");
        assert_eq!(ring.outgoing(key), Err(Unavailable));
        assert_eq!(ring.outgoing_mut(key), Err(Unavailable));
        assert_eq!(ring.send(key, 0..2), Err(Unavailable));
    }

    #[test]
    fn a_released_key_opens_nothing_and_its_completions_stay_unseen() {
        let listener = loopback();
        let mut ring = ClientRing::new(1).expect("ring");
        let (key, mut server) = connected(&mut ring, &listener);
        ring.recv(key).expect("idle");
        ring.turn(Duration::ZERO, &mut Vec::new()).expect("turn");
        ring.release(key);
        assert_eq!(ring.free_slots(), 0, "the receive is still in flight");
        let mut done = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while ring.free_slots() == 0 && Instant::now() < deadline {
            ring.turn(Duration::from_millis(100), &mut done).expect("turn");
        }
        assert!(done.is_empty(), "{done:?}");
        assert_eq!(server.read(&mut [0; 1]).expect("closed in order"), 0);
        let (next, _server) = connected(&mut ring, &listener);
        assert_eq!(next.index(), key.index());
        assert_eq!(ring.outgoing(key), Err(Unavailable));
        assert!(ring.outgoing(next).expect("idle").is_empty());
    }

    #[test]
    fn a_full_table_gives_the_socket_back() {
        let target = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut ring = ClientRing::new(1).expect("ring");
        ring.open(stream_socket(&target, None).expect("socket")).expect("free slot");
        assert!(ring.open(stream_socket(&target, None).expect("socket")).is_err());
    }

    #[test]
    fn the_source_address_is_bound_and_a_refusal_is_reported() {
        let listener = loopback();
        let target = listener.local_addr().expect("bound");
        let mut ring = ClientRing::new(2).expect("ring");
        let socket = stream_socket(&target, Some(IpAddr::from([127, 9, 8, 7]))).expect("loopback address");
        let key = ring.open(socket).expect("free slot");
        let registered = ring.add_target(target);
        ring.connect(key, registered).expect("idle");
        await_completions(&mut ring, 1);
        assert_eq!(listener.accept().expect("connected").1.ip(), IpAddr::from([127, 9, 8, 7]));
        drop(listener);
        let key = ring.open(stream_socket(&target, None).expect("socket")).expect("free slot");
        ring.connect(key, registered).expect("idle");
        let refused = await_completions(&mut ring, 1).remove(0).result.expect_err("nobody listens");
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn long_answers_grow_the_buffer_up_to_its_bound() {
        let listener = loopback();
        let mut ring = ClientRing::new(1).expect("ring");
        let (key, mut server) = connected(&mut ring, &listener);
        let writer = std::thread::spawn(move || server.write_all(&vec![7; RECV_BYTES_MAX + 10]));
        while ring.recv(key).is_ok() {
            await_completions(&mut ring, 1);
        }
        assert_eq!(ring.incoming(key).expect("idle").len(), RECV_BYTES_MAX);
        ring.forget_incoming(key).expect("idle");
        ring.recv(key).expect("room again");
        await_completions(&mut ring, 1);
        assert!(ring.incoming(key).expect("idle").iter().all(|byte| *byte == 7));
        writer.join().expect("no panic").expect("all written");
    }

    #[test]
    fn more_operations_than_the_queue_holds_all_complete() {
        let listener = loopback();
        let target = listener.local_addr().expect("bound");
        let count = setup::SQ_ENTRIES as usize * 3;
        let mut ring = ClientRing::new(count).expect("ring");
        drop(listener);
        let registered = ring.add_target(target);
        for _ in 0..count {
            let key = ring.open(stream_socket(&target, None).expect("socket")).expect("free slot");
            ring.connect(key, registered).expect("idle");
        }
        let done = await_completions(&mut ring, count);
        assert!(done.iter().all(|completion| completion.result.is_err()));
    }

    #[test]
    fn dropping_the_ring_awaits_what_is_in_flight() {
        let listener = loopback();
        let mut ring = ClientRing::new(1).expect("ring");
        let (key, mut server) = connected(&mut ring, &listener);
        ring.recv(key).expect("idle");
        ring.turn(Duration::ZERO, &mut Vec::new()).expect("turn");
        drop(ring);
        assert_eq!(server.read(&mut [0; 1]).expect("closed in order"), 0);
    }

    #[test]
    fn tokens_survive_the_round_trip() {
        for op in OPS {
            let key = Key { index: u32::MAX, generation: GENERATION_MASK };
            assert_eq!(untoken(token(key, op)), Some((key, op)));
        }
        assert_eq!(untoken(CANCEL), None);
    }
}

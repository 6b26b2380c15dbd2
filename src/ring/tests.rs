//! The ring against the real kernel, on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Fixture {
    ring: Ring,
    address: SocketAddr,
}

fn fixture(completions: u32) -> Fixture {
    fixture_with(Abilities::ALL, completions)
}

fn fixture_with(abilities: Abilities, completions: u32) -> Fixture {
    let options = Options { defer_accept: false, share_port: false };
    let listeners =
        bind_group("127.0.0.1:0".parse().expect("an address"), 1, options).expect("loopback has free ports");
    let address = listeners[0].local_addr().expect("bound");
    let sizes = Sizes { slots: 8, longest: 4096, completions };
    let waker = Waker::new().expect("descriptors are free");
    Fixture { ring: Ring::with(abilities, sizes, listeners, waker).expect("this kernel has io_uring"), address }
}

impl Fixture {
    /// Turns the ring until `enough`, at most ten seconds.
    fn until(&mut self, mut enough: impl FnMut(&[Completion<OwnedFd>]) -> bool) -> Vec<Completion<OwnedFd>> {
        let mut seen = Vec::new();
        let end = Instant::now() + 10 * SECOND;
        while !enough(&seen) {
            assert!(Instant::now() < end, "only {seen:?}");
            self.ring.wait(Some(SECOND / 10)).expect("the ring works");
            while let Some(completion) = self.ring.next() {
                seen.push(completion);
            }
        }
        seen
    }

    fn one(&mut self) -> Completion<OwnedFd> {
        self.until(|seen| !seen.is_empty()).remove(0)
    }

    fn connection(&mut self) -> (TcpStream, OwnedFd) {
        self.ring.accept(0);
        let client = TcpStream::connect(self.address).expect("somebody listens");
        let Completion::Accepted { listener: 0, socket, peer, armed: true } = self.one() else {
            panic!("a connection")
        };
        assert_eq!(peer, Ok(client.local_addr().expect("connected")));
        (client, socket)
    }

    fn read(&mut self, socket: &OwnedFd, at: u32, mode: ReadMode) -> Result<u32, Errno> {
        self.ring.read(3, 5, socket, at, mode);
        match self.one() {
            Completion::Read { slot: 3, generation: 5, result } => result,
            other => panic!("a read, not {other:?}"),
        }
    }
}

#[test]
fn accepts_and_reads_by_every_mode() {
    let f = fixture(64);
    assert!(f.ring.unregistered().is_none(), "buffers are registered: {:?}", f.ring.unregistered());
    assert_reads_by_every_mode(f);
}

#[test]
fn accepts_and_reads_by_every_mode_with_less_than_this_kernel_has() {
    for abilities in Abilities::fewer() {
        let f = fixture_with(abilities, 64);
        assert_eq!(f.ring.unregistered().is_some(), abilities.only.is_some(), "{abilities:?}: nothing registered");
        let deferred = setup::LADDER[abilities.rung].defer_taskrun;
        assert!(deferred || !f.ring.rung().defer_taskrun, "{abilities:?}: no rung above");
        assert_reads_by_every_mode(f);
    }
}

fn assert_reads_by_every_mode(mut f: Fixture) {
    let (mut client, socket) = f.connection();
    client.write_all(b"PROXY UNK").expect("connected");
    assert_eq!(f.read(&socket, 0, ReadMode::Peek), Ok(9));
    assert_eq!(f.ring.bytes(3, 9), b"PROXY UNK");
    assert_eq!(f.read(&socket, 0, ReadMode::Consume(6)), Ok(6));
    assert_eq!(f.read(&socket, 6, ReadMode::Take), Ok(3));
    assert_eq!(f.ring.bytes(3, 9), b"PROXY UNK");
    assert!(f.ring.lengthen(3, 9));
    client.write_all(&[b'x'; 1000]).expect("connected");
    assert_eq!(f.read(&socket, 9, ReadMode::Take), Ok(1000));
    assert_eq!(f.ring.bytes(3, 12), b"PROXY UNKxxx");
    drop(client);
    assert_eq!(f.read(&socket, 1009, ReadMode::Take), Ok(0));
}

#[test]
fn a_ring_that_goes_leaves_no_read_and_no_connection_behind() {
    let mut f = fixture(64);
    let (_reading, socket) = f.connection();
    f.ring.read(0, 1, &socket, 0, ReadMode::Take);
    let mut unseen = TcpStream::connect(f.address).expect("somebody listens");
    while f.ring.reaped.is_empty() {
        f.ring.wait(Some(SECOND / 10)).expect("the ring works");
    }
    assert!(f.ring.end_reads(), "the read of the slot and that of the eventfd have ended");
    drop(f);
    unseen.set_read_timeout(Some(10 * SECOND)).expect("a timeout can be set");
    assert!(matches!(unseen.read(&mut [0]), Ok(0)), "a connection that nobody has taken is closed");
}

#[test]
fn a_number_that_is_no_connection_is_a_phantom() {
    let reserved = sys::reserve(901).expect("nobody has it");
    assert!(sys::reserve(901).is_none(), "now somebody has");
    let mut f = fixture(64);
    assert!(matches!(f.ring.accepted(0, 901, true), Completion::Phantom { listener: 0, armed: true }));
    drop(reserved);
    assert!(matches!(f.ring.accepted(0, 901, false), Completion::Phantom { listener: 0, armed: false }));
}

#[test]
fn who_has_a_batch_to_handle_asks_for_no_more() {
    let mut f = fixture(4096);
    f.ring.accept(0);
    for _ in 0..BATCH_MAX {
        f.ring.push(opcode::Nop::new().build());
    }
    while f.ring.reaped.len() < BATCH_MAX {
        f.ring.wait(Some(SECOND / 10)).expect("the ring works");
    }
    let _client = TcpStream::connect(f.address).expect("somebody listens");
    let before = f.ring.reaped.len();
    f.ring.wait(Some(SECOND / 10)).expect("the ring works");
    assert_eq!(f.ring.reaped.len(), before, "the client stays in the backlog");
    assert!(matches!(f.one(), Completion::Accepted { .. }), "until the batch is handled");
}

#[test]
fn a_cancelled_read_leaves_the_data() {
    let mut f = fixture(64);
    let (mut client, socket) = f.connection();
    f.ring.read(0, 1, &socket, 0, ReadMode::Take);
    f.ring.cancel_read(0, 1);
    let Completion::Read { slot: 0, generation: 1, result: Err(Errno(libc::ECANCELED)) } = f.one() else {
        panic!("cancelled")
    };
    client.write_all(b"later").expect("connected");
    assert_eq!(f.read(&socket, 0, ReadMode::Take), Ok(5));
}

#[test]
fn a_cancelled_accept_leaves_the_backlog() {
    let mut f = fixture(64);
    f.ring.accept(0);
    f.ring.wait(Some(Duration::ZERO)).expect("the ring works");
    f.ring.cancel_accept(0);
    let Completion::AcceptFailed { errno: Errno(libc::ECANCELED), armed: false, .. } = f.one() else { panic!("ended") };
    let client = TcpStream::connect(f.address).expect("the backlog takes it");
    let (socket, peer) = f.ring.accept_now(0).expect("descriptors are left").expect("it waits");
    assert_eq!(peer, Ok(client.local_addr().expect("connected")));
    assert!(matches!(f.ring.accept_now(0), Ok(None)), "and does not block");
    drop(socket);
}

#[test]
fn nothing_is_lost_when_the_completion_queue_is_too_small() {
    // Two entries for 50 connections: the kernel ends the multishot with a connection, again and again.
    let mut f = fixture(2);
    let clients: Vec<_> = (0..50).map(|_| TcpStream::connect(f.address).expect("the backlog takes it")).collect();
    f.ring.accept(0);
    let mut sockets = Vec::new();
    let mut overflows = 0;
    for _ in 0..1000 {
        f.ring.wait(Some(SECOND / 10)).expect("the ring works");
        while let Some(completion) = f.ring.next() {
            let armed = match completion {
                Completion::Accepted { socket, armed, .. } => {
                    sockets.push(socket);
                    armed
                }
                Completion::AcceptFailed { armed, .. } => armed,
                Completion::Overflowed => {
                    overflows += 1;
                    continue;
                }
                other => panic!("{other:?}"),
            };
            if !armed {
                f.ring.accept(0);
            }
        }
        if sockets.len() == clients.len() {
            assert!(overflows > 0, "the engine is told that the queue was too small");
            return;
        }
    }
    panic!("{} of {} connections came", sockets.len(), clients.len());
}

#[test]
fn another_thread_wakes_it() {
    let mut f = fixture(64);
    for _ in 0..3 {
        let waker = f.ring.waker.clone();
        std::thread::spawn(move || waker.wake());
        assert!(matches!(f.one(), Completion::Woken));
    }
}

#[test]
fn dropping_it_with_a_read_in_flight_is_safe() {
    for abilities in [Abilities::ALL].into_iter().chain(Abilities::fewer()) {
        let mut f = fixture_with(abilities, 64);
        let (mut client, socket) = f.connection();
        f.ring.read(0, 1, &socket, 0, ReadMode::Take);
        f.ring.wait(Some(Duration::ZERO)).expect("the ring works");
        assert!(f.ring.end_reads(), "{abilities:?}: the kernel gives the buffer back");
        drop(f);
        drop(socket);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("closed in order");
    }
}

#[test]
fn a_ring_whose_completions_were_dropped_is_broken() {
    let of = |number| pass(io::Error::from_raw_os_error(number));
    assert!([libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN].into_iter().all(|number| of(number).is_ok()));
    assert!(of(libc::EBADR).is_err_and(|error| error.to_string().contains("EBADR")));
    assert!(of(libc::EBADF).is_err());
}

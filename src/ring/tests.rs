//! The ring against the real kernel, on loopback.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use io_uring::opcode;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A driver with a listener and eight slots.
pub struct Fixture<D = Ring> {
    pub ring: D,
    pub address: SocketAddr,
    pub waker: Waker,
    /// The same that the driver has.
    pub listener: Arc<TcpListener>,
}

fn fixture(completions: u32) -> Fixture {
    fixture_with(Abilities::ALL, completions)
}

fn fixture_with(abilities: Abilities, completions: u32) -> Fixture {
    let make =
        |sizes, listeners, waker| Ring::with(abilities, sizes, listeners, waker).expect("this kernel has io_uring");
    Fixture::new(completions, make)
}

impl<D: Native> Fixture<D> {
    pub fn new(completions: u32, make: impl FnOnce(Sizes, Vec<Arc<TcpListener>>, Waker) -> D) -> Fixture<D> {
        let options = Options { defer_accept: false, share_port: false };
        let listeners =
            bind_group("127.0.0.1:0".parse().expect("an address"), 1, options).expect("loopback has free ports");
        let address = listeners[0].local_addr().expect("bound");
        let sizes = Sizes { slots: 8, longest: 4096, completions, registered: true };
        let waker = Waker::new().expect("descriptors are free");
        let listener = listeners[0].clone();
        Fixture { ring: make(sizes, listeners, waker.clone()), address, waker, listener }
    }

    /// Turns the ring until `enough`, at most ten seconds.
    pub fn until(&mut self, mut enough: impl FnMut(&[Completion<OwnedFd>]) -> bool) -> Vec<Completion<OwnedFd>> {
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

    pub fn one(&mut self) -> Completion<OwnedFd> {
        self.until(|seen| !seen.is_empty()).remove(0)
    }

    pub fn connection(&mut self) -> (TcpStream, OwnedFd) {
        self.ring.accept(0);
        let client = TcpStream::connect(self.address).expect("somebody listens");
        let Completion::Accepted { listener: 0, socket, peer, armed: true } = self.one() else {
            panic!("a connection")
        };
        assert_eq!(peer, Ok(client.local_addr().expect("connected")));
        (client, socket)
    }

    pub fn read(&mut self, socket: &OwnedFd, at: u32, mode: ReadMode) -> Result<u32, Errno> {
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
        assert_eq!(f.ring.unregistered().is_some(), !abilities.registers(), "{abilities:?}: nothing registered");
        let deferred = setup::LADDER[abilities.rung].defer_taskrun;
        assert!(deferred || !f.ring.rung().defer_taskrun, "{abilities:?}: no rung above");
        assert_reads_by_every_mode(f);
    }
}

pub fn assert_reads_by_every_mode<D: Native>(mut f: Fixture<D>) {
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
    while f.ring.core.reaped() == 0 {
        f.ring.wait(Some(SECOND / 10)).expect("the ring works");
    }
    assert!(f.ring.quiesce(), "the read of the slot and that of the eventfd have ended");
    drop(f);
    unseen.set_read_timeout(Some(10 * SECOND)).expect("a timeout can be set");
    assert!(matches!(unseen.read(&mut [0]), Ok(0)), "a connection that nobody has taken is closed");
}

#[test]
fn a_number_that_is_no_connection_is_a_phantom_where_the_kernel_reports_such() {
    // Other tests have descriptors of their own.
    let reserve = |number| Some((number, sys::reserve(number)?));
    let (number, reserved) = (901..1000).find_map(reserve).expect("nobody has all of them");
    assert!(sys::reserve(number).is_none(), "now somebody has");
    drop(reserved);
    for release in ["5.19.17", "6.1.0-44-amd64", "6.7.12", "", "unknown"] {
        assert!(super::accept::reports_phantoms(release), "{release}");
    }
    for release in ["6.8.0-31-generic", "6.18.44", "7.0-rc1", "10.1"] {
        assert!(!super::accept::reports_phantoms(release), "{release}");
    }
    let mut f = fixture(64);
    for number in super::accept::PHANTOMS.into_iter().filter(|number| super::accept::is_phantom(*number)) {
        assert!(matches!(f.ring.accepted(0, number, true), Completion::Phantom { listener: 0, armed: true }));
    }
}

#[test]
fn who_has_a_batch_to_handle_asks_for_no_more() {
    let mut f = fixture(4096);
    f.ring.accept(0);
    for _ in 0..BATCH_MAX {
        // SAFETY: no memory is named.
        unsafe { f.ring.core.push(opcode::Nop::new().build(), Token::Cancel) };
    }
    while f.ring.core.reaped() < BATCH_MAX {
        f.ring.wait(Some(SECOND / 10)).expect("the ring works");
    }
    let _client = TcpStream::connect(f.address).expect("somebody listens");
    let before = f.ring.core.reaped();
    f.ring.wait(Some(SECOND / 10)).expect("the ring works");
    assert_eq!(f.ring.core.reaped(), before, "the client stays in the backlog");
    assert!(matches!(f.one(), Completion::Accepted { .. }), "until the batch is handled");
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
fn dropping_it_with_a_read_in_flight_is_safe() {
    for abilities in [Abilities::ALL].into_iter().chain(Abilities::fewer()) {
        let mut f = fixture_with(abilities, 64);
        let (mut client, socket) = f.connection();
        f.ring.read(0, 1, &socket, 0, ReadMode::Take);
        f.ring.wait(Some(Duration::ZERO)).expect("the ring works");
        assert!(f.ring.quiesce(), "{abilities:?}: the kernel gives the buffer back");
        drop(f);
        drop(socket);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("closed in order");
    }
}

#[test]
fn a_burst_is_taken_in_a_few_entries_into_the_kernel() {
    const WATCHES: u32 = 300;
    let mut f = fixture(1024);
    let (mut peers, _sockets) = watched(&mut f.ring, WATCHES);
    let all_are = |ready: fn(&Readiness) -> bool| {
        move |seen: &[Completion<OwnedFd>]| {
            let places = seen.iter().filter_map(|completion| match completion {
                Completion::Ready { place, readiness, .. } if ready(readiness) => Some(*place),
                _ => None,
            });
            places.collect::<HashSet<u32>>().len() == WATCHES as usize
        }
    };
    f.until(all_are(|readiness| readiness.writable));
    for peer in &mut peers {
        peer.write_all(b"x").expect("connected");
    }
    let before = f.ring.core.entries;
    f.until(all_are(|readiness| readiness.readable));
    let entries = f.ring.core.entries - before;
    assert!(entries <= 4, "{entries} entries for {WATCHES} sockets that were ready");
}

#[test]
fn a_ring_for_streams_connects_is_told_and_leaves_no_socket_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    let source = IpAddr::from([127, 9, 8, 7]);
    let mut ring = Ring::for_streams(64).expect("this kernel has io_uring");
    let socket = ring.connect(address, Some(source)).expect("it begins");
    ring.watch(7, 9, &socket);
    let readiness = ready(&mut ring);
    assert!(readiness.writable && !readiness.broken);
    assert_eq!(ring.connected(&socket), Ok(()));
    let (mut server, peer) = listener.accept().expect("it is connected");
    assert_eq!(peer.ip(), source);
    assert_eq!(ring.receive(&socket, &mut [0; 8]), Err(Errno(libc::EAGAIN)));
    server.write_all(b"hello").expect("connected");
    assert!(ready(&mut ring).readable);
    let mut room = [0; 8];
    assert_eq!((ring.receive(&socket, &mut room), &room[..5]), (Ok(5), &b"hello"[..]));
    // Still watched, which holds it open until the ring is gone.
    drop(socket);
    drop(ring);
    server.set_read_timeout(Some(10 * SECOND)).expect("a timeout can be set");
    assert!(matches!(server.read(&mut [0]), Ok(0)));
}

#[test]
fn a_ring_does_what_it_is_for_and_nothing_else() {
    let mut f = fixture(64);
    assert!(f.ring.unlocked().is_none(), "{:?}", f.ring.unlocked());
    // SAFETY: no memory is named.
    unsafe { f.ring.core.push(opcode::Nop::new().build(), Token::Cancel) };
    f.ring.core.wait(Some(SECOND)).expect("the ring works");
    let (_, entry) = f.ring.core.next().expect("it is refused at once");
    assert_eq!(entry.result(), -libc::EACCES);
    // SAFETY: the memory outlives the ring, which takes none.
    let registered =
        unsafe { f.ring.core.register(libc::iovec { iov_base: [0; 64].as_mut_ptr().cast(), iov_len: 64 }) };
    assert_eq!(registered.expect_err("nothing can be registered any more").raw_os_error(), Some(libc::EACCES));
}

#[test]
fn an_open_ring_says_so_and_registers_its_buffers() {
    let f = fixture_with(Abilities { lock: setup::Lock::Open, ..Abilities::ALL }, 64);
    assert!(f.ring.unlocked().is_some() && f.ring.unregistered().is_none());
    assert_reads_by_every_mode(f);
}

#[test]
fn a_ring_that_goes_ends_all_its_watches() {
    let mut f = fixture(64);
    let (peers, sockets) = watched(&mut f.ring, 300);
    f.ring.wait(Some(Duration::ZERO)).expect("the ring works");
    drop(sockets);
    assert!(f.ring.quiesce());
    assert_eq!(f.ring.core.in_flight(), 0);
    for mut peer in peers {
        peer.set_read_timeout(Some(10 * SECOND)).expect("a timeout can be set");
        assert!(matches!(peer.read(&mut [0]), Ok(0)), "nothing holds its other end open");
    }
}

/// Watched sockets and their peers; the places count from 0.
pub fn watched<D: Native>(ring: &mut D, count: u32) -> (Vec<UnixStream>, Vec<OwnedFd>) {
    let (peers, sockets): (Vec<UnixStream>, Vec<OwnedFd>) = (0..count)
        .map(|_| UnixStream::pair().expect("descriptors are left"))
        .map(|(peer, socket)| (peer, OwnedFd::from(socket)))
        .unzip();
    for (place, socket) in (0..).zip(&sockets) {
        ring.watch(place, 0, socket);
    }
    (peers, sockets)
}

/// The next readiness, within ten seconds.
pub fn ready<D: Native>(ring: &mut D) -> Readiness {
    for _ in 0..100 {
        ring.wait(Some(SECOND / 10)).expect("the ring works");
        if let Some(Completion::Ready { readiness, armed: true, .. }) = ring.next() {
            return readiness;
        }
    }
    panic!("nothing is told");
}

#[test]
fn a_ring_whose_completions_were_dropped_is_broken() {
    let of = |number| super::core::pass(io::Error::from_raw_os_error(number));
    assert!(
        [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN, libc::ENOMEM]
            .into_iter()
            .all(|number| of(number).is_ok())
    );
    assert!(of(libc::EBADR).is_err_and(|error| error.to_string().contains("EBADR")));
    assert!(of(libc::EBADF).is_err());
}

/// io_uring_enter fails with this error on this thread from now on, for ever.
fn refuse_enter(errno: i32) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let rules = std::collections::BTreeMap::from([(libc::SYS_io_uring_enter, Vec::new())]);
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), architecture);
    let program = filter.and_then(BpfProgram::try_from).expect("one call makes a filter");
    seccompiler::apply_filter(&program).expect("the kernel takes a seccomp filter");
}

#[test]
fn submissions_without_memory_are_tried_for_a_while_and_then_the_ring_is_broken_and_nobody_panics() {
    std::thread::spawn(|| {
        let mut core = super::core::Core::new(64, Abilities::ALL).expect("this machine has io_uring");
        refuse_enter(libc::ENOMEM);
        core.wait(Some(Duration::ZERO)).expect("memory may come back");
        let begun = Instant::now();
        // More than the submission queue holds.
        (0..600).for_each(|_| core.cancel(Token::Wake));
        assert!(begun.elapsed() >= Duration::from_millis(900), "it has not waited: {:?}", begun.elapsed());
        let error = core.wait(Some(Duration::ZERO)).expect_err("the kernel takes nothing");
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    })
    .join()
    .expect("it does not panic");
}

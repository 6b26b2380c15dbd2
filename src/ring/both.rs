//! What an engine relies on, of each driver, against the real kernel on loopback; and what is epoll's own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::epoll::ACCEPTS_MAX;
use super::tests::{Fixture, assert_reads_by_every_mode, ready, watched};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A test for each driver.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_io_uring {
            $(#[test] fn $name() { super::$name(super::ring()) })+
        }
        mod on_epoll {
            $(#[test] fn $name() { super::$name(super::epoll()) })+
        }
    };
}

on_both! {
    it_reads_by_every_mode, a_read_waits_for_bytes_or_for_the_end, a_cancelled_read_leaves_the_data,
    a_read_that_has_ended_cannot_be_cancelled, a_reset_is_told_to_the_reader, a_cancelled_accept_leaves_the_backlog,
    an_accept_can_be_armed_again, a_listener_that_is_shut_down_is_told_and_not_for_ever, another_thread_wakes_it,
    it_wakes_when_the_time_is_up, a_refused_connect_is_told, a_watch_tells_each_readiness_once,
    nothing_is_told_of_a_watch_that_has_ended, a_watch_of_a_socket_that_was_watched_before_begins_anew,
    a_driver_that_goes_leaves_nobody_waiting,
}

fn ring() -> Fixture<Ring> {
    Fixture::new(64, |sizes, sockets, waker| Ring::new(sizes, sockets, waker).expect("this kernel has io_uring"))
}

fn epoll() -> Fixture<Epoll> {
    Fixture::new(64, |sizes, sockets, waker| Epoll::new(sizes, sockets, waker).expect("every kernel has epoll"))
}

fn it_reads_by_every_mode<D: Native>(f: Fixture<D>) {
    assert_reads_by_every_mode(f);
}

fn a_read_waits_for_bytes_or_for_the_end<D: Native>(mut f: Fixture<D>) {
    let (mut client, socket) = f.connection();
    for mode in [ReadMode::Peek, ReadMode::Take] {
        f.ring.read(3, 5, &socket, 4, mode);
        turn(&mut f.ring);
        assert!(f.ring.next().is_none(), "{mode:?}: nothing has come");
        client.write_all(b"abc").expect("connected");
        assert!(matches!(f.one(), Completion::Read { slot: 3, generation: 5, result: Ok(3) }), "{mode:?}");
        assert_eq!(&f.ring.bytes(3, 7)[4..], b"abc");
        if mode == ReadMode::Peek {
            assert_eq!(f.read(&socket, 4, ReadMode::Consume(3)), Ok(3));
        }
    }
    f.ring.read(3, 5, &socket, 0, ReadMode::Take);
    turn(&mut f.ring);
    drop(client);
    assert!(matches!(f.one(), Completion::Read { slot: 3, generation: 5, result: Ok(0) }));
}

fn a_cancelled_read_leaves_the_data<D: Native>(mut f: Fixture<D>) {
    let (mut client, socket) = f.connection();
    f.ring.read(0, 1, &socket, 0, ReadMode::Take);
    f.ring.cancel_read(0, 1);
    let Completion::Read { slot: 0, generation: 1, result: Err(Errno(libc::ECANCELED)) } = f.one() else {
        panic!("cancelled")
    };
    client.write_all(b"later").expect("connected");
    assert_eq!(f.read(&socket, 0, ReadMode::Take), Ok(5));
}

fn a_read_that_has_ended_cannot_be_cancelled<D: Native>(mut f: Fixture<D>) {
    let (mut client, socket) = f.connection();
    client.write_all(b"there").expect("connected");
    f.ring.read(0, 1, &socket, 0, ReadMode::Take);
    assert!(matches!(f.one(), Completion::Read { slot: 0, generation: 1, result: Ok(5) }));
    f.ring.cancel_read(0, 1);
    turn(&mut f.ring);
    assert!(f.ring.next().is_none(), "one completion a read");
    assert_eq!(f.ring.bytes(0, 5), b"there");
}

fn a_reset_is_told_to_the_reader<D: Native>(mut f: Fixture<D>) {
    let (client, socket) = f.connection();
    f.ring.read(0, 1, &socket, 0, ReadMode::Take);
    turn(&mut f.ring);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a socket takes it");
    drop(client);
    assert!(matches!(f.one(), Completion::Read { slot: 0, result: Err(Errno(libc::ECONNRESET)), .. }));
}

fn a_cancelled_accept_leaves_the_backlog<D: Native>(mut f: Fixture<D>) {
    f.ring.accept(0);
    f.ring.wait(Some(Duration::ZERO)).expect("it works");
    f.ring.cancel_accept(0);
    let Completion::AcceptFailed { errno: Errno(libc::ECANCELED), armed: false, .. } = f.one() else { panic!("ended") };
    let client = TcpStream::connect(f.address).expect("the backlog takes it");
    turn(&mut f.ring);
    assert!(f.ring.next().is_none(), "nobody is asked for");
    let (socket, peer) = f.ring.accept_now(0).expect("descriptors are left").expect("it waits");
    assert_eq!(peer, Ok(client.local_addr().expect("connected")));
    assert!(matches!(f.ring.accept_now(0), Ok(None)), "and does not block");
    drop(socket);
}

fn an_accept_can_be_armed_again<D: Native>(mut f: Fixture<D>) {
    for _ in 0..3 {
        let (_client, socket) = f.connection();
        let flags = rustix::fs::fcntl_getfl(&socket).expect("a descriptor");
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "worker threads want blocking sockets");
        f.ring.cancel_accept(0);
        assert!(matches!(f.one(), Completion::AcceptFailed { listener: 0, armed: false, .. }));
    }
}

fn a_listener_that_is_shut_down_is_told_and_not_for_ever<D: Native>(mut f: Fixture<D>) {
    f.ring.accept(0);
    turn(&mut f.ring);
    let listener = f.listener.clone();
    socket2::SockRef::from(&*listener).shutdown(std::net::Shutdown::Both).expect("it listens");
    assert!(matches!(f.one(), Completion::AcceptFailed { listener: 0, errno: Errno(libc::EINVAL), armed: false }));
    turn(&mut f.ring);
    assert!(f.ring.next().is_none());
}

fn another_thread_wakes_it<D: Native>(mut f: Fixture<D>) {
    for _ in 0..3 {
        let waker = f.waker.clone();
        std::thread::spawn(move || waker.wake());
        assert!(matches!(f.one(), Completion::Woken));
        turn(&mut f.ring);
        assert!(f.ring.next().is_none(), "once");
    }
}

fn it_wakes_when_the_time_is_up<D: Native>(mut f: Fixture<D>) {
    let begun = Instant::now();
    let limit = Duration::from_micros(2_300);
    f.ring.wait(Some(limit)).expect("it works");
    assert!(begun.elapsed() >= limit, "not before: {:?}", begun.elapsed());
    assert!(f.ring.next().is_none());
}

fn a_refused_connect_is_told<D: Native>(mut f: Fixture<D>) {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let socket = f.ring.connect(address, None).expect("it begins");
    f.ring.watch(0, 0, &socket);
    assert!(ready(&mut f.ring).broken);
    assert_eq!(f.ring.connected(&socket), Err(Errno(libc::ECONNREFUSED)));
}

fn a_watch_tells_each_readiness_once<D: Native>(mut f: Fixture<D>) {
    let (mut peers, sockets) = watched(&mut f.ring, 1);
    let readiness = ready(&mut f.ring);
    assert!(readiness.writable && !readiness.readable && !readiness.ended);
    for _ in 0..3 {
        peers[0].write_all(b"x").expect("connected");
        assert!(ready(&mut f.ring).readable);
        turn(&mut f.ring);
        assert!(f.ring.next().is_none(), "though the bytes are there still");
    }
    assert_eq!(f.ring.receive(&sockets[0], &mut [0; 8]), Ok(3));
    peers[0].shutdown(std::net::Shutdown::Write).expect("connected");
    assert!(ready(&mut f.ring).ended);
    assert_eq!(f.ring.receive(&sockets[0], &mut [0; 8]), Ok(0));
}

fn nothing_is_told_of_a_watch_that_has_ended<D: Native>(mut f: Fixture<D>) {
    let (mut peers, sockets) = watched(&mut f.ring, 1);
    ready(&mut f.ring);
    f.ring.unwatch(0, 0);
    turn(&mut f.ring);
    // What was under way may still be told.
    while f.ring.next().is_some() {}
    peers[0].write_all(b"x").expect("connected");
    turn(&mut f.ring);
    assert!(f.ring.next().is_none());
    drop(sockets);
}

/// As a session is that another process did not take after all.
fn a_watch_of_a_socket_that_was_watched_before_begins_anew<D: Native>(mut f: Fixture<D>) {
    let (mut peers, sockets) = watched(&mut f.ring, 1);
    ready(&mut f.ring);
    f.ring.unwatch(0, 0);
    peers[0].write_all(b"x").expect("connected");
    f.ring.watch(4, 7, &sockets[0]);
    let told = f.until(|seen| seen.iter().any(|told| matches!(told, Completion::Ready { place: 4, .. })));
    let new = told.iter().find(|told| matches!(told, Completion::Ready { place: 4, .. }));
    assert!(matches!(new, Some(Completion::Ready { generation: 7, readiness, armed: true, .. }) if readiness.readable));
}

fn a_driver_that_goes_leaves_nobody_waiting<D: Native>(mut f: Fixture<D>) {
    let (mut reading, socket) = f.connection();
    f.ring.read(0, 1, &socket, 0, ReadMode::Take);
    turn(&mut f.ring);
    let unseen = TcpStream::connect(f.address).expect("somebody listens");
    turn(&mut f.ring);
    let Fixture { ring, listener, .. } = f;
    drop((ring, socket));
    for client in [&mut reading, &mut { unseen }] {
        // One that was taken, one that may have been.
        client.set_read_timeout(Some(10 * SECOND)).expect("a timeout can be set");
        drop(listener.accept().ok());
        assert!(matches!(client.read(&mut [0]), Ok(0)));
    }
}

/// A turn in which nothing may have to be waited for.
fn turn(driver: &mut impl Driver) {
    driver.wait(Some(SECOND / 50)).expect("it works");
}

#[test]
fn epoll_takes_no_more_than_its_share_of_a_backlog_a_turn() {
    let mut f = epoll();
    let clients: Vec<_> =
        (0..ACCEPTS_MAX + 9).map(|_| TcpStream::connect(f.address).expect("the backlog has room")).collect();
    f.ring.accept(0);
    for expected in [ACCEPTS_MAX, 9] {
        turn(&mut f.ring);
        let came: Vec<_> = std::iter::from_fn(|| f.ring.next()).collect();
        assert_eq!(came.len(), expected);
        assert!(came.iter().all(|told| matches!(told, Completion::Accepted { armed: true, peer: Ok(_), .. })));
    }
    drop(clients);
}

#[test]
fn epoll_lets_a_later_listener_have_the_place_of_one_with_the_same_socket() {
    let mut f = epoll();
    f.ring.accept(0);
    f.ring.open_listener(1, f.listener.clone());
    f.ring.accept(1);
    let _client = TcpStream::connect(f.address).expect("somebody listens");
    assert!(matches!(f.one(), Completion::Accepted { listener: 1, .. }));
    // The end of the former is told, and does not end the latter.
    f.ring.cancel_accept(0);
    assert!(matches!(f.one(), Completion::AcceptFailed { listener: 0, armed: false, .. }));
    f.ring.close_listener(0);
    let _client = TcpStream::connect(f.address).expect("somebody listens");
    assert!(matches!(f.one(), Completion::Accepted { listener: 1, .. }));
}

/// What another process holds too would stay in the set if it was only closed.
#[test]
fn epoll_is_told_nothing_of_a_listener_that_was_closed() {
    let mut f = epoll();
    f.ring.accept(0);
    f.ring.close_listener(0);
    let client = TcpStream::connect(f.address).expect("the test holds the socket");
    turn(&mut f.ring);
    assert!(f.ring.next().is_none());
    drop(client);
}

#[test]
fn epoll_ends_what_it_cannot_watch() {
    let mut f = epoll();
    // Regular files are always ready, and epoll takes none.
    let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").expect("this program"));
    f.ring.watch(3, 4, &file);
    let Completion::Ready { place: 3, generation: 4, readiness, .. } = f.one() else { panic!("it is told") };
    assert!(readiness.broken && readiness.ended && readiness.readable);
    f.ring.read(0, 1, &file, 0, ReadMode::Take);
    assert!(matches!(f.one(), Completion::Read { slot: 0, result: Err(_), .. }));
}

#[test]
fn a_read_of_epoll_is_out_of_reach_until_it_is_told() {
    let mut f = epoll();
    let (mut peer, socket) = UnixStream::pair().expect("descriptors are left");
    peer.write_all(b"x").expect("connected");
    f.ring.read(0, 1, &socket.into(), 0, ReadMode::Take);
    let reached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f.ring.bytes(0, 1).len()));
    assert!(reached.is_err(), "its bytes are there, and its completion is not");
    assert!(matches!(f.one(), Completion::Read { slot: 0, result: Ok(1), .. }));
    assert_eq!(f.ring.bytes(0, 1), b"x");
}

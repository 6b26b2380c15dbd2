//! Whole engines: what a ring's end and a failed start leave behind.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use super::{Command, Engine, EngineBuilder, Kept, Listener, StartError};
use crate::dispatch::testing::{SOON, until};
use crate::dispatch::{Intake, Pool, RunningWorkers, Workers};
use crate::worker::Discard;

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("somebody listens");
    client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    client
}

/// Its workers do not start.
struct Lazy;

impl Workers for Lazy {
    fn start(self: Box<Self>, _: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        // Long enough for a ring that does not wait for the workers to accept.
        thread::sleep(Duration::from_millis(50));
        Err(io::Error::other("no"))
    }
}

#[test]
fn a_ring_that_fails_leaves_its_share_to_the_others() {
    let engine = Engine::builder()
        .rings(NonZeroUsize::new(2).expect("not 0"))
        .pin(false)
        .pool(Pool::threads("pool", 1, Discard))
        .listen(Listener::plain(anywhere()).pool("pool"))
        .start()
        .expect("loopback has free ports");
    let address = engine.addresses()[0];
    assert_eq!(engine.sockets().expect("descriptors are left").len(), 2);
    engine.threads[0].command(Command::Break);
    until("one socket is left", || engine.sockets().expect("descriptors are left").len() == 1);
    for _ in 0..32 {
        assert_eq!(connect(address).read(&mut [0]).expect("the other ring serves it"), 0);
    }
    assert_eq!(engine.snapshot().count("accepted"), 32);
}

#[test]
fn limits_that_never_end_are_no_overflow() {
    let listener = Listener::proxy(anywhere()).trust(["127.0.0.0/8".parse().expect("a network")]).pool("pool");
    let mut engine = Engine::builder()
        .rings(NonZeroUsize::MIN)
        .pool(Pool::threads("pool", 1, Discard))
        .listen(listener.timeout(Duration::MAX).defer_accept(false))
        .start()
        .expect("loopback has free ports");
    let _silent = connect(engine.addresses()[0]);
    until("it is accepted", || engine.snapshot().count("accepted") == 1);
    assert!(engine.drain(Duration::MAX), "a silent client does not keep a drain");
}

#[test]
fn a_start_that_fails_takes_nobody_out_of_the_backlog() {
    let listener = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    let client = connect(address);
    let socket = listener.try_clone().expect("descriptors are left");
    let engine = Engine::builder()
        .rings(NonZeroUsize::MIN)
        .pin(false)
        .pool(Pool::new("pool", Lazy))
        .listen(Listener::plain(address).socket(socket).pool("pool"))
        .start();
    assert!(matches!(engine, Err(StartError::System(_))), "the pool does not start");
    let (_, peer) = listener.accept().expect("the client still waits");
    assert_eq!(peer, client.local_addr().expect("connected"));
}

/// An engine of one ring whose pool discards, on these addresses.
fn discarding(addresses: &[SocketAddr]) -> EngineBuilder {
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(Pool::threads("pool", 1, Discard));
    addresses.iter().fold(builder, |builder, address| builder.listen(Listener::plain(*address).pool("pool")))
}

/// Whether somebody accepts there and ends the connection in order.
fn is_served(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|client| {
        client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        (&client).read(&mut [0]).is_ok_and(|count| count == 0)
    })
}

#[test]
fn another_configuration_takes_hold_in_running_rings_and_leaves_nothing_behind() {
    let mut engine = discarding(&[anywhere(), anywhere()]).start().expect("loopback has free ports");
    let (stays, goes) = (engine.addresses()[0], engine.addresses()[1]);
    let threads = || std::fs::read_dir("/proc/self/task").expect("it is there").count();
    let mut new = None;
    for _ in 0..50 {
        assert!(is_served(stays));
        let next = new.unwrap_or_else(anywhere);
        assert_eq!(engine.reconfigure(discarding(&[stays, next])).expect("the addresses are free"), []);
        new = Some(engine.addresses()[1]);
        assert!(is_served(stays) && is_served(engine.addresses()[1]));
    }
    until("the address that is gone refuses", || TcpStream::connect(goes).is_err());
    assert_eq!(engine.sockets().expect("descriptors are left").len(), 2);
    // 200 connections at least; other tests of this process have threads, too, but none that last.
    assert_eq!(engine.snapshot().count("accept-failed"), 0);
    until("the workers of earlier configurations end", || threads() < 50);
    assert!(engine.drain(SOON));
}

#[test]
fn what_cannot_change_is_told_and_a_configuration_that_cannot_be_changes_nothing() {
    let mut engine = discarding(&[anywhere()]).start().expect("loopback has free ports");
    let address = engine.addresses()[0];
    let two = NonZeroUsize::new(2).expect("not 0");
    let kept = engine.reconfigure(discarding(&[address]).rings(two)).expect("the rest can be");
    assert_eq!(kept, [Kept::Rings { present: 1, wanted: 2 }]);
    let other = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let taken = other.local_addr().expect("bound");
    assert!(matches!(engine.reconfigure(discarding(&[address, taken])), Err(StartError::Bind { .. })));
    assert!(is_served(address));
}

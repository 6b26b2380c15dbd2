//! Whole engines: what a ring's end and a failed start leave behind.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use super::{Command, Engine, Listener, StartError};
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

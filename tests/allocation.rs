//! From accept to close no connection allocates memory: an allocator that counts sees the whole process, so the ring, the
//! worker and the clients that drive them. (Header and first bytes beyond `INLINE_BYTES`, 128, do take one allocation.)
//!
//! One test only: another one beside it would be counted too.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use vestibule::dispatch::{Accepted, Pool};
use vestibule::engine::Which;
use vestibule::net::Network;
use vestibule::{Engine, Listener};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Rounds before counting begins: tables and lists grow to their size.
const WARM_UP: usize = 200;
const ROUNDS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);

const V1: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc6\x33\x64\x07\xc0\0\x02\x01\x13\x88\0\x8f\x04\0\x01\0a001 NOOP\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Makes the worker allocate, to show that it would be seen.
static CONTROL: AtomicBool = AtomicBool::new(false);

fn close(connection: Accepted) {
    if CONTROL.load(Ordering::SeqCst) {
        std::hint::black_box(Box::new(connection.peer()));
    }
}

#[test]
fn no_connection_allocates() {
    let trusted = ["127.0.0.0/8".parse().expect("a network")];
    let listener = || Listener::proxy(SocketAddr::from(([127, 0, 0, 1], 0))).trust(trusted).defer_accept(false);
    let mut engine = Engine::builder()
        .rings(NonZeroUsize::MIN)
        .pool(Pool::threads("imap", 2, close))
        .pool(Pool::here("here", close))
        .listen(listener().pool("imap"))
        .listen(listener().pool("here"))
        .start()
        .expect("an engine on loopback");
    let (address, here) = (engine.addresses()[0], engine.addresses()[1]);
    for address in [address, here] {
        serve(address, WARM_UP);
        let counted = Region::new(ALLOCATOR);
        serve(address, ROUNDS);
        let change = counted.change();
        assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0), "{change:?}");
    }
    assert_eq!(level_after_changes_of_trust(&engine), 0);

    CONTROL.store(true, Ordering::SeqCst);
    let counted = Region::new(ALLOCATOR);
    serve(address, ROUNDS);
    assert!(counted.change().allocations >= 4 * ROUNDS, "the control is counted: {:?}", counted.change());
    assert!(engine.drain(PATIENCE));
    assert_eq!(engine.snapshot().count("proxied"), 3 * (2 * WARM_UP + 3 * ROUNDS) as u64);
}

/// How many bytes more there are after a thousand changes than after a few.
fn level_after_changes_of_trust(engine: &Engine) -> isize {
    let change = |number: u8| {
        let networks = [[10, 0, 0, number].into(), [127, 0, 0, 1].into()].map(|ip: std::net::IpAddr| ip.to_string());
        let networks = networks.map(|text| text.parse::<Network>().expect("a network"));
        engine.set_trust(Which::All, networks).expect("the ring turns");
    };
    (0..10).for_each(change);
    let counted = Region::new(ALLOCATOR);
    (0..1000).for_each(|number| change((number % 250) as u8));
    let change = counted.change();
    change.bytes_allocated as isize - change.bytes_deallocated as isize
}

/// One connection of each kind a round.
fn serve(address: SocketAddr, rounds: usize) {
    let end = Instant::now() + PATIENCE;
    for _ in 0..rounds {
        for (first, second) in [(V1, &b""[..]), (V2, b""), (&V1[..9], &V1[9..]), (LOCAL, b"")] {
            assert!(Instant::now() < end, "connections are served in time");
            visit(address, first, second);
        }
    }
}

fn visit(address: SocketAddr, first: &[u8], second: &[u8]) {
    let mut client = TcpStream::connect(address).expect("the engine listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    client.set_nodelay(true).expect("an option of every TCP socket");
    client.write_all(first).expect("connected");
    if !second.is_empty() {
        // So that the ring sees two parts most of the time; nothing depends on it.
        std::thread::yield_now();
        client.write_all(second).expect("connected");
    }
    client.shutdown(Shutdown::Write).expect("connected");
    // Nobody reads what came behind the header: a reset is an end too.
    let _ = client.read(&mut [0; 16]);
}

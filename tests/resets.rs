//! Clients that reset their connection, at every step of its way: each is counted once, and nothing of it stays.

use std::io::{ErrorKind, Read};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use socket2::SockRef;
use vestibule::dispatch::{Accepted, Pool};
use vestibule::{Engine, Listener};

use crate::support::client::{Client, address, loopback};
use crate::support::{PATIENCE, header, open_connections, wait_until};

/// Long enough to be sure that a ring has taken in what was sent; nothing is asserted to be faster.
const SETTLED: Duration = Duration::from_millis(200);

fn engine(pool: Pool, defer: bool) -> Engine {
    let listener = Listener::proxy(loopback(0)).trust(["127.0.0.1".parse().expect("a network")]).defer_accept(defer);
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pin(false);
    builder.pool(pool).listen(listener.pool("pool")).start().expect("the engine starts")
}

/// close(2) with an RST.
fn reset(client: Client) {
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

fn wait_for_count(engine: &Engine, name: &str, count: u64) {
    let came = wait_until(PATIENCE, || engine.snapshot().count(name) == count);
    assert!(came, "{name} is not {count}:\n{}", engine.snapshot());
}

#[test]
fn before_and_inside_the_header_at_every_byte() {
    let mut engine = engine(Pool::threads("pool", 1, |_: Accepted| {}), false);
    let to = engine.addresses()[0];
    let v1 = header::v1(address("198.51.100.7:5000"), address("192.0.2.1:143"));
    let v2 = header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[(4, b"padding")]);
    let beginnings: Vec<&[u8]> =
        [&v1, &v2].iter().flat_map(|header| (0..header.len()).map(|len| &header[..len])).collect();
    for (number, beginning) in (1..).zip(&beginnings) {
        let client = Client::send_to(to, beginning);
        wait_for_count(&engine, "accepted", number);
        reset(client);
    }
    let count = beginnings.len() as u64;
    wait_for_count(&engine, "closed-partial", count - 2);
    wait_for_count(&engine, "closed-empty", 2);
    assert_eq!(engine.snapshot().count("accepted"), count);
    assert_eq!(open_connections(to.port()), 0);
    assert!(engine.drain(PATIENCE));
}

#[test]
fn in_the_backlog_in_line_in_the_queue_and_in_a_workers_hands() {
    const QUEUED: u64 = 50;
    let (permit, permitted) = channel::<()>();
    let (enter, entered) = channel();
    let (end, ended) = channel();
    let permitted = Mutex::new(permitted);
    let handler = move |connection: Accepted| {
        enter.send(()).expect("the test waits");
        let _ = permitted.lock().expect("no panic").recv();
        let outcome = connection.into_stream().read_to_end(&mut Vec::new());
        end.send(outcome.map_err(|error| error.kind())).expect("the test waits");
    };
    let mut engine = engine(Pool::threads("pool", 1, handler).queue(1), true);
    let to = engine.addresses()[0];

    let in_hand = Client::send_to(to, &header::local());
    entered.recv_timeout(PATIENCE).expect("the worker gets it");
    let in_queue = Client::send_to(to, &header::local());
    wait_for_count(&engine, "local", 2);
    let in_line = Client::send_to(to, &header::local());
    wait_for_count(&engine, "paused", 1);
    // Accepting is paused from the next turn on: they stay in the backlog.
    std::thread::sleep(SETTLED);
    let in_backlog: Vec<Client> = (0..QUEUED).map(|_| Client::send_to(to, &header::local())).collect();
    in_backlog.into_iter().chain([in_hand, in_queue, in_line]).for_each(reset);

    drop(permit);
    for place in ["worker", "queue", "line"] {
        let outcome = ended.recv_timeout(PATIENCE).expect("the worker goes on");
        assert_eq!(outcome, Err(ErrorKind::ConnectionReset), "{place}");
    }
    wait_for_count(&engine, "reset-early", QUEUED);
    for (name, count) in [("accepted", QUEUED + 3), ("local", 3), ("lost-in-pool", 0)] {
        assert_eq!(engine.snapshot().count(name), count, "{name} in\n{}", engine.snapshot());
    }
    assert!(wait_until(PATIENCE, || open_connections(to.port()) == 0));
    assert!(engine.drain(PATIENCE));
}

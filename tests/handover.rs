//! One engine takes the place of another: the listening sockets and the connections whose header is half read.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use vestibule::worker::Whoami;
use vestibule::{Engine, Listener, Pool};

use crate::support::client::{Client, address};
use crate::support::{PATIENCE, header, wait_until};

/// Far below and far above what a test takes.
const LONG: Duration = Duration::from_secs(60);

fn engine(before: Option<&Engine>, exact: bool) -> Engine {
    engine_of(2, before, exact)
}

/// An engine of so many rings on one listener: on the sockets of another one, or on a free port.
fn engine_of(rings: usize, before: Option<&Engine>, exact: bool) -> Engine {
    let at = before.map_or(address("127.0.0.1:0"), |before| before.addresses()[0]);
    let listener = Listener::proxy(at).trust(["127.0.0.0/8".parse().expect("a network")]).timeout(LONG).pool("pool");
    let sockets = before.map(|before| before.sockets().expect("descriptors are left")).unwrap_or_default();
    let listener = sockets.into_iter().fold(listener.defer_accept(false), |all, (_, socket)| all.socket(socket));
    let pool = Pool::threads("pool", 2, Whoami);
    let pool = if exact { pool.exact_residual() } else { pool };
    let builder = Engine::builder().rings(NonZeroUsize::new(rings).expect("not 0")).pin(false);
    builder.pool(pool).listen(listener).start().expect("loopback has free ports")
}

/// A header that names a client of its own, and that client.
fn with_client(number: usize) -> (Vec<u8>, SocketAddr) {
    let client = SocketAddr::from(([198, 51, 100, number as u8], 5000 + number as u16));
    (header::v2(client, address("192.0.2.1:143"), &[(0x04, &[0; 300])]), client)
}

#[test]
fn half_read_headers_of_every_length_are_read_on_by_one_engine_after_the_other() {
    for exact in [false, true] {
        let mut engines = vec![engine(None, exact)];
        let listener = engines[0].addresses()[0];
        let length = with_client(0).0.len();
        let halves: Vec<(Client, usize)> =
            (0..32).map(|number| (Client::send_to(listener, &with_client(number).0[..number]), number)).collect();
        let at_a_third = |part: usize, rest: usize| part + (length - part) * rest / 3;
        for step in 0..3 {
            let accepted = |engine: &Engine| engine.snapshot().count("accepted") == 32;
            assert!(step > 0 || wait_until(PATIENCE, || accepted(&engines[0])), "all are pending");
            let next = engine(engines.last(), exact);
            let before = engines.last_mut().expect("there is one");
            let pending = before.hand_over(&[listener], LONG);
            assert_eq!((pending.len(), before.snapshot().count("handed-over")), (32, 32), "exact {exact} step {step}");
            assert!(before.retire(PATIENCE), "nothing is left behind");
            assert!(next.take_in(pending).is_empty(), "all belong to the listener");
            engines.push(next);
            for (client, part) in &halves {
                let piece = at_a_third(*part, step)..at_a_third(*part, step + 1);
                client.send(&with_client(*part).0[piece]).expect("the kernel takes it");
            }
        }
        for (client, number) in &halves {
            let answer = client.whoami();
            assert_eq!(answer["client"], with_client(*number).1.to_string(), "{answer}");
            assert_eq!(answer["peer"], client.local().to_string(), "{answer}");
        }
        let last = engines.last().expect("there is one").snapshot();
        assert_eq!((last.count("accepted"), last.count("taken-over"), last.count("proxied")), (0, 32, 32));
    }
}

#[test]
fn what_is_taken_over_keeps_its_deadline_and_the_terms_of_the_new_engine_count() {
    let mut first = engine(None, false);
    let listener = first.addresses()[0];
    let [silent, half] = [0, 20].map(|length| Client::send_to(listener, &with_client(1).0[..length]));
    assert!(wait_until(PATIENCE, || first.snapshot().count("accepted") == 2));
    let second = engine(Some(&first), false);
    let mut pending = first.hand_over(&[listener], LONG);
    for one in &mut pending {
        assert!(one.deadline > one.accepted_at + LONG / 2, "most of its time is left");
        one.deadline = std::time::Instant::now() + Duration::from_millis(300);
    }
    second.take_in(pending);
    assert_eq!((silent.read_to_end().0, half.read_to_end().0), (vec![], vec![]), "given up at their own deadline");
    assert_eq!((second.snapshot().count("silent"), second.snapshot().count("timeout")), (1, 1));
}

#[test]
fn fewer_rings_serve_the_sockets_of_more() {
    let mut engines = vec![engine_of(4, None, false)];
    let listener = engines[0].addresses()[0];
    for rings in [1, 3, 2, 3, 1] {
        let next = engine_of(rings, engines.last(), false);
        let before = engines.last_mut().expect("there is one");
        assert_eq!((next.addresses(), next.sockets().expect("descriptors are left").len()), (&[listener][..], 4));
        next.take_in(before.hand_over(&[listener], LONG));
        assert!(before.retire(PATIENCE));
        for number in 0..40 {
            let (bytes, client) = with_client(number);
            assert_eq!(Client::send_to(listener, &bytes).whoami()["client"], client.to_string(), "{rings} rings");
        }
        assert_eq!(next.snapshot().count("proxied"), 40);
        engines.push(next);
    }
}

#[test]
fn what_is_on_no_listener_of_the_new_engine_stays_with_the_old_one() {
    let mut first = engine(None, false);
    let listener = first.addresses()[0];
    let (bytes, client) = with_client(7);
    let half = Client::send_to(listener, &bytes[..10]);
    assert!(wait_until(PATIENCE, || first.snapshot().count("accepted") == 1));
    assert!(first.hand_over(&[address("127.0.0.9:1")], LONG).is_empty());
    half.send(&bytes[10..]).expect("the kernel takes it");
    assert_eq!(half.whoami()["client"], client.to_string());
    assert!(first.retire(PATIENCE));
}

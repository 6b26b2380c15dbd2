//! Limits on clients and pending headers, over real sockets: what is refused, what comes back, what is exempt.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use vestibule::admission::{ClientLimits, ClientRate};
use vestibule::engine::EngineBuilder;
use vestibule::{Accepted, Engine, Listener, Pool};

use crate::support::client::{Client, TRUSTED};
use crate::support::daemon::Daemon;
use crate::support::{PATIENCE, wait_until};

/// Says `*`, then holds the connection until the client closes it; panics if the client begins with `!`.
fn hold(connection: Accepted) {
    let mut stream = connection.into_stream();
    let mut first = [0];
    let _ = stream.write_all(b"*");
    while stream.read(&mut first).is_ok_and(|count| count > 0) {
        assert_ne!(first[0], b'!', "the client asks for a panic");
    }
}

/// The same with the plain socket, which counts as long as its permit is kept.
fn hold_socket(connection: Accepted) {
    let (mut socket, _permit) = connection.into_tcp_stream().expect("nothing came behind the header");
    let _ = socket.write_all(b"*");
    let _ = socket.read(&mut [0]);
}

fn engine(listener: Listener, limits: ClientLimits) -> (Engine, SocketAddr) {
    start(Engine::builder().client_limits(limits).listen(listener.trust([network("127.0.0.0/29")]).pool("hold")))
}

fn start(builder: EngineBuilder) -> (Engine, SocketAddr) {
    // Two rings: they must share one count.
    let builder = builder.rings(NonZeroUsize::new(2).expect("not 0")).pin(false);
    let engine = builder.pool(Pool::threads("hold", 16, hold)).start().expect("loopback has free ports");
    let address = engine.addresses()[0];
    (engine, address)
}

fn proxied() -> Listener {
    Listener::proxy("127.0.0.1:0".parse().expect("an address"))
}

fn network(text: &str) -> vestibule::net::Network {
    text.parse().expect("a network")
}

fn at_a_time(connections: u32) -> ClientLimits {
    ClientLimits { connections: NonZeroU32::new(connections), table_size: 0, ..ClientLimits::default() }
}

fn header(source: &str) -> Vec<u8> {
    let (family, destination) = if source.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    format!("PROXY {family} {source} {destination} 5000 143\r\n").into_bytes()
}

/// A connection on behalf of `source` that a worker holds now; `None` if it was refused.
fn held(to: SocketAddr, bytes: &[u8]) -> Option<Client> {
    held_from(TRUSTED, to, bytes)
}

fn held_from(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> Option<Client> {
    let client = Client::connect(from, to);
    let _ = client.send(bytes); // a refused peer may be gone already
    let mut first = [0];
    (&client.stream).read_exact(&mut first).ok().map(|()| client)
}

#[test]
fn connections_at_a_time_and_the_permit_comes_back_however_they_end() {
    let (mut engine, address) = engine(proxied(), at_a_time(2));
    let [one, _two] = [0, 1].map(|_| held(address, &header("198.51.100.7")).expect("within the limit"));
    for _ in 0..3 {
        assert!(held(address, &header("198.51.100.7")).is_none(), "two are there, whichever ring has them");
    }
    let _other = held(address, &header("198.51.100.8")).expect("another client is not concerned");
    drop(one);
    for ending in [&b""[..], b"!", b"!", b""] {
        let mut again = None;
        assert!(
            wait_until(PATIENCE, || {
                again = held(address, &header("198.51.100.7"));
                again.is_some()
            }),
            "the permit of a connection that has ended comes back"
        );
        again.expect("just there").send(ending).expect("the worker reads");
    }
    assert!(engine.snapshot().count("client-connection-limit") >= 3);
    assert!(wait_until(PATIENCE, || engine.snapshot().count("lost-in-pool") == 2), "two panics");
    drop(_two);
    drop(_other);
    assert!(engine.drain(PATIENCE));
}

#[test]
fn a_socket_that_was_taken_out_counts_as_long_as_its_permit_lives() {
    let mut engine = Engine::builder()
        .client_limits(at_a_time(1))
        .pool(Pool::threads("hold", 4, hold_socket))
        .listen(proxied().trust([network("127.0.0.0/29")]).pool("hold"))
        .start()
        .expect("loopback has free ports");
    let address = engine.addresses()[0];
    let one = held(address, &header("198.51.100.7")).expect("within the limit");
    assert!(held(address, &header("198.51.100.7")).is_none(), "the first is still served");
    drop(one);
    assert!(wait_until(PATIENCE, || held(address, &header("198.51.100.7")).is_some()), "its permit came back");
    assert!(engine.drain(PATIENCE));
}

#[test]
fn who_is_connected_counts_in_the_engine_that_takes_over_too() {
    let (mut first, address) = engine(proxied(), at_a_time(1));
    let held_by_first = held(address, &header("198.51.100.7")).expect("within the limit");
    let sockets = first.sockets().expect("descriptors are left");
    let listener = sockets.into_iter().fold(Listener::proxy(address), |all, (_, socket)| all.socket(socket));
    let listener = listener.trust([network("127.0.0.0/29")]).pool("hold");
    let builder = Engine::builder().client_limits(at_a_time(1)).client_counts(first.client_counts());
    let (mut second, _) = start(builder.listen(listener));
    assert!(first.hand_over(&[address], PATIENCE).is_empty());
    first.leave_counts_to(&second);
    assert!(held(address, &header("198.51.100.7")).is_none(), "it is connected through the first engine");
    assert_eq!(second.snapshot().count("client-connection-limit"), 1);
    drop(held_by_first);
    assert!(first.retire(PATIENCE));
    let again = held(address, &header("198.51.100.7")).expect("it has left");
    drop(again);
    assert!(second.drain(PATIENCE));
}

#[test]
fn an_ipv6_client_is_a_64_and_health_checks_have_no_client() {
    let (_engine, address) = engine(proxied(), at_a_time(1));
    let _one = held(address, &header("2001:db8:0:1::1")).expect("the first");
    assert!(held(address, &header("2001:db8:0:1:ffff::2")).is_none(), "the same /64");
    let _other = held(address, &header("2001:db8:0:2::1")).expect("another /64");
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let checks: Vec<Client> = (0..5).map(|_| held(address, local).expect("LOCAL is exempt")).collect();
    let unknown = held(address, b"PROXY UNKNOWN\r\n").expect("UNKNOWN names no client");
    drop((checks, unknown));
}

#[test]
fn a_rate_lets_a_burst_in_and_counts_the_rest_once_each() {
    let rate = ClientRate { connections: NonZeroU32::new(5).expect("not 0"), period: Duration::from_secs(3600) };
    let (engine, address) = engine(proxied(), ClientLimits { rate: Some(rate), ..ClientLimits::default() });
    let let_in = (0..20).filter_map(|_| held(address, &header("198.51.100.7"))).count();
    assert_eq!(let_in, 5);
    assert_eq!(engine.snapshot().count("client-rate-limit"), 15);
    assert_eq!(engine.snapshot().count("proxied"), 5, "the refused are not counted as handed over");
}

#[test]
fn the_banned_are_refused_and_the_exempt_are_not_counted() {
    let set = |text: &str| [network(text)].into_iter().collect();
    let limits = ClientLimits { exempt: set("198.51.100.0/28"), banned: set("203.0.113.0/24"), ..at_a_time(1) };
    let (engine, address) = engine(proxied(), limits);
    let exempt: Vec<Client> = (0..4).map(|_| held(address, &header("198.51.100.7")).expect("exempt")).collect();
    assert!(held(address, &header("203.0.113.9")).is_none());
    assert_eq!(engine.snapshot().count("client-banned"), 1);
    drop(exempt);
}

#[test]
fn without_a_header_the_peer_is_the_client_unless_it_is_the_balancer() {
    let (engine, address) = engine(Listener::plain("127.0.0.1:0".parse().expect("an address")), at_a_time(1));
    let from = |text: &str| held_from(text.parse().expect("an address"), address, b"");
    let _one = from("127.0.0.99").expect("the first");
    assert!(from("127.0.0.99").is_none());
    let checks: Vec<Client> = (0..4).map(|_| from("127.0.0.1").expect("the balancer's checks")).collect();
    assert_eq!(engine.snapshot().count("client-connection-limit"), 1);
    drop(checks);
}

#[test]
fn pending_headers_are_bounded_by_peer_and_by_listener() {
    let listener = || proxied().defer_accept(false).trust([network("127.0.0.0/29")]).pool("hold");
    let one_ring = |builder: EngineBuilder| {
        let builder = builder.rings(NonZeroUsize::MIN).pin(false).pool(Pool::threads("hold", 4, hold));
        let engine = builder.start().expect("loopback has free ports");
        let address = engine.addresses()[0];
        (engine, address)
    };
    let silent = |from: &str, to| Client::connect(from.parse().expect("an address"), to);

    let (engine, address) = one_ring(Engine::builder().pending_peer_limit(2).listen(listener()));
    let waiting = [silent("127.0.0.1", address), silent("127.0.0.1", address)];
    assert!(wait_until(PATIENCE, || engine.snapshot().count("accepted") == 2));
    assert!(held(address, &header("198.51.100.7")).is_none(), "its peer has two pending");
    assert_eq!(engine.snapshot().count("peer-pending-limit"), 1);
    assert!(held_from("127.0.0.2".parse().expect("an address"), address, &header("198.51.100.7")).is_some());
    waiting[0].send(&header("198.51.100.7")).expect("it is only pending");
    assert!(waiting[0].stream.try_clone().expect("a socket").read_exact(&mut [0]).is_ok());
    assert!(held(address, &header("198.51.100.7")).is_some(), "a complete header is pending no more");
    drop(waiting);

    let (engine, address) = one_ring(Engine::builder().listen(listener().pending_limit(2)));
    let waiting = [silent("127.0.0.1", address), silent("127.0.0.2", address)];
    assert!(wait_until(PATIENCE, || engine.snapshot().count("accepted") == 2));
    assert!(held(address, &header("198.51.100.7")).is_none(), "the listener has two pending");
    assert_eq!(engine.snapshot().count("listener-pending-limit"), 1);
    drop(waiting);
    assert!(wait_until(PATIENCE, || held(address, &header("198.51.100.7")).is_some()), "a closed one neither");
}

/// A header of version 2 that is too long for a slot's own buffer.
fn long_header() -> Vec<u8> {
    const NOOP: u8 = 0x04;
    let room = [0; 500];
    let tlv = [&[NOOP], &(room.len() as u16).to_be_bytes()[..], &room].concat();
    let addresses = [198, 51, 100, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 143];
    let length = (addresses.len() + tlv.len()) as u16;
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length.to_be_bytes()[..], &addresses, &tlv].concat()
}

fn patient(builder: EngineBuilder) -> (Engine, SocketAddr) {
    let listener = proxied().defer_accept(false).timeout(10 * PATIENCE).trust([network("127.0.0.0/29")]).pool("hold");
    let builder = builder.rings(NonZeroUsize::MIN).pin(false).pool(Pool::threads("hold", 4, hold));
    let engine = builder.listen(listener).start().expect("loopback has free ports");
    let address = engine.addresses()[0];
    (engine, address)
}

#[test]
fn half_headers_that_hold_every_longer_buffer_make_room_for_longer_headers() {
    let (engine, address) = patient(Engine::builder());
    let header = long_header();
    let half: Vec<Client> = (0..vestibule::ring::LONG_MAX)
        .map(|_| {
            let client = Client::connect(TRUSTED, address);
            client.send(&header[..300]).expect("it is only pending");
            client
        })
        .collect();
    assert!(wait_until(PATIENCE, || engine.snapshot().count("accepted") == half.len() as u64));
    assert!(wait_until(PATIENCE, || held(address, &header).is_some()), "those who hold one for long make room");
    assert!(engine.snapshot().count("shed") > 0);
}

#[test]
fn a_peer_that_fills_the_places_of_pending_headers_costs_other_peers_none() {
    const PLACES: usize = 64;
    let (engine, address) = patient(Engine::builder().pending_limit(PLACES as u32));
    let slow = Client::connect("127.0.0.2".parse().expect("an address"), address);
    slow.send(&header("198.51.100.7")[..10]).expect("it is only pending");
    assert!(wait_until(PATIENCE, || engine.snapshot().count("accepted") == 1));
    let _greedy: Vec<Client> = (0..4 * PLACES)
        .map(|_| {
            let client = Client::connect(TRUSTED, address);
            client.send(b"PROXY ").expect("there is room in the socket");
            client
        })
        .collect();
    assert!(wait_until(PATIENCE, || engine.snapshot().count("shed") >= 3 * PLACES as u64 - 1));
    slow.send(&header("198.51.100.7")[10..]).expect("it has kept its place");
    assert!((&slow.stream).read_exact(&mut [0]).is_ok());
}

#[test]
fn a_hundred_thousand_sources_stay_within_the_memory_bound() {
    const SOURCES: u32 = 100_000;
    const WARM: u32 = 10_000;
    let port = crate::support::free_port();
    let configuration = format!(
        "haproxy_trusted_networks = 127.0.0.0/29\nclient_connection_limit = 100\nclient_rate_limit = 100\n\
         client_rate_period = 1 hours\nclient_table_size = 1024\n\
         service imap-login {{\n  worker = discard\n  inet_listener imap_haproxy {{\n    address = 127.0.0.1\n    \
         port = {port}\n    haproxy = yes\n  }}\n}}\n"
    );
    let daemon = Daemon::start(&configuration, &[port]);
    let to = crate::support::client::loopback(port);
    connect_as(0..WARM, to);
    let warm = daemon.resident();
    connect_as(WARM..SOURCES, to);
    let grown = daemon.resident().saturating_sub(warm);
    let said = daemon.stop();
    let counter = |name: &str| -> u64 {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(1)).map_or(0, |count| count.parse().expect("a number"))
    };
    assert_eq!(counter("proxied"), u64::from(SOURCES), "{said}");
    assert!(counter("client-evicted") > u64::from(SOURCES / 2), "{said}");
    assert!(grown < 1024, "{grown} KiB more after {SOURCES} sources; one entry each would be 3 MiB");
}

/// One short connection for each source number, from seven balancers at once.
fn connect_as(sources: std::ops::Range<u32>, to: SocketAddr) {
    std::thread::scope(|scope| {
        for balancer in 1..=7_u8 {
            let mine = sources.clone().filter(move |n| n % 7 == u32::from(balancer) - 1);
            scope.spawn(move || {
                for n in mine {
                    let source = std::net::Ipv4Addr::from(0x0b00_0000 + n);
                    let client = Client::connect([127, 0, 0, balancer].into(), to);
                    client.send(&header(&source.to_string())).expect("a fresh connection takes a few bytes");
                    assert_eq!(client.read_to_end().0, b"");
                }
            });
        }
    });
}

#[test]
fn what_a_stricter_policy_would_refuse_is_counted_and_told_and_served() {
    let (daemon, listener) = Daemon::haproxy(
        "shadow_trusted_networks = 127.0.0.2\nshadow_client_rate_limit = 2\n\
         shadow_client_banned_networks = 203.0.113.0/24",
        "",
    );
    let served = |from: &str, source: &str| {
        let client = Client::connect(from.parse().expect("an address"), listener);
        client.send(&header(source)).expect("it listens");
        assert_eq!(client.whoami()["client"].as_str().map(|text| text.split(':').next()), Some(Some(source)));
    };
    (0..5).for_each(|_| served("127.0.0.2", "198.51.100.7"));
    served("127.0.0.3", "198.51.100.8");
    served("127.0.0.2", "203.0.113.9");
    let log = daemon.stop();
    for (reason, count) in [("shadow-client-rate-limit", 3), ("shadow-untrusted", 1), ("shadow-client-banned", 1)] {
        let row = format!("{reason:<32} {count:>4} imap-login/imap_haproxy");
        assert!(log.contains(&row), "{row}:\n{log}");
        assert_eq!(log.matches(&format!("reason={reason} peer=")).count(), 1, "one line of a kind:\n{log}");
    }
    assert!(log.contains("shadow_client_rate_limit would refuse this one (rip=198.51.100.7)"), "{log}");
    assert!(log.contains("2 more like this suppressed (rip=198.51.100.7): reason=shadow-client-rate-limit"), "{log}");
    assert!(!log.contains("\nclient-rate-limit"), "nobody was refused:\n{log}");
}

//! What a backend costs a session: one choice and one release, by the number of servers and of remembered clients.
//!
//! ```text
//! cargo bench --bench backend              nanoseconds a session, median of many rounds
//! cargo bench --bench backend -- --test    every answer once, no times
//! ```
//!
//! Each server holds 45 sessions, so that none is at rest. Clients come in random order, so that most entries of the stick
//! table are not in the nearest cache.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use vestibule::backend::{
    AdminState, Backend, Balance, CheckKind, CheckSettings, Choice, ServerSettings, Settings, StickSettings, Tried,
};

const ROUND: u32 = 10_000;
const ROUNDS: u32 = 51;
const HELD: u32 = 45;

fn main() {
    let timed = std::env::args().any(|argument| argument == "--bench") && !std::env::args().any(|a| a == "--test");
    for (balance, name) in Balance::ALL {
        for servers in [1, 4, 20, 200] {
            for clients in [0, 1000, 200_000] {
                let now = Instant::now();
                let mut backend = filled(balance, servers, clients, now);
                check(&mut backend, servers, clients, now);
                if timed {
                    let nanos = median((0..ROUNDS).map(|round| nanos(&mut backend, clients, round)).collect());
                    println!("{name:<10} {servers:>3} servers {clients:>6} clients kept {nanos:>7.1} ns");
                }
            }
        }
    }
    println!("every answer right");
}

fn filled(balance: Balance, servers: u16, clients: u32, now: Instant) -> Backend {
    let mut backend = Backend::new(settings(balance, servers, clients), 1, now);
    for n in 0..clients.max(u32::from(servers) * HELD) {
        visit(&mut backend, n, n >= u32::from(servers) * HELD, now);
    }
    backend
}

fn settings(balance: Balance, servers: u16, clients: u32) -> Settings {
    let server = |n: u16| ServerSettings {
        name: format!("mail{n}"),
        host: "192.0.2.1".into(),
        port: n,
        address: Some(SocketAddr::from(([192, 0, 2, 1], n))),
        weight: 1,
        connection_limit: 0,
        state: AdminState::Ready,
        backup: false,
        check_port: None,
    };
    Settings {
        name: "imap".into(),
        servers: (0..servers).map(server).collect(),
        balance,
        stick: (clients > 0).then_some(StickSettings { size: 204_800, expire: Duration::from_secs(1800) }),
        connect_timeout: Duration::from_secs(5),
        retries: 3,
        queue: 1024,
        queue_timeout: Duration::from_secs(10),
        slow_start: Duration::from_secs(30),
        check: CheckSettings { kind: CheckKind::Banner, interval: Duration::from_secs(10), rise: 2, fall: 3 },
    }
}

fn client(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

/// A session comes, and goes if it shall. The number of its server.
fn visit(backend: &mut Backend, n: u32, goes: bool, now: Instant) -> u16 {
    let Choice::Server { index, .. } = backend.choose(black_box(client(n)), &Tried::NONE, now) else {
        panic!("there is always a place");
    };
    if goes {
        assert_eq!(backend.release(index, now), None, "nobody waits");
    }
    index.0
}

/// A client of the round, in random order.
fn client_of(n: u32, clients: u32) -> u32 {
    (u64::from(n) * 2_654_435_761 % u64::from(clients.max(1000))) as u32
}

fn check(backend: &mut Backend, servers: u16, clients: u32, now: Instant) {
    backend.check_invariants();
    let sessions: u32 = backend.servers(now).map(|server| server.sessions).sum();
    assert_eq!(sessions, u32::from(servers) * HELD);
    assert_eq!(backend.view().stick_used as u32, if clients == 0 { 0 } else { clients.max(sessions) });
    for n in (0..clients).step_by(97) {
        let first = visit(backend, n, true, now);
        assert_eq!(visit(backend, n, true, now), first, "client {n} keeps its server");
    }
}

fn nanos(backend: &mut Backend, clients: u32, round: u32) -> f64 {
    let begun = Instant::now();
    for n in 0..ROUND {
        visit(backend, client_of(round * ROUND + n, clients), true, begun);
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(ROUND)
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_unstable_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

//! What door 2's limits on clients cost a connection: one admission and one release of its permit.
//!
//! ```text
//! cargo bench --bench admission              nanoseconds a connection, median of many rounds
//! cargo bench --bench admission -- --test    every answer once, no times
//! ```
//!
//! 65,536 clients in random order, so that most buckets are not in the nearest cache, as in a busy cluster. The case with
//! threads has four of them at one table at once, as rings and workers are.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use vestibule::admission::{ClientLimits, ClientRate, Clients};

const CLIENTS: u32 = 1 << 16;
const ROUND: u32 = 20_000;
const ROUNDS: usize = 101;
const THREADS: usize = 4;

fn main() {
    let timed = std::env::args().any(|argument| argument == "--bench") && !std::env::args().any(|a| a == "--test");
    let now = Instant::now();
    for (name, limits) in cases() {
        let clients = Clients::new(limits, now);
        check(&clients, name, now);
        if timed {
            let alone = median((0..ROUNDS).map(|round| nanos(&clients, round as u32)).collect());
            println!("{name:<28} {alone:>7.1} ns alone  {:>7.1} ns beside {} others", beside(&clients), THREADS - 1);
        }
    }
    println!("every answer right");
}

fn cases() -> [(&'static str, ClientLimits); 4] {
    let connections = NonZeroU32::new(1_000_000);
    let rate = connections.map(|connections| ClientRate { connections, period: Duration::from_secs(1) });
    let off = ClientLimits::default();
    [
        ("off", off.clone()),
        ("connections", ClientLimits { connections, ..off.clone() }),
        ("rate", ClientLimits { rate, ..off.clone() }),
        ("connections and rate", ClientLimits { connections, rate, ..off }),
    ]
}

fn client(n: u32) -> IpAddr {
    // An odd factor makes every client come once before any comes again.
    Ipv4Addr::from(0x0a00_0000 | (n.wrapping_mul(2_654_435_761) % CLIENTS)).into()
}

/// A connection comes and goes.
fn visit(clients: &Clients, n: u32, now: Instant) -> bool {
    let Ok(ticket) = clients.admit(black_box(client(n)), now) else { return false };
    if let (Some(table), Some(ticket)) = (clients.table(), ticket) {
        table.release(ticket);
    }
    true
}

fn check(clients: &Clients, name: &str, now: Instant) {
    let counted = clients.admit(client(1), now).expect("nobody is refused");
    assert_eq!(counted.is_some(), name.starts_with("connections"), "{name}");
    if let (Some(table), Some(ticket)) = (clients.table(), counted) {
        table.release(ticket);
    }
    assert!((0..CLIENTS).all(|n| visit(clients, n, now)), "{name}");
}

fn nanos(clients: &Clients, round: u32) -> f64 {
    let begun = Instant::now();
    for n in 0..ROUND {
        assert!(visit(clients, round * ROUND + n, begun));
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(ROUND)
}

fn beside(clients: &Clients) -> f64 {
    let measure = |thread: usize| median((0..ROUNDS).map(|round| nanos(clients, (thread + round) as u32)).collect());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || measure(thread))).collect();
        let all = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        all.sum::<f64>() / THREADS as f64
    })
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_unstable_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

//! Changes to a running engine under load: each is in force on every ring before its call returns, and costs nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vestibule::engine::Which;
use vestibule::net::Network;
use vestibule::worker::Discard;
use vestibule::{Engine, Listener, Pool};

use crate::support::PATIENCE;
use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::header;

/// Calls under load.
const CALLS: usize = 1000;
/// A peer that is trusted in every second call only.
const SOMETIMES: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// Connections that are begun in a second.
const RATE: u32 = 2000;

fn network(ip: IpAddr) -> Network {
    ip.to_string().parse().expect("an address is a network")
}

#[test]
fn a_thousand_changes_of_trust_under_load_refuse_nobody_who_is_trusted_throughout() {
    let listener = Listener::proxy(loopback(0)).trust([network(TRUSTED)]).pool("pool");
    let builder = Engine::builder().rings(NonZeroUsize::new(2).expect("not 0")).pin(false);
    let mut engine = builder.pool(Pool::here("pool", Discard)).listen(listener).start().expect("the engine starts");
    let address = engine.addresses()[0];
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut refused = 0;
    thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| knock(address, &over, &served))));
        for call in 0..CALLS {
            let trusts = call % 2 == 0;
            let also = trusts.then(|| network(SOMETIMES));
            let done =
                engine.set_trust(Which::All, [network(TRUSTED)].into_iter().chain(also)).expect("both rings turn");
            assert_eq!((done.rings, done.listeners), (2, 1));
            // Until it has ended: the next call must not be what it is judged by.
            if call % 10 < 2 {
                refused += u64::from(!trusts);
                let client = Client::connect(SOMETIMES, address);
                let _ = client.send(&header::local());
                client.read_to_end();
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let wanted = served.load(Ordering::SeqCst) + (CALLS / 5) as u64 - refused;
    let counted = || (engine.snapshot().count("local"), engine.snapshot().count("untrusted"));
    let settled = crate::support::wait_until(PATIENCE, || counted() == (wanted, refused));
    assert!(settled, "{wanted} let in, {refused} refused: {}", engine.snapshot());
    assert!(engine.drain(PATIENCE));
}

/// A part of [`RATE`]: each is answered by an orderly end.
fn knock(address: SocketAddr, over: &AtomicBool, served: &AtomicU64) {
    let (begun, mut number) = (Instant::now(), 0);
    while !over.load(Ordering::SeqCst) {
        let client = Client::send_to(address, &header::local());
        let (said, _, _) = client.read_to_end();
        assert_eq!(said, b"");
        served.fetch_add(1, Ordering::SeqCst);
        number += 1;
        let due = begun + Duration::from_secs(number) * 4 / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

//! Whole engines: what a ring's end and a failed start leave behind.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use super::tally::Tally;
use super::{
    AmendError, Command, DriverChoice, Engine, EngineBuilder, InForce, Kept, Listener, Replaced, StartError, Which,
};
use crate::dispatch::testing::{SOON, until};
use crate::dispatch::{Incoming, Intake, Pool, RunningWorkers, Workers};
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

/// What rings run on.
const DRIVERS: [DriverChoice; 2] = [DriverChoice::IoUring, DriverChoice::Epoll];

/// How a ring fails.
const FAULTS: [fn() -> Command; 2] = [|| Command::Panic, || Command::Break];

#[test]
fn a_ring_that_fails_is_replaced_on_its_socket() {
    for (driver, fault) in DRIVERS.into_iter().flat_map(|driver| FAULTS.map(|fault| (driver, fault))) {
        let engine = discarding(&[anywhere()]).driver(driver).start().expect("loopback has free ports");
        assert_eq!(engine.driver().name(), driver.to_string());
        let address = engine.addresses()[0];
        for round in 1..=3 {
            engine.threads[0].command(fault());
            // There is no other ring that could serve them, and nobody may be refused meanwhile.
            let begun = Instant::now();
            for _ in 0..8 {
                assert_eq!(connect(address).read(&mut [0]).expect("it is served"), 0);
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            assert_eq!(engine.snapshot().count("ring-replaced"), round);
        }
        // One that came in the very moment of each failure may have gone with the ring.
        assert!(engine.snapshot().count("accepted") >= 24 - 3);
    }
}

#[test]
fn other_rings_go_on_while_one_is_replaced_and_it_gets_its_share_back() {
    let two = NonZeroUsize::new(2).expect("not 0");
    let engine = discarding(&[anywhere()]).rings(two).start().expect("loopback has free ports");
    let address = engine.addresses()[0];
    engine.threads[0].command(Command::Panic);
    until("it is replaced", || engine.snapshot().count("ring-replaced") == 1);
    assert_eq!(engine.sockets().expect("descriptors are left").len(), 2);
    (0..64).for_each(|_| assert!(is_served(address)));
    let accepted = |ring: usize| {
        let mut counts = vec![0; Tally::names().len()];
        engine.threads[ring].tally.add_counts_to(&mut counts);
        counts[0]
    };
    assert!(accepted(0) > 0 && accepted(1) > 0, "{} and {}", accepted(0), accepted(1));
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

#[test]
fn a_limit_on_locked_memory_that_no_ring_fits_in_is_an_error_before_anything_is_bound() {
    let taken = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let address = taken.local_addr().expect("bound");
    let limited = |driver, bytes| discarding(&[address]).driver(driver).locked_memory_limit(bytes);
    let Err(error) = limited(DriverChoice::IoUring, 4096).bind() else { panic!("it must not start") };
    // Not that the address is in use.
    let StartError::LockedMemory { limit: 4096, needed } = error else { panic!("{error}") };
    let words =
        format!("a ring needs {} KiB of locked memory at least, and locked_memory_limit is 4 KiB", needed / 1024);
    assert!(error.to_string().starts_with(&words), "{error}");
    drop(taken);
    let engine = limited(DriverChoice::IoUring, needed).start().expect("the smallest ring fits");
    assert_eq!(engine.snapshot().locked_memory(), needed);
    assert!(is_served(address));
    let mut meter = engine.meter();
    drop(engine);
    meter.rings.retain(|ring| ring.locked() > 0);
    assert!(meter.rings.is_empty(), "what is locked by rings that have ended");
    let engine = limited(DriverChoice::Epoll, 4096).start().expect("epoll locks nothing");
    assert_eq!(engine.snapshot().locked_memory(), 0);
}

/// An engine of one ring whose pool discards, on these addresses.
fn discarding(addresses: &[SocketAddr]) -> EngineBuilder {
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(Pool::threads("pool", 1, Discard));
    addresses.iter().fold(builder, |builder, address| builder.listen(Listener::plain(*address).pool("pool")))
}

/// Where nobody is trusted.
fn closed_to_all(name: &str) -> EngineBuilder {
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(Pool::threads("pool", 1, Discard));
    builder.listen(Listener::proxy(anywhere()).defer_accept(false).name(name).pool("pool"))
}

/// More than the log asks for their bytes.
const MANY: u64 = 20;

/// Lets so many be turned away, by whatever listener is the first.
fn turn_away_many(engine: &Engine) {
    for _ in 0..MANY {
        assert_eq!(connect(engine.addresses()[0]).read(&mut [0]).unwrap_or_default(), 0);
    }
}

/// Whoever was turned away is told of, by this listener.
fn assert_told_of_many(engine: &Engine, listener: &str) {
    let told = || -> Vec<(String, u64)> {
        let refusals = engine.meter().refusals();
        refusals.into_iter().map(|seen| (seen.listener, seen.count)).collect()
    };
    until("all are told of", || told().iter().map(|(_, count)| count).sum::<u64>() == MANY);
    assert_eq!(told(), [(listener.to_owned(), MANY)]);
}

#[test]
fn who_was_turned_away_is_told_of_by_its_listener_however_soon_another_has_its_place() {
    let mut engine = closed_to_all("first").start().expect("loopback has free ports");
    turn_away_many(&engine);
    for name in ["second", "third", "fourth"] {
        engine.replace(closed_to_all(name)).expect("loopback has free ports");
    }
    assert_told_of_many(&engine, "first");
}

#[test]
fn who_was_turned_away_is_told_of_when_the_ring_fails() {
    for fault in FAULTS {
        let engine = closed_to_all("first").start().expect("loopback has free ports");
        turn_away_many(&engine);
        engine.threads[0].command(fault());
        assert_told_of_many(&engine, "first");
    }
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
    DRIVERS.into_iter().for_each(assert_takes_hold);
}

fn assert_takes_hold(driver: DriverChoice) {
    let builder = discarding(&[anywhere(), anywhere()]).driver(driver);
    let mut engine = builder.start().expect("loopback has free ports");
    let (stays, goes) = (engine.addresses()[0], engine.addresses()[1]);
    let workers = || {
        let threads = std::fs::read_dir("/proc/self/task").expect("it is there").flatten();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|name| name.starts_with("pool")).count()
    };
    let mut new = None;
    for _ in 0..50 {
        assert!(is_served(stays));
        let next = new.unwrap_or_else(anywhere);
        assert_eq!(engine.replace(discarding(&[stays, next])).expect("the addresses are free").kept, []);
        new = Some(engine.addresses()[1]);
        assert!(is_served(stays) && is_served(engine.addresses()[1]));
    }
    until("the address that is gone refuses", || TcpStream::connect(goes).is_err());
    assert_eq!(engine.sockets().expect("descriptors are left").len(), 2);
    assert_eq!(engine.snapshot().count("accept-failed"), 0);
    // Other tests of this process have some, too, but none that last.
    until("the workers of earlier configurations end", || workers() < 50);
    assert!(engine.drain(SOON));
}

#[test]
fn what_cannot_change_is_told_and_a_configuration_that_cannot_be_changes_nothing() {
    let mut engine = discarding(&[anywhere()]).start().expect("loopback has free ports");
    let address = engine.addresses()[0];
    let two = NonZeroUsize::new(2).expect("not 0");
    let other = DRIVERS.into_iter().find(|driver| driver.to_string() != engine.driver().name()).expect("there are two");
    let wanted = discarding(&[address]).rings(two).driver(other);
    let Replaced { kept, continued, .. } = engine.replace(wanted).expect("the rest can be");
    assert_eq!(continued, [address]);
    let present = engine.driver().name();
    assert_eq!(kept, [Kept::Driver { present, wanted: other }, Kept::Rings { present: 1, wanted: 2 }]);
    let words =
        format!("driver stays at {present} until the daemon is restarted or taken over ({other} was asked for)");
    assert_eq!(kept[0].to_string(), words);
    let other = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let taken = other.local_addr().expect("bound");
    assert!(matches!(engine.replace(discarding(&[address, taken])), Err(StartError::Bind { .. })));
    assert!(is_served(address));
}

#[test]
fn a_port_that_is_let_go_within_a_second_is_waited_for() {
    let other = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let address = other.local_addr().expect("bound");
    let going = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(other);
    });
    let engine = discarding(&[address]).start().expect("it is free before long");
    going.join().expect("it does not panic");
    assert!(is_served(engine.addresses()[0]));
}

#[test]
fn an_engine_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Engine>();
}

/// An engine of one ring whose connections the program pulls.
fn pulled(address: SocketAddr, queue: usize) -> EngineBuilder {
    let pool = Pool::incoming("pool").queue(queue);
    Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(pool).listen(Listener::plain(address).pool("pool"))
}

#[test]
fn a_program_goes_on_pulling_over_other_configurations() {
    let mut engine = pulled(anywhere(), 8).start().expect("loopback has free ports");
    let address = engine.addresses()[0];
    let is_pulled = |incoming: &mut Incoming| {
        let client = connect(address);
        let pulled = incoming.recv().expect("the pool is open").peer();
        assert_eq!(pulled, client.local_addr().expect("connected"));
    };
    assert_eq!(engine.replace(pulled(address, 8)).expect("nothing differs").kept, []);
    let mut incoming = engine.incoming("pool").expect("nobody had asked before the other configuration came");
    for _ in 0..20 {
        is_pulled(&mut incoming);
        engine.replace(pulled(address, 8)).expect("nothing differs");
        assert!(engine.incoming("pool").is_none(), "somebody has it");
        is_pulled(&mut incoming);
    }
    // Another queue is another pool: what was in the former one is pulled, then it ends.
    let waiting = connect(address);
    until("it is accepted", || engine.snapshot().count("plain") == 41);
    engine.replace(pulled(address, 9)).expect("the address stays");
    let mut new = engine.incoming("pool").expect("the new pool's");
    is_pulled(&mut new);
    assert_eq!(incoming.recv().expect("it was queued before").peer(), waiting.local_addr().expect("connected"));
    assert!(incoming.recv().is_none());
    // And so is a pool that nobody pulls from any more.
    drop(new);
    engine.replace(pulled(address, 9)).expect("the address stays");
    let mut last = engine.incoming("pool").expect("the new pool's");
    is_pulled(&mut last);
    drop(last);
    assert!(engine.drain(SOON));
}

/// One ring for plain connections, and one listener that expects a header.
fn two_listeners() -> EngineBuilder {
    let trusted = ["127.0.0.1".parse().expect("a network")];
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(Pool::here("pool", Discard));
    builder
        .listen(
            Listener::proxy(anywhere()).trust(trusted).defer_accept(false).pool("pool").service("imap").name("haproxy"),
        )
        .listen(Listener::plain(anywhere()).pool("pool").name("plain"))
}

/// Whether a peer is let in at door 1: sends a header, and looks what it counts.
fn is_trusted(engine: &Engine) -> bool {
    let before = engine.snapshot();
    let mut client = connect(engine.addresses()[0]);
    let _ = std::io::Write::write_all(&mut client, b"PROXY UNKNOWN\r\n");
    let _ = client.read(&mut [0]);
    until("it is counted", || {
        let now = engine.snapshot();
        ["proxied", "untrusted", "client-banned"].iter().any(|name| now.count(name) > before.count(name))
    });
    engine.snapshot().count("proxied") > before.count("proxied")
}

#[test]
fn trust_takes_hold_before_the_call_returns_and_outlives_a_ring() {
    let mut engine = two_listeners().start().expect("loopback has free ports");
    let own = || "127.0.0.1".parse().expect("a network");
    for which in [Which::All, Which::Service("imap"), Which::Name("haproxy"), Which::Address(engine.addresses()[0])] {
        assert!(is_trusted(&engine));
        let done = engine.set_trust(which, []).expect("there is one");
        assert_eq!(done, InForce { rings: 1, listeners: if which == Which::All { 2 } else { 1 } });
        assert!(!is_trusted(&engine), "{which:?}");
        engine.threads[0].command(Command::Panic);
        until("the ring is replaced", || engine.pulse().beats(SOON));
        assert!(!is_trusted(&engine), "{which:?}, another ring");
        engine.set_trust(which, [own()]).expect("there is one");
    }
    for nobody in [Which::Service("pop3"), Which::Name("imap"), Which::Address(anywhere())] {
        assert_eq!(engine.set_trust(nobody, []), Err(AmendError::NoSuchListener));
    }
    assert!(is_trusted(&engine));
    assert!(engine.drain(SOON));
    assert_eq!(engine.set_trust(Which::All, []), Err(AmendError::Ending));
}

#[test]
fn bans_and_limits_take_hold_before_the_call_returns() {
    let engine = two_listeners().start().expect("loopback has free ports");
    let plain = engine.addresses()[1];
    let own = || "127.0.0.1".parse().expect("a network");
    let banned = || engine.snapshot().count("client-banned");
    assert!(is_served(plain));
    assert_eq!(engine.set_bans([own()]), Ok(InForce { rings: 1, listeners: 2 }));
    let _ = connect(plain).read(&mut [0]);
    until("it is banned", || banned() == 1);
    let mut limits = engine.client_limits();
    assert!(limits.banned.contains([127, 0, 0, 1].into()));
    limits.banned = Default::default();
    limits.rate = Some(crate::admission::ClientRate {
        connections: std::num::NonZeroU32::MIN,
        period: Duration::from_secs(3600),
    });
    engine.set_limits(limits).expect("the ring turns");
    assert!(is_served(plain));
    let _ = connect(plain).read(&mut [0]);
    until("the second one is too much", || engine.snapshot().count("client-rate-limit") == 1);
    engine.set_limits(Default::default()).expect("the ring turns");
    assert!(is_served(plain) && banned() == 1);
}

#[test]
fn a_hook_hears_of_everybody_who_does_not_get_in_and_its_panic_goes_no_further() {
    let (tell, heard) = std::sync::mpsc::channel();
    let engine = two_listeners()
        .on_refused(move |refused| {
            let address = refused.local.map(|local| local.port());
            let _ = tell.send((refused.ending.code(), refused.listener.name.clone(), address, refused.bytes.to_vec()));
            assert!(refused.bytes != b"GET / HTTP/1.1\r\n", "as told");
        })
        .start()
        .expect("loopback has free ports");
    let address = engine.addresses()[0];
    let refuse = |bytes: &[u8]| {
        let mut client = connect(address);
        let _ = std::io::Write::write_all(&mut client, bytes);
        let _ = client.read(&mut [0]);
        heard.recv_timeout(SOON).expect("it is told")
    };
    let of = |reason, bytes: &[u8]| (reason, "haproxy".to_owned(), Some(address.port()), bytes.to_vec());
    for _ in 0..2 {
        assert_eq!(refuse(b"GET / HTTP/1.1\r\n"), of("absent", b"GET / HTTP/1.1\r\n"));
    }
    engine.set_trust(Which::All, []).expect("the ring turns");
    assert_eq!(refuse(b"").0, "untrusted");
    engine.set_trust(Which::All, ["127.0.0.1".parse().expect("a network")]).expect("the ring turns");
    assert!(is_trusted(&engine) && engine.snapshot().count("ring-replaced") == 0);
    assert_eq!((engine.snapshot().ended(crate::conn::Ending::Absent { at: 1 }), heard.try_recv().is_err()), (2, true));
}

//! Every kind of pool, through the library: nothing is lost, nothing leaks, a full queue does what it was told, and a
//! worker's panic costs one connection.

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vestibule::dispatch::{Accepted, Incoming, Overload, Pool};
use vestibule::engine::EngineBuilder;
use vestibule::tls::{Identity, Termination};
use vestibule::{Engine, Listener};

use crate::support::client::{Client, address, loopback};
use crate::support::daemon::{Daemon, counted};
use crate::support::swarm::{CONNECTIONS, IN_FLIGHT, secured_client, secured_swarm, swarm};
use crate::support::{PATIENCE, header, open_connections, wait_until};

/// The name of the only pool of each test's engine.
const POOL: &str = "pool";

/// Long enough to be sure that a ring has taken in what was sent; nothing is asserted to be faster.
const SETTLED: Duration = Duration::from_millis(200);

#[test]
fn ten_thousand_connections_to_the_daemons_rings() {
    assert_daemon_serves_ten_thousand("");
}

#[test]
fn ten_thousand_connections_to_the_daemons_threads() {
    assert_daemon_serves_ten_thousand("service imap-login {\n  workers = 2\n}");
}

fn assert_daemon_serves_ten_thousand(globals: &str) {
    let (daemon, listener) = Daemon::haproxy(globals, "");
    Client::send_to(listener, &header::local()).whoami(); // whatever is opened once is open now
    let before = daemon.open_files();
    let right = swarm(listener, |said, source| {
        crate::support::client::whoami(said)["client"] == serde_json::json!(source.to_string())
    });
    assert_eq!(right, CONNECTIONS as usize);
    let settled = wait_until(PATIENCE, || daemon.open_files() == before);
    assert!(settled, "{before} open files before, {} after", daemon.open_files());
    assert_eq!(counted(&daemon.stop(), "proxied"), Some(u64::from(CONNECTIONS)));
}

#[test]
fn ten_thousand_by_tls_to_the_daemons_rings() {
    assert_daemon_serves_tls("");
}

#[test]
fn ten_thousand_by_tls_to_the_daemons_threads() {
    assert_daemon_serves_tls("service imap-login {\n  workers = 2\n}");
}

#[test]
fn ten_thousand_by_tls_whose_handshakes_threads_compute() {
    let log = assert_daemon_serves_tls("rings = 2\nssl_handshake_threads = 2");
    assert_eq!(counted(&log, "tls-threads-full"), None, "there is room for all that are in flight: {log}");
}

fn assert_daemon_serves_tls(globals: &str) -> String {
    let (daemon, listener) = Daemon::haproxy(&format!("ssl_handshake_timeout = 60 secs\n{globals}"), "ssl = yes");
    secured_client(listener)(&header::local()); // whatever is opened once is open now
    let before = daemon.open_files();
    let right = secured_swarm(listener, |said, source| {
        let answer = crate::support::client::whoami(said);
        answer["client"] == serde_json::json!(source.to_string()) && answer["tls"] == true
    });
    assert_eq!(right, CONNECTIONS as usize);
    let settled = wait_until(PATIENCE, || daemon.open_files() == before);
    assert!(settled, "{before} open files before, {} after", daemon.open_files());
    let log = daemon.stop();
    let all = u64::from(CONNECTIONS);
    assert_eq!((counted(&log, "proxied"), counted(&log, "tls-established")), (Some(all), Some(all + 1)), "{log}");
    assert!(counted(&log, "tls-resumed") >= Some(all - IN_FLIGHT as u64), "{log}");
    log
}

#[test]
fn ten_thousand_connections_that_the_rings_serve() {
    assert_serves_ten_thousand(Pool::here(POOL, answer));
}

#[test]
fn ten_thousand_by_tls_that_the_rings_serve() {
    assert_serves_tls(Pool::here(POOL, answer));
}

#[test]
fn a_panic_on_a_ring_costs_one_connection_and_no_ring() {
    let handler = |connection: Accepted| {
        assert!(connection.residual() != b"boom", "on purpose: this connection's handler panics");
        answer(connection);
    };
    let mut engine = start(Engine::builder().rings(NonZeroUsize::MIN), Pool::here(POOL, handler));
    let listener = engine.addresses()[0];
    for _ in 0..20 {
        let bad = Client::send_to(listener, &[&header::local()[..], b"boom"].concat());
        assert_eq!(bad.read_to_end().0, b"");
        let good = Client::send_to(listener, &header::local());
        assert_eq!(good.read_to_end().0, good.local().to_string().as_bytes());
    }
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.count("lost-in-pool"), snapshot.count("ring-replaced")), (20, 0), "{snapshot}");
    assert!(engine.drain(PATIENCE));
}

#[test]
fn a_drain_waits_for_nobody_who_was_served_on_a_ring() {
    let mut engine = engine(Pool::here(POOL, answer));
    let listener = engine.addresses()[0];
    let clients: Vec<Client> = (0..100).map(|_| Client::send_to(listener, &header::local())).collect();
    assert!(engine.drain(PATIENCE));
    let answered = clients.iter().filter(|client| client.read_to_end().0 == client.local().to_string().as_bytes());
    assert_eq!(answered.count(), 100, "what waited in the backlogs is served, too");
    assert_eq!(open_connections(listener.port()), 0);
}

#[test]
fn ten_thousand_connections_to_a_pool_of_threads() {
    assert_serves_ten_thousand(Pool::threads(POOL, 4, answer));
}

#[test]
fn ten_thousand_by_tls_to_a_pool_of_threads() {
    assert_serves_tls(Pool::threads(POOL, 4, answer));
}

#[test]
fn ten_thousand_connections_to_a_tokio_runtime() {
    let runtime = tokio_runtime();
    assert_serves_ten_thousand(Pool::tokio(POOL, runtime.handle().clone(), 1024, answer_on_tokio));
}

#[test]
fn ten_thousand_by_tls_to_a_tokio_runtime() {
    let runtime = tokio_runtime();
    assert_serves_tls(Pool::tokio(POOL, runtime.handle().clone(), 1024, answer_on_tokio));
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_io().build().expect("a runtime")
}

async fn answer_on_tokio(connection: Accepted<tokio::net::TcpStream>) {
    use tokio::io::AsyncWriteExt;
    let client = connection.client().to_string();
    let mut stream = connection.into_stream();
    stream.write_all(client.as_bytes()).await.expect("the client reads");
    stream.shutdown().await.expect("the client reads");
}

#[test]
fn ten_thousand_connections_to_tokio_uring_runtimes() {
    assert_serves_ten_thousand(Pool::tokio_uring(POOL, 2, 1024, answer_on_tokio_uring));
}

#[test]
fn ten_thousand_by_tls_to_tokio_uring_runtimes() {
    assert_serves_tls(Pool::tokio_uring(POOL, 2, 1024, answer_on_tokio_uring));
}

async fn answer_on_tokio_uring(connection: Accepted<tokio_uring::net::TcpStream>) {
    let client = connection.client().to_string();
    let stream = connection.into_uring_stream();
    stream.write_all(client.into_bytes()).await.0.expect("the client reads");
    stream.shutdown().await.expect("the client reads");
}

#[test]
fn ten_thousand_connections_pulled_by_threads() {
    let (engine, incoming) = pulled(listener());
    pulled_by_threads(incoming, || assert_engine_serves_ten_thousand(engine));
}

#[test]
fn ten_thousand_by_tls_pulled_by_threads() {
    let (engine, incoming) = pulled(secured_listener());
    pulled_by_threads(incoming, || assert_engine_serves_tls(engine));
}

fn pulled_by_threads(incoming: Incoming, meanwhile: impl FnOnce()) {
    let pulling =
        std::iter::repeat_n(incoming, 4).map(|incoming| thread::spawn(move || incoming.into_iter().for_each(answer)));
    let pulling: Vec<_> = pulling.collect();
    meanwhile();
    pulling.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn ten_thousand_connections_pulled_by_a_task_of_tokio() {
    let (engine, incoming) = pulled(listener());
    pulled_by_a_task(incoming, || assert_engine_serves_ten_thousand(engine));
}

#[test]
fn ten_thousand_by_tls_pulled_by_a_task_of_tokio() {
    let (engine, incoming) = pulled(secured_listener());
    pulled_by_a_task(incoming, || assert_engine_serves_tls(engine));
}

fn pulled_by_a_task(mut incoming: Incoming, meanwhile: impl FnOnce()) {
    let runtime = tokio_runtime();
    let pulling = runtime.spawn(async move {
        while let Some(connection) = incoming.next().await {
            tokio::spawn(answer_on_tokio(connection.into_tokio().expect("a runtime with I/O")));
        }
    });
    meanwhile();
    runtime.block_on(pulling).expect("no panic");
}

#[test]
fn connections_that_nobody_pulls_are_refused_and_counted() {
    let (mut engine, incoming) = pulled(listener());
    assert!(engine.incoming(POOL).is_none() && engine.incoming("no such").is_none(), "somebody has it");
    drop(incoming);
    let (said, _, _) = Client::send_to(engine.addresses()[0], &header::local()).read_to_end();
    assert_eq!(said, b"");
    assert_eq!(engine.snapshot().count("overload"), 1);
    assert!(engine.drain(PATIENCE));
}

/// An engine whose connections the test pulls.
fn pulled(listener: Listener) -> (Engine, Incoming) {
    let engine = start_at(Engine::builder(), Pool::incoming(POOL), listener);
    let incoming = engine.incoming(POOL).expect("nobody has it");
    (engine, incoming)
}

#[test]
fn a_full_queue_that_rejects_aborts_the_newest() {
    let (mut engine, gate) = blocked_engine(Overload::Reject);
    let listener = engine.addresses()[0];
    let (worked_on, queued) = occupy(listener, &gate);
    for _ in 0..3 {
        let (said, _, _) = Client::send_to(listener, &header::local()).read_to_end();
        assert_eq!(said, b"");
    }
    assert_eq!(engine.snapshot().count("overload"), 3);
    gate.open_for(2);
    for client in [worked_on, queued] {
        assert_eq!(client.read_to_end().0, client.local().to_string().as_bytes());
    }
    gate.open();
    assert!(engine.drain(PATIENCE));
}

#[test]
fn a_full_queue_that_pauses_lets_them_wait() {
    let (mut engine, gate) = blocked_engine(Overload::Pause);
    let listener = engine.addresses()[0];
    let (worked_on, queued) = occupy(listener, &gate);
    let waiting: Vec<Client> = (0..20).map(|_| Client::send_to(listener, &header::local())).collect();
    thread::sleep(SETTLED);
    assert!(engine.snapshot().count("paused") >= 1, "{}", engine.snapshot());
    gate.open();
    for client in [worked_on, queued].into_iter().chain(waiting) {
        assert_eq!(client.read_to_end().0, client.local().to_string().as_bytes());
    }
    assert_eq!(engine.snapshot().count("overload"), 0);
    assert!(engine.drain(PATIENCE));
}

#[test]
fn a_drain_serves_what_is_queued_and_ends_within_its_limit() {
    let (mut engine, gate) = blocked_engine(Overload::Pause);
    let listener = engine.addresses()[0];
    let (worked_on, queued) = occupy(listener, &gate);
    assert!(!engine.drain(SETTLED), "a blocked worker cannot end");
    assert!(!crate::support::is_listening(listener));
    gate.open();
    for client in [worked_on, queued] {
        assert_eq!(client.read_to_end().0, client.local().to_string().as_bytes());
    }
}

#[test]
fn a_workers_panic_costs_one_connection() {
    let handler = |connection: Accepted| {
        assert!(connection.residual() != b"boom", "on purpose: this connection's worker panics");
        answer(connection);
    };
    let mut engine = engine(Pool::threads(POOL, 1, handler));
    let listener = engine.addresses()[0];
    for _ in 0..3 {
        let bad = Client::send_to(listener, &[&header::local()[..], b"boom"].concat());
        assert_eq!(bad.read_to_end().0, b"");
        let good = Client::send_to(listener, &header::local());
        assert_eq!(good.read_to_end().0, good.local().to_string().as_bytes());
    }
    assert!(engine.drain(PATIENCE));
}

#[test]
fn a_worker_that_blocks_for_ever_hurts_neither_another_pool_nor_the_end() {
    let (release, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let stuck = move |connection: Accepted| {
        let _ = (wait.lock().expect("no panic").recv(), connection);
    };
    let listener =
        |pool: &str| Listener::proxy(loopback(0)).trust(["127.0.0.1".parse().expect("a network")]).pool(pool);
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pool(Pool::threads("stuck", 1, stuck).queue(1));
    let builder = builder.pool(Pool::threads(POOL, 1, answer)).listen(listener("stuck")).listen(listener(POOL));
    let mut engine = builder.start().expect("the engine starts");
    let (blocked, open) = (engine.addresses()[0], engine.addresses()[1]);
    let waiting: Vec<Client> = (0..50).map(|_| Client::send_to(blocked, &header::local())).collect();
    thread::sleep(SETTLED);
    assert!(engine.snapshot().count("paused") > 0, "{}", engine.snapshot());
    for _ in 0..100 {
        let client = Client::send_to(open, &header::local());
        assert_eq!(client.read_to_end().0, client.local().to_string().as_bytes());
    }
    assert!(!engine.drain(SETTLED), "one pool cannot end");
    drop(engine);
    assert!(wait_until(PATIENCE, || open_connections(open.port()) == 0));
    // Nobody else is kept waiting: only whom the worker holds, and who is next in its queue.
    assert!(wait_until(PATIENCE, || open_connections(blocked.port()) <= 2));
    drop(release);
    waiting.iter().for_each(|client| assert_eq!(client.read_to_end().0, b""));
}

#[test]
fn a_worker_slower_than_the_arrival_serves_everybody_in_the_end() {
    let slow = |connection: Accepted| {
        thread::sleep(Duration::from_micros(100));
        answer(connection);
    };
    let mut engine = engine(Pool::threads(POOL, 1, slow).queue(4));
    let right = swarm(engine.addresses()[0], |said, source| said == source.to_string().as_bytes());
    assert_eq!(right, CONNECTIONS as usize);
    assert!(engine.snapshot().count("paused") > 0, "{}", engine.snapshot());
    assert!(engine.drain(PATIENCE));
}

#[test]
fn an_exact_pool_finds_the_residual_in_the_socket() {
    let handler = |connection: Accepted| {
        assert_eq!(connection.residual(), b"");
        let (mut stream, _permit) = connection.into_tcp_stream().expect("nothing would be lost");
        let mut first = [0; 8];
        std::io::Read::read_exact(&mut stream, &mut first).expect("the client has sent them");
        stream.write_all(&first).expect("the client waits");
    };
    let mut engine = engine(Pool::threads(POOL, 1, handler).exact_residual());
    let header = header::v1(address("198.51.100.7:5000"), address("192.0.2.1:143"));
    let client = Client::send_to(engine.addresses()[0], &[&header[..], b"a NOOP\r\n"].concat());
    assert_eq!(client.read_to_end().0, b"a NOOP\r\n");
    assert!(engine.drain(PATIENCE));
}

/// Tells the client its own address.
fn answer(connection: Accepted) {
    let client = connection.client().to_string();
    let mut stream = connection.into_stream();
    stream.write_all(client.as_bytes()).expect("the client reads");
    if stream.accepted().tls().is_some() {
        // With close_notify. Nobody is waited for: this runs on rings, too.
        stream.finish(Duration::ZERO).expect("the client reads");
    }
}

/// An engine with one listener for `pool`, whose name is [`POOL`].
fn engine(pool: Pool) -> Engine {
    start(Engine::builder(), pool)
}

fn start(builder: EngineBuilder, pool: Pool) -> Engine {
    start_at(builder, pool, listener())
}

fn start_at(builder: EngineBuilder, pool: Pool, listener: Listener) -> Engine {
    builder.pool(pool).listen(listener).start().expect("the engine starts")
}

fn listener() -> Listener {
    Listener::proxy(loopback(0)).trust(["127.0.0.1".parse().expect("a network")]).pool(POOL)
}

/// The same, with TLS behind the header.
fn secured_listener() -> Listener {
    let identity = Identity::self_signed(&["mail.test"]).expect("a good name");
    listener().tls(Termination::new(&identity, &[]).timeout(PATIENCE))
}

fn assert_serves_ten_thousand(pool: Pool) {
    assert_engine_serves_ten_thousand(engine(pool));
}

fn assert_serves_tls(pool: Pool) {
    assert_engine_serves_tls(start_at(Engine::builder(), pool, secured_listener()));
}

fn assert_engine_serves_ten_thousand(engine: Engine) {
    let right = swarm(engine.addresses()[0], |said, source| said == source.to_string().as_bytes());
    assert_served(engine, right);
}

fn assert_engine_serves_tls(engine: Engine) {
    let right = secured_swarm(engine.addresses()[0], |said, source| said == source.to_string().as_bytes());
    let (all, full) = (u64::from(CONNECTIONS), IN_FLIGHT as u64);
    let counts = || ["tls-established", "tls-resumed"].map(|name| engine.snapshot().count(name));
    assert!(wait_until(PATIENCE, || counts()[0] == all), "{:?} of {all}", counts());
    assert!(counts()[1] >= all - full, "each of {full} clients has shaken hands once: {:?}", counts());
    assert_served(engine, right);
}

/// Nobody of [`CONNECTIONS`] was lost, and nothing is left of them.
fn assert_served(mut engine: Engine, right: usize) {
    let listener = engine.addresses()[0];
    assert_eq!(right, CONNECTIONS as usize);
    // The last may have its answer before it is counted.
    let counts = || {
        let snapshot = engine.snapshot();
        (snapshot.count("proxied"), snapshot.accept_to_worker().len())
    };
    let all = (u64::from(CONNECTIONS), u64::from(CONNECTIONS));
    assert!(wait_until(PATIENCE, || counts() == all), "{:?} of {all:?}", counts());
    let closed = wait_until(PATIENCE, || open_connections(listener.port()) == 0);
    assert!(closed, "{} connections are still open", open_connections(listener.port()));
    assert!(engine.drain(PATIENCE));
    assert!(!crate::support::is_listening(listener));
}

/// What blocks the worker of [`blocked_engine`].
struct Gate {
    permits: Mutex<Option<Sender<()>>>,
    entered: Mutex<Receiver<()>>,
}

impl Gate {
    fn open_for(&self, connections: usize) {
        let permits = self.permits.lock().expect("no panic");
        (0..connections).for_each(|_| permits.as_ref().expect("not open yet").send(()).expect("the worker waits"));
    }

    /// For all from now on.
    fn open(&self) {
        self.permits.lock().expect("no panic").take();
    }

    /// Waits until the worker has a connection in hand.
    fn wait_entered(&self) {
        self.entered.lock().expect("no panic").recv_timeout(PATIENCE).expect("the worker gets a connection");
    }
}

/// One ring, one worker that waits at the gate with each connection, a queue of one.
fn blocked_engine(overload: Overload) -> (Engine, Arc<Gate>) {
    let (permits, permitted) = channel();
    let (enter, entered) = channel();
    let permitted = Mutex::new(permitted);
    let handler = move |connection: Accepted| {
        let _ = enter.send(());
        let _ = permitted.lock().expect("no panic").recv();
        answer(connection);
    };
    let pool = Pool::threads(POOL, 1, handler).queue(1).overload(overload);
    let engine = start(Engine::builder().rings(NonZeroUsize::MIN), pool);
    (engine, Arc::new(Gate { permits: Mutex::new(Some(permits)), entered: Mutex::new(entered) }))
}

/// One connection in the worker's hands, one in the queue.
fn occupy(listener: SocketAddr, gate: &Gate) -> (Client, Client) {
    let worked_on = Client::send_to(listener, &header::local());
    gate.wait_entered();
    let queued = Client::send_to(listener, &header::local());
    thread::sleep(SETTLED);
    (worked_on, queued)
}

//! Handshakes through real rings: clients of rustls on one side, pools of every kind on the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::threads::{Entrance, Given, Task, Threads};
use super::{Guest, Handshakes, Step};
use crate::dispatch::testing::{SOON, V1, until};
use crate::dispatch::{Accepted, Cut, Handoff, ListenerInfo, Pool, TlsFailure, TlsHandshake, TlsSession, TlsTerms};
use crate::engine::tally::{Count, Tally};
use crate::engine::{Command, DriverChoice, Engine, Kept, Listener, StartError};
use crate::ring::{Epoll, SLOT_BYTES, Sizes, Waker};
use crate::tls::{Identity, Termination, rustls};

const DRIVERS: [DriverChoice; 2] = [DriverChoice::IoUring, DriverChoice::Epoll];
/// A deadline that passes in a test.
const SHORT: Duration = Duration::from_millis(300);

/// A client's end of a TLS connection.
pub type Client = StreamOwned<ClientConnection, TcpStream>;

pub fn identity() -> Identity {
    Identity::self_signed(&["mail.example"]).expect("a good name")
}

/// A client that trusts `identity` alone and has said nothing yet.
pub fn hello_of(identity: &Identity) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("mail.example").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a configuration")
}

pub fn connect(identity: &Identity, to: SocketAddr) -> Client {
    StreamOwned::new(hello_of(identity), tcp(to))
}

fn tcp(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a timeout above zero");
    socket
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn engine(driver: DriverChoice, listener: Listener, pool: Pool) -> Engine {
    let name = pool.name.clone();
    let builder = Engine::builder().driver(driver).rings(NonZeroUsize::MIN).pin(false).pool(pool);
    builder.listen(listener.pool(name)).start().expect("loopback has free ports")
}

/// Reads all, answers it behind the client's address, and ends.
fn answer(connection: Accepted) {
    let client = connection.client();
    let mut stream = connection.into_stream();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("the client sends");
    write!(stream, "{} ", client.ip()).and_then(|()| stream.write_all(&text)).expect("the client listens");
    stream.finish(SOON).expect("the client listens");
}

/// Says something, ends, and hears the answer.
fn ask(mut client: Client, said: &[u8]) -> Vec<u8> {
    client.write_all(said).expect("the ring takes it");
    // With nothing to say nobody has shaken hands yet.
    client.conn.complete_io(&mut client.sock).expect("they agree");
    client.conn.send_close_notify();
    client.flush().expect("the ring takes it");
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("TLS until close_notify");
    heard
}

/// A name, and how a pool of that name is made.
fn pools() -> Vec<Pool> {
    let mut pools = vec![
        Pool::threads("threads", 2, answer),
        Pool::here("here", |connection: Accepted| {
            let mut stream = connection.into_stream();
            stream.write_all(b"127.0.0.1 here").expect("a fresh connection has room");
            stream.finish(Duration::ZERO).expect("the client listens");
        }),
    ];
    #[cfg(feature = "tokio")]
    pools.push(tokio::pool());
    #[cfg(feature = "tokio-uring")]
    pools.push(Pool::tokio_uring("uring", 1, 64, uring::answer));
    pools
}

#[cfg(feature = "tokio")]
mod tokio {
    use std::sync::LazyLock;

    use ::tokio::io::{AsyncReadExt, AsyncWriteExt, split};
    use ::tokio::net::TcpStream;
    use ::tokio::runtime::{Builder, Runtime};

    use crate::dispatch::{Accepted, Pool};

    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_io().build().expect("a runtime"));

    pub(super) fn pool() -> Pool {
        Pool::tokio("tokio", RUNTIME.handle().clone(), 64, answer)
    }

    /// Reads and writes by two tasks.
    async fn answer(connection: Accepted<TcpStream>) {
        let client = connection.client();
        let (mut reader, mut writer) = split(connection.into_stream());
        let reading = ::tokio::spawn(async move {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).await.map(|_| text)
        });
        writer.write_all(format!("{} ", client.ip()).as_bytes()).await.expect("the client listens");
        let text = reading.await.expect("no panic").expect("the client sends");
        writer.write_all(&text).await.expect("the client listens");
        writer.shutdown().await.expect("the client is there");
    }
}

#[cfg(feature = "tokio-uring")]
mod uring {
    use ::tokio_uring::net::TcpStream;

    use super::*;

    /// Reads and writes by two tasks.
    pub(super) async fn answer(connection: Accepted<TcpStream>) {
        let client = connection.client();
        let stream = connection.into_uring_stream();
        let reader = stream.clone();
        let reading = ::tokio_uring::spawn(async move {
            let mut text = Vec::new();
            loop {
                let (count, piece) = reader.read(Vec::with_capacity(5000)).await;
                match count.expect("the client sends") {
                    0 => return text,
                    _ => text.extend_from_slice(&piece),
                }
            }
        });
        stream.write_all(format!("{} ", client.ip()).into_bytes()).await.0.expect("the client listens");
        let text = reading.await.expect("no panic");
        stream.write_all(text).await.0.expect("the client listens");
        stream.shutdown().await.expect("the client is there");
    }

    /// Gives back each piece as it comes.
    async fn echo(connection: Accepted<TcpStream>) {
        let stream = connection.into_uring_stream();
        let mut buffer = Vec::with_capacity(1000);
        let error = loop {
            let read;
            (read, buffer) = stream.read(buffer).await;
            match read {
                Ok(0) => break stream.shutdown().await.err(),
                Ok(_) => buffer = stream.write_all(buffer).await.1,
                Err(error) => break Some(error),
            }
            buffer.clear();
        };
        if let Some(error) = error {
            assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof), "{error}");
            panic!("as told: {error}");
        }
    }

    fn echoing(identity: &Identity) -> Engine {
        let listener = Listener::plain(anywhere()).tls(Termination::new(identity, &[]));
        engine(DriverChoice::Auto, listener, Pool::tokio_uring("uring", 1, 64, echo))
    }

    fn hear(client: &mut Client, count: usize) -> Vec<u8> {
        let mut heard = vec![0; count];
        client.read_exact(&mut heard).expect("an echo");
        heard
    }

    #[test]
    fn an_echo_goes_on_over_new_keys_and_after_the_clients_end() {
        let identity = identity();
        let mut engine = echoing(&identity);
        let mut client = connect(&identity, engine.addresses()[0]);
        for round in 1..20u8 {
            let said = vec![round; 3000 * usize::from(round)];
            client.write_all(&said).expect("the server reads");
            assert!(hear(&mut client, said.len()) == said, "round {round}");
            client.conn.refresh_traffic_keys().expect("TLS 1.3");
        }
        client.write_all(b"last").and_then(|()| client.flush()).expect("the server reads");
        client.conn.send_close_notify();
        client.flush().expect("the server reads");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("close_notify");
        assert_eq!(heard, b"last");
        assert_eq!(client.sock.read(&mut [0; 8]).expect("FIN"), 0, "nothing but close_notify came behind it");
        assert!(engine.drain(SOON));
        assert_eq!(engine.snapshot().count("lost-in-pool"), 0);
    }

    #[test]
    fn who_ends_without_close_notify_or_breaks_the_protocol_is_told_from_one_that_ends() {
        let identity = identity();
        let mut engine = echoing(&identity);
        let open = || {
            let mut client = connect(&identity, engine.addresses()[0]);
            client.write_all(b"a").expect("the server reads");
            assert_eq!(hear(&mut client, 1), b"a");
            client
        };
        let cut = open();
        cut.sock.shutdown(Shutdown::Write).expect("connected");
        let mut broken = open();
        // An application's record that nobody can decrypt.
        broken.sock.write_all(&[&[23, 3, 3, 0, 32][..], &[7; 32]].concat()).expect("connected");
        let error = broken.read_to_end(&mut Vec::new()).expect_err("an alert");
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
        until("both are counted", || engine.snapshot().count("lost-in-pool") == 2);
        drop((cut, broken));
        assert!(engine.drain(SOON));
    }

    #[test]
    fn a_write_that_was_given_up_ends_with_its_stream() {
        let identity = identity();
        let listener = Listener::plain(anywhere()).tls(Termination::new(&identity, &[]));
        let give_up = |connection: Accepted<TcpStream>| async move {
            let stream = connection.into_uring_stream();
            let other = stream.clone();
            let writing = ::tokio_uring::spawn(async move { other.write_all(vec![b'x'; 64 << 20]).await.0 });
            // It has begun when something has been said in between.
            let (read, _) = stream.read(Vec::with_capacity(10)).await;
            assert_eq!(read.expect("the client speaks"), 1);
            writing.abort();
            assert!(writing.await.expect_err("it waits for room").is_cancelled());
            let error = stream.write_all(b"more".to_vec()).await.0.expect_err("half a record is sent");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        };
        let mut engine = engine(DriverChoice::Auto, listener, Pool::tokio_uring("uring", 1, 64, give_up));
        let mut client = connect(&identity, engine.addresses()[0]);
        client.conn.complete_io(&mut client.sock).expect("they agree");
        // The kernel has no room for 64 MiB: the server's write waits, whether it has begun to or not.
        assert!(hear(&mut client, 1 << 20).iter().all(|&byte| byte == b'x'));
        client.write_all(b"a").and_then(|()| client.flush()).expect("the server reads");
        client.read_to_end(&mut Vec::new()).expect_err("it is cut off");
        assert!(engine.drain(SOON), "its end does not wait for the client");
        assert_eq!(engine.snapshot().count("lost-in-pool"), 0, "its handler saw what it expected");
    }
}

#[test]
fn pools_of_every_kind_are_served_on_both_drivers() {
    let identity = identity();
    let said: Vec<u8> = (0..300_000u32).map(|at| (at * 7 % 251) as u8).collect();
    for driver in DRIVERS {
        for pool in pools() {
            let name = pool.name.clone();
            let listener = Listener::plain(anywhere()).tls(Termination::new(&identity, &["imap"]));
            let mut engine = engine(driver, listener, pool);
            for _ in 0..20 {
                let (said, expected) = match &*name {
                    "here" => (&b""[..], b"127.0.0.1 here".to_vec()),
                    _ => (&said[..], [b"127.0.0.1 ", &said[..]].concat()),
                };
                let heard = ask(connect(&identity, engine.addresses()[0]), said);
                assert!(heard == expected, "{name} on {driver:?}: {} bytes", heard.len());
            }
            assert!(engine.drain(SOON));
            let snapshot = engine.snapshot();
            assert_eq!((snapshot.count("tls-established"), snapshot.count("plain")), (20, 20), "{name} on {driver:?}");
        }
    }
}

#[test]
fn connections_are_pulled_with_their_sessions() {
    let identity = identity();
    let listener = Listener::plain(anywhere()).tls(Termination::new(&identity, &[]));
    let engine = engine(DriverChoice::Auto, listener, Pool::incoming("pulled"));
    let mut incoming = engine.incoming("pulled").expect("nobody has taken it yet");
    let serving = thread::spawn(move || {
        let connection = incoming.recv().expect("one comes");
        assert_eq!(connection.tls().and_then(|tls| tls.server_name.clone()).as_deref(), Some("mail.example"));
        answer(connection);
    });
    assert_eq!(ask(connect(&identity, engine.addresses()[0]), b"a NOOP"), b"127.0.0.1 a NOOP");
    serving.join().expect("no panic");
}

#[test]
fn a_hello_may_be_split_anywhere_between_the_header_and_the_socket() {
    let identity = identity();
    for driver in DRIVERS {
        let trusted = ["127.0.0.0/8".parse().expect("a network")];
        let listener = Listener::proxy(anywhere()).trust(trusted).tls(Termination::new(&identity, &[]));
        let engine = engine(driver, listener, Pool::threads("threads", 4, answer));
        let mut clients = Vec::new();
        for cut in [0, 1, 4, 5, 6, 100, 200, usize::MAX] {
            let mut client = hello_of(&identity);
            let mut hello = Vec::new();
            client.write_tls(&mut hello).expect("a vector takes every write");
            let cut = cut.min(hello.len());
            let mut socket = tcp(engine.addresses()[0]);
            socket.set_nodelay(true).expect("it is TCP");
            socket.write_all(&[V1, &hello[..cut]].concat()).expect("connected");
            thread::sleep(Duration::from_millis(5));
            socket.write_all(&hello[cut..]).expect("connected");
            clients.push(StreamOwned::new(client, socket));
        }
        for client in clients {
            assert_eq!(ask(client, b"a NOOP"), b"198.51.100.7 a NOOP");
        }
        assert_eq!(engine.snapshot().count("proxied"), 8);
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("every Linux has it").count()
}

#[test]
fn silent_clients_hold_no_thread_and_honest_ones_are_served_beside_them() {
    const SILENT: usize = 200;
    let identity = identity();
    for driver in DRIVERS {
        let termination = Termination::new(&identity, &[]).timeout(Duration::from_secs(2));
        let engine = engine(driver, Listener::plain(anywhere()).tls(termination), Pool::threads("threads", 1, answer));
        let silent: Vec<TcpStream> = (0..SILENT).map(|_| tcp(engine.addresses()[0])).collect();
        for _ in 0..10 {
            assert_eq!(ask(connect(&identity, engine.addresses()[0]), b"a"), b"127.0.0.1 a", "one worker is enough");
        }
        let counted = |name| engine.snapshot().count(name);
        until("all are given up", || counted("tls-failed") == SILENT as u64);
        for mut client in silent {
            assert_eq!(client.read(&mut [0; 10]).expect("a close"), 0);
        }
        assert_eq!((counted("accepted"), counted("plain")), (SILENT as u64 + 10, 10));
    }
    assert!(threads() < SILENT);
}

#[test]
fn a_client_that_trickles_does_not_move_the_deadline() {
    let identity = identity();
    for driver in DRIVERS {
        let termination = Termination::new(&identity, &[]).timeout(SHORT);
        let engine = engine(driver, Listener::plain(anywhere()).tls(termination), Pool::here("none", |_: Accepted| {}));
        let mut hello = Vec::new();
        hello_of(&identity).write_tls(&mut hello).expect("a vector takes every write");
        let mut socket = tcp(engine.addresses()[0]);
        let sent = hello.iter().take_while(|&&byte| {
            thread::sleep(SHORT / 6);
            socket.write_all(&[byte]).is_ok()
        });
        assert!(sent.count() < hello.len(), "it is aborted before the hello is whole");
        until("it is counted", || engine.snapshot().count("tls-failed") == 1);
    }
}

#[test]
fn the_balancers_checks_are_counted_apart() {
    let identity = identity();
    let trusted = || ["127.0.0.0/8".parse().expect("a network")];
    let listener = Listener::proxy(anywhere()).trust(trusted()).tls(Termination::new(&identity, &[]));
    let engine = engine(DriverChoice::Auto, listener, Pool::here("none", |_: Accepted| {}));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for said in [&b""[..], b"\x16\x03\x01", b"a NOOP\r\n"] {
        let mut socket = tcp(engine.addresses()[0]);
        socket.write_all(&[&local[..], said].concat()).expect("connected");
        socket.shutdown(Shutdown::Write).expect("connected");
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let counted = |name| engine.snapshot().count(name);
    until("all are counted", || counted("tls-checked") + counted("tls-failed") == 3);
    assert_eq!((counted("tls-checked"), counted("local"), counted("local-user")), (2, 0, 0), "that is no TLS");
}

#[test]
fn sessions_wait_for_room_in_the_queue_of_their_pool() {
    const CLIENTS: usize = 12;
    let identity = identity();
    for driver in DRIVERS {
        let pool = Pool::threads("slow", 1, |connection| {
            thread::sleep(Duration::from_millis(10));
            answer(connection);
        });
        let engine = engine(driver, Listener::plain(anywhere()).tls(Termination::new(&identity, &[])), pool.queue(1));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = connect(&identity, engine.addresses()[0]);
                thread::spawn(move || ask(client, &[b'0' + number as u8]))
            })
            .collect();
        for (number, client) in clients.into_iter().enumerate() {
            let expected = [b"127.0.0.1 ", &[b'0' + number as u8][..]].concat();
            assert_eq!(client.join().expect("no panic"), expected);
        }
        assert_eq!(engine.snapshot().count("plain"), CLIENTS as u64);
    }
}

#[test]
fn a_handshake_ends_under_the_configuration_that_it_began_under() {
    let identity = identity();
    for driver in DRIVERS {
        let describe = |pool: Pool, to: SocketAddr, identity: &Identity| {
            let name = pool.name.clone();
            let listener = Listener::plain(to).tls(Termination::new(identity, &[])).pool(name);
            Engine::builder().driver(driver).rings(NonZeroUsize::MIN).pin(false).pool(pool).listen(listener)
        };
        let said = |words: &'static [u8]| {
            move |connection: Accepted| {
                let mut stream = connection.into_stream();
                stream.write_all(words).and_then(|()| stream.finish(SOON)).expect("the client listens");
            }
        };
        let mut engine =
            describe(Pool::threads("first", 1, said(b"first")), anywhere(), &identity).start().expect("free ports");
        let address = engine.addresses()[0];
        let mut early = connect(&identity, address);
        let mut hello = Vec::new();
        early.conn.write_tls(&mut hello).expect("a vector takes every write");
        early.sock.write_all(&hello[..20]).expect("connected");
        until("it is there", || engine.snapshot().count("accepted") == 1);
        let renewed = self::identity();
        engine.replace(describe(Pool::threads("second", 1, said(b"second")), address, &renewed)).expect("it is good");
        assert_eq!(ask(connect(&renewed, address), b""), b"second", "the next client sees the new certificate");
        early.sock.write_all(&hello[20..]).expect("connected");
        assert_eq!(ask(early, b""), b"first");
        assert!(engine.drain(SOON));
    }
}

#[test]
fn handshakes_of_a_ring_that_fails_are_counted_and_the_next_ring_shakes_hands() {
    let identity = identity();
    let listener = Listener::plain(anywhere()).tls(Termination::new(&identity, &[]));
    let engine = engine(DriverChoice::Auto, listener, Pool::threads("threads", 1, answer));
    let silent: Vec<TcpStream> = (0..5).map(|_| tcp(engine.addresses()[0])).collect();
    let counted = |name| engine.snapshot().count(name);
    until("all are there", || counted("accepted") == 5);
    engine.threads[0].command(Command::Panic);
    until("all are counted", || counted("lost-in-ring") == 5);
    assert_eq!(ask(connect(&identity, engine.addresses()[0]), b"a"), b"127.0.0.1 a");
    drop(silent);
}

#[test]
fn a_drain_does_not_wait_for_the_silent() {
    let identity = identity();
    let termination = Termination::new(&identity, &[]).timeout(Duration::from_secs(3000));
    let listener = Listener::plain(anywhere()).tls(termination);
    let mut engine = engine(DriverChoice::Auto, listener, Pool::here("none", |_: Accepted| {}));
    let mut silent = tcp(engine.addresses()[0]);
    until("it is there", || engine.snapshot().count("accepted") == 1);
    let begun = Instant::now();
    assert!(engine.drain(Duration::from_secs(2)), "whoever says nothing is let go in time");
    assert!(begun.elapsed() < SOON);
    match silent.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert_eq!(engine.snapshot().count("drained"), 1);
}

/// A connection whose handshake is to begin, and its client.
fn newcomer(terms: &Termination, number: u32) -> (TcpStream, Guest<OwnedFd>) {
    let listening = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let client = tcp(listening.local_addr().expect("bound"));
    let (socket, peer) = listening.accept().expect("it has connected");
    let (service, name) = ("imap-login".into(), "imaps".into());
    let listener = Arc::new(ListenerInfo { service, name, ssl: true, checks_from: Default::default() });
    let accepted_at = Instant::now();
    let (socket, permit) = (socket.into(), None);
    let handoff =
        Handoff { socket, listener, peer, local: None, head: None, accepted_at, permit, tls: None, tls_before: None };
    (client, Guest::new(number, handoff, None, b"", terms.begin()))
}

/// The handshakes of a ring with three places, and what it stands on.
fn three_places() -> (Epoll, Handshakes<OwnedFd>) {
    let waker = Waker::new().expect("descriptors are free");
    let sizes = Sizes { slots: 1, longest: SLOT_BYTES, completions: 8, registered: true };
    (Epoll::new(sizes, Vec::new(), waker).expect("every kernel has epoll"), Handshakes::new(3, None))
}

#[test]
fn of_too_many_the_one_makes_room_that_has_been_silent_longest() {
    let terms = Termination::new(&identity(), &[]);
    let ((mut driver, mut handshakes), now) = (three_places(), Instant::now());
    let (mut clients, guests): (Vec<_>, Vec<_>) = (0..6).map(|number| newcomer(&terms, number)).unzip();
    let mut made_room = Vec::new();
    clients[0].write_all(b"\x16\x03\x01").expect("connected");
    for (number, guest) in guests.into_iter().enumerate() {
        // The last comes so soon that the others have had no time to speak.
        let now = now + [0, 0, 0, 500, 600, 700].map(Duration::from_millis)[number];
        made_room.push(handshakes.begin(&mut driver, guest, SOON, now).map(|guest| guest.listener));
        if made_room.len() == 1 {
            handshakes.handle_ready(&mut driver, super::FIRST_PLACE, 0, true, true);
            assert!(matches!(handshakes.step(&mut driver), Some(Step::Waits)), "it has begun to speak");
        }
    }
    assert_eq!(made_room, [None, None, None, Some(1), Some(2), Some(0)]);
    assert!(handshakes.step(&mut driver).is_none() && !handshakes.is_empty());
}

#[test]
fn a_client_that_comes_often_makes_room_for_itself_and_others_keep_their_places() {
    let terms = Termination::new(&identity(), &[]);
    let ((mut driver, mut handshakes), now) = (three_places(), Instant::now());
    let addresses = ["198.51.100.7:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8::4]:1"];
    let (mut made_room, mut clients) = (Vec::new(), Vec::new());
    for (number, address) in (0..).zip(addresses) {
        let (mut client, mut guest) = newcomer(&terms, number);
        guest.handoff.peer = address.parse().expect("an address");
        client.write_all(b"\x16\x03\x01").expect("connected");
        made_room.push(handshakes.begin(&mut driver, guest, SOON, now).map(|guest| guest.listener));
        // Half a hello of each has come.
        for (place, generation) in (0..3).flat_map(|place| (0..3).map(move |generation| (place, generation))) {
            handshakes.handle_ready(&mut driver, super::FIRST_PLACE + place, generation, true, true);
        }
        while handshakes.step(&mut driver).is_some() {}
        clients.push(client);
    }
    assert_eq!(made_room, [None, None, None, Some(1), Some(2)], "not the oldest, which is another's");
}

/// Handshakes of which steps go to a thread that the test is itself.
struct Scripted {
    driver: Epoll,
    handshakes: Handshakes<OwnedFd>,
    steps: crossbeam_channel::Receiver<Task>,
    tally: Arc<Tally>,
    now: Instant,
}

impl Scripted {
    /// Before which so many steps may wait, and with room for so many handshakes.
    fn new(room: usize, places: u32) -> Scripted {
        let waker = Waker::new().expect("descriptors are free");
        let sizes = Sizes { slots: 1, longest: SLOT_BYTES, completions: 8, registered: true };
        let (entrance, steps) = Entrance::new(0, room);
        let tally = Tally::new();
        let given = Given::new(entrance, Arc::new(waker.clone()), tally.clone());
        let driver = Epoll::new(sizes, Vec::new(), waker).expect("every kernel has epoll");
        Scripted { driver, handshakes: Handshakes::new(places, Some(given)), steps, tally, now: Instant::now() }
    }

    /// A client that has said its hello, and is about to be heard.
    fn hello(&mut self, identity: &Identity, number: u32) -> Client {
        let (socket, guest) = newcomer(&Termination::new(identity, &[]), number);
        assert!(self.handshakes.begin(&mut self.driver, guest, SHORT, self.now).is_none(), "there is room");
        let mut client = StreamOwned::new(hello_of(identity), socket);
        client.conn.write_tls(&mut client.sock).expect("a fresh connection has room");
        self.readable(number);
        client
    }

    fn readable(&mut self, number: u32) {
        self.handshakes.handle_ready(&mut self.driver, super::FIRST_PLACE + number, 0, true, true);
    }

    fn step(&mut self) -> Option<Step<OwnedFd>> {
        self.handshakes.step(&mut self.driver)
    }

    /// Takes every step that there is; tells how they ended but for those that wait.
    fn steps(&mut self) -> Vec<Result<u32, Option<&'static str>>> {
        let mut ended = Vec::new();
        while let Some(step) = self.step() {
            match step {
                Step::Waits => {}
                Step::Complete(guest) => ended.push(Ok(guest.listener)),
                Step::Failed(_, failure) => ended.push(Err(failure.code)),
            }
        }
        ended
    }

    /// The thread does what waits for it.
    fn compute(&mut self) -> usize {
        self.steps.try_iter().map(Task::run).count()
    }
}

#[test]
fn a_thread_computes_every_step_and_the_ring_only_reads_and_sends() {
    let (identity, mut scripted) = (identity(), Scripted::new(8, 4));
    let mut client = scripted.hello(&identity, 0);
    assert_eq!((scripted.steps(), scripted.compute()), (vec![], 1), "the hello");
    assert_eq!(scripted.handshakes.due(scripted.now), Some(scripted.now), "it is back");
    // That it was ready meanwhile is not forgotten, and means nothing.
    scripted.readable(0);
    assert_eq!((scripted.steps(), scripted.compute()), (vec![], 0));
    assert!(client.conn.is_handshaking());
    client.conn.complete_io(&mut client.sock).expect("the ring has answered, and the client says its last word");
    scripted.readable(0);
    assert_eq!((scripted.steps(), scripted.compute()), (vec![], 1), "the last word");
    assert_eq!(scripted.steps(), [Ok(0)]);
    assert!(scripted.handshakes.is_empty());
    assert_eq!(scripted.tally.of(Count::TlsThreadsFull), 0);
}

#[test]
fn what_comes_while_a_thread_computes_is_read_when_it_is_back() {
    let (identity, mut scripted) = (identity(), Scripted::new(8, 4));
    let (socket, guest) = newcomer(&Termination::new(&identity, &[]), 0);
    let mut client = StreamOwned::new(hello_of(&identity), socket);
    assert!(scripted.handshakes.begin(&mut scripted.driver, guest, SOON, scripted.now).is_none());
    let mut hello = Vec::new();
    client.conn.write_tls(&mut hello).expect("a vector takes every write");
    for piece in [&hello[..3], &hello[3..100], &hello[100..]] {
        client.sock.write_all(piece).expect("connected");
        scripted.readable(0);
        // The first is away when the second comes, and so on.
        assert_eq!(scripted.steps(), []);
    }
    assert_eq!(scripted.steps.len(), 1, "one at a time");
    while scripted.compute() > 0 {
        assert_eq!(scripted.steps(), []);
    }
    client.conn.complete_io(&mut client.sock).expect("the hello was whole");
}

#[test]
fn who_is_cut_while_a_thread_computes_is_gone_and_what_comes_back_is_dropped() {
    let (identity, mut scripted) = (identity(), Scripted::new(8, 2));
    let [late, _shed] = [0, 1].map(|number| scripted.hello(&identity, number));
    assert_eq!(scripted.steps(), []);
    // One more: who waits longest makes room, though a thread has its handshake.
    let (_client, guest) = newcomer(&Termination::new(&identity, &[]), 7);
    let begun = scripted.handshakes.begin(&mut scripted.driver, guest, SHORT, scripted.now);
    assert_eq!(begun.map(|guest| guest.listener), Some(0));
    // Its place has a new user by now, of another generation.
    drop(late);
    let expired =
        scripted.handshakes.expire(&mut scripted.driver, scripted.now + SHORT).expect("the other's time is up");
    assert_eq!((expired.0.listener, expired.1.and_then(|failure| failure.code)), (1, Some("threads")));
    assert_eq!((scripted.compute(), scripted.steps()), (2, vec![]), "both come back to nobody");
    let expired = scripted.handshakes.expire(&mut scripted.driver, scripted.now + SHORT).expect("and the newcomer's");
    assert_eq!((expired.0.listener, expired.1.and_then(|failure| failure.code)), (7, Some("timed-out")));
    assert!(scripted.handshakes.is_empty() && scripted.handshakes.due(scripted.now).is_none());
}

#[test]
fn a_client_that_leaves_while_a_thread_computes_is_seen_when_it_is_back() {
    let (identity, mut scripted) = (identity(), Scripted::new(8, 2));
    drop(scripted.hello(&identity, 0));
    assert_eq!(scripted.steps(), []);
    scripted.readable(0);
    assert_eq!((scripted.steps(), scripted.compute()), (vec![], 1));
    assert_eq!(scripted.steps(), [Err(Some("disconnected"))]);
    assert!(scripted.handshakes.is_empty());
}

#[test]
fn what_the_threads_have_no_room_for_the_ring_does_itself_and_counts() {
    let (identity, mut scripted) = (identity(), Scripted::new(1, 4));
    let mut clients = [0, 1, 2].map(|number| scripted.hello(&identity, number));
    assert_eq!(scripted.steps(), []);
    assert_eq!((scripted.steps.len(), scripted.tally.of(Count::TlsThreadsFull)), (1, 2));
    for client in &mut clients[1..] {
        client.conn.complete_io(&mut client.sock).expect("the ring has answered");
    }
    assert_eq!(scripted.compute(), 1);
    assert_eq!(scripted.steps(), []);
    clients[0].conn.complete_io(&mut clients[0].sock).expect("the thread has answered");
}

#[test]
fn what_comes_back_to_a_ring_that_is_gone_does_no_harm_to_the_next() {
    let (identity, mut scripted) = (identity(), Scripted::new(8, 2));
    let _client = scripted.hello(&identity, 0);
    assert_eq!(scripted.steps(), []);
    let (entrance, steps) = Entrance::new(0, 8);
    let ring = Arc::new(Waker::new().expect("descriptors are free"));
    let next = Handshakes::new(2, Some(Given::new(entrance, ring, scripted.tally.clone())));
    let mut old = std::mem::replace(&mut scripted.handshakes, next);
    let former = std::mem::replace(&mut scripted.steps, steps);
    assert_eq!(old.forsake().len(), 1, "it is counted where it was");
    drop(old);
    // The same place and generation in the next ring, and its handshake is away as well.
    let _other = scripted.hello(&identity, 0);
    assert_eq!(scripted.steps(), []);
    former.try_iter().for_each(Task::run);
    assert_eq!(scripted.steps(), []);
    assert_eq!(scripted.handshakes.due(scripted.now), Some(scripted.now + SHORT), "nothing has come back here");
    assert_eq!((scripted.compute(), scripted.steps()), (1, vec![]));
}

#[test]
fn handshakes_that_panic_cost_their_connection_only() {
    #[derive(Debug)]
    struct Panics;
    impl crate::dispatch::TlsRecords for Panics {
        fn has_unsent(&self) -> bool {
            false
        }
        fn send(&mut self, _: &mut dyn Write) -> std::io::Result<usize> {
            Ok(0)
        }
    }
    impl TlsHandshake for Panics {
        fn feed(&mut self, _: &[u8]) -> Result<(), TlsFailure> {
            panic!("as asked for")
        }
        fn is_complete(&self) -> bool {
            false
        }
        fn server_name(&self) -> Option<&str> {
            None
        }
        fn cut(&self, _: Cut) -> TlsFailure {
            TlsFailure::late()
        }
        fn into_session(self: Box<Self>) -> Box<dyn TlsSession> {
            unreachable!("it is never complete")
        }
    }
    let (identity, mut scripted) = (identity(), Scripted::new(8, 2));
    let (mut client, mut guest) = newcomer(&Termination::new(&identity, &[]), 0);
    guest.handshake = Some(Box::new(Panics));
    assert!(scripted.handshakes.begin(&mut scripted.driver, guest, SOON, scripted.now).is_none());
    client.write_all(b"x").expect("connected");
    scripted.readable(0);
    assert_eq!((scripted.steps(), scripted.compute()), (vec![], 1));
    assert_eq!(scripted.steps(), [Err(Some("internal"))]);
    let _next = scripted.hello(&identity, 0);
}

#[test]
fn the_threads_of_an_engine_serve_every_ring_and_end_with_it() {
    let named = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("every Linux has it");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("handshake-")).count()
    };
    let identity = identity();
    for driver in DRIVERS {
        let listener = Listener::plain(anywhere()).tls(Termination::new(&identity, &[])).pool("threads");
        let builder = Engine::builder().driver(driver).rings(NonZeroUsize::MIN.saturating_add(1)).pin(false);
        let pool = Pool::threads("threads", 2, answer);
        let mut engine = builder.handshake_threads(2).pool(pool).listen(listener).start().expect("free ports");
        let address = engine.addresses()[0];
        until("they have their names", || named() >= 2);
        for _ in 0..20 {
            assert_eq!(ask(connect(&identity, address), b"a"), b"127.0.0.1 a");
        }
        // A ring that fails and the next one: the same threads.
        engine.threads[0].command(Command::Break);
        until("it is replaced", || engine.snapshot().count("ring-replaced") == 1);
        for _ in 0..20 {
            assert_eq!(ask(connect(&identity, address), b"a"), b"127.0.0.1 a");
        }
        let replaced = engine.replace(
            Engine::builder()
                .handshake_threads(1)
                .pool(Pool::threads("threads", 1, answer))
                .listen(Listener::plain(address).tls(Termination::new(&identity, &[])).pool("threads")),
        );
        let kept = replaced.expect("it is good").kept;
        assert!(kept.contains(&Kept::HandshakeThreads { present: 2, wanted: 1 }), "{kept:?}");
        assert_eq!(ask(connect(&identity, address), b"a"), b"127.0.0.1 a");
        assert!(engine.drain(SOON));
        assert_eq!(engine.snapshot().count("tls-established"), 41);
    }
}

#[test]
fn a_start_that_fails_leaves_no_thread_behind() {
    let builder = Engine::builder().rings(NonZeroUsize::MIN).pin(false).handshake_threads(2);
    let listener = Listener::plain(anywhere()).tls(Termination::new(&identity(), &[])).pool("nowhere");
    let nowhere = Pool::hand_off("nowhere", std::path::Path::new("/no/such/directory/x.sock"));
    // It comes back, and so does not wait for them.
    assert!(matches!(builder.pool(nowhere).listen(listener).start(), Err(StartError::System(_))));
}

#[test]
fn threads_end_when_nobody_can_give_them_anything() {
    let threads = Threads::start(3).expect("the system has threads");
    assert_eq!((threads.count(), threads.entrance().is_some()), (3, true));
    drop(threads);
    assert!(Threads::start(0).expect("nothing to start").entrance().is_none());
}

#[test]
fn a_silent_client_takes_less_than_two_kibibytes() {
    let terms = Termination::new(&identity(), &[]);
    let (_client, guest) = newcomer(&terms, 0);
    // What the table holds, and the boxes that hang on it.
    let state = guest.handshake.as_deref().map_or(0, std::mem::size_of_val);
    let node = 64; // of the deadlines
    let all = std::mem::size_of::<Guest<OwnedFd>>() + state + guest.bytes.len() + node;
    assert!(all <= 2048, "{all} bytes");
}

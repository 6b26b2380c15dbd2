//! Sessions through a real ring.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use super::{Relay, SharedBackend};
use crate::backend::{AdminState, Balance, CheckKind, CheckSettings, ServerSettings, Settings};
use crate::engine::{Command, DriverChoice, Engine, Listener, SessionFilter};
use crate::relay::{End, Forward, Protocol, Target};

/// Generous; it only matters when something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A backend of these servers, none of which is checked.
pub fn backend(servers: &[SocketAddr]) -> SharedBackend {
    SharedBackend::new(settings(servers))
}

pub fn settings(servers: &[SocketAddr]) -> Settings {
    let server = |(number, address): (usize, &SocketAddr)| ServerSettings {
        name: format!("s{number}"),
        host: address.ip().to_string(),
        port: address.port(),
        address: Some(*address),
        weight: 1,
        connection_limit: 0,
        state: AdminState::Ready,
        backup: false,
        check_port: None,
    };
    let second = Duration::from_secs(1);
    Settings {
        name: "imap".into(),
        servers: servers.iter().enumerate().map(server).collect(),
        balance: Balance::LeastConn,
        stick: None,
        connect_timeout: 5 * second,
        retries: 3,
        queue: 16,
        queue_timeout: 10 * second,
        slow_start: Duration::ZERO,
        check: CheckSettings { kind: CheckKind::None, interval: 10 * second, rise: 2, fall: 3 },
    }
}

fn engine(backend: &SharedBackend) -> Engine {
    engine_with(DriverChoice::Auto, Relay::new("imap-login", backend))
}

const DRIVERS: [DriverChoice; 2] = [DriverChoice::IoUring, DriverChoice::Epoll];

fn engine_with(driver: DriverChoice, relay: Relay) -> Engine {
    Engine::builder()
        .driver(driver)
        .rings(NonZeroUsize::new(1).expect("not 0"))
        .pin(false)
        .relay(relay)
        .listen(Listener::plain(anywhere()).pool("imap-login"))
        .start()
        .expect("loopback has free ports")
}

fn connect(engine: &Engine) -> TcpStream {
    let client = TcpStream::connect(engine.addresses()[0]).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    client
}

/// A server that reads a header of 28 bytes, greets, echoes until the end, and says goodbye.
pub fn echo() -> SocketAddr {
    server(serve)
}

/// A server that does so with every connection.
pub(super) fn server(serve: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut header = [0; 28];
    stream.read_exact(&mut header)?;
    stream.write_all(b"* OK ready\r\n")?;
    let mut room = vec![0; 65536];
    loop {
        match stream.read(&mut room)? {
            0 => return stream.write_all(b"* BYE\r\n"),
            count => stream.write_all(&room[..count])?,
        }
    }
}

#[test]
fn bytes_go_both_ways_and_ends_are_passed_on() {
    DRIVERS.into_iter().for_each(assert_bytes_go_both_ways);
}

fn assert_bytes_go_both_ways(driver: DriverChoice) {
    let backend = backend(&[echo()]);
    let engine = engine_with(driver, Relay::new("imap-login", &backend));
    let mut client = connect(&engine);
    let mut greeting = [0; 12];
    client.read_exact(&mut greeting).expect("the server greets");
    assert_eq!(&greeting, b"* OK ready\r\n");
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut writer = client.try_clone().expect("a descriptor is left");
    let bytes = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).expect("the relay takes it");
        writer.shutdown(Shutdown::Write).expect("connected");
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("the relay ends in order");
    writing.join().expect("it does not panic");
    assert_eq!(got.len(), sent.len() + 7);
    assert!(got.starts_with(&sent) && got.ends_with(b"* BYE\r\n"));
}

#[test]
fn a_server_that_refuses_gives_way_to_the_next() {
    let refusing = TcpListener::bind(anywhere()).expect("loopback has free ports").local_addr().expect("bound");
    let backend = backend(&[refusing, echo()]);
    let engine = engine(&backend);
    for _ in 0..4 {
        let mut client = connect(&engine);
        let mut greeting = [0; 12];
        client.read_exact(&mut greeting).expect("the other one greets");
    }
    assert_eq!(Relay::new("imap-login", &backend).terms.protocol, Protocol::Imap);
}

/// Sessions that its servers have.
pub(super) fn held(backend: &SharedBackend) -> u32 {
    backend.lock().servers(std::time::Instant::now()).map(|server| server.sessions).sum()
}

#[test]
fn a_live_session_goes_on_in_another_engine() {
    for from in DRIVERS {
        DRIVERS.into_iter().for_each(|to| assert_sessions_go_on(from, to));
    }
}

fn assert_sessions_go_on(from: DriverChoice, to: DriverChoice) {
    let backend = backend(&[echo()]);
    let mut old = engine_with(from, Relay::new("imap-login", &backend));
    let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(&old)).collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 12]).expect("the server greets");
        client.write_all(b"a").expect("it is served");
    }
    old.hand_over(&[], PATIENCE);
    let sessions = old.hand_over_sessions().0;
    assert_eq!((sessions.len(), held(&backend)), (20, 0));
    let new = engine_with(to, Relay::new("imap-login", &backend));
    new.take_in_sessions(sessions);
    assert!(old.retire(PATIENCE), "nothing is left there");
    drop(old);
    for client in &mut clients {
        client.write_all(b"b").expect("it is served");
        let mut got = [0; 2];
        client.read_exact(&mut got).expect("what was said before is answered, and what is said now");
        assert_eq!(&got, b"ab");
    }
    assert_eq!((new.snapshot().count("session-taken"), held(&backend)), (20, 20));
    drop(clients);
    crate::dispatch::testing::until("all sessions have ended", || held(&backend) == 0);
}

#[test]
fn a_drain_lets_sessions_go_and_is_complete() {
    let backend = backend(&[echo()]);
    let mut engine = engine(&backend);
    let mut client = connect(&engine);
    client.read_exact(&mut [0; 12]).expect("the server greets");
    assert!(engine.drain(Duration::from_secs(2)), "a session that is let go is no failure");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the relay ends in order");
    assert_eq!(engine.snapshot().count("service-ended"), 1);
}

/// How often the only server was blamed for a greeting that did not come, and for a connect that failed.
fn blamed(backend: &SharedBackend) -> (u64, u64) {
    let backend = backend.lock();
    let totals = backend.servers(std::time::Instant::now()).next().expect("it has one").totals;
    (totals.not_greeted, totals.connect_errors)
}

pub(super) fn wait_for(engine: &Engine, end: &str) {
    crate::dispatch::testing::until("the session has ended", || engine.snapshot().count(end) == 1);
}

#[test]
fn a_client_that_goes_before_the_greeting_is_not_the_servers_fault() {
    // It ends when its client does, and says nothing.
    let backend = backend(&[server(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))]);
    let engine = engine(&backend);
    let client = connect(&engine);
    crate::dispatch::testing::until("a server is chosen", || held(&backend) == 1);
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("it is open");
    drop(client); // a reset
    wait_for(&engine, "client-reset");
    assert_eq!(blamed(&backend), (0, 0));
}

#[test]
fn a_clients_end_waits_for_the_greeting_and_only_a_greeting_that_is_late_is_the_servers_fault() {
    let slow = backend(&[server(|stream| {
        thread::sleep(Duration::from_millis(300));
        serve(stream)
    })]);
    let first = engine(&slow);
    let mut client = connect(&first);
    client.shutdown(Shutdown::Write).expect("connected");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("it ends in order");
    assert_eq!((said.as_str(), blamed(&slow)), ("* OK ready\r\n* BYE\r\n", (0, 0)));

    let silent = backend(&[server(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))]);
    let second =
        engine_with(DriverChoice::Auto, Relay::new("imap-login", &silent).greeting_timeout(Duration::from_millis(300)));
    let mut client = connect(&second);
    client.shutdown(Shutdown::Write).expect("connected");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("it ends in order");
    assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
    wait_for(&second, "greeting-timeout");
    assert_eq!(blamed(&silent), (1, 0));
}

#[test]
fn a_server_that_refuses_one_client_in_the_exchange_is_not_at_fault_and_its_words_arrive() {
    let refuses = backend(&[server(|mut stream| {
        let mut lines = std::io::BufReader::new(stream.try_clone()?).lines();
        stream.write_all(b"220 mx ESMTP\r\n")?;
        lines.next();
        stream.write_all(b"250-mx\r\n250 XCLIENT ADDR PORT\r\n")?;
        lines.next();
        stream.write_all(b"421 4.7.0 mx Error: too many connections from you\r\n")
    })]);
    let relay = Relay::new("smtpd", &refuses).protocol(Protocol::Smtp);
    let engine = Engine::builder()
        .rings(NonZeroUsize::new(1).expect("not 0"))
        .pin(false)
        .relay(relay.forward(Forward::Xclient, Target::Postfix, None))
        .listen(Listener::plain(anywhere()).pool("smtpd"))
        .start()
        .expect("loopback has free ports");
    let mut client = connect(&engine);
    client.write_all(b"QUIT\r\n").expect("connected");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("it ends in order though it has spoken");
    assert_eq!(said, "421 4.7.0 mx Error: too many connections from you\r\n");
    drop(client);
    wait_for(&engine, "server-closed");
    assert_eq!(blamed(&refuses), (0, 0));
}

#[test]
fn a_server_that_ends_amid_the_exchange_is_at_fault_and_the_client_is_told() {
    let ends = backend(&[server(|mut stream| {
        stream.read_exact(&mut [0; 1]).ok();
        Ok(())
    })]);
    // It greets, is told who the client is, and goes: nothing of that is for the client's eyes.
    let greets = backend(&[server(|mut stream| {
        stream.write_all(b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n")?;
        let mut lines = std::io::BufReader::new(stream).lines();
        lines.next();
        Ok(())
    })]);
    for (backend, forward) in [(ends, Forward::ProxyV2), (greets, Forward::ImapId)] {
        let engine =
            engine_with(DriverChoice::Auto, Relay::new("imap-login", &backend).forward(forward, Target::Dovecot, None));
        let mut said = String::new();
        connect(&engine).read_to_string(&mut said).expect("it ends in order");
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{forward:?}: {said}");
        wait_for(&engine, "no-greeting");
        assert_eq!(blamed(&backend), (1, 0), "{forward:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_a_connect_in_time_is_blamed_for_it() {
    // One whose backlog is full drops what else comes.
    let full = TcpListener::bind(anywhere()).expect("loopback has free ports");
    rustix::net::listen(&full, 0).expect("it is bound");
    let address = full.local_addr().expect("bound");
    let waits = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
    let _filling: Vec<_> = std::iter::repeat_with(waits).take_while(Result::is_ok).collect();
    let backend = SharedBackend::new(Settings { connect_timeout: Duration::from_millis(300), ..settings(&[address]) });
    let engine = engine(&backend);
    let mut said = String::new();
    connect(&engine).read_to_string(&mut said).expect("it ends in order");
    assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
    wait_for(&engine, "connect-timeout");
    assert_eq!(blamed(&backend), (0, 1));
}

#[test]
fn a_server_that_ends_out_of_a_silence_has_left_and_one_that_says_goodbye_has_closed() {
    // It goes a second after it has greeted, with a last word or without.
    let leaves = |goodbye: &'static [u8]| {
        server(move |mut stream| {
            stream.read_exact(&mut [0; 28])?;
            stream.write_all(b"* OK ready\r\n")?;
            thread::sleep(Duration::from_secs(1));
            stream.write_all(goodbye)
        })
    };
    for (goodbye, end) in [(&b""[..], "server-left"), (b"* BYE Idle for too long\r\n", "server-closed")] {
        let backend = backend(&[leaves(goodbye)]);
        let engine = engine(&backend);
        let mut said = Vec::new();
        connect(&engine).read_to_end(&mut said).expect("it ends in order");
        assert_eq!(said, [b"* OK ready\r\n", goodbye].concat());
        wait_for(&engine, end);
    }
}

#[test]
fn an_engine_that_is_dropped_leaves_no_session_behind_at_a_backend_that_lives_on() {
    let backend = backend(&[echo()]);
    let [dropped, next] = [(); 2].map(|()| engine(&backend));
    let mut clients = [&dropped, &next].map(connect);
    clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 12]).expect("the server greets"));
    let meter = dropped.meter();
    drop(dropped);
    assert_eq!((held(&backend), meter.snapshot().count("service-ended")), (1, 1));
}

#[test]
fn rings_tell_who_is_served_and_end_whom_they_are_told_to() {
    let backend = backend(&[echo()]);
    let engine = engine(&backend);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(&engine)).collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 12]).expect("the server greets");
        client.write_all(b"abc").expect("it is served");
        client.read_exact(&mut [0; 3]).expect("it echoes");
    }
    let asker = engine.asker();
    let all = asker.sessions(&SessionFilter::default(), 2);
    assert_eq!((all.sessions.len(), all.more), (2, 1));
    assert!(all.sessions[0].age >= all.sessions[1].age, "the oldest first");
    let wanted = clients[1].local_addr().expect("connected");
    let of_one = SessionFilter { port: Some(wanted.port()), ..SessionFilter::default() };
    let found = asker.sessions(&of_one, 10).sessions.pop().expect("it is there");
    assert_eq!((found.client, found.state, found.server.as_deref()), (wanted, "open", Some("s0")));
    assert_eq!((found.from_client, found.from_server), (3, 15));
    let elsewhere = SessionFilter { server: Some("s1".into()), ..SessionFilter::default() };
    assert_eq!(asker.end_sessions(&elsewhere, End::Killed, Duration::ZERO), 0);
    assert_eq!(asker.end_sessions(&of_one, End::Killed, Duration::ZERO), 1);
    assert_eq!(clients[1].read(&mut [0; 9]).expect("it ends in order"), 0);
    crate::dispatch::testing::until("it has ended", || held(&backend) == 2);
    let ended = asker.ended(&of_one, 10).sessions.pop().expect("it is remembered");
    assert_eq!((ended.id, ended.state, ended.server.as_deref()), (found.id, "killed", Some("s0")));
    assert!(ended.ended.is_some() && asker.sessions(&of_one, 10).sessions.is_empty());
    // An engine ends though somebody could still ask it.
    drop(engine);
    assert!(asker.sessions(&SessionFilter::default(), 10).sessions.is_empty());
}

#[test]
fn servers_keep_accounts_of_what_their_sessions_come_to() {
    let backend = backend(&[echo()]);
    let mut engine = engine(&backend);
    let mut client = connect(&engine);
    client.read_exact(&mut [0; 12]).expect("the server greets");
    client.write_all(b"abc").expect("it is served");
    client.shutdown(Shutdown::Write).expect("connected");
    client.read_to_end(&mut Vec::new()).expect("it echoes and ends");
    crate::dispatch::testing::until("it has ended", || held(&backend) == 0);
    backend.lock().set_state(crate::backend::ServerIndex(0), AdminState::Maint, std::time::Instant::now());
    let unserved = connect(&engine).read_to_end(&mut Vec::new());
    assert!(unserved.expect("it is told") > 0);
    let mut twice = engine.snapshot();
    twice += &engine.snapshot();
    let [account] = twice.backends() else { panic!("one backend, however often it is seen: {twice}") };
    let server = &account.servers[0];
    assert_eq!((server.traffic.from_clients, server.traffic.to_clients), (3, 12 + 3 + 7));
    assert_eq!((server.ends(), server.status(), server.totals.sessions), (vec![("client-closed", 1)], "MAINT", 1));
    assert!(server.times().iter().all(|(name, times)| times.len() == 1 || panic!("{name}: {}", times.len())));
    crate::dispatch::testing::until("the other has ended, too", || engine.snapshot().count("no-server") == 1);
    assert_eq!(engine.snapshot().backends()[0].ends(), [("client-closed", 1), ("no-server", 1)]);
    assert!(twice.to_string().contains("\nimap/s0 "), "{twice}");
    assert!(engine.drain(PATIENCE));
}

#[test]
fn sessions_go_on_when_their_ring_is_broken_and_end_counted_when_it_has_panicked() {
    DRIVERS.into_iter().for_each(assert_sessions_survive_their_ring);
}

fn assert_sessions_survive_their_ring(driver: DriverChoice) {
    let backend = backend(&[echo()]);
    let engine = engine_with(driver, Relay::new("imap-login", &backend));
    let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(&engine)).collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 12]).expect("the server greets");
    }
    engine.threads.iter().for_each(|thread| thread.command(Command::Break));
    for client in &mut clients {
        client.write_all(b"b").expect("it is served");
        client.read_exact(&mut [0]).expect("it is answered");
    }
    assert_eq!(held(&backend), 8);
    engine.threads.iter().for_each(|thread| thread.command(Command::Panic));
    for client in &mut clients {
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "it ends");
    }
    crate::dispatch::testing::until("they do not count any more", || held(&backend) == 0);
    assert_eq!(engine.snapshot().count("ring-failed"), 8);
}

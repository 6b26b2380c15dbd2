//! Checks of real servers, through a whole engine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{Asked, Resolver};
use crate::backend::{
    AdminState, Balance, CheckKind, CheckSettings, Finding, ServerIndex, ServerSettings, ServerTotals, ServerView,
    Settings,
};
use crate::dispatch::testing::{SOON, until};
use crate::engine::{Engine, EngineBuilder, Listener, Relay, SharedBackend};
use crate::relay::{Forward, Target};

const GREETS: u8 = 0;
const SILENT: u8 = 1;
const FULL: u8 = 2;

/// From one check to the next.
const INTERVAL: Duration = Duration::from_millis(100);

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A server that can be told how to behave; it listens as long as the test's process lives.
struct Server {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    fn new(mood: u8) -> Server {
        Server::at(anywhere(), mood)
    }

    fn at(address: SocketAddr, mood: u8) -> Server {
        let listener = TcpListener::bind(address).expect("loopback has free ports");
        let address = listener.local_addr().expect("bound");
        let server = Server { address, mood: Arc::new(AtomicU8::new(mood)), accepted: Arc::default() };
        let (mood, accepted) = (server.mood.clone(), server.accepted.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let mood = mood.load(Ordering::SeqCst);
                thread::spawn(move || serve(stream, mood));
            }
        });
        server
    }

    fn turn(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Greets and echoes until the end or a LOGOUT; or does not.
fn serve(mut stream: TcpStream, mood: u8) -> std::io::Result<()> {
    match mood {
        GREETS => stream.write_all(b"* OK ready\r\n")?,
        FULL => return stream.write_all(b"* BYE Connection queue full\r\n"),
        _ => {}
    }
    let mut room = [0; 1024];
    loop {
        let count = stream.read(&mut room)?;
        match &room[..count] {
            [] => return Ok(()),
            bytes if bytes.ends_with(b"LOGOUT\r\n") => return stream.write_all(b"* BYE\r\nx OK\r\n"),
            bytes if mood == GREETS => stream.write_all(bytes)?,
            _ => {}
        }
    }
}

fn settings(servers: &[SocketAddr], kind: CheckKind) -> Settings {
    let server = |(number, address): (usize, &SocketAddr)| ServerSettings {
        name: format!("s{number}"),
        host: address.ip().to_string(),
        port: address.port(),
        address: Some(*address),
        weight: 100,
        connection_limit: 0,
        state: AdminState::Ready,
        backup: false,
        check_port: None,
    };
    Settings {
        name: "imap".into(),
        servers: servers.iter().enumerate().map(server).collect(),
        balance: Balance::LeastConn,
        stick: None,
        connect_timeout: SOON,
        retries: 3,
        queue: 16,
        queue_timeout: SOON,
        slow_start: SOON * 100,
        check: CheckSettings { kind, interval: INTERVAL, rise: 2, fall: 2 },
    }
}

fn builder(relay: Relay) -> EngineBuilder {
    Engine::builder()
        .rings(NonZeroUsize::new(2).expect("not 0"))
        .pin(false)
        .relay(relay)
        .listen(Listener::plain(anywhere()).pool("imap-login"))
}

fn relay(backend: &SharedBackend) -> Relay {
    Relay::new("imap-login", backend).greeting_timeout(Duration::from_millis(300)).disconnect_delay(Duration::ZERO)
}

fn engine(backend: &SharedBackend) -> Engine {
    builder(relay(backend)).start().expect("loopback has free ports")
}

fn with<T>(backend: &SharedBackend, server: u16, ask: impl FnOnce(ServerView<'_>) -> T) -> T {
    ask(backend.lock().server(ServerIndex(server), std::time::Instant::now()))
}

fn is_up(backend: &SharedBackend, server: u16) -> bool {
    with(backend, server, |view| view.up)
}

fn totals(backend: &SharedBackend, server: u16) -> ServerTotals {
    with(backend, server, |view| view.totals)
}

fn connect(engine: &Engine) -> TcpStream {
    let client = TcpStream::connect(engine.addresses()[0]).expect("it listens");
    client.set_read_timeout(Some(SOON)).expect("a timeout above zero");
    client
}

/// A session that was greeted.
fn session(engine: &Engine) -> TcpStream {
    let mut client = connect(engine);
    let mut greeting = [0; 12];
    client.read_exact(&mut greeting).expect("the server greets");
    assert_eq!(&greeting, b"* OK ready\r\n");
    // Behind it comes the header, which the server has echoed.
    client.write_all(b"hello").expect("connected");
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        let mut one = [0];
        client.read_exact(&mut one).expect("the server echoes");
        heard.push(one[0]);
    }
    client
}

fn reads_to_the_end(client: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = client.read_to_end(&mut rest);
    rest
}

#[test]
fn a_server_that_falls_silent_is_taken_out_lets_its_sessions_go_and_comes_back_slowly() {
    let server = Server::new(GREETS);
    let backend = SharedBackend::new(settings(&[server.address], CheckKind::Banner));
    let engine = engine(&backend);
    until("a check has passed", || totals(&backend, 0).checks_passed > 0);
    let mut client = session(&engine);
    server.turn(SILENT);
    until("it is down", || !is_up(&backend, 0));
    let why = with(&backend, 0, |view| view.why.to_owned());
    assert!(why.starts_with("it says nothing behind our PROXY header"), "{why}");
    assert!(totals(&backend, 0).checks_failed >= 2, "one bad check is not enough");
    reads_to_the_end(&mut client);
    until("the session is over", || engine.snapshot().count("server-down") == 1);
    let passed = totals(&backend, 0).checks_passed;
    server.turn(GREETS);
    until("it is up", || is_up(&backend, 0));
    assert!(totals(&backend, 0).checks_passed >= passed + 2, "one good check is not enough");
    let (now, whole) = with(&backend, 0, |view| (view.weight_now, f64::from(view.weight)));
    assert!(now < whole / 2.0, "it starts slowly: {now}");
    session(&engine);
}

#[test]
fn a_server_that_refuses_is_out_before_a_client_comes_and_another_serves() {
    let refusing = TcpListener::bind(anywhere()).expect("loopback has free ports").local_addr().expect("bound");
    let server = Server::new(GREETS);
    let backend = SharedBackend::new(settings(&[refusing, server.address], CheckKind::Banner));
    let engine = engine(&backend);
    until("it is down", || !is_up(&backend, 0));
    assert_eq!(with(&backend, 0, |view| view.why.to_owned()), "connection refused");
    session(&engine);
    assert_eq!(totals(&backend, 0).sessions, 0);
    let _server = Server::at(refusing, GREETS);
    until("it is up", || is_up(&backend, 0));
}

#[test]
fn in_maint_sessions_are_let_go_and_their_places_go_to_others_later() {
    let servers = [Server::new(GREETS), Server::new(GREETS)];
    let mut settings = settings(&servers.each_ref().map(|server| server.address), CheckKind::Banner);
    settings.servers[0].connection_limit = 1;
    settings.servers[1].state = AdminState::Maint;
    let backend = SharedBackend::new(settings);
    let engine = engine(&backend);
    let mut first = session(&engine);
    let mut second = connect(&engine);
    until("it waits", || backend.lock().view().waiting == 1);
    backend.set_state(ServerIndex(1), AdminState::Ready);
    let mut greeting = [0; 12];
    second.read_exact(&mut greeting).expect("it has got the other server");
    backend.set_state(ServerIndex(0), AdminState::Maint);
    reads_to_the_end(&mut first);
    until("one session is over", || engine.snapshot().count("server-down") == 1);
    second.write_all(b"again").expect("the other one stays");
    assert_eq!(with(&backend, 1, |view| view.sessions), 1);
    let checks = || (totals(&backend, 0).checks_passed, totals(&backend, 0).checks_failed);
    let (before, accepted) = (checks(), servers[0].accepted());
    thread::sleep(INTERVAL * 5);
    assert!(checks() == before && servers[0].accepted() <= accepted + 1, "in maint nobody is checked");
}

#[test]
fn reloads_bring_backends_and_take_them_away() {
    let servers = [Server::new(GREETS), Server::new(GREETS)];
    let [first, second] = servers.each_ref().map(|server| {
        let settings = settings(&[server.address], CheckKind::Banner);
        SharedBackend::new(settings)
    });
    let mut engine = engine(&first);
    until("the first is checked", || totals(&first, 0).checks_passed > 1);
    engine.replace(builder(relay(&second))).expect("the rings stay");
    until("the second is checked", || totals(&second, 0).checks_passed > 1);
    let passed = totals(&first, 0).checks_passed;
    until("the second is checked on", || totals(&second, 0).checks_passed > 8);
    assert!(totals(&first, 0).checks_passed <= passed + 1, "the first is checked no more");
}

#[test]
fn checks_end_when_a_drain_begins() {
    let server = Server::new(GREETS);
    let backend = SharedBackend::new(settings(&[server.address], CheckKind::Banner));
    let mut engine = engine(&backend);
    until("it is checked", || totals(&backend, 0).checks_passed > 1);
    assert!(engine.drain(SOON), "it ends in time");
    let accepted = server.accepted();
    thread::sleep(INTERVAL * 5);
    assert!(server.accepted() <= accepted + 1, "one may have been in the backlog");
    drop(engine);
    let unwatched = SharedBackend::new(settings(&[server.address], CheckKind::Banner));
    let engine = super::super::Engine::builder().rings(NonZeroUsize::MIN).pin(false).start().expect("two threads");
    assert!(engine.prober.is_none() && totals(&unwatched, 0).checks_passed == 0, "nothing to check, no prober");
}

#[test]
fn a_name_is_looked_up_again_and_sessions_stay_where_they_are() {
    let [first, second] = [Server::new(GREETS), Server::new(GREETS)];
    let mut settings = settings(&[first.address], CheckKind::Banner);
    settings.servers[0].host = "mail.example".into();
    let backend = SharedBackend::new(settings);
    let answers = Arc::new(Mutex::new(vec![second.address, first.address]));
    let asked = Arc::new(AtomicUsize::new(0));
    let (their_answers, their_asked) = (answers.clone(), asked.clone());
    let look_up = move |host: &str, port: u16| {
        assert_eq!(host, "mail.example");
        assert!(port > 0);
        their_asked.fetch_add(1, Ordering::SeqCst);
        Ok(their_answers.lock().expect("nobody panics").clone())
    };
    let resolver = Resolver::new(look_up, Duration::from_millis(20));
    let engine = builder(relay(&backend)).resolver(resolver).start().expect("loopback has free ports");
    until("it was asked", || asked.load(Ordering::SeqCst) > 2);
    let address = || with(&backend, 0, |view| view.address);
    assert_eq!(address(), Some(first.address), "it stays while it is among the answers");
    let mut old = session(&engine);
    answers.lock().expect("nobody panics").clear();
    let before = asked.load(Ordering::SeqCst);
    until("it was asked in vain", || asked.load(Ordering::SeqCst) > before + 2);
    assert_eq!(address(), Some(first.address), "it stays while nobody answers");
    *answers.lock().expect("nobody panics") = vec![second.address];
    until("it has moved", || address() == Some(second.address));
    let served = second.accepted();
    session(&engine);
    assert!(second.accepted() > served);
    old.write_all(b"still here").expect("it stays");
    let mut heard = [0; 10];
    old.read_exact(&mut heard).expect("the old address serves it on");
    assert_eq!(&heard, b"still here");
}

#[test]
fn sessions_bring_a_server_down_that_is_never_checked() {
    let refusing = TcpListener::bind(anywhere()).expect("loopback has free ports").local_addr().expect("bound");
    let backend = SharedBackend::new(settings(&[refusing], CheckKind::None));
    let engine = engine(&backend);
    for _ in 0..2 {
        let said = reads_to_the_end(&mut connect(&engine));
        assert!(said.starts_with(b"* BYE [UNAVAILABLE]"), "{}", String::from_utf8_lossy(&said));
    }
    until("it is down", || !is_up(&backend, 0));
    assert_eq!((totals(&backend, 0).connect_errors, totals(&backend, 0).checks_failed), (2, 0));
}

#[test]
fn a_server_that_is_full_is_passed_on_and_spared() {
    let server = Server::new(FULL);
    let backend = SharedBackend::new(settings(&[server.address], CheckKind::None));
    let engine = engine(&backend);
    assert_eq!(reads_to_the_end(&mut connect(&engine)), b"* BYE Connection queue full\r\n");
    until("it is known", || totals(&backend, 0).overloaded == 1);
    let (up, now, whole) = with(&backend, 0, |view| (view.up, view.weight_now, f64::from(view.weight)));
    assert!(up && now < whole * 0.9, "{now} of {whole}");
}

#[test]
fn without_a_source_port_the_fault_is_ours() {
    let server = Server::new(GREETS);
    let backend = SharedBackend::new(settings(&[server.address], CheckKind::Banner));
    // No host has it: the kernel's answer is that of a host whose ports are used up.
    let relay = relay(&backend).sources(["192.0.2.77".parse().expect("an address")]);
    let engine = builder(relay).start().expect("loopback has free ports");
    reads_to_the_end(&mut connect(&engine));
    until("it is counted", || totals(&backend, 0).own_faults == 1);
    until("it was checked", || with(&backend, 0, |view| view.last_check.is_some()));
    assert!(is_up(&backend, 0), "a check that could not be made says nothing of the server");
}

/// A server that greets with these words, and says yes to everything until it is told to log out.
fn agreeable(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(anywhere()).expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || agree(stream, greeting));
        }
    });
    address
}

fn agree(mut stream: TcpStream, greeting: &str) -> std::io::Result<()> {
    stream.write_all(greeting.as_bytes())?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        let tag = line.split(' ').next().unwrap_or_default();
        stream.write_all(format!("{tag} OK\r\n").as_bytes())?;
        if line.ends_with("LOGOUT") {
            break;
        }
    }
    Ok(())
}

#[test]
fn who_offers_to_be_told_of_clients_is_found_out() {
    let servers =
        [agreeable("* OK [CAPABILITY IMAP4rev1 ID] hello\r\n"), agreeable("* OK [CAPABILITY IMAP4rev1] hello\r\n")];
    let backend = SharedBackend::new(settings(&servers, CheckKind::Banner));
    let relay = relay(&backend).greeting_timeout(SOON).forward(Forward::ImapId, Target::Dovecot, None);
    let found = super::check_once(&[relay]).expect("a ring can be made");
    let told: Vec<(&str, Finding)> = found
        .iter()
        .filter(|found| found.asked == Asked::Address)
        .map(|found| (found.server.as_str(), found.verdict.as_ref().expect("it has an address").finding))
        .collect();
    assert_eq!(told, [("s0", Finding::Greeted), ("s1", Finding::HeaderRefused)], "{found:?}");
    assert_eq!(found.len(), 4);
}

#[test]
fn every_server_is_asked_once() {
    let servers = [Server::new(GREETS), Server::new(SILENT)];
    let backend = SharedBackend::new(settings(&servers.each_ref().map(|server| server.address), CheckKind::None));
    let found = super::check_once(&[relay(&backend)]).expect("a ring can be made");
    let verdicts: Vec<(&str, bool)> = found
        .iter()
        .map(|found| (found.server.as_str(), found.verdict.as_ref().is_some_and(|verdict| verdict.finding.is_good())))
        .collect();
    assert_eq!(verdicts, [("s0", true), ("s1", false)]);
    assert_eq!(servers.each_ref().map(|server| server.accepted()), [1, 1]);
}

//! Services of one process that follow one another at a path, as those of several processes do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::backend::{AdminState, Balance, CheckKind, CheckSettings, ServerSettings, Settings};
use crate::dispatch::{Accepted, Pool};
use crate::engine::{Count, Listener, Relay, SharedBackend};
use crate::relay::{Forward, Target};
use crate::takeover::ask;

const LIMIT: Duration = Duration::from_secs(20);

/// A path, and a port that is ours for as long as the test lasts.
struct Stage {
    directory: tempfile::TempDir,
    socket: TcpListener,
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Stage { directory, socket }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("takeover")
    }

    /// The service that says its name to whoever comes, and then waits for his end. The first has the socket, each
    /// other one gets it from the one before.
    fn start(&self, name: &'static str) -> Result<Upgradable, Error> {
        self.start_with(name, LIMIT, || ())
    }

    /// The same, of which what it begins with may fail.
    fn start_with(
        &self,
        name: &'static str,
        limit: Duration,
        begin: impl Fn() + Send + 'static,
    ) -> Result<Upgradable, Error> {
        let listener = Listener::plain(self.address());
        let mut socket = (name == "first").then(|| self.socket.try_clone().expect("descriptors are left"));
        Upgradable::start(self.path(), limit, move || {
            begin();
            let pool = Pool::threads("names", 2, move |connection: Accepted| {
                let mut stream = connection.into_stream();
                // A client that is gone is missed by nobody.
                let _ = stream.write_all(name.as_bytes()).and_then(|()| stream.read_to_end(&mut Vec::new()));
            });
            let listener = socket.take().into_iter().fold(listener.clone(), Listener::socket);
            Engine::builder().rings(NonZeroUsize::MIN).pool(pool).listen(listener.pool("names"))
        })
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }

    /// A client, and whom it has got to.
    fn visit(&self) -> (TcpStream, String) {
        let mut client = TcpStream::connect(self.address()).expect("it listens");
        client.set_read_timeout(Some(LIMIT)).expect("a timeout can be set");
        let mut name = vec![0; 16];
        let length = client.read(&mut name).expect("somebody answers");
        name.truncate(length);
        (client, String::from_utf8(name).expect("a name"))
    }

    fn accepted(&self, service: &Upgradable) -> u64 {
        assert!(service.with_engine(|engine| engine.addresses() == [self.address()]).expect("it accepts"));
        service.snapshot().get(Count::Accepted)
    }
}

#[test]
fn three_services_follow_one_another_and_each_leaves_when_its_clients_have() {
    let stage = Stage::new();
    let first = stage.start("first").expect("nothing is in the way");
    let (client, name) = stage.visit();
    assert_eq!(name, "first");
    let second = stage.start("second").expect("the first gives way");
    assert!(first.with_engine(|_| ()).is_none(), "it accepts no more");
    assert_eq!(stage.visit().1, "second");
    assert_eq!(stage.accepted(&second), 2, "the other one was counted before");
    drop(client);
    assert_eq!(first.wait(), Ended::TakenOver(std::process::id()));
    let third = stage.start("third").expect("the second gives way");
    assert_eq!(second.wait(), Ended::TakenOver(std::process::id()));
    assert_eq!(stage.visit().1, "third");
    assert_eq!(stage.accepted(&third), 3);
    third.end();
    assert_eq!((third.wait(), third.wait()), (Ended::Told, Ended::Told));
    assert!(!stage.path().exists(), "the last one has removed it");
}

#[test]
fn one_that_is_told_to_end_does_not_bring_the_one_before_back() {
    let stage = Stage::new();
    let first = stage.start("first").expect("nothing is in the way");
    let (client, _) = stage.visit();
    let second = stage.start("second").expect("the first gives way");
    second.end();
    assert_eq!(second.wait(), Ended::Told);
    assert!(first.with_engine(|_| ()).is_none(), "it finishes what it has");
    drop(client);
    assert_eq!(first.wait(), Ended::TakenOver(std::process::id()));
}

#[test]
fn whoever_claims_and_fails_leaves_everything_as_it_was() {
    let stage = Stage::new();
    let first = stage.start("first").expect("nothing is in the way");
    for _ in 0..3 {
        let mut claim = Claim::connect(stage.path()).expect("it listens");
        assert_eq!(claim.sockets_at(stage.address()).len(), 1);
        let failed = claim.serve(&[stage.address()], || Err(Error::other("no room"))).expect_err("there is none");
        assert!(matches!(&failed, Error::GoesOn { cause, .. } if cause.to_string() == "no room"), "{failed}");
        assert_eq!(stage.visit().1, "first", "it has begun again, on the same socket");
    }
    assert_eq!(stage.accepted(&first), 3);
    first.end();
    assert_eq!(first.wait(), Ended::Told);
}

#[test]
fn whoever_asks_is_told_what_was_counted() {
    let stage = Stage::new();
    let first = stage.start("first").expect("nothing is in the way");
    drop(stage.visit());
    assert!(ask(stage.path(), Form::Table).expect("it answers").contains("accepted"));
    let json = ask(stage.path(), Form::Json).expect("it answers");
    assert!(json.starts_with("{\"counters\":{\"") && json.contains("\"accepted\":1,"), "{json}");
    first.end();
    first.wait();
}

#[test]
fn whom_workers_do_not_let_go_is_not_waited_for_beyond_the_limit() {
    let stage = Stage::new();
    let first = stage.start_with("first", Duration::from_millis(300), || ()).expect("nothing is in the way");
    let (_stays, _) = stage.visit();
    let second = stage.start("second").expect("the first gives way");
    assert_eq!(first.wait(), Ended::TakenOver(std::process::id()));
    second.end();
    assert_eq!(second.wait(), Ended::Told);
}

#[test]
fn one_that_cannot_begin_again_ends_and_says_so() {
    let stage = Stage::new();
    let begun = AtomicBool::new(false);
    let once = move || assert!(!begun.swap(true, Ordering::SeqCst), "as told");
    let first = stage.start_with("first", LIMIT, once).expect("nothing is in the way");
    let claim = Claim::connect(stage.path()).expect("it listens");
    claim.serve(&[stage.address()], || Err(Error::other("no room"))).expect_err("there is none");
    assert_eq!(first.wait(), Ended::Failed);
    assert!(!stage.path().exists(), "another one can begin");
}

/// A server that greets and echoes, for one client; it ends with him.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the relay connects");
        stream.write_all(b"* OK ready\r\n").expect("connected");
        let mut reader = stream.try_clone().expect("descriptors are left");
        std::io::copy(&mut reader, &mut stream).expect("connected");
    });
    address
}

fn relay_to(server: SocketAddr) -> Relay {
    let one = ServerSettings {
        name: "mail1".into(),
        host: server.ip().to_string(),
        port: server.port(),
        address: Some(server),
        weight: 100,
        connection_limit: 0,
        state: AdminState::Ready,
        backup: false,
        check_port: None,
    };
    let settings = Settings {
        name: "imap".into(),
        servers: vec![one],
        balance: Balance::LeastConn,
        stick: None,
        connect_timeout: LIMIT,
        retries: 3,
        queue: 16,
        queue_timeout: LIMIT,
        slow_start: Duration::ZERO,
        check: CheckSettings { kind: CheckKind::None, interval: LIMIT, rise: 2, fall: 2 },
    };
    let relay = Relay::new("imap-login", &SharedBackend::new(settings));
    relay.forward(Forward::None, Target::Dovecot, None).disconnect_delay(Duration::ZERO)
}

#[test]
fn a_relayed_session_goes_on_in_the_next_service_and_the_one_before_leaves() {
    let stage = Stage::new();
    let server = server();
    let start = |mut socket: Option<TcpListener>| {
        let listener = Listener::plain(stage.address());
        let service = Upgradable::start(stage.path(), LIMIT, move || {
            let listener = socket.take().into_iter().fold(listener.clone(), Listener::socket);
            Engine::builder().rings(NonZeroUsize::MIN).relay(relay_to(server)).listen(listener.pool("imap-login"))
        });
        service.expect("nothing is in the way")
    };
    let mut service = start(Some(stage.socket.try_clone().expect("descriptors are left")));
    let client = TcpStream::connect(stage.address()).expect("it listens");
    client.set_read_timeout(Some(LIMIT)).expect("a timeout can be set");
    let mut lines = BufReader::new(&client).lines().map(|line| line.expect("the session goes on"));
    assert_eq!(lines.next().as_deref(), Some("* OK ready"));
    for words in ["a NOOP", "b NOOP", "c NOOP"] {
        let next = start(None);
        assert_eq!(std::mem::replace(&mut service, next).wait(), Ended::TakenOver(std::process::id()));
        (&client).write_all(format!("{words}\r\n").as_bytes()).expect("connected");
        assert_eq!(lines.next().as_deref(), Some(words));
    }
    assert_eq!(service.snapshot().get(Count::Accepted), 1);
    drop(lines);
    drop(client);
    service.end();
    assert_eq!(service.wait(), Ended::Told);
}

//! TLS that ends here before pools that go on with plain sockets only: the ring relays between.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::tests::{Client, connect, identity};
use crate::dispatch::testing::{SOON, until};
use crate::dispatch::{Accepted, Intake, Overload, Pool, RunningWorkers, TlsInfo, Workers};
use crate::engine::{DriverChoice, Engine, Listener, SessionFilter};
use crate::relay::End;
use crate::tls::{Identity, Termination};

const DRIVERS: [DriverChoice; 2] = [DriverChoice::IoUring, DriverChoice::Epoll];

/// What a worker sees of a connection.
struct Seen {
    client: SocketAddr,
    local: SocketAddr,
    tls: TlsInfo,
    residual: usize,
    socket: TcpStream,
}

/// Workers that want nothing but the socket.
struct Plain(std::sync::mpsc::Sender<Seen>);

impl Workers for Plain {
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        let handle = thread::spawn(move || {
            while let Some(connection) = intake.recv() {
                let _ = self.0.send(see(connection));
            }
        });
        Ok(Box::new(Thread(Some(handle))))
    }

    fn carry_tls(&self) -> bool {
        false
    }
}

struct Thread(Option<thread::JoinHandle<()>>);

impl RunningWorkers for Thread {
    fn join(&mut self, _: Duration) -> bool {
        self.0.take().is_none_or(|handle| handle.join().is_ok())
    }
}

fn see(connection: Accepted) -> Seen {
    let tls = connection.tls().expect("it has ended here").clone();
    let (client, local, residual) = (connection.client(), connection.local(), connection.residual().len());
    let (socket, _) = connection.into_tcp_stream().expect("nothing is lost");
    Seen { client, local, tls, residual, socket }
}

fn engine(driver: DriverChoice, identity: &Identity) -> (Engine, Receiver<Seen>) {
    let (to, from) = channel();
    let listener = Listener::plain(SocketAddr::from(([127, 0, 0, 1], 0)));
    let engine = Engine::builder()
        .driver(driver)
        .rings(NonZeroUsize::MIN)
        .pin(false)
        .pool(Pool::new("plain", Plain(to)))
        .listen(listener.tls(Termination::new(identity, &["imap"])).pool("plain"))
        .start();
    (engine.expect("loopback has free ports"), from)
}

/// A client whose session stands, and what the worker sees of it.
fn served(identity: &Identity, engine: &Engine, seen: &Receiver<Seen>) -> (Client, Seen) {
    let mut client = connect(identity, engine.addresses()[0]);
    client.conn.complete_io(&mut client.sock).expect("they agree");
    (client, seen.recv_timeout(SOON).expect("a worker has it"))
}

#[test]
fn what_both_say_arrives_once_and_in_order_and_so_do_both_ends() {
    let identity = identity();
    for driver in DRIVERS {
        let (mut engine, seen) = engine(driver, &identity);
        // More than the sockets hold, so that either side has to wait for the other.
        let said: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7 % 251) as u8).collect();
        for _ in 0..3 {
            let (mut client, worker) = served(&identity, &engine, &seen);
            assert_eq!(worker.client, client.sock.local_addr().expect("connected"));
            assert_eq!(worker.local, engine.addresses()[0]);
            assert_eq!(
                (worker.tls.version, worker.tls.server_name.as_deref()),
                (Some("TLSv1.3"), Some("mail.example"))
            );
            assert_eq!(worker.residual, 0);
            let echo = thread::spawn(move || {
                let mut heard = Vec::new();
                (&worker.socket).read_to_end(&mut heard).expect("until the client's close_notify");
                (&worker.socket).write_all(&heard).expect("the client listens");
            });
            client.write_all(&said).and_then(|()| client.flush()).expect("the ring reads");
            client.conn.send_close_notify();
            client.flush().expect("the ring reads");
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).expect("TLS until close_notify");
            assert!(heard == said, "{} bytes on {driver:?}", heard.len());
            echo.join().expect("no panic");
        }
        assert!(engine.drain(SOON));
        let snapshot = engine.snapshot();
        let counts = ["accepted", "plain", "tls-established"].map(|name| snapshot.count(name));
        assert_eq!(counts, [3, 3, 3], "each once: {snapshot}");
    }
}

#[test]
fn a_worker_that_ends_first_ends_the_clients_session_in_order() {
    let identity = identity();
    for driver in DRIVERS {
        let (engine, seen) = engine(driver, &identity);
        let (mut client, worker) = served(&identity, &engine, &seen);
        (&worker.socket).write_all(b"goodbye").expect("the ring reads");
        drop(worker);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("TLS until close_notify");
        assert_eq!(heard, b"goodbye");
    }
}

#[test]
fn such_sessions_are_seen_and_can_be_ended() {
    let identity = identity();
    let (mut engine, seen) = engine(DriverChoice::Auto, &identity);
    let (mut client, worker) = served(&identity, &engine, &seen);
    let asker = engine.asker();
    let sessions = asker.sessions(&SessionFilter::default(), 10).sessions;
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].client, sessions[0].backend.as_ref()), (worker.client, "plain"));
    assert_eq!(asker.end_sessions(&SessionFilter::default(), End::Killed, Duration::ZERO), 1);
    client.read_to_end(&mut Vec::new()).expect("TLS until close_notify");
    assert_eq!((&worker.socket).read(&mut [0; 10]).expect("an end"), 0);
    until("nobody is left", || asker.sessions(&SessionFilter::default(), 10).sessions.is_empty());
    // One that says nothing does not keep a drain from its end.
    let (mut silent, worker) = served(&identity, &engine, &seen);
    assert!(engine.drain(Duration::from_secs(1)));
    silent.read_to_end(&mut Vec::new()).expect("TLS until close_notify");
    drop(worker);
}

#[test]
fn a_pool_that_is_full_closes_the_session_and_it_is_counted_once() {
    let identity = identity();
    let (to, _from) = channel();
    let pool = Pool::new("plain", Stuck(to)).queue(1).overload(Overload::Reject);
    let listener = Listener::plain(SocketAddr::from(([127, 0, 0, 1], 0)));
    let engine = Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(pool);
    let engine = engine.listen(listener.tls(Termination::new(&identity, &[])).pool("plain")).start();
    let engine = engine.expect("loopback has free ports");
    let mut clients: Vec<Client> = (0..3).map(|_| connect(&identity, engine.addresses()[0])).collect();
    for client in &mut clients {
        // The close may come before the client has heard everything of the handshake.
        let _ = client.conn.complete_io(&mut client.sock);
    }
    let counted = |name| engine.snapshot().count(name);
    until("all are there", || counted("accepted") == 3 && counted("plain") + counted("overload") == 3);
    assert_eq!((counted("plain"), counted("overload")), (1, 2));
    for client in &mut clients[1..] {
        let _ = client.read_to_end(&mut Vec::new());
    }
}

/// Workers that take nothing.
struct Stuck(std::sync::mpsc::Sender<Intake>);

impl Workers for Stuck {
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        let _ = self.0.send(intake);
        Ok(Box::new(Thread(None)))
    }

    fn carry_tls(&self) -> bool {
        false
    }
}

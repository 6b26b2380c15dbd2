//! The acceptor and the sessions on drivers of the real kernel: on rings that have less than they could (the set-up of older
//! kernels, no operations but the oldest, a completion queue that overflows), and on epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::Command;
use super::acceptor::{Acceptor, Parts};
use super::door::Door;
use super::listener::Listener;
use super::pools::Pools;
use super::relay::{self, Letterbox, Relay, Relays, tests as relaying};
use super::report::Report;
use super::tally::Tally;
use crate::admission::{ClientLimits, Clients, PendingPeers};
use crate::conn::Deadlines;
use crate::dispatch::{Accepted, Entrance, Intake, Overload, Queue, queue};
use crate::ring::{self, Abilities, BACKLOG, Epoll, Native, Ring, Sizes, Waker};

/// Fewer than clients, so that some wait in the lobby.
const SLOTS: u32 = 40;
const CLIENTS: usize = 150;
/// Long enough for all scenarios at the same time on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Sessions that are relayed at once, and what is said in each, which comes back.
const SESSIONS: usize = 60;
const SAID: usize = 40_000;
/// Generous; it only matters when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Enough for all: what the engine asks for.
const ROOMY: u32 = SLOTS + BACKLOG;

#[test]
fn everybody_is_served_on_every_rung_and_by_the_oldest_operations() {
    side_by_side(Abilities::fewer(), |abilities| {
        for exact in [false, true] {
            let overflows = serve_everybody(On::Ring(abilities, ROOMY), exact);
            assert_eq!(overflows, 0, "{abilities:?}: a queue of {ROOMY} entries is enough for {CLIENTS} clients");
        }
    });
}

#[test]
fn nobody_is_lost_when_the_completion_queue_overflows_and_it_is_counted() {
    side_by_side([Abilities::ALL].into_iter().chain(Abilities::fewer()), |abilities| {
        for completions in [2, 8] {
            let overflows = serve_everybody(On::Ring(abilities, completions), false);
            assert!(overflows > 0, "{abilities:?}: {CLIENTS} connections at once do not fit in {completions} entries");
        }
    });
}

#[test]
fn sessions_are_relayed_on_every_rung_and_by_the_oldest_operations() {
    side_by_side(Abilities::fewer_for_streams(), |abilities| {
        let overflows = relay_everybody(On::Ring(abilities, ROOMY));
        assert_eq!(overflows, 0, "{abilities:?}: a queue of {ROOMY} entries is enough for {SESSIONS} sessions");
    });
}

#[test]
fn no_byte_of_a_session_is_lost_when_the_completion_queue_overflows() {
    side_by_side([Abilities::ALL].into_iter().chain(Abilities::fewer_for_streams()), |abilities| {
        for completions in [2, 8] {
            let overflows = relay_everybody(On::Ring(abilities, completions));
            assert!(overflows > 0, "{abilities:?}: {SESSIONS} sessions at once do not fit in {completions} entries");
        }
    });
}

#[test]
fn everybody_is_served_on_epoll() {
    for exact in [false, true] {
        assert_eq!(serve_everybody(On::Epoll, exact), 0, "nothing can overflow");
    }
}

#[test]
fn sessions_are_relayed_on_epoll() {
    relay_everybody(On::Epoll);
}

/// A driver.
#[derive(Clone, Copy, Debug)]
enum On {
    /// A ring with so many completion queue entries.
    Ring(Abilities, u32),
    Epoll,
}

/// All at the same time: they spend it waiting for deadlines.
fn side_by_side(all: impl Iterator<Item = Abilities>, body: impl Fn(Abilities) + Sync) {
    let body = &body;
    thread::scope(|scope| {
        for abilities in all {
            scope.spawn(move || body(abilities));
        }
    });
}

/// [`CLIENTS`] clients that all wait in the backlog when the ring begins; gives the count of overflows.
fn serve_everybody(on: On, exact: bool) -> u64 {
    let what = format!("{on:?}, exact: {exact}");
    let listener = Listener::proxy(SocketAddr::from(([127, 0, 0, 1], 0)))
        .trust(["127.0.0.0/8".parse().expect("a network")])
        .timeout(TIMEOUT)
        .defer_accept(false);
    let sockets = ring::bind_group(listener.address, 1, listener.options()).expect("loopback has free ports");
    let address = sockets[0].local_addr().expect("bound");
    let visitors: Vec<Visitor> = (0..CLIENTS).map(|number| Visitor::connect(number, address)).collect();
    let tier = Tier::start(on, exact, listener, sockets, |_, _, _| {});
    visitors.iter().for_each(Visitor::send_rest);
    for (number, visitor) in visitors.into_iter().enumerate() {
        let expected = visitor.answer.clone();
        let said = visitor.read_to_end().unwrap_or_else(|error| panic!("client {number}: {error}: {what}"));
        assert_eq!(String::from_utf8_lossy(&said), expected, "client {number}: {what}");
    }
    let counted = tier.end();
    let fifth = CLIENTS as u64 / 5;
    let expected =
        [("accepted", 5 * fifth), ("proxied", 3 * fifth), ("absent", fifth), ("silent", fifth), ("stale", 0)];
    for (name, count) in expected {
        assert_eq!(counted(name), count, "{name}: {what}");
    }
    counted("cq-overflow")
}

/// [`SESSIONS`] clients that talk to a server through the ring, which must bring every byte of both, once and in order, and
/// both ends; gives the count of overflows.
fn relay_everybody(on: On) -> u64 {
    let what = format!("{on:?}");
    let listener = Listener::plain(SocketAddr::from(([127, 0, 0, 1], 0))).defer_accept(false);
    let sockets = ring::bind_group(listener.address, 1, listener.options()).expect("loopback has free ports");
    let address = sockets[0].local_addr().expect("bound");
    let clients: Vec<TcpStream> =
        (0..SESSIONS).map(|_| TcpStream::connect(address).expect("the backlog has room")).collect();
    let terms = Arc::new(Relay::new("imap-login", &relaying::backend(&[relaying::echo()])).terms);
    let tier = Tier::start(on, false, listener, sockets, move |relays, door, tally| {
        let (letterbox, tally) = (Letterbox::new(None), tally.clone());
        let sessions = relay::Parts { sessions: SESSIONS as u32, letterbox, tally, log: None };
        *relays = Relays::new(sessions, Instant::now());
        door.relay = Some(terms);
    });
    for (number, mut client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        client.write_all(&speech(number)).unwrap_or_else(|error| panic!("client {number}: {error}: {what}"));
        client.shutdown(Shutdown::Write).expect("still connected");
    }
    for (number, mut client) in clients.iter().enumerate() {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap_or_else(|error| panic!("client {number}: {error}: {what}"));
        let expected = [b"* OK ready\r\n", &speech(number)[..], b"* BYE\r\n"].concat();
        assert!(heard == expected, "client {number}: {} bytes of {}: {what}", heard.len(), expected.len());
    }
    drop(clients);
    let counted = tier.end();
    assert_eq!(counted("accepted"), SESSIONS as u64, "{what}");
    counted("cq-overflow")
}

/// What a client says: no two the same.
fn speech(number: usize) -> Vec<u8> {
    (0..SAID).map(|at| (at * (number + 3) % 251) as u8).collect()
}

/// A client with what it sends in two pieces and what it must get.
struct Visitor {
    stream: TcpStream,
    rest: Vec<u8>,
    answer: String,
}

impl Visitor {
    fn connect(number: usize, to: SocketAddr) -> Visitor {
        let stream = TcpStream::connect(to).expect("the backlog has room");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        let source = format!("198.18.{}.{}", number / 250, number % 250);
        let line = format!("PROXY TCP4 {source} 192.0.2.1 5000 143\r\n").into_bytes();
        let (bytes, first, answer) = match number % 5 {
            0 => ([&line[..], b"a NOOP\r\n"].concat(), usize::MAX, format!("{source}:5000 a NOOP\r\n")),
            1 => ([&line[..], b"b"].concat(), 10, format!("{source}:5000 b")),
            2 => (long_header(number), 20, format!("203.0.113.9:{number} ")),
            3 => (b"EHLO mail.example\r\n".to_vec(), usize::MAX, String::new()),
            _ => (Vec::new(), 0, String::new()),
        };
        let (now, rest) = bytes.split_at(first.min(bytes.len()));
        (&stream).write_all(now).expect("a fresh connection takes it");
        Visitor { stream, rest: rest.to_vec(), answer }
    }

    /// An answered client is done then; a refused one finds out by itself.
    fn send_rest(&self) {
        (&self.stream).write_all(&self.rest).expect("it is still awaited");
        if !self.answer.is_empty() {
            self.stream.shutdown(Shutdown::Write).expect("still connected");
        }
    }

    /// What it was told. A refused one may be told by a reset.
    fn read_to_end(mut self) -> std::io::Result<Vec<u8>> {
        let mut said = Vec::new();
        match self.stream.read_to_end(&mut said) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset && self.answer.is_empty() => {}
            ended => drop(ended?),
        }
        Ok(said)
    }
}

/// One that does not fit in a slot's own buffer.
fn long_header(port: usize) -> Vec<u8> {
    let noop = [&[4, 0x07, 0xd0][..], &[0; 2000]].concat();
    let port = (port as u16).to_be_bytes();
    let addresses = [203, 0, 113, 9, 192, 0, 2, 1, port[0], port[1], 0, 143];
    let rest = [&addresses[..], &noop].concat();
    [crate::proxy::V2_SIGNATURE, &[0x21, 0x11][..], &(rest.len() as u16).to_be_bytes(), &rest].concat()
}

/// A ring's thread and one worker.
struct Tier {
    ring: JoinHandle<()>,
    worker: JoinHandle<()>,
    commands: Sender<Command>,
    waker: Waker,
    tally: Arc<Tally>,
}

impl Tier {
    fn start(
        on: On,
        exact: bool,
        listener: Listener,
        sockets: Vec<Arc<TcpListener>>,
        change: impl FnOnce(&mut Relays<OwnedFd>, &mut Door, &Arc<Tally>) + Send + 'static,
    ) -> Tier {
        let (queue, intake) = queue("pool", 16, Overload::Pause);
        let (commands, inbox) = crossbeam_channel::bounded(1);
        let (waker, tally) = (Waker::new().expect("descriptors are free"), Tally::new());
        let (its_waker, its_tally) = (waker.clone(), tally.clone());
        let ring = thread::spawn(move || {
            let address = sockets[0].local_addr().expect("bound");
            let sizes = |completions| Sizes { slots: SLOTS, longest: 8192, completions, registered: true };
            let rest = Rest { exact, listener, address, queue, waker: its_waker.clone(), tally: its_tally, inbox };
            match on {
                On::Ring(abilities, completions) => {
                    let ring = Ring::with(abilities, sizes(completions), sockets, its_waker);
                    rest.run(ring.expect("this kernel has io_uring"), change);
                }
                On::Epoll => {
                    let epoll = Epoll::new(sizes(0), sockets, its_waker);
                    rest.run(epoll.expect("every kernel has epoll"), change);
                }
            }
        });
        Tier { ring, worker: thread::spawn(move || work(&intake)), commands, waker, tally }
    }

    /// Drains; gives the counters by name.
    fn end(self) -> impl Fn(&str) -> u64 {
        self.commands
            .send(Command::Drain { grace: TIMEOUT, sessions: TIMEOUT, taken_over: false })
            .expect("the ring turns");
        self.waker.wake();
        self.ring.join().expect("the ring's thread does not panic");
        self.worker.join().expect("the worker does not panic");
        let names = Tally::names();
        let mut totals = vec![0; names.len()];
        self.tally.add_counts_to(&mut totals);
        move |name| totals[names.iter().position(|known| *known == name).expect("a counter")]
    }
}

/// What a ring's thread is given beside its driver.
struct Rest {
    exact: bool,
    listener: Listener,
    address: SocketAddr,
    queue: Queue,
    waker: Waker,
    tally: Arc<Tally>,
    inbox: Receiver<Command>,
}

impl Rest {
    fn run<D: Native>(self, driver: D, change: impl FnOnce(&mut Relays<OwnedFd>, &mut Door, &Arc<Tally>)) {
        let mut deadlines = Deadlines::new(SLOTS, Instant::now());
        let mut sink = Pools::new(self.waker);
        sink.open(Entrance::Queue(self.queue));
        let mut door = self.listener.door(self.address, 0, self.exact, &mut deadlines).in_row(0, self.tally.row(0));
        let mut relays = Relays::none(self.tally.clone());
        change(&mut relays, &mut door, &self.tally);
        let parts = Parts {
            driver,
            sink,
            doors: vec![door],
            deadlines,
            relays,
            pools: 1,
            slots: SLOTS,
            handshakes: None,
            pending_limit: CLIENTS,
            peers: PendingPeers::default(),
            clients: Clients::new(ClientLimits::default(), Instant::now()),
            tally: self.tally.clone(),
            report: Arc::new(Report::default()),
        };
        super::mend::run(&mut Acceptor::new(parts), &self.inbox, &self.tally, &mut None);
    }
}

/// Tells every client its address and what it said.
fn work(intake: &Intake) {
    while let Some(connection) = intake.recv() {
        answer(connection).expect("the client waits");
    }
}

fn answer(connection: Accepted) -> std::io::Result<()> {
    let client = connection.client();
    let mut stream = connection.into_stream();
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    write!(stream, "{client} ")?;
    stream.write_all(&said)
}

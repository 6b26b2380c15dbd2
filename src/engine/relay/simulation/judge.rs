//! What is known of every session from outside, and whether what its ring does with it is just.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::kernel::{Conn, Kernel, Socket};
use super::{Promises, SLACK};
use crate::backend::ServerIndex;
use crate::engine::relay::Relays;
use crate::engine::relay::ending::PARTING_MAX;
use crate::engine::relay::opening::DOUBT;
use crate::engine::relay::session::{Phase, Session, UNASKED_AFTER};
use crate::relay::{End, TICK};

/// The book of a session.
#[derive(Debug)]
struct Book {
    service: usize,
    address: SocketAddr,
    /// The connections of its sides.
    client: usize,
    server: Option<usize>,
    /// Where it counts.
    counts_at: Option<ServerIndex>,
    stage: Stage,
    /// When it came to the present stage.
    since: Duration,
    /// When it waited for a server first.
    queued: Option<Duration>,
    /// The servers that it has tried since it last waited for one.
    tried: Vec<SocketAddr>,
    parted: Option<Duration>,
    late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Begun,
    Doubted,
    Queued,
    Connecting,
    Greeting,
    Open,
    Lingering,
    Parting,
}

#[derive(Debug)]
pub struct Judge {
    promises: Vec<Promises>,
    /// By the client's connection.
    books: BTreeMap<usize, Book>,
    pub begun: u64,
    /// Every session was ended.
    pub drained: bool,
    /// A ring has failed just now.
    pub broken: bool,
    /// Stages that some session has come to.
    pub reached: BTreeSet<Stage>,
}

impl Judge {
    pub fn new(promises: Vec<Promises>) -> Judge {
        let (books, reached) = (BTreeMap::new(), BTreeSet::new());
        Judge { promises, books, begun: 0, drained: false, broken: false, reached }
    }

    /// Of which service the session of a client is.
    pub fn service_of(&self, client: usize) -> usize {
        self.books[&client].service
    }

    /// A session is about to begin.
    pub fn begin(&mut self, client: usize, service: usize, address: SocketAddr, kernel: &Kernel) {
        let book = Book {
            service,
            address,
            client,
            server: None,
            counts_at: None,
            stage: Stage::Begun,
            since: kernel.now,
            queued: None,
            tried: Vec::new(),
            parted: None,
            late: false,
        };
        self.books.insert(client, book);
        self.begun += 1;
    }

    /// Sessions that count at a server.
    pub fn count_at(&self, service: usize, index: ServerIndex) -> usize {
        self.books.values().filter(|book| book.service == service && book.counts_at == Some(index)).count()
    }

    /// Looks at every session of a ring after something has happened there.
    pub fn sweep(&mut self, relays: &mut Relays<Socket>, kernel: &mut Kernel) {
        for slot in relays.sessions.ids().collect::<Vec<_>>() {
            let session = relays.sessions.get_mut(slot).expect("as listed");
            let book = self.books.get_mut(&session.client.conn).expect("it was begun");
            book.follow(session, kernel);
            self.reached.insert(book.stage);
            let latest = book.latest(&self.promises[book.service], kernel);
            if kernel.now > latest + TICK + SLACK + SLACK && !book.late {
                book.late = true;
                let of = |conn: usize| &kernel.conns[conn];
                let sides = format!("{:#?} {:#?}", of(book.client), book.server.map(of));
                kernel.blame(format!("a session outlives its deadline of {latest:?}: {book:?} {sides}"));
            }
        }
        for (address, end) in std::mem::take(&mut relays.witness.0) {
            let found = self.books.iter().find(|(_, book)| book.address == address).map(|(client, _)| *client);
            let Some(book) = found.and_then(|client| self.books.remove(&client)) else {
                kernel.blame(format!("the session of {address} ends twice"));
                continue;
            };
            let promises = &self.promises[book.service];
            let failed = end == End::RingFailed && self.broken && !book.can_go_on(kernel);
            if !knows_end(&kernel.conns[book.client], end) {
                let client = &kernel.conns[book.client];
                kernel.blame(format!("a client is not told by TLS how its session has ended, by {end:?}: {client:#?}"));
            }
            if !failed && !book.may_end(end, promises, kernel, self.drained) {
                let of = |conn: usize| &kernel.conns[conn];
                let sides = format!("{:#?} {:#?}", of(book.client), book.server.map(of));
                kernel.blame(format!("a session ends without reason by {end:?}: {book:?} {sides}"));
            }
        }
    }

    /// Nothing can happen before time passes: nothing may be left lying.
    pub fn check_quiet(&mut self, relays: &mut Relays<Socket>, kernel: &mut Kernel) {
        for slot in relays.sessions.ids().collect::<Vec<_>>() {
            let session = relays.sessions.get_mut(slot).expect("as listed");
            let book = &self.books[&session.client.conn];
            let client = &kernel.conns[book.client];
            let server = book.server.map(|server| &kernel.conns[server]);
            let lies = match (book.stage, server) {
                _ if client.is_kept_waiting() || server.is_some_and(Conn::is_kept_waiting) => {
                    Some("more should have followed")
                }
                _ if book.parted.is_some() => None,
                (Stage::Doubted, _) => client.has_something().then_some("a client that is doubted has spoken"),
                (Stage::Lingering, _) => client.has_something().then_some("a client that learns later has spoken"),
                (Stage::Queued | Stage::Connecting, _) if client.is_gone() => Some("its client has left"),
                (Stage::Connecting, Some(server)) => server.has_connected().then_some("its server is connected"),
                (Stage::Greeting | Stage::Open, Some(server)) => {
                    let greeted = server.read > 0 || !self.promises[book.service].speaks_first;
                    let held = session.pair.progress().1 > 0 && !client.wants_room && !server.wants_room;
                    let idle = session.opening.is_none() && !held;
                    lies(client, server, true)
                        .or_else(|| lies(server, client, greeted))
                        .or_else(|| (!idle).then_some("a buffer is held for nothing"))
                        .or_else(|| lie_in_records(session, client).then_some("records are held for nothing"))
                }
                _ => None,
            };
            if let Some(what) = lies {
                kernel.blame(format!("{what}: {book:?} {client:#?} {server:#?}"));
            }
        }
    }
}

/// What is left lying on its way `to` a side; `passes`: an end may be passed on.
fn lies(to: &Conn, from: &Conn, passes: bool) -> Option<&'static str> {
    if to.wants_room || to.met_error {
        return None;
    }
    let ended = from.read_end.is_some() && !from.met_error;
    match () {
        () if from.has_something() => Some("something is not read"),
        () if !to.has_all_of(from) => Some("something is not sent"),
        () if ended && passes && !to.shut && to.read_end.is_none() => Some("an end is not passed on"),
        () => None,
    }
}

/// Whether records wait though the client has room for them.
fn lie_in_records(session: &Session<Socket>, client: &Conn) -> bool {
    session.tls.as_ref().is_some_and(|tls| tls.has_unsent()) && !client.wants_room && !client.met_error
}

impl Book {
    /// Notes what has become of a session.
    fn follow(&mut self, session: &Session<Socket>, kernel: &mut Kernel) {
        let server = session.server.as_ref().map(|server| server.conn);
        self.counts_at = session.chosen;
        if let Some(met) = server
            && server != self.server
        {
            self.meet(met, kernel);
        }
        let stage = match session.phase {
            Phase::Queued { .. } => Stage::Queued,
            Phase::Connecting => Stage::Connecting,
            Phase::Greeting => Stage::Greeting,
            Phase::Open => Stage::Open,
            Phase::Parting { .. } => Stage::Parting,
            Phase::Doubted { .. } => Stage::Doubted,
            Phase::Lingering { .. } => Stage::Lingering,
        };
        if self.stage == Stage::Doubted && stage != Stage::Doubted {
            let client = &kernel.conns[self.client];
            if kernel.now < self.since + DOUBT
                && client.read == 0
                && !client.touched
                && client.inbound == 0
                && !client.has_something()
            {
                kernel.blame(format!("a silent session is doubted no more before its time: {self:?}"));
            }
        }
        if stage == Stage::Lingering && !self.sides(kernel).1.is_some_and(Conn::has_something) {
            kernel.blame(format!("the client of a server that has not ended is kept from something: {self:?}"));
        }
        if stage == Stage::Parting {
            // In place of the stage before, which is kept.
            self.parted.get_or_insert(kernel.now);
        } else if stage != self.stage {
            self.stage = stage;
            self.since = kernel.now;
        }
        if stage == Stage::Queued {
            self.tried.clear();
            self.queued.get_or_insert(kernel.now);
        }
    }

    /// A server is tried.
    fn meet(&mut self, server: usize, kernel: &mut Kernel) {
        self.server = Some(server);
        kernel.join(self.client, server);
        let address = kernel.conns[server].address;
        if self.tried.contains(&address) {
            kernel.blame(format!("{address} is tried again: {self:?}"));
        }
        self.tried.push(address);
    }

    /// Whether it has to go on when its ring fails. What is held for somebody who takes nothing may be too much to take along.
    fn can_go_on(&self, kernel: &Kernel) -> bool {
        let (client, server) = self.sides(kernel);
        let flows = |conn: &Conn| !conn.wants_room && !conn.met_error;
        // Only the kernel can go on with TLS.
        if client.records.as_ref().is_some_and(|records| !records.in_kernel) {
            return false;
        }
        matches!(self.stage, Stage::Greeting | Stage::Open) && flows(client) && server.is_some_and(flows)
    }

    fn sides<'a>(&self, kernel: &'a Kernel) -> (&'a Conn, Option<&'a Conn>) {
        (&kernel.conns[self.client], self.server.map(|server| &kernel.conns[server]))
    }

    /// When it must be over at the latest, or in another stage.
    fn latest(&self, promises: &Promises, kernel: &Kernel) -> Duration {
        match self.parted {
            Some(parted) => parted + PARTING_MAX,
            None => self.deadline(promises, kernel),
        }
    }

    fn deadline(&self, promises: &Promises, kernel: &Kernel) -> Duration {
        let Promises { pace, connect, queue, .. } = promises;
        match self.stage {
            Stage::Begun | Stage::Parting => self.since,
            Stage::Doubted => self.since + DOUBT,
            Stage::Lingering => self.since + promises.delay,
            // Who comes back to the line when its time is up may find that out there.
            Stage::Queued => self.since.max(self.queued.unwrap_or(self.since) + *queue),
            Stage::Connecting => self.since + *connect,
            Stage::Greeting => self.since + pace.greeting,
            Stage::Open => match self.half_closed(kernel) {
                Some(since) => since.max(self.active(kernel)) + pace.half_closed,
                None => self.active(kernel) + pace.idle,
            },
        }
    }

    /// When somebody last said something, or took it.
    fn active(&self, kernel: &Kernel) -> Duration {
        let (client, server) = self.sides(kernel);
        // What a client is told by TLS at the end is no sign of life.
        let told = client.records.is_some() && client.closed.is_some() && client.active == Some(kernel.now);
        let of_client = if told { client.active_before } else { client.active };
        let said = [of_client, server.and_then(|server| server.active)].into_iter().flatten().max();
        said.unwrap_or_default().max(if self.stage == Stage::Open { self.opened(kernel) } else { self.since })
    }

    /// When the server was connected: where nobody greets, a session is open from then on.
    fn opened(&self, kernel: &Kernel) -> Duration {
        let (_, server) = self.sides(kernel);
        if server.is_some_and(|server| server.read > 0) { Duration::ZERO } else { self.since }
    }

    /// How long nobody had said anything when the server ended; where nobody ever had, since it was connected.
    fn silence(&self, server: &Conn) -> Duration {
        let connected = || server.read_end.map_or(Duration::ZERO, |end| end.saturating_sub(self.since));
        server.silence.unwrap_or_else(connected)
    }

    /// Since when one side's stream has ended.
    fn half_closed(&self, kernel: &Kernel) -> Option<Duration> {
        let (client, server) = self.sides(kernel);
        [client.read_end, server.and_then(|server| server.read_end)].into_iter().flatten().max()
    }

    /// Whether the session may end so, now.
    fn may_end(&self, end: End, promises: &Promises, kernel: &Kernel, drained: bool) -> bool {
        let (client, server) = self.sides(kernel);
        let in_time = |stages: &[Stage]| {
            stages.contains(&self.stage) && self.parted.unwrap_or(kernel.now) >= self.deadline(promises, kernel)
        };
        let unheard = server.is_some_and(|server| server.read == 0);
        match end {
            End::ClientClosed | End::ServerClosed | End::ServerLeft => server.is_some_and(|server| {
                let unasked = self.silence(server) >= UNASKED_AFTER && end != End::ClientClosed;
                let fitting = unasked == (end == End::ServerLeft);
                is_orderly(client, server, kernel.now) && first_is(end, client, server) && fitting
            }),
            End::ClientReset => server.is_some_and(|server| is_reset(client, server)),
            End::ServerReset => server.is_some_and(|server| is_reset(server, client)),
            End::ClientLeft => {
                matches!(self.stage, Stage::Begun | Stage::Doubted | Stage::Queued | Stage::Connecting)
                    && client.is_gone()
            }
            End::IdleTimeout => in_time(&[Stage::Open]) && self.half_closed(kernel).is_none(),
            End::HalfClosedTimeout => in_time(&[Stage::Open]) && self.half_closed(kernel).is_some(),
            End::ConnectTimeout => in_time(&[Stage::Connecting]),
            End::QueueTimeout => in_time(&[Stage::Queued]),
            End::GreetingTimeout => in_time(&[Stage::Greeting]) && unheard,
            End::NoGreeting => unheard && server.is_some_and(|server| server.read_end.is_some() || server.met_error),
            End::NoServer => self.server.is_none(),
            End::ConnectFailed | End::QueueFull => {
                matches!(self.stage, Stage::Begun | Stage::Doubted | Stage::Queued | Stage::Connecting)
            }
            End::Probe => self.stage == Stage::Doubted && client.has_something(),
            End::OutOfResources => kernel.scarcity || self.stage == Stage::Begun,
            End::Drained => drained,
            End::PrefaceRefused | End::FilterRefused | End::ServerDown | End::Killed | End::RingFailed => false,
        }
    }
}

/// Whether a client by TLS was told that nothing follows, if that is so and it could be: not for a server that was reset,
/// behind which something may be missing, unless that had ended its stream before.
fn knows_end(client: &Conn, end: End) -> bool {
    match end {
        End::ServerReset => client.records.is_none() || client.shut || !client.heard_end(),
        End::ClientReset | End::ClientLeft | End::RingFailed | End::OutOfResources => true,
        _ => client.heard_end() || client.wants_room || client.is_gone() || client.met_error,
    }
}

/// Both have ended their streams, and each got all of the other's before it was closed without a reset.
fn is_orderly(client: &Conn, server: &Conn, now: Duration) -> bool {
    let ended = |conn: &Conn| conn.read_end.is_some() && !conn.has_failed(now);
    let closed = |conn: &Conn| conn.closed.is_some_and(|closed| !closed.by_reset);
    let all = client.has_all_of(server) && server.has_all_of(client);
    all && [client, server].into_iter().all(|conn| ended(conn) && closed(conn))
}

fn first_is(end: End, client: &Conn, server: &Conn) -> bool {
    match end {
        End::ClientClosed => client.read_end <= server.read_end,
        _ => server.read_end <= client.read_end,
    }
}

/// One was reset: the other has got all that was read, and is reset too unless something was still on its way to it.
fn is_reset(one: &Conn, other: &Conn) -> bool {
    let passed_on = other.closed.is_some_and(|closed| closed.by_reset || closed.unsent > 0) || other.is_gone();
    one.met_error && (other.has_all_of(one) || other.met_error) && passed_on
}

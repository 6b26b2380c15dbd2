//! A scripted kernel: connections, watches that tell as an edge-triggered poll does, and errors as the seed decides.
//!
//! It keeps book of every socket, compares every byte that is sent with what was said at the other end, and writes down
//! what must not happen.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::peer::{Act, Pace, Peer, Seen};
use super::records::{Brings, Records};
use crate::relay::{Forward, Side};
use crate::ring::{Errno, Readiness, Streams};

/// Bytes before the length in a header of version 2, and with it.
const HEADER_FIXED: usize = 16;
/// Events per thousand that run into each kind of trouble.
const TROUBLE: u32 = 15;
/// How a connect may fail at once for reasons that other servers would share.
pub const OWN_ERRORS: [i32; 3] = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL];
/// Where the workers of a pool seem to listen.
const WORKER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// What they take for the patience of a session.
const PAIRS_PACE: Duration = Duration::from_secs(4);
/// How a connect may fail at once or later.
const CONNECT_ERRORS: [i32; 3] = [libc::ECONNREFUSED, libc::ENETUNREACH, libc::EHOSTUNREACH];

/// A connection, with both its ends.
#[derive(Debug)]
pub struct Conn {
    /// Whose end the other one is.
    pub side: Side,
    ring: usize,
    pub address: SocketAddr,
    pub state: State,
    pub peer: Peer,
    /// Its TLS, which ends here: what has arrived and what was taken are bytes of records, what was read and sent is plaintext.
    pub records: Option<Records>,
    /// The connection at the session's other side.
    pub partner: Option<usize>,
    /// Bytes that have arrived and were not read; how many may.
    pub inbound: usize,
    pub inbound_max: usize,
    /// Something was read, be it a part of a record.
    pub touched: bool,
    /// Bytes that we have read; the end was read, or an error met, at a time.
    pub read: usize,
    pub read_end: Option<Duration>,
    /// How long nothing had gone in or out at either side then.
    pub silence: Option<Duration>,
    pub met_error: bool,
    /// When a send met one first.
    pub met_in_send: Option<Duration>,
    fin: bool,
    reset: bool,
    error: Option<i32>,
    /// Bytes of ours that the kernel has taken; of them, those that the peer has not read; how many of these may be.
    pub sent: usize,
    pub outbound: usize,
    outbound_max: usize,
    /// How it learns of the client, and what was said to it first, as far as it is known.
    forward: Forward,
    head: Vec<u8>,
    /// It was told something of ours in place of a server's words.
    text: bool,
    /// A send had no room, and it was not told yet that there is some again.
    pub wants_room: bool,
    /// The last bytes were sent with the word that more follows at once, and nothing has.
    pub corked: bool,
    pub shut: bool,
    pub lingers: bool,
    /// It was closed; how: with what unread, and what unsent.
    pub closed: Option<Closed>,
    /// When bytes last went in or out.
    pub active: Option<Duration>,
    /// When they did before that.
    pub active_before: Option<Duration>,
    watch: Option<(u32, u32)>,
    /// Something has happened that its watch is to tell.
    wake: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Closed {
    pub by_reset: bool,
    pub unsent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Until when, and with what error it then fails; without a time for ever.
    Connecting(Option<Duration>, Option<i32>),
    Open,
    Failed,
}

/// A server, as those see it who connect to it.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub address: SocketAddr,
    pub pace: Pace,
    pub speaks_first: bool,
    pub forward: Forward,
    /// So many of ten connects fail.
    pub fails: u8,
    /// Nobody may connect to it now.
    pub forbidden: bool,
}

/// A readiness on its way to a ring.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub place: u32,
    pub generation: u32,
    pub readiness: Readiness,
    pub armed: bool,
}

pub struct Kernel {
    pub rng: Rng,
    base: Instant,
    pub now: Duration,
    pub conns: Vec<Conn>,
    /// By ring.
    pub told: Vec<VecDeque<Told>>,
    pub servers: Vec<Server>,
    /// A connect has failed for want of something of our own.
    pub scarcity: bool,
    pub violations: Vec<String>,
    /// A hash of everything that was told and asked, to compare two runs of one seed.
    pub trace: u64,
}

/// A socket of the scripted kernel; dropping it closes it.
pub struct Socket {
    pub conn: usize,
    end: End,
    kernel: Rc<RefCell<Kernel>>,
}

/// Whose end of a connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ours,
    /// The other one of a pair, for a worker.
    Workers,
    /// A worker has got it.
    Given,
}

impl Socket {
    /// A worker gets it, who does as his script says.
    pub fn give(mut self) {
        self.end = End::Given;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut kernel = self.kernel.borrow_mut();
        match self.end {
            End::Ours => kernel.close(self.conn),
            End::Workers => {
                let now = kernel.now;
                kernel.conns[self.conn].perform(Act::Close, now);
            }
            End::Given => {}
        }
    }
}

impl Conn {
    fn new(side: Side, ring: usize, address: SocketAddr, state: State, peer: Peer, rng: &mut Rng) -> Conn {
        let sizes = [1_000, 5_000, 70_000, 300_000];
        let [inbound_max, outbound_max] = [(); 2].map(|()| *rng.choice(&sizes).expect("there are some"));
        Conn {
            side,
            ring,
            address,
            state,
            peer,
            records: None,
            partner: None,
            inbound: 0,
            inbound_max,
            touched: false,
            read: 0,
            read_end: None,
            silence: None,
            met_error: false,
            met_in_send: None,
            fin: false,
            reset: false,
            error: None,
            sent: 0,
            outbound: 0,
            outbound_max,
            forward: Forward::None,
            head: Vec::new(),
            text: false,
            wants_room: false,
            corked: false,
            shut: false,
            lingers: false,
            closed: None,
            active: None,
            active_before: None,
            watch: None,
            wake: false,
        }
    }

    /// Its state as poll(2) would tell it.
    fn readiness(&self) -> Readiness {
        let gone = self.reset || self.state == State::Failed;
        let open = self.state == State::Open;
        let broken = gone || self.error.is_some() || (self.fin && self.shut);
        Readiness {
            readable: (open && (self.inbound > 0 || self.fin)) || broken,
            writable: (open && self.has_room()) || broken,
            ended: self.fin || broken,
            broken,
        }
    }

    fn has_room(&self) -> bool {
        self.outbound * 3 <= self.outbound_max * 2
    }

    /// Whether a read would find something that was not found yet.
    pub fn has_something(&self) -> bool {
        let ended = self.fin || self.is_gone();
        let arrived = match &self.records {
            // Of a part of a record nothing is told.
            Some(records) if records.in_kernel => records.next_whole(self.inbound).is_some(),
            _ => self.inbound > 0,
        };
        self.state != State::Failed && (arrived || (ended && self.read_end.is_none()))
    }

    /// Whether its last bytes wait for others that were announced, and do not come.
    pub fn is_kept_waiting(&self) -> bool {
        self.corked && !self.wants_room
    }

    /// Whether a client by TLS was told that nothing follows; whoever speaks without is told by the end of the connection.
    pub fn heard_end(&self) -> bool {
        self.records.as_ref().is_none_or(|records| records.heard_end)
    }

    /// Whether an error was met, but for one of the last words by TLS when its session had ended already.
    pub fn has_failed(&self, now: Duration) -> bool {
        let at_last = self.records.is_some() && self.closed.is_some() && self.met_in_send == Some(now);
        self.met_error && !at_last
    }

    /// Whether what it reads and writes at its socket is plaintext.
    fn is_plain(&self) -> bool {
        self.records.as_ref().is_none_or(|records| records.in_kernel)
    }

    /// Whether the connection is gone, as whoever asks would find.
    pub fn is_gone(&self) -> bool {
        self.reset || self.state == State::Failed
    }

    /// Whether its connect has ended.
    pub fn has_connected(&self) -> bool {
        !matches!(self.state, State::Connecting(..))
    }

    /// What of the client's own was sent to this server.
    pub fn passed_on(&self) -> usize {
        header_len(&self.head, self.forward).map_or(0, |header| self.sent.saturating_sub(header))
    }

    /// Whether it has got everything that the other side has said.
    pub fn has_all_of(&self, other: &Conn) -> bool {
        let own = if self.side == Side::Server { self.passed_on() } else { self.sent };
        own == other.read
    }

    fn next_event(&self) -> Option<Duration> {
        let connects = match self.state {
            State::Connecting(until, _) => return until,
            State::Failed => return None,
            State::Open if self.reset => return None,
            State::Open => self.peer.next(),
        };
        let reads = self.outbound > 0 && self.peer.reader.patience > self.peer.heard;
        connects.into_iter().chain(reads.then_some(self.peer.reader.next)).min()
    }

    fn perform(&mut self, act: Act, now: Duration) {
        if self.closed.is_some() {
            return match act {
                Act::Send(_) => {
                    self.peer.sees(Seen::Reset, now);
                    self.leave();
                }
                Act::End | Act::Close | Act::Reset => self.leave(),
            };
        }
        self.wake = true;
        if self.leaves_by_tls(act, now) {
            return;
        }
        match act {
            Act::Send(count) if self.records.is_some() => self.arrive_in_records(count, now),
            Act::Send(count) => self.arrive(count, now),
            Act::Reset => self.reset_by_peer(),
            Act::Close if self.outbound > 0 => self.reset_by_peer(),
            Act::Close | Act::End => {
                self.fin = true;
                self.peer.closed = act == Act::Close;
                self.leave();
            }
        }
    }

    pub fn leave(&mut self) {
        self.peer.left = true;
        self.peer.acts.clear();
    }

    /// Whether it has said this, and we have read it.
    fn has_said(&self, at: usize, bytes: &[u8]) -> bool {
        self.read >= at + bytes.len() && self.peer.speech.bytes(at, bytes.len()) == bytes
    }

    fn receive_plain(&mut self, room: &mut [u8], now: Duration) -> usize {
        let count = self.inbound.min(room.len());
        if count > 0 {
            room[..count].copy_from_slice(self.peer.speech.bytes(self.read, count));
            self.inbound -= count;
            self.read += count;
            self.acts(now);
        }
        count
    }

    /// Bytes go in or out.
    fn acts(&mut self, now: Duration) {
        if self.active != Some(now) {
            self.active_before = self.active;
        }
        self.active = Some(now);
    }

    /// Whoever has waited for room to say more goes on.
    fn is_read(&mut self, now: Duration) {
        self.touched = true;
        if self.peer.due == Duration::MAX {
            self.peer.due = now;
        }
    }

    fn arrive(&mut self, count: usize, now: Duration) {
        let room = self.inbound_max - self.inbound;
        let fits = count.min(room);
        self.inbound += fits;
        self.peer.said += fits;
        if fits == count {
            self.peer.done(now);
        } else {
            self.peer.acts[0].1 = Act::Send(count - fits);
            self.peer.due = Duration::MAX;
        }
    }

    fn reset_by_peer(&mut self) {
        self.leave();
        self.outbound = 0;
        if self.closed.is_none() {
            self.reset = true;
            self.error = Some(if self.fin { libc::EPIPE } else { libc::ECONNRESET });
            self.wake = true;
        }
    }

    /// Keeps what was said first to a server.
    fn note_head(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
        if let Some(len) = header_len(&self.head, self.forward) {
            self.head.truncate(len);
        }
    }
}

/// The length of the header, when it is known.
fn header_len(head: &[u8], forward: Forward) -> Option<usize> {
    match forward {
        Forward::ProxyV2 => {
            let len = head.get(HEADER_FIXED - 2..HEADER_FIXED)?;
            Some(HEADER_FIXED + usize::from(u16::from_be_bytes([len[0], len[1]])))
        }
        Forward::ProxyV1 => head.windows(2).position(|end| end == b"\r\n").map(|at| at + 2),
        _ => Some(0),
    }
}

/// Whether a header, as far as it is there, names this port as the client's.
fn names(head: &[u8], forward: Forward, port: u16) -> bool {
    const INET: u8 = 0x11;
    match forward {
        Forward::ProxyV2 => {
            let at = if head.get(13) == Some(&INET) { 24 } else { 48 };
            head.get(at..at + 2).is_none_or(|named| named == port.to_be_bytes())
        }
        Forward::ProxyV1 => {
            let fields: Vec<&[u8]> = head.split(|byte| *byte == b' ').collect();
            fields.len() < 6 || fields[4] == port.to_string().as_bytes()
        }
        _ => true,
    }
}

impl Kernel {
    pub fn new(seed: u64, rings: usize, base: Instant) -> Kernel {
        Kernel {
            rng: Rng::with_seed(seed),
            base,
            now: Duration::ZERO,
            conns: Vec::new(),
            told: vec![VecDeque::new(); rings],
            servers: Vec::new(),
            scarcity: false,
            violations: Vec::new(),
            trace: 0,
        }
    }

    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// A client has connected, and so many of its bytes came with its header.
    pub fn admit(&mut self, ring: usize, address: SocketAddr, mut peer: Peer, early: usize) -> usize {
        peer.said = early;
        let mut conn = Conn::new(Side::Client, ring, address, State::Open, peer, &mut self.rng);
        conn.read = early;
        self.conns.push(conn);
        self.conns.len() - 1
    }

    /// The client that was admitted last speaks TLS: so much of what it has said was read in its handshake.
    pub fn secure(&mut self, index: usize, records: Records, read: usize) {
        let conn = &mut self.conns[index];
        conn.read = read;
        conn.inbound = records.unread().len();
        conn.records = Some(records);
    }

    /// Two connections are the sides of a session.
    pub fn join(&mut self, client: usize, server: usize) {
        self.conns[client].partner = Some(server);
        self.conns[server].partner = Some(client);
    }

    pub fn blame(&mut self, what: String) {
        self.violations.push(format!("at {:?}: {what}", self.now));
    }

    pub fn note(&mut self, what: u64, which: u64) {
        self.trace =
            (self.trace ^ (what << 56 | which << 32 | self.now.as_micros() as u64)).wrapping_mul(0x100_0000_01b3);
    }

    /// A server dies: its sockets are closed, and so none has a last word.
    pub fn kill(&mut self, server: SocketAddr) {
        let of_it = |conn: &&mut Conn| conn.side == Side::Server && conn.address == server;
        for conn in self.conns.iter_mut().filter(of_it).filter(|conn| conn.state == State::Open && !conn.reset) {
            if conn.peer.left {
                continue;
            }
            conn.wake = true;
            match conn.outbound {
                0 => conn.fin = true,
                _ => conn.reset_by_peer(),
            }
            conn.peer.closed = true;
            conn.leave();
        }
    }

    fn trouble(&mut self) -> bool {
        self.rng.u32(..1000) < TROUBLE
    }

    /// Everything that is due happens, and what must be told of it is told, or a little later.
    pub fn run(&mut self) {
        for index in 0..self.conns.len() {
            self.settle_connect(index);
            self.listen(index);
            self.act(index);
        }
        let mut order: Vec<usize> = (0..self.conns.len()).collect();
        self.rng.shuffle(&mut order);
        for index in order {
            let spurious = self.conns[index].watch.is_some() && self.trouble();
            let wakes = self.conns[index].wake && self.rng.u8(..4) > 0;
            if spurious || wakes {
                self.tell(index);
            }
        }
    }

    /// Whether a readiness is still to be told.
    pub fn is_restless(&self) -> bool {
        self.conns.iter().any(|conn| conn.wake && conn.watch.is_some() && conn.readiness() != Readiness::default())
    }

    /// When something happens next of the peers' accord.
    pub fn next_event(&self) -> Option<Duration> {
        self.conns.iter().filter_map(|conn| conn.next_event()).min()
    }

    fn tell(&mut self, index: usize) {
        // Now and then the kernel ends a watch together with a readiness: its completion queue was full.
        let armed = !self.trouble();
        let conn = &mut self.conns[index];
        let Some((place, generation)) = conn.watch else { return };
        let readiness = conn.readiness();
        conn.wake = false;
        if readiness == Readiness::default() {
            return;
        }
        if !armed {
            conn.watch = None;
        }
        let ring = conn.ring;
        self.told[ring].push_back(Told { place, generation, readiness, armed });
    }

    fn settle_connect(&mut self, index: usize) {
        let now = self.now;
        let conn = &mut self.conns[index];
        let State::Connecting(Some(until), error) = conn.state else { return };
        if until > now {
            return;
        }
        conn.state = if error.is_none() { State::Open } else { State::Failed };
        conn.error = error;
        conn.wake = true;
    }

    /// The peer reads.
    fn listen(&mut self, index: usize) {
        let now = self.now;
        let conn = &mut self.conns[index];
        if conn.state != State::Open || conn.reset {
            return;
        }
        let peer = &mut conn.peer;
        if conn.outbound > 0 && peer.closed {
            return conn.reset_by_peer();
        }
        let count = conn.outbound.min(peer.reader.chunk).min(peer.reader.patience.saturating_sub(peer.heard));
        if count > 0 && peer.reader.next <= now {
            peer.heard += count;
            peer.reader.next = now + peer.reader.pace;
            conn.outbound -= count;
            if conn.wants_room && conn.has_room() {
                conn.wants_room = false;
                conn.wake = true;
            }
        }
        if conn.outbound == 0 && (conn.shut || conn.closed.is_some()) {
            conn.peer.sees(Seen::End, now);
        }
    }

    /// The peer does what it is time for.
    fn act(&mut self, index: usize) {
        self.allow_faults(index);
        let now = self.now;
        let conn = &mut self.conns[index];
        while conn.state == State::Open && !conn.reset && !conn.peer.acts.is_empty() && conn.peer.due <= now {
            let (_, act) = conn.peer.acts[0];
            conn.perform(act, now);
        }
        self.hush(index);
    }

    /// Of a client that has broken the protocol of TLS the server is silent from then on: behind our own `close_notify` rustls
    /// takes no fault for possible, and panics in debug builds.
    fn hush(&mut self, client: usize) {
        let has_broken = self.conns[client].records.as_ref().is_some_and(|records| records.has_broken);
        if let Some(server) = self.conns[client].partner.filter(|_| has_broken) {
            self.conns[server].leave();
        }
    }

    /// Clients may break the protocol as long as their server has not ended.
    fn allow_faults(&mut self, client: usize) {
        let server = self.conns[client].partner.map(|server| &self.conns[server]);
        let allowed = server.is_some_and(|server| server.state == State::Open && !server.fin && !server.reset);
        if let Some(records) = &mut self.conns[client].records {
            records.may_break = allowed;
        }
    }

    fn close(&mut self, index: usize) {
        self.note(1, index as u64);
        let delivered = self.rng.f64();
        let now = self.now;
        let conn = &mut self.conns[index];
        let twice = conn.closed.is_some();
        // Of a record that never became whole nothing was ever told.
        let in_kernel = conn.records.as_ref().is_some_and(|records| records.in_kernel);
        let by_reset = conn.lingers || (conn.inbound > 0 && (!in_kernel || conn.has_something()));
        conn.closed = Some(Closed { by_reset, unsent: conn.outbound });
        if by_reset {
            // Of what was under way, some had arrived.
            conn.peer.heard += (conn.outbound as f64 * delivered) as usize;
            conn.outbound = 0;
            conn.peer.sees(Seen::Reset, now);
        }
        if twice {
            self.blame(format!("connection {index} was closed twice"));
        }
    }

    /// No watch may be left on a socket that was closed.
    /// A ring is gone, with its watches and whatever they would have told.
    pub fn break_ring(&mut self, ring: usize) {
        self.told[ring].clear();
        for conn in self.conns.iter_mut().filter(|conn| conn.ring == ring) {
            conn.watch = None;
        }
    }

    pub fn check_watches(&mut self) {
        for index in 0..self.conns.len() {
            if self.conns[index].closed.is_some() && self.conns[index].watch.is_some() {
                self.blame(format!("connection {index} was closed, and is watched"));
            }
        }
    }

    fn check_open(&mut self, index: usize, what: &str) {
        if self.conns[index].closed.is_some() {
            self.blame(format!("connection {index} is closed: {what}"));
        }
    }

    /// Compares what is sent to a side with what the other side has said.
    fn check_bytes(&mut self, index: usize, bytes: &[u8]) {
        let conn = &self.conns[index];
        let at = conn.sent;
        let partner = conn.partner.map(|partner| &self.conns[partner]);
        let expected = match conn.side {
            Side::Server => return self.check_to_server(index, bytes),
            Side::Client => partner.filter(|server| server.closed.is_none()),
        };
        let Some(server) = expected else {
            // Nobody serves it: words of our own, unless it has got a server's.
            let first = conn.sent == 0 || conn.text;
            self.conns[index].text = true;
            if !first {
                self.blame(format!("client {index} is told something behind a server's words"));
            }
            return;
        };
        if !server.has_said(at, bytes) {
            self.blame(format!("client {index} gets {} bytes that its server did not say at {at}", bytes.len()));
        }
    }

    /// Compares what a client has got by TLS with what its server has said: it may have waited in records until that was gone.
    fn check_words(&mut self, index: usize, words: &[u8]) {
        let conn = &self.conns[index];
        let server = conn.partner.map(|partner| &self.conns[partner]);
        if words.is_empty() || server.is_some_and(|server| server.has_said(conn.sent, words)) {
            return;
        }
        if conn.partner.is_some_and(|partner| self.conns[partner].closed.is_none()) {
            let (count, at) = (words.len(), conn.sent);
            return self.blame(format!("client {index} gets {count} bytes by TLS that its server did not say at {at}"));
        }
        self.check_bytes(index, words);
    }

    fn check_to_server(&mut self, index: usize, bytes: &[u8]) {
        let conn = &self.conns[index];
        let Some(client) = conn.partner.map(|partner| &self.conns[partner]) else {
            return self.blame(format!("server {index} gets bytes for nobody"));
        };
        let mut head = conn.head.clone();
        if header_len(&head, conn.forward).is_none_or(|len| head.len() < len) {
            head.extend_from_slice(bytes);
        }
        let Some(len) = header_len(&head, conn.forward) else { return };
        let skipped = len.saturating_sub(conn.sent).min(bytes.len());
        let (own, at) = (&bytes[skipped..], (conn.sent + skipped).saturating_sub(len));
        let said = client.has_said(at, own);
        let upto = at + own.len();
        let announced = names(&head[..len.min(head.len())], conn.forward, client.address.port());
        if !said || !announced {
            let count = bytes.len();
            self.blame(format!("server {index} gets {count} bytes that its client did not say at {at}"));
        }
        self.note_offer(index, upto);
    }

    /// What a client has said by TLS is offered to its server as soon as it comes out of its records.
    fn note_offer(&mut self, server: usize, upto: usize) {
        let now = self.now;
        let Some(client) = self.conns[server].partner.map(|client| &mut self.conns[client]) else { return };
        if let Some(records) = client.records.as_mut().filter(|records| records.offered < upto) {
            records.offered = upto;
            client.acts(now);
        }
    }

    /// A client's TLS has ended, by `close_notify`, with its connection, or by a fault of its own: known when all that stood
    /// before it was passed on.
    fn settle_records(&mut self, index: usize) {
        let conn = &self.conns[index];
        let Some(last) = conn.records.as_ref().and_then(|records| records.last) else { return };
        let server = conn.partner.map(|partner| &self.conns[partner]);
        let passed_on =
            server.is_none_or(|server| server.closed.is_some() || server.met_error || server.passed_on() == conn.read);
        if conn.read_end.is_none() && passed_on {
            self.conns[index].met_error |= last == Brings::Fault;
            self.note_end(index);
        }
    }

    /// An end was read.
    fn note_end(&mut self, index: usize) {
        let (now, conn) = (self.now, &mut self.conns[index]);
        if conn.read_end.is_none() {
            conn.read_end = Some(now);
            let sides = [Some(index), conn.partner].into_iter().flatten();
            let active = sides.filter_map(|side| self.conns[side].active).max();
            self.conns[index].silence = active.map(|active| now - active);
        }
    }

    /// An end may be passed on once, and behind everything that came before it.
    fn check_shutdown(&mut self, index: usize) {
        let conn = &self.conns[index];
        let other = conn.partner.map(|partner| &self.conns[partner]).filter(|other| other.closed.is_none());
        let speaks_first = self.servers.iter().any(|server| server.address == conn.address && server.speaks_first);
        let legal = match other {
            _ if conn.shut => false,
            None => conn.side == Side::Client,
            Some(other) => {
                let greeted = conn.side == Side::Client || conn.read > 0 || !speaks_first;
                conn.is_gone() || (greeted && other.read_end.is_some() && conn.has_all_of(other))
            }
        };
        if !legal {
            self.blame(format!("connection {index} is ended before its time, or twice"));
        }
        // Last words that nobody has room for are lost.
        if !conn_knows_end(&self.conns[index]) {
            self.blame(format!("connection {index} is ended without close_notify"));
        }
    }
}

/// Whether a client by TLS whose connection is ended was told so before, if it could be.
fn conn_knows_end(conn: &Conn) -> bool {
    conn.heard_end() || conn.wants_room || conn.is_gone() || conn.met_error
}

/// The scripted ring.
pub struct Script {
    kernel: Rc<RefCell<Kernel>>,
    ring: usize,
}

impl Script {
    pub fn new(kernel: Rc<RefCell<Kernel>>, ring: usize) -> Script {
        Script { kernel, ring }
    }

    pub fn socket(&self, conn: usize) -> Socket {
        Socket { conn, end: End::Ours, kernel: self.kernel.clone() }
    }
}

impl Streams for Script {
    type Socket = Socket;

    fn connect(&mut self, target: SocketAddr, _: Option<IpAddr>) -> Result<Socket, Errno> {
        let conn = self.kernel.borrow_mut().connect(self.ring, target)?;
        Ok(self.socket(conn))
    }

    fn pair(&mut self) -> Result<(Socket, Socket), Errno> {
        let mut kernel = self.kernel.borrow_mut();
        let now = kernel.now;
        let pace = Pace { idle: PAIRS_PACE, greeting: PAIRS_PACE, half_closed: PAIRS_PACE };
        let peer = Peer::new(&mut kernel.rng, now, pace, false);
        let conn = Conn::new(Side::Server, self.ring, WORKER, State::Open, peer, &mut kernel.rng);
        kernel.conns.push(conn);
        let conn = kernel.conns.len() - 1;
        let theirs = Socket { conn, end: End::Workers, kernel: self.kernel.clone() };
        Ok((self.socket(conn), theirs))
    }

    fn connected(&self, socket: &Socket) -> Result<(), Errno> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.check_open(socket.conn, "its error is asked for");
        let conn = &mut kernel.conns[socket.conn];
        if let Some(error) = conn.error.take() {
            conn.met_error = true;
            return Err(Errno(error));
        }
        if let State::Connecting(..) = conn.state {
            kernel.blame(format!("connection {} is asked too early how its connect ended", socket.conn));
        }
        Ok(())
    }

    fn watch(&mut self, place: u32, generation: u32, socket: &Socket) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.note(2, place.into());
        kernel.check_open(socket.conn, "it is to be watched");
        let conn = &mut kernel.conns[socket.conn];
        conn.wake = true;
        if conn.watch.replace((place, generation)).is_some() {
            kernel.blame(format!("connection {} is watched twice", socket.conn));
        }
    }

    fn unwatch(&mut self, place: u32, generation: u32) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.note(3, place.into());
        let watch = Some((place, generation));
        let ring = self.ring;
        if let Some(conn) = kernel.conns.iter_mut().find(|conn| conn.ring == ring && conn.watch == watch) {
            conn.watch = None;
        }
        // What was under way already is told all the same.
        if kernel.rng.u8(..4) == 0 {
            let [readable, writable, ended, broken, armed] = [(); 5].map(|()| kernel.rng.bool());
            let readiness = Readiness { readable, writable, ended, broken };
            kernel.told[ring].push_back(Told { place, generation, readiness, armed });
        }
    }

    fn receive(&mut self, socket: &Socket, room: &mut [u8]) -> Result<usize, Errno> {
        self.kernel.borrow_mut().receive(socket.conn, room)
    }

    fn send(&mut self, socket: &Socket, bytes: &[u8], more: bool) -> Result<usize, Errno> {
        let mut kernel = self.kernel.borrow_mut();
        let sent = kernel.send(socket.conn, bytes)?;
        kernel.conns[socket.conn].corked = more && sent == bytes.len();
        Ok(sent)
    }

    fn shutdown(&mut self, socket: &Socket) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.note(4, socket.conn as u64);
        kernel.check_open(socket.conn, "its stream is to be ended");
        kernel.check_shutdown(socket.conn);
        let conn = &mut kernel.conns[socket.conn];
        conn.shut = true;
        conn.corked = false;
        conn.wake = true;
    }

    fn can_encrypt(&self, socket: &Socket) -> bool {
        self.kernel.borrow().conns[socket.conn].records.is_some()
    }

    fn encrypt(&self, socket: &Socket, _: &[u8], _: &[u8]) -> Result<(), Errno> {
        if let Some(records) = &mut self.kernel.borrow_mut().conns[socket.conn].records {
            records.in_kernel = true;
        }
        Ok(())
    }

    fn is_encrypted(&self, socket: &Socket) -> bool {
        self.kernel.borrow().conns[socket.conn].records.as_ref().is_some_and(|records| records.in_kernel)
    }

    fn close_notify(&mut self, socket: &Socket) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.check_open(socket.conn, "its TLS is to be ended");
        if let Some(records) = &mut kernel.conns[socket.conn].records {
            records.heard_end = true;
        }
    }

    fn reset(&mut self, socket: &Socket) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.check_open(socket.conn, "it is to be reset");
        kernel.conns[socket.conn].lingers = true;
    }

    fn keep_alive(&mut self, socket: &Socket) {
        self.kernel.borrow_mut().check_open(socket.conn, "it is to be kept alive");
    }

    fn has_unsent(&self, socket: &Socket) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        kernel.check_open(socket.conn, "its bytes are asked for");
        kernel.conns[socket.conn].outbound > 0
    }

    fn local(&self, socket: &Socket) -> Option<SocketAddr> {
        let is_ipv4 = self.kernel.borrow().conns[socket.conn].address.is_ipv4();
        let own: IpAddr = if is_ipv4 { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
        Some((own, 143).into())
    }
}

impl Kernel {
    fn connect(&mut self, ring: usize, target: SocketAddr) -> Result<usize, Errno> {
        let server = *self.servers.iter().find(|server| server.address == target).expect("a server of the scene");
        if server.forbidden {
            self.blame(format!("{target} serves nobody, and is connected to"));
        }
        if self.trouble() {
            self.scarcity = true;
            return Err(Errno(*self.rng.choice(&OWN_ERRORS).expect("there are some")));
        }
        let errno = *self.rng.choice(&CONNECT_ERRORS).expect("there are some");
        let takes =
            Duration::from_micros(if self.rng.u8(..8) == 0 { 1_000_000 } else { 1_000 }).mul_f64(self.rng.f64());
        let until = self.now + takes;
        let fails = self.rng.u8(..10) < server.fails;
        let state = match self.rng.u8(..3) {
            _ if !fails => State::Connecting(Some(until), None),
            0 => return Err(Errno(errno)),
            1 => State::Connecting(Some(until), Some(errno)),
            _ => State::Connecting(None, None),
        };
        let peer = Peer::new(&mut self.rng, until, server.pace, server.speaks_first);
        let mut conn = Conn::new(Side::Server, ring, target, state, peer, &mut self.rng);
        conn.forward = server.forward;
        self.conns.push(conn);
        Ok(self.conns.len() - 1)
    }

    fn receive(&mut self, index: usize, room: &mut [u8]) -> Result<usize, Errno> {
        self.check_open(index, "it is read");
        let now = self.now;
        let conn = &mut self.conns[index];
        let count = match &conn.records {
            Some(records) if records.in_kernel => match self.receive_decrypted(index, room) {
                Some(received) => return received,
                None => 0,
            },
            Some(_) => self.receive_records(index, room),
            None => conn.receive_plain(room, now),
        };
        if count > 0 {
            self.conns[index].is_read(now);
            self.note(5, count as u64);
            return Ok(count);
        }
        let conn = &mut self.conns[index];
        let error = conn.error.take();
        conn.met_error |= error.is_some();
        if error.is_none() && !conn.fin && !conn.reset {
            return Err(Errno(libc::EAGAIN));
        }
        match &mut conn.records {
            Some(records) if !records.in_kernel => {
                records.last.get_or_insert(Brings::End);
                self.settle_records(index);
            }
            _ => self.note_end(index),
        }
        error.map_or(Ok(0), |errno| Err(Errno(errno)))
    }

    /// Bytes of records, as they are.
    fn receive_records(&mut self, index: usize, room: &mut [u8]) -> usize {
        let now = self.now;
        let conn = &mut self.conns[index];
        let count = conn.inbound.min(room.len());
        let Some(records) = conn.records.as_mut().filter(|_| count > 0) else { return 0 };
        room[..count].copy_from_slice(&records.unread()[..count]);
        let words = records.pass(count);
        conn.inbound -= count;
        conn.read += words;
        if words > 0 {
            conn.acts(now);
        }
        self.settle_records(index);
        count
    }

    /// What the kernel has decrypted: no more than a record.
    fn receive_decrypted(&mut self, index: usize, room: &mut [u8]) -> Option<Result<usize, Errno>> {
        let now = self.now;
        let conn = &mut self.conns[index];
        let (at, records) = (conn.read, conn.records.as_mut()?);
        let brings = records.next_whole(conn.inbound)?;
        let words = if let Brings::Words(count) = brings { count.min(room.len()) } else { 0 };
        conn.inbound -= records.open(words);
        conn.is_read(now);
        if words > 0 {
            room[..words].copy_from_slice(conn.peer.speech.bytes(at, words));
            conn.read += words;
            conn.acts(now);
            self.note(5, words as u64);
            return Some(Ok(words));
        }
        conn.met_error |= brings != Brings::End;
        self.note_end(index);
        Some(if brings == Brings::End { Ok(0) } else { Err(Errno(libc::ECONNRESET)) })
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> Result<usize, Errno> {
        self.check_open(index, "it is written to");
        let now = self.now;
        let conn = &mut self.conns[index];
        if let Some(errno) = conn.error.take().or(conn.reset.then_some(libc::EPIPE)) {
            conn.met_error = true;
            conn.met_in_send.get_or_insert(now);
            // A sign of life, as every end is.
            conn.acts(now);
            if let Some(client) = conn.partner.filter(|_| conn.side == Side::Server) {
                self.settle_records(client);
            }
            return Err(Errno(errno));
        }
        let legal = conn.state == State::Open && !conn.shut && !bytes.is_empty();
        let count = bytes.len().min(conn.outbound_max - conn.outbound);
        conn.wants_room |= count < bytes.len();
        if !legal {
            self.blame(format!("connection {index} is sent something that it cannot take"));
        }
        if self.conns[index].is_plain() {
            self.check_bytes(index, bytes);
        }
        if count == 0 {
            return Err(Errno(libc::EAGAIN));
        }
        self.note(6, count as u64);
        let words = if self.conns[index].is_plain() { count } else { self.hear(index, &bytes[..count]) };
        let conn = &mut self.conns[index];
        conn.outbound += count;
        conn.sent += words;
        conn.acts(now);
        if conn.side == Side::Server {
            conn.note_head(&bytes[..count]);
            if let Some(client) = self.conns[index].partner {
                self.settle_records(client);
            }
        }
        Ok(count)
    }

    /// What a client gets by TLS: how much plaintext.
    fn hear(&mut self, index: usize, bytes: &[u8]) -> usize {
        let Some(records) = &mut self.conns[index].records else { return 0 };
        // Whoever has broken the protocol is told so by an alert, and that is all.
        let broken = records.last == Some(Brings::Fault);
        match records.hear(bytes) {
            Ok(words) => {
                self.check_words(index, &words);
                words.len()
            }
            Err(_) if broken => 0,
            Err(error) => {
                self.blame(format!("client {index} gets what is no TLS: {error}"));
                0
            }
        }
    }
}

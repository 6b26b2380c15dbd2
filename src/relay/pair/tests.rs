//! A pair against a model of two sockets: what each gets is what the other has said, as the way of the bytes has it.

use fastrand::Rng;

use super::*;
use crate::relay::{Facts, Forward, Preface, Progress, Protocol, SessionId};

/// Steps of one run; then everything that is still to come comes.
const STEPS: usize = 300;
const SPEECH_MAX: usize = 600_000;

/// One side as its kernel has it.
#[derive(Default)]
struct Socket {
    /// What it says, how much of that has arrived, and how much was read.
    speech: Vec<u8>,
    arrived: usize,
    read: usize,
    /// Its end has arrived, or a reset; the error of that is told once.
    fin: bool,
    reset: bool,
    error: bool,
    end_read: bool,
    /// What we have sent, how much of it has left, how much may be on its way; room is told when it was missed.
    got: Vec<u8>,
    left: usize,
    room: usize,
    wants_room: bool,
    shut: u32,
    /// Something has happened that was not told yet.
    wakes: bool,
}

impl Socket {
    fn has_room(&self) -> bool {
        self.got.len() < self.left + self.room
    }

    fn has_something(&self) -> bool {
        self.read < self.arrived || ((self.fin || self.reset) && !self.end_read)
    }
}

/// The way of the bytes, and what it makes of them.
#[derive(Default)]
struct Road {
    /// What the server is told before anything else, and what it is told in answer to its greeting.
    first: Vec<u8>,
    told: Vec<u8>,
    /// What the client sees of the exchange.
    shown: Vec<u8>,
    /// So much of the server's speech belongs to the exchange, and to what a filter judges line by line.
    exchange: usize,
    filtered: usize,
    /// The server's speech comes up to there as long as it has got less than so much.
    gates: Vec<(usize, usize)>,
}

impl Road {
    /// Behind a header only.
    fn straight(first: Vec<u8>) -> Road {
        Road { first, ..Road::default() }
    }

    /// An exchange with the server, and a filter behind it if it is POP3's; the speeches begin as these two need it.
    fn with_exchange(first: Vec<u8>, protocol: Protocol, client: &mut Vec<u8>, server: &mut Vec<u8>) -> Road {
        let filtered = protocol == Protocol::Pop3;
        let (greeting, answer) = match filtered {
            true => (&b"+OK [XCLIENT] ready\r\n"[..], &b"+OK Updated\r\n"[..]),
            false => (&b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n"[..], &b"* ID NIL\r\nI OK done\r\n"[..]),
        };
        let login: [&[u8]; 2] = if filtered { [b"USER u\r\n", b"PASS p\r\n"] } else { [b"", b""] };
        let welcome: &[u8] = if filtered { b"+OK\r\n" } else { b"" };
        client.splice(..0, login.concat());
        server.splice(..0, [greeting, answer, welcome, welcome].concat());
        let mut road = Road { first, exchange: greeting.len() + answer.len(), ..Road::default() };
        let exchange = &server[..road.exchange];
        let progress = preface(protocol).handle_server(exchange, &mut road.told, &mut road.shown);
        assert_eq!(progress, Progress::Done);
        road.filtered = road.exchange + 2 * welcome.len();
        let known = road.first.len() + road.told.len();
        road.gates = vec![
            (known, greeting.len()),
            (known + login[0].len(), road.exchange),
            (known + login.concat().len(), road.exchange + welcome.len()),
        ];
        road
    }
}

fn preface(protocol: Protocol) -> Preface {
    let forward = if protocol == Protocol::Pop3 { Forward::Xclient } else { Forward::ImapId };
    let client = "198.51.100.7:5000".parse().expect("an address");
    let destination = "192.0.2.1:143".parse().expect("an address");
    let facts = Facts { header: None, client, destination, session: SessionId::new(7, client), tls: None };
    Preface::new(forward, protocol, &facts, "tier.example").expect("there is an exchange")
}

struct Kernel {
    client: Socket,
    server: Socket,
    /// The client's end must wait for the server's greeting.
    holds_end: bool,
    road: Road,
    /// All that each is to get.
    for_client: Vec<u8>,
    for_server: Vec<u8>,
}

impl Kernel {
    fn new(client: Socket, server: Socket, holds_end: bool, road: Road) -> Kernel {
        let for_client = [&road.shown, &server.speech[road.exchange..]].concat();
        let for_server = [&road.first, &road.told, &client.speech].map(Vec::as_slice).concat();
        Kernel { client, server, holds_end, road, for_client, for_server }
    }

    /// Whether the server has greeted, as far as we have read.
    fn is_greeted(&self) -> bool {
        self.server.read >= self.road.exchange.max(1)
    }

    /// How much each must have got, or must be held for it, by what was read; `None`: while a line is looked at, that is
    /// the filter's.
    fn due(&self) -> (Option<usize>, Option<usize>) {
        let Kernel { client, server, road, .. } = self;
        if server.read < road.exchange {
            return (Some(0), None);
        }
        if server.read < road.filtered {
            return (None, None);
        }
        let of_server = road.shown.len() + server.read - road.exchange;
        (Some(of_server), Some(road.first.len() + road.told.len() + client.read))
    }

    /// How much of a side's speech may have come: the server answers what it has got.
    fn may_say(&self, side: Side) -> usize {
        if side == Side::Client {
            return self.client.speech.len();
        }
        let gate = self.road.gates.iter().find(|(got, _)| self.server.got.len() < *got);
        gate.map_or(self.server.speech.len(), |(_, upto)| *upto)
    }

    fn socket(&mut self, side: Side) -> &mut Socket {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

impl Wire for Kernel {
    fn receive(&mut self, side: Side, room: &mut [u8]) -> Received {
        let socket = self.socket(side);
        let count = room.len().min(socket.arrived - socket.read);
        if count > 0 {
            room[..count].copy_from_slice(&socket.speech[socket.read..][..count]);
            socket.read += count;
            return Received::Bytes(count);
        }
        if !socket.fin && !socket.reset {
            return Received::Nothing;
        }
        assert!(!socket.end_read, "an end is read once");
        socket.end_read = true;
        if std::mem::take(&mut socket.error) { Received::Broken } else { Received::End }
    }

    fn send(&mut self, side: Side, bytes: &[u8], _: bool) -> Sent {
        let socket = self.socket(side);
        assert!(!bytes.is_empty() && socket.shut == 0, "nothing is sent behind an end");
        if socket.reset {
            socket.error = false;
            return Sent::Broken;
        }
        let count = bytes.len().min((socket.left + socket.room).saturating_sub(socket.got.len()));
        socket.got.extend_from_slice(&bytes[..count]);
        socket.wants_room |= count < bytes.len();
        Sent::Bytes(count)
    }

    fn shutdown(&mut self, side: Side) {
        let may = side == Side::Client || !self.holds_end || self.is_greeted();
        let due = if side == Side::Client { self.due().0 } else { self.due().1 };
        let ended = self.socket(side.other()).end_read;
        let socket = self.socket(side);
        socket.shut += 1;
        let has_all = due.is_none_or(|due| socket.got.len() == due) || socket.reset;
        assert!(may && ended && socket.shut == 1 && has_all, "an end comes once, behind the last byte");
    }
}

struct Run {
    rng: Rng,
    kernel: Kernel,
    pair: Pair,
    scratch: Vec<u8>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = Rng::with_seed(seed);
        let mut socket = || {
            let len = if rng.u8(..8) == 0 { rng.usize(..SPEECH_MAX) } else { rng.usize(..5_000) };
            let mut speech = vec![0; len];
            rng.fill(&mut speech);
            Socket { speech, room: rng.usize(1_000..100_000), ..Socket::default() }
        };
        let (mut client, mut server) = (socket(), socket());
        let first = if rng.bool() { vec![b'h'; rng.usize(1..3_000)] } else { Vec::new() };
        let protocol = *rng.choice(&[Protocol::None, Protocol::None, Protocol::Imap, Protocol::Pop3]).expect("four");
        let road = match protocol {
            Protocol::None => Road::straight(first),
            _ => Road::with_exchange(first, protocol, &mut client.speech, &mut server.speech),
        };
        // What came with the client's header was read before.
        let early = if rng.bool() { rng.usize(..=client.speech.len().min(4_000)) } else { 0 };
        (client.arrived, client.read) = (early, early);
        let holds_end = rng.bool() || protocol != Protocol::None;
        let (first, early) = (road.first.clone(), client.speech[..early].to_vec());
        let mut kernel = Kernel::new(client, server, holds_end, road);
        let mut pair = Pair::new(holds_end);
        match protocol {
            Protocol::None => pair.connected(&mut kernel, &first, &early, None),
            _ => {
                let course = Course::new(preface(protocol), protocol, protocol == Protocol::Pop3, &early);
                pair.connected(&mut kernel, &first, &[], Some(course));
            }
        }
        Run { rng, kernel, pair, scratch: vec![0; WINDOW_MAX] }
    }

    /// Something happens at a side.
    fn happen(&mut self, side: Side, resets: bool) {
        let (all, chunk, what) = (self.rng.u8(..20) == 0, self.rng.usize(..20_000), self.rng.u8(..8));
        let most = self.kernel.may_say(side);
        let socket = self.kernel.socket(side);
        let open = !socket.fin && !socket.reset;
        match what {
            0..=2 if open => {
                let arrived = if all { usize::MAX } else { socket.arrived + chunk };
                socket.arrived = arrived.min(most);
                socket.wakes = true;
            }
            3 if open && socket.arrived == socket.speech.len() => (socket.fin, socket.wakes) = (true, true),
            4 if resets && all && !socket.reset => (socket.reset, socket.error, socket.wakes) = (true, true, true),
            5..=7 => {
                socket.left = socket.got.len().min(socket.left + chunk);
                if socket.wants_room && socket.has_room() {
                    (socket.wants_room, socket.wakes) = (false, true);
                }
            }
            _ => {}
        }
    }

    /// Tells what has happened, and lets the pair go on until it has nothing more to do.
    fn tell(&mut self, side: Side) -> Option<End> {
        let spurious = self.rng.u8(..16) == 0;
        let socket = self.kernel.socket(side);
        if !std::mem::take(&mut socket.wakes) && !spurious {
            return None;
        }
        let (readable, ended) = (socket.has_something(), socket.fin || socket.reset);
        self.pair.ready(side, readable || spurious, ended);
        self.advance()
    }

    fn advance(&mut self) -> Option<End> {
        loop {
            let before = (self.kernel.client.read, self.kernel.server.read);
            let flow = self.pair.advance(&mut self.kernel, &mut self.scratch);
            self.check();
            match flow {
                Flow::Ended(end) => return Some(end),
                Flow::Idle => return None,
                Flow::More => {
                    let now = (self.kernel.client.read, self.kernel.server.read);
                    assert_ne!(now, before, "who has more to do has done something");
                }
            }
        }
    }

    fn check(&self) {
        self.pair.check_invariants();
        let Kernel { client, server, for_client, for_server, .. } = &self.kernel;
        for (to, all) in [(client, for_client), (server, for_server)] {
            assert!(all.starts_with(&to.got), "each gets what the other has said, in order");
        }
        if let ((Some(to_client), Some(to_server)), false) = (self.kernel.due(), client.reset || server.reset) {
            let held = [to_client - client.got.len(), to_server - server.got.len()];
            assert!(held.iter().all(|held| *held <= WINDOW_MAX), "what is held is bounded");
            assert_eq!(self.pair.progress().1, held[0] + held[1], "what was read is sent or held");
        }
    }

    /// Nothing lies where it could go on, once everything was told.
    fn check_idle(&self) {
        let Kernel { client, server, holds_end, road, .. } = &self.kernel;
        if client.wakes || server.wakes || client.reset || server.reset {
            return;
        }
        let may_end = !holds_end || self.kernel.is_greeted();
        let (to_client, to_server) = self.kernel.due();
        let waits = server.read < road.filtered;
        for (to, from, passes, due, waits) in
            [(client, server, true, to_client, false), (server, client, may_end, to_server, waits)]
        {
            let blocked = to.wants_room || waits;
            assert!(blocked || !from.has_something(), "all that is there is read");
            assert!(blocked || due.is_none_or(|due| to.got.len() == due), "all that was read is sent");
            let passed = to.shut > 0 || to.end_read || !from.end_read || !passes;
            assert!(blocked || passed, "an end is passed on");
        }
    }

    /// Runs to the end.
    fn run(&mut self, resets: bool) -> End {
        for step in 0.. {
            assert!(step < 100 * STEPS, "it comes to an end");
            for side in [Side::Client, Side::Server] {
                self.happen(side, resets && step < STEPS);
                if step > STEPS {
                    let most = self.kernel.may_say(side);
                    let socket = self.kernel.socket(side);
                    let all = most == socket.speech.len();
                    socket.wakes |= !socket.reset && (socket.arrived < most || (all && !socket.fin));
                    socket.arrived = most;
                    socket.fin |= all;
                }
                if let Some(end) = self.tell(side) {
                    return end;
                }
            }
            self.check_idle();
        }
        unreachable!("it ends or panics")
    }
}

#[test]
fn each_side_gets_all_that_the_other_says_and_then_its_end() {
    for seed in 0..2_000 {
        let mut run = Run::new(seed);
        let end = run.run(false);
        let Kernel { client, server, holds_end, for_client, for_server, .. } = &run.kernel;
        assert!(matches!(end, End::ClientClosed | End::ServerClosed), "seed {seed}: {end:?}");
        assert!(client.got == *for_client, "seed {seed}");
        // A server that ends without a greeting where one is due serves nobody.
        assert!(server.got == *for_server || (*holds_end && server.speech.is_empty()), "seed {seed}");
        assert_eq!(run.pair.progress().1, 0, "seed {seed}: nothing is held");
    }
}

#[test]
fn a_reset_ends_both_and_what_was_said_before_arrives() {
    let mut resets = 0;
    for seed in 0..2_000 {
        let mut run = Run::new(seed);
        let end = run.run(true);
        let Kernel { client, server, .. } = &run.kernel;
        let (to_client, to_server) = run.kernel.due();
        match end {
            End::ClientReset => {
                let delivered = to_server.is_none_or(|due| server.got.len() == due);
                assert!(client.reset && (server.reset || delivered), "seed {seed}")
            }
            End::ServerReset => {
                let delivered = to_client.is_none_or(|due| client.got.len() == due);
                assert!(server.reset && (client.reset || delivered), "seed {seed}")
            }
            _ => assert!(client.fin || server.fin, "seed {seed}: {end:?}"),
        }
        resets += usize::from(matches!(end, End::ClientReset | End::ServerReset));
    }
    assert!(resets > 200, "it is tested at all: {resets}");
}

#[test]
fn what_was_told_of_the_client_holds_for_the_next_server() {
    let client = Socket { speech: b"a LOGOUT\r\n".to_vec(), arrived: 10, fin: true, ..Socket::default() };
    let server = Socket { room: 100, ..Socket::default() };
    let mut kernel = Kernel::new(client, server, false, Road::default());
    let mut pair = Pair::new(false);
    pair.ready(Side::Client, true, true);
    pair.ready(Side::Server, true, true);
    pair.server_changes();
    pair.connected(&mut kernel, &[], &[], None);
    assert_eq!(pair.advance(&mut kernel, &mut vec![0; WINDOW_MAX]), Flow::Idle);
    assert_eq!((kernel.server.got.as_slice(), kernel.server.shut), (&b"a LOGOUT\r\n"[..], 1));
}

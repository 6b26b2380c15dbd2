use fastrand::Rng;

use super::*;

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

struct Kernel {
    client: Socket,
    server: Socket,
    /// The client's end must wait for the server's first byte.
    holds_end: bool,
}

impl Kernel {
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
        let may = side == Side::Client || !self.holds_end || self.server.read > 0;
        let other = self.socket(side.other());
        let (ended, read) = (other.end_read, other.read);
        let said = other.speech[..read].to_vec();
        let socket = self.socket(side);
        socket.shut += 1;
        let has_all = socket.got == said || socket.reset;
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
        let (client, server) = (socket(), socket());
        let holds_end = rng.bool();
        let mut kernel = Kernel { client, server, holds_end };
        let mut pair = Pair::new(holds_end);
        pair.connected(&mut kernel, &[], &[], None);
        Run { rng, kernel, pair, scratch: vec![0; WINDOW_MAX] }
    }

    /// Something happens at a side.
    fn happen(&mut self, side: Side, resets: bool) {
        let (all, chunk, what) = (self.rng.u8(..20) == 0, self.rng.usize(..20_000), self.rng.u8(..8));
        let socket = self.kernel.socket(side);
        let open = !socket.fin && !socket.reset;
        match what {
            0..=2 if open => {
                let arrived = if all { usize::MAX } else { socket.arrived + chunk };
                socket.arrived = arrived.min(socket.speech.len());
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
        let Kernel { client, server, .. } = &self.kernel;
        for (to, from) in [(client, server), (server, client)] {
            assert!(from.speech.starts_with(&to.got), "each gets what the other has said, in order");
        }
        let held = [(client, server), (server, client)].map(|(to, from)| from.read - to.got.len());
        let lost = client.reset || server.reset;
        assert!(lost || held.iter().all(|held| *held <= WINDOW_MAX), "what is held is bounded");
        assert!(lost || self.pair.progress().1 == held[0] + held[1], "what was read is sent or held");
    }

    /// Nothing lies where it could go on, once everything was told.
    fn check_idle(&self) {
        let Kernel { client, server, holds_end } = &self.kernel;
        if client.wakes || server.wakes || client.reset || server.reset {
            return;
        }
        let may_end = !holds_end || server.read > 0;
        for (to, from, passes) in [(client, server, true), (server, client, may_end)] {
            let blocked = to.wants_room;
            assert!(blocked || !from.has_something(), "all that is there is read");
            assert!(blocked || to.got.len() == from.read, "all that was read is sent");
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
                    let socket = self.kernel.socket(side);
                    socket.wakes |= !socket.fin && !socket.reset;
                    (socket.arrived, socket.fin) = (socket.speech.len(), true);
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
        let Kernel { client, server, holds_end } = &run.kernel;
        assert!(matches!(end, End::ClientClosed | End::ServerClosed), "seed {seed}: {end:?}");
        assert_eq!(client.got, server.speech, "seed {seed}");
        // A server that ends without a greeting where one is due serves nobody.
        assert!(server.got == client.speech || (*holds_end && server.speech.is_empty()), "seed {seed}");
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
        match end {
            End::ClientReset => {
                assert!(client.reset && (server.reset || server.got.len() == client.read), "seed {seed}")
            }
            End::ServerReset => {
                assert!(server.reset && (client.reset || client.got.len() == server.read), "seed {seed}")
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
    let mut kernel = Kernel { client, server, holds_end: false };
    let mut pair = Pair::new(false);
    pair.ready(Side::Client, true, true);
    pair.ready(Side::Server, true, true);
    pair.server_changes();
    pair.connected(&mut kernel, &[], &[], None);
    assert_eq!(pair.advance(&mut kernel, &mut vec![0; WINDOW_MAX]), Flow::Idle);
    assert_eq!((kernel.server.got.as_slice(), kernel.server.shut), (&b"a LOGOUT\r\n"[..], 1));
}

//! One connection of the swarm, without its socket: events go in, the next [`Step`] comes out. The clock is a
//! parameter.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::behaviour::{Deserves, Ending, Script};
use crate::header::Sent;
use crate::verify::{Expect, Facts, Wrong};

/// A connection from its start to its outcome.
#[derive(Debug)]
pub struct Conn {
    /// What it is.
    pub brief: Brief,
    /// When it was to start: what latencies are measured from.
    pub intended: Instant,
    /// How long after that it was started.
    pub late: Duration,
    /// When connect(2) was through.
    pub connected_at: Option<Instant>,
    /// When the first byte of an answer came.
    pub first_byte_at: Option<Instant>,
    stage: Stage,
    /// Bytes sent.
    cursor: usize,
    /// The receiver took no more: its verdict is in what can still be read.
    deaf: bool,
    held_known: bool,
}

/// What is decided about a connection before it starts.
#[derive(Debug)]
pub struct Brief {
    /// Index into the plan's behaviours.
    pub behaviour: usize,
    /// What the receiver has to do with it.
    pub deserves: Deserves,
    /// Its steps.
    pub script: Script,
    /// Its header.
    pub sent: Sent,
    /// The address that its socket is bound to.
    pub source: Option<IpAddr>,
    /// Where it connects to.
    pub target: SocketAddr,
    /// Stay open when the answer was right.
    pub hold: bool,
    /// Stay open without waiting for an answer.
    pub hold_at_once: bool,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Pause,
    Send,
    Answer,
    /// The end of the run.
    Release,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the next event.
    Wait,
    /// Send this range of the outgoing bytes.
    Send(Range<usize>),
    /// Come back after this time.
    Pause(Duration),
    /// End the sending side.
    HalfClose,
    /// It is over: leave in this way.
    Over(Outcome, Leave),
}

/// How the client closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// With a FIN.
    Close,
    /// With an RST.
    Reset,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// The answer was wrong.
    Wrong(Wrong),
    /// There was no answer to judge.
    Failed(Failure),
    /// The run was over first.
    Unfinished,
}

/// Where and why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// What it was waiting for.
    pub phase: Phase,
    /// Why it did not get it.
    pub cause: Cause,
}

/// The part of a connection's life in which it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// socket(2), setsockopt(2) or bind(2).
    Socket,
    /// connect(2).
    Connect,
    /// Sending the header.
    Send,
    /// Waiting for the answer's first byte.
    FirstByte,
    /// Waiting for the end.
    End,
    /// Being held open.
    Hold,
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The kernel's errno.
    Errno(i32),
    /// The deadline of the connection.
    Deadline,
    /// The receiver ended a connection that was to be held.
    Closed,
}

impl Conn {
    /// A connection whose connect(2) is under way.
    pub fn new(brief: Brief, intended: Instant, started: Instant) -> Conn {
        Conn {
            brief,
            intended,
            late: started.saturating_duration_since(intended),
            connected_at: None,
            first_byte_at: None,
            stage: Stage::Connect,
            cursor: 0,
            deaf: false,
            held_known: false,
        }
    }

    /// connect(2) is through, or not.
    pub fn handle_connected(&mut self, result: io::Result<usize>, now: Instant) -> Step {
        match result {
            // The refusal was quicker than this end of the handshake.
            Err(error) if self.is_refused_by(&error) => return over(Outcome::Ok),
            Err(error) => return failed(Phase::Connect, &error),
            Ok(_) => {}
        }
        self.connected_at = Some(now);
        if self.brief.script.delay > Duration::ZERO {
            self.stage = Stage::Pause;
            return Step::Pause(self.brief.script.delay);
        }
        self.speak()
    }

    /// A pause is over.
    pub fn handle_pause_over(&mut self) -> Step {
        if self.stage == Stage::Pause { self.speak() } else { Step::Wait }
    }

    /// send(2) is through, or not.
    pub fn handle_sent(&mut self, result: io::Result<usize>) -> Step {
        match result {
            Ok(sent) => self.cursor += sent,
            Err(_) if self.brief.deserves == Deserves::Nothing => return Step::Over(Outcome::Ok, Leave::Close),
            Err(_) => self.deaf = true,
        }
        let script = &self.brief.script;
        if self.deaf || self.cursor >= script.limit || script.pause.is_zero() {
            return self.speak();
        }
        // The rest of a piece that the kernel took in part is no new piece, and waits for nothing.
        if self.cursor < script.first || !(self.cursor - script.first).is_multiple_of(script.rest.max(1)) {
            return self.speak();
        }
        self.stage = Stage::Pause;
        Step::Pause(script.pause)
    }

    /// Bytes came: `received` are all so far.
    pub fn handle_received(&mut self, expect: &Expect, outgoing: &[u8], received: &[u8], now: Instant) -> Step {
        self.first_byte_at.get_or_insert(now);
        if self.stage == Stage::Release {
            return Step::Wait;
        }
        let unasked = self.cursor == 0 && self.brief.sent.length > 0;
        if unasked && self.brief.deserves == Deserves::Answer && *expect != Expect::Any {
            return Step::Over(Outcome::Wrong(Wrong::EarlyGreeting), Leave::Close);
        }
        match expect.judge_open(&self.facts(outgoing), received) {
            Some(Ok(())) if self.brief.hold => {
                self.stage = Stage::Release;
                Step::Wait
            }
            Some(verdict) => Step::Over(outcome(verdict), Leave::Close),
            None => Step::Wait,
        }
    }

    /// The receiver ended the stream: `Ok` with a FIN, `Err` by an RST.
    pub fn handle_end(&mut self, result: io::Result<()>, expect: &Expect, outgoing: &[u8], received: &[u8]) -> Step {
        if self.stage == Stage::Release {
            return over(Outcome::Failed(Failure { phase: Phase::Hold, cause: Cause::Closed }));
        }
        let verdict = expect.judge_end(&self.facts(outgoing), received);
        match (verdict, result) {
            (Err(_), Err(error)) if self.brief.deserves == Deserves::Answer => failed(self.phase(), &error),
            (verdict, _) => over(outcome(verdict)),
        }
    }

    /// The deadline of the connection has come.
    pub fn handle_deadline(&self) -> Step {
        match self.stage {
            Stage::Release => Step::Wait,
            _ => over(Outcome::Failed(Failure { phase: self.phase(), cause: Cause::Deadline })),
        }
    }

    /// The run is over: the outcome of a connection that is still open.
    pub fn handle_run_over(&self) -> Outcome {
        if self.is_held() { Outcome::Ok } else { Outcome::Unfinished }
    }

    fn is_refused_by(&self, error: &io::Error) -> bool {
        self.brief.deserves == Deserves::Refusal && error.kind() == io::ErrorKind::ConnectionReset
    }

    /// Whether it is being held open.
    pub fn is_held(&self) -> bool {
        self.stage == Stage::Release
    }

    /// Whether it is held and this was not asked before.
    pub fn newly_held(&mut self) -> bool {
        self.is_held() && !std::mem::replace(&mut self.held_known, true)
    }

    /// Sends the next piece or, when all is said, does what the script ends with.
    fn speak(&mut self) -> Step {
        let script = &self.brief.script;
        if !self.deaf && self.cursor < script.limit {
            self.stage = Stage::Send;
            return Step::Send(self.cursor..self.piece_end());
        }
        self.stage = if self.brief.hold_at_once && !self.deaf { Stage::Release } else { Stage::Answer };
        match script.ending {
            _ if self.deaf => Step::Wait,
            Ending::Close => Step::Over(Outcome::Ok, Leave::Close),
            Ending::Reset => Step::Over(Outcome::Ok, Leave::Reset),
            Ending::HalfClose => Step::HalfClose,
            Ending::Await => Step::Wait,
        }
    }

    fn piece_end(&self) -> usize {
        let script = &self.brief.script;
        let end = match self.cursor.checked_sub(script.first) {
            None => script.first,
            Some(past) => script.first + (past / script.rest.max(1) + 1) * script.rest.max(1),
        };
        end.min(script.limit)
    }

    fn phase(&self) -> Phase {
        match self.stage {
            Stage::Connect => Phase::Connect,
            Stage::Release => Phase::Hold,
            Stage::Pause | Stage::Send if self.brief.deserves == Deserves::Answer => Phase::Send,
            _ if self.first_byte_at.is_none() && self.brief.deserves == Deserves::Answer => Phase::FirstByte,
            _ => Phase::End,
        }
    }

    fn facts<'a>(&'a self, outgoing: &'a [u8]) -> Facts<'a> {
        Facts {
            deserves: self.brief.deserves,
            sent: &self.brief.sent,
            outgoing,
            in_one: self.brief.script.first >= outgoing.len(),
            source: self.brief.source,
            target: self.brief.target,
        }
    }
}

fn outcome(verdict: Result<(), Wrong>) -> Outcome {
    match verdict {
        Ok(()) => Outcome::Ok,
        Err(wrong) => Outcome::Wrong(wrong),
    }
}

fn over(outcome: Outcome) -> Step {
    Step::Over(outcome, Leave::Close)
}

fn failed(phase: Phase, error: &io::Error) -> Step {
    over(Outcome::Failed(Failure { phase, cause: Cause::Errno(error.raw_os_error().unwrap_or(0)) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{Behaviour, Pauses};

    const LENGTH: usize = 28;
    const GAP: Duration = Duration::from_millis(10);

    fn conn(behaviour: &str) -> Conn {
        let behaviour: Behaviour = behaviour.parse().expect("a behaviour");
        let pauses = Pauses { gap: GAP, trickle: 50 * GAP, lazy: 100 * GAP };
        let sent = Sent { version: Some("v2"), command: Some("PROXY"), length: LENGTH, ..Sent::nothing() };
        let brief = Brief {
            behaviour: 0,
            deserves: behaviour.deserves(),
            script: behaviour.script(LENGTH, &pauses),
            sent,
            source: None,
            target: SocketAddr::from(([127, 0, 0, 1], 143)),
            hold: false,
            hold_at_once: false,
        };
        Conn::new(brief, Instant::now(), Instant::now())
    }

    fn reset() -> io::Error {
        io::Error::from_raw_os_error(rustix::io::Errno::CONNRESET.raw_os_error())
    }

    fn end(conn: &mut Conn, expect: &Expect, received: &[u8]) -> Step {
        conn.handle_end(Ok(()), expect, &[0; LENGTH], received)
    }

    fn said_all(conn: &mut Conn) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut step = conn.handle_connected(Ok(0), Instant::now());
        loop {
            step = match step {
                Step::Send(range) => {
                    pieces.push(range.clone());
                    conn.handle_sent(Ok(range.len()))
                }
                Step::Pause(_) => conn.handle_pause_over(),
                _ => return pieces,
            };
        }
    }

    #[test]
    fn pieces_cover_the_header_once() {
        assert_eq!(said_all(&mut conn("normal")), vec![0..28]);
        assert_eq!(said_all(&mut conn("split:12")), [0..12, 12..28]);
        assert_eq!(said_all(&mut conn("reset:5")), vec![0..5]);
        assert_eq!(said_all(&mut conn("silent")), []);
        assert_eq!(said_all(&mut conn("bytewise")), (0..28).map(|at| at..at + 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_piece_taken_in_part_is_finished_without_a_pause() {
        let mut conn = conn("split:12");
        assert_eq!(conn.handle_connected(Ok(0), Instant::now()), Step::Send(0..12));
        assert_eq!(conn.handle_sent(Ok(5)), Step::Send(5..12));
        assert_eq!(conn.handle_sent(Ok(7)), Step::Pause(GAP));
        assert_eq!(conn.handle_pause_over(), Step::Send(12..28));
        assert_eq!(conn.handle_sent(Ok(16)), Step::Wait);
    }

    #[test]
    fn endings_follow_the_script() {
        for (name, step) in
            [("empty", Step::Over(Outcome::Ok, Leave::Close)), ("silent", Step::Wait), ("lazy", Step::Pause(100 * GAP))]
        {
            assert_eq!(conn(name).handle_connected(Ok(0), Instant::now()), step, "{name}");
        }
        for (name, step) in
            [("half-close", Step::HalfClose), ("reset", Step::Over(Outcome::Ok, Leave::Reset)), ("normal", Step::Wait)]
        {
            let mut conn = conn(name);
            conn.handle_connected(Ok(0), Instant::now());
            assert_eq!(conn.handle_sent(Ok(LENGTH)), step, "{name}");
        }
    }

    #[test]
    fn a_refusal_may_come_as_fin_or_reset_and_at_any_time() {
        let mut trickle = conn("trickle");
        assert_eq!(trickle.handle_connected(Ok(0), Instant::now()), Step::Send(0..1));
        let refused = trickle.handle_end(Err(reset()), &Expect::Whoami, &[], b"");
        assert_eq!(refused, Step::Over(Outcome::Ok, Leave::Close));
        let answered = end(&mut conn("silent"), &Expect::Whoami, b"hello");
        assert_eq!(answered, Step::Over(Outcome::Wrong(Wrong::AnsweredRefusal), Leave::Close));
    }

    #[test]
    fn only_who_is_to_be_refused_may_be_reset_at_the_connect() {
        let connect = |name| conn(name).handle_connected(Err(reset()), Instant::now());
        assert_eq!(connect("silent"), Step::Over(Outcome::Ok, Leave::Close));
        assert!(matches!(connect("normal"), Step::Over(Outcome::Failed(Failure { phase: Phase::Connect, .. }), _)));
    }

    #[test]
    fn an_honest_connection_that_is_reset_has_failed_in_its_phase() {
        let mut conn = conn("normal");
        conn.handle_connected(Ok(0), Instant::now());
        conn.handle_sent(Ok(LENGTH));
        let errno = rustix::io::Errno::CONNRESET.raw_os_error();
        let failure = |phase| Step::Over(Outcome::Failed(Failure { phase, cause: Cause::Errno(errno) }), Leave::Close);
        assert_eq!(conn.handle_end(Err(reset()), &Expect::Whoami, &[], b""), failure(Phase::FirstByte));
        conn.handle_received(&Expect::Whoami, &[], b"{", Instant::now());
        assert_eq!(conn.handle_end(Err(reset()), &Expect::Whoami, &[], b"{"), failure(Phase::End));
    }

    #[test]
    fn a_refused_send_leaves_the_verdict_to_what_can_be_read() {
        let mut garbage = conn("split:12");
        garbage.handle_connected(Ok(0), Instant::now());
        assert_eq!(garbage.handle_sent(Err(reset())), Step::Wait);
        assert_eq!(end(&mut garbage, &Expect::Answer, b"* BYE\r\n"), Step::Over(Outcome::Ok, Leave::Close));
    }

    #[test]
    fn a_greeting_before_the_header_is_wrong() {
        let mut lazy = conn("lazy");
        lazy.handle_connected(Ok(0), Instant::now());
        let step = lazy.handle_received(&Expect::Banner(String::new()), &[], b"* OK\r\n", Instant::now());
        assert_eq!(step, Step::Over(Outcome::Wrong(Wrong::EarlyGreeting), Leave::Close));
    }

    #[test]
    fn the_deadline_names_what_was_awaited() {
        let at = |conn: &Conn| match conn.handle_deadline() {
            Step::Over(Outcome::Failed(Failure { phase, cause: Cause::Deadline }), Leave::Close) => phase,
            step => panic!("{step:?}"),
        };
        let mut normal = conn("normal");
        assert_eq!(at(&normal), Phase::Connect);
        normal.handle_connected(Ok(0), Instant::now());
        assert_eq!(at(&normal), Phase::Send);
        normal.handle_sent(Ok(LENGTH));
        assert_eq!(at(&normal), Phase::FirstByte);
        let mut silent = conn("silent");
        silent.handle_connected(Ok(0), Instant::now());
        assert_eq!(at(&silent), Phase::End);
    }

    #[test]
    fn a_held_connection_ends_with_the_run_or_has_failed() {
        let mut held = conn("normal");
        held.brief.hold = true;
        held.handle_connected(Ok(0), Instant::now());
        held.handle_sent(Ok(LENGTH));
        let banner = Expect::Banner("* OK".into());
        assert_eq!(held.handle_run_over(), Outcome::Unfinished);
        assert_eq!(held.handle_received(&banner, &[0; LENGTH], b"* OK\r\n", Instant::now()), Step::Wait);
        assert!(held.newly_held() && !held.newly_held());
        assert_eq!(held.handle_deadline(), Step::Wait);
        assert_eq!(held.handle_run_over(), Outcome::Ok);
        let lost = Outcome::Failed(Failure { phase: Phase::Hold, cause: Cause::Closed });
        assert_eq!(end(&mut held, &banner, b"* OK\r\n"), Step::Over(lost, Leave::Close));
    }
}

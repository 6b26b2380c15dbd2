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
    pub fn new(brief: Brief, intended: Instant) -> Conn {
        Conn {
            brief,
            intended,
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
        if let Err(error) = result {
            return failed(Phase::Connect, &error);
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

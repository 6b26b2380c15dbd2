//! One thread of the swarm: a ring, its connections, and the loop that drives them. Every wait is bounded: a turn by
//! [`TURN_MAX`], a connection by its deadline, the run by duration and drain.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::net::{connect, sockopt};
use vestibule::ring::{Completion, Driver, Errno, Readiness, Ring, SetupError, Streams, stream_socket};

use crate::behaviour::{Behaviour, Deserves};
use crate::conn::{Brief, Cause, Conn, Failure, Leave, Outcome, Phase, Step};
use crate::garbage::Kind;
use crate::header::{self, Sent};
use crate::mix::random;
use crate::plan::{Plan, Share};
use crate::schedule::Schedule;
use crate::table::{Line, LineId, Table};
use crate::tally::{Counts, EXAMPLES_MAX, Latencies, Tally};
use crate::verify::{Expect, Wrong};

/// Longest single wait: how late a stop signal may be noticed.
const TURN_MAX: Duration = Duration::from_millis(100);
/// Most connections started in one turn, so that a burst does not delay the clock that stamps the completions.
const STARTS_PER_TURN: usize = 16;
/// After a failed start or connect(2) the closed loop rests so long.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
/// Entries of ended connections that the queue of deadlines may hold beside one for each open connection.
const DEADLINES_SPARE: usize = 1024;
/// How often a thread reports.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// A burst larger than this stays in the kernel's overflow list until the next turn.
const COMPLETIONS: u32 = 8192;
/// Receives of one connection in a row, so that one that talks without end does not keep the others waiting.
const RECEIVES_MAX: usize = 16;
/// Nothing is there, or there is no room.
const WOULD_BLOCK: Errno = Errno(rustix::io::Errno::AGAIN.raw_os_error());
/// How much of a wrong answer an example shows, in bytes.
const EXAMPLE_BYTES: usize = 160;

/// Streams of random numbers, one for each choice.
const PICK_BEHAVIOUR: u64 = 1;
const PICK_HEADER: u64 = 2;
const PICK_GARBAGE: u64 = 3;

/// What one thread did in one interval.
#[derive(Debug)]
pub struct Sample {
    /// Which thread.
    pub thread: usize,
    /// Which interval, from 0.
    pub interval: u64,
    /// Since the start of the run.
    pub counts: Counts,
    /// Open now.
    pub open: usize,
    /// Of this interval alone.
    pub latencies: Latencies,
}

/// A ring with its connections.
pub struct Swarm<'a> {
    plan: &'a Plan,
    share: Share,
    begin: Instant,
    ring: Ring,
    schedule: Schedule,
    lines: Table,
    open: usize,
    held: usize,
    started: u64,
    /// In the order of the starts, which is the order of the deadlines.
    deadlines: VecDeque<(Instant, LineId)>,
    pauses: BinaryHeap<Reverse<Wake>>,
    /// When the last start was made that was asked for, or the duration was over.
    starts_over: Option<Instant>,
    tally: Tally,
    interval: Interval,
}

struct Interval {
    number: u64,
    due: Instant,
    latencies: Latencies,
}

/// A pause's end; ordered by time alone.
struct Wake {
    at: Instant,
    id: LineId,
}

impl<'a> Swarm<'a> {
    /// A swarm that begins at `begin`. Belongs to the calling thread.
    pub fn new(plan: &'a Plan, share: Share, begin: Instant) -> Result<Swarm<'a>, SetupError> {
        Ok(Swarm {
            plan,
            share,
            begin,
            ring: Ring::for_streams(COMPLETIONS)?,
            schedule: Schedule::new(share.pace, begin, share.bounds),
            lines: Table::new(share.bounds.open_max),
            open: 0,
            held: 0,
            started: 0,
            deadlines: VecDeque::new(),
            pauses: BinaryHeap::new(),
            starts_over: None,
            tally: Tally::new(plan.behaviours.items().len(), plan.headers.items().len()),
            interval: Interval { number: 0, due: begin + SAMPLE_EVERY, latencies: Latencies::default() },
        })
    }

    /// Runs to the end, or until `stop`; reports every [`SAMPLE_EVERY`] to `samples`.
    pub fn run(mut self, stop: &AtomicBool, samples: &Sender<Sample>) -> io::Result<Tally> {
        let mut now = Instant::now();
        while !self.is_done(now) {
            self.ring.wait(Some(self.wait(now)))?;
            now = Instant::now();
            while let Some(completion) = self.ring.next() {
                if let Completion::Ready { place, generation, readiness, armed } = completion {
                    self.handle_ready(LineId { place, generation }, readiness, armed, now);
                }
            }
            self.wake(now);
            self.expire(now);
            if stop.load(Ordering::Relaxed) {
                self.schedule.stop(now);
            }
            self.start_due(now);
            if now >= self.interval.due {
                self.report(now, samples);
            }
        }
        self.leave_all(now);
        self.report(now, samples);
        self.tally.missed = self.schedule.missed();
        self.tally.starting = self.starts_over.unwrap_or(now).saturating_duration_since(self.begin);
        Ok(self.tally)
    }

    /// Whether all starts are made and what they left open has ended, or had its time. Held connections stay until
    /// the duration is over.
    fn is_done(&mut self, now: Instant) -> bool {
        let Some(starts_over) = self.starts_over(now) else { return false };
        if self.open == self.held && (self.held == 0 || now >= self.schedule.end()) {
            return true;
        }
        let drain_from = if self.plan.holds() { self.schedule.end() } else { starts_over };
        now >= drain_from + self.plan.drain
    }

    /// When the starts were over, if they are. Once they are they stay so: a place that frees brings no further one.
    fn starts_over(&mut self, now: Instant) -> Option<Instant> {
        if self.starts_over.is_none() && self.schedule.is_over(now, self.open) {
            self.starts_over = Some(now.min(self.schedule.end()));
        }
        self.starts_over
    }

    fn wait(&self, now: Instant) -> Duration {
        let start = self.starts_over.is_none().then(|| self.schedule.wait(now, self.open));
        let pause = self.pauses.peek().map(|wake| wake.0.at.saturating_duration_since(now));
        let deadline = self.deadlines.front().map(|(at, _)| at.saturating_duration_since(now));
        [start, pause, deadline].into_iter().flatten().fold(TURN_MAX, Duration::min)
    }

    fn start_due(&mut self, now: Instant) {
        if self.starts_over(now).is_some() {
            return;
        }
        for _ in 0..STARTS_PER_TURN {
            if self.lines.is_full() {
                return;
            }
            let Some(intended) = self.schedule.start(now, self.open) else { return };
            self.start(intended, now);
        }
    }

    fn start(&mut self, intended: Instant, now: Instant) {
        // Numbers of all threads interleave, so that no two connections of a run share header addresses.
        let number = self.started * self.plan.threads as u64 + self.share.thread as u64;
        self.started += 1;
        let behaviour = self.plan.behaviours.pick(self.choice(PICK_BEHAVIOUR, number));
        self.tally.start(behaviour, now.saturating_duration_since(intended));
        let source = self.plan.sources.map(|pool| pool.address(number).into());
        let socket = match stream_socket(self.plan.target, source) {
            Ok(socket) => socket,
            Err(errno) => return self.fail_to_start(behaviour, errno, now),
        };
        let (mut outgoing, incoming) = self.lines.buffers();
        let brief = self.brief(&socket, behaviour, number, source, &mut outgoing);
        let conn = Conn::new(brief, intended, now);
        let line = Line { socket, conn, is_connecting: true, outgoing, unsent: None, incoming };
        let id = self.lines.insert(line).expect("a free place was seen before the start");
        self.open += 1;
        self.tally.open_max = self.tally.open_max.max(self.open);
        self.remember_deadline(id, now + self.plan.deadline);
        self.connect(id, now);
    }

    fn connect(&mut self, id: LineId, now: Instant) {
        let Some(line) = self.lines.get_mut(id) else { return };
        match connect(&line.socket, &self.plan.target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => self.ring.watch(id.place, id.generation, &line.socket),
            Err(error) => {
                let step = line.conn.handle_connected(Err(error.into()), now);
                self.follow(id, step, now);
            }
        }
    }

    fn choice(&self, stream: u64, number: u64) -> u64 {
        random(self.plan.seed ^ stream << 56, number)
    }

    fn fail_to_start(&mut self, behaviour: usize, errno: Errno, now: Instant) {
        let cause = Cause::Errno(errno.0);
        self.tally.finish(behaviour, Outcome::Failed(Failure { phase: Phase::Socket, cause }));
        self.schedule.pause(now + FAILURE_PAUSE);
    }

    /// Writes the outgoing bytes and decides the steps.
    fn brief(
        &mut self,
        socket: &OwnedFd,
        behaviour: usize,
        number: u64,
        source: Option<IpAddr>,
        outgoing: &mut Vec<u8>,
    ) -> Brief {
        let kind = self.plan.behaviours.items()[behaviour];
        let sent = self.write(kind, number, outgoing);
        let script = kind.script(outgoing.len(), &self.plan.pauses);
        if !script.pause.is_zero() {
            // Otherwise Nagle's algorithm joins the pieces again. Should it fail, they are joined: no harm.
            let _ = sockopt::set_tcp_nodelay(socket, true);
        }
        let deserves = self.plan.deserves(kind);
        let hold = self.plan.holds() && deserves == Deserves::Answer;
        Brief {
            behaviour,
            deserves,
            script,
            sent,
            source,
            target: self.plan.target,
            hold,
            hold_at_once: hold && self.plan.expect == Expect::Any,
        }
    }

    fn write(&mut self, kind: Behaviour, number: u64, out: &mut Vec<u8>) -> Sent {
        let garbage = match kind {
            Behaviour::Tls => Some(Kind::TLS),
            Behaviour::Garbage(kind) => Some(kind.unwrap_or(Kind::any(self.choice(PICK_GARBAGE, number)))),
            _ => None,
        };
        if let Some(kind) = garbage {
            self.tally.garbage[kind.index()] += 1;
            kind.write(number, out);
            return Sent::nothing();
        }
        let sent = if kind == Behaviour::Local {
            header::local(out)
        } else {
            let shape = self.plan.headers.pick(self.choice(PICK_HEADER, number));
            self.tally.headers[shape] += 1;
            self.plan.headers.items()[shape].write(&self.plan.cast, number, out)
        };
        out.extend_from_slice(&self.plan.payload);
        sent
    }

    fn remember_deadline(&mut self, id: LineId, at: Instant) {
        self.deadlines.push_back((at, id));
        if self.deadlines.len() > 2 * self.open + DEADLINES_SPARE {
            let lines = &self.lines;
            self.deadlines.retain(|(_, id)| lines.has(*id));
        }
    }

    fn handle_ready(&mut self, id: LineId, readiness: Readiness, armed: bool, now: Instant) {
        let Some(line) = self.lines.get_mut(id) else { return };
        if !armed {
            self.ring.watch(id.place, id.generation, &line.socket);
        }
        if line.is_connecting {
            if !readiness.writable {
                return;
            }
            line.is_connecting = false;
            // Only a connect that has failed leaves an error: the others need not be asked.
            let ended = if readiness.broken { self.ring.connected(&line.socket) } else { Ok(()) };
            let step = line.conn.handle_connected(ended.map(|()| 0).map_err(error), now);
            self.follow(id, step, now);
        } else if readiness.writable
            && let Some(range) = line.unsent.take()
        {
            self.follow(id, Step::Send(range), now);
        }
        if readiness.readable {
            self.receive(id, readiness.ended, now);
        }
    }

    /// Takes what is there; `ended`: the end of the stream stands behind it.
    fn receive(&mut self, id: LineId, ended: bool, now: Instant) {
        for _ in 0..RECEIVES_MAX {
            let Some(Line { socket, conn, outgoing, incoming, .. }) = self.lines.get_mut(id) else { return };
            let room = incoming.room();
            let size = room.len();
            let result = self.ring.receive(socket, room);
            if result == Err(WOULD_BLOCK) {
                return;
            }
            incoming.fill(result.unwrap_or(0));
            let expect = &self.plan.expect;
            let step = match result {
                Ok(0) => {
                    self.tally.fins += 1;
                    conn.handle_end(Ok(()), expect, outgoing, incoming.bytes())
                }
                Ok(count) => {
                    self.tally.bytes_received += count as u64;
                    conn.handle_received(expect, outgoing, incoming.bytes(), now)
                }
                Err(errno) => {
                    self.tally.resets += 1;
                    conn.handle_end(Err(error(errno)), expect, outgoing, incoming.bytes())
                }
            };
            self.follow(id, step, now);
            if result.is_ok_and(|count| count < size) && !ended {
                return;
            }
        }
        self.look_again(id);
    }

    /// Readiness is told once: a watch that is begun anew tells it again.
    fn look_again(&mut self, id: LineId) {
        let Some(line) = self.lines.get_mut(id) else { return };
        self.ring.unwatch(id.place, id.generation);
        self.ring.watch(id.place, id.generation, &line.socket);
    }

    fn follow(&mut self, id: LineId, step: Step, now: Instant) {
        let mut next = Some(step);
        while let Some(step) = next.take() {
            self.count_held(id);
            match step {
                Step::Wait => {}
                Step::Send(range) => next = self.send(id, range),
                Step::Pause(length) => self.pauses.push(Reverse(Wake { at: now + length, id })),
                Step::HalfClose => {
                    if let Some(line) = self.lines.get_mut(id) {
                        self.ring.shutdown(&line.socket);
                    }
                }
                Step::Over(outcome, leave) => self.finish(id, outcome, leave, now),
            }
        }
    }

    /// Gives bytes to the kernel. If it has no room there is nothing to do before the watch tells of some.
    fn send(&mut self, id: LineId, range: Range<usize>) -> Option<Step> {
        let line = self.lines.get_mut(id)?;
        let sent = self.ring.send(&line.socket, &line.outgoing[range.clone()], false);
        if sent == Err(WOULD_BLOCK) {
            line.unsent = Some(range);
            return None;
        }
        self.tally.bytes_sent += sent.unwrap_or(0) as u64;
        Some(line.conn.handle_sent(sent.map_err(error)))
    }

    fn count_held(&mut self, id: LineId) {
        if let Some(line) = self.lines.get_mut(id)
            && line.conn.newly_held()
        {
            self.held += 1;
        }
    }

    fn finish(&mut self, id: LineId, outcome: Outcome, leave: Leave, now: Instant) {
        let Some(line) = self.lines.remove(id) else { return };
        let conn = &line.conn;
        self.open -= 1;
        self.held -= usize::from(conn.is_held());
        self.tally.finish(conn.brief.behaviour, outcome);
        match outcome {
            Outcome::Ok => self.record(conn, now),
            Outcome::Wrong(wrong) => {
                self.record(conn, now);
                self.keep_example(&line, wrong);
            }
            Outcome::Failed(Failure { phase: Phase::Connect, .. }) => self.schedule.pause(now + FAILURE_PAUSE),
            Outcome::Failed(_) | Outcome::Unfinished => {}
        }
        if leave == Leave::Reset {
            self.ring.reset(&line.socket);
        }
        // A watch holds the socket open.
        self.ring.unwatch(id.place, id.generation);
        self.lines.recycle(line);
    }

    fn record(&mut self, conn: &Conn, now: Instant) {
        self.tally.parts[conn.brief.behaviour].latencies.record(conn, now);
        if conn.brief.deserves == Deserves::Answer {
            self.interval.latencies.record(conn, now);
        }
    }

    fn keep_example(&mut self, line: &Line, wrong: Wrong) {
        if self.tally.examples.len() < EXAMPLES_MAX {
            let received = line.incoming.bytes();
            let shown = received[..received.len().min(EXAMPLE_BYTES)].escape_ascii();
            let Brief { behaviour, sent, .. } = &line.conn.brief;
            let behaviour = self.plan.behaviours.items()[*behaviour];
            let example = format!("{} ({behaviour}): sent {sent}, received \"{shown}\"", wrong.code());
            self.tally.examples.push(example);
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(Reverse(wake)) = self.pauses.peek()
            && wake.at <= now
        {
            let id = wake.id;
            self.pauses.pop();
            if let Some(line) = self.lines.get_mut(id) {
                let step = line.conn.handle_pause_over();
                self.follow(id, step, now);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.front().copied()
            && at <= now
        {
            self.deadlines.pop_front();
            if let Some(line) = self.lines.get_mut(id) {
                let step = line.conn.handle_deadline();
                self.follow(id, step, now);
            }
        }
    }

    fn leave_all(&mut self, now: Instant) {
        for id in self.lines.ids() {
            if let Some(line) = self.lines.get_mut(id) {
                let outcome = line.conn.handle_run_over();
                self.finish(id, outcome, Leave::Close, now);
            }
        }
    }

    fn report(&mut self, now: Instant, samples: &Sender<Sample>) {
        let sample = Sample {
            thread: self.share.thread,
            interval: self.interval.number,
            counts: self.tally.counts(),
            open: self.open,
            latencies: self.interval.latencies.clone(),
        };
        self.interval.latencies.reset();
        self.interval.number += 1;
        self.interval.due = now + SAMPLE_EVERY;
        let _ = samples.send(sample); // nobody listens only when the run is being given up
    }
}

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

impl PartialEq for Wake {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Wake {}

impl PartialOrd for Wake {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Wake {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

//! One thread of the swarm: a ring, its connections, and the loop that drives them. Every wait is bounded: a turn by
//! [`TURN_MAX`], a connection by its deadline, the run by duration and drain.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown, sockopt};
use vestibule::ring::SetupError;
use vestibule::ring::client::{ClientRing, Completion, Key, Op, Target, stream_socket};

use crate::behaviour::{Behaviour, Deserves};
use crate::conn::{Brief, Cause, Conn, Failure, Leave, Outcome, Phase, Step};
use crate::garbage::Kind;
use crate::header::{self, Sent};
use crate::mix::random;
use crate::plan::{Plan, Share};
use crate::schedule::Schedule;
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
    ring: ClientRing,
    target: Target,
    schedule: Schedule,
    conns: Vec<Option<(Key, Conn)>>,
    open: usize,
    held: usize,
    started: u64,
    /// In the order of the starts, which is the order of the deadlines.
    deadlines: VecDeque<(Instant, Key)>,
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
    key: Key,
}

impl<'a> Swarm<'a> {
    /// A swarm that begins at `begin`. Belongs to the calling thread.
    pub fn new(plan: &'a Plan, share: Share, begin: Instant) -> Result<Swarm<'a>, SetupError> {
        let slots = share.bounds.open_max + STARTS_PER_TURN;
        let mut ring = ClientRing::new(slots)?;
        let target = ring.add_target(plan.target);
        Ok(Swarm {
            plan,
            share,
            begin,
            ring,
            target,
            schedule: Schedule::new(share.pace, begin, share.bounds),
            conns: std::iter::repeat_with(|| None).take(slots).collect(),
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
        let mut done = Vec::new();
        let mut now = Instant::now();
        while !self.is_done(now) {
            self.ring.turn(self.wait(now), &mut done)?;
            now = Instant::now();
            for completion in done.drain(..) {
                self.handle(completion, now);
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
            if self.ring.free_slots() == 0 {
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
        let socket = match stream_socket(&self.plan.target, source) {
            Ok(socket) => socket,
            Err(error) => return self.fail_to_start(behaviour, &error, now),
        };
        let key = self.ring.open(socket).expect("a free slot was seen before the start");
        let brief = self.brief(key, behaviour, number, source);
        self.conns[key.index()] = Some((key, Conn::new(brief, intended)));
        self.open += 1;
        self.tally.open_max = self.tally.open_max.max(self.open);
        self.remember_deadline(key, now + self.plan.deadline);
        self.ring.connect(key, self.target).expect("nothing is in flight on a fresh slot");
    }

    fn choice(&self, stream: u64, number: u64) -> u64 {
        random(self.plan.seed ^ stream << 56, number)
    }

    fn fail_to_start(&mut self, behaviour: usize, error: &io::Error, now: Instant) {
        let cause = Cause::Errno(error.raw_os_error().unwrap_or(0));
        self.tally.finish(behaviour, Outcome::Failed(Failure { phase: Phase::Socket, cause }));
        self.schedule.pause(now + FAILURE_PAUSE);
    }

    /// Writes the outgoing bytes and decides the steps.
    fn brief(&mut self, key: Key, behaviour: usize, number: u64, source: Option<IpAddr>) -> Brief {
        let kind = self.plan.behaviours.items()[behaviour];
        let mut outgoing = Vec::new();
        std::mem::swap(&mut outgoing, self.ring.outgoing_mut(key).expect("nothing is in flight on a fresh slot"));
        let sent = self.write(kind, number, &mut outgoing);
        let script = kind.script(outgoing.len(), &self.plan.pauses);
        *self.ring.outgoing_mut(key).expect("nothing is in flight on a fresh slot") = outgoing;
        if !script.pause.is_zero() {
            // Otherwise Nagle's algorithm joins the pieces again. Should it fail, they are joined: no harm.
            let _ = self.ring.socket(key).map(|socket| sockopt::set_tcp_nodelay(socket, true));
        }
        let hold = self.plan.holds() && kind.deserves() == Deserves::Answer;
        Brief {
            behaviour,
            deserves: kind.deserves(),
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

    fn remember_deadline(&mut self, key: Key, at: Instant) {
        self.deadlines.push_back((at, key));
        if self.deadlines.len() > 2 * self.open + DEADLINES_SPARE {
            let conns = &self.conns;
            self.deadlines.retain(|(_, key)| conns[key.index()].as_ref().is_some_and(|(live, _)| live == key));
        }
    }

    fn handle(&mut self, completion: Completion, now: Instant) {
        let key = completion.key;
        let Some(conn) = live(&mut self.conns, key) else { return };
        match completion.op {
            Op::Connect => {
                let step = conn.handle_connected(completion.result, now);
                self.follow(key, step, now);
                self.listen(key);
            }
            Op::Send => {
                self.tally.bytes_sent += completion.result.as_ref().map_or(0, |sent| *sent as u64);
                let step = conn.handle_sent(completion.result);
                self.follow(key, step, now);
            }
            Op::Recv => self.handle_recv(key, completion.result, now),
        }
    }

    fn handle_recv(&mut self, key: Key, result: io::Result<usize>, now: Instant) {
        let Some(conn) = live(&mut self.conns, key) else { return };
        // Not to be had while a send is in flight, that is, before all was said.
        let outgoing = self.ring.outgoing(key).unwrap_or_default();
        let received = self.ring.incoming(key).unwrap_or_default();
        let expect = &self.plan.expect;
        let step = match result {
            Ok(0) => {
                self.tally.fins += 1;
                conn.handle_end(Ok(()), expect, outgoing, received)
            }
            Ok(count) => {
                self.tally.bytes_received += count as u64;
                conn.handle_received(expect, outgoing, received, now)
            }
            Err(error) => {
                self.tally.resets += 1;
                conn.handle_end(Err(error), expect, outgoing, received)
            }
        };
        self.follow(key, step, now);
        self.listen(key);
    }

    /// Arms the receive that tells of the answer and of the end. What does not fit any more is forgotten: no
    /// expectation needs it.
    fn listen(&mut self, key: Key) {
        if self.ring.recv(key).is_err() && self.ring.forget_incoming(key).is_ok() {
            let _ = self.ring.recv(key); // the buffer is empty now
        }
    }

    fn follow(&mut self, key: Key, step: Step, now: Instant) {
        self.count_held(key);
        match step {
            Step::Wait => {}
            Step::Send(range) => self.ring.send(key, range).expect("one piece at a time, within what was written"),
            Step::Pause(length) => self.pauses.push(Reverse(Wake { at: now + length, key })),
            Step::HalfClose => {
                // Fails when the receiver has reset the connection; then the receive tells.
                let _ = self.ring.socket(key).map(|socket| shutdown(socket, Shutdown::Write));
            }
            Step::Over(outcome, leave) => self.finish(key, outcome, leave, now),
        }
    }

    fn count_held(&mut self, key: Key) {
        if let Some(conn) = live(&mut self.conns, key)
            && conn.newly_held()
        {
            self.held += 1;
        }
    }

    fn finish(&mut self, key: Key, outcome: Outcome, leave: Leave, now: Instant) {
        let Some((_, conn)) = self.conns[key.index()].take_if(|(live, _)| *live == key) else { return };
        self.open -= 1;
        self.held -= usize::from(conn.is_held());
        self.tally.finish(conn.brief.behaviour, outcome);
        match outcome {
            Outcome::Ok => self.record(&conn, now),
            Outcome::Wrong(wrong) => {
                self.record(&conn, now);
                self.keep_example(key, &conn, wrong);
            }
            Outcome::Failed(Failure { phase: Phase::Connect, .. }) => self.schedule.pause(now + FAILURE_PAUSE),
            Outcome::Failed(_) | Outcome::Unfinished => {}
        }
        if leave == Leave::Reset {
            // Should it fail, the connection ends with a FIN.
            let _ = self.ring.socket(key).map(|socket| sockopt::set_socket_linger(socket, Some(Duration::ZERO)));
        }
        self.ring.release(key);
    }

    fn record(&mut self, conn: &Conn, now: Instant) {
        self.tally.parts[conn.brief.behaviour].latencies.record(conn, now);
        if conn.brief.deserves == Deserves::Answer {
            self.interval.latencies.record(conn, now);
        }
    }

    fn keep_example(&mut self, key: Key, conn: &Conn, wrong: Wrong) {
        if self.tally.examples.len() < EXAMPLES_MAX {
            let received = self.ring.incoming(key).unwrap_or_default();
            let shown = received[..received.len().min(EXAMPLE_BYTES)].escape_ascii();
            let behaviour = self.plan.behaviours.items()[conn.brief.behaviour];
            let example = format!("{} ({behaviour}): sent {}, received \"{shown}\"", wrong.code(), conn.brief.sent);
            self.tally.examples.push(example);
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(Reverse(wake)) = self.pauses.peek()
            && wake.at <= now
        {
            let key = wake.key;
            self.pauses.pop();
            if let Some(conn) = live(&mut self.conns, key) {
                let step = conn.handle_pause_over();
                self.follow(key, step, now);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.deadlines.front().copied()
            && at <= now
        {
            self.deadlines.pop_front();
            if let Some(conn) = live(&mut self.conns, key) {
                let step = conn.handle_deadline();
                self.follow(key, step, now);
            }
        }
    }

    fn leave_all(&mut self, now: Instant) {
        for index in 0..self.conns.len() {
            if let Some((key, conn)) = &self.conns[index] {
                let (key, outcome) = (*key, conn.handle_run_over());
                self.finish(key, outcome, Leave::Close, now);
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

fn live(conns: &mut [Option<(Key, Conn)>], key: Key) -> Option<&mut Conn> {
    conns[key.index()].as_mut().filter(|(live, _)| *live == key).map(|(_, conn)| conn)
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

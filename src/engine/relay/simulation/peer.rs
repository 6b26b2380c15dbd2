//! Clients and servers: what they say and when, how they read, and how they leave.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::Duration;

use fastrand::Rng;

/// Most that a peer says.
pub const SPEECH_MAX: usize = 700_000;
/// Speeches begin at different places of one text.
const STARTS: usize = 1 << 20;

/// What one peer says: a piece of a text without repetitions, so that a byte lost, doubled or of somebody else shows.
#[derive(Clone, Copy, Debug)]
pub struct Speech(usize);

impl Speech {
    pub fn new(rng: &mut Rng) -> Speech {
        Speech(rng.usize(..STARTS))
    }

    pub fn bytes(self, at: usize, count: usize) -> &'static [u8] {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            let mut text = vec![0; STARTS + SPEECH_MAX];
            Rng::with_seed(1).fill(&mut text);
            // Nothing in it begins a TLS handshake: that would change what the session is promised.
            text.iter_mut().filter(|byte| **byte == 0x16).for_each(|byte| *byte = 0x17);
            text
        });
        &text[self.0 + at..self.0 + at + count]
    }
}

/// What a peer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Send(usize),
    /// Ends its stream and reads on.
    End,
    /// Ends its stream and reads no more.
    Close,
    Reset,
}

/// How a peer sees the end of our stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    End,
    Reset,
}

#[derive(Debug)]
pub struct Peer {
    pub speech: Speech,
    /// Bytes that it has said.
    pub said: usize,
    /// What it will do, and how long it waits before.
    pub acts: VecDeque<(Duration, Act)>,
    /// When the first of these is due.
    pub due: Duration,
    /// It has ended its stream, closed, or reset.
    pub left: bool,
    /// It reads no more.
    pub closed: bool,
    /// What it has read.
    pub heard: usize,
    pub seen: Option<Seen>,
    /// How long after our end it ends its own; `None`: it takes no notice.
    pub answers: Option<Duration>,
    pub reader: Reader,
}

/// How a peer reads.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// So much at once.
    pub chunk: usize,
    /// So long after the last time.
    pub pace: Duration,
    /// Earliest next time.
    pub next: Duration,
    /// It stops for ever after so many bytes.
    pub patience: usize,
}

/// Times of a service that scripts must know to come near them.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub idle: Duration,
    pub greeting: Duration,
    pub half_closed: Duration,
}

impl Peer {
    /// One that acts from `start` on; `first`: whoever speaks first waits as long as a greeting may take.
    pub fn new(rng: &mut Rng, start: Duration, pace: Pace, first: bool) -> Peer {
        let speech = Speech::new(rng);
        let mut acts = VecDeque::new();
        let mut left = if rng.u8(..24) == 0 { rng.usize(..SPEECH_MAX / 2) } else { rng.usize(..3_000) };
        if first && rng.u8(..12) > 0 {
            acts.push_back((short(rng, pace.greeting), Act::Send(rng.usize(1..100))));
        } else if first && rng.u8(..3) > 0 {
            left = 0;
        }
        while left > 0 && acts.len() < 12 {
            let count = if rng.u8(..6) == 0 { left } else { rng.usize(1..=left) };
            acts.push_back((delay(rng, pace), Act::Send(count)));
            left -= count;
        }
        match rng.u8(..12) {
            0 => acts.push_back((delay(rng, pace), Act::Reset)),
            1 => acts.push_back((delay(rng, pace), Act::Close)),
            2..=7 => acts.push_back((delay(rng, pace), Act::End)),
            _ => {}
        }
        let due = start + acts.front().map_or(Duration::ZERO, |(delay, _)| *delay);
        let answers = (rng.u8(..6) > 0).then(|| delay(rng, pace));
        let reader = Reader::new(rng);
        Peer { speech, said: 0, acts, due, left: false, closed: false, heard: 0, seen: None, answers, reader }
    }

    /// The next act is over; the one behind it follows after its own time.
    pub fn done(&mut self, now: Duration) {
        self.acts.pop_front();
        self.due = now + self.acts.front().map_or(Duration::ZERO, |(delay, _)| *delay);
    }

    /// It sees how our stream has ended.
    pub fn sees(&mut self, how: Seen, now: Duration) {
        if self.seen.is_some() {
            return;
        }
        self.seen = Some(how);
        match (how, self.answers) {
            (Seen::Reset, _) => self.acts.clear(),
            (Seen::End, Some(after)) if !self.left => {
                self.acts = VecDeque::from([(after, Act::End)]);
                self.due = now + after;
            }
            (Seen::End, _) => {}
        }
    }

    /// When it acts next of its own accord.
    pub fn next(&self) -> Option<Duration> {
        (!self.acts.is_empty()).then_some(self.due)
    }
}

impl Reader {
    fn new(rng: &mut Rng) -> Reader {
        let (chunk, pace) = match rng.u8(..8) {
            // Not byte by byte: such a session would last for days.
            0 => (rng.usize(1..3_000).max(100), Duration::from_millis(rng.u64(1..400))),
            1 => (rng.usize(1_000..100_000), Duration::from_millis(rng.u64(1..50))),
            _ => (usize::MAX, Duration::ZERO),
        };
        let patience = if rng.u8(..20) == 0 { rng.usize(..5_000) } else { usize::MAX };
        Reader { chunk, pace, next: Duration::ZERO, patience }
    }
}

/// How long a peer thinks: mostly moments, now and then longer than it may.
fn delay(rng: &mut Rng, pace: Pace) -> Duration {
    match rng.u8(..40) {
        0 => around(rng, pace.idle),
        1 => around(rng, pace.half_closed),
        2..=5 => Duration::from_micros(rng.u64(..2_000_000)),
        6..=15 => Duration::ZERO,
        _ => Duration::from_micros(rng.u64(..20_000)),
    }
}

/// Mostly less than the limit.
fn short(rng: &mut Rng, limit: Duration) -> Duration {
    if rng.u8(..12) == 0 { around(rng, limit) } else { limit.mul_f64(rng.f64() * rng.f64()) }
}

/// On either side of the limit.
fn around(rng: &mut Rng, limit: Duration) -> Duration {
    limit.mul_f64(0.9 + 0.2 * rng.f64())
}

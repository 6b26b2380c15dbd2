//! A client by TLS as the scripted kernel sees it: records in both directions, and what they mean.
//!
//! What the client says becomes records, which arrive in pieces of any size; where each ends and what it brings is known, and
//! so what whoever reads them must have got of it. What the client is sent is decrypted by its own state of TLS.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::kernel::Conn;
use super::peer::{Act, Speech};

/// Plaintext of a record, at most (RFC 8446, section 5.1).
const RECORD_MAX: usize = 16_384;
/// Bytes of a record's header.
const HEADER: usize = 5;
/// Records that one act becomes, about, at most.
const RECORDS_MAX: usize = 60;

/// The client's end of a TLS session.
pub trait Tls {
    /// The records of some words.
    fn say(&mut self, words: &[u8]) -> Vec<u8>;
    /// `close_notify`.
    fn close(&mut self) -> Vec<u8>;
    /// New keys, and the wish for new ones of the other side (KeyUpdate); nothing before TLS 1.3.
    fn renew(&mut self) -> Vec<u8>;
    /// What some bytes bring, and whether `close_notify` was heard.
    ///
    /// # Errors
    /// They are no records of this session.
    fn hear(&mut self, records: &[u8]) -> Result<(Vec<u8>, bool), String>;
}

/// What has been read when a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// So many bytes of plaintext.
    Words(usize),
    /// Nothing that others are told: new keys.
    Nothing,
    /// `close_notify`.
    End,
    /// What is no record of this session.
    Fault,
}

/// A client's TLS.
pub struct Records {
    tls: Box<dyn Tls>,
    rng: Rng,
    /// All that it has sent and will send next; of it, what was read.
    bytes: Vec<u8>,
    taken: usize,
    /// Where what was not read whole ends, and what it brings.
    marks: VecDeque<(usize, Brings)>,
    /// An end or a fault was read.
    pub last: Option<Brings>,
    /// It has said that nothing follows.
    notified: bool,
    /// Its words up to there were offered to its server.
    pub offered: usize,
    /// It was told that nothing follows.
    pub heard_end: bool,
    /// It may break the protocol, and has.
    pub may_break: bool,
    pub has_broken: bool,
    /// The kernel encrypts and decrypts; of the next record's plaintext, so much was read.
    pub in_kernel: bool,
    opened: usize,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Records { marks, last, notified, offered, heard_end, in_kernel, .. } = self;
        let waiting = self.bytes.len() - self.taken;
        write!(
            f,
            "Records {{ {waiting} not read, {marks:?}, last: {last:?}, notified: {notified}, offered: {offered}, "
        )?;
        write!(f, "heard_end: {heard_end}, in_kernel: {in_kernel} }}")
    }
}

impl Records {
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nobody speaks it"))]
    pub fn new(tls: Box<dyn Tls>, rng: Rng) -> Records {
        Records {
            tls,
            rng,
            bytes: Vec::new(),
            taken: 0,
            marks: VecDeque::new(),
            last: None,
            notified: false,
            offered: 0,
            heard_end: false,
            may_break: false,
            has_broken: false,
            in_kernel: false,
            opened: 0,
        }
    }

    /// Makes records of a part of a speech.
    pub fn say(&mut self, speech: Speech, mut at: usize, mut count: usize) {
        let most = match self.rng.u8(..3) {
            0 => 30,
            1 => 1_000,
            _ => RECORD_MAX,
        };
        let most = most.max(count / RECORDS_MAX).min(RECORD_MAX);
        // A session in the kernel ends by it.
        let renews = if self.in_kernel { 200 } else { 20 };
        while count > 0 {
            if self.rng.u8(..renews) == 0 {
                let renewed = self.tls.renew();
                self.push(&renewed, Brings::Nothing);
            }
            let piece = self.rng.usize(1..=most.min(count));
            let record = self.tls.say(speech.bytes(at, piece));
            self.push(&record, Brings::Words(piece));
            (at, count) = (at + piece, count - piece);
        }
    }

    fn push(&mut self, record: &[u8], brings: Brings) {
        if !record.is_empty() {
            self.bytes.extend_from_slice(record);
            self.marks.push_back((self.bytes.len(), brings));
        }
    }

    /// What was not read, be it still on its way.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// So many bytes were read: the plaintext that is whole now.
    pub fn pass(&mut self, count: usize) -> usize {
        self.taken += count;
        let mut words = 0;
        while let Some(&(_, brings)) = self.marks.front().filter(|(end, _)| *end <= self.taken) {
            self.marks.pop_front();
            match brings {
                Brings::Words(count) => words += count,
                Brings::Nothing => {}
                Brings::End | Brings::Fault => self.last = Some(brings),
            }
        }
        words
    }

    /// What the next record brings where the kernel decrypts, if it is whole among the first `arrived` bytes.
    pub fn next_whole(&self, arrived: usize) -> Option<Brings> {
        let (end, brings) = self.marks.front()?;
        (*end <= self.taken + arrived).then_some(match brings {
            Brings::Words(count) => Brings::Words(count - self.opened),
            other => *other,
        })
    }

    /// So much plaintext of the next record was read, or it as a whole: bytes that are gone with it.
    pub fn open(&mut self, words: usize) -> usize {
        let Some(&(end, brings)) = self.marks.front() else { return 0 };
        if let Brings::Words(count) = brings
            && self.opened + words < count
        {
            self.opened += words;
            return 0;
        }
        self.opened = 0;
        let gone = end - self.taken;
        self.pass(gone);
        gone
    }

    /// What is sent to the client, which takes no notice of anything behind `close_notify`.
    ///
    /// # Errors
    /// It makes no sense to it.
    pub fn hear(&mut self, records: &[u8]) -> Result<Vec<u8>, String> {
        if self.heard_end {
            return Ok(Vec::new());
        }
        let (words, ended) = self.tls.hear(records)?;
        self.heard_end |= ended;
        Ok(words)
    }

    /// Ends the session, as TLS has it.
    fn notify(&mut self) {
        if !std::mem::replace(&mut self.notified, true) {
            let record = self.tls.close();
            self.push(&record, Brings::End);
        }
    }

    /// A record of which only a part will ever come.
    fn cut(&mut self) {
        if self.notified {
            return;
        }
        let record = self.tls.say(&[b'x'; 100]);
        self.bytes.extend_from_slice(&record[..self.rng.usize(..record.len())]);
    }

    /// What breaks the protocol: no record at all, or one that was tampered with.
    fn fault(&mut self) {
        self.has_broken = true;
        if self.rng.bool() {
            self.marks.push_back((self.bytes.len() + HEADER, Brings::Fault));
            return self.bytes.extend_from_slice(&[0x55; 100]);
        }
        let mut record = self.tls.say(&[b'x'; 100]);
        *record.last_mut().expect("it has a tag") ^= 1;
        self.push(&record, Brings::Fault);
    }
}

impl Conn {
    /// A client by TLS says something: records, of which any part arrives at once.
    pub(super) fn arrive_in_records(&mut self, count: usize, now: Duration) {
        let room = self.inbound_max.saturating_sub(self.inbound);
        let Conn { records: Some(records), peer, inbound, .. } = self else { return };
        if records.unread().len() == *inbound {
            records.say(peer.speech, peer.said, count);
            peer.said += count;
        }
        let waiting = records.unread().len() - *inbound;
        let part = if records.rng.u8(..4) == 0 { records.rng.usize(..=waiting) } else { waiting };
        *inbound += part.min(room);
        match () {
            () if part.min(room) == waiting => peer.done(now),
            () if room < part => peer.due = Duration::MAX,
            () => peer.due = now + Duration::from_micros(records.rng.u64(..20_000)),
        }
    }

    /// A client by TLS leaves; `true`: not, or not as others do.
    pub(super) fn leaves_by_tls(&mut self, act: Act, now: Duration) -> bool {
        let Conn { records: Some(records), inbound, .. } = self else { return false };
        let how = records.rng.u8(..6);
        let (mut stays, mut later) = (false, None);
        match (act, how) {
            (Act::Send(_), _) => return false,
            // It is silent, and reads on.
            (Act::Reset, 0..=1) if !records.notified && records.may_break => {
                records.fault();
                stays = true;
            }
            // Amid a record, and so is the end of the connection alone.
            (Act::Reset | Act::Close | Act::End, 1) => records.cut(),
            (Act::Reset, _) | (Act::Close | Act::End, 0) => {}
            (Act::End, 2..=3) if !records.notified => {
                records.notify();
                stays = true;
                later = (how == 2).then(|| Duration::from_micros(records.rng.u64(..3_000_000)));
            }
            (Act::Close | Act::End, _) => records.notify(),
        }
        *inbound = records.unread().len();
        if stays {
            self.leave();
        }
        if let Some(after) = later {
            self.peer.acts = VecDeque::from([(after, Act::End)]);
            self.peer.due = now + after;
        }
        stays
    }
}

//! SMTP, submission and LMTP, for the whole session: mail may follow mail, and XCLIENT would be believed between any two.
//!
//! Commands may come pipelined. Each has one answer, in order, so a queue says whose answer a reply is. DATA and AUTH are
//! the last to go on until they are answered; a chunk (BDAT) only goes on when the answers so far say that the server
//! will take it as one.

mod data;

use std::collections::VecDeque;

use super::super::Protocol;
use super::super::words::{begins_with_word, is_hidden, reply_code, split_line};
use super::{Failure, PIPELINE_MAX, REFUSED, is_auth, next_line, put_line, response, verb};
use data::Data;

/// Largest chunk that BDAT may announce, in bytes: more is no number that all servers read alike.
const CHUNK_MAX: u64 = i64::MAX as u64;

#[derive(Debug)]
pub(super) struct Smtp {
    protocol: Protocol,
    input: Input,
    /// Commands without an answer, oldest first.
    pending: VecDeque<Pending>,
    /// Whether the next bytes of the client can be read only when `pending` is empty.
    waits: bool,
    /// Whether the server takes chunks, by its last answer to EHLO or LHLO.
    chunking: bool,
    /// Accepted in the current transaction.
    recipients: u32,
    chunks: Chunks,
    hello: Hello,
}

/// The chunks of the current transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    None,
    Begun,
    /// The server refused one: what it would make of the next is uncertain.
    Failed,
}

/// How the client's next bytes are to be read.
#[derive(Debug)]
enum Input {
    Command,
    /// A line of an AUTH exchange.
    Response,
    Data(Data),
    /// So many bytes of a chunk, which goes on or not.
    Chunk {
        left: u64,
        passes: bool,
    },
}

/// A command without an answer, by what the answer changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Greeting,
    Hello,
    Recipient,
    Data,
    Auth,
    /// A chunk that is not the last.
    Chunk,
    /// Ends the transaction if it succeeds: MAIL, RSET.
    Reset,
    /// So many answers to the end of a message.
    Message(u32),
    Other,
}

/// The answer to EHLO or LHLO so far.
#[derive(Debug, Default)]
struct Hello {
    /// The last line that the client may see: it is not known yet whether it is the last of the answer.
    line: Vec<u8>,
    chunking: bool,
}

/// What becomes of a client's line.
enum Verdict {
    /// It goes on, and the answer will be this one.
    Pass(Pending),
    /// It announces a chunk.
    Chunk {
        length: u64,
        last: bool,
    },
    Refuse,
}

impl Smtp {
    pub(super) fn new(protocol: Protocol) -> Smtp {
        Smtp {
            protocol,
            input: Input::Command,
            pending: VecDeque::from([Pending::Greeting]),
            waits: true,
            chunking: false,
            recipients: 0,
            chunks: Chunks::None,
            hello: Hello::default(),
        }
    }

    /// What is held while an answer is to come may be a chunk, or the start of a line, which can as well wait.
    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn client(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let mut taken = 0;
        while let Some(rest) = input.get(taken..).filter(|rest| !rest.is_empty()) {
            let length = if self.waits { 0 } else { self.step(rest, out)? };
            if length == 0 {
                break;
            }
            taken += length;
        }
        Ok(taken)
    }

    /// Takes a line or a piece of a message; 0: that is not possible now.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        match &mut self.input {
            Input::Data(data) => {
                let (length, ended) = data.pass(rest, out);
                if ended {
                    self.message_ended();
                }
                Ok(length)
            }
            Input::Chunk { left, passes } => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                if *passes {
                    out.extend_from_slice(rest.get(..length).unwrap_or_default());
                }
                *left -= length as u64;
                if *left == 0 {
                    self.input = Input::Command;
                }
                Ok(length)
            }
            Input::Response => self.response(rest, out),
            Input::Command => self.command(rest, out),
        }
    }

    fn message_ended(&mut self) {
        self.input = Input::Command;
        self.pending.push_back(Pending::Message(self.answers_to_message()));
        self.transaction_ended();
    }

    fn transaction_ended(&mut self) {
        self.recipients = 0;
        self.chunks = Chunks::None;
    }

    /// LMTP answers for each recipient. RFC 2033, section 4.2.
    fn answers_to_message(&self) -> u32 {
        if self.protocol == Protocol::Lmtp { self.recipients.max(1) } else { 1 }
    }

    fn response(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((line, length)) = next_line(rest)? else { return Ok(0) };
        put_line(response(line), out);
        self.input = Input::Command;
        self.expect(Pending::Auth);
        Ok(length)
    }

    fn command(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((line, length)) = next_line(rest)? else { return Ok(0) };
        if self.pending.len() >= PIPELINE_MAX {
            return Ok(0);
        }
        match judge(line) {
            // A message comes by DATA or in chunks (RFC 3030, section 2), and servers have faults where both meet.
            Verdict::Pass(Pending::Data) if self.chunks != Chunks::None => match self.pending.is_empty() {
                true => self.refuse(out),
                false => return Ok(0),
            },
            Verdict::Pass(pending) => {
                put_line(line, out);
                self.expect(pending);
            }
            Verdict::Refuse => self.refuse(out),
            Verdict::Chunk { .. } if !self.pending.is_empty() => return Ok(0),
            Verdict::Chunk { length, last } => self.chunk(line, length, last, out),
        }
        Ok(length)
    }

    fn refuse(&mut self, out: &mut Vec<u8>) {
        put_line(REFUSED.as_bytes(), out);
        self.expect(Pending::Other);
    }

    /// A server that does not know chunks, or has no recipient for one, might take its bytes for commands: then they
    /// stay here.
    fn chunk(&mut self, line: &[u8], length: u64, last: bool, out: &mut Vec<u8>) {
        let passes = self.chunking && self.recipients > 0 && self.chunks != Chunks::Failed;
        match (passes, last) {
            (false, _) => self.refuse(out),
            (true, false) => {
                put_line(line, out);
                self.expect(Pending::Chunk);
                self.chunks = Chunks::Begun;
            }
            (true, true) => {
                put_line(line, out);
                self.expect(Pending::Message(self.answers_to_message()));
                self.transaction_ended();
            }
        }
        if length > 0 {
            self.input = Input::Chunk { left: length, passes };
        }
    }

    fn expect(&mut self, pending: Pending) {
        self.pending.push_back(pending);
        self.waits = matches!(pending, Pending::Hello | Pending::Data | Pending::Auth);
    }

    /// Takes one line of the server.
    pub(super) fn server(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let text = split_line(line).map_or(line, |(text, _)| text);
        let Some((code, last)) = reply_code(text) else {
            out.extend_from_slice(line);
            return Ok(());
        };
        if self.pending.front() == Some(&Pending::Hello) {
            self.hello.take(line, text, last, out);
        } else {
            out.extend_from_slice(line);
        }
        if last { self.answered(code) } else { Ok(()) }
    }

    fn answered(&mut self, code: u16) -> Result<(), Failure> {
        let hello = std::mem::take(&mut self.hello);
        let answered = self.next_answered();
        if self.pending.is_empty() {
            self.waits = false;
        }
        let ok = (200..300).contains(&code);
        match answered {
            Some(Pending::Data) if code == 354 => self.input = Input::Data(Data::default()),
            Some(Pending::Auth) if code == 334 => self.input = Input::Response,
            _ if (300..400).contains(&code) => return Err(Failure::Reply),
            Some(Pending::Hello) if ok => {
                self.chunking = hello.chunking;
                self.transaction_ended();
            }
            Some(Pending::Recipient) if ok => self.recipients += 1,
            Some(Pending::Reset) if ok => self.transaction_ended(),
            Some(Pending::Chunk) if !ok => self.chunks = Chunks::Failed,
            _ => {}
        }
        Ok(())
    }

    /// Whose answer has ended; `None` if the server spoke unasked.
    fn next_answered(&mut self) -> Option<Pending> {
        match self.pending.front_mut() {
            Some(Pending::Message(left)) if *left > 1 => {
                *left -= 1;
                Some(Pending::Message(*left))
            }
            _ => self.pending.pop_front(),
        }
    }
}

impl Hello {
    /// Takes a line of the answer; a line goes out when the next that the client may see is known, for what stands
    /// behind its code says whether it is the last.
    fn take(&mut self, line: &[u8], text: &[u8], last: bool, out: &mut Vec<u8>) {
        let capability = text.get(4..).unwrap_or_default();
        let first = self.line.is_empty(); // names the server
        self.chunking |= !first && begins_with_word(capability, "CHUNKING");
        if first || !is_hidden(Protocol::Smtp, capability) {
            self.put(b'-', out);
            self.line = line.to_vec();
        }
        if last {
            self.put(b' ', out);
        }
    }

    fn put(&mut self, separator: u8, out: &mut Vec<u8>) {
        if let Some(place) = self.line.get_mut(3).filter(|place| matches!(place, b' ' | b'-')) {
            *place = separator;
        }
        out.append(&mut self.line);
    }
}

fn judge(line: &[u8]) -> Verdict {
    Verdict::Pass(match &*verb(line).to_ascii_uppercase() {
        b"EHLO" | b"HELO" | b"LHLO" => Pending::Hello,
        b"RCPT" => Pending::Recipient,
        b"MAIL" | b"RSET" => Pending::Reset,
        b"DATA" => Pending::Data,
        b"AUTH" if is_auth(line) => Pending::Auth,
        b"BDAT" => return chunk(line).unwrap_or(Verdict::Refuse),
        b"NOOP" | b"QUIT" | b"VRFY" | b"EXPN" | b"HELP" | b"ETRN" => Pending::Other,
        _ => return Verdict::Refuse,
    })
}

/// `BDAT length [LAST]`. RFC 3030, section 2.
fn chunk(line: &[u8]) -> Option<Verdict> {
    let mut words = line.split(|&byte| byte == b' ').skip(1);
    let digits = words.next().filter(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))?;
    let length = str::from_utf8(digits).ok()?.parse().ok().filter(|&length| length <= CHUNK_MAX)?;
    let last = words.next();
    let known = last.is_none_or(|last| last.eq_ignore_ascii_case(b"LAST")) && words.next().is_none();
    known.then_some(Verdict::Chunk { length, last: last.is_some() })
}

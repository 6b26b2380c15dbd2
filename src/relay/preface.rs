//! How a backend is told the client's address in its own protocol, before the client may speak: IMAP's ID, and XCLIENT of
//! POP3, SMTP, submission, LMTP and ManageSieve.
//!
//! The client's bytes wait meanwhile. One deadline stands over the whole exchange; it is the caller's. What comes out
//! for the client is what it may see of the greeting; behind XCLIENT it goes through [`Filter::server`](super::Filter).

mod attributes;

use std::fmt;

use super::words::{begins_with_word, is_hidden, literal, reply_code, split_line};
use super::{Facts, Forward, Protocol};
use attributes::{Client, Offered};

/// Most bytes of a server's that an exchange takes.
pub const EXCHANGE_MAX: usize = 16 * 1024;
/// Longest name that EHLO or LHLO is given.
pub const HELLO_NAME_MAX: usize = 255;

/// POP3's word in the greeting of a backend that trusts this host.
const POP3_OFFER: &str = "[XCLIENT] ";

/// An exchange in progress.
#[derive(Debug)]
pub struct Preface {
    protocol: Protocol,
    client: Client,
    /// This host's name, for EHLO and LHLO.
    name: String,
    step: Step,
    offered: Offered,
    /// What the client is to see of what the server has said.
    greeting: Vec<u8>,
    /// An unfinished line of the server.
    partial: Vec<u8>,
    seen: usize,
}

/// Whose answer is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Greeting,
    /// EHLO or LHLO.
    Hello,
    /// ID or XCLIENT.
    Told,
}

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The server has to say more.
    More,
    /// The server knows the client; what it says from now on is for the client.
    Done,
    /// The server must not be used for this client, and the connection to it must be closed.
    Failed(Refusal),
}

/// Why an exchange failed. In all cases but [`Refusal::Client`] the client has not been told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The greeting says that the server does not serve now, or is none of this protocol.
    Greeting,
    /// The server does not offer the command, as a rule because it does not trust this host.
    NotOffered,
    /// The server does not believe this host, or did not understand.
    Refused,
    /// The server knows the client and does not serve it (SMTP's 421 to XCLIENT, for too many connections of that
    /// client): its words are for the client.
    Client,
    /// The server has said more than [`EXCHANGE_MAX`].
    TooLong,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Greeting => "the server's greeting is not that of a server that serves",
            Refusal::NotOffered => {
                "the server does not offer to be told the client's address: does it trust this host?"
            }
            Refusal::Refused => "the server did not take the client's address: does it trust this host?",
            Refusal::Client => "the server does not serve this client now",
            Refusal::TooLong => "the server's answers are too long",
        })
    }
}

impl std::error::Error for Refusal {}

impl Preface {
    /// The exchange for a client; `None` where nothing is said in band. `name` is this host's, for EHLO and LHLO:
    /// at most [`HELLO_NAME_MAX`] characters of a host name or an address literal; others are left out.
    pub fn new(forward: Forward, protocol: Protocol, facts: &Facts<'_>, name: &str) -> Option<Preface> {
        let exists = match forward {
            Forward::ImapId => protocol == Protocol::Imap,
            Forward::Xclient => !matches!(protocol, Protocol::Imap | Protocol::None),
            Forward::ProxyV2 | Forward::ProxyV1 | Forward::None => false,
        };
        let of_name = |c: &char| c.is_ascii_alphanumeric() || ".-_[]:".contains(*c);
        exists.then(|| Preface {
            protocol,
            client: Client::new(facts),
            name: name.chars().filter(of_name).take(HELLO_NAME_MAX).collect(),
            step: Step::Greeting,
            offered: Offered::default(),
            greeting: Vec::new(),
            partial: Vec::new(),
            seen: 0,
        })
    }

    /// Takes bytes of the server. What is to be sent to it now is appended to `to_server`, what the client is to see to
    /// `to_client`: nothing before the exchange has ended.
    pub fn handle_server(&mut self, bytes: &[u8], to_server: &mut Vec<u8>, to_client: &mut Vec<u8>) -> Progress {
        self.partial.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.partial);
        let mut rest = &*buffer;
        while let Some(length) = self.unit(rest) {
            if self.seen.saturating_add(length) > EXCHANGE_MAX {
                return Progress::Failed(Refusal::TooLong);
            }
            let (unit, after) = rest.split_at(length);
            self.seen += length;
            rest = after;
            let progress = self.take(unit, to_server);
            if progress != Progress::More {
                self.finish(progress, rest, to_client);
                return progress;
            }
        }
        if self.seen + rest.len() > EXCHANGE_MAX {
            return Progress::Failed(Refusal::TooLong);
        }
        self.partial = rest.to_vec();
        Progress::More
    }

    /// Length of what is to be judged together: a line, with its literals where the protocol has them.
    fn unit(&self, bytes: &[u8]) -> Option<usize> {
        let mut length = 0;
        loop {
            let (line, rest) = split_line(bytes.get(length..)?)?;
            length = bytes.len() - rest.len();
            let announced = literal(line).filter(|_| matches!(self.protocol, Protocol::Imap | Protocol::Sieve));
            match announced {
                Some(literal) if length + self.seen + literal.length.min(EXCHANGE_MAX) <= EXCHANGE_MAX => {
                    length += literal.length;
                }
                Some(_) => return None, // it will be too long
                None => return (length <= bytes.len()).then_some(length),
            }
        }
    }

    fn finish(&mut self, progress: Progress, rest: &[u8], to_client: &mut Vec<u8>) {
        if matches!(progress, Progress::Done | Progress::Failed(Refusal::Client)) {
            to_client.append(&mut self.greeting);
            to_client.extend_from_slice(rest);
        }
    }

    fn take(&mut self, unit: &[u8], to_server: &mut Vec<u8>) -> Progress {
        let line = split_line(unit).map_or(unit, |(line, _)| line);
        match self.protocol {
            Protocol::Imap => self.take_imap(unit, line, to_server),
            Protocol::Pop3 => self.take_pop3(unit, line, to_server),
            Protocol::Sieve => self.take_sieve(unit, line, to_server),
            _ => self.take_smtp(unit, line, to_server),
        }
    }

    fn take_imap(&mut self, unit: &[u8], line: &[u8], to_server: &mut Vec<u8>) -> Progress {
        match self.step {
            Step::Greeting if !line.starts_with(b"* OK") => Progress::Failed(Refusal::Greeting),
            Step::Greeting => match capabilities(line) {
                None => Progress::More, // "Waiting for authentication process to respond.."
                Some(all) if !all.split(|&byte| byte == b' ').any(|word| word.eq_ignore_ascii_case(b"ID")) => {
                    Progress::Failed(Refusal::NotOffered)
                }
                Some(_) => {
                    self.greeting = unit.to_vec();
                    self.tell(to_server)
                }
            },
            Step::Hello | Step::Told if line.starts_with(b"* BYE") => Progress::Failed(Refusal::Refused),
            Step::Hello | Step::Told if line.starts_with(b"* ") => Progress::More,
            Step::Hello | Step::Told => done_if(line.starts_with(b"I OK")),
        }
    }

    fn take_pop3(&mut self, unit: &[u8], line: &[u8], to_server: &mut Vec<u8>) -> Progress {
        if self.step == Step::Told {
            return done_if(line == b"+OK Updated"); // distrust is an +OK, too
        }
        if !begins_with_word(line, "+OK") {
            return Progress::Failed(Refusal::Greeting);
        }
        let offer = POP3_OFFER.trim_end().as_bytes();
        let Some(at) = line.windows(offer.len()).position(|window| window == offer) else {
            return Progress::Failed(Refusal::NotOffered);
        };
        let (before, after) = unit.split_at(at);
        let after = after.strip_prefix(POP3_OFFER.as_bytes()).or_else(|| after.strip_prefix(offer)).unwrap_or(after);
        self.greeting = [before, after].concat();
        self.tell(to_server)
    }

    fn take_sieve(&mut self, unit: &[u8], line: &[u8], to_server: &mut Vec<u8>) -> Progress {
        if self.step == Step::Told {
            return done_if(line == b"OK \"Updated\"");
        }
        if begins_with_word(line, "NO") || begins_with_word(line, "BYE") {
            return Progress::Failed(Refusal::Greeting);
        }
        self.offered.add_command(line.starts_with(b"\"XCLIENT\""));
        if !is_hidden(Protocol::Sieve, line) {
            self.greeting.extend_from_slice(unit);
        }
        match begins_with_word(line, "OK") {
            true if !self.offered.has_command() => Progress::Failed(Refusal::NotOffered),
            true => self.tell(to_server),
            false if !line.starts_with(b"\"") => Progress::Failed(Refusal::Greeting),
            false => Progress::More,
        }
    }

    fn take_smtp(&mut self, unit: &[u8], line: &[u8], to_server: &mut Vec<u8>) -> Progress {
        let Some((code, last)) = reply_code(line) else { return Progress::Failed(self.distrust()) };
        match self.step {
            Step::Greeting if code != 220 => Progress::Failed(Refusal::Greeting),
            Step::Greeting if last => {
                let verb = if self.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
                to_server.extend_from_slice(format!("{verb} {}\r\n", self.name).as_bytes());
                self.step = Step::Hello;
                Progress::More
            }
            Step::Greeting => Progress::More, // postscreen's 220- comes seconds before the rest
            Step::Hello if code != 250 => Progress::Failed(Refusal::Refused),
            Step::Hello => {
                self.offered.add_line(line.get(4..).unwrap_or_default());
                match last {
                    true if !self.offered.has_address() => Progress::Failed(Refusal::NotOffered),
                    true => self.tell(to_server),
                    false => Progress::More,
                }
            }
            Step::Told => {
                self.greeting.extend_from_slice(unit); // the server greets the client
                match (code, last) {
                    (220 | 421, false) => Progress::More,
                    (220, true) => Progress::Done,
                    (421, true) => Progress::Failed(Refusal::Client),
                    _ => Progress::Failed(Refusal::Refused),
                }
            }
        }
    }

    fn distrust(&self) -> Refusal {
        if self.step == Step::Greeting { Refusal::Greeting } else { Refusal::Refused }
    }

    fn tell(&mut self, to_server: &mut Vec<u8>) -> Progress {
        to_server.extend_from_slice(self.client.told(self.protocol, &self.offered).as_bytes());
        self.step = Step::Told;
        Progress::More
    }
}

fn done_if(good: bool) -> Progress {
    if good { Progress::Done } else { Progress::Failed(Refusal::Refused) }
}

/// What stands in the banner's `[CAPABILITY ...]`.
fn capabilities(line: &[u8]) -> Option<&[u8]> {
    let list = line.strip_prefix(b"* OK [CAPABILITY ")?;
    list.get(..list.iter().position(|&byte| byte == b']')?)
}

#[cfg(test)]
mod tests;

//! ManageSieve until the client has logged in, one command at a time.
//!
//! Strings may come as literals. Of what we let pass before a login they hold base64 only, and those that a quoted string
//! can hold go on as one: then no server can take a literal's content for a command.

use super::super::Protocol;
use super::super::words::{begins_with_word, is_clean, is_hidden, literal, split_line};
use super::{CLIENT_LINE_MAX, Failure, REFUSED, is_base64, put_line};

/// Longest quoted string. RFC 5804, section 4.
const QUOTED_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Sieve {
    waits_for: Option<Answer>,
    /// The server has sent a challenge.
    asked: bool,
}

/// Whose answer is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Lines up to OK, NO or BYE: the greeting, too.
    Status,
    /// The same, or a challenge; OK means that the client has logged in.
    Login,
}

impl Default for Sieve {
    fn default() -> Self {
        Sieve { waits_for: Some(Answer::Status), asked: false } // the greeting
    }
}

impl Sieve {
    pub(super) fn waits(&self) -> bool {
        self.waits_for.is_some()
    }

    pub(super) fn client(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let mut taken = 0;
        while !self.waits() {
            let rest = input.get(taken..).unwrap_or_default();
            let length = unit(rest, CLIENT_LINE_MAX, false);
            if length.unwrap_or(rest.len()) > CLIENT_LINE_MAX + 1 {
                return Err(Failure::ClientLine);
            }
            let Some(length) = length else { break };
            taken += length;
            let words = Words { rest: rest.get(..length).unwrap_or_default() };
            let answer = if self.asked { answer_challenge(words, out) } else { command(words, out) };
            self.asked = false;
            self.waits_for = Some(answer);
        }
        Ok(taken)
    }

    /// Takes one line of the server, with its literals; whether the client has logged in by it.
    pub(super) fn server(&mut self, unit: &[u8], out: &mut Vec<u8>) -> bool {
        let line = split_line(unit).map_or(unit, |(line, _)| line);
        if is_hidden(Protocol::Sieve, line) {
            return false;
        }
        out.extend_from_slice(unit);
        let ok = begins_with_word(line, "OK");
        let login = self.waits_for == Some(Answer::Login);
        if ok || begins_with_word(line, "NO") || begins_with_word(line, "BYE") {
            self.waits_for = None;
        } else if login {
            self.asked = true;
            self.waits_for = None;
        }
        ok && login
    }
}

/// Length of a line with the literals that its parts announce; `None` while it is not all there. More than `max` + 1 means
/// that it would be longer than may be. `synchronizing`: those without `+` count too.
pub(super) fn unit(bytes: &[u8], max: usize, synchronizing: bool) -> Option<usize> {
    let mut length = 0;
    loop {
        let (line, rest) = split_line(bytes.get(length..)?)?;
        length = bytes.len() - rest.len();
        match literal(line).filter(|literal| synchronizing || !literal.waits) {
            Some(literal) => length = length.saturating_add(literal.length),
            None => return Some(length),
        }
        if length > max {
            return Some(usize::MAX);
        }
    }
}

/// Writes what goes on for a command; says which answer it will have.
fn command(mut words: Words<'_>, out: &mut Vec<u8>) -> Answer {
    let start = out.len();
    let verb = words.verb();
    let answer = match &*verb.to_ascii_uppercase() {
        b"CAPABILITY" | b"LOGOUT" | b"NOOP" => Answer::Status,
        b"AUTHENTICATE" => Answer::Login,
        _ => return refuse(start, out),
    };
    out.extend_from_slice(verb);
    while !words.is_at_end() {
        let Some(string) = words.argument() else { return refuse(start, out) };
        out.push(b' ');
        string.put(out);
    }
    out.extend_from_slice(b"\r\n");
    answer
}

fn refuse(start: usize, out: &mut Vec<u8>) -> Answer {
    out.truncate(start);
    put_line(REFUSED.as_bytes(), out);
    Answer::Status
}

/// Writes the client's answer to a challenge: one string that holds base64, or the asterisk that gives up.
fn answer_challenge(mut words: Words<'_>, out: &mut Vec<u8>) -> Answer {
    match words.string().filter(|string| words.is_at_end() && is_base64(string.content())) {
        Some(string) => string.put(out),
        None => out.extend_from_slice(b"\"*\""),
    }
    out.extend_from_slice(b"\r\n");
    Answer::Login
}

/// What is left of a command, its end included.
#[derive(Clone, Copy)]
struct Words<'a> {
    rest: &'a [u8],
}

/// A string that a client sent, in a form that can be read in one way only.
#[derive(Clone, Copy)]
enum Text<'a> {
    /// What stands between the quotes.
    Quoted(&'a [u8]),
    /// Base64.
    Literal(&'a [u8]),
}

impl<'a> Words<'a> {
    /// The letters at the start.
    fn verb(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(self.rest.len());
        let (verb, rest) = self.rest.split_at(end);
        self.rest = rest;
        verb
    }

    fn is_at_end(&self) -> bool {
        matches!(self.rest, b"\r\n" | b"\n")
    }

    /// A space and a string; `None` for anything else.
    fn argument(&mut self) -> Option<Text<'a>> {
        self.rest = self.rest.strip_prefix(b" ")?;
        self.string()
    }

    fn string(&mut self) -> Option<Text<'a>> {
        match self.rest.first()? {
            b'"' => self.quoted(),
            b'{' => self.literal(),
            _ => None,
        }
    }

    fn quoted(&mut self) -> Option<Text<'a>> {
        let inside = self.rest.get(1..)?;
        let mut end = 0;
        while *inside.get(end)? != b'"' {
            end += if inside[end] == b'\\' { 2 } else { 1 };
        }
        self.rest = inside.get(end + 1..)?;
        inside.get(..end).filter(|text| is_clean(text)).map(Text::Quoted)
    }

    fn literal(&mut self) -> Option<Text<'a>> {
        let (line, rest) = split_line(self.rest)?;
        let announced = literal(line).filter(|literal| literal.at == 0 && !literal.waits)?;
        let (content, rest) = rest.split_at_checked(announced.length)?;
        self.rest = rest;
        is_base64(content).then_some(Text::Literal(content))
    }
}

impl<'a> Text<'a> {
    fn content(&self) -> &'a [u8] {
        match *self {
            Text::Quoted(text) | Text::Literal(text) => text,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Text::Literal(text) if text.len() > QUOTED_MAX => {
                put_line(format!("{{{}+}}", text.len()).as_bytes(), out);
                out.extend_from_slice(text);
            }
            Text::Quoted(text) | Text::Literal(text) => {
                out.push(b'"');
                out.extend_from_slice(text);
                out.push(b'"');
            }
        }
    }
}

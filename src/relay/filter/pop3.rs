//! POP3 until the client has logged in: one command at a time, for pipelining is a matter of what comes after the login.

use super::super::Protocol;
use super::super::words::{begins_with_word, is_hidden, split_line};
use super::{Failure, REFUSED, is_auth, next_line, put_line, response, verb};

#[derive(Debug)]
pub(super) struct Pop3 {
    waits_for: Option<Answer>,
    /// The server sends a list, up to its dot.
    listing: bool,
    /// The server has asked for a line of an AUTH exchange.
    asked: bool,
}

/// Whose answer is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// One line.
    Line,
    /// `+OK` begins a list: CAPA, and AUTH alone, which names the mechanisms.
    List,
    /// `+OK` means that the client has logged in.
    Login,
}

impl Default for Pop3 {
    fn default() -> Self {
        Pop3 { waits_for: Some(Answer::Line), listing: false, asked: false } // the greeting
    }
}

impl Pop3 {
    pub(super) fn waits(&self) -> bool {
        self.waits_for.is_some()
    }

    pub(super) fn client(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let mut taken = 0;
        while !self.waits()
            && let Some((line, length)) = next_line(input.get(taken..).unwrap_or_default())?
        {
            taken += length;
            let (line, answer) = if self.asked { (response(line), Answer::Login) } else { command(line) };
            self.asked = false;
            self.waits_for = Some(answer);
            put_line(line, out);
        }
        Ok(taken)
    }

    /// Takes one line of the server; whether the client has logged in by it.
    pub(super) fn server(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let text = split_line(line).map_or(line, |(text, _)| text);
        if self.listing {
            self.list_item(text);
            if is_hidden(Protocol::Pop3, text) {
                return false;
            }
        } else if let Some(answer) = self.waits_for {
            out.extend_from_slice(line);
            return self.answered(answer, text);
        }
        out.extend_from_slice(line);
        false
    }

    fn list_item(&mut self, text: &[u8]) {
        if text == b"." {
            self.listing = false;
            self.waits_for = None;
        }
    }

    fn answered(&mut self, answer: Answer, text: &[u8]) -> bool {
        let ok = begins_with_word(text, "+OK");
        match answer {
            Answer::List if ok => self.listing = true,
            Answer::Login if !ok && text.starts_with(b"+") => {
                self.asked = true;
                self.waits_for = None;
            }
            Answer::Line | Answer::List | Answer::Login => self.waits_for = None,
        }
        ok && answer == Answer::Login
    }
}

/// What goes on for a command, and which answer it will have.
fn command(line: &[u8]) -> (&[u8], Answer) {
    let answer = match &*verb(line).to_ascii_uppercase() {
        b"USER" | b"QUIT" | b"NOOP" => Answer::Line,
        b"PASS" | b"APOP" => Answer::Login,
        b"CAPA" => Answer::List,
        b"AUTH" if line.len() == b"AUTH".len() => Answer::List,
        b"AUTH" if is_auth(line) => Answer::Login,
        _ => return (REFUSED.as_bytes(), Answer::Line),
    };
    (line, answer)
}

//! What stands between a client and a backend that was told the client's address by XCLIENT: nothing that the client
//! sends may reach the backend as if this host had said it.
//!
//! The backend believes the connection, not our one command. So only commands that are known to be harmless pass, each
//! in a form that can be read in one way only: whole, without control characters, ended by CRLF. Every other line goes
//! on as [`REFUSED`], which every server answers as an unknown command: answers keep their number and order, and nothing
//! has to be put between them. Where the meaning of the next bytes hangs on an answer (DATA, AUTH, a chunk), they wait
//! for it. TLS must not start behind XCLIENT, since it would carry commands past the filter.
//!
//! A refused command is a bad command to the server, too: it counts towards Postfix's `smtpd_hard_error_limit` and
//! `smtpd_soft_error_limit`, and Dovecot hangs up on the third before the login. That is as it should be. Without us the
//! same client would be counted for the same line (nobody who is not trusted may say XCLIENT, and STARTTLS and STLS are not
//! offered here), these counts concern its own session only, and they are what stops a client that tries one command after
//! the other. A stand-in that succeeds, such as NOOP with its answer rewritten, would let it try for ever, and Postfix counts
//! that one as junk.
//!
//! Both directions may be cut anywhere.

mod pop3;
mod sieve;
mod smtp;

use std::fmt;

use super::Protocol;
use super::words::{self, is_clean};
use pop3::Pop3;
use sieve::Sieve;
use smtp::Smtp;

/// Most bytes of a client that are held back: an unfinished command, or what came before an answer that decides how to
/// read it. Twice the largest read.
pub const HELD_MAX: usize = 512 * 1024;
/// Longest line of a client without its LF, as RFC 4954 (section 4) wants it for AUTH. In ManageSieve a whole command
/// with its literals.
pub const CLIENT_LINE_MAX: usize = 12_288;
/// Longest command but AUTH; a longer one is refused. Postfix's own limit, so that no server reads the end of a long
/// line as a command.
pub const COMMAND_MAX: usize = 2048;
/// Longest line of a server without its LF; in ManageSieve with its literals.
pub const SERVER_LINE_MAX: usize = 16 * 1024;
/// Most commands that wait for their answers; further ones are held back.
pub const PIPELINE_MAX: usize = 1000;

/// The command that a server gets in place of one that must not pass: no server knows it.
pub const REFUSED: &str = "XREFUSED";

/// The filter of a session.
#[derive(Debug)]
pub struct Filter {
    talk: Talk,
    held: Vec<u8>,
    /// An unfinished line of the server.
    partial: Vec<u8>,
    /// Whether `held` waits for an answer rather than for its own end.
    blocked: bool,
}

#[derive(Debug)]
enum Talk {
    /// The client has logged in, or there is nothing to filter.
    Over,
    Pop3(Pop3),
    Sieve(Sieve),
    Smtp(Smtp),
}

/// Why a session cannot go on: to let its bytes pass would be a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// A client's line is longer than [`CLIENT_LINE_MAX`].
    ClientLine,
    /// A server's line is longer than [`SERVER_LINE_MAX`].
    ServerLine,
    /// A client has sent more than [`HELD_MAX`] ahead of an answer.
    Held,
    /// A server asked for more input where no command of the client's can have made it do so.
    Reply,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::ClientLine => "the client sent a line that is too long",
            Failure::ServerLine => "the server sent a line that is too long",
            Failure::Held => "the client sent too much ahead of an answer",
            Failure::Reply => "the server gave an answer that fits no command",
        })
    }
}

impl std::error::Error for Failure {}

impl Filter {
    /// For a session behind XCLIENT, from the greeting on: what [`Preface`](super::Preface) passes to the client goes
    /// through [`Filter::server`], too. For protocols without XCLIENT there is nothing to filter.
    pub fn new(protocol: Protocol) -> Filter {
        let talk = match protocol {
            Protocol::Pop3 => Talk::Pop3(Pop3::default()),
            Protocol::Sieve => Talk::Sieve(Sieve::default()),
            Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => Talk::Smtp(Smtp::new(protocol)),
            Protocol::Imap | Protocol::None => Talk::Over,
        };
        Filter { talk, held: Vec::new(), partial: Vec::new(), blocked: false }
    }

    /// Takes bytes of the client; what may go on now is appended to `to_server`.
    ///
    /// # Errors
    /// The session has to end; what was appended before may still be sent.
    pub fn client(&mut self, bytes: &[u8], to_server: &mut Vec<u8>) -> Result<(), Failure> {
        if self.held.is_empty() {
            let taken = self.talk.client(bytes, to_server)?;
            return self.hold(bytes.get(taken..).unwrap_or_default());
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let taken = self.talk.client(&held, to_server)?;
        if taken == 0 {
            self.held = held;
            return self.hold(&[]);
        }
        self.hold(held.get(taken..).unwrap_or_default())
    }

    /// Takes bytes of the server; what the client may see is appended to `to_client`, and what the client had sent
    /// ahead and may go on now to `to_server`.
    ///
    /// # Errors
    /// As for [`Filter::client`].
    pub fn server(&mut self, bytes: &[u8], to_client: &mut Vec<u8>, to_server: &mut Vec<u8>) -> Result<(), Failure> {
        let mut whole = std::mem::take(&mut self.partial);
        let mut rest = bytes;
        if !whole.is_empty() {
            whole.extend_from_slice(bytes);
            rest = &whole;
        }
        while let Some(length) = self.talk.server_unit(rest)? {
            let (unit, after) = rest.split_at(length);
            self.talk.server(unit, to_client)?;
            if !self.held.is_empty() {
                self.client(&[], to_server)?;
            }
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    /// Whether bytes pass as they are from now on, both ways: the client has logged in (POP3, ManageSieve), or there is
    /// nothing to filter.
    pub fn is_over(&self) -> bool {
        matches!(self.talk, Talk::Over) && self.held.is_empty() && self.partial.is_empty()
    }

    /// Whether more bytes of the client are of use now. Where not, it has sent ahead of an answer: read on when the
    /// server has said something.
    pub fn wants_client(&self) -> bool {
        !self.blocked
    }

    fn hold(&mut self, rest: &[u8]) -> Result<(), Failure> {
        if self.held.len() + rest.len() > HELD_MAX {
            return Err(Failure::Held);
        }
        if !rest.is_empty() {
            self.held.extend_from_slice(rest);
        }
        self.blocked = !self.held.is_empty() && self.talk.waits();
        Ok(())
    }
}

impl Talk {
    /// Takes as many bytes of the client from the start of `input` as can be decided on and returns how many.
    fn client(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        match self {
            Talk::Over => {
                out.extend_from_slice(input);
                Ok(input.len())
            }
            Talk::Pop3(pop3) => pop3.client(input, out),
            Talk::Sieve(sieve) => sieve.client(input, out),
            Talk::Smtp(smtp) => smtp.client(input, out),
        }
    }

    /// Length of what of the server's bytes is to be judged together; `None`: it is not all there.
    fn server_unit(&self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let unit = match self {
            Talk::Over => (!bytes.is_empty()).then_some(bytes.len()),
            Talk::Sieve(_) => sieve::unit(bytes, SERVER_LINE_MAX, true),
            Talk::Pop3(_) | Talk::Smtp(_) => words::split_line(bytes).map(|(_, rest)| bytes.len() - rest.len()),
        };
        let long = !matches!(self, Talk::Over) && unit.unwrap_or(bytes.len()) > SERVER_LINE_MAX + 1;
        if long { Err(Failure::ServerLine) } else { Ok(unit) }
    }

    fn server(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let over = match self {
            Talk::Over => {
                out.extend_from_slice(unit);
                false
            }
            Talk::Pop3(pop3) => pop3.server(unit, out),
            Talk::Sieve(sieve) => sieve.server(unit, out),
            Talk::Smtp(smtp) => {
                smtp.server(unit, out)?;
                false
            }
        };
        if over {
            *self = Talk::Over;
        }
        Ok(())
    }

    /// Whether an answer has to come before the next bytes of the client can be read.
    fn waits(&self) -> bool {
        match self {
            Talk::Over => false,
            Talk::Pop3(pop3) => pop3.waits(),
            Talk::Sieve(sieve) => sieve.waits(),
            Talk::Smtp(smtp) => smtp.waits(),
        }
    }
}

/// The client's next line, without its end, and its length with it; `None` while it is not all there.
fn next_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, Failure> {
    let seen = input.get(..=CLIENT_LINE_MAX).unwrap_or(input);
    match words::split_line(seen) {
        Some((line, rest)) => Ok(Some((line, seen.len() - rest.len()))),
        None if seen.len() > CLIENT_LINE_MAX => Err(Failure::ClientLine),
        None => Ok(None),
    }
}

fn put_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

/// The command word of a line that may pass as far as its form goes; empty for all others. Servers differ in what they
/// skip in front of a word and what ends it, so only a space does.
fn verb(line: &[u8]) -> &[u8] {
    let verb = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    let long = line.len() > COMMAND_MAX && !verb.eq_ignore_ascii_case(b"AUTH");
    if long || !is_clean(line) { &[] } else { verb }
}

/// `AUTH mechanism [initial response]` and nothing else.
fn is_auth(line: &[u8]) -> bool {
    let mut words = line.split(|&byte| byte == b' ').skip(1);
    let mechanism = words.next().unwrap_or_default();
    let named = mechanism.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    let rest = words.next().is_none_or(|response| !response.is_empty() && is_base64(response));
    !mechanism.is_empty() && named && rest && words.next().is_none()
}

/// What may answer the server's challenge: base64, or the asterisk that gives up. All else becomes the latter.
fn response(line: &[u8]) -> &[u8] {
    if is_base64(line) { line } else { b"*" }
}

fn is_base64(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
}

#[cfg(test)]
mod tests;

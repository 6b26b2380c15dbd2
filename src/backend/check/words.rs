//! What the lines of a mail server mean for a health check.

use crate::relay::{Protocol, Target, says_busy};

/// A line of a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// More is to come.
    Begun,
    /// The server is ready.
    Complete,
    /// The server has too many connections.
    Overloaded,
    /// The server could not read a PROXY header, as Postfix says it.
    HeaderTrouble,
    /// The server has received something before its greeting, which it does not allow.
    TooEarly,
    /// The server says that it does not serve.
    Refusal,
    /// Not this protocol.
    Foreign,
}

/// A line that answers a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Good,
    /// More lines belong to it.
    Unfinished,
    /// The server does not know such a command.
    Unknown,
    /// Not in this state (503).
    NotNow,
    /// It says something of PROXY headers: Exim of one that it misses or did not take, Haraka of one that it does not want.
    NoHeader,
    /// The server ends the session as it was told to.
    Goodbye,
    /// The server ends the session for reasons of its own.
    Leaving,
    /// The server ends the session because it has too many.
    Busy,
    Other,
}

pub(super) fn greeting(protocol: Protocol, line: &[u8]) -> Greeting {
    match greeting_of(protocol, line) {
        // Haraka by 421, and smtp-server in IMAP's words: both write the name so, which "open proxy" of a block list is not.
        Greeting::Refusal | Greeting::Foreign if line.windows(5).any(|word| word == b"PROXY") => {
            Greeting::HeaderTrouble
        }
        greeting => greeting,
    }
}

fn greeting_of(protocol: Protocol, line: &[u8]) -> Greeting {
    match protocol {
        Protocol::Imap => imap_greeting(line),
        Protocol::Pop3 if starts(line, b"+OK") => Greeting::Complete,
        Protocol::Pop3 if starts(line, b"-ERR") => refusal(line),
        Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => smtp_greeting(line),
        Protocol::Sieve => sieve_greeting(line),
        Protocol::Pop3 | Protocol::None => Greeting::Foreign,
    }
}

fn imap_greeting(line: &[u8]) -> Greeting {
    if starts(line, b"* OK Waiting for authentication process") {
        // Dovecot, which is not ready yet: the greeting follows.
        return Greeting::Begun;
    }
    match status(line) {
        Some((b"*", word)) if is(word, b"OK") || is(word, b"PREAUTH") => Greeting::Complete,
        Some((b"*", word)) if is(word, b"BYE") => refusal(line),
        _ => Greeting::Foreign,
    }
}

fn smtp_greeting(line: &[u8]) -> Greeting {
    match code(line) {
        Some((220, true)) => Greeting::Begun,
        Some((220, false)) => Greeting::Complete,
        // smtpd and postscreen, which read a header before anything else.
        Some((421, _)) if has(line, b"421 4.3.0 ") || has(line, b"No system resources") => Greeting::HeaderTrouble,
        // Exim; smtp-server.
        Some((554, _)) if has(line, b"synchronization") => Greeting::TooEarly,
        Some((421, _)) if has(line, b"talk too soon") => Greeting::TooEarly,
        Some((code, _)) if (400..600).contains(&code) => refusal(line),
        _ => Greeting::Foreign,
    }
}

fn sieve_greeting(line: &[u8]) -> Greeting {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    match line.first() {
        _ if is(word, b"OK") => Greeting::Complete,
        _ if is(word, b"BYE") || is(word, b"NO") => refusal(line),
        Some(b'"') => Greeting::Begun,
        _ => Greeting::Foreign,
    }
}

/// Too busy, or not serving at all.
fn refusal(line: &[u8]) -> Greeting {
    if says_busy(line) { Greeting::Overloaded } else { Greeting::Refusal }
}

pub(super) fn reply(protocol: Protocol, line: &[u8]) -> Reply {
    match protocol {
        Protocol::Imap => match status(line) {
            Some((_, word)) if is(word, b"BAD") => Reply::Unknown,
            Some((_, word)) if is(word, b"BYE") => Reply::Goodbye,
            Some((_, word)) if is(word, b"OK") => Reply::Good,
            _ => Reply::Other,
        },
        Protocol::Pop3 if starts(line, b"-ERR") => Reply::Unknown,
        Protocol::Sieve if starts(line, b"NO ") => Reply::Unknown,
        Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => smtp_reply(line),
        Protocol::Pop3 | Protocol::Sieve | Protocol::None => Reply::Other,
    }
}

fn smtp_reply(line: &[u8]) -> Reply {
    match code(line) {
        Some((_, true)) => Reply::Unfinished,
        Some((250, _)) => Reply::Good,
        Some((221, _)) => Reply::Goodbye,
        Some((421 | 503, _)) if has(line, b"proxy") => Reply::NoHeader,
        Some((421, _)) if says_busy(line) => Reply::Busy,
        Some((421, _)) => Reply::Leaving,
        Some((503, _)) => Reply::NotNow,
        Some((500..=502 | 554, _)) => Reply::Unknown,
        _ => Reply::Other,
    }
}

/// Whether these bytes are the beginning of a TLS record: an alert or a handshake. No mail protocol begins like that.
pub(super) fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// What a line looks like.
pub(super) fn likely(line: &[u8]) -> Option<&'static str> {
    const BEGINNINGS: [(&[u8], &str); 9] = [
        (b"* OK", "IMAP"),
        (b"* PREAUTH", "IMAP"),
        (b"* BYE", "IMAP"),
        (b"+OK", "POP3"),
        (b"-ERR", "POP3"),
        (b"220", "SMTP or LMTP"),
        (b"\"IMPLEMENTATION\"", "ManageSieve"),
        (b"SSH-", "SSH"),
        (b"HTTP/", "HTTP"),
    ];
    BEGINNINGS.iter().find(|(beginning, _)| starts(line, beginning)).map(|(_, name)| *name)
}

/// The kind of server that says such a line, where the words are its own; `begun`: behind the first line of a greeting.
pub(super) fn kind(line: &[u8], begun: bool) -> Option<Target> {
    const WORDS: [(&[u8], Target); 16] = [
        (b"No system resources", Target::Postscreen),
        (b"ESMTP Postfix", Target::Postfix),
        (b"Server local error", Target::Postfix),
        (b"ESMTP Exim", Target::Exim),
        (b"required Proxy negotiation failed", Target::Exim),
        (b"ESMTP OpenSMTPD", Target::Opensmtpd),
        (b"ESMTP Haraka", Target::Haraka),
        (b"PROXY not allowed from", Target::Haraka),
        (b"Invalid PROXY format", Target::Haraka),
        (b"* BAD Invalid PROXY header", Target::SmtpServer),
        (b"You talk too soon", Target::SmtpServer),
        (b"* OK IMAP4 ready", Target::Nginx),
        (b"+OK POP3 ready", Target::Nginx),
        // What Dovecot offers before the login; its greetings are often changed.
        (b"LOGIN-REFERRALS ID ENABLE", Target::Dovecot),
        (b"Dovecot", Target::Dovecot),
        (b"Waiting for authentication process", Target::Dovecot),
    ];
    let found = WORDS.iter().find(|(words, _)| has(line, words)).map(|(_, kind)| *kind);
    // Its teaser stands before the greeting of the smtpd that it hands over to.
    if found == Some(Target::Postfix) && begun { Some(Target::Postscreen) } else { found }
}

/// An IMAP line's first two words: its tag, and mostly a status.
fn status(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut words = line.split(|&byte| byte == b' ');
    Some((words.next()?, words.next()?))
}

/// An SMTP line's code, and whether more lines follow.
fn code(line: &[u8]) -> Option<(u16, bool)> {
    let digits = line.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match line.get(3) {
        None | Some(b' ') => Some((code, false)),
        Some(b'-') => Some((code, true)),
        Some(_) => None,
    }
}

fn is(word: &[u8], expected: &[u8]) -> bool {
    word.eq_ignore_ascii_case(expected)
}

fn starts(line: &[u8], beginning: &[u8]) -> bool {
    line.get(..beginning.len()).is_some_and(|start| is(start, beginning))
}

/// Whether the line contains these words, in any case.
fn has(line: &[u8], words: &[u8]) -> bool {
    line.windows(words.len()).any(|window| is(window, words))
}

//! The dialogue of one health check, sans-io: bytes and the time in, bytes and a verdict out.
//!
//! A banner check sends what the relay would send first (a PROXY header as `LOCAL` or with our own addresses, or nothing),
//! waits for the greeting, says goodbye politely and reads to the end, so that the server logs no error. What a server does
//! with a header tells apart four wrong configurations; see [`Finding`].
//!
//! ```text
//! connected --header--> Greeting --greeted--> [Noop: SMTP] --> Farewell --end, or its answer--> verdict
//! ```
//!
//! NOOP: Exim greets even after it has refused a header or waited for one in vain, takes QUIT, and answers everything else
//! with 503.

use std::time::{Duration, Instant};

use crate::relay::{Protocol, Target};

use super::settings::CheckKind;
use super::verdict::{Finding, Verdict, quoted};

mod words;

use words::{Greeting, Reply};

/// Most bytes that are read of a server before its greeting is complete, and after it.
const BYTES_MAX: usize = 16 * 1024;
/// An end without a word that comes sooner was no timeout of the server's: Dovecot waits 3 seconds for a header, Postfix 5.
const SERVER_TIMEOUT_MIN: Duration = Duration::from_millis(2500);
/// From the goodbye to the end of the connection. When it is over the verdict stands all the same.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How long a check may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckTimes {
    /// To the established connection.
    pub connect: Duration,
    /// From there to the complete greeting. Under 7 seconds, postscreen fails: it takes 6 for its last line.
    pub greeting: Duration,
}

impl Default for CheckTimes {
    fn default() -> Self {
        CheckTimes { connect: Duration::from_secs(5), greeting: Duration::from_secs(10) }
    }
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server has said that it is finished.
    Eof,
    /// The server, or what is between, has cut it.
    Reset,
}

/// What is to be done next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step<'a> {
    /// To be sent, in one write.
    pub send: &'a [u8],
    /// The check is over: send what there is to send, then close.
    pub verdict: Option<Verdict>,
}

/// One check of one server.
#[derive(Debug)]
pub struct Dialogue {
    kind: CheckKind,
    protocol: Protocol,
    header: Box<[u8]>,
    times: CheckTimes,
    state: State,
    begun: Instant,
    /// When the connection stood.
    connected: Instant,
    deadline: Instant,
    /// What has come and is no complete line yet.
    unread: Vec<u8>,
    /// Bytes that have come in all, since the connection stood or the greeting was complete.
    read: usize,
    /// A greeting has begun (`220-`) and is not complete.
    greeting_begun: bool,
    /// The kind of server whose words have come.
    looks_like: Option<Target>,
    /// What the greeting was worth; from there on it only gets worse.
    found: Option<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Greeting,
    Noop,
    Farewell,
    Over,
}

impl Dialogue {
    /// A check that begins `now`, with a connect. `header` is what is sent before anything else: a PROXY header without the
    /// address of a client, or nothing where `forward` sends none. A banner check of [`Protocol::None`] is a connect check
    /// that sends the header; those of kind `dovecot` and `connect` send none.
    pub fn new(kind: CheckKind, protocol: Protocol, header: &[u8], times: CheckTimes, now: Instant) -> Dialogue {
        Dialogue {
            kind,
            protocol,
            header: header.into(),
            times,
            state: State::Connecting,
            begun: now,
            connected: now,
            deadline: now + times.connect,
            unread: Vec::new(),
            read: 0,
            greeting_begun: false,
            looks_like: None,
            found: None,
        }
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// When [`expired`](Dialogue::expired) is to be called, unless the check is over before.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The connection stands.
    pub fn connected(&mut self, now: Instant) -> Step<'_> {
        (self.state, self.connected, self.deadline) = (State::Greeting, now, now + self.times.greeting);
        match (self.kind, self.protocol) {
            (CheckKind::None | CheckKind::Connect, _) => self.over(Finding::Connected, "connected", now),
            (CheckKind::Banner, Protocol::None) => {
                let verdict = self.over(Finding::Connected, "connected", now).verdict;
                Step { send: &self.header, verdict }
            }
            (CheckKind::Banner, _) => Step { send: &self.header, verdict: None },
            (CheckKind::Dovecot, _) => Step { send: b"PING\n", verdict: None },
        }
    }

    /// The server has sent something.
    pub fn received(&mut self, bytes: &[u8], now: Instant) -> Step<'_> {
        if self.state == State::Over {
            return Step::default();
        }
        self.read += bytes.len();
        self.unread.extend_from_slice(bytes);
        let before = self.state;
        while self.state != State::Over
            && let Some(line) = self.next_line()
        {
            let verdict = self.line(&line, now);
            if verdict.is_some() {
                return Step { send: b"", verdict };
            }
        }
        if self.state == State::Greeting && self.is_foreign() {
            return self.foreign(now);
        }
        if self.read > BYTES_MAX {
            return self.too_much(now);
        }
        let send = if self.state == before { b"" } else { self.next_command() };
        Step { send, verdict: None }
    }

    /// The connection has ended.
    pub fn ended(&mut self, how: Ending, now: Instant) -> Step<'_> {
        // A last line may lack its end.
        if matches!(self.state, State::Greeting | State::Noop | State::Farewell) && !self.unread.is_empty() {
            let rest = std::mem::take(&mut self.unread);
            if let Some(verdict) = self.line(&rest, now) {
                return Step { send: b"", verdict: Some(verdict) };
            }
            if self.state == State::Greeting && !self.greeting_begun {
                return self.other(&rest, now);
            }
        }
        match self.state {
            State::Over => Step::default(),
            State::Farewell => self.finish(),
            State::Connecting | State::Greeting => self.ended_unanswered(how, now),
            State::Noop => {
                self.over(Finding::Closed, "it greets, and ends the connection before it answers a NOOP", now)
            }
        }
    }

    /// The [`deadline`](Dialogue::deadline) has passed.
    pub fn expired(&mut self, now: Instant) -> Step<'_> {
        match self.state {
            State::Over => Step::default(),
            State::Connecting => self.over(Finding::Unreachable, "connect timed out", now),
            State::Farewell => self.finish(),
            State::Noop => self.over(Finding::Silent, "it greets, and does not answer a NOOP", now),
            State::Greeting => self.silent(now),
        }
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.iter().position(|&byte| byte == b'\n')?;
        let mut line: Vec<u8> = self.unread.drain(..=end).collect();
        while line.last().is_some_and(|&byte| byte == b'\n' || byte == b'\r') {
            line.pop();
        }
        Some(line)
    }

    fn line(&mut self, line: &[u8], now: Instant) -> Option<Verdict> {
        self.looks_like = words::kind(line, self.greeting_begun).or(self.looks_like);
        match self.state {
            State::Greeting if self.kind == CheckKind::Dovecot => self.pong(line, now),
            State::Greeting => self.greeting(line, now),
            State::Noop => self.noop_reply(line, now),
            State::Farewell => self.farewell_reply(line, now),
            State::Connecting | State::Over => None,
        }
    }

    fn pong(&mut self, line: &[u8], now: Instant) -> Option<Verdict> {
        if line != b"PONG" {
            return self.other(line, now).verdict;
        }
        self.greeted(Finding::Pong, "it answers PING with PONG".into(), now);
        None
    }

    fn greeting(&mut self, line: &[u8], now: Instant) -> Option<Verdict> {
        let quote = quoted(line);
        match words::greeting(self.protocol, line) {
            Greeting::Begun => self.greeting_begun = true,
            Greeting::Complete => self.greeted(Finding::Greeted, format!("it greets: {quote}"), now),
            Greeting::Overloaded => {
                let why = format!("it serves, and has too many connections: {quote}");
                return self.over(Finding::Overloaded, &why, now).verdict;
            }
            Greeting::HeaderTrouble if self.header.is_empty() => {
                let why = format!("it waits for a PROXY header and got none ({quote}): set `forward = proxy-v2`");
                return self.over(Finding::HeaderExpected, &why, now).verdict;
            }
            Greeting::HeaderTrouble => {
                let why = format!(
                    "it does not take our PROXY header ({quote}): see its log, and set `target` or `forward` to what it takes"
                );
                return self.over(Finding::HeaderRefused, &why, now).verdict;
            }
            Greeting::TooEarly if !self.header.is_empty() => return Some(self.no_header_expected(line, now)),
            Greeting::TooEarly | Greeting::Refusal => {
                return self.over(Finding::NotServing, &format!("it does not serve: {quote}"), now).verdict;
            }
            Greeting::Foreign => return self.other(line, now).verdict,
        }
        None
    }

    /// The greeting is complete: what follows can only make it worse.
    fn greeted(&mut self, finding: Finding, message: String, now: Instant) {
        let took = now.saturating_duration_since(self.begun);
        self.found = Some(Verdict { finding, message, took, kind: self.looks_like });
        let is_smtp = matches!(self.protocol, Protocol::Smtp | Protocol::Submission);
        self.read = 0;
        if is_smtp && self.kind == CheckKind::Banner {
            self.state = State::Noop;
        } else {
            (self.state, self.deadline) = (State::Farewell, now + FAREWELL_MAX);
        }
    }

    fn noop_reply(&mut self, line: &[u8], now: Instant) -> Option<Verdict> {
        match words::reply(self.protocol, line) {
            Reply::Unfinished => None,
            Reply::NoHeader if self.header.is_empty() => {
                let why = format!(
                    "it greets, but serves nothing without a PROXY header ({}): set `forward = proxy-v2`",
                    quoted(line)
                );
                self.over(Finding::HeaderExpected, &why, now).verdict
            }
            Reply::NotNow | Reply::NoHeader if !self.header.is_empty() => {
                let why = format!(
                    "it greets, but serves nothing behind our PROXY header ({}): this host is not among those that may send \
                     one, or it does not take this form of it",
                    quoted(line)
                );
                self.over(Finding::HeaderRefused, &why, now).verdict
            }
            Reply::Busy => {
                let why = format!("it serves, and has too many connections: {}", quoted(line));
                self.over(Finding::Overloaded, &why, now).verdict
            }
            Reply::Leaving => {
                let why = format!("it greets, and does not serve: {}", quoted(line));
                self.over(Finding::NotServing, &why, now).verdict
            }
            Reply::Unknown | Reply::Goodbye if !self.header.is_empty() => Some(self.no_header_expected(line, now)),
            _ => {
                (self.state, self.deadline) = (State::Farewell, now + FAREWELL_MAX);
                None
            }
        }
    }

    fn farewell_reply(&mut self, line: &[u8], now: Instant) -> Option<Verdict> {
        match words::reply(self.protocol, line) {
            Reply::Unknown if !self.header.is_empty() && self.kind == CheckKind::Banner => {
                Some(self.no_header_expected(line, now))
            }
            // To the end, which comes of itself.
            _ => None,
        }
    }

    fn next_command(&self) -> &'static [u8] {
        match (self.state, self.kind, self.protocol) {
            (State::Noop, _, _) => b"NOOP\r\n",
            (State::Farewell, CheckKind::Banner, Protocol::Imap) => b"x LOGOUT\r\n",
            (State::Farewell, CheckKind::Banner, Protocol::Sieve) => b"LOGOUT\r\n",
            (State::Farewell, CheckKind::Banner, _) => b"QUIT\r\n",
            _ => b"",
        }
    }

    fn no_header_expected(&mut self, line: &[u8], now: Instant) -> Verdict {
        let message = format!(
            "it takes our PROXY header for commands ({}): this port does not expect one. Name its port that does \
             (Dovecot: `haproxy = yes`), or set `forward = none`",
            quoted(line)
        );
        self.verdict(Finding::NoHeaderExpected, message, now)
    }

    fn ended_unanswered(&mut self, how: Ending, now: Instant) -> Step<'_> {
        let after = now.saturating_duration_since(self.connected);
        let how = match how {
            Ending::Eof => "it ends the connection",
            Ending::Reset => "it resets the connection",
        };
        let when = format!("{how} {:.1} s after it began", after.as_secs_f64());
        let was_timeout = after >= SERVER_TIMEOUT_MIN;
        let (finding, rest) = match (self.kind, self.header.is_empty()) {
            (CheckKind::Dovecot, _) => {
                (Finding::Closed, "without a PONG: is this the port of Dovecot's service health-check?")
            }
            _ if self.greeting_begun => (Finding::Closed, "in the middle of its greeting"),
            (_, true) if was_timeout => {
                (Finding::HeaderExpected, "without a word: it waits for a PROXY header, so set `forward = proxy-v2`")
            }
            (_, true) => (
                Finding::Closed,
                "without a word: it does not serve this host, expects TLS, or has all its processes in use",
            ),
            (_, false) => (
                Finding::HeaderRefused,
                "without a word, behind our PROXY header, as Dovecot, nginx, OpenSMTPD and HAProxy do: this host is not \
                 among those that may send one (haproxy_trusted_networks), or it does not take this form of it \
                 (`target`), or it expects TLS",
            ),
        };
        self.over(finding, &format!("{when} {rest}"), now)
    }

    fn silent(&mut self, now: Instant) -> Step<'_> {
        let seconds = self.times.greeting.as_secs_f64();
        let why = match (self.kind, self.header.is_empty()) {
            (CheckKind::Dovecot, _) => "it does not answer PING: is this the port of Dovecot's service health-check?",
            _ if self.greeting_begun => "its greeting is not complete",
            _ if !self.unread.is_empty() => "its first line has no end",
            (_, true) => {
                "it says nothing: it hangs, expects TLS, or waits for a PROXY header that `forward` does not send"
            }
            (_, false) => {
                "it says nothing behind our PROXY header: it hangs, expects TLS, or does not know this version of the header, \
                 as Haraka does not know version 2"
            }
        };
        self.over(Finding::Silent, &format!("{why} ({seconds:.0} s)"), now)
    }

    /// Whether what has come cannot become a line of the protocol.
    fn is_foreign(&self) -> bool {
        words::is_tls(&self.unread)
    }

    fn foreign(&mut self, now: Instant) -> Step<'_> {
        let why =
            "it speaks TLS from the first byte: set the service's `protocol = none`, or name its port without TLS";
        self.over(Finding::SpeaksTls, why, now)
    }

    fn other(&mut self, line: &[u8], now: Instant) -> Step<'_> {
        if words::is_tls(line) {
            return self.foreign(now);
        }
        let wanted = match self.kind {
            CheckKind::Dovecot => "PONG",
            _ => self.protocol.name(),
        };
        let speaks = words::likely(line).map_or(String::new(), |name| format!(", which looks like {name}"));
        self.over(Finding::OtherProtocol, &format!("it says {}{speaks}, not {wanted}", quoted(line)), now)
    }

    fn too_much(&mut self, now: Instant) -> Step<'_> {
        match self.state {
            State::Farewell | State::Noop => self.finish(),
            _ => self.over(Finding::OtherProtocol, "it talks and talks, and no greeting comes of it", now),
        }
    }

    fn finish(&mut self) -> Step<'_> {
        self.state = State::Over;
        let mut verdict = self.found.take();
        debug_assert!(verdict.is_some(), "a farewell follows a greeting");
        if let Some(verdict) = &mut verdict {
            verdict.kind = self.looks_like;
        }
        Step { send: b"", verdict }
    }

    fn over(&mut self, finding: Finding, message: &str, now: Instant) -> Step<'_> {
        let verdict = self.verdict(finding, message.to_owned(), now);
        Step { send: b"", verdict: Some(verdict) }
    }

    fn verdict(&mut self, finding: Finding, message: String, now: Instant) -> Verdict {
        self.state = State::Over;
        let took = now.saturating_duration_since(self.begun);
        Verdict { finding, message, took, kind: self.looks_like }
    }
}

#[cfg(test)]
mod tests;

//! A server that reads as tolerantly as some server somewhere does, and counts the commands that must not reach it.

use crate::relay::Protocol;

/// What a server makes of what the standards leave open, or forbid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taste {
    pub(super) chunking: bool,
    /// What ends a line of a command.
    pub(super) line: Ends,
    /// What ends the lines around the dot of a message.
    pub(super) dot: Ends,
    /// Whether a NUL ends a line's text.
    pub(super) nul_ends: bool,
    /// Which commands are refused for no reason; 0: none.
    pub(super) refuses: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    CrLf,
    Lf,
    Any,
}

impl Default for Taste {
    fn default() -> Self {
        Taste { chunking: true, line: Ends::Lf, dot: Ends::CrLf, nul_ends: false, refuses: 0 }
    }
}

impl Taste {
    pub(super) fn random(random: &mut fastrand::Rng) -> Taste {
        let mut ends = || [Ends::CrLf, Ends::Lf, Ends::Any][random.usize(..3)];
        let (line, dot) = (ends(), ends());
        let refuses = if random.bool() { 0 } else { random.u32(1..) };
        Taste { chunking: random.u8(..4) > 0, line, dot, nul_ends: random.bool(), refuses }
    }
}

enum Mode {
    Command,
    Data,
    Chunk { left: usize, last: bool },
    Auth,
    LoggedIn,
}

pub(super) struct Server {
    protocol: Protocol,
    taste: Taste,
    buffer: Vec<u8>,
    mode: Mode,
    mail: bool,
    recipients: usize,
    commands: u32,
    pub(super) forbidden: usize,
}

impl Server {
    pub(super) fn new(protocol: Protocol, taste: Taste) -> Server {
        Server {
            protocol,
            taste,
            buffer: Vec::new(),
            mode: Mode::Command,
            mail: false,
            recipients: 0,
            commands: 0,
            forbidden: 0,
        }
    }

    pub(super) fn greeting(&self) -> Vec<u8> {
        match self.protocol {
            Protocol::Pop3 => b"+OK ready\r\n".to_vec(),
            Protocol::Sieve => b"\"SASL\" \"PLAIN\"\r\n\"STARTTLS\"\r\n\"XCLIENT\"\r\nOK \"ready\"\r\n".to_vec(),
            _ => b"220 mx\r\n".to_vec(),
        }
    }

    /// Takes bytes and answers.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut answers = String::new();
        while let Some(answer) = self.step() {
            answers += &answer;
        }
        answers.into_bytes()
    }

    fn step(&mut self) -> Option<String> {
        match self.mode {
            Mode::LoggedIn => None,
            Mode::Chunk { left, last } => self.chunk(left, last),
            Mode::Data => {
                let line = self.line(self.taste.dot)?;
                Some(if line == "." { self.message() } else { String::new() })
            }
            Mode::Command | Mode::Auth => {
                let mut line = self.line(self.taste.line)?;
                if self.protocol == Protocol::Sieve {
                    line = self.with_literals(line)?;
                }
                self.commands += 1;
                Some(self.answer(line.trim_start()))
            }
        }
    }

    fn line(&mut self, ends: Ends) -> Option<String> {
        let is_end = |at: usize| match (ends, self.buffer[at]) {
            (Ends::CrLf, byte) => byte == b'\n' && at > 0 && self.buffer[at - 1] == b'\r',
            (Ends::Lf, byte) => byte == b'\n',
            (Ends::Any, byte) => byte == b'\n' || byte == b'\r',
        };
        let end = (0..self.buffer.len()).find(|&at| is_end(at))?;
        let both = ends == Ends::Any && self.buffer[end] == b'\r';
        if both && self.buffer.len() == end + 1 {
            return None; // an LF may follow
        }
        let length = end + 1 + usize::from(both && self.buffer[end + 1] == b'\n');
        let mut line: Vec<u8> = self.buffer.drain(..length).take(end).collect();
        match ends {
            Ends::CrLf => assert_eq!(line.pop(), Some(b'\r')),
            Ends::Lf => line.truncate(line.iter().rposition(|&byte| byte != b'\r').map_or(0, |at| at + 1)),
            Ends::Any => {}
        }
        if let Some(nul) = line.iter().position(|&byte| byte == 0).filter(|_| self.taste.nul_ends) {
            line.truncate(nul);
        }
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// The whole of a line that announces a literal; it goes back where that is not there.
    fn with_literals(&mut self, line: String) -> Option<String> {
        let Some((start, digits)) = line.strip_suffix("+}").and_then(|line| line.rsplit_once('{')) else {
            return Some(line);
        };
        let length: usize = digits.parse().ok()?;
        assert!(self.buffer.len() > length, "the filter passes whole commands");
        let content: Vec<u8> = self.buffer.drain(..length).collect();
        let rest = self.line(self.taste.line)?;
        Some(format!("{start}\"{}\"{rest}", String::from_utf8_lossy(&content)))
    }

    fn answer(&mut self, line: &str) -> String {
        let verb = line.split([' ', '\t']).next().unwrap_or_default().to_ascii_uppercase();
        let at_command = matches!(self.mode, Mode::Command);
        if at_command && ["XCLIENT", "XFORWARD", "XOIP", "STARTTLS", "STLS"].contains(&&*verb.replace('"', "")) {
            self.forbidden += 1;
            return "220 +OK OK taken\r\n".to_owned();
        }
        match self.protocol {
            Protocol::Pop3 => self.pop3(&verb, line),
            Protocol::Sieve => self.sieve(line),
            _ => self.smtp(&verb, line),
        }
    }

    fn pop3(&mut self, verb: &str, line: &str) -> String {
        let was_auth = matches!(std::mem::replace(&mut self.mode, Mode::Command), Mode::Auth);
        match (was_auth, verb, line) {
            (true, _, "AGEAYg==") | (false, _, "PASS pw") => {
                self.mode = Mode::LoggedIn;
                "+OK Logged in.\r\n"
            }
            (true, ..) => "-ERR\r\n",
            (false, "CAPA", _) => "+OK\r\nUIDL\r\nSTLS\r\n.\r\n",
            (false, "AUTH", "AUTH") => "+OK\r\nPLAIN\r\n.\r\n",
            (false, "AUTH", "AUTH PLAIN") => {
                self.mode = Mode::Auth;
                "+ \r\n"
            }
            (false, "USER", _) => "+OK\r\n",
            _ => "-ERR\r\n",
        }
        .to_owned()
    }

    fn sieve(&mut self, line: &str) -> String {
        let was_auth = matches!(std::mem::replace(&mut self.mode, Mode::Command), Mode::Auth);
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match (was_auth, &*verb, line) {
            (true, _, "\"QUJD\"") | (false, _, "AUTHENTICATE \"PLAIN\" \"AAAA\"") => {
                self.mode = Mode::LoggedIn;
                "OK \"Logged in.\"\r\n"
            }
            (true, ..) => "NO {3}\r\nbad\r\n",
            (false, _, "AUTHENTICATE \"PLAIN\"") => {
                self.mode = Mode::Auth;
                if self.commands.is_multiple_of(2) { "\"\"\r\n" } else { "{4}\r\nOK\r\n\r\n" }
            }
            (false, "CAPABILITY", _) => "\"SASL\" \"PLAIN\"\r\n\"STARTTLS\"\r\n\"XCLIENT\"\r\nOK\r\n",
            (false, "NOOP", _) => "OK\r\n",
            _ => "NO\r\n",
        }
        .to_owned()
    }

    fn smtp(&mut self, verb: &str, line: &str) -> String {
        if matches!(std::mem::replace(&mut self.mode, Mode::Command), Mode::Auth) {
            return if line == "QUJD" { "235 in\r\n" } else { "535 no\r\n" }.to_owned();
        }
        let refused = self.taste.refuses != 0 && self.commands.wrapping_mul(self.taste.refuses).is_multiple_of(4);
        match (verb, refused) {
            ("EHLO" | "LHLO" | "RSET" | "MAIL" | "RCPT" | "DATA", true) => "450 not now\r\n".to_owned(),
            ("EHLO" | "LHLO", _) => self.hello(),
            ("HELO", _) => self.reset("250 mx\r\n"),
            ("RSET", _) => self.reset("250 flushed\r\n"),
            ("MAIL", _) if !self.mail => {
                self.mail = true;
                "250 sender\r\n".to_owned()
            }
            ("RCPT", _) if self.mail => {
                self.recipients += 1;
                "250 recipient\r\n".to_owned()
            }
            ("DATA", _) if self.recipients > 0 => {
                self.mode = Mode::Data;
                "354 go\r\n".to_owned()
            }
            ("MAIL" | "RCPT" | "DATA", _) => "503 order\r\n".to_owned(),
            ("BDAT", _) if self.taste.chunking => self.chunk_begins(line),
            ("AUTH", _) if line == "AUTH PLAIN" => {
                self.mode = Mode::Auth;
                "334 \r\n".to_owned()
            }
            ("AUTH", _) => "504 mechanism\r\n".to_owned(),
            ("NOOP" | "VRFY", _) => "250-ok\r\n250 ok\r\n".to_owned(),
            ("QUIT", _) => "221 bye\r\n".to_owned(),
            _ => "500 unknown\r\n".to_owned(),
        }
    }

    fn hello(&mut self) -> String {
        let chunking = if self.taste.chunking { "250-CHUNKING\r\n" } else { "" };
        self.reset(&format!(
            "250-mx\r\n250-PIPELINING\r\n250-XCLIENT ADDR\r\n{chunking}250-AUTH PLAIN\r\n250-XFORWARD NAME\r\n\
             250 STARTTLS\r\n"
        ))
    }

    fn reset(&mut self, answer: &str) -> String {
        (self.mail, self.recipients) = (false, 0);
        answer.to_owned()
    }

    /// Without a recipient the chunk is not taken as one: its bytes are read as commands.
    fn chunk_begins(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let length = words.get(1).and_then(|digits| digits.parse().ok()).filter(|_| self.recipients > 0);
        let Some(left) = length else { return "503 no chunk\r\n".to_owned() };
        self.mode = Mode::Chunk { left, last: words.len() > 2 };
        String::new()
    }

    fn chunk(&mut self, left: usize, last: bool) -> Option<String> {
        let now = left.min(self.buffer.len());
        self.buffer.drain(..now);
        self.mode = Mode::Chunk { left: left - now, last };
        if left > now {
            return None;
        }
        self.mode = Mode::Command;
        let fails = self.taste.refuses != 0 && self.taste.refuses.is_multiple_of(3);
        Some(match (last, fails) {
            (true, _) => self.message(),
            (false, true) if self.taste.refuses.is_multiple_of(2) => self.reset("452 full\r\n"),
            (false, true) => "452 full\r\n".to_owned(),
            (false, false) => "250 chunk\r\n".to_owned(),
        })
    }

    fn message(&mut self) -> String {
        self.mode = Mode::Command;
        let answers = if self.protocol == Protocol::Lmtp { self.recipients } else { 1 };
        self.reset(&"250-mail\r\n250 mail\r\n".repeat(answers))
    }
}

//! The filter once more, as simply as can be: it has all that the client says at once, and asks the server line by line.

use super::server::{Server, Taste};
use crate::relay::Protocol;

struct Naive<'a> {
    protocol: Protocol,
    server: Server,
    rest: &'a [u8],
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    chunking: bool,
    recipients: usize,
    chunk_failed: bool,
    chunks: bool,
}

/// What the server gets, and what the client sees.
pub(super) fn filter(protocol: Protocol, taste: Taste, client: &[u8]) -> (Vec<u8>, Vec<u8>, Server) {
    let server = Server::new(protocol, taste);
    let greeting = String::from_utf8(server.greeting()).expect("text");
    let mut naive = Naive {
        protocol,
        server,
        rest: client,
        to_server: Vec::new(),
        to_client: Vec::new(),
        chunking: false,
        recipients: 0,
        chunk_failed: false,
        chunks: false,
    };
    naive.show(&greeting);
    while naive.step().is_some() {}
    (naive.to_server, naive.to_client, naive.server)
}

impl<'a> Naive<'a> {
    fn step(&mut self) -> Option<()> {
        if self.protocol == Protocol::Sieve {
            return self.sieve();
        }
        let line = self.line()?;
        let words: Vec<String> = text(line).split(' ').map(str::to_owned).collect();
        let strange = line.iter().any(|&byte| (byte < 32 && byte != 9) || byte == 127);
        let verb = if strange { String::new() } else { words[0].to_uppercase() };
        if verb == "AUTH" && words.len() > 1 {
            return self.auth(line, &words);
        }
        match self.protocol {
            Protocol::Pop3 => self.pop3(line, &verb),
            _ => self.smtp(line, &verb, &words),
        }
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn tell(&mut self, line: &[u8]) -> String {
        self.raw(&[line, b"\r\n"].concat())
    }

    fn raw(&mut self, bytes: &[u8]) -> String {
        self.to_server.extend_from_slice(bytes);
        String::from_utf8(self.server.feed(bytes)).expect("text")
    }

    /// Shows what the client may see.
    fn show(&mut self, answer: &str) {
        let hidden = ["\"STARTTLS\"\r\n", "\"XCLIENT\"\r\n", "STLS\r\n"];
        let answer = hidden.iter().fold(answer.to_owned(), |answer, line| match self.protocol {
            Protocol::Pop3 | Protocol::Sieve => answer.replace(line, ""),
            _ => answer,
        });
        self.to_client.extend_from_slice(answer.as_bytes());
    }

    fn pass(&mut self, line: &[u8]) -> String {
        let answer = self.tell(line);
        self.show(&answer);
        answer
    }

    fn all_the_rest(&mut self) -> Option<()> {
        self.to_server.extend_from_slice(self.rest);
        None
    }

    fn auth(&mut self, line: &[u8], words: &[String]) -> Option<()> {
        let base64 = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
        let named =
            !words[1].is_empty() && words[1].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let good = named && (words.len() == 2 || (words.len() == 3 && !words[2].is_empty() && base64(&words[2])));
        let mut answer = self.pass(if good { line } else { b"XREFUSED" });
        while answer.starts_with("334") || answer.starts_with("+ ") {
            let line = self.line()?;
            answer = self.pass(if base64(&text(line)) { line } else { b"*" });
        }
        if answer.starts_with("+OK") { self.all_the_rest() } else { Some(()) }
    }

    fn pop3(&mut self, line: &[u8], verb: &str) -> Option<()> {
        let known = ["USER", "PASS", "APOP", "AUTH", "CAPA", "NOOP", "QUIT"].contains(&verb);
        let answer = self.pass(if known { line } else { b"XREFUSED" });
        if verb == "PASS" && answer.starts_with("+OK") { self.all_the_rest() } else { Some(()) }
    }

    fn smtp(&mut self, line: &[u8], verb: &str, words: &[String]) -> Option<()> {
        match verb {
            "EHLO" | "LHLO" | "HELO" => {
                let answer = self.tell(line);
                self.show_hello(&answer);
            }
            "MAIL" | "RSET" if self.pass(line).starts_with('2') => self.reset(),
            "RCPT" if self.pass(line).starts_with('2') => self.recipients += 1,
            "DATA" if self.chunks => drop(self.pass(b"XREFUSED")),
            "DATA" => {
                if self.pass(line).starts_with("354") {
                    self.content()?;
                }
            }
            "BDAT" => self.chunk(line, words)?,
            "NOOP" | "QUIT" | "VRFY" => drop(self.pass(line)),
            "MAIL" | "RSET" | "RCPT" => {}
            _ => drop(self.pass(b"XREFUSED")),
        }
        Some(())
    }

    fn reset(&mut self) {
        (self.recipients, self.chunk_failed, self.chunks) = (0, false, false);
    }

    fn show_hello(&mut self, answer: &str) {
        let lines: Vec<&str> = answer.lines().collect();
        let hidden = |line: &str| ["XCLIENT", "XFORWARD", "STARTTLS"].iter().any(|name| line[4..].starts_with(name));
        let kept: Vec<&str> =
            lines.iter().enumerate().filter(|(at, line)| *at == 0 || !hidden(line)).map(|(_, line)| *line).collect();
        for (at, line) in kept.iter().enumerate() {
            let separator = if at + 1 == kept.len() { ' ' } else { '-' };
            self.to_client.extend_from_slice(format!("{}{separator}{}\r\n", &line[..3], &line[4..]).as_bytes());
        }
        if answer.starts_with('2') {
            self.reset();
            self.chunking = answer.contains("CHUNKING");
        }
    }

    fn content(&mut self) -> Option<()> {
        let mut after_crlf = true;
        loop {
            let end = self.rest.iter().position(|&byte| byte == b'\n')?;
            let whole = &self.rest[..end];
            self.rest = &self.rest[end + 1..];
            let (line, crlf) = whole.strip_suffix(b"\r").map_or((whole, false), |line| (line, true));
            if line == b"." && crlf && after_crlf {
                let answer = self.tell(b".");
                self.show(&answer);
                self.reset();
                return Some(());
            }
            let mut line = text_of(line).replace("\r.", "\r..");
            if line == "." || line.starts_with(".\r") || line.starts_with(".\0") {
                line.insert(0, '.');
            }
            let answer = self.tell(&bytes_of(&line));
            self.show(&answer);
            after_crlf = crlf;
        }
    }

    fn chunk(&mut self, line: &[u8], words: &[String]) -> Option<()> {
        let length =
            words.get(1).filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
        let last = words.get(2).is_some_and(|word| word.to_uppercase() == "LAST");
        let Some(length) = length.filter(|_| words.len() == 2 || (words.len() == 3 && last)) else {
            self.pass(b"XREFUSED");
            return Some(());
        };
        let length: usize = length.parse().expect("the tests have short chunks");
        let there = length.min(self.rest.len());
        let (content, rest) = self.rest.split_at(there);
        if self.chunking && self.recipients > 0 && !self.chunk_failed {
            let mut answer = self.tell(line);
            answer += &self.raw(content);
            self.show(&answer);
            if last {
                self.reset();
            } else {
                self.chunks = true;
                self.chunk_failed = !answer.starts_with('2');
            }
        } else {
            self.pass(b"XREFUSED");
        }
        self.rest = rest;
        (there == length).then_some(())
    }

    fn sieve(&mut self) -> Option<()> {
        let command = self.command()?;
        let words = words(&command);
        let verb = words.as_ref().map(|words| words.0.to_uppercase()).unwrap_or_default();
        let known = ["CAPABILITY", "LOGOUT", "NOOP", "AUTHENTICATE"].contains(&&*verb);
        let line = words.filter(|_| known).map(|(verb, strings)| verb + &strings).unwrap_or("XREFUSED".to_owned());
        let mut answer = self.pass(&bytes_of(&line));
        while verb == "AUTHENTICATE" && !["OK", "NO"].iter().any(|status| answer.starts_with(status)) {
            let command = self.command()?;
            let string =
                self::words(&format!(" {command}")).map(|(_, strings)| strings[1.min(strings.len())..].to_owned());
            let base64 = |string: &String| {
                string.len() > 1
                    && string[1..string.len() - 1]
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
            };
            let string = string.filter(base64).unwrap_or("\"*\"".to_owned());
            answer = self.pass(&bytes_of(&string));
        }
        if verb == "AUTHENTICATE" && answer.starts_with("OK") { self.all_the_rest() } else { Some(()) }
    }

    /// A line with the literals that it announces, ended by LF.
    fn command(&mut self) -> Option<String> {
        let mut length = 0;
        loop {
            let start = length;
            length += self.rest[length..].iter().position(|&byte| byte == b'\n')? + 1;
            let line = text_of(&self.rest[start..length]);
            let line = line.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).expect("it ends so");
            let digits = line.strip_suffix("+}").and_then(|line| line.rsplit_once('{')).map(|(_, digits)| digits);
            match digits.and_then(|digits| digits.parse::<usize>().ok()) {
                Some(literal) => length += literal,
                None => break,
            }
            self.rest.get(length..)?;
        }
        let command = text_of(&self.rest[..length]);
        self.rest = &self.rest[length..];
        Some(command)
    }
}

/// A command word, and the strings behind it, each quoted, with a space before it.
fn words(command: &str) -> Option<(String, String)> {
    let verb: String = command.chars().take_while(char::is_ascii_alphabetic).collect();
    let (mut rest, mut strings) = (&command[verb.len()..], String::new());
    while rest != "\r\n" && rest != "\n" {
        rest = rest.strip_prefix(' ')?;
        let content = if let Some(quoted) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = quoted.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            rest = &quoted[end + 1..];
            quoted[..end].to_owned()
        } else {
            let (digits, after) = rest.strip_prefix('{')?.split_once("+}")?;
            let after = after.strip_prefix("\r\n").or_else(|| after.strip_prefix('\n'))?;
            let length: usize = digits.parse().ok()?;
            rest = after.get(length..)?;
            let content = after[..length].to_owned();
            content.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)).then_some(content)?
        };
        if content.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return None;
        }
        strings += &format!(" \"{content}\"");
    }
    Some((verb, strings))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Text in which each character is one byte.
fn text_of(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

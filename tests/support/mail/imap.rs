//! IMAP.

use super::{PASSWORD, Wire};

/// A session, from the greeting on.
pub struct Imap(pub Wire);

impl Imap {
    /// Takes the greeting.
    pub fn new(mut wire: Wire) -> Imap {
        wire.expect("* OK ");
        Imap(wire)
    }

    /// STARTTLS.
    pub fn start_tls(mut self) -> Imap {
        self.command("s STARTTLS");
        Imap(self.0.start_tls())
    }

    /// Logs in and opens INBOX.
    pub fn login(mut self, user: &str) -> Imap {
        self.command(&format!("l LOGIN {user} {PASSWORD}"));
        self.command("i SELECT INBOX");
        self
    }

    /// Puts a message into INBOX.
    pub fn append(&mut self, message: &[u8]) {
        self.0.say(&format!("a APPEND INBOX {{{}}}", message.len()));
        self.0.until("+ ");
        self.0.send(message);
        self.0.say("");
        self.0.until("a OK ");
    }

    /// The bytes of the message with this number.
    pub fn fetch(&mut self, number: u32) -> Vec<u8> {
        self.0.say(&format!("f FETCH {number} BODY.PEEK[]"));
        let lines = self.0.until(&format!("* {number} FETCH"));
        let last = lines.last().expect("at least one");
        let length = last.rsplit_once('{').and_then(|(_, rest)| rest.strip_suffix('}')?.parse().ok());
        let message = self.0.exactly(length.unwrap_or_else(|| panic!("no length in {last:?}")));
        self.0.until("f OK ");
        message
    }

    /// Begins to wait for news.
    pub fn idle(&mut self) {
        self.0.say("d IDLE");
        self.0.until("+ ");
    }

    /// Waits for the news that INBOX has `count` messages, and ends IDLE.
    pub fn await_exists(&mut self, count: u32) {
        self.0.until(&format!("* {count} EXISTS"));
        self.0.say("DONE");
        self.0.until("d OK ");
    }

    /// Says goodbye, and sees the connection end.
    pub fn logout(mut self) {
        self.0.say("z LOGOUT");
        let rest = self.0.rest();
        assert!(rest.contains("* BYE ") && rest.contains("z OK "), "{rest:?}");
    }

    /// Sends a command, whose tag is its first word and whose answer must be OK; all lines of it.
    pub fn command(&mut self, command: &str) -> Vec<String> {
        let tag = command.split(' ').next().expect("a first word");
        self.0.say(command);
        let answer = self.0.until(&format!("{tag} "));
        assert!(answer.last().is_some_and(|line| line.starts_with(&format!("{tag} OK"))), "{command}: {answer:#?}");
        answer
    }
}

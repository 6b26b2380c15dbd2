//! POP3.

use super::{PASSWORD, Wire};

/// A session, from the greeting on.
pub struct Pop3(pub Wire);

impl Pop3 {
    /// Takes the greeting.
    pub fn new(mut wire: Wire) -> Pop3 {
        wire.expect("+OK");
        Pop3(wire)
    }

    /// STLS.
    pub fn start_tls(mut self) -> Pop3 {
        self.command("STLS");
        Pop3(self.0.start_tls())
    }

    /// Logs in.
    pub fn login(mut self, user: &str) -> Pop3 {
        self.command(&format!("USER {user}"));
        self.command(&format!("PASS {PASSWORD}"));
        self
    }

    /// The lines of a message, each with CRLF.
    pub fn retrieve(&mut self, number: u32) -> Vec<u8> {
        self.command(&format!("RETR {number}"));
        let mut message = Vec::new();
        loop {
            let line = self.0.line();
            match line.strip_prefix('.') {
                Some("") => return message,
                unstuffed => message.extend(unstuffed.unwrap_or(&line).bytes().chain(*b"\r\n")),
            }
        }
    }

    /// Says goodbye, and sees the connection end.
    pub fn quit(mut self) {
        self.command("QUIT");
        assert_eq!(self.0.rest(), "");
    }

    /// Sends a command, whose answer must be `+OK`; its line.
    pub fn command(&mut self, command: &str) -> String {
        self.0.say(command);
        self.0.expect("+OK")
    }
}

//! SMTP, submission, and LMTP.

use super::{Wire, sasl_plain};

/// A session, from the greeting on.
pub struct Smtp {
    pub wire: Wire,
    /// How this side introduces itself: `EHLO` or `LHLO`.
    hello: &'static str,
    /// What the server answered to that.
    pub capabilities: Vec<String>,
}

impl Smtp {
    /// Takes the greeting and says EHLO.
    pub fn new(wire: Wire) -> Smtp {
        Smtp { wire, hello: "EHLO", capabilities: Vec::new() }.greeted().introduce()
    }

    /// Takes the greeting and says LHLO.
    pub fn lmtp(wire: Wire) -> Smtp {
        Smtp { wire, hello: "LHLO", capabilities: Vec::new() }.greeted().introduce()
    }

    /// STARTTLS.
    pub fn start_tls(mut self) -> Smtp {
        self.command("STARTTLS", "220");
        Smtp { wire: self.wire.start_tls(), ..self }.introduce()
    }

    /// Logs in.
    pub fn login(mut self, user: &str) -> Smtp {
        self.command(&format!("AUTH PLAIN {}", sasl_plain(user)), "235");
        self
    }

    /// Hands over a message for one recipient.
    pub fn deliver(&mut self, recipient: &str, message: &[u8]) {
        self.command("MAIL FROM:<sender@mail.test>", "250");
        self.command(&format!("RCPT TO:<{recipient}>"), "250");
        self.command("DATA", "354");
        self.wire.send(message);
        self.command(".", "250");
    }

    /// Says goodbye, and sees the connection end.
    pub fn quit(mut self) {
        self.command("QUIT", "221");
        assert_eq!(self.wire.rest(), "");
    }

    /// Sends a command, which must be answered with this code; all lines of the answer.
    pub fn command(&mut self, command: &str, code: &str) -> Vec<String> {
        self.wire.say(command);
        let answer = self.answer();
        assert!(answer.last().is_some_and(|line| line.starts_with(code)), "{command}: {answer:#?}");
        answer
    }

    fn greeted(mut self) -> Smtp {
        let greeting = self.answer();
        assert!(greeting.last().is_some_and(|line| line.starts_with("220 ")), "{greeting:#?}");
        self
    }

    fn introduce(mut self) -> Smtp {
        self.capabilities = self.command(&format!("{} client.test", self.hello), "250");
        self
    }

    /// An answer: its last line has a space behind the code.
    fn answer(&mut self) -> Vec<String> {
        let mut lines = vec![self.wire.line()];
        while lines.last().is_some_and(|line| line.as_bytes().get(3) == Some(&b'-')) {
            lines.push(self.wire.line());
        }
        lines
    }
}

//! ManageSieve.

use super::{Wire, sasl_plain};

/// A session, from the greeting on.
pub struct Sieve {
    pub wire: Wire,
    /// The lines of the last greeting.
    pub capabilities: Vec<String>,
}

impl Sieve {
    /// Takes the greeting.
    pub fn new(mut wire: Wire) -> Sieve {
        let capabilities = wire.until("OK");
        Sieve { wire, capabilities }
    }

    /// STARTTLS, after which the server greets again.
    pub fn start_tls(mut self) -> Sieve {
        self.command("STARTTLS");
        Sieve::new(self.wire.start_tls())
    }

    /// Logs in.
    pub fn login(mut self, user: &str) -> Sieve {
        self.command(&format!("AUTHENTICATE \"PLAIN\" \"{}\"", sasl_plain(user)));
        self
    }

    /// Stores a script.
    pub fn put(&mut self, name: &str, script: &str) {
        self.command(&format!("PUTSCRIPT \"{name}\" {{{}+}}\r\n{script}", script.len()));
    }

    /// The script of this name.
    pub fn get(&mut self, name: &str) -> String {
        self.wire.say(&format!("GETSCRIPT \"{name}\""));
        let head = self.wire.expect("{");
        let length = head.trim_matches(['{', '}', '+']).parse().unwrap_or_else(|_| panic!("no length: {head:?}"));
        let script = self.wire.exactly(length);
        self.wire.until("OK");
        String::from_utf8(script).expect("what was stored is ASCII")
    }

    /// Says goodbye, and sees the connection end.
    pub fn logout(mut self) {
        self.command("LOGOUT");
        assert_eq!(self.wire.rest(), "");
    }

    /// Sends a command, which must be answered with OK.
    pub fn command(&mut self, command: &str) {
        self.wire.say(command);
        self.wire.expect("OK");
    }
}

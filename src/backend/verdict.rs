//! What a check of a server finds, and how it is said.

use std::time::Duration;

use super::health::ConnectFailure;
use crate::relay::Target;

/// Most characters of a server's line that a message quotes.
const QUOTE_MAX: usize = 80;

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In a word.
    pub finding: Finding,
    /// For people: what was seen, and where something is wrong, the likely cause and the remedy.
    pub message: String,
    /// From the beginning of the check to what decided it.
    pub took: Duration,
    /// The kind of server that it behaves like, where its words tell.
    pub kind: Option<Target>,
}

/// What a check has found, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// It accepts connections; nothing else was asked.
    Connected,
    /// It greets.
    Greeted,
    /// It answers PING with PONG.
    Pong,
    /// It serves, and has too many connections just now.
    Overloaded,
    /// This host had no source port, descriptor or memory for the check.
    OwnFault,
    /// No connection could be made.
    Unreachable,
    /// It accepts connections and says nothing.
    Silent,
    /// It ends the connection before it has said what was expected.
    Closed,
    /// It says itself that it does not serve.
    NotServing,
    /// It takes our PROXY header for commands: it does not expect one.
    NoHeaderExpected,
    /// It waits for a PROXY header, and `forward` sends none.
    HeaderExpected,
    /// It expects a PROXY header and does not take ours.
    HeaderRefused,
    /// It speaks TLS from the first byte.
    SpeaksTls,
    /// It speaks, but not what was expected.
    OtherProtocol,
}

impl Finding {
    /// Whether the server can serve.
    pub fn is_good(self) -> bool {
        matches!(self, Finding::Connected | Finding::Greeted | Finding::Pong | Finding::Overloaded)
    }

    /// Whether one such check is enough: it is the configuration that is wrong, and the next one will find the same.
    pub fn is_decisive(self) -> bool {
        matches!(self, Finding::NoHeaderExpected | Finding::SpeaksTls | Finding::OtherProtocol)
    }
}

impl Verdict {
    /// Of a check that got no connection.
    pub fn no_connection(failure: ConnectFailure, took: Duration) -> Verdict {
        let finding = if failure.is_ours() { Finding::OwnFault } else { Finding::Unreachable };
        Verdict { finding, message: failure.to_string(), took, kind: None }
    }
}

/// A server's line, fit for a log: printable ASCII, at most [`QUOTE_MAX`] characters, in quotes.
pub(super) fn quoted(line: &[u8]) -> String {
    let printable = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' };
    let mut text: String = line.iter().take(QUOTE_MAX).map(printable).collect();
    if line.len() > QUOTE_MAX {
        text.push_str("..");
    }
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_short_and_printable() {
        assert_eq!(quoted(b"421 4.3.0 \x1b[31mno\n"), "\"421 4.3.0 ?[31mno?\"");
        assert_eq!(quoted(&[b'x'; 200]).len(), 84);
    }

    #[test]
    fn our_own_fault_is_no_verdict_on_the_server() {
        let of = |failure| Verdict::no_connection(failure, Duration::ZERO).finding;
        assert_eq!(of(ConnectFailure::PortsUsedUp), Finding::OwnFault);
        assert_eq!(of(ConnectFailure::Refused), Finding::Unreachable);
        assert!(!Finding::OwnFault.is_good() && !Finding::OwnFault.is_decisive());
    }
}

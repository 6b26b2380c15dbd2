//! What a client is told when nobody can serve it, in the words of its protocol, so that it comes back later instead of
//! taking the silence for a fault. Only before a byte of a backend has reached it, and never in front of TLS.

use super::{Protocol, SessionId};

/// What to send before the FIN, in the same segment: one line, or nothing where the protocol is unknown or TLS comes
/// first.
///
/// `host` is this host's name; characters that no host name has are left out. The session's id stands in the line for
/// whoever asks the administrator about it.
pub fn courtesy(protocol: Protocol, host: &str, session: &SessionId) -> String {
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_[]:".contains(*c)).collect();
    match protocol {
        Protocol::Imap => format!("* BYE [UNAVAILABLE] Service temporarily unavailable ({session})\r\n"),
        Protocol::Pop3 => format!("-ERR [SYS/TEMP] Service temporarily unavailable ({session})\r\n"),
        Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => {
            format!("421 4.3.2 {host} Service not available, try again later ({session})\r\n")
        }
        Protocol::Sieve => format!("BYE (TRYLATER) \"Service temporarily unavailable ({session})\"\r\n"),
        Protocol::None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_told_in_one_line_of_its_own() {
        let session = SessionId::new(0, "198.51.100.7:5000".parse().expect("an address"));
        let expected = [
            (Protocol::Imap, "* BYE [UNAVAILABLE] Service temporarily unavailable (AAAAAAAAiBPGM2QH)\r\n"),
            (Protocol::Pop3, "-ERR [SYS/TEMP] Service temporarily unavailable (AAAAAAAAiBPGM2QH)\r\n"),
            (Protocol::Smtp, "421 4.3.2 mx.example Service not available, try again later (AAAAAAAAiBPGM2QH)\r\n"),
            (
                Protocol::Submission,
                "421 4.3.2 mx.example Service not available, try again later (AAAAAAAAiBPGM2QH)\r\n",
            ),
            (Protocol::Lmtp, "421 4.3.2 mx.example Service not available, try again later (AAAAAAAAiBPGM2QH)\r\n"),
            (Protocol::Sieve, "BYE (TRYLATER) \"Service temporarily unavailable (AAAAAAAAiBPGM2QH)\"\r\n"),
            (Protocol::None, ""),
        ];
        assert_eq!(expected.len(), Protocol::ALL.len());
        for (protocol, text) in expected {
            assert_eq!(courtesy(protocol, "mx.example", &session), text);
        }
    }

    #[test]
    fn a_host_name_cannot_start_another_line() {
        let session = SessionId::new(0, "[2001:db8::7]:1".parse().expect("an address"));
        let line = courtesy(Protocol::Smtp, "mx\r\n220 ok\0", &session);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.starts_with("421 4.3.2 mx220ok Service"), "{line}");
    }
}

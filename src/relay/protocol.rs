//! Which protocol a service speaks: it decides what a client is told when nobody can serve it, and which in-band
//! exchange and filter apply.

/// What is spoken behind a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// IMAP (RFC 9051).
    Imap,
    /// POP3 (RFC 1939).
    Pop3,
    /// SMTP between servers (RFC 5321).
    Smtp,
    /// Message submission (RFC 6409): SMTP's words.
    Submission,
    /// LMTP (RFC 2033).
    Lmtp,
    /// ManageSieve (RFC 5804).
    Sieve,
    /// Unknown, or TLS from the first byte: bytes are passed on and nothing is said.
    #[default]
    None,
}

impl Protocol {
    /// All, with the names by which a configuration and `protocols` know them.
    pub const ALL: [(Protocol, &str); 7] = [
        (Protocol::Imap, "imap"),
        (Protocol::Pop3, "pop3"),
        (Protocol::Smtp, "smtp"),
        (Protocol::Submission, "submission"),
        (Protocol::Lmtp, "lmtp"),
        (Protocol::Sieve, "sieve"),
        (Protocol::None, "none"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Protocol::ALL.iter().find(|(protocol, _)| *protocol == self).map_or("none", |(_, name)| name)
    }

    /// What one of Dovecot's or Postfix's services speaks, by the service's name.
    pub fn of_service(service: &str) -> Protocol {
        match service {
            "imap-login" => Protocol::Imap,
            "pop3-login" => Protocol::Pop3,
            "submission-login" | "submission" | "submissions" => Protocol::Submission,
            "managesieve-login" => Protocol::Sieve,
            "lmtp" => Protocol::Lmtp,
            "smtp" | "smtpd" | "postscreen" => Protocol::Smtp,
            _ => Protocol::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dovecots_services_are_known_and_others_speak_nothing_known() {
        assert_eq!(Protocol::of_service("managesieve-login").name(), "sieve");
        assert_eq!(Protocol::of_service("webmail"), Protocol::None);
    }
}

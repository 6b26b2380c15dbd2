//! How a backend is told who the client is, and which kind of server it is.

/// `forward`: how a backend learns the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forward {
    /// A PROXY protocol header, version 2.
    #[default]
    ProxyV2,
    /// A PROXY protocol header, version 1.
    ProxyV1,
    /// IMAP's ID command with Dovecot's `x-` fields.
    ImapId,
    /// The XCLIENT command of POP3, SMTP, submission, LMTP and ManageSieve.
    Xclient,
    /// Not at all: the backend sees this host.
    None,
}

impl Forward {
    /// All, by their names in a configuration.
    pub const ALL: [(Forward, &str); 5] = [
        (Forward::ProxyV2, "proxy-v2"),
        (Forward::ProxyV1, "proxy-v1"),
        (Forward::ImapId, "imap-id"),
        (Forward::Xclient, "xclient"),
        (Forward::None, "none"),
    ];
}

/// `target`: the kind of server that a backend is, which decides what a header may hold and how it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Dovecot 2.3 and 2.4.
    Dovecot,
    /// Postfix smtpd.
    Postfix,
    /// Postfix postscreen.
    Postscreen,
    /// Exim.
    Exim,
    /// OpenSMTPD.
    Opensmtpd,
    /// nginx's mail module.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Haraka.
    Haraka,
    /// The npm package smtp-server, and what is built on it.
    SmtpServer,
    /// Another Vestibule.
    Vestibule,
    /// What every known receiver takes.
    #[default]
    Generic,
}

impl Target {
    /// All, by their names in a configuration.
    pub const ALL: [(Target, &str); 11] = [
        (Target::Dovecot, "dovecot"),
        (Target::Postfix, "postfix"),
        (Target::Postscreen, "postscreen"),
        (Target::Exim, "exim"),
        (Target::Opensmtpd, "opensmtpd"),
        (Target::Nginx, "nginx"),
        (Target::Haproxy, "haproxy"),
        (Target::Haraka, "haraka"),
        (Target::SmtpServer, "smtp-server"),
        (Target::Vestibule, "vestibule"),
        (Target::Generic, "generic"),
    ];
}

//! What a backend is told of a client, in each protocol's form.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::super::words::begins_with_word;
use super::super::{Facts, Protocol, SessionId};
use crate::net::canonical_socket;

/// How many more hops may follow: Dovecot's own first hop says the same, each further one less.
const TTL: u8 = 6;

/// XCLIENT's attributes as SMTP servers name them, in the order in which they are sent: the name before the address, and
/// the address last, since Postfix judges anew by it.
const ATTRIBUTES: [&str; 10] =
    ["NAME", "REVERSE_NAME", "PORT", "PROTO", "DESTADDR", "DESTPORT", "SESSION", "TTL", "CLIENT-TRANSPORT", "ADDR"];

/// What is told of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    client: SocketAddr,
    destination: SocketAddr,
    session: SessionId,
    secured: bool,
}

/// What a server has offered: one bit for each of [`ATTRIBUTES`], and one for the command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offered(u16);

const COMMAND: u16 = 1 << ATTRIBUTES.len();

impl Offered {
    /// Notes whether the command is offered in this line.
    pub(super) fn add_command(&mut self, offered: bool) {
        self.0 |= if offered { COMMAND } else { 0 };
    }

    pub(super) fn has_command(&self) -> bool {
        self.0 & COMMAND != 0
    }

    /// Notes what a line of the answer to EHLO, without its code, offers.
    pub(super) fn add_line(&mut self, capability: &[u8]) {
        if !begins_with_word(capability, "XCLIENT") {
            return;
        }
        for word in capability.split(|&byte| byte == b' ') {
            let known = ATTRIBUTES.iter().position(|name| word.eq_ignore_ascii_case(name.as_bytes()));
            self.0 |= known.map_or(0, |bit| 1 << bit);
        }
    }

    fn has(&self, name: &str) -> bool {
        ATTRIBUTES.iter().position(|known| *known == name).is_some_and(|bit| self.0 & 1 << bit != 0)
    }

    pub(super) fn has_address(&self) -> bool {
        self.has("ADDR")
    }
}

impl Client {
    pub(super) fn new(facts: &Facts<'_>) -> Client {
        let (client, destination) = (canonical_socket(facts.client), canonical_socket(facts.destination));
        Client { client, destination, session: facts.session, secured: facts.secured() }
    }

    /// The command that tells a server.
    pub(super) fn told(&self, protocol: Protocol, offered: &Offered) -> String {
        match protocol {
            Protocol::Imap => self.id(),
            Protocol::Pop3 | Protocol::Sieve => self.bare(),
            _ => self.xtext(protocol, offered),
        }
    }

    fn id(&self) -> String {
        format!(
            "I ID (\"x-session-id\" \"{}\" \"x-originating-ip\" \"{}\" \"x-originating-port\" \"{}\" \
             \"x-connected-ip\" \"{}\" \"x-connected-port\" \"{}\" \"x-proxy-ttl\" \"{TTL}\" \
             \"x-client-transport\" \"{}\")\r\n",
            self.session,
            self.client.ip(),
            self.client.port(),
            self.destination.ip(),
            self.destination.port(),
            self.transport()
        )
    }

    /// POP3 and ManageSieve of Dovecot: values as they are, unknown attributes are ignored.
    fn bare(&self) -> String {
        format!(
            "XCLIENT ADDR={} PORT={} DESTADDR={} DESTPORT={} SESSION={} TTL={TTL} CLIENT-TRANSPORT={}\r\n",
            self.client.ip(),
            self.client.port(),
            self.destination.ip(),
            self.destination.port(),
            self.session,
            self.transport()
        )
    }

    /// SMTP and its kin: what is offered and nothing else, for one unknown name fails the whole line.
    fn xtext(&self, protocol: Protocol, offered: &Offered) -> String {
        let mut line = "XCLIENT".to_owned();
        for name in ATTRIBUTES.into_iter().filter(|name| offered.has(name)) {
            let value = match name {
                // Else this host's own name would stay beside the client's address.
                "NAME" | "REVERSE_NAME" => "[UNAVAILABLE]".to_owned(),
                "ADDR" => smtp_address(self.client.ip()),
                "PORT" => self.client.port().to_string(),
                "DESTADDR" => smtp_address(self.destination.ip()),
                "DESTPORT" => self.destination.port().to_string(),
                "PROTO" if protocol == Protocol::Lmtp => "LMTP".to_owned(),
                "PROTO" => "ESMTP".to_owned(),
                "SESSION" => xtext(self.session.as_str()),
                "TTL" => TTL.to_string(),
                _ => self.transport().to_owned(),
            };
            let _ = write!(line, " {name}={value}"); // a String takes everything
        }
        line + "\r\n"
    }

    fn transport(&self) -> &'static str {
        if self.secured { "TLS" } else { "insecure" }
    }
}

fn smtp_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("IPV6:{address}"),
    }
}

/// RFC 3461, section 4.
fn xtext(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, '+' | '=') { format!("+{:02X}", u32::from(c)) } else { c.to_string() })
        .collect()
}

//! What stood there instead of a header, and what an operator can do about it.
//!
//! A diagnosis is advice for a log line. It looks only at bytes that were received anyway and changes no verdict: a
//! listener that wants a header refuses everything else, whatever it resembles.
#![forbid(unsafe_code)]

use core::fmt;

/// No more than this many bytes are ever looked at: a tag of 32, a space, the longest command and what ends it fit.
pub const DIAGNOSE_LENGTH_MAX: usize = 64;

/// Longest tag of an IMAP command that is still taken for one.
const IMAP_TAG_LENGTH_MAX: usize = 32;

/// What came instead of a header, or what an event around a header means.
///
/// [`diagnose`] yields those that can be read off the first bytes; the others name events that only the caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Diagnosis {
    /// A TLS ClientHello.
    TlsClientHello,
    /// An HTTP request, also the preface of HTTP/2.
    Http,
    /// `EHLO`, `HELO` or `LHLO`: a client of SMTP, submission or LMTP.
    Smtp,
    /// Postfix's `XCLIENT` command: the upstream forwards the address by other means.
    Xclient,
    /// The identification string of SSH.
    Ssh,
    /// A POP3 command.
    Pop3,
    /// A tagged IMAP command.
    Imap,
    /// None of the above.
    Unrecognised,
    /// Event: one peer sends nothing before the deadline, time after time.
    LazyHeader,
    /// Event: a peer outside the trust list sent a header.
    HeaderFromUntrusted,
    /// Event: a second header follows the first.
    HeaderTwice,
}

/// Names the protocol that `bytes`, the first of a connection, belong to. The first
/// [`DIAGNOSE_LENGTH_MAX`] are enough; with fewer the answer may be [`Diagnosis::Unrecognised`].
pub fn diagnose(bytes: &[u8]) -> Diagnosis {
    let bytes = bytes.get(..DIAGNOSE_LENGTH_MAX).unwrap_or(bytes);
    if is_tls_client_hello(bytes) {
        Diagnosis::TlsClientHello
    } else if starts_with_any(bytes, &HTTP) {
        Diagnosis::Http
    } else if starts_with_command(bytes, &SMTP) {
        Diagnosis::Smtp
    } else if bytes.starts_with(b"XCLIENT ") {
        Diagnosis::Xclient
    } else if bytes.starts_with(b"SSH-") {
        Diagnosis::Ssh
    } else if starts_with_any(bytes, &POP3) {
        Diagnosis::Pop3
    } else if is_imap(bytes) {
        Diagnosis::Imap
    } else {
        Diagnosis::Unrecognised
    }
}

impl Diagnosis {
    /// Every diagnosis.
    pub const ALL: [Diagnosis; 11] = [
        Diagnosis::TlsClientHello,
        Diagnosis::Http,
        Diagnosis::Smtp,
        Diagnosis::Xclient,
        Diagnosis::Ssh,
        Diagnosis::Pop3,
        Diagnosis::Imap,
        Diagnosis::Unrecognised,
        Diagnosis::LazyHeader,
        Diagnosis::HeaderFromUntrusted,
        Diagnosis::HeaderTwice,
    ];

    /// The stable kebab-case name for log lines and counters.
    pub fn code(self) -> &'static str {
        match self {
            Diagnosis::TlsClientHello => "tls-client-hello",
            Diagnosis::Http => "http",
            Diagnosis::Smtp => "smtp",
            Diagnosis::Xclient => "xclient",
            Diagnosis::Ssh => "ssh",
            Diagnosis::Pop3 => "pop3",
            Diagnosis::Imap => "imap",
            Diagnosis::Unrecognised => "unrecognised",
            Diagnosis::LazyHeader => "lazy-header",
            Diagnosis::HeaderFromUntrusted => "header-from-untrusted",
            Diagnosis::HeaderTwice => "header-twice",
        }
    }

    /// Cause and remedy in one line for an operator.
    pub fn advice(self) -> &'static str {
        match self {
            Diagnosis::TlsClientHello => {
                "TLS without a header: turn on send-proxy-v2 at the balancer, or use the plain TLS listener"
            }
            Diagnosis::Http => "HTTP without a header: a probe or a wrong port",
            Diagnosis::Smtp | Diagnosis::Pop3 | Diagnosis::Imap => {
                "a mail client came straight to the proxy-only port: send it to the balancer or to a plain listener"
            }
            Diagnosis::Xclient => {
                "the upstream forwards the address by XCLIENT, not by PROXY: turn on the PROXY protocol there"
            }
            Diagnosis::Ssh => "SSH on a mail port: a scanner",
            Diagnosis::Unrecognised => "neither a PROXY header nor a protocol known here: see the first bytes",
            Diagnosis::LazyHeader => {
                "the header comes with the client's first data while the client waits for the greeting: on an AWS NLB \
                 set proxy_protocol_v2.client_to_server.header_placement to on_first_ack, not \
                 on_first_ack_with_payload"
            }
            Diagnosis::HeaderFromUntrusted => {
                "a PROXY header from a peer outside haproxy_trusted_networks: add the peer there or stop it sending"
            }
            Diagnosis::HeaderTwice => {
                "two hops add a header: drop send-proxy at one of them, or let the first hop accept the protocol"
            }
        }
    }
}

/// Shows bytes of a peer in a log line or a terminal: 0x21..=0x7e as they are, all others and `\` as `\xNN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0.iter().try_for_each(|&byte| match byte {
            b'\\' => f.write_str("\\x5c"),
            b'!'..=b'~' => f.write_char(char::from(byte)),
            _ => write!(f, "\\x{byte:02x}"),
        })
    }
}

const HTTP: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"PATCH ",
    b"TRACE ",
    b"PRI * HTTP/2.0",
];
const SMTP: [&[u8]; 3] = [b"EHLO", b"HELO", b"LHLO"];
const POP3: [&[u8]; 5] = [b"CAPA", b"STLS", b"USER ", b"APOP ", b"PASS "];
const IMAP: [&[u8]; 7] = [b"CAPABILITY", b"LOGIN", b"AUTHENTICATE", b"NOOP", b"ID", b"STARTTLS", b"LOGOUT"];

/// A TLS record of type handshake, version 3.0 to 3.4, whose first message is a ClientHello as far as can be seen.
fn is_tls_client_hello(bytes: &[u8]) -> bool {
    matches!(bytes, [0x16, 0x03, 0..=4, ..]) && bytes.get(5).is_none_or(|&message| message == 0x01)
}

fn is_imap(bytes: &[u8]) -> bool {
    let tag = bytes.iter().take_while(|&&byte| is_atom_character(byte)).count();
    match bytes.get(tag..) {
        Some([b' ', rest @ ..]) => (1..=IMAP_TAG_LENGTH_MAX).contains(&tag) && starts_with_command(rest, &IMAP),
        _ => false,
    }
}

/// ATOM-CHAR of RFC 3501, section 9.
fn is_atom_character(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !b"(){%*\"\\]".contains(&byte)
}

fn starts_with_any(bytes: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|word| bytes.starts_with(word))
}

/// One of `commands` in any case, then a space or CR.
fn starts_with_command(bytes: &[u8], commands: &[&[u8]]) -> bool {
    commands.iter().any(|command| match bytes.split_at_checked(command.len()) {
        Some((word, rest)) => word.eq_ignore_ascii_case(command) && matches!(rest, [b' ' | b'\r', ..]),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_name_the_protocol() {
        let cases: &[(&[u8], &str)] = &[
            (b"\x16\x03\x01\x02\x00\x01", "tls-client-hello"),
            (b"\x16\x03\x04\x02\x00\x01\x00\x01\xfc", "tls-client-hello"),
            (b"\x16\x03\x00", "tls-client-hello"),
            (b"\x16\x03\x05\x02\x00\x01", "unrecognised"),
            (b"\x16\x03\x01\x02\x00\x02", "unrecognised"), // a ServerHello
            (b"\x16\x03", "unrecognised"),
            (b"\x15\x03\x01\x00\x02\x01", "unrecognised"), // an alert
            (b"GET / HTTP/1.1\r\n", "http"),
            (b"HEAD /", "http"),
            (b"POST /", "http"),
            (b"PUT /", "http"),
            (b"DELETE /", "http"),
            (b"OPTIONS * HTTP/1.0\r\n\r\n", "http"),
            (b"CONNECT mail.example:443 HTTP/1.1", "http"),
            (b"PATCH /", "http"),
            (b"TRACE /", "http"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http"),
            (b"PRI * HTTP/2", "unrecognised"),
            (b"get / HTTP/1.1\r\n", "unrecognised"),
            (b"GET", "unrecognised"),
            (b"EHLO client.example\r\n", "smtp"),
            (b"ehlo\r\n", "smtp"),
            (b"HeLo a", "smtp"),
            (b"LHLO tier\r\n", "smtp"),
            (b"EHLO", "unrecognised"),
            (b"EHLO\n", "unrecognised"),
            (b"EHLOX a\r\n", "unrecognised"),
            (b"XCLIENT ADDR=198.51.100.7\r\n", "xclient"),
            (b"XCLIENT", "unrecognised"),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "ssh"),
            (b"SSH", "unrecognised"),
            (b"CAPA\r\n", "pop3"),
            (b"STLS\r\n", "pop3"),
            (b"USER bob\r\n", "pop3"),
            (b"APOP bob c4c9334bac560ecc979e58001b3e22fb\r\n", "pop3"),
            (b"PASS secret\r\n", "pop3"),
            (b"USER", "unrecognised"),
            (b"a CAPABILITY\r\n", "imap"),
            (b"a1 login bob secret\r\n", "imap"),
            (b"A001 AUTHENTICATE PLAIN\r\n", "imap"),
            (b". NOOP\r\n", "imap"),
            (b"I ID (\"x-originating-ip\" \"198.51.100.7\")\r\n", "imap"),
            (b"1 STARTTLS\r\n", "imap"),
            (b"zz logout\r\n", "imap"),
            (b"a SELECT INBOX\r\n", "unrecognised"),
            (b"a IDLE\r\n", "unrecognised"),
            (b"a ID", "unrecognised"),
            (b" ID \r\n", "unrecognised"),
            (b"a* NOOP\r\n", "unrecognised"),
            (b"0123456789abcdef0123456789abcdef NOOP\r\n", "imap"),
            (b"0123456789abcdef0123456789abcdef0 NOOP\r\n", "unrecognised"),
            (b"0123456789abcdef0123456789abcdef AUTHENTICATE PLAIN\r\n", "imap"),
            (b"", "unrecognised"),
            (b"\0\0\0\0", "unrecognised"),
            (b"* OK ready\r\n", "unrecognised"),
        ];
        for (bytes, code) in cases {
            assert_eq!(diagnose(bytes).code(), *code, "{}", Escaped(bytes));
        }
    }

    #[test]
    fn bytes_beyond_the_first_64_do_not_count() {
        let mut long = b"GET / HTTP/1.1\r\n".to_vec();
        long.resize(4096, b'x');
        assert_eq!(diagnose(&long), diagnose(&long[..DIAGNOSE_LENGTH_MAX]));
    }

    #[test]
    fn every_diagnosis_has_advice_on_one_line() {
        for diagnosis in Diagnosis::ALL {
            let advice = diagnosis.advice();
            assert!(advice.len() > 20 && !advice.contains('\n') && !advice.contains("  "), "{diagnosis:?}: {advice}");
        }
    }

    #[test]
    fn escaped_bytes_are_unambiguous() {
        assert_eq!(Escaped(b"EHLO a\\\r\n\x7f\xff~!").to_string(), "EHLO\\x20a\\x5c\\x0d\\x0a\\x7f\\xff~!");
    }
}

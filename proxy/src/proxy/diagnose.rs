//! What stood there instead of a header, and what an operator can do about it.
//!
//! A diagnosis is advice for a log line. It looks only at bytes that were received anyway and changes no verdict: a
//! listener that wants a header refuses everything else, whatever it resembles.
#![forbid(unsafe_code)]

use core::fmt;

use super::fields::{What, walk};
use super::{Decoded, Reason, Rules, V2_FIXED, V2_SIGNATURE, checksum, decode, kind, starts_like_header};

/// No more than this many bytes are ever looked at: a tag of 32, a space, the longest command and what ends it fit.
pub const DIAGNOSE_LENGTH_MAX: usize = 64;

/// Longest tag of an IMAP command that is still taken for one.
const IMAP_TAG_LENGTH_MAX: usize = 32;

/// What came instead of a header, or what an event around a header means.
///
/// [`diagnose`] yields those that can be read off the first bytes; the others name events that only the caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
    /// Event: a client's protocol came without a header from a private address.
    Bypass,
    /// A version 2 length in the wrong byte order.
    LengthSwapped,
    /// A checksum that is the header's with its bytes reversed.
    ChecksumSwapped,
    /// What swaks sends for LOCAL: a command that does not exist.
    SwaksLocal,
    /// Two AUTHORITY TLVs.
    AuthorityTwice,
    /// Event: a LOCAL header with data right behind it.
    LocalSpeaks,
    /// Event: a source and a destination that look exchanged.
    Exchanged,
    /// Event: TLS behind the header, where a listener expects none.
    TlsBehindHeader,
    /// Event: a header where a listener expects TLS at once.
    HeaderOnTls,
    /// Event: another protocol where a listener expects TLS.
    PlaintextOnTls,
    /// Event: a private endpoint that the listener does not allow.
    EndpointNotAllowed,
    /// Event: a header of version 1, which can name no private endpoint, where one is demanded.
    EndpointInV1,
    /// Event: a TLV of a cloud provider, and no private endpoint can be read from it, where one is demanded.
    EndpointUnreadable,
    /// Event: a header that names no private endpoint, where one is demanded.
    EndpointAbsent,
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

/// What a header that is refused, or does not become complete, tells of its sender beyond the rule that it breaks.
pub fn diagnose_header(bytes: &[u8], rules: &Rules) -> Option<Diagnosis> {
    let (found, diagnosis) = match decode(bytes, rules) {
        Decoded::Invalid { reason: Reason::BadCommand, .. } => (is_swaks_local(bytes), Diagnosis::SwaksLocal),
        Decoded::Invalid { reason: Reason::BadChecksum, .. } => {
            (has_reversed_checksum(bytes), Diagnosis::ChecksumSwapped)
        }
        Decoded::Invalid { reason: Reason::DuplicateTlv, .. } => {
            (has_two_authorities(bytes), Diagnosis::AuthorityTwice)
        }
        Decoded::Invalid { reason: Reason::HeaderTooLong, .. } | Decoded::Incomplete { .. } => {
            (has_swapped_length(bytes, rules), Diagnosis::LengthSwapped)
        }
        _ => (false, Diagnosis::Unrecognised),
    };
    found.then_some(diagnosis)
}

impl Diagnosis {
    /// Of the first bytes that came where a TLS handshake should begin, if they are none.
    pub fn instead_of_tls(bytes: &[u8]) -> Diagnosis {
        if starts_like_header(bytes) { Diagnosis::HeaderOnTls } else { Diagnosis::PlaintextOnTls }
    }

    /// Whether it is the protocol of a client whom a balancer should have introduced.
    pub fn is_client(self) -> bool {
        matches!(self, Diagnosis::TlsClientHello | Diagnosis::Smtp | Diagnosis::Pop3 | Diagnosis::Imap)
    }

    /// Every diagnosis.
    pub const ALL: [Diagnosis; 25] = [
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
        Diagnosis::Bypass,
        Diagnosis::LengthSwapped,
        Diagnosis::ChecksumSwapped,
        Diagnosis::SwaksLocal,
        Diagnosis::AuthorityTwice,
        Diagnosis::LocalSpeaks,
        Diagnosis::Exchanged,
        Diagnosis::TlsBehindHeader,
        Diagnosis::HeaderOnTls,
        Diagnosis::PlaintextOnTls,
        Diagnosis::EndpointNotAllowed,
        Diagnosis::EndpointInV1,
        Diagnosis::EndpointUnreadable,
        Diagnosis::EndpointAbsent,
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
            Diagnosis::Bypass => "bypass",
            Diagnosis::LengthSwapped => "length-swapped",
            Diagnosis::ChecksumSwapped => "checksum-swapped",
            Diagnosis::SwaksLocal => "swaks-local",
            Diagnosis::AuthorityTwice => "authority-twice",
            Diagnosis::LocalSpeaks => "local-speaks",
            Diagnosis::Exchanged => "exchanged",
            Diagnosis::TlsBehindHeader => "tls-behind-header",
            Diagnosis::HeaderOnTls => "header-on-tls",
            Diagnosis::PlaintextOnTls => "plaintext-on-tls",
            Diagnosis::EndpointNotAllowed => "endpoint-not-allowed",
            Diagnosis::EndpointInV1 => "endpoint-in-v1",
            Diagnosis::EndpointUnreadable => "endpoint-unreadable",
            Diagnosis::EndpointAbsent => "endpoint-absent",
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
                "the peer waits for the greeting and sends no header. A check of HAProxy: `tcp-check connect` and \
                 `check port N` send none, write `tcp-check connect default`, or `check-send-proxy` on the server. An \
                 AWS NLB, which sends the header with the client's first data: set \
                 proxy_protocol_v2.client_to_server.header_placement to on_first_ack, not on_first_ack_with_payload"
            }
            Diagnosis::HeaderFromUntrusted => {
                "a PROXY header from a peer outside haproxy_trusted_networks: add the peer there or stop it sending"
            }
            Diagnosis::HeaderTwice => {
                "two hops add a header: drop send-proxy at one of them, or let the first hop accept the protocol"
            }
            Diagnosis::Bypass => {
                "a client's own protocol from a private address: either the balancer there sends no header (turn on \
                 send-proxy-v2), or a pod or node of Kubernetes went past it: its traffic for the balancer's address \
                 is cut short unless the Service's status.loadBalancer.ingress says `ipMode: Proxy`"
            }
            Diagnosis::LengthSwapped => {
                "the sender writes the length in the wrong byte order: it must be big-endian; correct or update the \
                 sender's library"
            }
            Diagnosis::ChecksumSwapped => {
                "the sender writes the CRC32C in the wrong byte order: it must be big-endian; correct the sender, or \
                 let it send no checksum"
            }
            Diagnosis::SwaksLocal => {
                "swaks sends 22 00 00 for LOCAL, which is 20 00 00 00 in the specification: use --proxy-command PROXY"
            }
            Diagnosis::AuthorityTwice => {
                "two AUTHORITY TLVs: HAProxy sends two with both `proxy-v2-options authority` and \
                 `set-proxy-v2-tlv-fmt(0x02)`: drop one of these, since which of the names counts is not defined"
            }
            Diagnosis::LocalSpeaks => {
                "a LOCAL header with data behind it: HAProxy sends LOCAL also for users who reach it by a Unix socket \
                 (a TLS terminator in front of it), and limits on clients do not see them: let the terminator send \
                 the PROXY protocol to HAProxy (`bind ... accept-proxy`); or it is a check that speaks first"
            }
            Diagnosis::Exchanged => {
                "source and destination look exchanged, the source has a mail server's port: Traffic Server 9 sends \
                 them so; logs and limits see the balancer's address as the client. Update or correct the sender"
            }
            Diagnosis::TlsBehindHeader => {
                "the client speaks TLS behind the header, and this listener expects none: set ssl = yes on it, or let \
                 the balancer terminate TLS"
            }
            Diagnosis::HeaderOnTls => {
                "a PROXY header, and this listener expects TLS at once: set haproxy = yes on it and name the peer in \
                 haproxy_trusted_networks, or stop the peer sending the header"
            }
            Diagnosis::PlaintextOnTls => {
                "no TLS, and this listener has ssl = yes: send clients without TLS (and those whose TLS the balancer \
                 terminates) to a listener without it"
            }
            Diagnosis::EndpointNotAllowed => {
                "the client came through a private endpoint that client_allowed_endpoints does not name: add it there \
                 if it may connect, or reject the endpoint at the cloud provider"
            }
            Diagnosis::EndpointInV1 => {
                "version 1 can name no endpoint, and client_allowed_endpoints demands one: let the balancer send \
                 version 2"
            }
            Diagnosis::EndpointUnreadable => {
                "a TLV of a cloud provider from which no endpoint can be read: `vestibule decode --explain` shows it; \
                 a provider sends 01 and the id (AWS), 01 and 4 bytes (Azure), 8 bytes (Google Cloud)"
            }
            Diagnosis::EndpointAbsent => {
                "the client did not come through a private endpoint, or the balancer does not name it (Google Cloud: \
                 the service attachment has to say so); to serve such clients, set client_endpoint_missing = allow"
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

/// The last of the 15 bytes that swaks sends for LOCAL: the command and the length's second byte are missing.
const SWAKS_LOCAL: [u8; 3] = [0x22, 0, 0];

fn is_swaks_local(bytes: &[u8]) -> bool {
    bytes.get(V2_SIGNATURE.len()..).is_some_and(|rest| rest.starts_with(&SWAKS_LOCAL))
}

/// Whether the header's only checksum would match if its bytes stood the other way round.
fn has_reversed_checksum(bytes: &[u8]) -> bool {
    let mut reversed = false;
    walk(bytes, |field| {
        if let (What::Value { kind: kind::CRC32C, inside_ssl: false }, Ok(value)) =
            (field.what, <[u8; 4]>::try_from(field.bytes))
        {
            let sum = whole(bytes).and_then(|header| checksum::compute(header, field.at));
            reversed = sum.is_some_and(|sum| sum == u32::from_le_bytes(value));
        }
    });
    reversed
}

fn has_two_authorities(bytes: &[u8]) -> bool {
    let mut count = 0;
    walk(bytes, |field| {
        let is_authority = matches!(field.what, What::Tlv { kind: kind::AUTHORITY, inside_ssl: false, .. });
        count += u32::from(is_authority);
    });
    count > 1
}

/// A version 2 header's bytes, if all of them are there.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let &[.., high, low] = bytes.first_chunk::<V2_FIXED>()?;
    bytes.get(..V2_FIXED + usize::from(u16::from_be_bytes([high, low])))
}

/// Whether a version 2 header would be complete if the bytes of its length, of which the second is 0, stood the other way
/// round.
fn has_swapped_length(bytes: &[u8], rules: &Rules) -> bool {
    const SHORT_MAX: usize = V2_FIXED + u8::MAX as usize;
    let Some(&[.., high, 0]) = bytes.first_chunk::<V2_FIXED>() else { return false };
    let length = V2_FIXED + usize::from(high);
    let mut mended = [0; SHORT_MAX];
    let (Some(sent), Some(header)) = (bytes.get(..length), mended.get_mut(..length)) else { return false };
    header.copy_from_slice(sent);
    if let Some(place) = header.get_mut(V2_FIXED - 2..V2_FIXED) {
        place.copy_from_slice(&[0, high]);
    }
    high > 0 && matches!(decode(header, rules), Decoded::Complete(_))
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

    fn diagnosed(bytes: &[u8]) -> Option<&'static str> {
        diagnose_header(bytes, &Rules::default()).map(Diagnosis::code)
    }

    fn v2(rest: &[u8]) -> Vec<u8> {
        [&V2_SIGNATURE[..], rest].concat()
    }

    #[test]
    fn a_length_in_the_wrong_byte_order_is_recognised() {
        let inet = [198, 51, 100, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 143];
        assert_eq!(diagnosed(&v2(&[&[0x21, 0x11, 12, 0][..], &inet].concat())), Some("length-swapped"));
        assert_eq!(diagnosed(&v2(&[&[0x21, 0x21, 36, 0][..], &[7; 36]].concat())), Some("length-swapped"));
        let with_payload = v2(&[&[0x21, 0x11, 12, 0][..], &inet, b"a NOOP\r\n"].concat());
        assert_eq!(diagnosed(&with_payload), Some("length-swapped"));
        let cut = v2(&[&[0x21, 0x11, 12, 0][..], &inet[..11]].concat());
        assert_eq!(diagnosed(&cut), None, "it may still become the 3088 bytes that it announces");
        assert_eq!(diagnosed(&v2(&[&[0x21, 0x11, 0, 12][..], &inet].concat())), None);
        assert_eq!(diagnosed(&v2(&[0x21, 0x11, 1, 0])), None);
    }

    #[test]
    fn a_checksum_in_the_wrong_byte_order_is_recognised() {
        let mut header = v2(b"\x21\x11\0\x13\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02\x03\0\x04\0\0\0\0");
        let sum = checksum::compute(&header, 31).expect("a place");
        header[31..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(diagnosed(&header), Some("checksum-swapped"));
        header[31] ^= 1;
        assert_eq!(diagnosed(&header), None, "simply wrong");
        header[31..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(diagnosed(&header), None, "as it must be");
    }

    #[test]
    fn known_senders_are_named() {
        assert_eq!(diagnosed(&v2(b"\x22\0\0")), Some("swaks-local"));
        assert_eq!(diagnosed(&v2(b"\x22\0\0EHLO mail.test\r\n")), Some("swaks-local"));
        assert_eq!(diagnosed(&v2(b"\x22\x11\0\0")), None);
        let twice = |kind| [&[0x21, 0x11, 0, 20][..], &[9; 12], &[kind, 0, 1, b'a', kind, 0, 1, b'b']].concat();
        assert_eq!(diagnosed(&v2(&twice(kind::AUTHORITY))), Some("authority-twice"));
        assert_eq!(diagnosed(&v2(&twice(kind::UNIQUE_ID))), None);
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

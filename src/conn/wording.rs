//! What a log line says of a connection that was closed in the vestibule: Dovecot's words first, so that filters written
//! for Dovecot go on matching, then `: key=value ...` with what Vestibule knows beyond that.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Ending;
use super::handed::add_endpoints;
use super::v1_words::v1_words;
use crate::admission::Refusal;
use crate::net::{canonical_socket, is_private};
use crate::proxy::{
    Decoded, Diagnosis, Escaped, Header, Reason, Rules, Version, What, decode, diagnose, diagnose_header, kind,
    starts_like_header, walk,
};

/// TLVs in which a cloud provider names an endpoint.
const VENDORS: [u8; 3] = [kind::AWS, kind::AZURE, kind::GCP_PSC_CONNECTION_ID];

/// Bytes of a peer that a log line shows at most.
pub const SHOWN_MAX: usize = 16;

/// Everything that is known of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Who connected.
    pub peer: SocketAddr,
    /// The listener's address, unless it is bound to all.
    pub local: Option<SocketAddr>,
    /// What was received; of a peer that is not trusted, how it begins.
    pub bytes: &'a [u8],
    /// The listener's grammar, to name the addresses of a complete header that was refused.
    pub rules: Rules,
    /// Since the accept.
    pub waited: Duration,
}

/// A peer that leaves without a byte after this time has waited for something; a check of the port leaves at once.
pub const SILENCE_MIN: Duration = Duration::from_millis(500);

impl<'a> Record<'a> {
    /// The header, if it is complete.
    pub fn header(&self) -> Option<Header<'a>> {
        match decode(self.bytes, &self.rules) {
            Decoded::Complete(header) => Some(header),
            _ => None,
        }
    }

    /// Whose doing it is: the client that the header names where a limit on clients decided, else the peer.
    pub fn culprit(&self, ending: Ending) -> IpAddr {
        let client = match (ending, decode(self.bytes, &self.rules)) {
            (Ending::Refused(refusal), Decoded::Complete(header)) if refusal.concerns_client() => header.source(),
            _ => None,
        };
        canonical_socket(client.unwrap_or(self.peer)).ip()
    }

    /// What the bytes, or the event, look like.
    pub fn diagnosis(&self, ending: Ending) -> Option<Diagnosis> {
        match ending {
            Ending::Absent { .. } => Some(match diagnose(self.bytes) {
                client if client.is_client() && is_private(self.peer.ip()) => Diagnosis::Bypass,
                other => other,
            }),
            Ending::Refused(Refusal::SecondHeader) => Some(Diagnosis::HeaderTwice),
            Ending::Refused(Refusal::Untrusted) if starts_like_header(self.bytes) => {
                Some(Diagnosis::HeaderFromUntrusted)
            }
            Ending::Refused(Refusal::Untrusted) if is_private(self.peer.ip()) => {
                diagnose(self.bytes).is_client().then_some(Diagnosis::Bypass)
            }
            Ending::Refused(Refusal::EndpointRefused) => Some(Diagnosis::EndpointNotAllowed),
            Ending::Refused(Refusal::EndpointMissing) => Some(without_endpoint(self)),
            Ending::Invalid { .. } | Ending::Timeout | Ending::ClosedPartial => {
                diagnose_header(self.bytes, &self.rules)
            }
            _ => None,
        }
    }

    /// Whether the peer has waited for something and said nothing until it, or we, had enough.
    pub fn was_mute(&self, ending: Ending) -> bool {
        ending == Ending::Silent || ending == Ending::ClosedEmpty && self.waited >= SILENCE_MIN
    }
}

/// How bad it is, in Dovecot's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Worth a line.
    Info,
    /// Somebody who should not be there.
    Warning,
    /// Something is wrong at the balancer or in the network.
    Error,
}

/// A log line without its date, service and level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    /// The level.
    pub severity: Severity,
    /// The line.
    pub text: String,
}

/// The line for an ending with what the record's [diagnosis](Record::diagnosis) said of it; `None` for those that are
/// everyday business and only counted.
pub fn describe(ending: Ending, record: &Record<'_>, diagnosis: Option<Diagnosis>) -> Option<Wording> {
    if !ending.is_worth_a_line() {
        return None;
    }
    let severity = match ending {
        Ending::ClosedPartial => Severity::Info,
        Ending::Refused(Refusal::Untrusted | Refusal::ListenerPendingLimit | Refusal::PeerPendingLimit)
        | Ending::Shed
        | Ending::Overload => Severity::Warning,
        Ending::Refused(refusal) if refusal.concerns_client() => Severity::Warning,
        _ => Severity::Error,
    };
    let mut text = dovecot_words(ending, record);
    add_details(&mut text, ending, record)
        .and_then(|()| diagnosis.map_or(Ok(()), |diagnosis| add_diagnosis(&mut text, diagnosis)))
        .expect("a String takes everything");
    Some(Wording { severity, text })
}

fn dovecot_words(ending: Ending, record: &Record<'_>) -> String {
    let rip = record.culprit(ending);
    let byte = |at: usize| record.bytes.get(at - 1).copied().unwrap_or_default();
    let plain = |words: &str| format!("haproxy: {words} (rip={rip})");
    let gone = |stage: &str, words: &str| format!("{stage}: Client disconnected: {words} (rip={rip})");
    let value = |stage: &str, words: &str, key: &str, value: u8| {
        format!("{stage}: Client disconnected: {words} ({key}={value:02x}, rip={rip})")
    };
    let v2 = "haproxy(v2)";
    match ending {
        Ending::Refused(Refusal::Untrusted) => plain("Client not trusted"),
        Ending::Refused(Refusal::ListenerPendingLimit | Refusal::PeerPendingLimit) => {
            plain("Client rejected: too many of its connections wait for their header")
        }
        Ending::Refused(Refusal::ClientBanned) => plain("Client rejected: banned"),
        Ending::Refused(Refusal::ClientConnectionLimit) => plain("Client rejected: too many connections at a time"),
        Ending::Refused(Refusal::ClientRateLimit) => plain("Client rejected: connects too often"),
        Ending::Refused(Refusal::EndpointRefused) => plain("Client rejected: its private endpoint is not allowed"),
        Ending::Refused(Refusal::EndpointMissing) => plain("Client rejected: the header names no private endpoint"),
        Ending::Silent | Ending::Timeout => plain("Client timed out"),
        Ending::Shed => plain("Client shed: too many connections wait for their header"),
        Ending::Overload => plain("Client rejected: the queue of the workers is full"),
        Ending::ClosedEmpty | Ending::ClosedPartial | Ending::Drained | Ending::LostInRing => {
            gone("haproxy", "Failed to read full header")
        }
        Ending::TlsFailed | Ending::TlsChecked => plain("TLS handshaking failed"),
        Ending::Absent { .. } => gone("haproxy", "Failed to read valid HAproxy data"),
        Ending::Invalid { reason, .. } => match reason {
            Reason::BadVersion => value("haproxy", "Unsupported protocol version", "version", byte(13) >> 4),
            Reason::BadCommand => value(v2, "Invalid command", "cmd", byte(13) & 15),
            reason if is_v1(record) => {
                format!("haproxy(v1): Client disconnected: {}", v1_words(reason, record.bytes, rip))
            }
            Reason::BadFamily => value(v2, "Unknown address family", "family", byte(14) >> 4),
            Reason::BadTransport => value(v2, "Not using TCP", "type", byte(14) & 15),
            Reason::HeaderTooLong => gone("haproxy", "Too long header"),
            Reason::AddressTruncated if byte(14) >> 4 == 1 => gone(v2, "IPv4 data is incomplete"),
            Reason::AddressTruncated => gone(v2, "IPv6 data is incomplete"),
            Reason::TlvTruncated => {
                let words = format!("Invalid TLV: get_tlv({}) failed: Truncated data", truncated_tlv(record.bytes));
                value(v2, &words, "cmd", byte(13) & 15)
            }
            Reason::BadTlv | Reason::DuplicateTlv => value(v2, "Invalid TLV", "cmd", byte(13) & 15),
            Reason::BadChecksum => gone(v2, "Checksum does not match"),
            _ => gone("haproxy", "Failed to read valid HAproxy data"), // those of version 1, named above
        },
        Ending::Refused(Refusal::DgramRefused) => value(v2, "Not using TCP", "type", byte(14) & 15),
        Ending::Refused(Refusal::UnspecRefused) => value(v2, "Unsupported address family", "family", byte(14) >> 4),
        Ending::Refused(_) => gone("haproxy", "Header refused"),
    }
}

fn add_details(text: &mut String, ending: Ending, record: &Record<'_>) -> std::fmt::Result {
    write!(text, ": reason={}", ending.code())?;
    if let Ending::Absent { at } | Ending::Invalid { at, .. } = ending {
        write!(text, " at={at}")?;
    }
    write!(text, " peer={}", canonical_socket(record.peer))?;
    if let Some(local) = record.local {
        write!(text, " local={local}")?;
    }
    if let Decoded::Complete(header) = decode(record.bytes, &record.rules)
        && let (Some(source), Some(destination)) = (header.source(), header.destination())
    {
        write!(text, " source={source} destination={destination}")?;
        add_endpoints(text, &header)?;
    } else if !record.bytes.is_empty() {
        // Of a peer that is turned away nothing is read: how much it has sent is not known.
        if ending != Ending::Refused(Refusal::Untrusted) {
            write!(text, " bytes={}", record.bytes.len())?;
        }
        write!(text, " first={}", Escaped(&record.bytes[..record.bytes.len().min(SHOWN_MAX)]))?;
    }
    Ok(())
}

/// The line for a peer whose connections end without a byte time after time.
pub fn lazy_header_advice(peer: IpAddr, ending: Ending) -> String {
    let words = if ending == Ending::Silent { "Client timed out" } else { "Client waited and left" };
    let mut text = format!("haproxy: {words} again and again (rip={peer}): reason={}", ending.code());
    add_diagnosis(&mut text, Diagnosis::LazyHeader).expect("a String takes everything");
    text
}

pub(super) fn add_diagnosis(text: &mut String, diagnosis: Diagnosis) -> std::fmt::Result {
    write!(text, " diagnosis={} ({})", diagnosis.code(), diagnosis.advice())
}

/// Why the header of a connection names no private endpoint.
fn without_endpoint(record: &Record<'_>) -> Diagnosis {
    match decode(record.bytes, &record.rules) {
        Decoded::Complete(header) if header.version() == Version::V1 => Diagnosis::EndpointInV1,
        Decoded::Complete(header) if header.tlvs().any(|tlv| VENDORS.contains(&tlv.kind)) => {
            Diagnosis::EndpointUnreadable
        }
        _ => Diagnosis::EndpointAbsent,
    }
}

/// Where in the chain the TLV stands that runs past the header's end; 0 if it is one inside another.
fn truncated_tlv(bytes: &[u8]) -> usize {
    let (mut chain, mut broken) = (None, None);
    walk(bytes, |field| match field.what {
        What::Tlv { length, left, inside_ssl: false, .. } => {
            chain = chain.or(Some(field.at));
            broken = broken.or((length > left).then_some(field.at));
        }
        What::Opaque { inside_ssl: false } => broken = broken.or(Some(field.at)),
        _ => {}
    });
    broken.and_then(|broken| Some(broken - chain?)).unwrap_or_default()
}

fn is_v1(record: &Record<'_>) -> bool {
    record.bytes.first() == Some(&b'P')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::V2_SIGNATURE;

    fn line(ending: Ending, bytes: &[u8]) -> String {
        line_from("[::ffff:192.0.2.10]:40000", ending, bytes)
    }

    fn line_from(peer: &str, ending: Ending, bytes: &[u8]) -> String {
        let record = Record {
            peer: peer.parse().expect("an address"),
            local: Some("192.0.2.1:143".parse().expect("an address")),
            bytes,
            rules: Rules::default(),
            waited: Duration::ZERO,
        };
        describe(ending, &record, record.diagnosis(ending)).map_or_else(String::new, |wording| wording.text)
    }

    fn v2(rest: &[u8]) -> Vec<u8> {
        [V2_SIGNATURE, rest].concat()
    }

    #[test]
    fn begins_with_the_words_that_filters_know() {
        let invalid = |reason| Ending::Invalid { reason, at: 13 };
        for (ending, bytes, words) in [
            (Ending::Refused(Refusal::Untrusted), vec![], "haproxy: Client not trusted (rip=192.0.2.10)"),
            (Ending::Silent, vec![], "haproxy: Client timed out (rip=192.0.2.10)"),
            (Ending::Timeout, b"PROX".to_vec(), "haproxy: Client timed out (rip=192.0.2.10)"),
            (
                Ending::ClosedPartial,
                v2(&[]),
                "haproxy: Client disconnected: Failed to read full header (rip=192.0.2.10)",
            ),
            (
                invalid(Reason::BadVersion),
                v2(&[0x31]),
                "haproxy: Client disconnected: Unsupported protocol version (version=03, rip=192.0.2.10)",
            ),
            (
                invalid(Reason::BadCommand),
                v2(&[0x22]),
                "haproxy(v2): Client disconnected: Invalid command (cmd=02, rip=192.0.2.10)",
            ),
            (
                invalid(Reason::BadFamily),
                v2(&[0x21, 0x41]),
                "haproxy(v2): Client disconnected: Unknown address family (family=04, rip=192.0.2.10)",
            ),
            (
                Ending::Refused(Refusal::DgramRefused),
                v2(&[0x21, 0x12, 0, 0]),
                "haproxy(v2): Client disconnected: Not using TCP (type=02, rip=192.0.2.10)",
            ),
            (
                invalid(Reason::HeaderTooLong),
                v2(&[0x21, 0x11, 0xff]),
                "haproxy: Client disconnected: Too long header (rip=192.0.2.10)",
            ),
        ] {
            let text = line(ending, &bytes);
            assert!(text.starts_with(words), "{text}");
        }
    }

    #[test]
    fn says_what_came_instead_and_what_to_do() {
        let text = line(Ending::Absent { at: 1 }, b"EHLO mail.test\r\n");
        assert!(text.contains("reason=absent at=1 peer=192.0.2.10:40000 local=192.0.2.1:143"), "{text}");
        assert!(
            text.contains("first=EHLO\\x20mail.test\\x0d\\x0a diagnosis=smtp (a mail client came straight"),
            "{text}"
        );
    }

    #[test]
    fn says_whether_a_peer_that_is_not_trusted_sent_a_header() {
        let untrusted = |bytes: &[u8]| line(Ending::Refused(Refusal::Untrusted), bytes);
        for bytes in [&b"PROXY TCP4 198.5"[..], &v2(&[0x21, 0x11, 0, 12])] {
            let text = untrusted(bytes);
            assert!(text.contains("diagnosis=header-from-untrusted (a PROXY header from a peer outside"), "{text}");
        }
        for bytes in [&b""[..], b"P", b"EHLO mail.test\r\n"] {
            let text = untrusted(bytes);
            assert!(!text.contains("diagnosis=") && !text.contains("bytes="), "{text}");
        }
    }

    #[test]
    fn a_client_from_a_private_address_has_gone_past_the_balancer() {
        let untrusted = Ending::Refused(Refusal::Untrusted);
        for (peer, ending, bytes, bypass) in [
            ("10.1.2.3:40000", Ending::Absent { at: 1 }, &b"EHLO pod.test\r\n"[..], true),
            ("[fd00::7]:40000", Ending::Absent { at: 1 }, b"a1 LOGIN joe x\r\n", true),
            ("10.1.2.3:40000", untrusted, b"\x16\x03\x01\x02\x00\x01", true),
            ("10.1.2.3:40000", untrusted, b"", false),
            ("10.1.2.3:40000", untrusted, b"PROXY TCP4 198.5", false),
            ("10.1.2.3:40000", Ending::Absent { at: 1 }, b"GET / HTTP/1.0\r\n", false),
            ("198.51.100.7:40000", Ending::Absent { at: 1 }, b"EHLO client.test\r\n", false),
        ] {
            let text = line_from(peer, ending, bytes);
            let said = text.contains("diagnosis=bypass (") && text.contains("`ipMode: Proxy`");
            assert_eq!(said, bypass, "{text}");
        }
    }

    #[test]
    fn says_what_a_refused_header_tells_of_its_sender() {
        let text = line(Ending::Invalid { reason: Reason::BadCommand, at: 13 }, &v2(b"\x22\0\0"));
        assert!(
            text.contains("first=") && text.contains(" diagnosis=swaks-local (swaks sends 22 00 00 for LOCAL"),
            "{text}"
        );
        let swapped = v2(b"\x21\x11\x0c\0\xc6\x33\x64\x07\xc0\0\x02\x01\x13\x88\0\x8f");
        for ending in [Ending::Timeout, Ending::ClosedPartial] {
            assert!(line(ending, &swapped).contains("diagnosis=length-swapped ("));
        }
    }

    #[test]
    fn who_waits_in_silence_is_not_a_check_that_leaves_at_once() {
        let record = |waited| Record {
            peer: "192.0.2.10:40000".parse().expect("an address"),
            local: None,
            bytes: b"",
            rules: Rules::default(),
            waited,
        };
        assert!(record(Duration::ZERO).was_mute(Ending::Silent));
        assert!(record(SILENCE_MIN).was_mute(Ending::ClosedEmpty));
        assert!(!record(SILENCE_MIN / 2).was_mute(Ending::ClosedEmpty));
        assert!(!record(SILENCE_MIN).was_mute(Ending::ClosedPartial));
        let advice = lazy_header_advice("192.0.2.10".parse().expect("an address"), Ending::ClosedEmpty);
        for words in ["reason=closed-empty", "`tcp-check connect default`", "`check-send-proxy`", "on_first_ack,"] {
            assert!(advice.contains(words), "{words}: {advice}");
        }
    }

    #[test]
    fn names_the_addresses_of_a_complete_header() {
        let header = b"PROXY TCP4 224.0.0.1 192.0.2.1 5000 143\r\n";
        let text = line(Ending::Refused(Refusal::BadSource), header);
        assert!(text.contains("reason=bad-source"), "{text}");
        assert!(text.ends_with("source=224.0.0.1:5000 destination=192.0.2.1:143"), "{text}");
    }

    #[test]
    fn a_limit_on_clients_names_the_client_and_not_the_balancer() {
        let header = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
        let text = line(Ending::Refused(Refusal::ClientRateLimit), header);
        assert!(text.starts_with("haproxy: Client rejected: connects too often (rip=198.51.100.7): reason="), "{text}");
        assert!(text.contains("peer=192.0.2.10:40000"), "{text}");
        let text = line(Ending::Refused(Refusal::ClientBanned), b"");
        assert!(text.contains("banned (rip=192.0.2.10)"), "without a header the peer is the client: {text}");
    }

    #[test]
    fn an_endpoint_that_is_not_allowed_is_named_and_a_missing_one_explained() {
        let with = |tlvs: &[u8]| {
            let length = 12 + tlvs.len() as u8;
            v2(&[&[0x21, 0x11, 0, length, 198, 51, 100, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 0x8f], tlvs].concat())
        };
        let aws = with(b"\xea\0\x0e\x01vpce-08d2bf15");
        let text = line(Ending::Refused(Refusal::EndpointRefused), &aws);
        let words =
            "haproxy: Client rejected: its private endpoint is not allowed (rip=198.51.100.7): reason=endpoint-refused";
        assert!(text.starts_with(words), "the client is the culprit: {text}");
        assert!(text.contains(" destination=192.0.2.1:143 endpoint=vpce-08d2bf15 diagnosis=endpoint-not-"), "{text}");
        for (bytes, diagnosis) in [
            (b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n".to_vec(), "endpoint-in-v1"),
            (with(b"\xe0\0\x01\0"), "endpoint-unreadable"),
            (with(b"\xf0\0\x01\0"), "endpoint-absent"),
        ] {
            let text = line(Ending::Refused(Refusal::EndpointMissing), &bytes);
            assert!(text.contains("(rip=192.0.2.10): reason=endpoint-missing "), "the balancer's doing: {text}");
            assert!(text.contains(&format!(" destination=192.0.2.1:143 diagnosis={diagnosis} (")), "{text}");
        }
    }

    #[test]
    fn everyday_business_has_no_line() {
        assert_eq!(line(Ending::ClosedEmpty, b""), "");
        assert_eq!(line(Ending::Drained, b""), "");
        assert_eq!(line(Ending::LostInRing, b""), "");
    }
}

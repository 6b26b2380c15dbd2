//! Whether the answer is the right one. Pure: bytes in, verdict out.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

use crate::behaviour::Deserves;
use crate::header::Sent;

/// The answer that an honest connection is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One JSON line of the `whoami` worker that says what this connection's header said, then the end.
    Whoami,
    /// Any bytes, then the end.
    Answer,
    /// The end without a byte.
    Close,
    /// The end without a byte, by FIN or RST and at any time, the connect included.
    Refused,
    /// A line with this beginning; then the client leaves.
    Banner(String),
    /// A byte or the end, whichever is first.
    Any,
}

/// How an answer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// Bytes came for what had to be refused.
    AnsweredRefusal,
    /// A greeting came before the header was sent.
    EarlyGreeting,
    /// The end came without a byte.
    NoAnswer,
    /// Bytes came where none were expected.
    UnexpectedAnswer,
    /// No line with the expected beginning.
    Banner,
    /// Not one whole line of JSON with the keys of `whoami`.
    NotWhoami,
    /// `version` or `command` differs from the header.
    Version,
    /// `client` differs from the header's source.
    Client,
    /// `destination` differs from the header's destination.
    Destination,
    /// `peer` or `local` is not this socket.
    Socket,
    /// `tlvs` differ from the header's.
    Tlvs,
    /// `residual` differs from the bytes sent behind the header.
    Residual,
}

/// What is known of a connection when its answer is judged.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the receiver has to do with it.
    pub deserves: Deserves,
    /// The header it sent.
    pub sent: &'a Sent,
    /// All bytes it sent, the header first.
    pub outgoing: &'a [u8],
    /// Whether header and payload went out in one segment.
    pub in_one: bool,
    /// The address that its socket was bound to.
    pub source: Option<IpAddr>,
    /// Where it connected to.
    pub target: SocketAddr,
}

#[derive(Deserialize)]
struct Whoami<'a> {
    version: Option<&'a str>,
    command: Option<&'a str>,
    client: &'a str,
    destination: &'a str,
    peer: &'a str,
    local: &'a str,
    tlvs: Vec<Tlv<'a>>,
    residual: &'a str,
}

#[derive(Deserialize)]
struct Tlv<'a> {
    r#type: u8,
    value: &'a str,
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("banner", prefix) => Ok(Expect::Banner(prefix.into())),
            ("whoami", "") => Ok(Expect::Whoami),
            ("answer", "") => Ok(Expect::Answer),
            ("close", "") => Ok(Expect::Close),
            ("refused", "") => Ok(Expect::Refused),
            ("any", "") => Ok(Expect::Any),
            _ => {
                Err(format!("no expectation `{text}`; there are whoami, answer, close, refused, banner[:PREFIX], any"))
            }
        }
    }
}

impl Wrong {
    /// The stable name in reports.
    pub fn code(self) -> &'static str {
        match self {
            Wrong::AnsweredRefusal => "answered-refusal",
            Wrong::EarlyGreeting => "early-greeting",
            Wrong::NoAnswer => "no-answer",
            Wrong::UnexpectedAnswer => "unexpected-answer",
            Wrong::Banner => "banner",
            Wrong::NotWhoami => "not-whoami",
            Wrong::Version => "version",
            Wrong::Client => "client",
            Wrong::Destination => "destination",
            Wrong::Socket => "socket",
            Wrong::Tlvs => "tlvs",
            Wrong::Residual => "residual",
        }
    }
}

impl Expect {
    /// The verdict while the stream is still open; `None`: wait for more.
    pub fn judge_open(&self, facts: &Facts, received: &[u8]) -> Option<Result<(), Wrong>> {
        match (facts.deserves, self) {
            _ if received.is_empty() => None,
            (Deserves::Refusal, expect) if *expect != Expect::Any => Some(Err(Wrong::AnsweredRefusal)),
            (Deserves::Answer, Expect::Any) => Some(Ok(())),
            (Deserves::Answer, Expect::Banner(prefix)) if received.contains(&b'\n') => Some(banner(prefix, received)),
            _ => None,
        }
    }

    /// The verdict when the receiver has ended the stream.
    pub fn judge_end(&self, facts: &Facts, received: &[u8]) -> Result<(), Wrong> {
        match (facts.deserves, self) {
            (Deserves::Nothing, _) | (_, Expect::Any) => Ok(()),
            (Deserves::Refusal, _) => empty(received, Wrong::AnsweredRefusal),
            (Deserves::Answer, Expect::Refused) => empty(received, Wrong::AnsweredRefusal),
            (Deserves::Answer, Expect::Close) => empty(received, Wrong::UnexpectedAnswer),
            (Deserves::Answer, _) if received.is_empty() => Err(Wrong::NoAnswer),
            (Deserves::Answer, Expect::Answer) => Ok(()),
            (Deserves::Answer, Expect::Banner(prefix)) => banner(prefix, received),
            (Deserves::Answer, Expect::Whoami) => whoami(facts, received),
        }
    }
}

fn empty(received: &[u8], otherwise: Wrong) -> Result<(), Wrong> {
    if received.is_empty() { Ok(()) } else { Err(otherwise) }
}

fn banner(prefix: &str, received: &[u8]) -> Result<(), Wrong> {
    if received.starts_with(prefix.as_bytes()) && received.contains(&b'\n') { Ok(()) } else { Err(Wrong::Banner) }
}

fn whoami(facts: &Facts, received: &[u8]) -> Result<(), Wrong> {
    let line = received.strip_suffix(b"\n").filter(|line| !line.contains(&b'\n')).ok_or(Wrong::NotWhoami)?;
    let said: Whoami = serde_json::from_slice(line).map_err(|_| Wrong::NotWhoami)?;
    let sent = facts.sent;
    ensure(said.version == sent.version && said.command == sent.command, Wrong::Version)?;
    let (peer, local) = (address(said.peer)?, address(said.local)?);
    ensure(local == facts.target && facts.source.is_none_or(|ip| ip == peer.ip()), Wrong::Socket)?;
    let (client, destination) = sent.addresses.unwrap_or((peer, local));
    ensure(address(said.client)? == client, Wrong::Client)?;
    ensure(address(said.destination)? == destination, Wrong::Destination)?;
    ensure(tlvs_equal(&said.tlvs, part(facts, sent.tlvs.clone())), Wrong::Tlvs)?;
    ensure(residual_fits(said.residual, facts), Wrong::Residual)
}

fn ensure(condition: bool, otherwise: Wrong) -> Result<(), Wrong> {
    if condition { Ok(()) } else { Err(otherwise) }
}

fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| Wrong::NotWhoami)
}

/// `wire` is a chain that this program built, so it is whole.
fn tlvs_equal(said: &[Tlv], mut wire: &[u8]) -> bool {
    for tlv in said {
        let [kind, high, low, rest @ ..] = wire else { return false };
        let Some((value, next)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            return false;
        };
        if tlv.r#type != *kind || tlv.value != hex(value) {
            return false;
        }
        wire = next;
    }
    wire.is_empty()
}

/// In several segments the receiver may hand the connection on before all of the payload is there.
fn residual_fits(said: &str, facts: &Facts) -> bool {
    let payload = hex(part(facts, facts.sent.length..facts.outgoing.len()));
    if facts.in_one { said == payload } else { payload.starts_with(said) }
}

/// Empty where the bytes cannot be had, because an answer came before all was sent.
fn part<'a>(facts: &Facts<'a>, range: std::ops::Range<usize>) -> &'a [u8] {
    facts.outgoing.get(range).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{Cast, Shape};
    use crate::sources::Pool;

    const TARGET: &str = "127.0.0.1:10143";

    struct Sample {
        sent: Sent,
        outgoing: Vec<u8>,
    }

    fn sample(shape: Shape, payload: &[u8]) -> Sample {
        let cast = Cast {
            clients: Pool::hosts("198.51.100.7/32".parse().expect("a network")),
            destination: "192.0.2.1:143".parse().expect("an address"),
            destination_inet6: "[2001:db8:ffff::1]:143".parse().expect("an address"),
        };
        let mut outgoing = Vec::new();
        let sent = shape.write(&cast, 0, &mut outgoing);
        outgoing.extend_from_slice(payload);
        Sample { sent, outgoing }
    }

    fn facts(sample: &Sample) -> Facts<'_> {
        Facts {
            deserves: Deserves::Answer,
            sent: &sample.sent,
            outgoing: &sample.outgoing,
            in_one: true,
            source: Some(IpAddr::from([127, 1, 0, 9])),
            target: TARGET.parse().expect("an address"),
        }
    }

    fn line(changed: &[(&str, &str)]) -> Vec<u8> {
        let mut said = serde_json::json!({
            "service": "imap-login", "listener": "imap_haproxy", "version": "v2", "command": "PROXY",
            "client": "198.51.100.7:1024", "destination": "192.0.2.1:143", "peer": "127.1.0.9:40000", "local": TARGET,
            "tls": false, "tlvs": [], "residual": ""
        });
        for (key, value) in changed {
            said[key] = serde_json::from_str(value).expect("JSON");
        }
        format!("{said}\n").into_bytes()
    }

    #[test]
    fn the_true_answer_is_right() {
        let sample = sample(Shape::V2, b"");
        assert_eq!(Expect::Whoami.judge_end(&facts(&sample), &line(&[])), Ok(()));
    }

    #[test]
    fn every_differing_key_is_found() {
        let sample = sample(Shape::V2, b"");
        for (key, value, wrong) in [
            ("version", r#""v1""#, Wrong::Version),
            ("command", r#""LOCAL""#, Wrong::Version),
            ("command", "null", Wrong::Version),
            ("client", r#""198.51.100.7:1025""#, Wrong::Client),
            ("client", r#""198.51.100.8:1024""#, Wrong::Client),
            ("client", r#""nobody""#, Wrong::NotWhoami),
            ("destination", r#""192.0.2.1:144""#, Wrong::Destination),
            ("peer", r#""127.1.0.8:40000""#, Wrong::Socket),
            ("local", r#""127.0.0.1:1""#, Wrong::Socket),
            ("tlvs", r#"[{"type":4,"value":""}]"#, Wrong::Tlvs),
            ("residual", r#""00""#, Wrong::Residual),
        ] {
            let verdict = Expect::Whoami.judge_end(&facts(&sample), &line(&[(key, value)]));
            assert_eq!(verdict, Err(wrong), "{key}: {value}");
        }
    }

    #[test]
    fn what_is_not_one_whole_line_is_not_whoami() {
        let sample = sample(Shape::V2, b"");
        let right = line(&[]);
        let twice = [right.clone(), right.clone()].concat();
        for answer in [&right[..right.len() - 1], &twice, b"* OK ready\r\n", b"{}\n"] {
            assert_eq!(Expect::Whoami.judge_end(&facts(&sample), answer), Err(Wrong::NotWhoami));
        }
        assert_eq!(Expect::Whoami.judge_end(&facts(&sample), b""), Err(Wrong::NoAnswer));
    }

    #[test]
    fn tlvs_and_payload_must_come_back() {
        let sample = sample(Shape::V2Tlv, b"a1 NOOP\r\n");
        let mut tlvs = Vec::new();
        let mut wire = &sample.outgoing[sample.sent.tlvs.clone()];
        while let [kind, high, low, rest @ ..] = wire {
            let (value, next) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            tlvs.push(serde_json::json!({"type": kind, "value": hex(value)}));
            wire = next;
        }
        let all = serde_json::to_string(&tlvs).expect("JSON");
        let fewer = serde_json::to_string(&tlvs[..tlvs.len() - 1]).expect("JSON");
        let residual = r#""6131204e4f4f500d0a""#;
        let judge = |facts: &Facts, tlvs: &str, residual: &str| {
            Expect::Whoami.judge_end(facts, &line(&[("tlvs", tlvs), ("residual", residual)]))
        };
        assert_eq!(judge(&facts(&sample), &all, residual), Ok(()));
        assert_eq!(judge(&facts(&sample), &fewer, residual), Err(Wrong::Tlvs));
        assert_eq!(judge(&facts(&sample), &all, r#""6131""#), Err(Wrong::Residual));
        let in_pieces = Facts { in_one: false, ..facts(&sample) };
        assert_eq!(judge(&in_pieces, &all, r#""6131""#), Ok(()));
        assert_eq!(judge(&in_pieces, &all, r#""6132""#), Err(Wrong::Residual));
    }

    #[test]
    fn without_header_addresses_the_sockets_count() {
        for (shape, version, command) in [(Shape::Unknown, r#""v1""#, r#""PROXY""#), (Shape::None, "null", "null")] {
            let sample = sample(shape, b"");
            let own = [
                ("version", version),
                ("command", command),
                ("client", r#""127.1.0.9:40000""#),
                ("destination", r#""127.0.0.1:10143""#),
            ];
            assert_eq!(Expect::Whoami.judge_end(&facts(&sample), &line(&own)), Ok(()));
            assert_eq!(Expect::Whoami.judge_end(&facts(&sample), &line(&own[..2])), Err(Wrong::Client));
        }
    }

    #[test]
    fn a_refusal_is_silent() {
        let sample = sample(Shape::V2, b"");
        let refused = Facts { deserves: Deserves::Refusal, ..facts(&sample) };
        for expect in [Expect::Whoami, Expect::Answer, Expect::Close, Expect::Banner(String::new())] {
            assert_eq!(expect.judge_end(&refused, b""), Ok(()));
            assert_eq!(expect.judge_end(&refused, b"x"), Err(Wrong::AnsweredRefusal));
            assert_eq!(expect.judge_open(&refused, b""), None);
            assert_eq!(expect.judge_open(&refused, b"x"), Some(Err(Wrong::AnsweredRefusal)));
        }
        assert_eq!(Expect::Any.judge_end(&refused, b"x"), Ok(()));
        assert_eq!(Expect::Any.judge_open(&refused, b"x"), None);
    }

    #[test]
    fn each_expectation_has_its_own_measure() {
        let sample = sample(Shape::V2, b"");
        let facts = facts(&sample);
        let banner = Expect::Banner("* OK".into());
        assert_eq!(banner.judge_open(&facts, b"* OK rea"), None);
        assert_eq!(banner.judge_open(&facts, b"* OK ready\r\n"), Some(Ok(())));
        assert_eq!(banner.judge_open(&facts, b"* BYE\r\n"), Some(Err(Wrong::Banner)));
        assert_eq!(banner.judge_end(&facts, b"* OK"), Err(Wrong::Banner));
        assert_eq!(Expect::Close.judge_end(&facts, b""), Ok(()));
        assert_eq!(Expect::Close.judge_end(&facts, b"x"), Err(Wrong::UnexpectedAnswer));
        assert_eq!(Expect::Answer.judge_end(&facts, b"x"), Ok(()));
        assert_eq!(Expect::Answer.judge_end(&facts, b""), Err(Wrong::NoAnswer));
        assert_eq!(Expect::Any.judge_open(&facts, b"x"), Some(Ok(())));
        assert_eq!("banner:* OK".parse(), Ok(banner));
        assert!("tea".parse::<Expect>().is_err());
    }
}

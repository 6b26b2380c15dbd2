use super::*;
use crate::relay::SessionId;

const CLIENT: &str = "198.51.100.7:5000";

fn facts(client: &str) -> Facts<'static> {
    let client = client.parse().expect("an address");
    let destination = if matches!(client, std::net::SocketAddr::V4(_)) { "192.0.2.1:993" } else { "[2001:db8::1]:993" };
    Facts {
        header: None,
        client,
        destination: destination.parse().expect("an address"),
        session: SessionId::decode("N3eB81dhiBPGM2QH").map(|(low, _)| SessionId::new(low, client)).expect("an id"),
        tls: None,
    }
}

fn preface(protocol: Protocol, client: &str) -> Preface {
    let forward = if protocol == Protocol::Imap { Forward::ImapId } else { Forward::Xclient };
    Preface::new(forward, protocol, &facts(client), "tier.example").expect("there is an exchange")
}

/// What comes of a dialogue: how it ended, what was sent to the server, what the client saw.
type Outcome = (Progress, String, String);

/// What the server says, then what it is told before it goes on.
fn run(protocol: Protocol, client: &str, says: &[&str], cut: impl Fn(usize) -> usize) -> Outcome {
    let mut preface = preface(protocol, client);
    let (mut sent, mut seen) = (Vec::new(), Vec::new());
    let mut progress = Progress::More;
    for says in says {
        let mut rest = says.as_bytes();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cut(rest.len()).clamp(1, rest.len()));
            rest = later;
            if progress == Progress::More {
                progress = preface.handle_server(now, &mut sent, &mut seen);
            } else if progress == Progress::Done {
                seen.extend_from_slice(now);
            }
        }
    }
    (progress, String::from_utf8(sent).expect("text"), String::from_utf8(seen).expect("text"))
}

/// The same at every split of what the server says.
fn check(protocol: Protocol, client: &str, says: &[&str], progress: Progress, sent: &str, seen: &str) {
    let expected = (progress, sent.to_owned(), seen.to_owned());
    let longest = says.iter().map(|text| text.len()).max().expect("something is said");
    for at in 1..=longest {
        assert_eq!(run(protocol, client, says, |_| at), expected, "pieces of {at}");
        assert_eq!(run(protocol, client, says, |left| if left > at { left - at } else { left }), expected, "cut {at}");
    }
}

const ID: &str = "I ID (\"x-session-id\" \"N3eB81dhiBPGM2QH\" \"x-originating-ip\" \"198.51.100.7\" \"x-originating-port\" \
                  \"5000\" \"x-connected-ip\" \"192.0.2.1\" \"x-connected-port\" \"993\" \"x-proxy-ttl\" \"6\" \
                  \"x-client-transport\" \"insecure\")\r\n";
const BANNER: &str =
    "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN] ready\r\n";

#[test]
fn imap_sees_the_banner_unchanged() {
    let done = "* ID (\"name\" {7}\r\nDovecot)\r\nI OK ID completed.\r\n";
    check(Protocol::Imap, CLIENT, &[BANNER, done], Progress::Done, ID, BANNER);
    let waiting = "* OK Waiting for authentication process to respond..\r\n";
    let trusted = "* ID (\"name\" \"Dovecot\")\r\nI OK Trusted ID completed.\r\n";
    check(
        Protocol::Imap,
        CLIENT,
        &[waiting, BANNER, trusted, "* x\r\n"],
        Progress::Done,
        ID,
        &format!("{BANNER}* x\r\n"),
    );
}

#[test]
fn imap_without_trust_in_the_id_is_given_up() {
    for answer in ["I BAD Invalid ID parameters\r\n", "I NO no\r\n", "* BYE Input buffer full, aborting\r\n", "+ x\r\n"]
    {
        check(Protocol::Imap, CLIENT, &[BANNER, answer], Progress::Failed(Refusal::Refused), ID, "");
    }
    let none = "* OK [CAPABILITY IMAP4rev1 IDLE] x\r\n";
    check(Protocol::Imap, CLIENT, &[none], Progress::Failed(Refusal::NotOffered), "", "");
    for greeting in ["* BYE x\r\n", "* PREAUTH [CAPABILITY ID] x\r\n", "+OK x\r\n"] {
        check(Protocol::Imap, CLIENT, &[greeting], Progress::Failed(Refusal::Greeting), "", "");
    }
}

const BARE: &str = "XCLIENT ADDR=198.51.100.7 PORT=5000 DESTADDR=192.0.2.1 DESTPORT=993 SESSION=N3eB81dhiBPGM2QH TTL=6 \
                    CLIENT-TRANSPORT=insecure\r\n";

#[test]
fn pop3_sees_the_greeting_without_the_offer() {
    let greeting = "+OK [XCLIENT] ready <1.2@x>\r\n";
    check(Protocol::Pop3, CLIENT, &[greeting, "+OK Updated\r\n"], Progress::Done, BARE, "+OK ready <1.2@x>\r\n");
    for answer in ["+OK You are not from trusted IP - ignoring\r\n", "-ERR Invalid parameters\r\n"] {
        check(Protocol::Pop3, CLIENT, &[greeting, answer], Progress::Failed(Refusal::Refused), BARE, "");
    }
    check(Protocol::Pop3, CLIENT, &["+OK ready\r\n"], Progress::Failed(Refusal::NotOffered), "", "");
    check(Protocol::Pop3, CLIENT, &["-ERR no\r\n"], Progress::Failed(Refusal::Greeting), "", "");
}

#[test]
fn managesieve_sees_neither_xclient_nor_starttls() {
    let greeting =
        "\"IMPLEMENTATION\" {8}\r\nDovecot \r\n\"SASL\" \"PLAIN\"\r\n\"STARTTLS\"\r\n\"XCLIENT\"\r\nOK \"ready\"\r\n";
    let seen = "\"IMPLEMENTATION\" {8}\r\nDovecot \r\n\"SASL\" \"PLAIN\"\r\nOK \"ready\"\r\n";
    check(Protocol::Sieve, CLIENT, &[greeting, "OK \"Updated\"\r\n"], Progress::Done, BARE, seen);
    let no = "NO \"You are not from trusted IP\"\r\n";
    check(Protocol::Sieve, CLIENT, &[greeting, no], Progress::Failed(Refusal::Refused), BARE, "");
    check(Protocol::Sieve, CLIENT, &["OK\r\n"], Progress::Failed(Refusal::NotOffered), "", "");
    check(Protocol::Sieve, CLIENT, &["BYE \"x\"\r\n"], Progress::Failed(Refusal::Greeting), "", "");
}

#[test]
fn postfix_greets_the_client_after_a_greeting_in_two_parts() {
    let hello = "250-mx\r\n250-PIPELINING\r\n\
                 250-XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT\r\n250 CHUNKING\r\n";
    let says = ["220-mx waits\r\n", "220 mx ESMTP\r\n", hello, "220 mx ESMTP Postfix\r\n"];
    let sent = "EHLO tier.example\r\nXCLIENT NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] PORT=5000 PROTO=ESMTP \
                DESTADDR=192.0.2.1 DESTPORT=993 ADDR=198.51.100.7\r\n";
    check(Protocol::Smtp, CLIENT, &says, Progress::Done, sent, "220 mx ESMTP Postfix\r\n");
    let busy = "421 4.7.0 mx Error: too many connections from 198.51.100.7\r\n";
    let says = ["220 mx\r\n", hello, busy];
    check(Protocol::Smtp, CLIENT, &says, Progress::Failed(Refusal::Client), sent, busy);
    let says = ["220 mx\r\n", hello, "550 5.7.0 Error: insufficient authorization\r\n"];
    check(Protocol::Smtp, CLIENT, &says, Progress::Failed(Refusal::Refused), sent, "");
}

#[test]
fn dovecots_lmtp_is_told_only_what_it_offers_and_ipv6_with_its_prefix() {
    let hello = "250-x\r\n250 XCLIENT ADDR PORT PROTO HELO LOGIN SESSION TTL TIMEOUT\r\n";
    let session = facts("[2001:db8::7]:40239").session;
    let sent = format!(
        "LHLO tier.example\r\nXCLIENT PORT=40239 PROTO=LMTP SESSION={} TTL=6 ADDR=IPV6:2001:db8::7\r\n",
        session.as_str().replace('+', "+2B")
    );
    let says = ["220 x\r\n", hello, "220 x ready\r\n"];
    check(Protocol::Lmtp, "[2001:db8::7]:40239", &says, Progress::Done, &sent, "220 x ready\r\n");
    let says = ["220 x\r\n", "250-x\r\n250 8BITMIME\r\n"];
    check(Protocol::Lmtp, CLIENT, &says, Progress::Failed(Refusal::NotOffered), "LHLO tier.example\r\n", "");
}

#[test]
fn smtp_that_does_not_serve_is_given_up() {
    for greeting in ["421 4.3.2 busy\r\n", "554 no\r\n", "HTTP/1.1 400 x\r\n", "+OK\r\n"] {
        check(Protocol::Submission, CLIENT, &[greeting], Progress::Failed(Refusal::Greeting), "", "");
    }
}

#[test]
fn an_endless_answer_ends_the_exchange() {
    let long = "x".repeat(EXCHANGE_MAX + 1);
    let huge = "* OK {999999999}\r\n";
    for (protocol, text) in [(Protocol::Smtp, &*long), (Protocol::Imap, huge), (Protocol::Sieve, "\"A\" {20000}\r\n")] {
        let text = format!("{text}{long}");
        let (progress, sent, seen) = run(protocol, CLIENT, &[&text], |_| 1000);
        assert_eq!((progress, &*sent, &*seen), (Progress::Failed(Refusal::TooLong), "", ""), "{protocol:?}");
    }
    let many = "220-x\r\n".repeat(EXCHANGE_MAX / 7 + 1);
    assert_eq!(run(Protocol::Smtp, CLIENT, &[&many], |_| 7).0, Progress::Failed(Refusal::TooLong));
}

#[test]
fn nothing_is_said_in_band_where_no_command_exists() {
    let none = |forward, protocol| Preface::new(forward, protocol, &facts(CLIENT), "x").is_none();
    assert!(none(Forward::ImapId, Protocol::Pop3) && none(Forward::Xclient, Protocol::Imap));
    assert!(none(Forward::Xclient, Protocol::None) && none(Forward::ProxyV2, Protocol::Imap));
}

#[test]
fn every_line_stays_within_what_smtp_allows() {
    let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
    let mut offered = Offered::default();
    offered.add_line(b"XCLIENT NAME REVERSE_NAME PORT PROTO DESTADDR DESTPORT SESSION TTL CLIENT-TRANSPORT ADDR");
    let told = Client::new(&facts(longest)).told(Protocol::Smtp, &offered);
    assert!(told.len() <= 512 && told.ends_with("ADDR=IPV6:1111:2222:3333:4444:5555:6666:7777:8888\r\n"), "{told}");
}

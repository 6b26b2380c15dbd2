use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const NO_HEADER: &[u8] = b"";

/// What a server does.
#[derive(Clone, Copy)]
enum Server<'a> {
    Says(&'a [u8]),
    Ends(Ending),
    /// So many seconds pass.
    Waits(u64),
}

use Server::{Ends, Says, Waits};

const EOF: Server<'static> = Ends(Ending::Eof);

/// The whole of a check against a script: the verdict, and what was sent. `cut`: the length of the segments.
fn run_cut(
    kind: CheckKind,
    protocol: Protocol,
    header: &[u8],
    script: &[Server<'_>],
    cut: usize,
) -> (Option<Verdict>, Vec<u8>) {
    let start = Instant::now();
    let mut check = Dialogue::new(kind, protocol, header, CheckTimes::default(), start);
    let (mut now, mut sent, mut verdict) = (start, Vec::new(), None);
    let mut take = |step: Step<'_>| {
        sent.extend_from_slice(step.send);
        verdict = verdict.take().or(step.verdict);
        verdict.is_some()
    };
    if take(check.connected(now)) {
        return (verdict, sent);
    }
    for event in script {
        let over = match event {
            Says(bytes) => bytes.chunks(cut).any(|part| take(check.received(part, now))),
            Ends(how) => take(check.ended(*how, now)),
            Waits(seconds) => {
                now += SECOND * *seconds as u32;
                now >= check.deadline() && take(check.expired(now))
            }
        };
        if over {
            break;
        }
    }
    (verdict, sent)
}

/// The finding and the message, which must be the same however the bytes were cut.
fn run(protocol: Protocol, header: &[u8], script: &[Server<'_>]) -> (Finding, String) {
    run_kind(CheckKind::Banner, protocol, header, script)
}

fn run_kind(kind: CheckKind, protocol: Protocol, header: &[u8], script: &[Server<'_>]) -> (Finding, String) {
    let (whole, sent_whole) = run_cut(kind, protocol, header, script, usize::MAX);
    let whole = whole.expect("the script leads to a verdict");
    for cut in 1..60 {
        let (verdict, sent) = run_cut(kind, protocol, header, script, cut);
        let verdict = verdict.expect("a verdict however it is cut");
        assert_eq!((verdict.finding, &verdict.message), (whole.finding, &whole.message), "in parts of {cut}");
        // What was sent may be less when a later part of the same segment decides before it is answered.
        assert!(sent.starts_with(&sent_whole) || sent_whole.starts_with(&sent), "in parts of {cut}");
    }
    (whole.finding, whole.message)
}

const IMAP: &[u8] =
    b"* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN] ready\r\n";
const SIEVE: &[u8] =
    b"\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n\"SIEVE\" \"fileinto reject\"\r\n\"SASL\" \"PLAIN\"\r\n\
                       \"VERSION\" \"1.0\"\r\nOK \"Dovecot ready.\"\r\n";

#[test]
fn good_servers_are_greeted_and_left_politely() {
    type Case<'a> = (Protocol, &'a [u8], &'a [Server<'a>], &'a [u8]);
    let cases: [Case<'_>; 11] = [
        (
            Protocol::Imap,
            LOCAL,
            &[Says(IMAP), Says(b"* BYE Logging out\r\nx OK Logout completed.\r\n"), EOF],
            b"x LOGOUT\r\n",
        ),
        (Protocol::Imap, NO_HEADER, &[Says(b"* PREAUTH go\r\n"), EOF], b"x LOGOUT\r\n"),
        (
            Protocol::Imap,
            LOCAL,
            &[Says(b"* OK Waiting for authentication process to respond..\r\n"), Waits(5), Says(IMAP), EOF],
            b"x LOGOUT\r\n",
        ),
        (Protocol::Pop3, LOCAL, &[Says(b"+OK Dovecot ready.\r\n"), Says(b"+OK Logging out\r\n"), EOF], b"QUIT\r\n"),
        (
            Protocol::Submission,
            LOCAL,
            &[Says(b"220 mx ESMTP\r\n"), Says(b"250 2.0.0 OK\r\n"), Says(b"221 2.0.0 Bye\r\n"), EOF],
            b"NOOP\r\nQUIT\r\n",
        ),
        (
            Protocol::Smtp,
            NO_HEADER,
            &[Says(b"220 mx ESMTP Postfix\r\n"), Says(b"250 Ok\r\n"), Says(b"221 2.0.0 Bye\r\n"), EOF],
            b"NOOP\r\nQUIT\r\n",
        ),
        // Servers that know no NOOP, or none before EHLO, serve all the same.
        (
            Protocol::Smtp,
            NO_HEADER,
            &[Says(b"220 mx\r\n"), Says(b"502 Not implemented\r\n"), Says(b"221 Bye\r\n"), EOF],
            b"NOOP\r\nQUIT\r\n",
        ),
        (
            Protocol::Smtp,
            NO_HEADER,
            &[Says(b"220 mx\r\n"), Says(b"503 EHLO first\r\n"), Says(b"221 Bye\r\n"), EOF],
            b"NOOP\r\nQUIT\r\n",
        ),
        (
            Protocol::Smtp,
            LOCAL,
            &[
                Says(b"220-mx ESMTP\r\n"),
                Waits(6),
                Says(b"220 mx ESMTP\r\n"),
                Says(b"250 Ok\r\n"),
                Says(b"221 Bye\r\n"),
                EOF,
            ],
            b"NOOP\r\nQUIT\r\n",
        ),
        (Protocol::Lmtp, LOCAL, &[Says(b"220 mail Dovecot ready.\r\n"), Says(b"221 2.0.0 Bye\r\n"), EOF], b"QUIT\r\n"),
        (Protocol::Sieve, LOCAL, &[Says(SIEVE), Says(b"OK \"Logout completed.\"\r\n"), EOF], b"LOGOUT\r\n"),
    ];
    for (protocol, header, script, farewell) in cases {
        let (finding, message) = run(protocol, header, script);
        assert_eq!(finding, Finding::Greeted, "{protocol:?}: {message}");
        assert!(message.starts_with("it greets: \""), "{message}");
        let (_, sent) = run_cut(CheckKind::Banner, protocol, header, script, usize::MAX);
        assert_eq!(sent, [header, farewell].concat(), "{protocol:?}");
    }
}

#[test]
fn postscreen_hears_nothing_before_its_last_line() {
    let (verdict, sent) = run_cut(CheckKind::Banner, Protocol::Smtp, LOCAL, &[Says(b"220-mx\r\n"), Waits(6)], 3);
    assert_eq!((verdict, &*sent), (None, LOCAL));
}

#[test]
fn a_farewell_has_an_end() {
    let silent_after = [Says(IMAP), Waits(2)];
    assert_eq!(run(Protocol::Imap, LOCAL, &silent_after).0, Finding::Greeted);
    let endless = vec![b'x'; BYTES_MAX + 2];
    assert_eq!(run(Protocol::Imap, LOCAL, &[Says(IMAP), Says(&endless)]).0, Finding::Greeted);
    assert_eq!(run(Protocol::Imap, LOCAL, &[Says(IMAP), Ends(Ending::Reset)]).0, Finding::Greeted);
    assert_eq!(run(Protocol::Imap, LOCAL, &[Says(&endless)]).0, Finding::OtherProtocol, "nor is a greeting endless");
}

#[test]
fn a_port_that_expects_no_header_is_recognised() {
    let cases: [(Protocol, &[Server<'_>]); 8] = [
        (
            Protocol::Imap,
            &[
                Says(IMAP),
                Says(b"* BAD Error in IMAP command received by server.\r\n* BAD Error\r\n* BYE Too many invalid\r\n"),
                EOF,
            ],
        ),
        (Protocol::Imap, &[Says(IMAP), Says(b"PROXY BAD Error in IMAP command received by server.\r\n")]),
        (Protocol::Pop3, &[Says(b"+OK Dovecot ready.\r\n"), Says(b"-ERR Unknown command.\r\n"), EOF]),
        (
            Protocol::Submission,
            &[
                Says(b"220 mx\r\n"),
                Says(b"500 5.5.1 Unknown command\r\n500 5.5.1 Unknown command\r\n221 2.0.0 Bye\r\n"),
                EOF,
            ],
        ),
        (Protocol::Lmtp, &[Says(b"220 mx\r\n"), Says(b"500 5.5.1 Unknown command\r\n221 2.0.0 Bye\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"554 5.5.0 Error: SMTP protocol synchronization\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"421 mx You talk too soon\r\n"), EOF]),
        (Protocol::Sieve, &[Says(SIEVE), Says(b"NO \"Error in MANAGESIEVE command received by server.\"\r\n"), EOF]),
    ];
    for (protocol, script) in cases {
        let (finding, message) = run(protocol, LOCAL, script);
        assert_eq!(finding, Finding::NoHeaderExpected, "{protocol:?}: {message}");
        assert!(message.contains("does not expect one") && message.contains("haproxy = yes"), "{message}");
    }
    let own_fault = [Says(b"554 5.5.0 Error: SMTP protocol synchronization\r\n")];
    assert_eq!(
        run(Protocol::Smtp, NO_HEADER, &own_fault).0,
        Finding::NotServing,
        "without a header it is something else"
    );
}

#[test]
fn a_port_that_expects_a_header_and_gets_none_is_recognised() {
    let dovecot = run(Protocol::Imap, NO_HEADER, &[Waits(3), EOF]);
    let postfix = run(Protocol::Smtp, NO_HEADER, &[Waits(5), Says(b"421 4.3.0 mx Server local error\r\n"), EOF]);
    let postscreen = run(Protocol::Smtp, NO_HEADER, &[Waits(5), Says(b"421 4.3.2 No system resources\r\n"), EOF]);
    let exim = [
        Waits(3),
        Says(b"220 mx ESMTP Exim 4.98\r\n"),
        Says(b"503 Command refused, required Proxy negotiation failed\r\n"),
    ];
    let exim = run(Protocol::Smtp, NO_HEADER, &exim);
    for (finding, message) in [dovecot, postfix, postscreen, exim] {
        assert_eq!(finding, Finding::HeaderExpected, "{message}");
        assert!(message.contains("`forward = proxy-v2`"), "{message}");
    }
    let (finding, message) = run(Protocol::Imap, NO_HEADER, &[Waits(10)]);
    assert!(finding == Finding::Silent && message.contains("waits for a PROXY header"), "{message}");
}

#[test]
fn a_refused_header_is_recognised() {
    let exim =
        [Says(b"220 mx ESMTP Exim 4.96\r\n"), Says(b"503 Command refused, required Proxy negotiation failed\r\n")];
    let cases: [(Protocol, &[Server<'_>]); 10] = [
        (Protocol::Smtp, &exim),
        // Haraka, and smtp-server, which says so in IMAP's words.
        (Protocol::Smtp, &[Says(b"421 PROXY not allowed from 127.0.0.1\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"220 mx ESMTP Haraka\r\n421 PROXY not allowed from 127.0.0.1\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"421 Invalid PROXY format\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"* BAD Invalid PROXY header\r\n"), EOF]),
        (Protocol::Imap, &[Says(b"* BAD Invalid PROXY header\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"421 4.3.0 mx Server local error\r\n"), EOF]),
        (Protocol::Smtp, &[Says(b"421 4.3.2 No system resources\r\n"), Ends(Ending::Reset)]),
        (Protocol::Imap, &[EOF]),
        (Protocol::Pop3, &[Ends(Ending::Reset)]),
    ];
    for (protocol, script) in cases {
        let (finding, message) = run(protocol, LOCAL, script);
        assert_eq!(finding, Finding::HeaderRefused, "{protocol:?}: {message}");
    }
    assert!(run(Protocol::Imap, LOCAL, &[EOF]).1.contains("haproxy_trusted_networks"));
    assert_eq!(run(Protocol::Smtp, LOCAL, &[Waits(10)]).0, Finding::Silent);
    assert!(!Finding::HeaderRefused.is_decisive(), "a server that is being restarted closes at once, too");
}

#[test]
fn too_many_connections_are_no_reason_to_be_down() {
    let cases: [(Protocol, &[u8]); 5] = [
        (Protocol::Pop3, b"-ERR Connection queue full\r\n"),
        (Protocol::Imap, b"* BYE Connection queue full\r\n"),
        (Protocol::Smtp, b"421 4.7.0 mx Error: too many connections from 198.51.100.99\r\n"),
        (Protocol::Smtp, b"421 4.3.2 All server ports are busy\r\n"),
        (Protocol::Lmtp, b"421 4.3.2 Too many concurrent connections\r\n"),
    ];
    for (protocol, line) in cases {
        assert_eq!(run(protocol, LOCAL, &[Says(line), EOF]).0, Finding::Overloaded, "{protocol:?}");
    }
    let behind_the_greeting: &[u8] = b"220 mx\r\n421 4.7.0 mx Error: too many connections from 198.51.100.99\r\n";
    assert_eq!(run(Protocol::Smtp, LOCAL, &[Says(behind_the_greeting), EOF]).0, Finding::Overloaded);
    assert!(Finding::Overloaded.is_good());
}

#[test]
fn the_kind_of_a_server_is_told_by_its_words() {
    let kind_of = |protocol, header: &[u8], script: &[Server<'_>]| {
        let kinds: Vec<_> = [usize::MAX, 1, 7]
            .map(|cut| run_cut(CheckKind::Banner, protocol, header, script, cut).0.expect("a verdict").kind)
            .into();
        assert!(kinds.iter().all(|&kind| kind == kinds[0]), "{kinds:?}");
        kinds[0]
    };
    let smtp = |lines: &'static [u8]| kind_of(Protocol::Smtp, LOCAL, &[Says(lines), EOF]);
    assert_eq!(kind_of(Protocol::Imap, LOCAL, &[Says(IMAP), EOF]), Some(Target::Dovecot));
    assert_eq!(kind_of(Protocol::Sieve, LOCAL, &[Says(SIEVE), EOF]), Some(Target::Dovecot));
    assert_eq!(kind_of(Protocol::Imap, LOCAL, &[Says(b"* OK IMAP4 ready\r\n"), EOF]), Some(Target::Nginx));
    assert_eq!(kind_of(Protocol::Imap, LOCAL, &[EOF]), None);
    for (lines, kind) in [
        (&b"220 mx ESMTP Postfix (Debian)\r\n"[..], Some(Target::Postfix)),
        (b"220-mx ESMTP Postfix\r\n220 mx ESMTP Postfix\r\n", Some(Target::Postscreen)),
        (b"421 4.3.0 mx Server local error\r\n", Some(Target::Postfix)),
        (b"421 4.3.2 No system resources\r\n", Some(Target::Postscreen)),
        (b"220 mx\r\n503 Command refused, required Proxy negotiation failed\r\n", Some(Target::Exim)),
        (b"220 mx ESMTP Exim 4.98\r\n", Some(Target::Exim)),
        (b"220 mx ESMTP OpenSMTPD\r\n", Some(Target::Opensmtpd)),
        (b"220 mx ESMTP Haraka/3.3.4 ready (B917BB)\r\n", Some(Target::Haraka)),
        (b"* BAD Invalid PROXY header\r\n", Some(Target::SmtpServer)),
        (b"220 mx ESMTP ready\r\n", None),
        (b"421 4.3.0 mx try later\r\n", None),
        (b"220 mx ESMTP\r\n250 OK\r\n221 Bye\r\n", None),
    ] {
        assert_eq!(smtp(lines), kind, "{}", String::from_utf8_lossy(lines));
    }
}

#[test]
fn a_server_that_greets_and_leaves_does_not_serve() {
    // Postscreen, whose smtpd cannot be reached.
    let script = [Says(b"220-mx\r\n"), Waits(6), Says(b"220 mx\r\n421 4.3.2 No system resources\r\n"), EOF];
    for header in [LOCAL, NO_HEADER] {
        assert_eq!(run(Protocol::Smtp, header, &script).0, Finding::NotServing);
    }
    let block_list = [Says(b"554 5.7.1 127.0.0.1 is an open proxy\r\n"), EOF];
    assert_eq!(run(Protocol::Smtp, LOCAL, &block_list).0, Finding::NotServing, "that is another kind of proxy");
}

#[test]
fn other_servers_are_named() {
    let cases: [(Protocol, &[u8], Finding, &str); 9] = [
        (Protocol::Imap, b"* BYE shutting down\r\n", Finding::NotServing, "shutting down"),
        (Protocol::Smtp, b"554 no SMTP service here\r\n", Finding::NotServing, "no SMTP service"),
        (Protocol::Smtp, b"421 4.3.2 Service not available\r\n", Finding::NotServing, "not available"),
        (Protocol::Imap, b"220 mx ESMTP\r\n", Finding::OtherProtocol, "looks like SMTP or LMTP, not imap"),
        (Protocol::Pop3, b"* OK ready\r\n", Finding::OtherProtocol, "looks like IMAP, not pop3"),
        (Protocol::Sieve, b"+OK ready\r\n", Finding::OtherProtocol, "looks like POP3, not sieve"),
        (Protocol::Imap, b"SSH-2.0-OpenSSH_9.2\r\n", Finding::OtherProtocol, "looks like SSH"),
        (Protocol::Imap, b"\x15\x03\x01\x00\x02\x02\x46", Finding::SpeaksTls, "TLS from the first byte"),
        (Protocol::Imap, b"\x15\x03\x01\x00\x02\x02\x0a", Finding::SpeaksTls, "TLS from the first byte"),
    ];
    for (protocol, line, expected, words) in cases {
        let (finding, message) = run(protocol, LOCAL, &[Says(line), EOF]);
        assert_eq!(finding, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(run(Protocol::Smtp, LOCAL, &[Says(b"220-mx"), EOF]).0, Finding::Closed, "half a greeting");
    assert_eq!(run(Protocol::Smtp, LOCAL, &[Says(b"220-mx\r\n"), EOF]).0, Finding::Closed);
    assert_eq!(run(Protocol::Imap, NO_HEADER, &[EOF]).0, Finding::Closed, "at once: no timeout of the server's");
    assert_eq!(run(Protocol::Imap, LOCAL, &[Says(b"* OK"), Waits(10)]).0, Finding::Silent);
    assert_eq!(run(Protocol::Submission, LOCAL, &[Says(b"220 mx\r\n"), EOF]).0, Finding::Closed);
    assert_eq!(run(Protocol::Submission, LOCAL, &[Says(b"220 mx\r\n"), Waits(10)]).0, Finding::Silent);
}

#[test]
fn pong_answers_ping() {
    let ping = |script: &[Server<'_>]| run_kind(CheckKind::Dovecot, Protocol::Imap, LOCAL, script);
    assert_eq!(ping(&[Says(b"PONG\n"), EOF]).0, Finding::Pong);
    assert_eq!(ping(&[Says(b"PONG"), EOF]).0, Finding::Pong);
    assert_eq!(ping(&[Says(b"PONG\r\n"), Waits(2)]).0, Finding::Pong);
    let (finding, message) = ping(&[Says(IMAP)]);
    assert!(finding == Finding::OtherProtocol && message.contains("looks like IMAP, not PONG"), "{message}");
    assert_eq!((ping(&[EOF]).0, ping(&[Waits(10)]).0), (Finding::Closed, Finding::Silent));
    let (_, sent) = run_cut(CheckKind::Dovecot, Protocol::Imap, LOCAL, &[Says(b"PONG\n"), EOF], 1);
    assert_eq!(sent, b"PING\n");
}

#[test]
fn a_connection_is_enough_where_nothing_can_be_asked() {
    let sends = |kind, protocol| run_cut(kind, protocol, LOCAL, &[], 1);
    let (verdict, sent) = sends(CheckKind::Connect, Protocol::Imap);
    assert_eq!((verdict.map(|verdict| verdict.finding), sent.len()), (Some(Finding::Connected), 0));
    let (verdict, sent) = sends(CheckKind::Banner, Protocol::None);
    assert_eq!((verdict.map(|verdict| verdict.finding), &*sent), (Some(Finding::Connected), LOCAL));
}

#[test]
fn a_connect_has_its_own_deadline() {
    let start = Instant::now();
    let mut check = Dialogue::new(CheckKind::Banner, Protocol::Imap, LOCAL, CheckTimes::default(), start);
    assert_eq!(check.deadline(), start + 5 * SECOND);
    let late = start + 5 * SECOND;
    let verdict = check.expired(late).verdict.expect("it is over");
    assert_eq!((verdict.finding, verdict.took), (Finding::Unreachable, 5 * SECOND));
    assert_eq!(check.received(b"late", late), Step::default(), "and it stays so");
    assert_eq!(check.expired(late), Step::default());
    assert_eq!(check.ended(Ending::Eof, late), Step::default());
}

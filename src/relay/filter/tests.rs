use super::*;

mod naive;
mod server;

use server::{Server, Taste};

/// A filter between a client that says all of `client` at once and a server; both directions are cut by `cut`.
struct Between {
    filter: Filter,
    server: Server,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
}

impl Between {
    fn new(protocol: Protocol, taste: Taste) -> Between {
        Between {
            filter: Filter::new(protocol),
            server: Server::new(protocol, taste),
            to_server: Vec::new(),
            to_client: Vec::new(),
        }
    }

    fn run(mut self, client: &[u8], cut: &mut dyn FnMut(usize) -> usize) -> Result<Between, Failure> {
        let mut answers = self.server.greeting();
        let mut rest = client;
        while !rest.is_empty() || !answers.is_empty() {
            let mut forward = Vec::new();
            // The client is as quick as the server: whose turn it is depends on where things are cut.
            let clients_turn = answers.is_empty() || (!rest.is_empty() && cut(2) == 1);
            if clients_turn {
                let (now, later) = rest.split_at(cut(rest.len()).clamp(1, rest.len()));
                rest = later;
                self.filter.client(now, &mut forward)?;
            } else {
                let now: Vec<u8> = answers.drain(..cut(answers.len()).clamp(1, answers.len())).collect();
                self.filter.server(&now, &mut self.to_client, &mut forward)?;
            }
            answers.extend(self.server.feed(&forward));
            self.to_server.extend(forward);
        }
        Ok(self)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the server got and the client saw, the same at every split.
fn check(protocol: Protocol, taste: Taste, client: &str, to_server: &str, to_client: &str) {
    for size in 1..=client.len().max(2) {
        for offset in 0..2 {
            let mut first = true;
            let mut cut = |left: usize| {
                let size = if std::mem::take(&mut first) { size + offset } else { size };
                size.min(left)
            };
            let ended = Between::new(protocol, taste).run(client.as_bytes(), &mut cut).expect("it can be decided");
            assert_eq!(text(&ended.to_server), to_server, "pieces of {size}");
            assert_eq!(text(&ended.to_client), to_client, "pieces of {size}");
        }
    }
}

fn passes(protocol: Protocol, client: &str, to_server: &str) {
    let run = |size: usize| {
        Between::new(protocol, Taste::default()).run(client.as_bytes(), &mut |left| left.min(size)).expect("decided")
    };
    for size in 1..=client.len().max(2) {
        assert_eq!(text(&run(size).to_server), to_server, "pieces of {size}");
    }
}

#[test]
fn smtp_shows_no_xclient_and_lets_none_pass() {
    check(
        Protocol::Smtp,
        Taste::default(),
        "EHLO c\r\nXCLIENT ADDR=192.0.2.66\r\n xclient ADDR=192.0.2.66\nxForward NAME=x\r\nSTARTTLS\r\nQUIT\r\n",
        "EHLO c\r\nXREFUSED\r\nXREFUSED\r\nXREFUSED\r\nXREFUSED\r\nQUIT\r\n",
        "220 mx\r\n250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 AUTH PLAIN\r\n500 unknown\r\n500 unknown\r\n\
         500 unknown\r\n500 unknown\r\n221 bye\r\n",
    );
}

#[test]
fn mail_passes_byte_for_byte() {
    let client = "EHLO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\nSubject: x\r\n\r\n..\r\n.x\r\nXCLIENT ADDR=1\r\n\
                  STARTTLS\r\n.\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nBDAT 19\r\nXCLIENT ADDR=1\r\n.\r\nBDAT 0 LAST\r\nQUIT\r\n";
    passes(Protocol::Smtp, client, client);
    let lmtp = client.replace("EHLO", "LHLO").replace("RCPT TO:<b>\r\n", "RCPT TO:<b>\r\nRCPT TO:<c>\r\n");
    passes(Protocol::Lmtp, &lmtp, &lmtp);
}

#[test]
fn content_behind_a_refused_data_is_read_as_commands() {
    passes(
        Protocol::Smtp,
        "EHLO c\r\nDATA\r\nXCLIENT ADDR=1\r\n.\r\nQUIT\r\n",
        "EHLO c\r\nDATA\r\nXREFUSED\r\nXREFUSED\r\nQUIT\r\n",
    );
}

#[test]
fn a_message_ends_only_at_its_own_dot() {
    let start = "EHLO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n";
    let contents = [
        ("a\n.\nXCLIENT ADDR=1\n.\r\nb", "a\r\n..\r\nXCLIENT ADDR=1\r\n..\r\nb"),
        ("a\r\n.\nXCLIENT x", "a\r\n..\r\nXCLIENT x"),
        ("a\r.\rXCLIENT x", "a\r..\rXCLIENT x"),
        ("a\r\n.\r\r\nXCLIENT x", "a\r\n..\r\r\nXCLIENT x"),
        ("a\r\n.\r.\r\nb", "a\r\n..\r..\r\nb"),
        ("a\r\n.\0\r\nXCLIENT x", "a\r\n..\0\r\nXCLIENT x"),
        (".\nXCLIENT x", "..\r\nXCLIENT x"),
    ];
    for (content, becomes) in contents {
        let end = "\r\n.\r\nQUIT\r\n";
        passes(Protocol::Smtp, &format!("{start}{content}{end}"), &format!("{start}{becomes}{end}"));
    }
}

#[test]
fn chunks_pass_only_where_the_server_takes_them() {
    let chunk = "BDAT 18 LAST\r\nXCLIENT ADDR=1.1\r\nQUIT\r\n";
    // Nobody has said EHLO, there is no recipient, the length is none.
    passes(Protocol::Smtp, chunk, "XREFUSED\r\nQUIT\r\n");
    passes(Protocol::Smtp, &format!("EHLO c\r\n{chunk}"), "EHLO c\r\nXREFUSED\r\nQUIT\r\n");
    let start = "EHLO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\n";
    passes(Protocol::Smtp, &format!("{start}{chunk}"), &format!("{start}{chunk}"));
    // A message comes by DATA or in chunks.
    let mixed = format!("{start}BDAT 2\r\nx\nDATA\r\nRSET\r\n");
    passes(Protocol::Smtp, &mixed, &mixed.replace("DATA", "XREFUSED"));
    passes(Protocol::Smtp, &format!("{start}BDAT x\r\nSTARTTLS\r\n"), &format!("{start}XREFUSED\r\nXREFUSED\r\n"));
    let taste = Taste { chunking: false, ..Taste::default() };
    let client = format!("{start}{chunk}");
    let ended = Between::new(Protocol::Smtp, taste).run(client.as_bytes(), &mut |left| left).expect("decided");
    assert_eq!(text(&ended.to_server), format!("{start}XREFUSED\r\nQUIT\r\n"));
}

#[test]
fn lines_that_servers_might_read_in_two_ways_do_not_pass() {
    for line in ["NOOP\rXCLIENT ADDR=1", "NOOP\0", "\tNOOP", "NOOP\tx", "\"NOOP\"", "", "NOOP \x0b"] {
        let expected = "XREFUSED\r\n";
        passes(Protocol::Smtp, &format!("{line}\r\n"), expected);
    }
    passes(Protocol::Smtp, "NOOP\nRSET\n", "NOOP\r\nRSET\r\n");
    let long = format!("NOOP {}XCLIENT ADDR=1\r\n", "x".repeat(COMMAND_MAX));
    let ended = Between::new(Protocol::Smtp, Taste::default()).run(long.as_bytes(), &mut |left| left).expect("decided");
    assert_eq!(text(&ended.to_server), "XREFUSED\r\n");
}

#[test]
fn an_auth_exchange_carries_base64_and_nothing_else() {
    passes(Protocol::Smtp, "AUTH PLAIN\r\nQUJD=\r\nNOOP\r\n", "AUTH PLAIN\r\nQUJD=\r\nNOOP\r\n");
    passes(Protocol::Smtp, "AUTH PLAIN\r\nXCLIENT ADDR=1\r\nNOOP\r\n", "AUTH PLAIN\r\n*\r\nNOOP\r\n");
    // A mechanism that the server does not know: what follows is no answer to a challenge.
    passes(Protocol::Smtp, "AUTH FOO\r\nSTARTTLS\r\n", "AUTH FOO\r\nXREFUSED\r\n");
    passes(Protocol::Smtp, "AUTH PLAIN a b\r\nAUTH PLAIN a=\r\n", "XREFUSED\r\nAUTH PLAIN a=\r\n");
}

#[test]
fn pop3_is_filtered_until_the_login() {
    check(
        Protocol::Pop3,
        Taste::default(),
        "CAPA\r\nSTLS\r\nXOIP 1.2.3.4\r\nAUTH\r\nxclient ADDR=1\r\nUSER u\r\nPASS bad\r\nXCLIENT x\r\nPASS pw\r\nXCLIENT y\r\nRETR 1\n",
        "CAPA\r\nXREFUSED\r\nXREFUSED\r\nAUTH\r\nXREFUSED\r\nUSER u\r\nPASS bad\r\nXREFUSED\r\nPASS pw\r\nXCLIENT y\r\nRETR 1\n",
        "+OK ready\r\n+OK\r\nUIDL\r\n.\r\n-ERR\r\n-ERR\r\n+OK\r\nPLAIN\r\n.\r\n-ERR\r\n+OK\r\n-ERR\r\n-ERR\r\n+OK Logged in.\r\n",
    );
    passes(
        Protocol::Pop3,
        "AUTH PLAIN\r\nSTLS\r\nAUTH PLAIN\r\nAGEAYg==\r\nSTLS\r\n",
        "AUTH PLAIN\r\nSTLS\r\nAUTH PLAIN\r\nAGEAYg==\r\nSTLS\r\n",
    );
}

#[test]
fn managesieve_is_filtered_until_the_login() {
    check(
        Protocol::Sieve,
        Taste::default(),
        "CAPABILITY\r\nSTARTTLS\r\nNOOP \"x {3+}\"\r\nNOOP {8+}\r\nSTARTTLS\r\nXCLIENT ADDR=1\r\nNOOP {19+}\r\nx\r\nXCLIENT ADDR=1\r\n\r\n\
         AUTHENTICATE \"PLAIN\" {4+}\r\nAAAA\r\nXCLIENT z\r\n",
        "CAPABILITY\r\nXREFUSED\r\nNOOP \"x {3+}\"\r\nNOOP \"STARTTLS\"\r\nXREFUSED\r\nXREFUSED\r\n\
         AUTHENTICATE \"PLAIN\" \"AAAA\"\r\nXCLIENT z\r\n",
        "\"SASL\" \"PLAIN\"\r\nOK \"ready\"\r\n\"SASL\" \"PLAIN\"\r\nOK\r\nNO\r\nOK\r\nOK\r\nNO\r\nNO\r\nOK \"Logged in.\"\r\n",
    );
}

#[test]
fn what_cannot_be_decided_ends_the_session() {
    let mut out = Vec::new();
    let mut filter = Filter::new(Protocol::Smtp);
    filter.server(b"220 x\r\n", &mut out, &mut Vec::new()).expect("a greeting");
    for _ in 0..CLIENT_LINE_MAX {
        filter.client(b"x", &mut out).expect("it may still end");
    }
    assert_eq!(filter.client(b"x", &mut out), Err(Failure::ClientLine));
    let mut filter = Filter::new(Protocol::Smtp);
    filter.client(&vec![b'\n'; HELD_MAX], &mut out).expect("it is held until the greeting");
    assert!(!filter.wants_client());
    assert_eq!(filter.client(b"x", &mut out), Err(Failure::Held));
    let mut filter = Filter::new(Protocol::Smtp);
    assert_eq!(filter.server(&vec![b'2'; SERVER_LINE_MAX + 2], &mut out, &mut Vec::new()), Err(Failure::ServerLine));
    let mut filter = Filter::new(Protocol::Smtp);
    assert_eq!(filter.server(b"220 x\r\n354 go\r\n", &mut out, &mut Vec::new()), Err(Failure::Reply));
    let mut filter = Filter::new(Protocol::Sieve);
    assert_eq!(filter.server(b"\"A\" {99999}\r\n", &mut out, &mut Vec::new()), Err(Failure::ServerLine));
}

#[test]
fn an_idle_filter_holds_no_memory() {
    let mut filter = Filter::new(Protocol::Lmtp);
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    filter.client(b"LHLO x\r\nNO", &mut to_server).expect("held");
    filter.server(b"220 x\r\n250 x\r\n", &mut to_client, &mut to_server).expect("answers");
    filter.client(b"OP\r\n", &mut to_server).expect("passes");
    assert_eq!((filter.held.capacity(), filter.partial.capacity(), filter.wants_client()), (0, 0, true));
}

/// Random sessions from a grammar of good, forbidden and strange lines.
#[test]
fn random_sessions_agree_with_the_naive_filter_and_smuggle_nothing() {
    let rounds = std::env::var("VESTIBULE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let protocols = [Protocol::Smtp, Protocol::Lmtp, Protocol::Submission, Protocol::Pop3, Protocol::Sieve];
        let protocol = protocols[random.usize(..protocols.len())];
        let taste = Taste::random(&mut random);
        let client = session(protocol, &mut random);
        let most = [1, 3, 20, 5000][random.usize(..4)];
        let ended = Between::new(protocol, taste).run(&client, &mut |left| random.usize(1..=most.min(left.max(1))));
        let ended = ended.unwrap_or_else(|failure| panic!("seed {seed}: {failure}\n{:?}", text(&client)));
        let (to_server, to_client, _) = naive::filter(protocol, taste, &client);
        let said = || format!("seed {seed}, {protocol:?}, {taste:?}, client {:?}", text(&client));
        assert_eq!(text(&ended.to_server), text(&to_server), "{}", said());
        assert_eq!(text(&ended.to_client), text(&to_client), "{}", said());
        assert_eq!(ended.server.forbidden, 0, "{}, server got {:?}", said(), text(&to_server));
    }
}

const STRANGE: [&str; 18] = [
    "XCLIENT ADDR=192.0.2.66",
    " xclient ADDR=192.0.2.66",
    "XFORWARD NAME=x",
    "StartTLS",
    "STLS",
    "XOIP 192.0.2.66",
    "NOOP\rXCLIENT ADDR=1",
    "NOOP\0XCLIENT ADDR=1",
    "\0STARTTLS",
    "",
    ".",
    "..",
    ".\rSTLS\r.",
    "garbage \u{fc}",
    "\"XCLIENT\" ADDR=1",
    "\tSTLS",
    "a {5+}",
    "\\\" {3}",
];

fn session(protocol: Protocol, random: &mut fastrand::Rng) -> Vec<u8> {
    let good: &[&str] = match protocol {
        Protocol::Pop3 => &["CAPA", "USER u", "PASS bad", "PASS pw", "AUTH", "AUTH PLAIN", "AUTH FOO", "AGEAYg==", "*"],
        Protocol::Sieve => &[
            "CAPABILITY",
            "NOOP \"x\"",
            "NOOP {8+}\r\nSTARTTLS",
            "AUTHENTICATE \"PLAIN\"",
            "AUTHENTICATE \"FOO\"",
            "NOOP {21+}\r\nx\r\nXCLIENT ADDR=1\r\n\r\n",
            "NOOP \"a\\\"{3+}\"",
            "AUTHENTICATE \"PLAIN\" {4+}\r\nAAAA",
            "\"QUJD\"",
            "{4+}\r\nQUJD",
            "\"*\"",
            "NOOP \"STLS",
            "NOOP {4}\r\nSTLS",
            "\"x\" {2+}\r\n\r\n",
        ],
        _ => &[
            "EHLO c",
            "LHLO c",
            "HELO c",
            "MAIL FROM:<a>",
            "RCPT TO:<b>",
            "RCPT TO:<c>",
            "DATA",
            "DATA",
            "RSET",
            "NOOP",
            "MAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA",
            "EHLO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>",
            "BDAT 9\r\nSTARTTLS\n",
            "BDAT 11 LAST\r\nXCLIENT A=1",
            "BDAT 0 LAST",
            "BDAT x",
            "AUTH PLAIN",
            "AUTH FOO",
            "QUJD",
            "*",
            "VRFY x",
        ],
    };
    let mut client = Vec::new();
    for _ in 0..random.usize(1..25) {
        let line =
            if random.u8(..3) == 0 { STRANGE[random.usize(..STRANGE.len())] } else { good[random.usize(..good.len())] };
        client.extend_from_slice(line.as_bytes());
        client.extend_from_slice([&b"\r\n"[..], b"\r\n", b"\r\n", b"\n", b"\r\r\n", b"\r\n.\r\n"][random.usize(..6)]);
    }
    client.extend_from_slice(b"\r\n.\r\n");
    client
}

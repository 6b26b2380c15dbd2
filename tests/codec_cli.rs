//! `vestibule decode` and `vestibule encode`, run as an operator runs them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::header::vectors;
use crate::support::header::hex;
use crate::support::mutate::{self, Random};

/// Runs the program with `input` on its standard input.
fn vestibule(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vestibule"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input))); // it may stop reading early
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("the writer does not panic");
    output
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("the program speaks UTF-8")
}

/// The only line printed, as JSON.
fn json(output: &Output) -> Value {
    serde_json::from_str(text(&output.stdout)).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn decode_prints_every_vector_as_written_down() {
    let decode = |limit: &str, maps: &[&str]| {
        let rules_of = |vector: &crate::header::Vector| {
            let rules = vector.rules;
            let given = [(rules.v4_in_tcp6, "--v4-in-tcp6"), (rules.v6_in_tcp4, "--v6-in-tcp4")];
            let maps: Vec<&str> = given.into_iter().filter(|(set, _)| *set).map(|(_, option)| option).collect();
            (rules.header_limit.to_string(), maps)
        };
        let chosen: Vec<_> =
            vectors().into_iter().filter(|vector| rules_of(vector) == (limit.to_string(), maps.to_vec())).collect();
        let lines: String = chosen.iter().map(|vector| digits(&vector.bytes) + "\n").collect();
        let mut arguments = vec!["decode", "--hex", "--header-limit", limit];
        arguments.extend(maps);
        let output = vestibule(&arguments, lines.as_bytes());
        let said: Vec<Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(said.len(), chosen.len(), "{}", text(&output.stderr));
        for (vector, said) in chosen.iter().zip(said) {
            assert_eq!(said, vector.expected, "{}", vector.name);
        }
        let all_complete = chosen.iter().all(|vector| vector.expected["verdict"] == "complete");
        assert_eq!(output.status.code(), Some(if all_complete { 0 } else { 1 }), "limit {limit}");
        chosen.len()
    };
    let decoded = ["232", "272", "4096", "65551"].map(|limit| decode(limit, &[])).iter().sum::<usize>();
    let mapped = decode("4096", &["--v4-in-tcp6"]) + decode("4096", &["--v6-in-tcp4"]);
    assert_eq!(decoded + mapped, vectors().len());
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn decode_prints_the_fields_in_their_order() {
    let output = vestibule(&["decode"], b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\nrest");
    let expected = concat!(
        r#"{"verdict":"complete","length":44,"reason":null,"version":"v1","command":"PROXY","family":"INET","#,
        r#""transport":"STREAM","source":"198.51.100.7:5000","destination":"192.0.2.1:143","tlvs":[]}"#,
        "\n"
    );
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
    let output = vestibule(&["decode"], b"EHLO a\r\n");
    assert_eq!(text(&output.stdout), "{\"verdict\":\"absent\",\"length\":1,\"reason\":\"absent\"}\n");
    assert_eq!(output.status.code(), Some(1));
    let output = vestibule(&["decode"], b"");
    assert_eq!(text(&output.stdout), "{\"verdict\":\"incomplete\",\"length\":0,\"reason\":null}\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn decode_names_the_place_of_a_digit_that_is_none() {
    let output = vestibule(&["decode", "--hex"], b"50524f58592\x20\x30\n0d0g\n");
    assert_eq!(text(&output.stderr), "vestibule: line 2, column 4: 'g' is no hexadecimal digit\n");
    assert_eq!(text(&output.stdout), "{\"verdict\":\"incomplete\",\"length\":6,\"reason\":null}\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn decode_takes_the_longest_header_from_standard_input() {
    let vector = vectors().into_iter().find(|vector| vector.name == "v2-65551-bytes").expect("a vector");
    let mut input = vector.bytes.clone();
    input.resize(200_000, b'x');
    let output = vestibule(&["decode", "--header-limit", "65551"], &input);
    assert_eq!(json(&output), vector.expected);
}

#[test]
fn explain_shows_every_field_and_the_verdict() {
    let vector = vectors().into_iter().find(|vector| vector.name == "verified-common-name").expect("a vector");
    let output = vestibule(&["decode", "--explain"], &[&vector.bytes[..], b"a NOOP\r\n"].concat());
    let said = text(&output.stdout);
    for line in [
        " 13  21                                   ver_cmd           version 2, command PROXY: on behalf of a client",
        " 14  11                                   family            INET, transport STREAM",
        "15-16  00 2d                                length            45 bytes follow: the header has 61",
        "17-20  cb 00 71 09                          source            203.0.113.9",
        "27-28  03 e1                                destination port  993",
        "29-31  20 00 17                             TLV               SSL (0x20), 23 bytes",
        " 32  07                                     client          SSL, CERT_CONN, CERT_SESS",
        "47-49  22 00 05                               sub-TLV         CN (0x22), 5 bytes",
        "58-61  f5 3b bf eb                            value           matches the header",
        "62-69  61 20 4e 4f 4f 50 0d 0a              payload           a\\x20NOOP\\x0d\\x0a",
        "complete: a header of 61 bytes",
    ] {
        assert!(said.lines().any(|said| said.ends_with(line)), "{line:?} is not in:\n{said}");
    }
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn explain_says_what_came_instead_of_a_header() {
    for (input, code) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "tls-client-hello"),
        (b"GET / HTTP/1.1\r\n", "http"),
        (b"EHLO client.example\r\n", "smtp"),
        (b"a1 LOGIN bob secret\r\n", "imap"),
        (b"USER bob\r\n", "pop3"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "ssh"),
        (b"XCLIENT ADDR=198.51.100.7\r\n", "xclient"),
        (b"\0\0\0\0", "unrecognised"),
    ] {
        let output = vestibule(&["decode", "--explain"], input);
        let said = text(&output.stdout);
        assert!(said.starts_with("absent at byte 1: "), "{said}");
        assert!(said.lines().nth(1).is_some_and(|line| line.starts_with(&format!("{code}: "))), "{code}: {said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn explain_shows_a_line_end_only_where_there_is_one() {
    for (input, end) in [
        (&b"PROXY UNKNOWN\r\n"[..], Some(("14-15", "0d 0a", "CRLF"))),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", None),
        (b"PROXY UNKNOWN", None),
        (b"PROXY UNKNOWN\r", Some(("14", "0d", "(cut: 1 of 2 bytes)"))),
        (b"PROXY UNKNOWN\n", Some(("14", "0a", "LF alone: a line ends with CRLF"))),
    ] {
        let output = vestibule(&["decode", "--explain"], input);
        let said = text(&output.stdout);
        let line = said.lines().find(|line| line.contains("line end ")).map(|line| line.trim().to_owned());
        let end = end.map(|(place, bytes, meaning)| format!("{place}  {bytes:<35}  {:<16}  {meaning}", "line end"));
        assert_eq!(line, end, "{said}");
    }
}

#[test]
fn explain_names_a_sender_and_says_when_a_field_says_nothing() {
    let swaks = vestibule(&["decode", "--hex", "--explain"], b"0d:0a:0d:0a:00:0d:0a:51:55:49:54:0a:22:00:00:00\n");
    assert!(text(&swaks.stdout).contains("\nswaks-local: swaks sends 22 00 00"), "{}", text(&swaks.stdout));
    let ssl = |client: &str| {
        format!("0d0a0d0a000d0a515549540a 2111 0014 c6336407c00002011388008f 200005 {client} 00000000\n")
    };
    for (client, said) in [
        ("00", "says nothing: the client did not come over TLS"),
        ("01", "0: says nothing, the client presented no certificate"),
        ("03", "0: the client's certificate was verified"),
    ] {
        let output = vestibule(&["decode", "--hex", "--explain"], ssl(client).as_bytes());
        assert!(text(&output.stdout).contains(said), "{said}: {}", text(&output.stdout));
    }
}

#[test]
fn hex_takes_the_forms_in_which_bytes_are_pasted() {
    let forms = "50:52:4f:58:59:20:55:4e:4b:4e:4f:57:4e:0d:0a\n\
                 \\x50\\x52\\x4f\\x58\\x59\\x20\\x55\\x4e\\x4b\\x4e\\x4f\\x57\\x4e\\x0d\\x0a\n\
                 PROXY UNKNOWN\\r\\n\n\
                 haproxy: Client disconnected (rip=192.0.2.1): bytes=15 first=PROXY\\x20UNKNOWN\\x0d\\x0a diagnosis=x\n";
    let output = vestibule(&["decode", "--hex"], forms.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let verdicts = text(&output.stdout).matches("{\"verdict\":\"complete\",\"length\":15,").count();
    assert_eq!(verdicts, 4, "{}", text(&output.stdout));
}

#[test]
fn explain_warns_of_a_second_header() {
    let twice = b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".repeat(2);
    let output = vestibule(&["decode", "--explain"], &twice);
    assert!(text(&output.stdout).contains("\nheader-twice: two hops add a header: "), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn explain_has_a_verdict_for_every_vector_at_every_split_and_for_what_is_nearly_one() {
    let short: Vec<Vec<u8>> =
        vectors().into_iter().map(|vector| vector.bytes).filter(|bytes| bytes.len() <= 64).collect();
    let splits = short.iter().flat_map(|bytes| (0..=bytes.len()).map(move |split| bytes[..split].to_vec()));
    let mut random = Random::new(11);
    let mutated = (0..5000).map(|_| mutate::input(&mut random, &short));
    let lines: String = splits.chain(mutated).map(|bytes| digits(&bytes) + "\n").collect();
    let output = vestibule(&["decode", "--hex", "--explain"], lines.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let verdicts = ["complete", "incomplete", "absent", "invalid"];
    let said = text(&output.stdout);
    let judged = said.split("\n\n").filter(|dump| {
        let last = dump.lines().rev().find(|line| verdicts.iter().any(|verdict| line.starts_with(verdict)));
        last.is_some()
    });
    assert_eq!(judged.count(), lines.lines().count());
}

#[test]
fn what_encode_makes_decode_reads() {
    let addresses = ["--source", "[2001:db8::7]:5000", "--destination", "192.0.2.1:143"];
    let with = |more: &[&'static str]| [&["encode"], &addresses[..], more].concat();
    for (arguments, expected) in [
        (with(&["--v1"]), serde_json::json!({"version": "v1", "family": "INET6", "length": 50, "tlvs": []})),
        (with(&["--v2"]), serde_json::json!({"version": "v2", "family": "INET6", "length": 52, "tlvs": []})),
        (
            with(&["--tlv", "0xe0=ff", "--tlv", "1=696d6170"]),
            serde_json::json!({
                "length": 63,
                "tlvs": [{"type": 1, "value": "696d6170"}, {"type": 0xe0, "value": "ff"}]
            }),
        ),
        (vec!["encode", "--local"], serde_json::json!({"command": "LOCAL", "length": 16, "source": null})),
    ] {
        let made = vestibule(&arguments, b"");
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
        let said = json(&vestibule(&["decode"], &made.stdout));
        assert_eq!(said["verdict"], "complete", "{arguments:?}: {said}");
        if arguments.contains(&"--source") {
            assert_eq!(said["source"], "[2001:db8::7]:5000");
            assert_eq!(said["destination"], "[::ffff:192.0.2.1]:143");
        }
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&said[key], value, "{key} of {said}");
        }
    }
}

#[test]
fn encode_writes_the_bytes_of_known_vectors() {
    let swaks = ["encode", "--v2", "--source", "203.0.113.9:41000", "--destination", "192.0.2.1:25", "--hex"];
    assert_eq!(text(&vestibule(&swaks, b"").stdout), "0d0a0d0a000d0a515549540a2111000ccb007109c0000201a0280019\n");
    let inet6 = ["encode", "--source", "[2001:db8::7]:40000", "--destination", "[2001:db8:1::1]:993", "--crc32c"];
    let vector = vectors().into_iter().find(|vector| vector.name == "inet6-checksum").expect("a vector");
    assert_eq!(vestibule(&inet6, b"").stdout, vector.bytes);
    let check = hex("0d0a0d0a000d0a515549540a20000000");
    assert_eq!(vestibule(&["encode", "--v2", "--local"], b"").stdout, check);
    assert_eq!(vestibule(&[&swaks[..6], &["--local"]].concat(), b"").stdout, check);
    let line = ["encode", "--v1", "--source", "192.168.0.1:56324", "--destination", "192.168.0.11:443"];
    assert_eq!(text(&vestibule(&line, b"").stdout), "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
}

#[test]
fn encode_refuses_with_cause_and_remedy() {
    let addresses = ["encode", "--source", "198.51.100.7:5000", "--destination", "192.0.2.1:143"];
    for (more, status, message) in [
        (&["--v1", "--local"][..], 2, "cannot be used with"),
        (&["--v1", "--crc32c"], 2, "cannot be used with"),
        (&["--tlv", "0x100=00"], 2, "the type is a number from 0x00 to 0xff"),
        (&["--tlv", "0x01"], 2, "write the type, `=`, and the value, such as 0x01=696d6170"),
        (&["--tlv", "0x01=0"], 2, "an odd number of hexadecimal digits"),
        (&["--tlv", "0x03=00000000"], 1, "a CRC32C TLV cannot be given, only asked for"),
        (&["--tlv", "0x02=61", "--tlv", "0x02=62"], 1, "no receiver should accept these TLVs"),
    ] {
        let output = vestibule(&[&addresses, more].concat(), b"");
        assert_eq!(output.status.code(), Some(status), "{more:?}");
        assert!(text(&output.stderr).contains(message), "{more:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    let output = vestibule(&["encode", "--source", "2001:db8::7", "--destination", "192.0.2.1:143"], b"");
    assert!(text(&output.stderr).contains("[2001:db8::7]:5000 for IPv6"), "{}", text(&output.stderr));
}

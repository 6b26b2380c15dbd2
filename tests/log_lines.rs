//! The log tells each fault once, where it happens, with its remedy: for every listener by itself, and for senders that are
//! known to go wrong.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::needs;
use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::daemon::{Daemon, counted, haproxy_configuration};
use crate::support::header::{self, SIGNATURE, hex};
use crate::support::peers::haproxy;
use crate::support::process::run;
use crate::support::{PATIENCE, free_port, wait_until};

/// Two listeners of one service, `quiet` and `noisy`.
fn two_listeners(globals: &str) -> (Daemon, u16, u16) {
    let (quiet, noisy) = (free_port(), free_port());
    let listener = |name: &str, port: u16| {
        format!(" inet_listener {name} {{\n address = 127.0.0.1\n port = {port}\n haproxy = yes\n }}\n")
    };
    let listeners = listener("quiet", quiet) + &listener("noisy", noisy);
    let text = format!("haproxy_trusted_networks = 127.0.0.0/29\n{globals}\nservice imap-login {{\n{listeners}}}\n");
    (Daemon::start(&text, &[quiet, noisy]), quiet, noisy)
}

fn send(port: u16, bytes: &[u8]) {
    Client::send_to(loopback(port), bytes).read_to_end();
}

fn v2(rest: &str) -> Vec<u8> {
    [&SIGNATURE[..], &hex(rest)].concat()
}

#[test]
fn lines_of_json_have_a_name_for_every_value() {
    let (daemon, quiet, _) = two_listeners("log_format = json");
    send(quiet, b"GET / \"x\": {\r\n\r\n");
    daemon.wait_for_output("diagnosis=http");
    let log = daemon.stop();
    let objects: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for object in &objects {
        for name in ["time", "level", "service", "message"] {
            assert!(object[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {object}");
        }
    }
    let refused = objects.iter().find(|object| object["reason"] == "absent").unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&refused["level"], &refused["service"]), (&"error".into(), &"imap-login".into()), "{refused}");
    assert_eq!((&refused["rip"], &refused["diagnosis"]), (&"127.0.0.1".into(), &"http".into()), "{refused}");
    assert!(refused["bytes"].is_u64() && refused["first"].is_string() && refused["peer"].is_string(), "{refused}");
    let drained =
        objects.iter().any(|object| object["message"].as_str().is_some_and(|text| text.starts_with("draining")));
    assert!(drained, "{log}");
}

#[test]
fn a_noisy_listener_does_not_hide_another_nor_one_diagnosis_the_next() {
    const NOISE: u64 = 300;
    let (daemon, quiet, noisy) = two_listeners("haproxy_timeout = 60 secs");
    for _ in 0..NOISE {
        send(noisy, b"GET / HTTP/1.0\r\n\r\n");
    }
    send(noisy, b"EHLO mail.test\r\n");
    send(quiet, b"GET / HTTP/1.0\r\n\r\n");
    send(quiet, b"GET / HTTP/1.0\r\n\r\n");
    let log = daemon.stop();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("diagnosis=http ("), 2, "one for each listener:\n{log}");
    assert_eq!(lines("diagnosis=smtp ("), 1, "{log}");
    let more =
        format!("{} more like this suppressed (rip=127.0.0.1): reason=absent listener=noisy diagnosis=http", NOISE - 1);
    assert_eq!(lines(&more), 1, "{log}");
    assert_eq!(
        lines(" 1 more like this suppressed (rip=127.0.0.1): reason=absent listener=quiet diagnosis=http"),
        1,
        "{log}"
    );
    assert_eq!(counted(&log, "absent"), Some(NOISE + 3), "{log}");
    for (count, listener) in [(NOISE + 1, "noisy"), (2, "quiet")] {
        let row = format!("absent {count:>30} imap-login/{listener}");
        assert!(log.lines().any(|line| line == row), "{row:?} is not in:\n{log}");
    }
}

#[test]
fn a_header_is_asked_for_although_the_peer_checked_the_port_before() {
    let (daemon, listener) = Daemon::haproxy("haproxy_timeout = 60 secs", "defer_accept = no");
    let stranger = address("127.0.0.9:0").ip();
    drop(Client::connect(stranger, listener));
    daemon.wait_for_output("Client not trusted (rip=127.0.0.9): reason=untrusted");
    // The bytes must have come when the connection is looked at: tried until they have.
    let seen = wait_until(PATIENCE, || {
        let client = Client::connect(stranger, listener);
        let _ = client.send(&header::local());
        client.read_to_end();
        daemon.output().contains("diagnosis=header-from-untrusted")
    });
    assert!(seen, "{}", daemon.output());
}

#[test]
fn every_connection_gets_a_line_where_that_is_asked_for() {
    let proxied =
        header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[(2, b"mail.test"), (0xea, b"x")]);
    for (globals, service, listener, logged) in [
        ("", "", "", false),
        ("log_connections = yes", "", "", true),
        ("", "log_connections = yes", "", true),
        ("", "", "log_connections = yes", true),
        ("log_connections = yes", "log_connections = yes", "log_connections = no", false),
    ] {
        let port = free_port();
        let text = format!(
            "haproxy_trusted_networks = 127.0.0.1\n{globals}\nservice imap-login {{\n{service}\n inet_listener x {{\n \
             address = 127.0.0.1\n port = {port}\n haproxy = yes\n {listener}\n }}\n}}\n"
        );
        let daemon = Daemon::start(&text, &[port]);
        for _ in 0..3 {
            Client::send_to(loopback(port), &[&proxied[..], b"a1"].concat()).whoami();
        }
        let log = daemon.stop();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("haproxy: Connected")).collect();
        assert_eq!(lines.len(), if logged { 3 } else { 0 }, "{text}\n{log}");
        for line in lines {
            assert!(
                line.contains("imap-login: Info: haproxy: Connected (rip=198.51.100.7): listener=x peer=127.0.0.1:"),
                "{line}"
            );
            let carried =
                "header=v2 source=198.51.100.7:5000 destination=192.0.2.1:143 authority=mail.test tlvs=0xea waited=";
            assert!(line.contains(carried) && line.ends_with(" residual=2"), "{line}");
        }
    }
}

#[test]
fn headers_that_are_valid_and_look_wrong_are_served_and_named() {
    let (daemon, quiet, _) = two_listeners("");
    let exchanged = header::v1(address("192.0.2.1:143"), address("198.51.100.7:50000"));
    for _ in 0..2 {
        assert!(Client::send_to(loopback(quiet), &exchanged).whoami().is_object());
        assert!(Client::send_to(loopback(quiet), &[&header::local()[..], b"a NOOP\r\n"].concat()).whoami().is_object());
    }
    let hello = header::v1(address("198.51.100.7:50000"), address("192.0.2.1:143"));
    let hello = [&hello[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"].concat();
    assert!(Client::send_to(loopback(quiet), &hello).whoami().is_object());
    Client::send_to(loopback(quiet), &header::local()).whoami();
    let log = daemon.stop();
    for (level, diagnosis) in [("Warning", "exchanged"), ("Info", "local-speaks"), ("Warning", "tls-behind-header")] {
        let of = |line: &&str| line.contains(&format!(" diagnosis={diagnosis} ("));
        let lines: Vec<&str> = log.lines().filter(of).collect();
        assert_eq!(lines.len(), 1, "{diagnosis}:\n{log}");
        assert!(lines[0].contains(&format!("imap-login: {level}: haproxy: Client served, but")), "{}", lines[0]);
        assert!(lines[0].contains(": listener=quiet peer=127.0.0.1:"), "{}", lines[0]);
    }
    assert!(
        log.contains(" 1 more like this suppressed (rip=127.0.0.1): reason=served listener=quiet diagnosis=exchanged"),
        "{log}"
    );
    let counts = ["proxied", "local", "local-user"].map(|name| counted(&log, name));
    assert_eq!(counts, [Some(3), Some(1), Some(2)], "{log}");
}

#[test]
fn senders_that_are_known_to_go_wrong_are_named() {
    let (daemon, quiet, _) = two_listeners("haproxy_timeout = 60 secs");
    let inet = "c6336407 c0000201 1388 008f";
    send(quiet, &v2(&format!("21 21 2400 {}", "00".repeat(36))));
    // The length of an INET header in the wrong order is a valid one: nothing is refused before the peer gives up.
    let cut = Client::send_to(loopback(quiet), &v2(&format!("21 11 0c00 {inet}")));
    thread::sleep(Duration::from_millis(50));
    drop(cut);
    let mut reversed = v2(&format!("21 11 0013 {inet} 03 0004 00000000"));
    let sum = crc32c::crc32c(&reversed).to_le_bytes();
    reversed.splice(reversed.len() - 4.., sum);
    send(quiet, &reversed);
    send(quiet, &v2(&format!("21 11 0014 {inet} 02 0001 61 02 0001 62")));
    for words in
        ["reason=header-too-long at=15", "reason=closed-partial", "reason=bad-checksum", "reason=duplicate-tlv"]
    {
        daemon.wait_for_output(words);
    }
    let log = daemon.stop();
    for (reason, diagnosis) in [
        ("header-too-long", "length-swapped (the sender writes the length in the wrong byte order"),
        ("closed-partial", "length-swapped (the sender writes the length in the wrong byte order"),
        ("bad-checksum", "checksum-swapped (the sender writes the CRC32C in the wrong byte order"),
        (
            "duplicate-tlv",
            "authority-twice (two AUTHORITY TLVs: HAProxy sends two with both `proxy-v2-options authority`",
        ),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("reason={reason}"))).expect("it is logged");
        assert!(line.contains(&format!(" diagnosis={diagnosis}")), "{line}");
    }
}

#[test]
fn swaks_local_is_named() {
    needs!("swaks");
    let (daemon, listener) = Daemon::haproxy("haproxy_timeout = 60 secs", "");
    let mut swaks = Command::new("swaks");
    swaks.args(["--server", "127.0.0.1", "--port", &listener.port().to_string(), "--quit-after", "CONNECT"]);
    swaks.args(["--proxy-version", "2", "--proxy-command", "LOCAL", "--proxy-family", "AF_INET"]);
    swaks.args(["--proxy-protocol", "STREAM", "--proxy-source", "198.51.100.7", "--proxy-source-port", "5000"]);
    swaks.args(["--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"]);
    let finished = run(swaks, b"");
    let named = wait_until(PATIENCE, || daemon.output().contains("reason=bad-command at=13"));
    assert!(named, "{finished:?}\n{}", daemon.output());
    assert!(daemon.output().contains(" diagnosis=swaks-local (swaks sends 22 00 00 for LOCAL"), "{}", daemon.output());
}

#[test]
fn a_check_of_haproxy_that_waits_in_silence_is_named_and_its_remedy_is_one() {
    needs!("haproxy");
    for (check, mute) in [("tcp-check connect", true), ("tcp-check connect default", false)] {
        let (daemon, server) = Daemon::haproxy("haproxy_timeout = 60 secs", "");
        let _front = haproxy(&format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\nbackend b\n  \
             option tcp-check\n  {check}\n  tcp-check expect string OK\n  server s {server} send-proxy-v2 check inter 2s \
             fall 100\nfrontend f\n  bind @FRONT@\n  default_backend b\n"
        ));
        let words = if mute { "diagnosis=lazy-header (the peer waits for the greeting" } else { "" };
        if mute {
            daemon.wait_for_output(words);
            let log = daemon.output();
            let line = log.lines().find(|line| line.contains(words)).expect("it was waited for");
            assert!(
                line.contains("Client waited and left again and again (rip=127.0.0.1): reason=closed-empty"),
                "{line}"
            );
            assert!(line.contains("`tcp-check connect default`") && line.contains("on_first_ack,"), "{line}");
        } else {
            thread::sleep(Duration::from_secs(9));
            let log = daemon.stop();
            assert!(!log.contains("lazy-header"), "{log}");
            assert!(counted(&log, "local").is_some_and(|checks| checks >= 2), "{log}");
        }
    }
}

#[test]
fn tls_checks_of_haproxy_are_counted_and_not_logged() {
    needs!("haproxy");
    let port = free_port();
    let daemon = Daemon::start(
        &format!(
            "haproxy_trusted_networks = 127.0.0.1\nservice imap-login {{\n inet_listener imaps {{\n address = 127.0.0.1\n \
             port = {port}\n ssl = yes\n haproxy = yes\n }}\n}}\n"
        ),
        &[port],
    );
    let _front = haproxy(&format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\nbackend b\n  \
         option ssl-hello-chk\n  server s 127.0.0.1:{port} send-proxy-v2 check inter 200ms\nfrontend f\n  bind @FRONT@\n  \
         default_backend b\n"
    ));
    thread::sleep(Duration::from_secs(2));
    let log = daemon.stop();
    assert!(counted(&log, "tls-checked").is_some_and(|checks| checks >= 2), "{log}");
    assert!(!log.contains("handshaking failed"), "{log}");
    assert!(!log.contains(&format!("rip={TRUSTED}")), "{log}");
}

#[test]
fn lines_have_priorities_where_standard_error_is_the_journals_stream_and_only_there() {
    // As systemd names it, and as a child inherits it whose standard error goes elsewhere.
    for (stream, is_the_journals) in [("$(stat -Lc %d:%i /dev/stderr)", true), ("1:2", false)] {
        let port = free_port();
        let wrapper = format!("JOURNAL_STREAM={stream} exec \"$0\" \"$@\"");
        let daemon = Daemon::start_under(&["sh", "-c", &wrapper], &haproxy_configuration(port, "", ""), &[port]);
        send(port, b"GET / HTTP/1.1\r\n\r\n");
        daemon.wait_for_output("reason=absent");
        let log = daemon.stop();
        for (marked, words) in
            [("<3>imap-login: Error: haproxy: ", "reason=absent"), ("<6>vestibule: Info: ", "draining for at most")]
        {
            let line = log.lines().find(|line| line.contains(words)).expect("it was told");
            assert_eq!(line.starts_with(marked), is_the_journals, "{stream}: {line}");
        }
    }
}

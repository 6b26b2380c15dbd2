//! The log speaks Dovecot's words, so that an operator's searches and filters go on working: Dovecot itself gets the same
//! bytes and says what the line must contain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::client::{Client, loopback};
use crate::support::daemon::Daemon;
use crate::support::header::{SIGNATURE, hex};
use crate::support::peers::{Peer, dovecot};
use crate::support::{PATIENCE, free_port, wait_until};
use crate::{needs, needs_root};

/// What is sent, for which both have words. Each case comes from a source of its own, since repeated lines are suppressed.
fn cases() -> Vec<Vec<u8>> {
    let v2 = |rest: &str| [&SIGNATURE[..], &hex(rest)].concat();
    let v1 = |rest: &str| format!("PROXY {rest}\r\n").into_bytes();
    vec![
        b"EHLO mail.test\r\n".to_vec(),
        v2("31 11 000c 0a000001 0a000002 1234 0019"),
        v2("22 11 000c 0a000001 0a000002 1234 0019"),
        v2("21 12 000c 0a000001 0a000002 1234 0019"),
        v2("21 41 000c 0a000001 0a000002 1234 0019"),
        v2("21 11 0008 0a000001 0a000002"),
        v2("21 21 000c 0a000001 0a000002 1234 0019"),
        v2("21 11 0010 0a000001 0a000002 1234 0019 02 0032 01"),
        v2("21 11 0014 0a000001 0a000002 1234 0019 04 0001 00 02 0032 01"),
        v1("UDP4 1.2.3.4 5.6.7.8 1 2"),
        v1("tcp4 1.2.3.4 5.6.7.8 1 2"),
        v1("TCP4  1.2.3.4 5.6.7.8 1 2"),
        v1("TCP4 1.2.3.4 5.6.7.8 1 2 x"),
        v1("TCP4 ::1 5.6.7.8 1 2"),
        v1("TCP4 1.2.3.4 ::1 1 2"),
        v1("TCP6 1.2.3.4 5.6.7.8 1 2"),
        v1("TCP4 1.2.3.4 5.6.7.8 -1 2"),
        v1("TCP4 1.2.3.4 5.6.7.8 1 70000"),
        v1("TCP4"),
        v1("TCP4 1.2.3.4"),
        v1("TCP4 1.2.3.4 5.6.7.8 1"),
    ]
}

#[test]
fn refusals_are_logged_in_dovecots_words() {
    needs!("dovecot");
    needs_root!();
    let dovecot = dovecot();
    let port = free_port();
    let daemon = Daemon::start(
        &format!(
            "haproxy_trusted_networks = 127.0.1.0/24\nservice imap-login {{\n inet_listener i {{\n \
             address = 127.0.0.1\n port = {port}\n haproxy = yes\n }}\n}}\n"
        ),
        &[port],
    );
    for (number, bytes) in cases().into_iter().enumerate() {
        let source = Ipv4Addr::new(127, 0, 1, 1 + number as u8).into();
        let words = dovecots_words(&dovecot, source, &bytes);
        send(source, loopback(port), &bytes);
        let same = wait_until(PATIENCE, || daemon.output().contains(&words));
        assert!(same, "{}\nsays Dovecot of {bytes:02x?}; this daemon says\n{}", words, daemon.output());
    }
    let stranger = Ipv4Addr::new(127, 0, 2, 1).into();
    let words = dovecots_words(&dovecot, stranger, b"PROXY UNKNOWN\r\n");
    send(stranger, loopback(port), b"PROXY UNKNOWN\r\n");
    daemon.wait_for_output(&words);
}

/// From `haproxy` to the end of Dovecot's line about `source`.
fn dovecots_words(dovecot: &Peer, source: IpAddr, bytes: &[u8]) -> String {
    send(source, dovecot.addresses[1], bytes);
    let said = |log: &str| -> Option<String> {
        let line = log.lines().find(|line| line.contains("haproxy") && line.contains(&format!("rip={source}")))?;
        line.find("haproxy").map(|at| line[at..].to_owned())
    };
    let mut words = None;
    wait_until(PATIENCE, || {
        words = said(&dovecot.process.output());
        words.is_some()
    });
    words.unwrap_or_else(|| panic!("Dovecot says nothing of {bytes:02x?} from {source}:\n{}", dovecot.process.output()))
}

fn send(source: IpAddr, to: SocketAddr, bytes: &[u8]) {
    let client = Client::connect(source, to);
    client.send(bytes).expect("a fresh connection takes a few bytes");
    client.read_to_end();
}

//! Headers from `vestibule encode`, read by the receivers of other projects.

use crate::support::client::{Client, TRUSTED, address};
use crate::support::daemon::{Daemon, vestibule_run};
use crate::support::header::hex;
use crate::support::peers::{dovecot, haproxy, postfix};
use crate::{needs, needs_root};

const SOURCE: &str = "203.0.113.9:41000";
const DESTINATION: &str = "192.0.2.1:143";
const SOURCE6: &str = "[2001:db8::7]:41000";
const DESTINATION6: &str = "[2001:db8:1::1]:143";

/// Command lines whose headers all convey a client, and that client's address without the port.
const CASES: &[(&[&str], &str)] = &[
    (&["--v1", "--source", SOURCE, "--destination", DESTINATION], "203.0.113.9"),
    (&["--v1", "--source", SOURCE6, "--destination", DESTINATION6], "2001:db8::7"),
    (&["--v2", "--source", SOURCE, "--destination", DESTINATION], "203.0.113.9"),
    (&["--v2", "--source", SOURCE6, "--destination", DESTINATION6], "2001:db8::7"),
    (&["--v2", "--source", SOURCE, "--destination", DESTINATION, "--crc32c", "--tlv", "0x05=76374b71"], "203.0.113.9"),
];

#[test]
fn dovecot_takes_what_encode_makes() {
    needs!("dovecot");
    needs_root!();
    let dovecot = dovecot();
    for (arguments, client_ip) in CASES {
        let client = Client::connect(address("127.0.0.2:0").ip(), dovecot.addresses[1]);
        client.send(&[&encode(arguments)[..], b"a LOGIN u1 pw\r\nb LOGOUT\r\n"].concat()).expect("dovecot listens");
        let said = String::from_utf8_lossy(&client.read_to_end().0).into_owned();
        assert!(said.contains("a OK"), "{arguments:?}: {said}");
        dovecot.process.wait_for_output(&format!("rip={client_ip}, lip="));
    }
}

#[test]
fn postfix_takes_what_encode_makes() {
    needs!("postfix");
    needs_root!();
    let postfix = postfix();
    for (arguments, client_ip) in CASES {
        let client = Client::connect(TRUSTED, postfix.address());
        client.send(&encode(arguments)).expect("postfix listens");
        client.send(b"QUIT\r\n").expect("postfix listens");
        let said = String::from_utf8_lossy(&client.read_to_end().0).into_owned();
        assert!(said.starts_with("220 ") && said.contains("221 "), "{arguments:?}: {said}");
        postfix.process.wait_for_output(&format!("connect from unknown[{client_ip}]"));
    }
}

#[test]
fn haproxy_verifies_the_checksum_that_encode_makes() {
    needs!("haproxy");
    let (_daemon, server) = Daemon::haproxy("", "");
    let balancer = haproxy(&format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         listen front\n  bind @FRONT@ accept-proxy\n  server s1 {server} send-proxy-v2\n"
    ));
    for (arguments, client_ip) in CASES {
        let client = Client::send_to(balancer.address(), &encode(arguments));
        let shown = client.whoami()["client"].as_str().expect("a text").to_owned();
        assert!(shown.contains(client_ip), "{arguments:?}: {shown}");
    }
    let mut wrong = encode(CASES[4].0);
    let last = wrong.len() - 1;
    wrong[last] ^= 1; // the checksum covers it
    assert_eq!(Client::send_to(balancer.address(), &wrong).read_to_end().0, b"");
}

fn encode(arguments: &[&str]) -> Vec<u8> {
    let finished = vestibule_run(&[&["encode", "--hex"], arguments].concat(), b"");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    hex(&finished.stdout)
}

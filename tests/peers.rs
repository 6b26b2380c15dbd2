//! The real peers against each other, without Vestibule: what they send and how they answer is what the other tests
//! build on, so a peer of another version that behaves otherwise is noticed here first.

use std::process::Command;

use crate::support::client::{Client, address};
use crate::support::header::{SIGNATURE, v1, v2};
use crate::support::peers::{dovecot, haproxy, nginx_stream, postfix, socat_receiver};
use crate::support::process::run;
use crate::support::{PATIENCE, wait_until};
use crate::{needs, needs_root, skip};

#[test]
fn haproxy_sends_a_version_2_header() {
    needs!("haproxy", "socat");
    let receiver = socat_receiver();
    let balancer = haproxy(&format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         listen front\n bind @FRONT@\n server s1 {} send-proxy-v2\n",
        receiver.address()
    ));
    let client = Client::send_to(balancer.address(), b"through the balancer\n");
    receiver.process.wait_for_output("through the balancer");
    let output = receiver.process.output();
    let signature = String::from_utf8_lossy(SIGNATURE);
    assert!(output.starts_with(&*signature), "{output:?}");
    drop(client);
}

#[test]
fn nginx_sends_a_version_1_header() {
    needs!("nginx", "socat");
    if vestibule_peers::nginx_stream_module().is_err() {
        skip!("nginx's stream module (libnginx-mod-stream)");
    }
    let receiver = socat_receiver();
    let front = nginx_stream(receiver.address());
    let client = Client::send_to(front.address(), b"through nginx\n");
    receiver.process.wait_for_output("through nginx");
    let expected = String::from_utf8(v1(client.local(), front.address())).expect("ASCII");
    assert_eq!(receiver.process.output(), expected + "through nginx\n");
}

#[test]
fn dovecot_reads_the_headers_that_these_tests_build() {
    needs!("dovecot");
    needs_root!();
    let dovecot = dovecot();
    let source = address("203.0.113.9:41000");
    let destination = address("192.0.2.1:143");
    for header in [v1(source, destination), v2(source, destination, &[(0x04, b"padding")])] {
        let client = Client::connect(address("127.0.0.2:0").ip(), dovecot.addresses[1]);
        client.send(&[&header[..], b"a LOGIN u1 pw\r\nb LOGOUT\r\n"].concat()).expect("dovecot listens");
        let (said, _, _) = client.read_to_end();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("a OK") && said.contains("b OK"), "{said}");
    }
    let logged = "rip=203.0.113.9, lip=192.0.2.1";
    let both = wait_until(PATIENCE, || dovecot.process.output().matches(logged).count() == 2);
    assert!(both, "{}", dovecot.process.output());
}

#[test]
fn postfix_reads_the_headers_that_these_tests_build() {
    needs!("postfix");
    needs_root!();
    let postfix = postfix();
    let source = address("203.0.113.9:41000");
    for header in [v1(source, postfix.address()), v2(source, postfix.address(), &[])] {
        let client = Client::send_to(postfix.address(), &header);
        client.send(b"QUIT\r\n").expect("postfix listens");
        let (said, _, _) = client.read_to_end();
        assert!(said.starts_with(b"220 "), "{}", String::from_utf8_lossy(&said));
    }
    postfix.process.wait_for_output("disconnect from unknown[203.0.113.9]");
}

#[test]
fn swaks_and_curl_send_headers() {
    needs!("swaks", "curl", "socat");
    let receiver = socat_receiver();
    let port = receiver.address().port();
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "2", "--haproxy-protocol", &format!("telnet://127.0.0.1:{port}")]);
    run(curl, b"");
    receiver.process.wait_for_output("PROXY TCP4 127.0.0.1 127.0.0.1 ");
    let mut swaks = Command::new("swaks");
    swaks.args(["--server", &format!("127.0.0.1:{port}"), "--timeout", "1", "--quit-after", "banner"]).args(SWAKS_V2);
    run(swaks, b"");
    receiver.process.wait_for_output("QUIT\n");
}

/// swaks's own PROXY options for version 2, from 203.0.113.9:41000 to 192.0.2.1:25.
const SWAKS_V2: [&str; 16] = [
    "--proxy-version",
    "2",
    "--proxy-family",
    "AF_INET",
    "--proxy-protocol",
    "STREAM",
    "--proxy-command",
    "PROXY",
    "--proxy-source",
    "203.0.113.9",
    "--proxy-source-port",
    "41000",
    "--proxy-dest",
    "192.0.2.1",
    "--proxy-dest-port",
    "25",
];

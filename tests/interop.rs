//! Real senders in front of the daemon: HAProxy, nginx, curl, swaks. The addresses and TLVs that arrive are theirs, and
//! their health checks leave no error in the log.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::daemon::{Daemon, counted};
use crate::support::header::hex;
use crate::support::peers::{Peer, haproxy, nginx_stream};
use crate::support::process::run;
use crate::support::{PATIENCE, wait_until};
use crate::{needs, skip};

/// The configuration of the balancer that this tier was made to stand behind; only the names and numbers are the test's.
const EXAMPLE: &str = "\
defaults
  timeout connect 5s
  timeout client 31m
  timeout server 31m
frontend mail
  mode tcp
  bind @FRONT@
  default_backend imap
backend imap
  mode tcp
  balance leastconn
  stick store-request src
  stick-table type ip size 200k expire 30m
  server s1 @SERVER@ send-proxy-v2
  server s2 @SERVER2@ send-proxy-v2
";

#[test]
fn haproxy_with_the_example_of_a_balancer() {
    needs!("haproxy");
    let (first, server) = Daemon::haproxy("", "");
    let (second, server2) = Daemon::haproxy("", "");
    let balancer =
        haproxy(&EXAMPLE.replace("@SERVER@", &server.to_string()).replace("@SERVER2@", &server2.to_string()));
    let mut seen = Vec::new();
    for _ in 0..10 {
        let (answer, client) = ask(&balancer);
        assert_conveyed(&answer, "v2", client, balancer.address());
        assert_eq!(answer["tlvs"], json!([]));
        seen.push(answer["local"].as_str().expect("a text").to_owned());
    }
    for server in [server, server2] {
        assert!(seen.contains(&server.to_string()), "leastconn uses both: {seen:?}");
    }
    assert_no_complaint(&first.stop());
    assert_no_complaint(&second.stop());
}

#[test]
fn haproxy_sends_version_1() {
    needs!("haproxy");
    let (daemon, server) = Daemon::haproxy("", "");
    let balancer = haproxy(&one_server(server, "send-proxy"));
    let (answer, client) = ask(&balancer);
    assert_conveyed(&answer, "v1", client, balancer.address());
    assert_no_complaint(&daemon.stop());
}

#[test]
fn haproxy_sends_a_checksum_and_a_unique_id() {
    needs!("haproxy");
    let (daemon, server) = Daemon::haproxy("", "haproxy_checksum = require");
    let balancer = haproxy(
        &one_server(server, "send-proxy-v2 proxy-v2-options crc32c,unique-id")
            .replace("  bind", "  unique-id-format %{+X}o\\ %ci:%cp_%rt\n  bind"),
    );
    let (answer, client) = ask(&balancer);
    assert_conveyed(&answer, "v2", client, balancer.address());
    let tlvs = answer["tlvs"].as_array().expect("a list");
    let types: Vec<&Value> = tlvs.iter().map(|tlv| &tlv["type"]).collect();
    assert_eq!(types, [3, 5]);
    let id = String::from_utf8(hex(tlvs[1]["value"].as_str().expect("a text"))).expect("the format is ASCII");
    assert!(id.starts_with("7F000005:"), "{id}");
    assert_no_complaint(&daemon.stop());
}

#[test]
fn haproxy_tells_that_the_client_did_not_use_tls() {
    needs!("haproxy");
    let (daemon, server) = Daemon::haproxy("", "");
    let balancer = haproxy(&one_server(server, "send-proxy-v2-ssl-cn"));
    let (answer, client) = ask(&balancer);
    assert_conveyed(&answer, "v2", client, balancer.address());
    assert_eq!(answer["tlvs"], json!([{"type": 0x20, "value": "0000000000"}]));
    assert_no_complaint(&daemon.stop());
}

#[test]
fn haproxys_health_checks_are_counted_and_not_logged() {
    needs!("haproxy");
    let (daemon, server) = Daemon::haproxy("", "");
    // A check that connects and closes, one that sends a header of each version, and one that reads the answer.
    let checks = [
        "check inter 50ms",
        "check inter 50ms check-send-proxy send-proxy",
        "check inter 50ms check-send-proxy send-proxy-v2",
    ];
    let text =
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n  timeout check 5s\n\
                frontend front\n  bind @FRONT@\n  default_backend b0\n"
            .to_owned()
            + &checks
                .iter()
                .enumerate()
                .map(|(number, check)| {
                    let expect =
                        if number == 0 { "" } else { "  option tcp-check\n  tcp-check expect string service\n" };
                    format!("backend b{number}\n{expect}  server s{number} {server} {check}\n")
                })
                .collect::<String>();
    // Only b0 gets traffic, and the plain check of b0 comes without a header: nothing to wait for but time.
    let balancer = haproxy(&text);
    let started = Instant::now();
    assert!(wait_until(PATIENCE, || started.elapsed() > Duration::from_secs(2)));
    let said = balancer.process.output();
    assert!(!said.contains("is DOWN"), "a check failed:\n{said}");
    drop(balancer);
    let log = daemon.stop();
    assert_no_complaint(&log);
    // Two servers are asked twenty times a second, one by each version.
    for name in ["local", "proxied"] {
        assert!(counted(&log, name) >= Some(10), "{name} in\n{log}");
    }
}

#[test]
fn nginx_stream_in_front() {
    needs!("nginx");
    if vestibule_peers::nginx_stream_module().is_err() {
        skip!("nginx's stream module (libnginx-mod-stream)");
    }
    let (daemon, server) = Daemon::haproxy("", "");
    let front = nginx_stream(server);
    let (answer, client) = ask(&front);
    assert_conveyed(&answer, "v1", client, front.address());
    assert_no_complaint(&daemon.stop());
}

#[test]
fn haproxy_in_front_of_nginx_conveys_the_first_client() {
    needs!("nginx", "haproxy");
    if vestibule_peers::nginx_stream_module().is_err() {
        skip!("nginx's stream module (libnginx-mod-stream)");
    }
    let (_daemon, server) = Daemon::haproxy("", "");
    // nginx sees the balancer as its client, unless it is told to read the header that comes in.
    let nginx = nginx_stream(server);
    let balancer = haproxy(&one_server(nginx.address(), ""));
    let answer = ask(&balancer).0;
    assert_eq!(answer["destination"], nginx.address().to_string(), "the last hop's word counts");
}

#[test]
fn swaks_sends_both_versions() {
    needs!("swaks");
    let (daemon, server) = Daemon::haproxy("", "");
    for version in ["1", "2"] {
        let mut swaks = Command::new("swaks");
        swaks.args(["--server", &server.to_string(), "--timeout", "10", "--quit-after", "banner"]);
        swaks.args(["--proxy-version", version, "--proxy-family", if version == "1" { "TCP4" } else { "AF_INET" }]);
        if version == "2" {
            swaks.args(["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"]);
        }
        swaks.args(["--proxy-source", "203.0.113.9", "--proxy-source-port", "41000"]);
        swaks.args(["--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"]);
        let transcript = run(swaks, b"").stdout; // it expects SMTP, so it shows the line and gives up
        let line = transcript.lines().find_map(|line| line.find('{').map(|at| &line[at..]));
        let answer: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("no answer in\n{transcript}")))
            .unwrap_or_else(|error| panic!("{error} in\n{transcript}"));
        assert_eq!(answer["version"], format!("v{version}"));
        assert_eq!(answer["client"], "203.0.113.9:41000");
        assert_eq!(answer["destination"], "192.0.2.1:25");
    }
    assert_no_complaint(&daemon.stop());
}

/// A frontend and one server, with `options` on the server.
fn one_server(server: SocketAddr, options: &str) -> String {
    format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen front\n  bind @FRONT@\n  server s1 {server} {options}\n"
    )
}

/// Connects through `front` and gives the answer with the client's own address.
fn ask(front: &Peer) -> (Value, SocketAddr) {
    // By an address that the balancer itself does not connect from.
    let client = Client::connect([127, 0, 0, 5].into(), front.address());
    (client.whoami(), client.local())
}

fn assert_conveyed(answer: &Value, version: &str, client: SocketAddr, front: SocketAddr) {
    assert_eq!(answer["version"], version);
    assert_eq!(answer["command"], "PROXY");
    assert_eq!(answer["client"], client.to_string());
    assert_eq!(answer["destination"], front.to_string());
    assert_ne!(answer["peer"], client.to_string(), "the socket's peer is the balancer");
}

/// A log without a word about a connection.
fn assert_no_complaint(log: &str) {
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| ["rip=", "Error", "ERROR", "Warning", "WARN"].iter().any(|word| line.contains(word)))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}\nin\n{log}");
}

//! What the daemon answers: the addresses that count, whatever the header says and however it is cut.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Client, Ending, TRUSTED, address, loopback};
use crate::support::daemon::{Daemon, vestibule, vestibule_run};
use crate::support::header::{self, hex};
use crate::support::process::{Process, run};
use crate::support::{free_port, is_listening, temp_dir};
use crate::{needs, skip};

#[test]
fn every_version_and_family_conveys_its_addresses() {
    let (_daemon, listener) = Daemon::haproxy("", "");
    let inet = ("198.51.100.7:5000", "192.0.2.1:143");
    let inet6 = ("[2001:db8::7]:40000", "[2001:db8:1::1]:993");
    for (source, destination) in [inet, inet6] {
        let (from, to) = (address(source), address(destination));
        for (version, bytes) in [("v1", header::v1(from, to)), ("v2", header::v2(from, to, &[]))] {
            let client = Client::send_to(listener, &bytes);
            let expected = answer(&client, json!({"version": version, "client": source, "destination": destination}));
            assert_eq!(client.whoami(), expected);
        }
    }
}

#[test]
fn an_ipv4_mapped_source_is_the_ipv4_client() {
    let (_daemon, listener) = Daemon::haproxy("", "");
    let mapped = header::v2(address("[::ffff:203.0.113.9]:41000"), address("[2001:db8::1]:993"), &[]);
    assert_eq!(Client::send_to(listener, &mapped).whoami()["client"], "203.0.113.9:41000");
}

#[test]
fn tlvs_are_passed_on_in_their_order() {
    let (_daemon, listener) = Daemon::haproxy("", "");
    let tlvs: [(u8, &[u8]); 3] = [(0x02, b"mail.test"), (0x04, &[0]), (0xea, b"\x01vpce-1")];
    let bytes = header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &tlvs);
    let expected = json!([
        {"type": 2, "value": "6d61696c2e74657374"},
        {"type": 4, "value": "00"},
        {"type": 0xea, "value": "01767063652d31"},
    ]);
    assert_eq!(Client::send_to(listener, &bytes).whoami()["tlvs"], expected);
}

// spec 2.2 MUST "use the real connection endpoints"
// spec 2.1 SHOULD "accept the connection and use the real"
#[test]
fn local_and_unknown_count_as_the_balancers_own() {
    let (_daemon, listener) = Daemon::haproxy("", "");
    let cases: [(&str, &str, Vec<u8>); 3] = [
        ("v2", "LOCAL", header::local()),
        ("v1", "PROXY", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v1", "PROXY", b"PROXY UNKNOWN whatever it says\r\n".to_vec()),
    ];
    for (version, command, bytes) in cases {
        let client = Client::send_to(listener, &bytes);
        let (own, to) = (client.local().to_string(), listener.to_string());
        let expected = json!({"version": version, "command": command, "client": own, "destination": to});
        assert_eq!(client.whoami(), answer(&client, expected));
    }
}

#[test]
fn bytes_behind_the_header_are_the_workers() {
    let (_daemon, listener) = Daemon::haproxy("", "");
    let header = header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[]);
    let client = Client::send_to(listener, &[&header[..], b"a NOOP\r\n"].concat());
    let expected = answer(
        &client,
        json!({
            "version": "v2", "client": "198.51.100.7:5000", "destination": "192.0.2.1:143",
            "residual": "61204e4f4f500d0a",
        }),
    );
    assert_eq!(client.whoami(), expected);
}

// spec 2 MUST "configured to only receive the protocol"
// spec 5 MUST "only rely on a configuration parameter"
#[test]
fn a_plain_listener_serves_at_once_without_a_header() {
    let port = free_port();
    let configuration =
        format!("service pop3-login {{\n inet_listener pop3 {{\n address = 127.0.0.1\n port = {port}\n }}\n}}\n");
    let _daemon = Daemon::start(&configuration, &[port]);
    let client = Client::connect(TRUSTED, loopback(port));
    let (own, to) = (client.local().to_string(), loopback(port).to_string());
    let expected = json!({
        "service": "pop3-login", "listener": "pop3", "version": null, "command": null,
        "client": own, "destination": to,
    });
    assert_eq!(client.whoami(), answer(&client, expected), "it must not wait for the client to speak");
}

#[test]
fn services_listeners_and_rings_share_one_daemon() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let configuration = format!(
        "rings = 2\nhaproxy_trusted_networks = 127.0.0.1\n\
         service imap-login {{\n inet_listener a {{\n address = 127.0.0.1\n port = {}\n haproxy = yes\n }}\n \
         inet_listener b {{\n address = 127.0.0.1\n port = {}\n haproxy = yes\n }}\n}}\n\
         service pop3-login {{\n inet_listener c {{\n address = 127.0.0.1\n port = {}\n haproxy = yes\n }}\n}}\n",
        ports[0], ports[1], ports[2]
    );
    let _daemon = Daemon::start(&configuration, &ports);
    let expected = [("imap-login", "a"), ("imap-login", "b"), ("pop3-login", "c")];
    for (port, (service, listener)) in ports.into_iter().zip(expected) {
        for _ in 0..8 {
            let answer = Client::send_to(loopback(port), &header::local()).whoami();
            assert_eq!((&answer["service"], &answer["listener"]), (&json!(service), &json!(listener)));
        }
    }
}

/// The example with which an operator begins, in the shorthand that this project takes beyond Dovecot's grammar.
const EXAMPLE: &str = include_str!("../examples/dovecot.conf");

#[test]
fn the_example_runs_but_for_its_ports() {
    needs!("openssl");
    let directory = temp_dir();
    let file = directory.path().join("example.conf");
    std::fs::write(&file, EXAMPLE).expect("it can be written");
    let checked = vestibule_run(&["check", "-c", file.to_str().expect("a plain path")], b"");
    assert_eq!(checked.code, Some(0), "unchanged it is right: {checked:?}");

    let [imap, imaps, proxied] = [free_port(), free_port(), free_port()];
    let mut text = format!("listen = 127.0.0.1\n{EXAMPLE}");
    for (line, port) in [("port = 143\n", imap), ("port = 993\n", imaps), ("port = 10143\n", proxied)] {
        text = text.replace(line, &format!("port = {port}\n"));
    }
    let daemon = Daemon::start(&text, &[imap, imaps, proxied]);
    daemon.wait_for_output(&format!("try: curl -s telnet://127.0.0.1:{imap} ")); // not the one that would be refused
    assert_eq!(Client::connect(TRUSTED, loopback(imap)).whoami()["listener"], "imap");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-connect", &loopback(imaps).to_string()]);
    let answer = crate::support::client::whoami(run(openssl, b"").stdout.as_bytes());
    assert_eq!((&answer["listener"], &answer["tls"]), (&json!("imaps"), &json!(true)));
    let (said, ending, _) = Client::send_to(loopback(proxied), &header::local()).read_to_end();
    assert_eq!((said.len(), ending), (0, Ending::Reset), "127.0.0.1 is not among its trusted networks");
}

#[test]
fn the_built_in_configuration_answers_curl() {
    needs!("curl");
    let printed = vestibule_run(&["config", "-a"], b"");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.stdout.contains("port = 10143"), "{}", printed.stdout);
    let port = free_port();
    let daemon = Daemon::start(&printed.stdout.replace("10143", &port.to_string()), &[port]);
    daemon.wait_for_output("--haproxy-protocol"); // what to try next
    let answer = curl_whoami(port);
    assert_eq!(answer["service"], "imap-login");
    assert_eq!((&answer["version"], &answer["client"]), (&json!("v1"), &answer["peer"]));
}

#[test]
fn without_arguments_it_serves_on_port_10143() {
    needs!("curl");
    if is_listening(loopback(10143)) {
        skip!("port 10143 to be free");
    }
    let _daemon = Process::start_listening(vestibule(), &[loopback(10143)]);
    assert_eq!(curl_whoami(10143)["destination"], "127.0.0.1:10143");
}

#[test]
fn thousands_of_connections_leave_no_file_open() {
    let (daemon, listener) = Daemon::haproxy("", "");
    Client::send_to(listener, &header::local()).whoami(); // whatever is opened once is open now
    let before = daemon.open_files();
    for round in 0..40 {
        let clients: Vec<Client> = (0..50)
            .map(|number| match (round + number) % 4 {
                0 => Client::send_to(listener, &header::local()),
                1 => Client::send_to(listener, b"EHLO nobody\r\n"),
                2 => Client::send_to(listener, &hex("0d0a0d0a000d0a515549540a21")),
                _ => Client::connect(address("127.0.0.9:0").ip(), listener),
            })
            .collect();
        drop(clients); // half of them in the middle of their header
    }
    let settled = crate::support::wait_until(Duration::from_secs(10), || daemon.open_files() == before);
    assert!(settled, "{} open files before, {} after", before, daemon.open_files());
}

/// What curl prints: it sends a version 1 header and reads until the other side closes.
fn curl_whoami(port: u16) -> Value {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-m", "10", "--haproxy-protocol", &format!("telnet://127.0.0.1:{port}")]);
    let finished = run(curl, b"");
    crate::support::client::whoami(finished.stdout.as_bytes())
}

/// A whole answer of the listener that [`Daemon::haproxy`] makes, with the given fields changed.
fn answer(client: &Client, changed: Value) -> Value {
    let mut whole = json!({
        "service": "imap-login",
        "listener": "imap_haproxy",
        "command": "PROXY",
        "peer": client.local().to_string(),
        "local": client.stream.peer_addr().expect("a connected socket has a peer").to_string(),
        "tls": false,
        "tlvs": [],
        "residual": "",
    });
    let fields = whole.as_object_mut().expect("it is an object");
    for (name, value) in changed.as_object().expect("it is an object") {
        fields.insert(name.clone(), value.clone());
    }
    whole
}

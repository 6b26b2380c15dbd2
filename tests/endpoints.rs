//! Clients that come through private endpoints of cloud providers: who may, what the log says, what the worker learns.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::channel;

use serde_json::Value;
use vestibule::admission::{EndpointId, OnMissingEndpoint};
use vestibule::dispatch::{Accepted, Pool};
use vestibule::{Engine, Listener};

use crate::needs;
use crate::support::client::{Client, address};
use crate::support::daemon::{Daemon, counted, vestibule_run};
use crate::support::mutate::Random;
use crate::support::process::run;
use crate::support::{PATIENCE, header, temp_dir};

/// AWS's published example.
const AWS: (u8, &[u8]) = (0xea, b"\x01vpce-08d2bf15fac5001c9");
/// 536870930: Azure writes the number little-endian, Google Cloud big-endian.
const AZURE: (u8, &[u8]) = (0xee, b"\x01\x12\0\0\x20");
const GCP: (u8, &[u8]) = (0xe0, b"\0\0\0\0\x20\0\0\x12");

fn with(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), tlvs)
}

/// What the worker says of a client; `None` if it never got there.
fn answer(listener: SocketAddr, header: &[u8]) -> Option<Value> {
    let said = Client::send_to(listener, header).read_to_end().0;
    (!said.is_empty()).then(|| crate::support::client::whoami(&said))
}

#[test]
fn endpoints_in_the_list_are_served_and_named_and_others_refused() {
    let allowed = "client_allowed_endpoints = vpce-08d2bf15fac5001c9 azure:536870930";
    let (daemon, listener) = Daemon::haproxy(allowed, "log_connections = yes");
    for (tlv, name) in [(AWS, "vpce-08d2bf15fac5001c9"), (AZURE, "azure:536870930")] {
        let told = answer(listener, &with(&[(0x04, b"pad"), tlv])).expect("an answer");
        assert_eq!((&told["endpoint"], &told["client"]), (&name.into(), &"198.51.100.7:5000".into()));
        daemon.wait_for_output(&format!(" destination=192.0.2.1:143 endpoint={name} tlvs=0x04 waited="));
    }
    for refused in [
        with(&[GCP]),
        with(&[AWS, GCP]),
        with(&[(0xea, b"\x01vpce-08d2bf15fac5001c8")]),
        with(&[(0xee, b"\x01\x20\0\0\x12")]), // the other byte order
    ] {
        assert_eq!(answer(listener, &refused), None);
    }
    daemon
        .wait_for_output("Warning: haproxy: Client rejected: its private endpoint is not allowed (rip=198.51.100.7): ");
    daemon.wait_for_output("(rip=198.51.100.7): reason=endpoint-refused");
    daemon.wait_for_output(" destination=192.0.2.1:143 endpoint=gcp:536870930 diagnosis=endpoint-not-allowed (");
    let log = daemon.stop();
    assert_eq!(["proxied", "endpoint-refused"].map(|name| counted(&log, name)), [Some(2), Some(4)], "{log}");
    assert!(log.contains("endpoint-refused"), "{log}");
}

#[test]
fn who_names_no_endpoint_is_up_to_a_setting() {
    let line = header::v1(address("198.51.100.7:5000"), address("192.0.2.1:143"));
    let unreadable = with(&[(0xee, b"\x02\0\0\0\0")]);
    let nameless = [line, with(&[]), unreadable];
    let (strict, listener) = Daemon::haproxy("client_allowed_endpoints = gcp:7", "");
    for header in &nameless {
        assert_eq!(answer(listener, header), None);
    }
    // The balancer's own is nobody's.
    assert_eq!(answer(listener, &header::local()).expect("an answer")["command"], "LOCAL");
    for diagnosis in ["endpoint-in-v1", "endpoint-absent", "endpoint-unreadable"] {
        strict.wait_for_output(&format!(" diagnosis={diagnosis} ("));
    }
    strict.wait_for_output("Client rejected: the header names no private endpoint (rip=127.0.0.1)");
    let log = strict.stop();
    assert_eq!(["local", "endpoint-missing"].map(|name| counted(&log, name)), [Some(1), Some(3)], "{log}");

    let (lenient, listener) = Daemon::haproxy("client_allowed_endpoints = gcp:7", "client_endpoint_missing = allow");
    for header in &nameless {
        assert_eq!(answer(listener, header).expect("an answer").get("endpoint"), None);
    }
    assert_eq!(answer(listener, &with(&[GCP])), None, "one that is not allowed stays refused");
    let log = lenient.stop();
    assert_eq!(["proxied", "endpoint-refused"].map(|name| counted(&log, name)), [Some(3), Some(1)], "{log}");
}

#[test]
fn curl_names_no_endpoint() {
    needs!("curl");
    let (daemon, listener) = Daemon::haproxy("client_allowed_endpoints = gcp:7", "");
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "5", "--haproxy-protocol", &format!("telnet://{listener}")]);
    assert_eq!(run(curl, b"").stdout, "");
    daemon.wait_for_output("reason=endpoint-missing");
    daemon.wait_for_output(" diagnosis=endpoint-in-v1 (");
}

#[test]
fn random_headers_are_judged_as_a_list_would() {
    let mut random = Random::new(16);
    let allowed = ["vpce-0", "vpce-0a", "azure:1", "azure:16777216", "gcp:1", "gcp:72057594037927936"];
    let (daemon, listener) = Daemon::haproxy(&format!("client_allowed_endpoints = {}", allowed.join(", ")), "");
    let (mut served, mut refused, mut missing) = (0, 0, 0);
    for _ in 0..400 {
        let mut tlvs = Vec::new();
        let mut names = Vec::new();
        for _ in 0..random.below(3) {
            let number = [0, 1, 1 << 24, 1u64 << 56][random.below(4)];
            match random.below(4) {
                0 => {
                    let id = random.pick(&["vpce-0", "vpce-0a", "vpce-0b", "vpce-"]);
                    tlvs.push((0xea, [b"\x01", id.as_bytes()].concat()));
                    names.push(id.to_string());
                }
                1 => {
                    tlvs.push((0xee, [&[1][..], &(number as u32).to_le_bytes()].concat()));
                    names.push(format!("azure:{}", number as u32));
                }
                2 => {
                    tlvs.push((0xe0, number.to_be_bytes().to_vec()));
                    names.push(format!("gcp:{number}"));
                }
                _ => tlvs.push((random.pick(&[0x04, 0x30, 0xe0, 0xf0]), vec![random.byte()])),
            }
        }
        let borrowed: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        let told = answer(listener, &with(&borrowed));
        let may = names.iter().all(|name| allowed.contains(&name.as_str()));
        match names.first() {
            None => missing += 1,
            Some(_) if !may => refused += 1,
            Some(_) => served += 1,
        }
        let expected = names.first().filter(|_| may).map(String::as_str);
        assert_eq!(told.as_ref().and_then(|told| told["endpoint"].as_str()), expected, "{tlvs:?}");
        assert_eq!(told.is_some(), expected.is_some(), "{tlvs:?}");
    }
    assert!(served > 20 && refused > 20 && missing > 20, "{served} {refused} {missing}");
    let log = daemon.stop();
    let counts = ["proxied", "endpoint-refused", "endpoint-missing"].map(|name| counted(&log, name));
    assert_eq!(counts, [served, refused, missing].map(Some), "{log}");
}

#[test]
fn a_program_of_ones_own_asks_and_allows() {
    let (sender, told) = channel();
    let sender = std::sync::Mutex::new(sender);
    let handler = move |connection: Accepted| {
        let endpoint = connection.endpoint().map(|endpoint| endpoint.to_string());
        sender.lock().expect("no panic").send(endpoint).expect("the test listens");
    };
    let gcp: EndpointId = "gcp:536870930".parse().expect("an endpoint");
    let listener = Listener::proxy(address("127.0.0.1:0")).pool("p").trust(["127.0.0.1".parse().expect("a network")]);
    let listener = listener.allow_endpoints([gcp]).endpoint_missing(OnMissingEndpoint::Allow);
    let engine = Engine::builder().pool(Pool::threads("p", 1, handler)).listen(listener).start().expect("it starts");
    let at = engine.addresses()[0];
    for (header, endpoint) in [(with(&[GCP]), Some("gcp:536870930")), (with(&[]), None)] {
        Client::send_to(at, &header).read_to_end();
        assert_eq!(told.recv_timeout(PATIENCE).expect("it was served").as_deref(), endpoint);
    }
    Client::send_to(at, &with(&[AWS])).read_to_end();
    assert_eq!(told.try_recv().ok(), None, "another endpoint is refused");
}

#[test]
fn check_says_through_which_endpoints_clients_may_come() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    let text = "haproxy_trusted_networks = 10.0.0.1\nclient_allowed_endpoints = gcp:9 azure:7\nservice s {\n \
                inet_listener a {\n address = 127.0.0.1\n port = 10143\n haproxy = yes\n }\n \
                inet_listener b {\n address = 127.0.0.1\n port = 10144\n haproxy = yes\n client_endpoint_missing = allow\n }\n}\n";
    std::fs::write(&file, text).expect("a temporary file");
    let checked = vestibule_run(&["check", "-c", &file.to_string_lossy()], b"");
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
    let lines = [
        "  127.0.0.1:10143 s/a: haproxy from 10.0.0.1/32 within 3 s, clients through azure:7 gcp:9\n",
        "  127.0.0.1:10144 s/b: haproxy from 10.0.0.1/32 within 3 s, clients through azure:7 gcp:9 or none\n",
    ];
    assert!(lines.iter().all(|line| checked.stdout.contains(line)), "{}", checked.stdout);
    std::fs::write(&file, text.replace("azure:7", "azure:x")).expect("a temporary file");
    let checked = vestibule_run(&["check", "-c", &file.to_string_lossy()], b"");
    assert_eq!(checked.code, Some(78));
    let words =
        "line 2: Invalid client_allowed_endpoints: azure:x: expected a number from 0 to 4294967295 behind azure:";
    assert!(checked.stderr.contains(words), "{}", checked.stderr);
}

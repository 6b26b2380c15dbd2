//! The swarm against Vestibule's engine, in this process and on the kernel's rings: what the one says it sent and what
//! the other says it saw must agree.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use vestibule::worker::Whoami;
use vestibule::{Engine, Listener, Pool};

const HEADER_TIMEOUT: Duration = Duration::from_millis(1500);

fn engine() -> Engine {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let trusted = "127.0.0.0/8".parse().expect("a network");
    Engine::builder()
        .pool(Pool::threads("whoami", 2, Whoami))
        .listen(Listener::proxy(any_port).trust([trusted]).timeout(HEADER_TIMEOUT).pool("whoami"))
        .start()
        .expect("rings and a free port")
}

/// Runs the swarm; its JSON and exit code.
fn load(engine: &Engine, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_vestibule-load"))
        .arg(engine.addresses()[0].to_string())
        .args(["--quiet", "--json", "-"])
        .args(arguments)
        .output()
        .expect("the program starts");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code())
}

#[test]
fn honest_connections_of_every_kind_are_answered_right() {
    let mut engine = engine();
    let behaviours = "normal=4,split:1,split:13,bytewise,half-close,local,lazy";
    let (report, code) = load(
        &engine,
        &["-n", "600", "-c", "100", "--header", "mixed", "--gap", "1ms", "--lazy-wait", "300ms", "-b", behaviours],
    );
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["connections"]["ok"], 600);
    let (report, code) = load(&engine, &["-n", "200", "--header", "v2-tlv,unknown", "--payload", r"a1 NOOP\r\n"]);
    assert_eq!(code, Some(0), "payload and TLVs must come back: {report:#}");
    assert!(engine.drain(Duration::from_secs(5)));
}

#[test]
fn every_kind_of_garbage_is_refused_and_counted_under_its_reason() {
    let mut engine = engine();
    let (report, code) = load(&engine, &["-n", "2000", "-c", "50", "-b", "garbage"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(engine.drain(Duration::from_secs(5)));
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    for kind in report["garbage"].as_array().expect("a list") {
        *sent.entry(kind["reason"].as_str().expect("text")).or_default() += kind["count"].as_u64().expect("a number");
    }
    assert!(sent.len() > 15, "all reasons have their turn: {sent:?}");
    let counted = engine.snapshot();
    for (reason, count) in sent {
        assert_eq!(counted.count(reason), count, "{reason}: {:?}", counted.counters());
    }
}

#[test]
fn the_silent_and_the_slow_are_closed_at_their_deadline() {
    let mut engine = engine();
    let (report, code) = load(&engine, &["-n", "100", "-c", "100", "-b", "silent,trickle"]);
    assert_eq!(code, Some(0), "{report:#}");
    let part = |index: usize| &report["behaviours"][index];
    for part in [part(0), part(1)] {
        let earliest = part["latency"]["end"]["min"].as_u64().expect("a number");
        assert!(earliest >= 1_400_000, "closed after {earliest} us: {part:#}");
        assert_eq!(part["ok"], part["started"]);
    }
    assert!(engine.drain(Duration::from_secs(5)));
    let counted = engine.snapshot();
    assert_eq!(counted.count("silent"), part(0)["started"].as_u64().expect("a number"), "{:?}", counted.counters());
    assert_eq!(counted.count("timeout"), part(1)["started"].as_u64().expect("a number"), "{:?}", counted.counters());
}

//! `scrape` and `handshake`.

use std::process::Command;

use serde_json::Value;

use crate::programs::programs;
use crate::skip::record_skip;

#[test]
fn scrape_sets_both_exporters_beside_each_other() {
    beside_haproxy("scrape", &["--rounds", "1", "-n", "5", "--listeners", "3", "--servers", "2"], " samples, ");
}

#[test]
fn handshake_sets_both_servers_beside_each_other() {
    beside_haproxy("handshake", &["--rounds", "1", "-n", "20", "--clients", "2"], " handshakes a second");
}

/// Runs a measurement of both; what it says of each round must contain these words.
fn beside_haproxy(subcommand: &str, arguments: &[&str], words: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = Command::new(programs().join("vestibule-profile"));
    let output = command.arg(subcommand).args(arguments).current_dir(directory.path()).output().expect("it was built");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("haproxy is not installed") {
        return record_skip("haproxy");
    }
    assert!(output.status.success(), "{said}");
    let json = std::fs::read(directory.path().join(format!("vestibule-{subcommand}.json"))).expect("it was written");
    let json: Value = serde_json::from_slice(&json).expect("it is JSON");
    for one in json["measured"].as_array().expect("a list") {
        assert!(one["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{one}");
        assert!(one["rounds"][0]["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{one}");
    }
}

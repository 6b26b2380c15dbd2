//! `scrape`.

use std::process::Command;

use serde_json::Value;

use crate::programs::programs;
use crate::skip::record_skip;

#[test]
fn scrape_sets_both_exporters_beside_each_other() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut scrape = Command::new(programs().join("vestibule-profile"));
    scrape.args(["scrape", "--rounds", "1", "-n", "5", "--listeners", "3", "--servers", "2"]);
    let output = scrape.current_dir(directory.path()).output().expect("the program was built");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("haproxy is not installed") {
        return record_skip("haproxy");
    }
    assert!(output.status.success(), "{said}");
    let json = std::fs::read(directory.path().join("vestibule-scrape.json")).expect("it was written");
    let json: Value = serde_json::from_slice(&json).expect("it is JSON");
    for one in json["measured"].as_array().expect("a list") {
        assert!(one["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{one}");
        assert!(one["rounds"][0]["samples"].as_u64().is_some_and(|samples| samples > 10), "{one}");
    }
}

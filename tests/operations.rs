//! docs/operations.md and the program agree.

use std::collections::BTreeSet;

use serde_json::Value;
use vestibule::Pool;
use vestibule::proxy::Diagnosis;

use crate::support::daemon::{Daemon, vestibule_run};
use crate::support::temp_dir;

const DOCUMENT: &str = include_str!("../docs/operations.md");

/// The names in backquotes in the first cells of the table under `heading`.
fn documented(heading: &str) -> BTreeSet<&'static str> {
    let section = DOCUMENT.split(&format!("\n{heading}\n")).nth(1).expect("a section of that name");
    let section = section.split("\n#").next().expect("a first part");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

fn assert_same(documented: &BTreeSet<&str>, existing: &BTreeSet<&str>) {
    let missing: Vec<_> = existing.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(existing).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:?}; documented only: {unknown:?}");
}

#[test]
fn every_counter_is_documented_and_nothing_else() {
    let directory = temp_dir();
    let socket = directory.path().join("takeover.sock").to_string_lossy().into_owned();
    let (daemon, _) = Daemon::haproxy(&format!("takeover_socket = {socket}"), "");
    daemon.wait_for_output("is ready");
    let told = vestibule_run(&["ctl", "stats", "--json", "--socket", &socket], b"").stdout;
    let told: Value = serde_json::from_str(&told).expect("one line of JSON");
    let counters = told["counters"].as_object().expect("counters by name");
    let counters = counters.keys().map(String::as_str).collect();
    assert_same(&documented("## Counters"), &counters);
}

#[test]
fn every_diagnosis_is_documented_and_nothing_else() {
    assert_same(&documented("### Diagnoses"), &Diagnosis::ALL.map(Diagnosis::code).into_iter().collect());
}

#[test]
fn the_packaged_configuration_is_right() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/vestibule.conf");
    let checked = vestibule_run(&["check", "-c", file], b"");
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
}

#[test]
fn the_security_document_names_real_bounds() {
    let document = include_str!("../docs/security.md");
    for bound in [
        format!("`PENDING_LIMIT_DEFAULT` {}", vestibule::engine::PENDING_LIMIT_DEFAULT),
        format!("`V1_LENGTH_MAX` {}", vestibule::proxy::V1_LENGTH_MAX),
        format!("`HEADER_DEFAULT` {}", vestibule::config::HEADER_DEFAULT),
        format!("`TIMEOUT_DEFAULT` {} s", vestibule::engine::TIMEOUT_DEFAULT.as_secs()),
        format!("`QUEUE_DEFAULT` {}", Pool::QUEUE_DEFAULT),
        format!("`CLIENTS_DEFAULT` {}", vestibule::admission::CLIENTS_DEFAULT),
        format!("`SIZE_MAX` {} MiB", vestibule::config::SIZE_MAX >> 20),
        format!("`BACKLOG` {}", vestibule::ring::BACKLOG),
        format!("`LONG_MAX` {}", vestibule::ring::LONG_MAX),
        format!("`BATCH_MAX` {}", vestibule::ring::BATCH_MAX),
    ] {
        assert!(document.contains(&bound), "docs/security.md does not say: {bound}");
    }
}

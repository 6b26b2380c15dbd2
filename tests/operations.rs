//! docs/operations.md and the program agree.

use std::collections::BTreeSet;

use vestibule::{Accepted, Engine, Pool};

const DOCUMENT: &str = include_str!("../docs/operations.md");

/// The names in backquotes in the first cells of the counters' table.
fn documented() -> BTreeSet<&'static str> {
    let counters = DOCUMENT.split("\n## Counters\n").nth(1).expect("a section of that name");
    let counters = counters.split("\n## ").next().expect("a first part");
    let rows = counters.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().expect("a name")).collect()
}

#[test]
fn every_counter_is_documented_and_nothing_else() {
    let mut engine =
        Engine::builder().pool(Pool::threads("none", 1, |_: Accepted| {})).start().expect("an idle engine");
    let counters: BTreeSet<&str> = engine.snapshot().counters().iter().map(|(name, _)| *name).collect();
    assert!(engine.drain(crate::support::PATIENCE));
    let documented = documented();
    let missing: Vec<_> = counters.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&counters).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:?}; documented only: {unknown:?}");
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

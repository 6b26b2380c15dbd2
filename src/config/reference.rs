//! The tables of docs/configuration.md, made of the declarations and held against them.
//!
//! `VESTIBULE_WRITE_DOCS=1 cargo test --lib config::reference` writes them anew.

use std::path::Path;
use std::{env, fs};

use super::{Known, SETTINGS, Scope, dump};

/// Under which heading the document has the settings that are declared for a place first.
const TABLES: [(Scope, &str); 5] = [
    (Scope::Global, "### Outside all sections\n"),
    (Scope::Service, "### In `service NAME { }`\n"),
    (Scope::Listener, "### In `inet_listener NAME { }`\n"),
    (Scope::Backend, "### In `backend NAME { }`\n"),
    (Scope::Server, "### In `server NAME { }`\n"),
];

const HEAD: &str = "| setting | default | meaning |\n|---|---|---|\n";

fn row(known: &Known) -> String {
    let default = known.scopes.iter().find_map(|&scope| dump::default_of(scope, known.name));
    let default = default.filter(|text| !text.is_empty()).map_or("none".to_owned(), |text| format!("`{text}`"));
    format!("| `{}` | {default} | {} |\n", known.name, known.meaning)
}

fn table(scope: Scope) -> String {
    SETTINGS.iter().filter(|known| known.scopes[0] == scope).map(row).collect()
}

/// The document with its tables as they should be.
fn rewritten(document: &str) -> String {
    TABLES.iter().fold(document.to_owned(), |document, (scope, heading)| {
        let (before, below) = document.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
        let (text, rows) = below.split_once(HEAD).unwrap_or_else(|| panic!("no table below {heading}"));
        let (_, after) = rows.split_once("\n\n").expect("text behind the table");
        format!("{before}{heading}{text}{HEAD}{}\n{after}", table(*scope))
    })
}

#[test]
fn the_documents_tables_are_those_of_the_declarations() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let present = fs::read_to_string(&file).expect("it is there");
    let wanted = rewritten(&present);
    if env::var_os("VESTIBULE_WRITE_DOCS").is_some() {
        fs::write(&file, &wanted).expect("it can be written");
    }
    let differs = present.lines().zip(wanted.lines()).find(|(present, wanted)| present != wanted);
    assert!(present == wanted, "write it anew with VESTIBULE_WRITE_DOCS=1: {differs:?}");
}

#[test]
fn a_setting_is_declared_once_for_each_place() {
    for (index, known) in SETTINGS.iter().enumerate() {
        let again =
            |other: &Known| other.name == known.name && other.scopes.iter().any(|one| known.scopes.contains(one));
        assert!(!SETTINGS[..index].iter().any(again), "{}", known.name);
        assert!(!known.meaning.contains(['\n', '|']) && !known.meaning.ends_with('.'), "{}: a cell", known.name);
    }
}

#[test]
fn what_is_shown_is_declared() {
    let loaded = super::builtin();
    let shown = dump::dump(&loaded, true);
    for name in shown.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim()) {
        let known = SETTINGS.iter().any(|known| known.name == name);
        assert!(known || name.starts_with('#'), "{name}");
    }
}

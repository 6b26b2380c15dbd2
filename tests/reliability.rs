//! docs/reliability.md names only tests that exist.

use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../docs/reliability.md");

/// The names in backquotes with a module in front: `module::test`.
fn named() -> Vec<&'static str> {
    let quoted = DOCUMENT.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains("::") && !name.contains(' ')).collect()
}

#[test]
fn every_test_that_the_document_names_exists() {
    let names = named();
    assert!(names.len() > 30, "the document names its tests");
    let missing: Vec<_> = names.into_iter().filter(|name| !is_test(name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_row_names_one() {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault"));
    let without: Vec<_> = rows.filter(|row| !row.contains("::")).collect();
    assert!(without.is_empty(), "{without:#?}");
}

/// Whether a `#[test]` of that name stands in one of the files where its module may be.
fn is_test(name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").expect("a module and a test");
    let text = files(module).into_iter().find_map(|file| fs::read_to_string(file).ok());
    let signature = format!("#[test]\nfn {function}()");
    text.is_some_and(|text| text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n").contains(&signature))
}

/// `tests` at the end is a module inside its parent's file, or a file of its own.
fn files(module: &str) -> Vec<PathBuf> {
    let path = module.replace("::", "/");
    let parent = path.strip_suffix("/tests").unwrap_or(&path);
    let package = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let candidates = [
        format!("tests/{path}.rs"),
        format!("src/{path}.rs"),
        format!("src/{path}/mod.rs"),
        format!("src/{parent}.rs"),
        format!("daemon/src/{path}.rs"),
        format!("daemon/src/{path}/mod.rs"),
        format!("daemon/src/{parent}.rs"),
        format!("proxy/src/{path}.rs"),
        format!("proxy/src/{path}/mod.rs"),
        format!("proxy/src/{parent}.rs"),
    ];
    candidates.into_iter().map(|file| package.join(file)).collect()
}

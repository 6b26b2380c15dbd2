//! The architecture's rules, read from the sources: which module may import which, where `unsafe` may stand, and what a
//! pure module must not know.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the library may import from the crate. Whatever is not listed here, a module must not know. Of
/// `proxy`, modules other than `conn` take its types only: see [`MUST_NOT_SAY`].
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("scan", &[]),
    ("ring", &[]),
    ("stats", &[]),
    ("metrics", &["stats"]),
    ("proxy", &["scan"]),
    ("tokio", &["proxy"]),
    ("admission", &["net", "proxy"]),
    ("dispatch", &["net", "proxy", "stats"]),
    ("tls", &["dispatch", "proxy"]),
    ("conn", &["admission", "net", "proxy"]),
    ("worker", &["dispatch", "proxy", "stats"]),
    ("relay", &["net", "proxy", "stats"]),
    ("backend", &["net", "proxy", "relay", "stats"]),
    ("config", &["admission", "backend", "dispatch", "net", "proxy", "relay"]),
    (
        "engine",
        &["admission", "backend", "conn", "dispatch", "metrics", "net", "proxy", "relay", "ring", "stats", "tls"],
    ),
    ("takeover", &["engine", "relay", "ring"]),
];

/// The only places with `unsafe`.
const UNSAFE_PLACES: &[&str] = &["src/ring/", "proxy/src/scan/x86_64.rs"];

/// Where the library's modules stand: `scan`, `proxy` and its adapter to tokio are a crate of their own, which the library
/// re-exports.
const ROOTS: &[&str] = &["src/", "proxy/src/"];

/// Modules that cannot forbid `unsafe_code`: it lives below them, and a child cannot allow again what its parent forbids.
const CANNOT_FORBID: &[&str] = &["ring", "scan"];

/// Words that a module's code (not its tests) must not contain, for what it must not know.
const MUST_NOT_SAY: &[(&str, &[&str])] = &[
    ("net", CLOCK_AND_SOCKETS),
    ("scan", CLOCK_AND_SOCKETS),
    ("proxy", &["std::", "alloc::", "Vec<", "String", "Box<", "Instant", "SystemTime"]),
    ("admission", CLOCK_AND_SOCKETS),
    ("conn", CLOCK_AND_SOCKETS),
    ("relay", CLOCK_AND_SOCKETS),
    ("backend", CLOCK_AND_SOCKETS),
    ("metrics", CLOCK_AND_SOCKETS),
    ("ring", &["proxy", "haproxy", "PROXY"]),
    ("dispatch", &["decode("]),
    // It reads files of certificates, and has a word for the kernel there.
    ("tls", &["Instant::now", "SystemTime", "TcpStream", "TcpListener", "UdpSocket", "io_uring::", "decode("]),
    ("worker", &["decode("]),
    ("config", &["decode("]),
    ("engine", &["decode("]),
];

const CLOCK_AND_SOCKETS: &[&str] =
    &["Instant::now", "SystemTime", "TcpStream", "TcpListener", "UdpSocket", "libc::", "io_uring::"];

#[test]
fn the_readme_names_no_registry_and_says_that_nothing_is_published() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("there is one");
    for registry in [concat!("crates", ".io"), "docs.rs", "lib.rs", "cargo add", "registry"] {
        assert!(!readme.contains(registry), "{registry}");
    }
    assert!(readme.contains("It is not published yet"));
}

#[test]
fn modules_import_only_from_their_row() {
    let known: BTreeSet<&str> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    let mut wrong = Vec::new();
    for source in library_sources() {
        let Some(module) = source.module() else { continue };
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: module `{module}` has no row in the table", source.name));
            continue;
        };
        for (line, import) in source.crate_imports() {
            let public_name = !known.contains(&*import);
            if import != module && (public_name || !allowed.contains(&&*import)) {
                wrong.push(format!("{}:{line}: `{module}` must not import `{import}`", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    // Each row may name only rows whose own imports are settled already.
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    let mut rows = MAY_IMPORT.to_vec();
    while !rows.is_empty() {
        let before = rows.len();
        rows.retain(|(module, imports)| {
            let ready = imports.iter().all(|import| settled.contains(import));
            if ready {
                settled.insert(module);
            }
            !ready
        });
        assert!(rows.len() < before, "a circle among {rows:?}");
    }
}

#[test]
fn unsafe_stands_only_in_its_places_and_with_its_reason() {
    let mut wrong = Vec::new();
    for source in all_sources() {
        let may = UNSAFE_PLACES.iter().any(|place| source.name.starts_with(place));
        for (line, text) in source.code_lines() {
            let has_unsafe = words(text).any(|word| word == "unsafe");
            if !may && (has_unsafe || text.contains("allow(unsafe_code)")) {
                wrong.push(format!("{}:{line}: `unsafe` outside {UNSAFE_PLACES:?}", source.name));
            }
            if has_unsafe && (text.contains("unsafe {") || text.contains("unsafe impl")) && !source.has_reason(line) {
                wrong.push(format!("{}:{line}: no `// SAFETY:` before this block", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_forbid_unsafe_and_the_roots_deny_it() {
    let mut wrong = Vec::new();
    for (module, _) in MAY_IMPORT {
        let Some(root) = module_root(module) else { continue };
        let forbids = root.text.contains("#![forbid(unsafe_code)]");
        if forbids == CANNOT_FORBID.contains(module) {
            wrong.push(format!("{}: forbid(unsafe_code) is {forbids}", root.name));
        }
    }
    for root in ROOTS {
        assert!(read(&format!("{root}lib.rs")).contains("#![deny(unsafe_code)]"), "{root}lib.rs denies unsafe code");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_do_not_say_what_they_must_not_know() {
    let mut wrong = Vec::new();
    for source in library_sources() {
        let Some((_, words)) = MUST_NOT_SAY.iter().find(|(name, _)| Some(*name) == source.module()) else { continue };
        for (line, text) in source.lines_outside_tests() {
            for word in words.iter().filter(|word| text.contains(**word)) {
                wrong.push(format!("{}:{line}: says `{word}`", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_daemon_knows_nothing_of_the_command_line() {
    let daemon = sources_below("daemon/src/daemon");
    assert!(daemon.len() > 20, "the sources are found");
    let importing =
        daemon.into_iter().filter(|source| source.crate_imports().iter().any(|(_, import)| import == "cli"));
    assert_eq!(importing.map(|source| source.name).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_reader_sees_what_it_should() {
    let source = Source {
        name: "src/conn/mod.rs".into(),
        text: "use crate::{net::Network, ring::{Ring, Token}};\n// crate::engine in a comment\nuse super::engine::X;\n\
               fn f() { crate::scan::find(b\"\") }\n"
            .into(),
    };
    let imports: Vec<String> = source.crate_imports().into_iter().map(|(_, import)| import).collect();
    assert_eq!(imports, ["net", "ring", "engine", "scan"]);
    let nested = Source { name: "src/conn/slab.rs".into(), text: "use super::engine::X;\n".into() };
    assert!(nested.crate_imports().is_empty(), "there `super` is the module itself");
    let root = Source { name: "src/conn/mod.rs".into(), text: "#[cfg(test)]\nmod tests;\nmod slab;\n".into() };
    assert_eq!(root.test_modules(), ["src/conn/tests/", "src/conn/tests.rs"]);
    let mixed = "struct A {\n    #[cfg(test)]\n    seen: u8,\n    there: u8,\n}\n#[cfg(test)]\nimpl A {\n    fn f(\n    ) {\n    }\n}\n\
                 fn g() {\n    #[cfg(test)]\n    self.push(\n        1,\n    );\n    here();\n}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\nfn last() {}\n";
    let mixed = Source { name: "src/conn/mod.rs".into(), text: mixed.into() };
    let seen: Vec<&str> = mixed.lines_outside_tests().map(|(_, text)| text.trim()).collect();
    assert_eq!(seen, ["struct A {", "there: u8,", "}", "fn g() {", "here();", "}", "fn last() {}"]);
    assert!(library_sources().iter().any(|source| source.name == "proxy/src/proxy/mod.rs"), "the sources are found");
}

struct Source {
    /// Path from the repository's root.
    name: String,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to; none for the crate root and the program's own files.
    fn module(&self) -> Option<&str> {
        let path = ROOTS.iter().find_map(|root| self.name.strip_prefix(root))?;
        match path.split_once('/') {
            Some((module, _)) => Some(module),
            None => path.strip_suffix(".rs").filter(|file| *file != "lib"),
        }
    }

    /// The beginnings of the paths of the modules that this file declares for tests only.
    fn test_modules(&self) -> Vec<String> {
        let children = self
            .name
            .strip_suffix("mod.rs")
            .map_or_else(|| format!("{}/", self.name.trim_end_matches(".rs")), str::to_owned);
        let lines: Vec<&str> = self.text.lines().map(str::trim).collect();
        let declared = lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg(test)]"));
        let names = declared
            .filter_map(|pair| pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';'));
        names.flat_map(|name| [format!("{children}{name}/"), format!("{children}{name}.rs")]).collect()
    }

    /// Line number from 1, and the line without its comment.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line)))
    }

    /// The same without what stands behind `#[cfg(test)]`: one item, field or statement, as rustfmt sets it. It ends with the
    /// first line that is indented as the attribute is and does not go on.
    fn lines_outside_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let indent = |text: &str| text.len() - text.trim_start().len();
        let mut skipped: Option<usize> = None;
        self.code_lines().filter(move |(_, text)| {
            let code = text.trim();
            match skipped {
                None if code == "#[cfg(test)]" => skipped = Some(indent(text)),
                None => return true,
                Some(from) if !code.is_empty() && indent(text) == from && code.ends_with([';', ',', '}']) => {
                    skipped = None;
                }
                Some(_) => {}
            }
            false
        })
    }

    /// Every module of the crate that the code names, by `crate::` anywhere or by `super::` from a module's root file.
    fn crate_imports(&self) -> Vec<(usize, String)> {
        let is_root = self.module().is_some_and(|module| {
            ROOTS
                .iter()
                .any(|root| self.name == format!("{root}{module}/mod.rs") || self.name == format!("{root}{module}.rs"))
        });
        let mut found = Vec::new();
        for (line, text) in self.code_lines() {
            for rest in text.split("crate::").skip(1) {
                found.extend(first_names(rest).into_iter().map(|name| (line, name)));
            }
            if is_root && !text.starts_with(char::is_whitespace) {
                for rest in text.split("super::").skip(1) {
                    found.extend(first_names(rest).into_iter().map(|name| (line, name)));
                }
            }
        }
        found
    }

    /// Whether the comment nearest above `line` is a SAFETY reason; attributes and the start of the statement may stand
    /// between.
    fn has_reason(&self, line: usize) -> bool {
        const NEAR: usize = 4;
        let above: Vec<&str> = self.text.lines().take(line - 1).map(str::trim).collect();
        let is_comment = |text: &&&str| text.starts_with("//");
        let skipped = above.iter().rev().take(NEAR).position(|text| text.starts_with("//"));
        skipped.is_some_and(|skipped| {
            above.iter().rev().skip(skipped).take_while(is_comment).any(|text| text.contains("SAFETY:"))
        })
    }
}

/// The first path segments of what follows `crate::`: one name, or those of a brace group.
fn first_names(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![words(rest).next().unwrap_or_default().to_owned()];
    };
    let mut names = Vec::new();
    let (mut depth, mut fresh) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && (c.is_alphanumeric() || c == '_') => {
                names.push(words(&group[at..]).next().unwrap_or_default().to_owned());
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The library's sources without whole files of tests. The program, in `daemon/`, sees only its public face because it is
/// another crate.
fn library_sources() -> Vec<Source> {
    let mut sources: Vec<Source> = ROOTS.iter().flat_map(|root| sources_below(root)).collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    sources.retain(|source| !tests.iter().any(|test| source.name.starts_with(test)));
    sources
}

/// The sources of every crate of the workspace, tests and benches included.
fn all_sources() -> Vec<Source> {
    ["src", "proxy", "daemon", "tests", "benches", "examples", "tools"].into_iter().flat_map(sources_below).collect()
}

fn module_root(module: &str) -> Option<Source> {
    ROOTS
        .iter()
        .flat_map(|root| [format!("{root}{module}/mod.rs"), format!("{root}{module}.rs")])
        .find(|name| repository().join(name).is_file())
        .map(|name| Source { text: read(&name), name })
}

fn sources_below(directory: &str) -> Vec<Source> {
    let mut files = Vec::new();
    collect_files(&repository().join(directory), &mut files);
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let name = file.strip_prefix(repository()).expect("it lies below").to_string_lossy().into_owned();
            Source { text: read(&name), name }
        })
        // This file speaks of what it forbids.
        .filter(|source| source.name != "tests/layers.rs")
        .collect()
}

fn collect_files(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.map(|entry| entry.expect("a readable directory")) {
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

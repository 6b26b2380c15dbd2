//! What a program gets that takes the library as a dependency: nothing of the daemon's.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::skip;
use crate::support::process::run;

/// What adding the library brings, by itself: all of it, so that whoever adds a crate names it here and in the table of
/// docs/architecture.md.
const OF_THE_LIBRARY: [&str; 9] = [
    "crossbeam-channel",
    "hdrhistogram",
    "io-uring",
    "ipnet",
    "libc",
    "rustix",
    "socket2",
    "tracing",
    "vestibule-proxy",
];
/// What only the daemon needs.
const OF_THE_DAEMON: [&str; 12] = [
    "clap",
    "flate2",
    "hyper",
    "hyper-util",
    "listenfd",
    "nix",
    "sd-notify",
    "serde",
    "serde_json",
    "signal-hook",
    "tokio",
    "tracing-subscriber",
];

/// The crates that a package needs to be built with these features, to a depth.
fn needed(package: &str, features: &[&str], depth: &str) -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    tree.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--depth", depth]);
    tree.args(["--package", package]).args(features);
    let done = run(tree, b"");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let names = done.stdout.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    names.filter(|name| name != package).collect()
}

#[test]
fn adding_the_library_brings_no_daemon() {
    if !Path::new(env!("CARGO")).is_file() {
        skip!("cargo");
    }
    assert_eq!(needed("vestibule", &[], "1"), OF_THE_LIBRARY.map(str::to_owned).into());
    let all = needed("vestibule", &[], "99");
    let brought: Vec<_> = OF_THE_DAEMON.iter().filter(|name| all.contains(**name)).collect();
    assert!(brought.is_empty(), "{brought:?}");
    // The names are those of crates, or the above would show nothing.
    let of_the_daemon = needed("vestibule-daemon", &[], "1");
    let unknown: Vec<_> = OF_THE_DAEMON.iter().filter(|name| !of_the_daemon.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_decoder_needs_next_to_nothing() {
    if !Path::new(env!("CARGO")).is_file() {
        skip!("cargo");
    }
    assert_eq!(needed("vestibule-proxy", &["--no-default-features"], "99"), ["cpufeatures".to_owned()].into());
    assert_eq!(needed("vestibule-proxy", &[], "1"), ["cpufeatures", "crc32c"].map(str::to_owned).into());
}

/// `cargo run --release` at the top, as the first lines of the README have it, means the daemon.
#[test]
fn the_daemon_is_what_runs_where_no_package_is_named() {
    let manifest = include_str!("../Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("default-members = ")).expect("they are named");
    assert!(members.contains("\"daemon\""), "{members}");
    let daemon = include_str!("../daemon/Cargo.toml");
    assert_eq!(daemon.matches("[[bin]]").count(), 1);
    assert!(!manifest.contains("[[bin]]") && daemon.contains("[[bin]]\nname = \"vestibule\""));
}

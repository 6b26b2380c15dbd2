//! Gives the crate its version with the commit that it is built from, where there is one.

use std::env;
use std::path::Path;
use std::process::Command;

/// What library and daemon are built from: what else is changed makes no other program.
const SOURCES: [&str; 6] = ["src", "proxy", "daemon", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    SOURCES.into_iter().for_each(run_again_with);
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // Only in its own repository: for a copy within another one git would name that one's commit.
    let commit = Path::new(".git").exists().then(commit).flatten();
    let version = commit.map_or(version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=VESTIBULE_VERSION={version}");
}

/// The commit, with `-dirty` behind it if the sources differ; none where git does not tell.
fn commit() -> Option<String> {
    // One of the two changes with every commit and checkout.
    for name in ["HEAD", "logs/HEAD"] {
        run_again_with(&git(&["rev-parse", "--git-path", name])?);
    }
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changes = git(&[["--no-optional-locks", "status", "--porcelain", "--"].as_slice(), &SOURCES].concat())?;
    Some(if changes.is_empty() { commit } else { commit + "-dirty" })
}

/// What is not there would have this run at every build.
fn run_again_with(path: &str) {
    if Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

//! `vestibule --version` names the build.

use std::path::Path;
use std::process::Command;

use crate::skip;

fn told(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn the_version_names_the_commit_that_was_built() {
    let version = told(env!("CARGO_BIN_EXE_vestibule"), &["--version"]).expect("it tells its version");
    assert_eq!(version, format!("vestibule {}", vestibule::VERSION), "the daemon's is the library's");
    let head = ["-C", concat!(env!("CARGO_MANIFEST_DIR"), "/.."), "rev-parse", "--short=10", "HEAD"];
    let own = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(".git").exists();
    let Some(commit) = own.then(|| told("git", &head)).flatten() else { skip!("a git checkout and git") };
    let expected = format!("vestibule {} ({commit}", env!("CARGO_PKG_VERSION"));
    let rest = version.strip_prefix(&expected);
    assert!(matches!(rest, Some(")" | "-dirty)")), "{version}, of {commit}");
}

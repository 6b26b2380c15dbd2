//! `./tests/run` itself: what it says before it installs anything, and that it can be told not to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::needs;
use crate::support::process::{Finished, run};
use crate::support::temp_dir;

/// Runs the script where most programs are missing, as root by its own eyes, on stand-ins that only say that they ran.
fn run_script(arguments: &[&str]) -> Finished {
    let directory = temp_dir();
    for (name, script) in [
        ("apt-get", "echo \"apt-get $*\" >>\"$STAND_IN_LOG\"; exit 0"),
        ("cargo", "echo \"cargo $*\" >>\"$STAND_IN_LOG\"; echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 x'"),
        ("id", "echo 0"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).expect("it is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    for tool in
        ["bash", "dirname", "mktemp", "rm", "sort", "tee", "awk", "sed", "wc", "tail", "tr", "cat", "chmod", "setpriv"]
    {
        let real = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        let real = real.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{tool} is everywhere"));
        symlink(real, directory.path().join(tool)).expect("it is ours");
    }
    let log = directory.path().join("log");
    fs::write(&log, "").expect("it is ours");
    let mut command = Command::new("/bin/bash");
    command.arg(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/run")).args(arguments);
    command.env("PATH", directory.path()).env("STAND_IN_LOG", &log);
    let mut finished = run(command, b"");
    finished.stderr.push_str(&fs::read_to_string(&log).expect("it is ours"));
    finished
}

#[test]
fn it_says_what_it_installs_and_what_for() {
    needs!("setpriv");
    let finished = run_script(&["--lib", "x"]);
    let said = &finished.stdout;
    assert!(said.contains("will be installed now"), "{finished:?}");
    assert!(said.contains("  swaks                a sender of headers\n"), "{finished:?}");
    let installed = finished.stderr.lines().find(|line| line.contains("install -y")).expect("the stand-in was called");
    assert!(installed.contains(" swaks") && installed.contains(" socat"), "{installed}");
    assert!(finished.stderr.contains("cargo test --workspace --all-features --no-fail-fast --lib x\n"), "{finished:?}");
    assert!(said.ends_with("3 passed, 0 failed, 0 skipped\n"), "{finished:?}");
}

#[test]
fn it_can_be_told_to_install_nothing() {
    needs!("setpriv");
    let finished = run_script(&["--no-install", "--lib"]);
    assert!(!finished.stderr.contains("apt-get"), "{finished:?}");
    assert!(finished.stdout.contains("so tests will be skipped (apt-get install "), "{finished:?}");
    assert!(finished.stdout.contains("  socat                a client of sockets\n"), "{finished:?}");
    assert!(finished.stderr.contains("--no-fail-fast --lib\n"), "{finished:?}");
}

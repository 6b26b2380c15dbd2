//! `vestibule-load` as a client of the daemon under test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A run of the swarm: everything it reports, as its manual describes.
#[derive(Debug)]
pub struct Report(Value);

/// Runs `vestibule-load` against `target` to its end. The program bounds itself in time.
pub fn load(target: SocketAddr, arguments: &[&str]) -> Report {
    report(command(&[], target, arguments))
}

/// The same under another program, such as nsenter(1).
pub fn load_under(wrapper: &[&str], target: SocketAddr, arguments: &[&str]) -> Report {
    report(command(wrapper, target, arguments))
}

/// A run that goes on beside the test; ended when dropped.
pub struct Background(std::process::Child);

/// Starts `vestibule-load` and leaves it running.
pub fn load_beside(target: SocketAddr, arguments: &[&str]) -> Background {
    let mut command = command(&[], target, arguments);
    Background(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("vestibule-load starts"))
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Report {
    /// A number by its path, such as `/connections/ok`.
    pub fn number(&self, pointer: &str) -> u64 {
        let value = self.0.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number at {pointer} in {:#}", self.0)) as u64
    }

    /// Connections that a behaviour has started, all of which must have ended as they deserve.
    pub fn all_ok(&self, behaviour: &str) -> u64 {
        let part = self.list("behaviours").iter().find(|part| part["name"] == behaviour);
        let part = part.unwrap_or_else(|| panic!("no {behaviour} in {:#}", self.0));
        assert_eq!(part["ok"], part["started"], "{behaviour}: {:#}", self.0);
        part["ok"].as_u64().expect("a count")
    }

    /// Every kind of garbage that was sent: the reason for which it must be refused, and how often.
    pub fn garbage(&self) -> impl Iterator<Item = (&str, u64)> {
        let kinds = self.list("garbage").iter();
        kinds.map(|kind| (kind["reason"].as_str().expect("a code"), kind["count"].as_u64().expect("a count")))
    }

    /// Panics unless every connection has ended as it deserves.
    pub fn assert_ok(&self) {
        assert_eq!(self.number("/connections/ok"), self.number("/connections/started"), "{:#}", self.0);
        assert_eq!(self.number("/connections/not_started"), 0, "{:#}", self.0);
    }

    fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().unwrap_or_else(|| panic!("no {key} in {:#}", self.0))
    }
}

/// Has it built now: whoever waits for what a load does must not wait for cargo.
pub fn prepare() {
    program();
}

fn report(mut command: Command) -> Report {
    let output = command.output().expect("vestibule-load starts");
    let told = || format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Report(serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told())))
}

fn command(wrapper: &[&str], target: SocketAddr, arguments: &[&str]) -> Command {
    let mut words = wrapper.iter().map(Path::new).chain([program()]);
    let mut command = Command::new(words.next().expect("the program at least"));
    command.args(words).arg(target.to_string()).args(["--quiet", "--json", "-"]).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// Beside the daemon. Whether it is up to date only cargo knows, which a test of this package alone does not ask for it; on
/// a machine without cargo (`tests/old-kernel`) it is the one that was put there.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let directory = Path::new(env!("CARGO_BIN_EXE_vestibule")).parent().expect("it is in a directory");
        let cargo = Path::new(env!("CARGO"));
        if cargo.is_file() {
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--package", "vestibule-load", "--target-dir"]);
            build.arg(directory.parent().expect("target/PROFILE"));
            build.args((directory.file_name() == Some("release".as_ref())).then_some("--release"));
            assert!(build.status().expect("cargo runs").success(), "vestibule-load does not build");
        }
        directory.join("vestibule-load")
    })
}

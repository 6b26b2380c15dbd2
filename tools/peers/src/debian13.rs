//! Debian 13's mail servers, which `tools/debian13` unpacks into a folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder, which is fetched if this is the first to ask.
///
/// # Errors
/// Why it cannot be had here.
pub fn folder() -> Result<&'static Path, &'static str> {
    static ROOT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ROOT.get_or_init(fetched).as_deref().map_err(String::as_str)
}

/// A program of it, to be given arguments. It sees only files of the folder: hand the others in by standard input.
pub fn command_in(root: &Path, program: &str) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).arg(program);
    command
}

/// A path as a process sees it that is locked into `root`.
///
/// # Panics
/// If it does not lie there.
pub fn seen_from(root: Option<&Path>, path: &Path) -> PathBuf {
    match root {
        Some(root) => Path::new("/").join(path.strip_prefix(root).expect("it lies in the folder")),
        None => path.to_owned(),
    }
}

fn fetched() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../debian13");
    let output = Command::new(script).output().map_err(|error| format!("tools/debian13 does not start: {error}"))?;
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end())),
        // What the script knows that it cannot do. Anything else is a fault of it.
        Some(77) => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_string()),
        _ => panic!("tools/debian13 failed: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

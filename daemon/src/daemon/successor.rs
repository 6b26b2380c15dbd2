//! SIGUSR2: this process starts the program anew, so that it takes over. Started as its child, the new process belongs to
//! the same service and control group, which is what a service manager wants.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the kernel adds to the name of a program that was replaced since it was started (proc_pid_exe(5)).
const REPLACED: &str = " (deleted)";

/// Starts the program that is now where this one came from, to take over at `socket` with the configuration in `file`, and
/// tells its number.
///
/// # Errors
/// If there is no such program, or no process can be had, in words.
pub fn start(file: Option<&Path>, socket: &Path) -> Result<u32, String> {
    let program = program(&std::env::current_exe().map_err(|error| error.to_string())?);
    let mut command = Command::new(&program);
    command.arg("serve").args(file.iter().flat_map(|file| [Path::new("-c"), file]));
    command.arg("--takeover").arg(socket).stdin(Stdio::null());
    // They speak of this process; without WATCHDOG_PID the watchdog is whoever's it reaches (sd_watchdog_enabled(3)).
    for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    let child = command
        .spawn()
        .map_err(|error| format!("{}: {error}{}: install the program there", program.display(), remark(&error)))?;
    tracing::info!(event = "takeover", "process {} is started to take over", child.id());
    Ok(child.id()) // SIGCHLD tells of its end
}

/// What the system's words do not say of a program that cannot be started.
fn remark(error: &io::Error) -> &'static str {
    match error.kind() {
        // execve(2) says so also of a program whose interpreter is missing.
        io::ErrorKind::NotFound => "; the program, or what it needs to be loaded, is not there",
        io::ErrorKind::PermissionDenied => "; it must be executable for the user that the daemon runs as",
        _ => "",
    }
}

fn program(running: &Path) -> PathBuf {
    match running.to_str().and_then(|name| name.strip_suffix(REPLACED)) {
        Some(name) => name.into(),
        None => running.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_found_at_its_place() {
        assert_eq!(program(Path::new("/usr/bin/vestibule (deleted)")), Path::new("/usr/bin/vestibule"));
        assert_eq!(program(Path::new("/usr/bin/vestibule")), Path::new("/usr/bin/vestibule"));
    }
}

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
/// If there is no such program, or no process can be had.
pub fn start(file: Option<&Path>, socket: &Path) -> io::Result<u32> {
    let mut command = Command::new(program(&std::env::current_exe()?));
    command.arg("serve").args(file.iter().flat_map(|file| [Path::new("-c"), file]));
    command.arg("--takeover").arg(socket).stdin(Stdio::null());
    // They speak of this process; without WATCHDOG_PID the watchdog is whoever's it reaches (sd_watchdog_enabled(3)).
    for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    let child = command.spawn()?;
    tracing::info!(event = "takeover", "process {} is started to take over", child.id());
    Ok(child.id()) // SIGCHLD tells of its end
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

//! The daemon under test.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::client::loopback;
use super::process::{Finished, Process, run};

/// The program that was built with these tests.
pub fn vestibule() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vestibule"))
}

/// Runs `vestibule` with `arguments` to its end.
pub fn vestibule_run(arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = vestibule();
    command.args(arguments);
    run(command, input)
}

/// The configuration with `driver =` what `VESTIBULE_TEST_DRIVER` says, unless it has a driver of its own: so the whole suite
/// can be run on each.
pub fn on_driver(configuration: &str) -> String {
    match std::env::var("VESTIBULE_TEST_DRIVER") {
        Ok(driver) if !configuration.contains("driver = ") => format!("{configuration}\ndriver = {driver}\n"),
        _ => configuration.to_owned(),
    }
}

/// `vestibule serve` on a configuration of its own, ended when dropped.
pub struct Daemon {
    process: Process,
    /// Holds its configuration.
    directory: TempDir,
}

impl Daemon {
    /// Starts it on `configuration` and waits until it listens on every `ports` of 127.0.0.1.
    pub fn start(configuration: &str, ports: &[u16]) -> Daemon {
        Daemon::start_under(&[], configuration, ports)
    }

    /// The same under a program that changes its limits or rights and then becomes it, such as prlimit(1).
    pub fn start_under(wrapper: &[&str], configuration: &str, ports: &[u16]) -> Daemon {
        let (command, directory) = Daemon::command(wrapper, configuration);
        let addresses: Vec<SocketAddr> = ports.iter().map(|&port| loopback(port)).collect();
        let process = Process::start_listening(command, &addresses);
        let daemon = Daemon { process, directory };
        for port in ports {
            daemon.wait_for_output(&format!(":{port}"));
        }
        daemon
    }

    /// Starts it to take over from the daemon whose `takeover_socket` is `path`; it may fail.
    pub fn taking_over(path: &Path, configuration: &str) -> Daemon {
        Daemon::taking_over_under(&[], path, configuration)
    }

    /// The same under another program.
    pub fn taking_over_under(wrapper: &[&str], path: &Path, configuration: &str) -> Daemon {
        let (mut command, directory) = Daemon::command(wrapper, configuration);
        command.arg("--takeover").arg(path);
        Daemon { process: Process::start(command), directory }
    }

    fn command(wrapper: &[&str], configuration: &str) -> (Command, TempDir) {
        let directory = super::temp_dir();
        let file = directory.path().join("vestibule.conf");
        std::fs::write(&file, on_driver(configuration)).expect("the configuration can be written");
        let mut command = match wrapper {
            [] => vestibule(),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(vestibule().get_program());
                command
            }
        };
        command.arg("serve").arg("-c").arg(&file);
        (command, directory)
    }

    /// One haproxy listener on a free port, `settings` inside it, `globals` above it: what most tests need.
    pub fn haproxy(globals: &str, settings: &str) -> (Daemon, SocketAddr) {
        let port = super::free_port();
        (Daemon::start(&haproxy_configuration(port, globals, settings), &[port]), loopback(port))
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("vestibule.conf")
    }

    /// Sends SIGTERM and waits for a clean end; gives everything it wrote.
    pub fn stop(mut self) -> String {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "SIGTERM ends it cleanly; it said:\n{}", self.output());
        self.output()
    }
}

/// A counter of the table that the daemon writes when it ends; rows of zero are left out there.
pub fn counted(log: &str, name: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// A service with one haproxy listener on 127.0.0.1 that trusts 127.0.0.0/29: .1 to .7, not .9.
pub fn haproxy_configuration(port: u16, globals: &str, settings: &str) -> String {
    format!(
        "haproxy_trusted_networks = 127.0.0.0/29\n{globals}\n\
         service imap-login {{\n  inet_listener imap_haproxy {{\n    address = 127.0.0.1\n    port = {port}\n    \
         haproxy = yes\n    {settings}\n  }}\n}}\n"
    )
}

impl Deref for Daemon {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

//! The log's target blocked or full: lines are lost and counted, and nothing else suffers.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use crate::needs;
use crate::support::client::{Client, loopback};
use crate::support::daemon::{Daemon, counted, haproxy_configuration, vestibule};
use crate::support::process::{Process, run};
use crate::support::{PATIENCE, free_port, header, temp_dir, wait_until};

/// Lines of a configuration, each of which makes a warning at start: more than wait to be written, and than a pipe holds.
const WARNINGS: usize = 10_000;

#[test]
fn standard_error_that_nobody_reads_stops_nothing_and_the_losses_are_told_when_it_is_read_again() {
    needs!("mkfifo");
    let directory = temp_dir();
    let pipe = pipe_in(directory.path());
    let port = free_port();
    let redirect = format!("exec \"$@\" 2<>{}", pipe.display());
    let ambiguous = "mail_location = a#b\n".repeat(WARNINGS);
    let configuration = haproxy_configuration(port, &ambiguous, "");
    let daemon = Daemon::start_under(&["sh", "-c", &redirect, "sh"], &configuration, &[port]);

    assert_serves(port, 100);
    let mut log = String::new();
    let told = wait_until(PATIENCE, || {
        // Until now nobody has read a byte.
        assert_serves(port, 1);
        log += &read_all(&pipe);
        log.contains("log lines were lost: standard error was blocked or full")
    });
    assert!(told, "the log says what it lost");
    let said = daemon.stop();
    assert!(said.contains("log lines were lost"), "so does the end:\n{said}");
    assert!(counted(&said, "local") > Some(100), "{said}");
}

#[test]
fn standard_error_on_a_full_disk_stops_nothing() {
    let port = free_port();
    let configuration = haproxy_configuration(port, "", "");
    let daemon = Daemon::start_under(&["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"], &configuration, &[port]);
    for _ in 0..20 {
        assert_eq!(Client::send_to(loopback(port), b"EHLO mail.test\r\n").read_to_end().0, b"");
        assert_serves(port, 1);
    }
    let said = daemon.stop();
    assert_eq!((counted(&said, "absent"), counted(&said, "local")), (Some(20), Some(20)), "{said}");
    assert!(said.contains("log lines were lost: standard error was blocked or full"), "{said}");
}

#[test]
fn both_outputs_blocked_it_starts_serves_reloads_and_ends() {
    needs!("mkfifo");
    let directory = temp_dir();
    let pipe = pipe_in(directory.path());
    fill(&pipe, || {
        let port = free_port();
        let file = directory.path().join("vestibule.conf");
        std::fs::write(&file, haproxy_configuration(port, "", "")).expect("it can be written");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("exec \"$@\" >{0} 2>&1", pipe.display()), "sh"]);
        command.arg(vestibule().get_program()).args(["serve", "-c"]).arg(&file);
        let mut daemon = Process::start_listening(command, &[loopback(port)]);
        assert_serves(port, 20);
        daemon.signal(Signal::HUP);
        assert_serves(port, 20);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(PATIENCE).code(), Some(0));
    });
}

#[test]
fn commands_whose_output_nobody_takes_say_so_or_end_quietly() {
    let directory = temp_dir();
    let wrong = directory.path().join("wrong.conf");
    std::fs::write(&wrong, "nonsense\n").expect("it can be written");
    let wrong = wrong.to_str().expect("a plain path");
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").expect("Linux has it"));
    let finish = |arguments: &[&str], output: Stdio, errors: Stdio| {
        let mut command = vestibule();
        command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
        let output = command.spawn().and_then(|child| child.wait_with_output()).expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let commands: [&[&str]; 6] = [
        &["check"],
        &["check", "--dovecot", "auto"],
        &["config"],
        &["doctor"],
        &["doctor", "--backends"],
        &["encode", "--local"],
    ];
    for command in commands {
        let (code, said) = finish(command, full(), Stdio::piped());
        assert_eq!((code, said.contains("panicked")), (Some(1), false), "{command:?}: {said}");
        assert!(said.contains("vestibule: No space left on device (os error 28)"), "{command:?}: {said}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (code, said) = finish(command, writer.into(), Stdio::piped());
        assert_eq!((code, said.as_str()), (Some(1), ""), "{command:?}");
    }
    for command in [&["check", "-c", wrong], &["serve", "-c", wrong]] {
        assert_eq!(finish(command, full(), full()).0, Some(78), "{command:?}");
    }
}

fn pipe_in(directory: &Path) -> PathBuf {
    let pipe = directory.join("pipe");
    let mut command = std::process::Command::new("mkfifo");
    command.arg(&pipe);
    assert_eq!(run(command, b"").code, Some(0));
    pipe
}

/// Runs `body` while the pipe is full.
fn fill(pipe: &Path, body: impl FnOnce()) {
    use std::io::Write;
    // Open for reading too, so that writing does not fail for want of a reader.
    let mut options = std::fs::OpenOptions::new();
    let mut end = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(pipe).expect("it is there");
    for length in [4096, 1] {
        while end.write(&vec![b'x'; length]).is_ok() {}
    }
    body();
}

fn assert_serves(port: u16, connections: usize) {
    for _ in 0..connections {
        assert_eq!(Client::send_to(loopback(port), &header::local()).whoami()["command"], "LOCAL");
    }
}

/// What the pipe holds now.
fn read_all(pipe: &Path) -> String {
    let mut end =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(pipe).expect("it is there");
    let mut bytes = Vec::new();
    match end.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! Process 1 of a container: when it ends the kernel kills every other process there. So a daemon that is process 1 and
//! that another one has taken over from stays, without an engine, until that one ends too: it asks for the exit codes of
//! whoever has lost its parent, passes signals on, and ends with the exit code of the last one that served.

use std::collections::HashMap;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use super::mailbox::Receiver;
use super::tier::Event;

/// How often it is seen whether a process lives that is no child of this one.
const LOOK: Duration = Duration::from_secs(1);
/// Exit codes of children that are remembered; those of whoever is no successor are of no use.
const CODES_MAX: usize = 64;

/// Whether the other processes of this container live no longer than this one.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Asks for the exit codes of all children that have ended, whoever started them: nobody else will.
pub fn reap() -> impl Iterator<Item = (u32, i32)> {
    std::iter::from_fn(|| {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)).ok()? {
            // As a shell says it.
            WaitStatus::Signaled(pid, signal, _) => Some((pid.as_raw() as u32, 128 + signal as i32)),
            WaitStatus::Exited(pid, code) => Some((pid.as_raw() as u32, code)),
            _ => None,
        }
    })
}

/// The processes that serve, or are about to, in the place of this one. The first is known by its number, those that
/// have taken over from it in turn by their command line.
pub struct Successors {
    first: u32,
    codes: HashMap<u32, i32>,
    /// The exit code of the last that has ended.
    code: Option<i32>,
    told_to_end: bool,
}

impl Successors {
    /// Of a process that `first` has taken over from. `told_to_end` if that was to end it.
    pub fn new(first: u32, told_to_end: bool) -> Successors {
        Successors { first, codes: HashMap::new(), code: None, told_to_end }
    }

    /// Stays until all have ended.
    pub fn outlive(mut self, events: &Receiver<Event>) -> ExitCode {
        let mut living = successors(self.first);
        tracing::info!("this is process 1: it stays until process {} ends, and passes signals on", self.first);
        while !living.is_empty() {
            match events.recv_timeout(LOOK) {
                Some(Event::Signal(SIGCHLD)) => self.remember(),
                Some(Event::Signal(signal)) => {
                    self.told_to_end |= [SIGTERM, SIGINT].contains(&signal);
                    pass_on(signal, self.first);
                }
                _ => {}
            }
            let before = std::mem::replace(&mut living, successors(self.first));
            self.remember();
            for ended in before.iter().filter(|pid| !living.contains(pid)) {
                self.code = self.codes.remove(ended).or(self.code);
                tracing::info!("process {ended} has ended");
            }
        }
        // Whoever was started from outside of the container tells his exit code there.
        ExitCode::from(self.code.unwrap_or(i32::from(!self.told_to_end)) as u8)
    }

    fn remember(&mut self) {
        for (pid, code) in reap() {
            if self.codes.len() < CODES_MAX {
                self.codes.insert(pid, code);
            }
        }
    }
}

/// The process that has taken over, and those that have from it, or are about to.
fn successors(first: u32) -> Vec<u32> {
    let mut all: Vec<u32> = numbers().filter(|&pid| pid != 1 && takes_over(pid)).collect();
    if !all.contains(&first) && !has_ended(first) {
        all.push(first);
    }
    all
}

/// Sends a signal to every successor of a process that `first` has taken over from. Who is about to take over may not serve yet, and who has been taken over from may
/// still finish: the signal means each of them.
pub fn pass_on(signal: i32, first: u32) {
    let Ok(signal) = Signal::try_from(signal) else { return };
    for pid in successors(first) {
        match kill(Pid::from_raw(pid as i32), signal) {
            Ok(()) => tracing::info!("{signal} is passed on to process {pid}"),
            Err(Errno::ESRCH) => {} // it has just ended
            Err(error) => tracing::warn!("{signal} cannot be passed on to process {pid}: {error}"),
        }
    }
}

/// All processes of the container.
fn numbers() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether it is a daemon that was started to take over. Who has ended and was not asked for has no command line.
fn takes_over(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"serve") && words.any(|word| word.starts_with(b"--takeover"))
}

fn has_ended(pid: u32) -> bool {
    // 0 would be this process's own group: one that cannot be seen from here does not end with this one either.
    pid == 0 || kill(Pid::from_raw(pid as i32), None) == Err(Errno::ESRCH)
}

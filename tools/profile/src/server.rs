//! A server under measurement: started on its CPU, found listening, ended by its process ids.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;
use vestibule_peers::{free_port, is_listening, loopback};

use crate::proc::{self, Identity, Memory, Usage};

/// How long a server may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(5);
/// Most of a server's output that is shown when it fails.
const OUTPUT_SHOWN: u64 = 4000;

/// A running server. Dropped, it and all its processes are ended and its directory is removed.
pub struct Server {
    /// What it is called in messages.
    pub name: String,
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    _directory: Option<TempDir>,
}

/// How to start one.
pub struct Recipe {
    /// What it is called in messages.
    pub name: String,
    /// Its command.
    pub command: Command,
    /// Where it is going to listen.
    pub address: SocketAddr,
    /// Its files.
    pub directory: Option<TempDir>,
}

impl Recipe {
    /// Of a peer.
    pub fn of(name: String, peer: io::Result<vestibule_peers::Recipe>) -> Result<Recipe, String> {
        let vestibule_peers::Recipe { command, addresses, directory } =
            peer.map_err(|error| format!("{name}: {error}"))?;
        let address = *addresses.first().ok_or("a peer without an address")?;
        Ok(Recipe { name, command, address, directory: Some(directory) })
    }
}

impl Server {
    /// Starts it on `cpu` and waits until it listens.
    pub fn start(recipe: Recipe, cpu: usize) -> Result<Server, String> {
        let process = Process::start(recipe.command, &[cpu])?;
        let mut server = Server { name: recipe.name, process, address: recipe.address, _directory: recipe.directory };
        let end = Instant::now() + START_LIMIT;
        while !is_listening(server.address) {
            let exited = server.process.exited();
            if exited.is_some() || Instant::now() > end {
                let how = exited.map_or("does not listen in time".to_owned(), |status| format!("has ended ({status})"));
                return Err(format!("{} {how}; it said:\n{}", server.name, server.process.output()));
            }
            pause(STEP)?;
        }
        Ok(server)
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        proc::usage(self.pid())
    }

    /// What it holds.
    pub fn memory(&self) -> Memory {
        proc::memory(self.pid())
    }

    /// The end of what it has said.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Lines that it has said so far.
    pub fn lines(&self) -> u64 {
        self.process.lines()
    }

    /// How often it has said a word so far.
    pub fn said(&self, word: &str) -> usize {
        self.process.all_output().matches(word).count()
    }
}

/// A child process with its output in a file. Dropped, it is ended with its descendants.
pub struct Process {
    child: Child,
    output: File,
}

impl Process {
    /// Starts `command` on `cpus`; standard output and error are kept, standard input is empty.
    pub fn start(mut command: Command, cpus: &[usize]) -> Result<Process, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |error: std::io::Error| format!("{name} does not start: {error}");
        let output = tempfile::tempfile().map_err(failed)?;
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(failed)?).stderr(output.try_clone().map_err(failed)?);
        let child = on_cpus(cpus, || command.spawn())?.map_err(failed)?;
        Ok(Process { child, output })
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let end = Instant::now() + limit;
        loop {
            match self.exited() {
                Some(status) => return Ok(status),
                None if Instant::now() > end => return Err(format!("still runs after {limit:?}")),
                None => pause(STEP)?,
            }
        }
    }

    /// The end of what it has said.
    pub fn output(&self) -> String {
        let len = self.output.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; len.min(OUTPUT_SHOWN) as usize];
        // Not by seeking: the process shares the file's position.
        match self.output.read_exact_at(&mut bytes, len.saturating_sub(OUTPUT_SHOWN)) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(its output cannot be read: {error})"),
        }
    }

    /// Lines that it has said so far.
    pub fn lines(&self) -> u64 {
        let mut lines = 0;
        self.read_all(|some| lines += some.iter().filter(|byte| **byte == b'\n').count() as u64);
        lines
    }

    /// All that it has said so far.
    fn all_output(&self) -> String {
        let mut all = Vec::new();
        self.read_all(|some| all.extend_from_slice(some));
        String::from_utf8_lossy(&all).into_owned()
    }

    fn read_all(&self, mut take: impl FnMut(&[u8])) {
        let (mut at, mut room) = (0, vec![0; 1 << 16]);
        // Not by seeking, as above.
        while let Ok(count @ 1..) = self.output.read_at(&mut room, at) {
            take(&room[..count]);
            at += count as u64;
        }
    }

    /// Asks it to end by SIGINT, as Ctrl-C does, and waits.
    pub fn interrupt(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        signal(self.child.id(), Signal::INT);
        self.wait(limit)
    }

    fn end(&mut self) {
        let family = proc::tree(self.child.id());
        if self.exited().is_none() {
            signal(self.child.id(), Signal::TERM);
            let end = Instant::now() + END_LIMIT;
            while self.exited().is_none() && Instant::now() < end {
                thread::sleep(STEP);
            }
        }
        for &Identity { pid, .. } in family.iter().filter(|process| process.is_alive()) {
            signal(pid, Signal::KILL);
        }
        let _ = self.child.wait(); // it is dead, and has no other parent
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal); // it may have ended meanwhile
    }
}

/// Runs `work` with this thread on `cpus`: a process started in it inherits them, and so do its threads.
pub fn on_cpus<T>(cpus: &[usize], work: impl FnOnce() -> T) -> Result<T, String> {
    let before = sched_getaffinity(None).map_err(|error| format!("sched_getaffinity: {error}"))?;
    let mut wanted = CpuSet::new();
    cpus.iter().for_each(|&cpu| wanted.set(cpu));
    sched_setaffinity(None, &wanted).map_err(|error| format!("cannot run on CPUs {cpus:?}: {error}"))?;
    let done = work();
    sched_setaffinity(None, &before).map_err(|error| format!("sched_setaffinity: {error}"))?;
    Ok(done)
}

/// The CPUs that this process may use.
pub fn allowed_cpus() -> Result<Vec<usize>, String> {
    let set = sched_getaffinity(None).map_err(|error| format!("sched_getaffinity: {error}"))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// A loopback address with a port on which nothing listens, outside the range from which outgoing connections get theirs.
pub fn free_address() -> SocketAddr {
    loopback(free_port())
}

/// Raises the limit of open files as far as it goes, for this process and its children.
pub fn open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // if it stays as it is, that is what is returned
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Established connections of the server that listens there.
pub fn established(address: SocketAddr) -> Result<u64, String> {
    const ESTABLISHED: &str = "01";
    sockets(address, ESTABLISHED)
}

/// Sockets with the port of `address` in that state of /proc/net/tcp (proc(5)).
fn sockets(address: SocketAddr, state: &str) -> Result<u64, String> {
    let table = std::fs::read_to_string("/proc/net/tcp").map_err(|error| format!("/proc/net/tcp: {error}"))?;
    let port = format!(":{:04X}", address.port());
    let found = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(state)
    };
    Ok(table.lines().filter(found).count() as u64)
}

/// Sleeps, unless the run was interrupted.
pub fn pause(time: Duration) -> Result<(), String> {
    let end = Instant::now() + time;
    loop {
        if is_interrupted() {
            return Err("interrupted".to_owned());
        }
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            left => thread::sleep(left.min(Duration::from_millis(50))),
        }
    }
}

/// From now on INT and TERM make every wait of this program fail, so that servers are ended; the second one kills it.
pub fn catch_signals() -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, interrupted().clone())
            .and_then(|_| signal_hook::flag::register(signal, interrupted().clone()))
            .map_err(|error| format!("signal handlers: {error}"))?;
    }
    Ok(())
}

/// Whether the run is to end early.
pub fn is_interrupted() -> bool {
    interrupted().load(Ordering::Relaxed)
}

fn interrupted() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & sleep 600"]);
        let process =
            Process::start(command, &allowed_cpus().expect("this thread has CPUs")).expect("there is a shell");
        let end = Instant::now() + START_LIMIT;
        while proc::tree(process.child.id()).len() < 3 {
            assert!(Instant::now() < end, "the shell starts its children");
            thread::sleep(STEP);
        }
        let family = proc::tree(process.child.id());
        drop(process);
        thread::sleep(STEP);
        assert!(family.iter().skip(1).all(|process| !is_running(process.pid)), "{family:?}");
    }

    /// Killed children may stay as zombies until init has looked.
    fn is_running(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn a_server_that_fails_is_reported_with_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such setting >&2; exit 3"]);
        let address = free_address();
        let recipe = Recipe { name: "sh".into(), command, address, directory: None };
        let cpu = allowed_cpus().expect("this thread has CPUs")[0];
        let error = Server::start(recipe, cpu).err().expect("it has failed");
        assert!(error.contains("no such setting") && error.contains("exit status: 3"), "{error}");
    }
}

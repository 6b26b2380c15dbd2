//! A child process that cannot outlive its test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, is_listening_beside, wait_until};

/// How long a process may take to end after SIGTERM when its guard is dropped.
const GRACE: Duration = Duration::from_secs(3);

/// A running program with its output collected. Dropped, it is ended by its process id and waited for; should the test
/// process itself be killed, the kernel sends it SIGTERM.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
    collectors: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with no standard input and both outputs collected.
    pub fn start(command: Command) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = with_parent_death_signal(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        let collectors = vec![
            collect(child.stdout.take().expect("stdout is piped"), output.clone()),
            collect(child.stderr.take().expect("stderr is piped"), output.clone()),
        ];
        Process { name, child, output, collectors }
    }

    /// Starts `command` and waits until it listens on all `addresses`.
    pub fn start_listening(command: Command, addresses: &[SocketAddr]) -> Process {
        let mut process = Process::start(command);
        let id = process.id().to_string();
        for &address in addresses {
            let listens = wait_until(PATIENCE, || is_listening_beside(&id, address) || process.exited().is_some());
            let exited = process.exited();
            assert!(
                listens && exited.is_none(),
                "{} does not listen on {address} (exit: {exited:?}); it said:\n{}",
                process.name,
                process.output()
            );
        }
        process
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far, standard output and standard error.
    pub fn output(&self) -> String {
        self.output.lock().expect("no collector panics").clone()
    }

    /// Waits until its output contains `text`; panics with the output if it does not come.
    pub fn wait_for_output(&self, text: &str) {
        let came = wait_until(PATIENCE, || self.output().contains(text));
        assert!(came, "{} never said {text:?}; it said:\n{}", self.name, self.output());
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours to wait for")
    }

    /// Waits until it ends by itself; panics after `limit`. The output is complete then.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let ended = wait_until(limit, || self.child.try_wait().expect("the child is ours to wait for").is_some());
        assert!(ended, "{} still runs after {limit:?}; it said:\n{}", self.name, self.output());
        for collector in self.collectors.drain(..) {
            collector.join().expect("collectors do not panic");
        }
        self.child.wait().expect("it has ended")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal); // it may have ended by itself
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        open_files(self.id())
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has one");
        line.trim_end_matches("kB").trim().parse().expect("a number")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::TERM);
            let deadline = Instant::now() + GRACE;
            while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Open file descriptors of the process `id`.
pub fn open_files(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).expect("the process runs").count()
}

/// Sends a signal to the one process `id`, which may have ended.
pub fn kill_by_id(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Runs `command` to its end with `input` on standard input; panics after [`PATIENCE`].
pub fn run(command: Command, input: &[u8]) -> Finished {
    use std::io::Write;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = with_parent_death_signal(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    let output = [Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new()))];
    let collectors = [
        collect(child.stdout.take().expect("stdout is piped"), output[0].clone()),
        collect(child.stderr.take().expect("stderr is piped"), output[1].clone()),
    ];
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let _ = stdin.write_all(input); // a program that has seen enough may close it
    drop(stdin);
    let ended = wait_until(PATIENCE, || child.try_wait().expect("the child is ours to wait for").is_some());
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().expect("it has ended");
    collectors.into_iter().for_each(|collector| collector.join().expect("collectors do not panic"));
    let [stdout, stderr] = output.map(|text| text.lock().expect("no collector panics").clone());
    assert!(ended, "{name} did not end within {PATIENCE:?}\nstdout: {stdout}\nstderr: {stderr}");
    Finished { code: status.code(), stdout, stderr }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote there.
    pub stdout: String,
    /// And there.
    pub stderr: String,
}

/// The same command under `setpriv --pdeathsig` where util-linux has it; the process id stays the program's own.
fn with_parent_death_signal(command: Command) -> Command {
    if super::find_program("setpriv").is_none() {
        return command;
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
}

fn collect(source: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            into.lock().expect("no collector panics").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

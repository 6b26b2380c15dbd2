//! A relay with a backend behind it and clients before it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::failed;
use super::systems::{Needs, System};
use super::task::{Outcome, Seen, Task};
use crate::bench::Bench;
use crate::server::{Recipe, Server, free_address, is_interrupted, on_cpus, pause};

/// How long a task may take at most, whatever it is.
const TASK_MAX: Duration = Duration::from_secs(240);
/// How long log lines and ends of sessions may take until they can be seen.
const SETTLE: Duration = Duration::from_secs(3);
/// The session log is long.
const LINES_SHOWN: usize = 4;
const STEP: Duration = Duration::from_millis(20);

/// Everything that a measurement needs, started afresh.
pub struct Site {
    // The order of ending: clients, relay, backend.
    /// Clients.
    pub client: Client,
    /// The relay under measurement.
    pub relay: Server,
    /// Which it is.
    pub system: System,
    /// Sessions that clients hold.
    pub held: u32,
    _backend: Server,
    control: SocketAddr,
}

impl Site {
    /// Starts backend, relay and clients; the relay alone on its CPU.
    pub fn start(bench: &Bench, system: System, needs: Needs) -> Result<Site, String> {
        let (listen, control) = (free_address(), free_address());
        let mut command = Command::new(&bench.tools.profile);
        let everywhere = SocketAddr::from(([0, 0, 0, 0], listen.port()));
        command.args(["relay-backend", &everywhere.to_string(), &control.to_string(), "--idle-bulk"]);
        let recipe = Recipe { name: "the backend".into(), command, address: listen, directory: None };
        let backend = Server::start(recipe, bench.client_cpu)?;
        let relay = Server::start(system.recipe(&bench.tools, listen.port(), needs)?, bench.server_cpu)?;
        let client = Client::start(bench, &relay, 0, false)?;
        Ok(Site { client, relay, system, held: 0, _backend: backend, control })
    }

    /// Lets the clients do a task. An error if anything at all went wrong.
    pub fn perform(&mut self, task: &Task) -> Result<Outcome, String> {
        let done = self.client.begin(task).and_then(|()| self.client.end());
        done.map_err(|error| self.blame(&error))
    }

    /// With what the relay has said last.
    pub fn blame(&self, error: &str) -> String {
        let output = self.relay.output();
        let lines: Vec<&str> = output.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        format!("{error}\n{} said last:\n{}", self.relay.name, last.join("\n"))
    }

    /// What the backend has seen so far.
    pub fn seen(&self) -> Result<Seen, String> {
        let mut text = String::new();
        TcpStream::connect(self.control)
            .and_then(|mut stream| stream.read_to_string(&mut text))
            .map_err(failed("the backend"))?;
        serde_json::from_str(&text).map_err(|error| format!("the backend: {error}: {text}"))
    }

    /// Waits until `so_far` is as wanted, and says what it was last if that does not happen.
    pub fn settled<T: std::fmt::Debug>(
        &self,
        what: &str,
        mut so_far: impl FnMut() -> Result<T, String>,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<T, String> {
        let end = Instant::now() + SETTLE;
        loop {
            let value = so_far()?;
            if wanted(&value) {
                return Ok(value);
            }
            if Instant::now() > end {
                return Err(self.blame(&format!("{what}: {value:?}")));
            }
            pause(STEP)?;
        }
    }
}

/// A process of clients. Dropped, it is ended.
pub struct Client {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Client {
    /// Starts it before a relay; `role` tells it from others, `idle` gives it what CPU time others leave.
    pub fn start(bench: &Bench, relay: &Server, role: u8, idle: bool) -> Result<Client, String> {
        let mut command = match idle {
            true => {
                let mut command = Command::new("chrt");
                command.args(["--idle", "0"]).arg(&bench.tools.profile);
                command
            }
            false => Command::new(&bench.tools.profile),
        };
        command.args(["relay-client", &relay.address.to_string(), "--role", &role.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = on_cpus(&[bench.client_cpu], || command.spawn())?.map_err(failed("the client"))?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).ok_or("the client has no pipes")?;
        let (sender, lines) = mpsc::channel();
        // Ends with the client's output.
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Client { child, input, lines })
    }

    /// Begins a task.
    pub fn begin(&mut self, task: &Task) -> Result<(), String> {
        let line = serde_json::to_string(task).map_err(|error| error.to_string())? + "\n";
        self.input.write_all(line.as_bytes()).map_err(failed("the client"))
    }

    /// Waits for its end. An error if anything at all went wrong.
    pub fn end(&mut self) -> Result<Outcome, String> {
        let end = Instant::now() + TASK_MAX;
        let line = loop {
            match self.lines.recv_timeout(STEP) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Disconnected) => return Err("the client has ended".to_owned()),
                Err(RecvTimeoutError::Timeout) if is_interrupted() => return Err("interrupted".to_owned()),
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => return Err("the client hangs".to_owned()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        let outcome: Outcome = serde_json::from_str(&line).map_err(|error| format!("the client: {error}: {line}"))?;
        match (&outcome.failure, outcome.done) {
            (None, 1..) => Ok(outcome),
            (why, done) => {
                let why = why.as_deref().unwrap_or("nothing was done");
                Err(format!("{} of {} went wrong; the first: {why}", outcome.failed, outcome.failed + done))
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait(); // it has no other parent
    }
}

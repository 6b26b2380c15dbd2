//! Chromium without a screen.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Process, run};
use super::{PATIENCE, temp_dir, wait_until};

/// The program.
pub const CHROMIUM: &str = "chromium";

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

/// The document after its scripts have run for a while of the browser's own time.
pub fn document(url: &str) -> String {
    let profile = temp_dir();
    let mut command = chromium(Look { width: 1600, height: 1200, dark: false }, profile.path());
    command.args(["--dump-dom", url]);
    let done = run(command, b"");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout
}

/// A picture of the page.
pub fn picture(url: &str, look: Look, file: &Path) {
    let profile = temp_dir();
    let mut command = chromium(look, profile.path());
    command.arg(format!("--screenshot={}", file.display())).arg(url);
    let done = run(command, b"");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

/// It ends by itself; the limit is for a machine on which it hangs.
const LIMIT: [&str; 3] = ["timeout", "--kill-after=5", "120"];
/// A browser that looks at nothing but the page.
const QUIET: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-proxy-server",
];

fn chromium(look: Look, profile: &Path) -> Command {
    let mut command = Command::new(LIMIT[0]);
    command.args(&LIMIT[1..]).arg(CHROMIUM).args(QUIET).args(looks(look, profile));
    command.arg("--virtual-time-budget=12000");
    command
}

fn looks(look: Look, profile: &Path) -> [String; 3] {
    [
        format!("--user-data-dir={}", profile.display()),
        format!("--window-size={},{}", look.width, look.height),
        format!("--blink-settings=preferredColorScheme={}", if look.dark { 0 } else { 1 }),
    ]
}

/// A page that somebody uses: keys are pressed there, and it is asked what it shows. Over the pipe that Chromium takes
/// commands on (`--remote-debugging-pipe`): objects, each with a zero byte behind it.
pub struct Visit {
    process: Process,
    to: File,
    from: File,
    read: Vec<u8>,
    session: Value,
    commands: u64,
    _directory: TempDir,
}

impl Visit {
    /// Opens the page.
    pub fn to(url: &str, look: Look) -> Visit {
        let directory = temp_dir();
        let [to, from] = ["to", "from"].map(|name| directory.path().join(name));
        for pipe in [&to, &from] {
            let made = Command::new("mkfifo").arg(pipe).status().expect("mkfifo is everywhere");
            assert!(made.success(), "a pipe can be made");
        }
        let mut command = Command::new("sh");
        command.args(["-c", r#"to=$1; from=$2; shift 2; exec "$@" 3<"$to" 4>"$from""#, "sh"]).arg(&to).arg(&from);
        command.args(LIMIT).arg(CHROMIUM).args(QUIET).args(looks(look, &directory.path().join("profile")));
        command.args(["--remote-debugging-pipe", "about:blank"]);
        // Open both ways, so that neither side waits for the other to open.
        let open = |path| OpenOptions::new().read(true).write(true).open(path).expect("it was just made");
        let (to, from) = (open(&to), open(&from));
        let process = Process::start(command);
        let mut visit =
            Visit { process, to, from, read: Vec::new(), session: Value::Null, commands: 0, _directory: directory };
        let target = visit.command("Target.createTarget", json!({ "url": url }))["targetId"].clone();
        let attach = json!({ "targetId": target, "flatten": true });
        visit.session = visit.command("Target.attachToTarget", attach)["sessionId"].clone();
        visit
    }

    /// What an expression comes to on the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.command("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true there.
    pub fn expect(&mut self, expression: &str) {
        let held = wait_until(PATIENCE, || self.evaluate(expression) == true);
        assert!(held, "{expression} on the page:\n{}", self.evaluate("document.body.innerText"));
    }

    /// Presses a key, and lets it go.
    pub fn press(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { Some(key) } else { None };
        let code = if key == "Tab" { 9 } else { 0 };
        for kind in ["keyDown", "keyUp"] {
            let text = text.filter(|_| kind == "keyDown");
            let event = json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            let event: serde_json::Map<String, Value> = match event {
                Value::Object(all) => all.into_iter().filter(|(_, value)| !value.is_null()).collect(),
                _ => unreachable!("it is an object"),
            };
            self.command("Input.dispatchKeyEvent", event.into());
        }
    }

    /// What the browser itself is told, and what the page is.
    fn command(&mut self, method: &str, params: Value) -> Value {
        self.commands += 1;
        let id = self.commands;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{command}\0").as_bytes()).expect("the pipe is open");
        loop {
            let said = self.hear();
            if said["id"] == id {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
        }
    }

    /// The next object.
    fn hear(&mut self) -> Value {
        loop {
            if let Some(at) = self.read.iter().position(|&byte| byte == 0) {
                let rest = self.read.split_off(at + 1);
                let object = std::mem::replace(&mut self.read, rest);
                return serde_json::from_slice(&object[..at]).expect("JSON");
            }
            let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&limit)).expect("the pipe is open");
            assert!(ready > 0, "the browser says nothing: {}", self.process.output());
            let mut room = [0; 65_536];
            let count = self.from.read(&mut room).expect("the pipe is open");
            self.read.extend_from_slice(&room[..count]);
        }
    }
}

impl Drop for Visit {
    /// The browser ends its own processes; whoever does not is ended by the limit.
    fn drop(&mut self) {
        let closed = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        closed.is_ok().then(|| wait_until(Duration::from_secs(10), || self.process.exited().is_some()));
    }
}

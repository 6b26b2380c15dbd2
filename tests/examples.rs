//! Every program of `examples/` is started, talked to as its own text says, and ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{PATIENCE, certificate, free_port, temp_dir, wait_until};
use crate::{needs, skip};

const HEADER: &str = "PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
/// Those that are talked to below.
const TALKED_TO: [&str; 8] =
    ["embed", "embed_tokio", "hyper", "read_header", "receive_path", "smtp_tokio", "tower", "upgrade"];

/// Where cargo puts an example, beside these tests.
fn built(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("it is known");
    let profile = here.parent().and_then(Path::parent).expect("PROFILE/deps/TEST");
    profile.join("examples").join(name)
}

/// Leaves the test as skipped where the example was not built: `cargo test --test NAME` builds none.
macro_rules! needs_example {
    ($name:expr) => {
        if !built($name).exists() {
            skip!("the examples: cargo test without --test builds them");
        }
    };
}

/// One that listens, and ends at Enter.
struct Example {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Example {
        Example::start_at(name, arguments, "127.0.0.1:0")
    }

    fn start_at(name: &str, arguments: &[&str], address: &str) -> Example {
        let mut command = Command::new(built(name));
        command.args(arguments).arg(address).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it was built");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says where it listens");
        let address = line.split(['[', ']']).nth(1).and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{name} says {line:?}"));
        Example { child, output, address }
    }

    /// A client that says this behind the header, in the same segment.
    fn client(&self, words: &str) -> Client {
        let client = TcpStream::connect(self.address).expect("it listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        (&client).write_all(format!("{HEADER}{words}").as_bytes()).expect("connected");
        Client(BufReader::new(client))
    }

    /// Presses Enter; all that it has said.
    fn end(mut self) -> String {
        self.child.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
        self.last_words()
    }

    /// What it says until it ends by itself.
    fn last_words(mut self) -> String {
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("UTF-8");
        assert!(self.child.wait().expect("it ends").success(), "{said}");
        said
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn say(&mut self, words: &str) {
        self.0.get_mut().write_all(words.as_bytes()).expect("connected");
    }

    fn expect(&mut self, words: &str) {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it answers");
        assert!(line.starts_with(words), "{line:?} instead of {words:?}");
    }

    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).expect("it ends in order");
        rest
    }
}

#[test]
fn every_example_is_talked_to() {
    let entries =
        std::fs::read_dir(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("examples")).expect("it is there");
    let files = entries.map(|entry| entry.expect("it can be read").path());
    let programs = files.filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<String> =
        programs.map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, TALKED_TO);
}

#[test]
fn embed() {
    needs_example!("embed");
    let example = Example::start("embed", &[]);
    let mut client = example.client("a CAPABILITY\r\n");
    for line in ["* OK [CAPABILITY IMAP4rev1] ready", "* CAPABILITY IMAP4rev1", "a OK done"] {
        client.expect(line);
    }
    client.say("b LOGOUT\r\n");
    assert_eq!(client.rest(), "* BYE\r\nb OK done\r\n");
    let said = example.end();
    assert!(said.contains("198.51.100.7:5000 wants 192.0.2.1:143 and came through 127.0.0.1:"), "{said}");
    assert!(said.contains("all clients have left: true"), "{said}");
}

#[test]
fn embed_tokio() {
    needs_example!("embed_tokio");
    let example = Example::start("embed_tokio", &[]);
    let mut client = example.client("first\n");
    client.expect("hello 198.51.100.7:5000");
    client.expect("first");
    client.say("second\n");
    client.expect("second");
    drop(client);
    assert!(example.end().contains("all clients have left: true"));
}

#[test]
fn hyper() {
    needs_example!("hyper");
    let example = Example::start("hyper", &[]);
    let answer = example.client("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("198.51.100.7:5000 wants /x and came through 127.0.0.1:"), "{answer}");
    assert!(example.end().contains("all connections are taken: true"));
}

#[test]
fn tower() {
    needs_example!("tower");
    let example = Example::start("tower", &[]);
    for (path, status, words) in [("/", "200 OK", "hello 198.51.100.7:5000\n"), ("/x", "404 Not Found", "not here\n")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = example.client(&request).rest();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with(words), "{answer}");
    }
    assert!(example.end().contains("all connections are taken: true"));
}

#[test]
fn read_header() {
    needs_example!("read_header");
    let example = Example::start("read_header", &[]);
    let mut client = example.client("first\n");
    client.expect("hello 198.51.100.7:5000");
    client.expect("first");
    client.say("second\n");
    client.expect("second");
    drop(client);
    example.end();
}

#[test]
fn receive_path() {
    needs_example!("receive_path");
    let output = Command::new(built("receive_path")).output().expect("it was built");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for words in [
        "a header with a checksum:\n  before: 220 hello 198.51.100.7:5000 (",
        "another client, the same checksum:\n  before: 220 hello 199.51.100.7:5000 (",
        "  after: 220 hello 198.51.100.7:5000 (",
        "  after: 220 hello balancer (",
        "  after: closed without a word (",
    ] {
        assert!(said.contains(words), "{words}\n  is not in\n{said}");
    }
}

#[test]
fn smtp_tokio() {
    needs_example!("smtp_tokio");
    needs!("openssl");
    let directory = temp_dir();
    let (certificate, key) = certificate(directory.path());
    let [certificate, key] = [&certificate, &key].map(|file| file.to_str().expect("a plain path"));
    let example = Example::start("smtp_tokio", &[certificate, key]);
    let mut client = example.client("");
    client.expect("220 mail.example.com ESMTP, and hello 198.51.100.7");
    client.say("EHLO a\r\n");
    for line in ["250-mail.example.com", "250-STARTTLS", "250 SIZE"] {
        client.expect(line);
    }
    client.say("STARTTLS\r\n");
    client.expect("220 2.0.0 go ahead");
    drop(client);
    let mut plain = example.client("QUIT\r\n");
    plain.expect("220 mail.example.com");
    assert_eq!(plain.rest(), "221 2.0.0 bye\r\n");
    assert!(example.end().contains("all clients have left: true"));
}

/// A client's whole visit; the process that has served it.
fn visit_upgrade(address: SocketAddr, halves: [&str; 2], between: impl FnOnce()) -> std::io::Result<u32> {
    let client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    (&client).write_all(halves[0].as_bytes())?;
    between();
    (&client).write_all(halves[1].as_bytes())?;
    let mut client = BufReader::new(client);
    let mut lines = [String::new(), String::new()];
    for line in &mut lines {
        client.read_line(line)?;
    }
    client.get_ref().shutdown(std::net::Shutdown::Write)?;
    client.read_to_string(&mut lines[1])?;
    let process =
        lines[0].strip_prefix("hello 198.51.100.7:5000 from process ").and_then(|pid| pid.trim().parse().ok());
    match process {
        Some(process) if lines[1] == "first\n" => Ok(process),
        _ => Err(std::io::Error::other(format!("{lines:?}"))),
    }
}

/// Takeovers of the test below.
const UPGRADES: usize = 5;

#[test]
fn upgrade() {
    needs_example!("upgrade");
    let directory = temp_dir();
    let path = directory.path().join("takeover");
    let path = path.to_str().expect("a plain path");
    let start = |address: &str| Example::start_at("upgrade", &[path], address);
    let mut running = start(&format!("127.0.0.1:{}", free_port()));
    let (address, text) = (running.address, format!("{HEADER}first\n"));
    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        // Whatever fails here, the clients end.
        let _ends = Ends(&over);
        let come_and_go = || {
            let mut by = Vec::new();
            while !over.load(Ordering::Relaxed) {
                by.push(visit_upgrade(address, [&text, ""], || ()).expect("nobody is refused, and nobody lost"));
            }
            by
        };
        let crowd: Vec<_> = (0..4).map(|_| scope.spawn(come_and_go)).collect();
        for number in 0..UPGRADES {
            // One whose header is cut by the takeover, each time elsewhere, is served by the next process.
            let (one, other) = text.split_at(number * HEADER.len() / UPGRADES);
            let mut next = None;
            let by = visit_upgrade(address, [one, other], || next = Some(start(&address.to_string())));
            let next = next.expect("it was started");
            assert_eq!(by.expect("nobody is lost"), next.child.id());
            let said = std::mem::replace(&mut running, next).last_words();
            let taken_over = format!("process {} has taken over, and all clients have left", running.child.id());
            assert!(said.contains(&taken_over) && !said.contains("lost:"), "{said}");
        }
        over.store(true, Ordering::Relaxed);
        crowd.into_iter().flat_map(|one| one.join().expect("nobody is refused, and nobody lost")).collect::<Vec<u32>>()
    });
    assert!(served.len() > UPGRADES, "{} clients", served.len());
    assert_eq!(visit_upgrade(address, [&text, ""], || ()).expect("it still serves"), running.child.id());
    assert!(running.end().contains("all clients have left: Told"));
}

/// Tells clients to come no more.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn upgrade_that_is_killed() {
    needs_example!("upgrade");
    let directory = temp_dir();
    let path = directory.path().join("takeover");
    let path = path.to_str().expect("a plain path");
    let first = Example::start_at("upgrade", &[path], &format!("127.0.0.1:{}", free_port()));
    let (address, text, its) = (first.address, format!("{HEADER}first\n"), first.child.id());
    let mut stays = first.client("");
    stays.expect("hello 198.51.100.7:5000");
    for _ in 0..3 {
        let second = Example::start_at("upgrade", &[path], &address.to_string());
        assert_eq!(visit_upgrade(address, [&text, ""], || ()).expect("it serves"), second.child.id());
        drop(second); // by SIGKILL
        // The kernel may give the dead one's accepts somebody before it takes them back.
        let again = || visit_upgrade(address, [&text, ""], || ()).is_ok_and(|by| by == its);
        assert!(wait_until(PATIENCE, again), "the first accepts again");
    }
    let third = Example::start_at("upgrade", &[path], &address.to_string());
    stays.say("still here\n");
    stays.expect("still here");
    drop(stays);
    assert!(first.last_words().contains(&format!("process {} has taken over", third.child.id())));
    assert_eq!(visit_upgrade(address, [&text, ""], || ()).expect("it serves"), third.child.id());
    third.end();
}

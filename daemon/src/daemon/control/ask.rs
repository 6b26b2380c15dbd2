//! The other end of the control socket: one request, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vestibule::ring;

use super::wire::Request;

/// How long the daemon may take to answer: a reload waits for a takeover, and resolves names.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Most bytes of an answer.
const ANSWER_MAX: u64 = 32 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum NotAsked {
    /// Nobody could be asked by lines there: no file, nobody who listens, or a socket for takeovers.
    NobodyThere(io::Error),
    /// What went wrong, with the remedy.
    Failed(String),
    /// What the daemon says is wrong.
    Refused(Vec<String>),
}

/// Says a request to the daemon at `path`; its answer.
pub fn ask(path: &Path, request: &Request) -> Result<Value, NotAsked> {
    let failed = |error: io::Error| NotAsked::Failed(words(&error));
    let stream = connected(path)?;
    let line = converse(&stream, request).map_err(failed)?;
    understood(&line)
}

/// Says a request whose answer is followed by more, and tells of the answer and every line that comes, until `heard` says
/// that it is enough. Without an error the daemon has said all, or is gone.
pub fn follow(path: &Path, request: &Request, mut heard: impl FnMut(&Value) -> bool) -> Result<(), NotAsked> {
    let failed = |error: io::Error| NotAsked::Failed(words(&error));
    let mut stream = connected(path)?;
    let mut text = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    stream.set_write_timeout(Some(ANSWER_LIMIT)).and_then(|()| stream.write_all(&text)).map_err(failed)?;
    let mut lines = BufReader::new(stream);
    let mut next = || {
        let mut line = Vec::new();
        // One of bounded length: what comes then is nonsense.
        let read = lines.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line);
        read.map(|_| line).map_err(failed)
    };
    let first = understood(&next()?)?;
    if heard(&first) {
        return Ok(());
    }
    loop {
        let line = next()?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        let value = serde_json::from_slice(&line).map_err(|_| not_json())?;
        if heard(&value) {
            return Ok(());
        }
    }
}

/// A connection to a daemon that may be trusted.
fn connected(path: &Path) -> Result<UnixStream, NotAsked> {
    let stream = UnixStream::connect(path).map_err(not_connected)?;
    let failed = |error: io::Error| NotAsked::Failed(words(&error));
    let peer = ring::peer_credentials(stream.as_fd()).map_err(failed)?;
    let own = nix::unistd::geteuid().as_raw();
    if own != 0 && ![own, 0].contains(&peer.uid) {
        return Err(NotAsked::Failed(format!("user id {} listens there, this is {own}", peer.uid)));
    }
    Ok(stream)
}

fn not_json() -> NotAsked {
    NotAsked::Failed("it says something else than JSON".into())
}

/// An answer, unless it says what is wrong.
fn understood(line: &[u8]) -> Result<Value, NotAsked> {
    let answer: Value = serde_json::from_slice(line).map_err(|_| not_json())?;
    if answer["ok"] == true {
        return Ok(answer);
    }
    let errors = answer["errors"].as_array().into_iter().flatten();
    Err(NotAsked::Refused(errors.filter_map(|error| error.as_str().map(str::to_owned)).collect()))
}

fn not_connected(error: io::Error) -> NotAsked {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            NotAsked::Failed(format!("{error}; only root and the user of the running daemon may ask"))
        }
        _ => NotAsked::NobodyThere(error),
    }
}

fn converse(mut stream: &UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".into(),
        io::ErrorKind::UnexpectedEof => "the daemon has closed the connection".into(),
        _ => error.to_string(),
    }
}

//! The control socket: operators ask, and say what is to be done, by lines of JSON; each is answered by a line.
//!
//! Every conversation has a thread of its own, and each step of it a limit: who says nothing, says too much or does not
//! read holds nobody else. What is asked is answered from a [`Glance`], which waits for nobody; only a reload and a drain
//! need the tier, and wait for a takeover that is under way.

mod answer;
mod ask;
mod follow;
mod state;
mod wire;

pub use crate::daemon::events::KINDS;
pub use answer::{backend_of, server_of, take_over_bans, tls_value};
pub use ask::{NotAsked, ask, follow};
pub use state::age;
pub use wire::{Form, Request, WHO_DEFAULT};

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use vestibule::takeover::Place;

use super::tier::{Glance, Tier};
use super::watcher::Watcher;
use wire::{REQUEST_MAX, failure};

/// Conversations at a time; more are told so.
const CONVERSATIONS_MAX: usize = 32;
/// How long a request may take to come.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take to be read.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a reload or a drain waits for a takeover that is under way.
const TIER_PATIENCE: Duration = Duration::from_secs(20);
/// Rest after a failed accept, and while another process listens.
const REST: Duration = Duration::from_millis(500);

/// The socket, and whom it commands.
pub struct Control {
    place: Arc<Place>,
    watcher: Arc<Watcher>,
    conversations: AtomicUsize,
}

impl Control {
    /// At a place that is held.
    pub fn new(place: Arc<Place>, watcher: Arc<Watcher>) -> Arc<Control> {
        Arc::new(Control { place, watcher, conversations: AtomicUsize::new(0) })
    }

    /// Hears everybody, as long as the process lives.
    pub fn serve(self: Arc<Control>) {
        loop {
            let Some(listener) = self.place.listener() else {
                thread::sleep(REST);
                continue;
            };
            match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.receive(socket),
                // The place was given up, or lies elsewhere now.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::INVAL) => {}
                Err(error) => {
                    tracing::warn!("control_socket: {}", io::Error::from(error));
                    thread::sleep(REST);
                }
            }
        }
    }

    /// A conversation begins, if there is room.
    fn receive(self: &Arc<Control>, socket: OwnedFd) {
        let stream = UnixStream::from(socket);
        let Some(seat) = Seat::take(self) else {
            // A line fits in the buffer of a new socket: this does not wait.
            return drop(say(
                &stream,
                &failure("too many others ask at the moment: try again"),
                Duration::from_millis(10),
            ));
        };
        let body = move || {
            if let Err(error) = converse(&stream, &seat.0) {
                tracing::debug!("control_socket: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("conversation".into()).spawn(body) {
            tracing::warn!("control_socket: {error}");
        }
    }

    /// Whether operators still ask here, and not another process.
    fn serves(&self) -> bool {
        self.place.listener().is_some()
    }

    /// The engines as they are now, or, while the tier is busy, as they were.
    fn glance(&self) -> Glance {
        self.watcher.glance()
    }

    /// The tier, once it is free.
    fn tier(&self) -> Result<MutexGuard<'_, Tier>, String> {
        let tier = self.watcher.tier_within(TIER_PATIENCE);
        tier.ok_or_else(|| "another process is taking over: try again".to_owned())
    }
}

/// The right to a conversation.
struct Seat(Arc<Control>);

impl Seat {
    fn take(control: &Arc<Control>) -> Option<Seat> {
        let taken = control.conversations.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(control.clone());
        (taken < CONVERSATIONS_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.conversations.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One who has connected, until he leaves, or says nothing sensible.
fn converse(stream: &UnixStream, control: &Control) -> io::Result<()> {
    if let Err(error) = Place::admit(stream) {
        tracing::warn!("control_socket: somebody is turned away: {error}");
        return say(stream, &failure(&error.to_string()), ANSWER_PATIENCE);
    }
    let mut lines = Lines::default();
    while let Some(line) = lines.next(stream)? {
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => return say(stream, &failure(&format!("this is no request: {error}")), ANSWER_PATIENCE),
        };
        if let Request::Events { last, kinds, once } = &request {
            return follow::follow(stream, control, *last, kinds, *once);
        }
        say(stream, &answer::answer(control, request), ANSWER_PATIENCE)?;
    }
    Ok(())
}

/// The lines of a stream, each of bounded length and within its time.
#[derive(Default)]
struct Lines {
    read: Vec<u8>,
}

impl Lines {
    /// The next one, without its end; `None`: there are no more.
    fn next(&mut self, mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
        let end = Instant::now() + REQUEST_PATIENCE;
        let mut room = [0; 1024];
        loop {
            if let Some(at) = self.read.iter().position(|&byte| byte == b'\n') {
                let rest = self.read.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.read.len() > REQUEST_MAX {
                say(stream, &failure(&format!("a request has at most {REQUEST_MAX} bytes")), ANSWER_PATIENCE)?;
                return Ok(None);
            }
            stream.set_read_timeout(Some(left(end)?))?;
            match stream.read(&mut room)? {
                0 => return Ok(None),
                count => self.read.extend_from_slice(&room[..count]),
            }
        }
    }
}

/// Says a line, within a time.
fn say(mut stream: &UnixStream, answer: &serde_json::Value, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    let text = format!("{answer}\n");
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        let count = stream.write(rest)?;
        rest = &rest[count..];
    }
    Ok(())
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

//! Those who follow what happens: a line for each event, as long as they read and the process serves.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::wire::failure;
use super::{ANSWER_PATIENCE, Control, say};
use crate::daemon::events::{self, FollowsRelays, KINDS, News, RELAY, Told};

/// Followers at a time: each has a conversation of those that there are.
const FOLLOWERS_MAX: usize = 8;
/// How long one may not read what has happened; meanwhile it loses the oldest events.
const READ_PATIENCE: Duration = Duration::from_secs(600);
/// The kind of lines that are of no other.
const LOG: &str = "log";
/// How often it is looked whether a follower is still there, and this process still serves.
const STEP: Duration = Duration::from_millis(250);

static FOLLOWERS: AtomicUsize = AtomicUsize::new(0);

/// The right to follow.
struct Right;

impl Right {
    fn take() -> Option<Right> {
        let right = Right;
        (FOLLOWERS.fetch_add(1, Ordering::Relaxed) < FOLLOWERS_MAX).then_some(right)
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        FOLLOWERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells a follower of the last events of some kinds, and, unless it wants only those, of all that come.
pub fn follow(stream: &UnixStream, control: &Control, last: usize, kinds: &[String], once: bool) -> io::Result<()> {
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        let words = format!("{unknown} is no kind of event; there are: {}", KINDS.join(" "));
        return say(stream, &failure(&words), ANSWER_PATIENCE);
    }
    let Some(_right) = Right::take() else {
        let words = format!("{FOLLOWERS_MAX} others follow already: end one of them");
        return say(stream, &failure(&words), ANSWER_PATIENCE);
    };
    let wanted = |told: &Told| match kinds {
        [] => ![LOG, RELAY].contains(&told.kind),
        kinds => kinds.iter().any(|kind| *kind == told.kind),
    };
    let _relays = (!once && kinds.iter().any(|kind| kind == RELAY)).then(FollowsRelays::begin);
    // In this order: whoever has the answer misses nothing that happens then.
    let mut next = events::all().last(last, wanted);
    say(stream, &json!({ "ok": true, "pid": std::process::id() }), ANSWER_PATIENCE)?;
    loop {
        let News { lost, told } = events::all().since(next, if once { Duration::ZERO } else { STEP });
        if lost > 0 {
            say(stream, &json!({ "lost": lost }), READ_PATIENCE)?;
        }
        next += lost + told.len() as u64;
        for told in told.iter().filter(|told| wanted(told)) {
            say(stream, &told.value(), READ_PATIENCE)?;
        }
        if once {
            return say(stream, &json!({ "end": "these are all" }), ANSWER_PATIENCE);
        }
        if told.is_empty() && has_left(stream) {
            return Ok(());
        }
        if told.is_empty() && !control.serves() {
            return say(stream, &json!({ "end": "another process has taken over" }), ANSWER_PATIENCE);
        }
    }
}

/// Whether the other side has closed; what it says is passed over.
fn has_left(mut stream: &UnixStream) -> bool {
    let read = stream.set_nonblocking(true).and_then(|()| stream.read(&mut [0; 64]));
    let gone = match read {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    gone || stream.set_nonblocking(false).is_err()
}

//! A question to the running process, which has nothing to do with a takeover but the way to it.

use std::path::Path;
use std::time::Duration;

use super::channel::{Broken, Channel};
use super::wire::{Form, Message};

/// How long an answer may take. The process that is asked needs milliseconds, unless another one is about to take over.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What the process that listens at `path` has counted so far.
///
/// # Errors
/// Say what to do.
pub fn ask(path: &Path, form: Form) -> Result<String, String> {
    let (channel, peer) = Channel::to_trusted(path, ANSWER_LIMIT, ", or start one")?;
    let answer = channel.send(&Message::Ask(form), &[]).and_then(|()| channel.receive());
    let problem = match answer {
        Ok((Message::Answer(text), _)) => return Ok(text),
        Ok(_) => "it says something else".to_owned(),
        Err(broken @ (Broken::Late | Broken::Closed)) => {
            format!("{broken}; another process may be taking over from it: try again")
        }
        Err(broken) => broken.to_string(),
    };
    Err(format!("process {}: {problem}", peer.pid))
}

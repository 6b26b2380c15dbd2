//! A question to the running process, which has nothing to do with a takeover but the way to it.

use std::path::Path;
use std::time::Duration;

use super::Error;
use super::channel::Channel;
use super::wire::{Form, Message};

/// How long an answer may take. The process that is asked needs milliseconds, unless another one is about to take over.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What the process that listens at `path` has counted so far, in its own words. It is answered between takeovers.
///
/// ```no_run
/// use vestibule::takeover::{Form, ask};
///
/// # fn main() -> Result<(), vestibule::takeover::Error> {
/// print!("{}", ask("/run/greeter/takeover", Form::Table)?);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of a connection; [`Error::Late`] also while another process is about to take over from it.
pub fn ask(path: impl AsRef<Path>, form: Form) -> Result<String, Error> {
    let (channel, _) = Channel::to_trusted(path.as_ref(), ANSWER_LIMIT)?;
    channel.send(&Message::Ask(form), &[])?;
    match channel.receive()?.0 {
        Message::Answer(text) => Ok(text),
        _ => Err(Error::protocol("it does not answer with Answer")),
    }
}

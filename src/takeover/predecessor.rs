//! The process before, once another one has taken its place.

use super::channel::Channel;
use super::wire::{ACCOUNT_MAX, Message};
use super::{Error, Legacy};

/// The process that this one has taken over from: it finishes what it has, tells what it counts meanwhile, and leaves.
/// It is to be kept as long as this process serves: a process before that has not left yet takes its end for this
/// one's, and accepts again, unless this one [leaves](Predecessor::leave).
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    process: u32,
}

impl Predecessor {
    pub(super) fn new(channel: Channel, process: u32) -> Predecessor {
        Predecessor { channel, process }
    }

    /// Its number; 0 if it is in a PID namespace that cannot be seen from here.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Waits until it has left, on a thread of its own; what it counts until then goes to `legacy`.
    ///
    /// # Errors
    /// [`Error::GoesOn`]: it has taken everything back, since it took this process for dead. This one must end.
    pub fn await_its_end(&self, legacy: &Legacy) -> Result<(), Error> {
        self.hear(|account| legacy.replace(&account))?;
        legacy.settle();
        Ok(())
    }

    /// Tells it that this process ends on purpose: it shall not accept again.
    pub fn leave(&self) {
        self.channel.send_last(&Message::Leaving);
    }

    /// Tells `count` every account until it has left.
    pub(super) fn hear(&self, mut count: impl FnMut(String)) -> Result<(), Error> {
        let mut parts = Vec::new();
        loop {
            match self.channel.receive_at_any_time() {
                Ok((message @ Message::Account { .. }, _)) => match assemble(&mut parts, message) {
                    Ok(account) => account.into_iter().for_each(&mut count),
                    Err(error) => tracing::warn!("process {}: {error}", self.process),
                },
                Err(refused @ Error::Refused(_)) => {
                    return Err(Error::GoesOn { process: self.process, cause: Box::new(refused) });
                }
                _ => return Ok(()),
            }
        }
    }
}

/// Puts a part to those before it; the account, once it is complete.
pub(super) fn assemble(parts: &mut Vec<u8>, message: Message) -> Result<Option<String>, Error> {
    let Message::Account { first, last, part } = message else { return Ok(None) };
    if first {
        parts.clear();
    }
    parts.extend(part);
    if parts.len() > ACCOUNT_MAX {
        parts.clear();
        return Err(Error::protocol("an account that is too long"));
    }
    if !last {
        return Ok(None);
    }
    String::from_utf8(std::mem::take(parts)).map(Some).map_err(|_| Error::protocol("an account that is no text"))
}

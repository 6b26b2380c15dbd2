//! A pool of other processes, in any language: each connection's socket goes to one of them over a Unix socket, with a
//! record that says what is known of it. `docs/handoff.md` is the protocol.
//!
//! ```text
//! rings --queue--> office (a thread of its own) --record, descriptor--> receiver, one of several
//!                                               <--hello, taken, done--
//! ```
//! The office keeps a descriptor of its own until the receiver says that it has taken the connection; what it has not
//! taken when it goes is offered to another one.

mod office;
mod place;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::crew::Crew;
use crate::dispatch::{Intake, Pool, RunningWorkers, Workers};
use office::Office;
use place::{Place, remedy};

pub use wire::{CAPACITY_MAX, RECORD_FIXED, RECORD_FIXED_TLS, VERSION};

/// How long a receiver may take to say that it has taken a connection, if nothing else is said.
pub const TAKE_PATIENCE_DEFAULT: Duration = Duration::from_secs(10);
/// Who may connect to the socket, if nothing else is said: the process's own user.
pub const MODE_DEFAULT: u32 = 0o600;

/// Where receivers connect, and what is expected of them.
///
/// ```
/// use vestibule::Pool;
/// use vestibule::worker::HandOff;
///
/// let pool = Pool::hand_off("imap", HandOff::at("/run/vestibule/imap.sock").mode(0o660));
/// let same_with_defaults = Pool::hand_off("imap", "/run/vestibule/imap.sock");
/// ```
#[derive(Clone, Debug)]
pub struct HandOff {
    path: PathBuf,
    mode: u32,
    take_patience: Duration,
}

impl HandOff {
    /// A Unix socket of the kind SOCK_SEQPACKET at this path, which must have room for a longer name beside it. What lies
    /// there is replaced.
    pub fn at(path: impl Into<PathBuf>) -> HandOff {
        HandOff { path: path.into(), mode: MODE_DEFAULT, take_patience: TAKE_PATIENCE_DEFAULT }
    }

    /// The socket's permissions. **Who may write to it gets clients' connections.**
    pub fn mode(mut self, mode: u32) -> HandOff {
        self.mode = mode & 0o777;
        self
    }

    /// How long a receiver may take to say that it has taken a connection; then it is let go, and what it has not taken is
    /// offered to others.
    pub fn take_patience(mut self, patience: Duration) -> HandOff {
        self.take_patience = patience;
        self
    }
}

impl<P: AsRef<Path>> From<P> for HandOff {
    fn from(path: P) -> HandOff {
        HandOff::at(path.as_ref())
    }
}

impl Pool {
    /// A pool of other processes, which connect to a Unix socket and get each connection's descriptor (SCM_RIGHTS) with a
    /// record of what is known of it (`docs/handoff.md`; receivers in Python and in C are in `examples/handoff/`).
    ///
    /// Each receiver says how many connections it serves at a time, and gets no more; the one with the fewest is next. While
    /// all are busy, or none is there, connections wait in the queue. A receiver that goes loses nothing that it had not
    /// taken: that is offered to the next. What it had taken and not done with counts as lost in the pool. A drain waits
    /// until the receivers are done.
    ///
    /// Where a listener ends TLS, the ring goes on with the session, and receivers get one end of a pair of Unix sockets that
    /// speaks plaintext; such a connection ends when the engine does.
    ///
    /// With [`exact_residual`](Pool::exact_residual) the bytes behind the header stay in the socket, and a receiver
    /// may ignore the record but for its id.
    pub fn hand_off(name: impl Into<String>, to: impl Into<HandOff>) -> Pool {
        Pool::new(name, to.into())
    }
}

impl Workers for HandOff {
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        let place = Place::take(&self.path, self.mode).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the socket of the pool {}, {}: {error}{}", intake.name(), self.path.display(), remedy(&error)),
            )
        })?;
        let office = Office::new(intake, place, self.take_patience)?;
        let mut crew = Crew::new(office.name());
        crew.spawn(move || office.run())?;
        Ok(Box::new(crew))
    }

    fn carry_tls(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;

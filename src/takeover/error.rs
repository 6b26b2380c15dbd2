//! What may go wrong between two processes, with its cause.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::wire::VERSION;
use crate::engine::StartError;

/// Why a takeover did not come about, or a path cannot be used for one. Before [`Claim`](super::Claim) has succeeded
/// nothing has changed in the other process, whatever the error is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the path: there is nothing to take over.
    Nobody {
        /// Where somebody was expected.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Nobody can connect to the path, or listen there.
    Path {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something else than a socket is at the path, and stays as it is.
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// The other process runs as another user, and neither is root.
    OtherUser {
        /// The other process; 0 if it cannot be seen from here.
        process: u32,
        /// The user that it runs as.
        theirs: u32,
        /// The user that this one runs as.
        own: u32,
    },
    /// The other process speaks no version of the protocol that this one knows.
    OtherVersion {
        /// The version that it speaks.
        theirs: u16,
    },
    /// The other process goes no further, and says why.
    Refused(String),
    /// The other process is gone, or has closed the connection.
    Closed,
    /// No answer within [`Limits`](super::Limits).
    Late,
    /// The other process does not keep to the protocol.
    Protocol(String),
    /// The process before has taken everything back and goes on: this one must not serve.
    GoesOn {
        /// That process.
        process: u32,
        /// Why.
        cause: Box<Error>,
    },
    /// The engine did not start.
    Start(StartError),
    /// The system refused.
    System(io::Error),
    /// What the program itself said: a [`Host`](super::Host), or whoever was to [complete](super::Claim::serve) a
    /// takeover.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// What the program itself has to say.
    ///
    /// ```
    /// use vestibule::takeover::Error;
    ///
    /// assert_eq!(Error::other("it is draining").to_string(), "it is draining");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Other(error.into())
    }

    pub(super) fn protocol(what: impl Into<String>) -> Error {
        Error::Protocol(what.into())
    }

    pub(super) fn at(path: &Path, error: io::Error) -> Error {
        Error::Path { path: path.to_owned(), error }
    }

    /// What a call on the connection has said.
    pub(super) fn of(errno: Errno) -> Error {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Error::Closed,
            Errno::AGAIN => Error::Late,
            errno => Error::System(errno.into()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Nobody { path, error } => write!(f, "{}: {error}; nobody listens there", path.display()),
            Error::Path { path, error } => write!(f, "{}: {error}{}", path.display(), remedy(error)),
            Error::NoSocket { path } => {
                write!(f, "{}: something else than a socket is there; remove it, or name another path", path.display())
            }
            Error::OtherUser { process, theirs, own } => {
                write!(f, "process {process} runs as user id {theirs}, this one as {own}")
            }
            Error::OtherVersion { theirs } => write!(
                f,
                "version {theirs} of the takeover protocol is spoken there, version {VERSION} here: restart instead of \
                 taking over"
            ),
            Error::Refused(reason) => write!(f, "the other process refuses: {reason}"),
            Error::Closed => f.write_str("the other process has closed the connection"),
            Error::Late => f.write_str("no answer in time"),
            Error::Protocol(what) => f.write_str(what),
            Error::GoesOn { process, cause } => write!(f, "process {process} goes on, this one ends: {cause}"),
            Error::Start(error) => error.fmt(f),
            Error::System(error) => error.fmt(f),
            Error::Other(error) => error.fmt(f),
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()) {
        "; a Unix socket's path has at most 107 bytes, and a dot and the process id are added for a moment"
    } else {
        ""
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Nobody { error, .. } | Error::Path { error, .. } | Error::System(error) => Some(error),
            Error::GoesOn { cause, .. } => Some(cause.as_ref()),
            Error::Start(error) => Some(error),
            Error::Other(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

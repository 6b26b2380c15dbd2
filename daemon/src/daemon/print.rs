//! What a command tells, where standard output or standard error may be full, closed, or read by nobody: `println!` would
//! panic there, and the exit code would say nothing of what was found.

use std::fmt::Display;
use std::io::{self, Write};

use super::Error;

/// A line on standard output.
///
/// # Errors
/// If it takes none, such as a file on a full disk.
pub fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// A line on standard error. Where that takes none it is lost: nobody is left who could be told.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether it is that nobody reads on: `head` has seen what it wanted, and needs no word about it.
pub fn is_unread(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

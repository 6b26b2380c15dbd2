//! Why bytes are not an acceptable header.

/// A broken rule of the grammar. `code()` is the stable name used in logs, counters and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Version 2 signature, version nibble not 2.
    BadVersion,
}

impl Reason {
    /// The kebab-case name.
    pub fn code(self) -> &'static str {
        match self {
            Reason::BadVersion => "bad-version",
        }
    }
}

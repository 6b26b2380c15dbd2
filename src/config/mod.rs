//! The configuration: Dovecot's syntax, so that the file an operator has can be read as it is.
//!
//! ```text
//! file --syntax--> elements --source--> tree --gather--> settings in use, by scope --validate--> Settings
//! ```
//!
//! Each step knows less of the files and more of the meaning. Nothing in here opens a port, a certificate or a clock.
#![forbid(unsafe_code)]

mod backends;
mod declared;
mod dump;
mod foreign;
mod gather;
mod glob;
mod groups;
mod lint;
mod names;
#[cfg(test)]
mod reference;
mod servers;
mod settings;
mod slips;
mod source;
mod syntax;
mod tls;
mod tls_policy;
mod validate;
mod value;
mod variables;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use declared::SETTINGS;
pub use dump::dump;
pub use lint::{Dovecot, lint};
pub use names::{Known, Origin, Scope};
pub use settings::*;
pub use source::{
    EXPANDED_MAX, FILES_MAX, INCLUDE_DEPTH_MAX, LINE_LENGTH_MAX, PROBLEMS_MAX, Place, SECTION_DEPTH_MAX, SIZE_MAX,
    STANDARD_INPUT, VALUE_FILE_MAX,
};

/// What `vestibule` runs without a file.
pub const BUILTIN: &str = "\
haproxy_trusted_networks = 127.0.0.0/8
service imap-login {
  inet_listener imap_haproxy {
    address = 127.0.0.1
    port = 10143
    haproxy = yes
  }
}
";

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub settings: Settings,
    /// What is right but hardly meant.
    pub warnings: Vec<Problem>,
    /// What was read and has no effect here.
    pub ignored: Vec<Ignored>,
    /// Listeners that Dovecot would have in addition.
    pub implicit: Vec<Implicit>,
}

/// An error or a warning, shown as `FILE line N: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// From 1; 0 if it concerns the file as a whole.
    pub line: u32,
    /// Cause and remedy.
    pub message: String,
}

impl fmt::Display for Problem {
    /// One line whatever the file holds: control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, " line {}", self.line)?;
        }
        f.write_str(": ")?;
        for c in self.message.chars() {
            match c.is_control() {
                true => write!(f, "{}", c.escape_debug())?,
                false => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// A setting or section without effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The setting's name, or the section's head.
    pub what: String,
    /// Where it stands.
    pub at: Place,
    /// Why it has no effect.
    pub reason: &'static str,
}

/// A listener that Dovecot has without a line of configuration; Vestibule binds what the file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implicit {
    /// The service.
    pub service: &'static str,
    /// The listener.
    pub listener: &'static str,
    /// Its port.
    pub port: u16,
    /// Whether TLS comes first.
    pub ssl: bool,
    /// The item of `protocols` that turns it on.
    pub protocol: &'static str,
}

/// Reads and validates a file and all that it includes; all errors at once.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    parse(path, &text(path).map_err(|problem| vec![problem])?)
}

/// The text of a file, or of a pipe such as `/dev/fd/63`, for those who need it more than once: [`parse`], [`lint`].
pub fn text(path: &Path) -> Result<String, Problem> {
    source::text(path)
}

/// The text on standard input, to be called [`STANDARD_INPUT`]; what it includes is looked for in the working directory.
pub fn standard_input() -> Result<String, Problem> {
    source::standard_input()
}

/// Reads and validates a text as if it were the file called `name`.
pub fn parse(name: &Path, text: &str) -> Result<Loaded, Vec<Problem>> {
    understood(name, source::read_text(name, text))
}

/// The configuration of a daemon without a file: [`BUILTIN`].
pub fn builtin() -> Loaded {
    parse(Path::new("(built-in)"), BUILTIN).expect("the built-in configuration is right, a test reads it")
}

fn understood(root: &Path, document: source::Document) -> Result<Loaded, Vec<Problem>> {
    if document.broken {
        return Err(document.problems);
    }
    let mut gathered = gather::gather(document);
    let implicit = validate::implicit(&gathered);
    let settings = validate::settings(root, &mut gathered);
    if settings.services.iter().flat_map(|service| &service.listeners).any(|listener| listener.ssl) {
        let policy: Vec<Problem> = tls_policy::warnings(&mut gathered).collect();
        gathered.warnings.extend(policy);
    }
    match gathered.problems.is_empty() {
        true => {
            let warnings = in_order(gathered.warnings);
            Ok(Loaded { settings, warnings, ignored: gathered.ignored, implicit })
        }
        false => Err(in_order(gathered.problems)),
    }
}

/// By place, so that an operator can walk through the file; what concerns the whole file comes first.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    problems.dedup();
    problems
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

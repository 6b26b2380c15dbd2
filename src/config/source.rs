//! From files to a tree: lines joined, includes followed, sections nested. Knows no setting but the grammar's own.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::syntax::{self, Element, Parsed, SyntaxError, Value};
use super::{Problem, glob};

/// Largest configuration in bytes, all files together.
pub const SIZE_MAX: usize = 16 << 20;
/// Longest logical line (continuation lines joined) in bytes.
pub const LINE_LENGTH_MAX: usize = 64 << 10;
/// Files that one configuration may consist of.
pub const FILES_MAX: usize = 1000;
/// How deep files may include one another.
pub const INCLUDE_DEPTH_MAX: usize = 16;
/// How deep sections may nest.
pub const SECTION_DEPTH_MAX: usize = 32;
/// Errors after which reading stops.
pub const PROBLEMS_MAX: usize = 100;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// From 1; 0 for the file as a whole.
    pub line: u32,
}

impl Place {
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), line: self.line, message: message.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}", self.file.display(), self.line)
    }
}

/// `key = value`.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) at: Place,
    /// Why the value is not known, if so: the cause and remedy that an error names where the setting is in use.
    pub(super) unresolved: Option<String>,
}

/// `kind name { ... }`.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) at: Place,
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Setting(Setting),
    Section(Section),
}

/// Everything that was read, in order.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// What Dovecot would refuse in lines that were read, in its words.
    pub(super) lint: Vec<Problem>,
    /// Whether the braces did not match or a line could not be read, so that the tree may be wrong.
    pub(super) broken: bool,
}

/// Reads a file and all that it includes.
pub(super) fn read(path: &Path) -> Document {
    let mut reader = Reader::default();
    let place = Place { file: path.into(), line: 0 };
    match content(path, SIZE_MAX) {
        Ok(text) => reader.file(&place.file, &text, 0),
        Err(error) => reader.problem(&place, format!("cannot be read: {error}")),
    }
    reader.finish()
}

/// Reads a text as if it were the file called `name`; its includes start at the working directory.
pub(super) fn read_text(name: &Path, text: &str) -> Document {
    let mut reader = Reader::default();
    reader.file(&name.into(), text, 0);
    reader.finish()
}

/// A whole file of at most `limit` bytes; bytes that are no UTF-8 become U+FFFD, which no setting in use accepts.
pub(super) fn content(path: &Path, limit: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other("larger than a configuration may be"));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

#[derive(Default)]
struct Reader {
    document: Document,
    /// Open sections, outermost first; they may close in another file than they were opened in, as in Dovecot.
    open: Vec<Section>,
    /// Global settings so far, for `$name`.
    globals: HashMap<String, String>,
    files: usize,
    /// Bytes of them.
    size: usize,
}

impl Reader {
    fn file(&mut self, file: &Arc<Path>, text: &str, depth: usize) {
        self.files += 1;
        self.size += text.len();
        let mut lines = Lines { lines: text.lines(), number: 0 };
        while let Some(line) = lines.logical() {
            if self.document.problems.len() >= PROBLEMS_MAX {
                return;
            }
            let at = Place { file: file.clone(), line: line.number };
            self.warn_about(&line, &at);
            if line.text.len() > LINE_LENGTH_MAX {
                self.broken(&at, format!("Line too long: more than {LINE_LENGTH_MAX} bytes"));
            } else if !line.text.is_empty() {
                self.line(&line.text, &at, &mut lines, depth);
            }
        }
    }

    fn warn_about(&mut self, line: &Line, at: &Place) {
        if line.ambiguous {
            let words = "Ambiguous '#' character in line, treating it as comment. Add a space before it to remove this warning.";
            self.document.warnings.push(at.problem(words));
        }
        if line.cut_short {
            let words = "A line that ends in '\\' is not continued: a comment, an empty line or the end of the file follows. Dovecot drops such a setting; remove the '\\'.";
            self.document.warnings.push(at.problem(words));
        }
    }

    fn line(&mut self, text: &str, at: &Place, lines: &mut Lines<'_>, depth: usize) {
        let Parsed { elements, refused_by_dovecot } = match syntax::parse(text) {
            Ok(parsed) => parsed,
            Err(SyntaxError { dovecot, remedy }) => {
                self.document.lint.push(at.problem(dovecot));
                return self.broken(at, format!("{dovecot} ({remedy})"));
            }
        };
        self.document.lint.extend(refused_by_dovecot.map(|words| at.problem(words)));
        for element in elements {
            match element {
                Element::Setting { key, value } => self.setting(key, value, at, lines),
                Element::Open { kind, name } => self.open(kind, name, at),
                Element::Close => self.close(at),
                Element::Include { pattern, required } => self.include(&pattern, required, at, depth),
            }
        }
    }

    fn setting(&mut self, key: String, value: Value, at: &Place, lines: &mut Lines<'_>) {
        let (value, unresolved) = match value {
            Value::Plain(text) if text.contains('$') => self.expanded(&text),
            Value::Heredoc(end) => match lines.until(&end) {
                Some(text) => (Value::Quoted(text), None),
                None => return self.broken(at, format!("Missing '{end}' that ends the value begun with <<{end}")),
            },
            other => (other, None),
        };
        if let (Value::Plain(text) | Value::Quoted(text), true) = (&value, self.open.is_empty()) {
            self.globals.insert(key.clone(), text.clone());
        }
        self.push(Entry::Setting(Setting { key, value, at: at.clone(), unresolved }));
    }

    /// Words of the form `$name` become the value of the global setting `name` so far. What cannot be resolved, or
    /// would be too long, stays as it is and is named.
    fn expanded(&self, text: &str) -> (Value, Option<String>) {
        let mut expanded = String::with_capacity(text.len());
        let mut unresolved = None;
        for word in text.split(' ') {
            let name = word.strip_prefix('$').map(|name| name.strip_prefix("SET:").unwrap_or(name));
            let value =
                name.and_then(|name| self.globals.get(name)).filter(|v| expanded.len() + v.len() < LINE_LENGTH_MAX);
            if name.is_some() && value.is_none() {
                let remedy = "no earlier setting of that name; write the value itself";
                unresolved.get_or_insert_with(|| format!("Unknown variable: {word} ({remedy})"));
            }
            expanded.push_str(value.map_or(word, String::as_str));
            expanded.push(' ');
        }
        expanded.pop();
        (Value::Plain(expanded), unresolved)
    }

    fn open(&mut self, kind: String, name: Option<String>, at: &Place) {
        // Beyond the limit sections are still counted, so that their braces match.
        if self.open.len() == SECTION_DEPTH_MAX {
            self.broken(at, format!("Sections nest deeper than {SECTION_DEPTH_MAX} levels: is a '}}' missing before?"));
        }
        self.open.push(Section { kind, name, at: at.clone(), entries: Vec::new() });
    }

    fn close(&mut self, at: &Place) {
        match self.open.pop() {
            Some(section) if self.open.len() < SECTION_DEPTH_MAX => self.push(Entry::Section(section)),
            Some(_) => {}
            None => {
                self.document.lint.push(at.problem("Unexpected '}'"));
                if !self.document.broken {
                    self.broken(
                        at,
                        "Unexpected '}' (no section is open here: remove it, or look for a missing '{' above)",
                    );
                }
            }
        }
    }

    fn include(&mut self, pattern: &str, required: bool, at: &Place, depth: usize) {
        let base = at.file.parent().unwrap_or(Path::new("")).to_path_buf();
        let paths = glob::files(&base, pattern);
        if paths.is_empty() && required {
            self.document.lint.push(at.problem("No matches"));
            self.problem(at, format!("No matches (for !include {pattern}; !include_try permits that)"));
        }
        for path in paths {
            if depth + 1 > INCLUDE_DEPTH_MAX || self.files >= FILES_MAX {
                let limits = format!("{INCLUDE_DEPTH_MAX} levels or {FILES_MAX} files");
                return self.problem(at, format!("Too many includes: more than {limits}; does a file include itself?"));
            }
            match content(&path, SIZE_MAX.saturating_sub(self.size)) {
                Ok(text) => self.file(&path.into(), &text, depth + 1),
                Err(error) if required => self.problem(at, format!("{} cannot be read: {error}", path.display())),
                Err(error) => self.document.warnings.push(at.problem(format!("{} left out: {error}", path.display()))),
            }
        }
    }

    fn push(&mut self, entry: Entry) {
        match self.open.last_mut() {
            Some(section) => section.entries.push(entry),
            None => self.document.entries.push(entry),
        }
    }

    fn broken(&mut self, at: &Place, message: impl Into<String>) {
        self.document.broken = true;
        self.problem(at, message.into());
    }

    fn problem(&mut self, at: &Place, message: String) {
        self.document.problems.push(at.problem(message));
    }

    fn finish(mut self) -> Document {
        if let Some(section) = self.open.last() {
            let at = section.at.clone();
            let words = format!("Missing '}}' (section started at {}:{})", at.file.display(), at.line);
            self.document.lint.push(at.problem(words.as_str()));
            if !self.document.broken {
                self.broken(&at, words);
            }
        }
        self.document
    }
}

/// A logical line: no comment, continuation lines joined with one space.
#[derive(Default)]
struct Line {
    text: String,
    /// Of its last physical line, as Dovecot counts.
    number: u32,
    ambiguous: bool,
    cut_short: bool,
}

struct Lines<'a> {
    lines: std::str::Lines<'a>,
    number: u32,
}

impl<'a> Lines<'a> {
    fn physical(&mut self) -> Option<&'a str> {
        let line = self.lines.next()?;
        self.number += 1;
        Some(line)
    }

    /// The next logical line; what is too long is cut just above the limit, so that the caller sees it.
    fn logical(&mut self) -> Option<Line> {
        let mut joined = Line::default();
        let mut continues = false;
        loop {
            let Some(physical) = self.physical() else {
                joined.cut_short = continues;
                return continues.then_some(joined);
            };
            joined.number = self.number;
            let (text, ambiguous) = syntax::strip(physical);
            joined.ambiguous |= ambiguous;
            if text.is_empty() {
                joined.cut_short = continues;
                return Some(joined);
            }
            let (part, more) = syntax::continued(text).map_or((text, false), |part| (part, true));
            if joined.text.len() <= LINE_LENGTH_MAX {
                joined.text.push_str(part);
                if more && !part.is_empty() {
                    joined.text.push(' ');
                }
            }
            continues = more;
            if !more {
                return Some(joined);
            }
        }
    }

    /// The lines up to one that reads `end`; `None` if none does.
    fn until(&mut self, end: &str) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match self.physical()? {
                line if line.trim() == end => return Some(text.join("\n")),
                line => text.push(line),
            }
        }
    }
}

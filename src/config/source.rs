//! From files to a tree: lines joined, includes followed, variables replaced, sections nested. Knows no setting but the
//! grammar's own, and asks [`names`] for the default that a variable stands for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::lint::Dovecot;
use super::syntax::{self, Element, Parsed, SyntaxError, Value};
use super::variables::Variables;
use super::{Problem, foreign, glob, names, slips};

/// Largest configuration in bytes, all files together.
pub const SIZE_MAX: usize = 16 << 20;
/// Longest logical line (continuation lines joined) in bytes.
pub const LINE_LENGTH_MAX: usize = 64 << 10;
/// Largest file that a value is read from, in bytes: some 60,000 networks.
pub const VALUE_FILE_MAX: usize = 1 << 20;
/// Largest size of all values together in which variables were replaced, in bytes.
pub const EXPANDED_MAX: usize = 16 << 20;
/// How long a pipe may be silent that a configuration is read from.
const PIPE_PATIENCE: Duration = Duration::from_secs(2);
/// What it is waited for at a time, and how often in all: 10 s, whoever sends it byte by byte.
const PIPE_STEP: Duration = Duration::from_millis(20);
const PIPE_STEPS_MAX: u32 = 500;
/// How long one who is about to write to a pipe may take to open it.
const PIPE_OPEN_MAX: Duration = Duration::from_millis(100);
/// Files that one configuration may consist of.
pub const FILES_MAX: usize = 1000;
/// How deep files may include one another.
pub const INCLUDE_DEPTH_MAX: usize = 16;
/// How deep sections may nest.
pub const SECTION_DEPTH_MAX: usize = 32;
/// Errors after which reading stops.
pub const PROBLEMS_MAX: usize = 100;

/// What standard input is called in messages.
pub const STANDARD_INPUT: &str = "(standard input)";

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// From 1; 0 for the file as a whole.
    pub line: u32,
}

impl Place {
    /// What is wrong there.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
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
    pub(super) unresolved: Option<Arc<str>>,
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

/// The text of the main file, which may be a pipe as well that somebody writes to; the problem if it cannot be read.
pub(super) fn text(path: &Path) -> Result<String, Problem> {
    let limited = |file: &mut dyn Read, size| {
        content_of(file, size, SIZE_MAX, format_args!("all files together may have {SIZE_MAX} bytes"))
    };
    let read = open(path).and_then(|mut file| match file.metadata()? {
        found if found.is_dir() => Err(io::Error::other("it is a directory")),
        // There is nothing to wait for.
        found if found.is_file() => limited(&mut file, found.len()),
        _ => limited(&mut Awaited::new(file)?, 0),
    });
    read.map_err(|error| Place { file: path.into(), line: 0 }.problem(format!("cannot be read: {error}")))
}

/// What comes on standard input, as [`text`].
pub(super) fn standard_input() -> Result<String, Problem> {
    let place = Place { file: Path::new(STANDARD_INPUT).into(), line: 0 };
    content_of(io::stdin().lock(), 0, SIZE_MAX, format_args!("all files together may have {SIZE_MAX} bytes"))
        .map_err(|error| place.problem(format!("cannot be read: {error}")))
}

/// Reads a text as if it were the file called `name`; its includes start at the working directory.
pub(super) fn read_text(name: &Path, text: &str) -> Document {
    let mut reader = Reader::default();
    reader.file(&name.into(), text, 0);
    reader.finish()
}

/// A file of configuration lines, where `left` bytes are left of [`SIZE_MAX`].
fn configuration_file(path: &Path, left: usize) -> io::Result<String> {
    content(path, left, format_args!("all files together may have {SIZE_MAX} bytes"))
}

/// The file that a value `<path` names.
pub(super) fn value_file(path: &Path) -> io::Result<String> {
    content(path, VALUE_FILE_MAX, format_args!("the file of a value may have {VALUE_FILE_MAX} bytes"))
}

/// A whole file of at most `limit` bytes, of which an error tells in the words of `limit_of`. Bytes that are no UTF-8
/// become U+FFFD, which no setting in use accepts.
fn content(path: &Path, limit: usize, limit_of: fmt::Arguments<'_>) -> io::Result<String> {
    let file = open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    content_of(file, found.len(), limit, limit_of)
}

/// Without waiting: a FIFO that nobody writes to would hold whoever opens it.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// A file that may be a pipe, whose reader waits, but not for ever.
struct Awaited {
    file: File,
    /// How often it may still be waited for.
    steps: u32,
    /// Whether nobody may have opened it to write yet.
    unopened: bool,
}

impl Awaited {
    fn new(file: File) -> io::Result<Awaited> {
        let unopened = file.metadata()?.file_type().is_fifo();
        Ok(Awaited { file, steps: PIPE_STEPS_MAX, unopened })
    }

    /// The first bytes of a pipe; `None` if they are still to come. Without a writer it is at its end, and not only without
    /// bytes; one may be about to open it.
    fn begin(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        for is_last in [false, true] {
            match self.file.read(buffer) {
                Ok(0) if is_last => break,
                Ok(0) => drop(self.wait(PIPE_OPEN_MAX)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                read => return read.map(Some),
            }
        }
        Err(io::Error::other("it is a pipe that nobody writes to"))
    }

    /// Waits at most so long for something to read; `false` if nothing comes.
    fn wait(&mut self, patience: Duration) -> io::Result<bool> {
        let ready = |limit: Duration| {
            let limit = Timespec::try_from(limit).expect("less than a second");
            retry_on_intr(|| poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&limit)))
        };
        let mut left = patience;
        let mut step = Duration::ZERO;
        while ready(step)? == 0 {
            left = left.saturating_sub(step);
            if left.is_zero() || self.steps == 0 {
                return Ok(false);
            }
            self.steps -= 1;
            step = PIPE_STEP;
        }
        Ok(true)
    }
}

impl Read for Awaited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.unopened)
            && let Some(count) = self.begin(buffer)?
        {
            return Ok(count);
        }
        match self.wait(PIPE_PATIENCE)? {
            true => self.file.read(buffer),
            false if self.steps == 0 => Err(io::Error::other("this pipe is too slow: it must have come within 10 s")),
            false => Err(io::Error::other(format!("nobody has written to this pipe for {PIPE_PATIENCE:?}"))),
        }
    }
}

/// All of a text that is expected to have so many bytes.
fn content_of(file: impl Read, size: u64, limit: usize, limit_of: fmt::Arguments<'_>) -> io::Result<String> {
    // One more, by which the end is found.
    let mut bytes = Vec::with_capacity(limit.min(usize::try_from(size).unwrap_or(limit)) + 1);
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!("too large: {limit_of}")));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(io::Error::other("it is UTF-16: save it as UTF-8"));
    }
    // The same without a mark at its beginning.
    if matches!(bytes[..], [b' '..=b'~', 0, ..] | [0, b' '..=b'~', ..]) {
        return Err(io::Error::other("it is UTF-16: save it as UTF-8"));
    }
    if bytes.contains(&b'\r') && !bytes.contains(&b'\n') {
        return Err(io::Error::other("its lines end with CR alone: save it with LF or CR LF"));
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
    variables: Variables,
    files: usize,
    /// Bytes of them.
    size: usize,
    /// Bytes of the values in which variables were replaced.
    expanded: usize,
}

impl Reader {
    fn file(&mut self, file: &Arc<Path>, text: &str, depth: usize) {
        self.files += 1;
        self.size += text.len();
        let text = self.without_mark(file, text);
        if depth == 0
            && let Some((line, words)) = foreign::told(text)
        {
            return self.broken(&Place { file: file.clone(), line }, words);
        }
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
                self.line(&line.text, &at, depth);
            }
        }
    }

    /// The byte order mark with which some editors begin a file; Dovecot takes it for part of the first word.
    fn without_mark<'a>(&mut self, file: &Arc<Path>, text: &'a str) -> &'a str {
        let Some(rest) = text.strip_prefix('\u{feff}') else { return text };
        let first = rest.lines().next().unwrap_or_default();
        let words = match syntax::first_word(first) {
            Some((key, true)) => format!("Unknown setting: \u{feff}{key}"),
            Some((kind, false)) => format!("Unknown setting: \u{feff}{kind} {{ \u{feff}{kind}"),
            None => syntax::EXPECTING_BRACE.into(),
        };
        self.document.lint.push(Place { file: file.clone(), line: 1 }.problem(words));
        rest
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

    fn line(&mut self, text: &str, at: &Place, depth: usize) {
        let Parsed { elements, refused_by_dovecot } = match syntax::parse(text) {
            Ok(parsed) => parsed,
            Err(SyntaxError { dovecot, remedy }) => {
                self.document.lint.push(at.problem(dovecot));
                return self.broken(at, format!("{dovecot} ({})", slips::of_line(text).unwrap_or(remedy)));
            }
        };
        self.document.lint.extend(refused_by_dovecot.map(|words| at.problem(words)));
        for element in elements {
            match element {
                Element::Setting { key, value } => self.setting(key, value, at),
                Element::Open { kind, name } => self.open(kind, name, at),
                Element::Close => self.close(at),
                Element::Include { pattern, required } => self.include(&pattern, required, at, depth),
            }
        }
    }

    fn setting(&mut self, key: String, value: Value, at: &Place) {
        let (value, unresolved) = match value {
            Value::Plain(text) if text.contains('$') => {
                let expanded = self.variables.expand(&text, !self.open.is_empty());
                let before = self.expanded;
                self.expanded += expanded.text.len();
                if self.expanded > EXPANDED_MAX {
                    if before <= EXPANDED_MAX {
                        let remedy = "does one that grows from line to line refer to itself?";
                        let words = format!("Values with variables come to more than {EXPANDED_MAX} bytes ({remedy})");
                        self.broken(at, words);
                    }
                    return;
                }
                if let Some(name) = expanded.missing.filter(|_| names::is_in_use(&key)) {
                    let words = format!("{key}: the environment has no {name}: $ENV:{name} is empty here");
                    self.document.warnings.push(at.problem(words));
                }
                (Value::Plain(expanded.text), expanded.unresolved)
            }
            Value::File(path) if path.starts_with('<') => {
                let words = format!("{key} = <{path}: no released Dovecot knows here-documents");
                return self.broken(at, format!("{words} (write the value on one line, or {key} = </path/of/a/file)"));
            }
            other => (other, None),
        };
        if self.open.is_empty() {
            if key == "dovecot_config_version" {
                self.variables.dovecot = Dovecot::V24;
            }
            let stands_for = match (&value, &unresolved) {
                (_, Some(words)) => Err(words.clone()),
                (Value::Plain(text) | Value::Quoted(text), None) => Ok(text.clone()),
                (Value::File(_) | Value::Update(_), None) => Err(no_text(&key, "is read from a file")),
            };
            self.variables.globals.insert(key.clone(), stands_for);
        }
        self.push(Entry::Setting(Setting { key, value, at: at.clone(), unresolved }));
    }

    fn open(&mut self, kind: String, name: Option<String>, at: &Place) {
        if self.open.is_empty() {
            self.variables.globals.insert(kind.clone(), Err(no_text(&kind, "is a section")));
        }
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
            let why = if glob::is_literal(pattern) { why_not_a_file(&base.join(pattern)) } else { String::new() };
            self.problem(at, format!("No matches (for !include {pattern}{why}; !include_try permits that)"));
        }
        for path in paths {
            if depth + 1 > INCLUDE_DEPTH_MAX || self.files >= FILES_MAX {
                let limits = format!("{INCLUDE_DEPTH_MAX} levels or {FILES_MAX} files");
                return self.problem(at, format!("Too many includes: more than {limits}; does a file include itself?"));
            }
            match configuration_file(&path, SIZE_MAX.saturating_sub(self.size)) {
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
            let mut words = format!("Missing '}}' (section started at {}:{})", at.file.display(), at.line);
            self.document.lint.push(at.problem(words.as_str()));
            if !self.document.broken {
                if let Some(inner) = self.open.iter().find_map(misplaced) {
                    let name = inner.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
                    words += &format!(
                        "; {}{name} begins inside of it ({}): is a '}}' missing before?",
                        inner.kind, inner.at
                    );
                }
                self.broken(&at, words);
            }
        }
        self.document
    }
}

/// A section that stands in another one where it never belongs: before it one was not closed.
fn misplaced(section: &Section) -> Option<&Section> {
    section.entries.iter().find_map(|entry| match entry {
        Entry::Section(inner)
            if ["service", "backend"].contains(&inner.kind.as_str()) || inner.kind == section.kind =>
        {
            Some(inner)
        }
        Entry::Section(inner) => misplaced(inner),
        Entry::Setting(_) => None,
    })
}

/// Why the one path that an include names is no file to be read, as far as that is not said by "no matches".
fn why_not_a_file(path: &Path) -> String {
    match path.metadata() {
        Ok(found) if found.is_dir() => ": it is a directory, write DIRECTORY/*.conf".into(),
        Ok(_) => ": it is no file".into(),
        Err(_) if path.is_symlink() => ": it is a link to what is not there".into(),
        Err(error) => format!(": {error}"),
    }
}

/// Why no variable can stand for what a setting was.
fn no_text(name: &str, what: &str) -> Arc<str> {
    format!("${name} has no value to put in its place, because {name} {what} (write the value itself)").into()
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
                joined.text.truncate(joined.text.trim_end().len());
                return continues.then_some(joined);
            };
            joined.number = self.number;
            let (text, ambiguous) = syntax::strip(physical);
            joined.ambiguous |= ambiguous;
            if text.is_empty() {
                joined.cut_short = continues;
                joined.text.truncate(joined.text.trim_end().len());
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
}

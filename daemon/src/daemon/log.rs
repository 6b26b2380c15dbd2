//! The daemon's log: lines on standard error in Dovecot's form, `DATE SERVICE: Level: message`, or objects of JSON.
//!
//! A thread of its own writes them, behind a bounded queue: a target that blocks or is full costs lines, never
//! connections. Under systemd the date gives way to the journal's priority prefix (sd-daemon(3)).

pub mod json;

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer as FormatWriter;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use vestibule::config::LogFormat;

use super::events;

/// Lines that may wait to be written; more are lost and counted.
const LINES_MAX: usize = 8192;
/// How long the end of the process waits for what is still to be written.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The running log, and standard output, which may block just as well. Dropped, both are flushed as far as they take it.
pub struct Log {
    guards: Vec<WorkerGuard>,
    output: NonBlocking,
    errors: NonBlocking,
    form: Form,
    lost: LostLines,
}

/// Starts the log. Panics are lines in it too: the default message goes to standard error at once, which may block.
pub fn start(kind: LogFormat) -> Log {
    let lost = LostLines::default();
    let journal = std::env::var("JOURNAL_STREAM").is_ok_and(|named| is_journal(&named, io::stderr()));
    let form = Form { kind, journal };
    let (errors, errors_guard) = writer(Target { inner: io::stderr(), form, lost: lost.clone(), told: 0, torn: false });
    let (output, output_guard) = writer(io::stdout());
    lost.dropped.get_or_init(|| errors.error_counter());
    tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(errors.clone()).event_format(form).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Log { guards: vec![output_guard, errors_guard], output, errors, form, lost }
}

impl Log {
    /// Writes a line to standard output; nobody may be listening.
    pub fn say(&self, line: fmt::Arguments<'_>) {
        // One piece: each is queued by itself.
        let _ = self.output.clone().write_all(format!("{line}\n").as_bytes());
    }

    /// The form of the log's lines, for those that do not come as events.
    pub fn lines(&self) -> Lines {
        Lines(self.form)
    }

    /// Where they go, several at a time: beside the events, behind the same bounded queue.
    pub fn writer(&self) -> Writer {
        self.errors.clone()
    }

    /// Lines that the log's target has not taken so far.
    pub fn lost(&self) -> u64 {
        self.lost.count()
    }

    /// The same for another thread.
    pub fn lost_lines(&self) -> LostLines {
        self.lost.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let guards = std::mem::take(&mut self.guards);
        // Dropping a guard waits for its writer, and complains on standard output if that takes long: neither may keep the
        // process from ending.
        let Ok(flushing) = thread::Builder::new().name("flush".into()).spawn(move || drop(guards)) else { return };
        let end = Instant::now() + FLUSH_MAX;
        while !flushing.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Takes whole lines and never waits; what it cannot take is counted.
pub type Writer = NonBlocking;

/// Makes lines in the log's form.
#[derive(Clone, Copy)]
pub struct Lines(Form);

impl Lines {
    /// Adds a line of a service whose text `body` writes.
    pub fn write(
        self,
        lines: &mut String,
        level: Level,
        service: &str,
        body: impl FnOnce(&mut String) -> fmt::Result,
    ) -> fmt::Result {
        match self.0.kind {
            LogFormat::Text => {
                self.0.begin(&mut FormatWriter::new(lines), level)?;
                write!(lines, "{service}: {}", words(level).1)?;
                body(lines)?;
                lines.push('\n');
                Ok(())
            }
            LogFormat::Json => {
                let mut text = String::new();
                body(&mut text)?;
                self.0.write(&mut FormatWriter::new(lines), level, service, &text)
            }
        }
    }
}

/// Whether a stream is the one that the service manager has connected to the journal: it names device and inode. A child
/// inherits the variable though its standard error may go elsewhere.
fn is_journal(named: &str, stream: impl AsFd) -> bool {
    let Ok(found) = nix::sys::stat::fstat(stream) else { return false };
    let numbers = named.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    numbers == Some((Ok(found.st_dev), Ok(found.st_ino)))
}

/// What to say of lines that were lost.
pub fn losses(lines: u64) -> String {
    format!("{lines} log lines were lost: standard error was blocked or full")
}

fn writer(target: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(target)
}

/// Lines that nobody will read.
#[derive(Clone, Default)]
pub struct LostLines {
    /// Those that found the queue full.
    dropped: Arc<OnceLock<ErrorCounter>>,
    /// Those that the target refused.
    refused: Arc<AtomicU64>,
}

impl LostLines {
    /// How many there are so far.
    pub fn count(&self) -> u64 {
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        dropped as u64 + self.refused.load(Ordering::Relaxed)
    }
}

/// Where lines go. When it takes one after others were lost, it says how many.
struct Target<W> {
    inner: W,
    form: Form,
    lost: LostLines,
    told: u64,
    /// A line was taken in part: what comes next begins a line of its own.
    torn: bool,
}

impl<W: Write> Target<W> {
    /// Writes whole lines, behind the end of one that is torn.
    fn put(&mut self, mut lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.inner.write_all(b"\n")?;
            self.torn = false;
        }
        while !lines.is_empty() {
            let taken = match self.inner.write(lines) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                taken => taken?,
            };
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            lines = &lines[taken..];
            self.torn = !lines.is_empty();
        }
        Ok(())
    }

    fn tell_losses(&mut self) -> io::Result<()> {
        let lost = self.lost.count();
        if lost == self.told {
            return Ok(());
        }
        let mut line = String::new();
        let text = losses(lost - self.told);
        // A String takes everything.
        let _ = self.form.write(&mut FormatWriter::new(&mut line), Level::WARN, "vestibule", &text);
        self.put(line.as_bytes())?;
        self.told = lost;
        Ok(())
    }
}

impl<W: Write> Write for Target<W> {
    /// A whole line. Takes it in any case: there is nobody who could do something about an error.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.put(line) {
            Ok(()) => drop(self.tell_losses()), // or later
            Err(_) => drop(self.lost.refused.fetch_add(1, Ordering::Relaxed)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The form of a line.
#[derive(Clone, Copy)]
struct Form {
    kind: LogFormat,
    journal: bool,
}

impl Form {
    fn write(self, writer: &mut FormatWriter<'_>, level: Level, service: &str, text: &str) -> fmt::Result {
        self.begin(writer, level)?;
        match self.kind {
            LogFormat::Text => writeln!(writer, "{service}: {}{text}", words(level).1),
            LogFormat::Json => writeln!(writer, "{}", json::line(level, service, text)),
        }
    }

    /// What stands before everything else.
    fn begin(self, writer: &mut FormatWriter<'_>, level: Level) -> fmt::Result {
        match (self.journal, self.kind) {
            (true, _) => write!(writer, "<{}>", words(level).0),
            (false, LogFormat::Text) => {
                SystemTime.format_time(writer)?;
                writer.write_char(' ')
            }
            (false, LogFormat::Json) => Ok(()),
        }
    }
}

/// The journal's priority (sd-daemon(3)) and Dovecot's word.
fn words(level: Level) -> (u8, &'static str) {
    match level {
        Level::ERROR => (3, "Error: "),
        Level::WARN => (4, "Warning: "),
        _ => (6, "Info: "),
    }
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: FormatWriter<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let service = parts.service.as_deref().unwrap_or("vestibule");
        let text = format!("{}{}", parts.message, parts.rest);
        events::note(parts.kind.as_deref(), *event.metadata().level(), service, &text);
        self.write(&mut writer, *event.metadata().level(), service, &text)
    }
}

/// An event's fields: the message, the service it belongs to, and whatever else there is.
#[derive(Default)]
struct Parts {
    service: Option<String>,
    /// What kind of event it is, for those who follow them.
    kind: Option<String>,
    message: String,
    rest: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes everything.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "service" => self.service = Some(value.to_owned()),
            "event" => self.kind = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes lines only while it has room for them.
    #[derive(Default)]
    struct Disk {
        room: usize,
        lines: Vec<String>,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.lines.len() == self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted_and_told_when_it_has_room() {
        let mut target = Target {
            inner: Disk::default(),
            form: Form { kind: LogFormat::Text, journal: true },
            lost: LostLines::default(),
            told: 0,
            torn: false,
        };
        for _ in 0..3 {
            target.write_all(b"one\n").expect("it takes everything");
        }
        assert_eq!(target.lost.count(), 3);
        target.inner.room = 3;
        target.write_all(b"two\n").expect("it takes everything");
        target.write_all(b"three\n").expect("it takes everything");
        let told = "<4>vestibule: Warning: 3 log lines were lost: standard error was blocked or full\n";
        assert_eq!(target.inner.lines, ["two\n", told, "three\n"]);
    }

    /// Takes bytes while it has room for them.
    #[derive(Default)]
    struct Sheet {
        room: usize,
        text: String,
    }

    impl Write for Sheet {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room - self.text.len());
            self.text.push_str(&String::from_utf8_lossy(&bytes[..taken]));
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn behind_a_line_that_a_full_disk_has_cut_the_next_one_begins_anew() {
        let mut target = Target {
            inner: Sheet { room: 8, text: String::new() },
            form: Form { kind: LogFormat::Text, journal: true },
            lost: LostLines::default(),
            told: 0,
            torn: false,
        };
        for line in ["first\n", "second\n", "third\n"] {
            target.write_all(line.as_bytes()).expect("it takes everything");
        }
        assert_eq!((target.inner.text.as_str(), target.lost.count()), ("first\nse", 2));
        target.inner.room = 200;
        target.write_all(b"fourth\n").expect("it takes everything");
        let told = "<4>vestibule: Warning: 2 log lines were lost: standard error was blocked or full\n";
        assert_eq!(target.inner.text, format!("first\nse\nfourth\n{told}"));
    }

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        let stream = tempfile::tempfile().expect("a file can be made");
        let found = nix::sys::stat::fstat(&stream).expect("it is open");
        let named = |device: u64, inode: u64| is_journal(&format!("{device}:{inode}"), &stream);
        assert!(named(found.st_dev, found.st_ino));
        assert!(!named(found.st_dev, found.st_ino + 1) && !named(found.st_dev + 1, found.st_ino));
        assert!(!is_journal("1", &stream) && !is_journal("", &stream) && !is_journal("a:b", &stream));
    }
}

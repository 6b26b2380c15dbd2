//! The daemon's log: lines on standard error in Dovecot's form, `DATE SERVICE: Level: message`.
//!
//! A thread of its own writes them, behind a bounded queue: a target that blocks or is full costs lines, never
//! connections. Under systemd the date gives way to the journal's priority prefix (sd-daemon(3)).

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines that may wait to be written; more are lost and counted.
const LINES_MAX: usize = 8192;

/// Starts the log; it is flushed when the guard is dropped.
pub fn start() -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(std::io::stderr());
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(writer).event_format(Dovecot { journal }).init();
    guard
}

/// The form of a line.
struct Dovecot {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Dovecot
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let (priority, level) = match *event.metadata().level() {
            Level::ERROR => (3, "Error: "),
            Level::WARN => (4, "Warning: "),
            _ => (6, "Info: "),
        };
        if self.journal {
            write!(writer, "<{priority}>")?;
        } else {
            SystemTime.format_time(&mut writer)?;
            writer.write_char(' ')?;
        }
        let service = parts.service.as_deref().unwrap_or("vestibule");
        writeln!(writer, "{service}: {level}{}{}", parts.message, parts.rest)
    }
}

/// An event's fields: the message, the service it belongs to, and whatever else there is.
#[derive(Default)]
struct Parts {
    service: Option<String>,
    message: String,
    rest: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        // A String takes everything.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "service" => self.service = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }
}

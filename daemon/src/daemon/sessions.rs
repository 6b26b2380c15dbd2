//! The log lines of relayed sessions, in Dovecot's form. They go to the log's writer a ring's turn at a time: a session must
//! not pay for waking it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;

use tracing::Level;
use vestibule::engine::{SessionLog, SessionRecord};

use super::events::{self, FollowsRelays, RELAY};
use super::lock;
use super::log::Lines;

/// Writes sessions to the log.
pub struct Sessions {
    lines: Lines,
    /// One a ring would do; they only meet here.
    writer: Mutex<super::log::Writer>,
}

impl Sessions {
    /// To the log that has been started.
    pub fn new(log: &super::log::Log) -> Sessions {
        Sessions { lines: log.lines(), writer: Mutex::new(log.writer()) }
    }
}

impl SessionLog for Sessions {
    fn tell(&self, lines: &mut String, session: &SessionRecord<'_>) {
        let level = match session.end {
            Some(end) if end.is_trouble() => Level::WARN,
            _ => Level::INFO,
        };
        let service = session.listener.service.as_str();
        // A String takes everything.
        let _ = self.lines.write(lines, level, service, |line| describe(line, session));
        if FollowsRelays::is_anybody() {
            let mut text = String::new();
            let _ = describe(&mut text, session);
            events::note(Some(RELAY), level, service, &text);
        }
    }

    fn flush(&self, lines: &mut String) {
        // It never waits, and counts what it cannot take.
        let _ = lock(&self.writer).write_all(lines.as_bytes());
        lines.clear();
    }
}

/// `relay(BACKEND/SERVER): WORDS (rip=.., session=<..>): KEY=VALUE ..`
fn describe(line: &mut String, session: &SessionRecord<'_>) -> std::fmt::Result {
    let seconds = std::time::Duration::as_secs_f64;
    let server = session.server.as_deref().unwrap_or("-");
    let words = session.end.map_or("Session started", |end| end.words());
    write!(line, "relay({}/{server}): {words} (", session.backend)?;
    address(line, "rip", "rport", session.client)?;
    line.push_str(", ");
    address(line, "lip", "lport", session.destination)?;
    write!(line, ", session=<{}>): ", session.id)?;
    write!(line, "wait={:.3} connect={:.3}", seconds(&session.queue_wait), seconds(&session.connect))?;
    if session.retries > 0 {
        write!(line, " retries={}", session.retries)?;
    }
    if let Some(version) = session.tls.and_then(|tls| tls.version) {
        write!(line, " tls={version}")?;
    }
    let Some(end) = session.end else { return Ok(()) };
    let (greeting, lasted, idle) = (seconds(&session.greeting), seconds(&session.lasted), seconds(&session.idle));
    write!(line, " banner={greeting:.3} dur={lasted:.3} idle={idle:.3}")?;
    write!(line, " in={} out={} end={}/{}", session.from_client, session.from_server, end.code(), end.letters())
}

fn address(line: &mut String, ip: &str, port: &str, address: SocketAddr) -> std::fmt::Result {
    write!(line, "{ip}={}, {port}={}", address.ip(), address.port())
}

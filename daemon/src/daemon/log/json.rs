//! A line of the log as an object: what a line of text says by `name=value` has the same names here.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tracing::Level;

/// What is a number: all other values are texts, whatever they look like, since some are bytes of peers.
const NUMBERS: [&str; 13] =
    ["rport", "lport", "wait", "connect", "retries", "banner", "dur", "idle", "in", "out", "at", "bytes", "tlvs"];
/// Names that every line has; a text cannot change them.
const OWN: [&str; 4] = ["time", "level", "service", "message"];

/// The object. `message` is the whole text; beside it stand the values that it names.
pub fn line(level: Level, service: &str, text: &str) -> Value {
    let word = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "info",
    };
    let mut all = fields(text);
    for (name, value) in
        [("time", now().into()), ("level", word.into()), ("service", service.into()), ("message", text.into())]
    {
        let value: Value = value;
        all.insert(name.to_owned(), value);
    }
    if let Some((backend, server)) = relay_of(text) {
        all.insert("backend".to_owned(), backend.into());
        all.insert("server".to_owned(), server.into());
    }
    Value::Object(all)
}

/// The first value of each name. Bytes of peers hold no space (they are escaped), so they cannot begin a word.
fn fields(text: &str) -> Map<String, Value> {
    let mut all = Map::new();
    for word in text.split(' ') {
        let opened = word.starts_with('(');
        let word = word.trim_start_matches('(');
        let Some((name, value)) = word.split_once('=') else { continue };
        let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if !valid || OWN.contains(&name) || all.contains_key(name) {
            continue;
        }
        all.insert(name.to_owned(), value_of(name, bare(name, value, opened)));
    }
    all
}

/// What stands in brackets ends with a comma, or a bracket and a colon: `(rip=192.0.2.1, rport=25):`.
fn bare<'a>(name: &str, value: &'a str, opened: bool) -> &'a str {
    let in_brackets = opened || ["rip", "rport", "lip", "lport", "session"].contains(&name);
    if in_brackets { value.trim_end_matches([',', ':', ')']) } else { value }
}

fn value_of(name: &str, text: &str) -> Value {
    let text = if name == "session" { text.trim_start_matches('<').trim_end_matches('>') } else { text };
    let number = NUMBERS.contains(&name).then(|| text.parse::<u64>().map(Value::from));
    match number {
        Some(Ok(number)) => number,
        Some(Err(_)) => text.parse::<f64>().map_or_else(|_| text.into(), |number| json!(number)),
        None => text.into(),
    }
}

/// `relay(BACKEND/SERVER): ..`
fn relay_of(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("relay(")?.split_once("): ")?.0.rsplit_once('/')
}

/// The time, as RFC 3339 has it.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    stamp(since.as_secs(), since.subsec_micros())
}

/// Days since 1970 to a date: Howard Hinnant's `civil_from_days`.
pub fn stamp(seconds: u64, micros: u32) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_values_by_name() {
        let text = "haproxy: Client not trusted (rip=127.0.0.9): reason=untrusted peer=127.0.0.9:4711 local=127.0.0.1:143 \
                    bytes=16 first=GET\\x20/,):level=x diagnosis=http (HTTP without a header: a probe)";
        let line = line(Level::WARN, "imap-login", text);
        for (name, value) in [
            ("level", json!("warning")),
            ("service", json!("imap-login")),
            ("message", json!(text)),
            ("rip", json!("127.0.0.9")),
            ("reason", json!("untrusted")),
            ("peer", json!("127.0.0.9:4711")),
            ("bytes", json!(16)),
            ("first", json!("GET\\x20/,):level=x")),
            ("diagnosis", json!("http")),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
    }

    #[test]
    fn a_session_has_its_values_by_name() {
        let text = "relay(imap/mail1): Connection closed (rip=2001:db8::7, rport=5000, lip=192.0.2.1, lport=143, \
                    session=<N3eB81dhiBPGM2QH>): wait=0.000 connect=0.001 banner=0.250 dur=31.5 idle=2 in=5 out=14 \
                    end=client-closed/--";
        let line = line(Level::INFO, "imap-login", text);
        for (name, value) in [
            ("backend", json!("imap")),
            ("server", json!("mail1")),
            ("rip", json!("2001:db8::7")),
            ("rport", json!(5000)),
            ("lport", json!(143)),
            ("session", json!("N3eB81dhiBPGM2QH")),
            ("banner", json!(0.25)),
            ("in", json!(5)),
            ("out", json!(14)),
            ("end", json!("client-closed/--")),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
    }

    #[test]
    fn no_text_changes_what_every_line_has() {
        let line = line(Level::INFO, "s", "x level=error service=other message=m time=0 a=1 a=2 A=3 =4");
        assert_eq!((&line["level"], &line["service"]), (&json!("info"), &json!("s")));
        assert_eq!((&line["a"], line.get("A")), (&json!("1"), None));
    }

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(stamp(951_782_399, 5), "2000-02-28T23:59:59.000005Z");
        assert_eq!(stamp(951_868_799, 999_999), "2000-02-29T23:59:59.999999Z");
        assert_eq!(stamp(1_795_899_600, 0), "2026-11-28T21:00:00.000000Z");
    }
}

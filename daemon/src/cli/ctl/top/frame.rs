//! What `ctl top` shows: from two answers of the daemon and the size of the terminal to lines. Pure, so that its picture can be
//! looked at without a terminal.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::control::age;

/// Rates that the curve shows.
pub const RATES_MAX: usize = 32;

/// What the daemon has said last, and what has changed since it was asked before.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// `ctl stats --json`.
    pub stats: Value,
    /// `ctl refused --json`.
    pub refused: Value,
    /// The answer before, and how long ago that was.
    pub before: Option<(Value, Duration)>,
    /// Connections a second, the latest last.
    pub rates: VecDeque<f64>,
    /// Why there was no answer this time.
    pub problem: Option<String>,
    /// Whether it stands still because somebody wants that.
    pub paused: bool,
}

/// How the lines are made.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// With colours; each says something that stands there in words, too.
    pub colours: bool,
    /// With characters that are not ASCII.
    pub unicode: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    Head,
    Good,
    Warn,
    Bad,
    Dim,
}

/// A line as long as it may get.
#[derive(Default)]
struct Line(Vec<(Style, String)>);

impl Line {
    fn with(mut self, style: Style, text: impl Into<String>) -> Line {
        self.0.push((style, text.into()));
        self
    }

    fn plain(text: impl Into<String>) -> Line {
        Line::default().with(Style::Plain, text)
    }

    /// Cut to a width, its last part filled up if it is a head.
    fn paint(self, width: usize, paint: Paint) -> String {
        let mut left = width;
        let mut out = String::new();
        let head = self.0.first().is_some_and(|(style, _)| *style == Style::Head);
        for (style, text) in self.0 {
            let text: String = text.chars().map(|c| shown(c, paint)).take(left).collect();
            left -= text.chars().count();
            out.push_str(&painted(style, &text, paint));
        }
        if head {
            out.push_str(&painted(Style::Head, &" ".repeat(left), paint));
        }
        out
    }
}

fn painted(style: Style, text: &str, paint: Paint) -> String {
    let code = match style {
        Style::Plain => return text.to_owned(),
        _ if !paint.colours || text.is_empty() => return text.to_owned(),
        Style::Head => 7,
        Style::Good => 32,
        Style::Warn => 33,
        Style::Bad => 31,
        Style::Dim => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// What somebody has sent must not command the terminal.
fn shown(c: char, paint: Paint) -> char {
    match c {
        ' '..='~' => c,
        '▁'..='█' if paint.unicode => c,
        _ => '?',
    }
}

/// The lines, at most so many and so wide.
pub fn frame(view: &View, (width, height): (usize, usize), paint: Paint) -> Vec<String> {
    let keys = Line::default().with(Style::Dim, "q leaves, p stops and goes on");
    let mut all = vec![head(view), Line::default()];
    all.extend(totals(view, paint));
    all.push(Line::default());
    let attention = attention(view);
    let room = height.saturating_sub(all.len() + 1);
    all.extend(attention.into_iter().take(room / 3));
    let servers = servers(view, width);
    let refused = refused(view, width);
    // Servers have what refusals leave, and at least two thirds.
    let room = height.saturating_sub(all.len() + 2);
    let for_refused = refused.len().min((room / 3).max(room.saturating_sub(servers.len())));
    section(&mut all, servers, room - for_refused);
    all.push(Line::default());
    section(&mut all, refused, for_refused);
    all.truncate(height.saturating_sub(1));
    all.resize_with(height.saturating_sub(1), Line::default);
    all.push(keys);
    all.truncate(height);
    all.into_iter().map(|line| line.paint(width, paint)).collect()
}

/// As many as there is room for, and how many more there are.
fn section(all: &mut Vec<Line>, mut lines: Vec<Line>, room: usize) {
    if lines.len() > room && room > 0 {
        let more = lines.len() + 1 - room;
        lines.truncate(room - 1);
        lines.push(Line::default().with(Style::Dim, format!("... and {more} more")));
    }
    lines.truncate(room);
    all.append(&mut lines);
}

fn head(view: &View) -> Line {
    let stats = &view.stats;
    let configuration = &stats["configuration"];
    let state = match (&view.problem, stats["ready"].as_bool()) {
        (Some(problem), _) => format!("NO ANSWER: {problem}"),
        (None, Some(true)) => "READY".to_owned(),
        (None, _) => format!("NOT READY: {}", text(&stats["why-not-ready"])),
    };
    let state = if view.paused { format!("{state}, PAUSED") } else { state };
    let in_force = age(configuration["in-force"].as_f64().unwrap_or(0.0) as u64);
    let (pid, driver) = (&stats["pid"], text(&stats["driver"]));
    Line::default().with(
        Style::Head,
        format!(
            " Vestibule {}  process {pid}  {driver}  configured {in_force} ago  {state}",
            env!("CARGO_PKG_VERSION")
        ),
    )
}

fn totals(view: &View, paint: Paint) -> [Line; 2] {
    let rate = |name: &str| view.rate(|stats| counter(stats, name)).map_or("-".to_owned(), rated);
    let refused: u64 = ended(&view.stats);
    let refused_rate = view.rate(ended).map_or("-".to_owned(), rated);
    let sessions: u64 = servers_of(&view.stats).iter().map(|server| number(&server["sessions"])).sum();
    let curve = curve(&view.rates, paint);
    [
        Line::default().with(
            Style::Dim,
            format!("{:>12} {:>12} {:>12} {:>10} {:>12}", "accepted/s", "served/s", "refused/s", "sessions", "refused"),
        ),
        Line::plain(format!(
            "{:>12} {:>12} {refused_rate:>12} {sessions:>10} {refused:>12}  {curve}",
            rate("accepted"),
            rate("proxied")
        )),
    ]
}

/// What somebody should look at.
fn attention(view: &View) -> Vec<Line> {
    let mut all = Vec::new();
    for server in servers_of(&view.stats) {
        if text(&server["status"]) == "DOWN" {
            let (since, why) = (age(number(&server["since"])), text(&server["why"]));
            all.push(
                Line::default().with(Style::Bad, format!("{} has been down for {since}: {why}", server_name(server))),
            );
        }
    }
    if let Some(failed) = view.stats["configuration"]["failed"].as_object() {
        let first = failed.get("errors").and_then(|errors| errors[0].as_str()).unwrap_or_default();
        let ago = age(failed.get("ago").and_then(Value::as_f64).unwrap_or(0.0) as u64);
        all.push(Line::default().with(Style::Bad, format!("the last reload failed {ago} ago: {first}")));
    }
    for listener in view.stats["drained-listeners"].as_array().into_iter().flatten() {
        all.push(Line::default().with(Style::Warn, format!("listener {} is drained", text(listener))));
    }
    if view.stats["takeover"]["predecessor-finishes"] == true {
        let words = "the process before still finishes what it has";
        all.push(Line::default().with(Style::Warn, words));
    }
    if !all.is_empty() {
        all.push(Line::default());
    }
    all
}

fn servers(view: &View, width: usize) -> Vec<Line> {
    let servers = servers_of(&view.stats);
    if servers.is_empty() {
        return Vec::new();
    }
    let name_width = width.saturating_sub(56).clamp(16, 40);
    let mut all = vec![Line::default().with(
        Style::Head,
        format!(
            "{:<name_width$} {:<5} {:>7} {:>7} {:>7} {:>8} {:>9} {:>6}",
            "server", "state", "cur", "max", "limit", "new/s", "total", "errors"
        ),
    )];
    for server in servers {
        let name = server_name(server);
        let status = text(&server["status"]).to_owned();
        let style = match status.as_str() {
            "UP" => Style::Good,
            "DOWN" => Style::Bad,
            _ => Style::Warn,
        };
        let new = view.rate(|stats| {
            let same = servers_of(stats).iter().find(|one| server_name(one) == name);
            same.map_or(0, |one| number(&one["sessions-total"]))
        });
        let errors: u64 =
            ["connect-errors", "own-faults", "not-greeted"].iter().map(|name| number(&server[*name])).sum();
        let limit = server["sessions-limit"].as_u64().map_or("-".to_owned(), |limit| limit.to_string());
        let short: String = name.chars().take(name_width).collect();
        all.push(Line::plain(format!("{short:<name_width$} ")).with(style, format!("{status:<5}")).with(
            Style::Plain,
            format!(
                " {:>7} {:>7} {limit:>7} {:>8} {:>9} {errors:>6}",
                number(&server["sessions"]),
                number(&server["sessions-max"]),
                new.map_or("-".to_owned(), rated),
                number(&server["sessions-total"])
            ),
        ));
    }
    all
}

fn refused(view: &View, width: usize) -> Vec<Line> {
    let some = view.refused["refusals"].as_array().map_or(&[][..], Vec::as_slice);
    if some.is_empty() {
        return Vec::new();
    }
    let wide = width >= 100;
    // Beside the other columns, and the longest diagnosis.
    let source_width = width.saturating_sub(62).clamp(18, 39);
    let mut all = vec![Line::default().with(
        Style::Head,
        format!(
            "{:<source_width$} {:>7} {:>7} {:<22} {}",
            "refused",
            "count",
            "last",
            "reason",
            if wide { "sent" } else { "diagnosis" }
        ),
    )];
    for one in some {
        let last = age(one["last"].as_f64().unwrap_or(0.0) as u64);
        let what = if wide { text(&one["sent"]) } else { one["diagnosis"].as_str().unwrap_or("-") };
        all.push(Line::plain(format!(
            "{:<source_width$} {:>7} {last:>7} {:<22} {what}",
            text(&one["source"]),
            number(&one["count"]),
            text(&one["reason"])
        )));
    }
    all
}

impl View {
    /// How much something has grown in a second.
    pub fn rate(&self, of: impl Fn(&Value) -> u64) -> Option<f64> {
        let (before, passed) = self.before.as_ref()?;
        let grown = of(&self.stats).saturating_sub(of(before));
        (passed.as_secs_f64() > 0.0).then(|| grown as f64 / passed.as_secs_f64())
    }
}

/// A counter by its name.
pub fn counter(stats: &Value, name: &str) -> u64 {
    number(&stats["counters"][name])
}

/// Connections that ended before they were handed on.
fn ended(stats: &Value) -> u64 {
    stats["ended"].as_array().into_iter().flatten().map(|one| number(&one["count"])).sum()
}

fn servers_of(stats: &Value) -> &[Value] {
    stats["servers"].as_array().map_or(&[], Vec::as_slice)
}

fn server_name(server: &Value) -> String {
    format!("{}/{}", text(&server["backend"]), text(&server["server"]))
}

fn rated(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// The rates as a curve, as high as the highest of them.
fn curve(rates: &VecDeque<f64>, paint: Paint) -> String {
    let steps: &[char] = if paint.unicode {
        &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    } else {
        &['_', '.', '-', '=', '#']
    };
    let most = rates.iter().copied().fold(0.0, f64::max);
    let step = |rate: &f64| {
        let part = if most > 0.0 { rate / most } else { 0.0 };
        steps[((part * (steps.len() - 1) as f64).round() as usize).min(steps.len() - 1)]
    };
    rates.iter().map(step).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BARE: Paint = Paint { colours: false, unicode: false };

    fn server(name: &str, status: &str, sessions: u64, total: u64) -> Value {
        json!({
            "backend": "imap", "server": name, "status": status, "since": 134, "sessions": sessions,
            "sessions-max": 2000, "sessions-limit": null, "sessions-total": total, "connect-errors": 2,
            "why": if status == "DOWN" { "Connection refused (10.0.1.12:143)" } else { "" },
        })
    }

    fn stats(accepted: u64) -> Value {
        json!({
            "pid": 4711, "driver": "io_uring", "ready": true,
            "configuration": { "in-force": 267_000.0, "failed": null }, "drained-listeners": ["imap-login/imaps_haproxy"],
            "takeover": { "predecessor-finishes": false },
            "counters": { "accepted": accepted, "proxied": accepted - 21 },
            "ended": [{ "count": accepted / 100 }],
            "servers": [
                server("mail1", "UP", 1874, accepted / 2),
                server("mail2", "DOWN", 0, 812),
                server("mail3", "UP", 1901, accepted / 2),
                server("mail4", "MAINT", 3, 99),
            ],
        })
    }

    /// What stands before it in the document.
    const BEFORE_THE_PICTURE: &str = "At 80x24, without colours:\n\n```text\n";

    /// A moment of some daemon.
    fn view() -> View {
        let refusal = |source: &str, count: u64, reason: &str, diagnosis: &str, sent: &str| json!({ "source": source, "count": count, "last": 3.2, "reason": reason, "diagnosis": diagnosis, "sent": sent });
        View {
            stats: stats(48_310),
            refused: json!({ "refusals": [
                refusal("203.0.113.66", 412, "absent", "http", "GET / HTTP/1.1\\x0d\\x0a"),
                refusal("10.0.0.9", 37, "untrusted", "header-from-untrusted", "PROXY TCP4 198.51.100.7"),
                refusal("198.51.100.23", 5, "client-rate-limit", "-", ""),
            ] }),
            before: Some((stats(48_090), Duration::from_secs(1))),
            rates: (0..RATES_MAX).map(|n| 200.0 + 40.0 * (n as f64 / 3.0).sin()).collect(),
            problem: None,
            paused: false,
        }
    }

    #[test]
    fn the_picture_in_the_document_is_what_it_draws() {
        let drawn = frame(&view(), (80, 24), BARE).iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let document = std::fs::read_to_string(file).expect("it is there");
        let (before, rest) = document.split_once(BEFORE_THE_PICTURE).expect("the document has a picture");
        let (_, after) = rest.split_once("\n```\n").expect("the picture has an end");
        let drawn = format!("{before}{BEFORE_THE_PICTURE}{drawn}\n```\n{after}");
        if std::env::var_os("VESTIBULE_WRITE_DOCS").is_some() {
            std::fs::write(file, &drawn).expect("it can be written");
        }
        assert_eq!(drawn, document, "run this test with VESTIBULE_WRITE_DOCS=1 to draw it anew");
    }

    #[test]
    fn no_line_is_too_long_and_none_too_many_whatever_the_size() {
        let mut odd = view();
        odd.stats["servers"] = (0..300).map(|n| server(&"x".repeat(n), "UP", 1, 1)).collect();
        odd.refused["refusals"][0]["sent"] = "\x1b[2J\u{9b}é".into();
        let empty = View { problem: Some("nobody listens there".into()), ..View::default() };
        for view in [&view(), &odd, &empty] {
            for size in [(80, 24), (120, 40), (20, 5), (1, 1), (300, 100), (80, 2)] {
                let lines = frame(view, size, BARE);
                assert_eq!(lines.len(), size.1, "{size:?}");
                for line in &lines {
                    assert!(line.chars().count() <= size.0 && line.is_ascii(), "{size:?}: {line:?}");
                    assert!(!line.contains('\x1b'), "nothing that was sent commands the terminal: {line:?}");
                }
            }
        }
        let coloured = frame(&view(), (80, 24), Paint { colours: true, unicode: true });
        assert!(
            coloured.iter().any(|line| line.contains("\x1b[31m") && line.contains("has been down")),
            "{coloured:?}"
        );
    }

    #[test]
    fn it_says_what_is_wrong_and_how_fast_things_go() {
        let lines = frame(&view(), (80, 24), BARE).join("\n");
        for words in [
            "imap/mail2 has been down for 2m14s: Connection refused",
            " 220 ",
            "READY",
            "imap-login/imaps_haproxy is drained",
        ] {
            assert!(lines.contains(words), "{words}:\n{lines}");
        }
        let mut unready = view();
        unready.stats["ready"] = false.into();
        unready.stats["why-not-ready"] = "it is about to drain".into();
        unready.paused = true;
        let head = frame(&unready, (120, 24), BARE)[0].clone();
        assert!(head.contains("NOT READY: it is about to drain, PAUSED"), "{head}");
    }
}

//! Answers as people read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::Request;
use crate::daemon::control;

/// Characters of what one has sent that stand in a table.
const SENT_SHOWN_MAX: usize = 48;

/// Failed TLS handshakes that are told of below a table.
const WORDS_SHOWN_MAX: usize = 16;

/// The answer to a request: as a table, or as it came.
pub fn show(request: &Request, answer: &Value, json: bool) -> String {
    match request {
        Request::Stats { .. } if json => format!("{}\n", answer["stats"]),
        Request::Backends {} if json => format!("{}\n", answer["backends"]),
        Request::Session { .. } if json => format!("{}\n", answer["session"]),
        _ if json => format!("{answer}\n"),
        Request::Stats { .. } => text(&answer["text"]).to_owned(),
        Request::Backends {} => backends(&answer["backends"]),
        Request::Who { .. } => who(answer),
        Request::Refused { .. } => refused(answer),
        Request::Session { .. } => session(&answer["session"]),
        Request::Server { .. } => match answer["let-go"].as_u64() {
            None | Some(0) => String::new(),
            Some(count) => format!("{count} sessions are let go\n"),
        },
        Request::Kick { .. } => format!("{} sessions are ended\n", answer["kicked"]),
        Request::Reload {} => {
            let warnings = answer["warnings"].as_array().into_iter().flatten();
            let warnings: String = warnings.map(|warning| format!("warning: {}\n", text(warning))).collect();
            warnings + "reloaded\n"
        }
        Request::Events { .. } => String::new(),
        Request::Drain { listener: Some(_) } => {
            format!("{} is drained; its sessions go on\n", text(&answer["listener"]))
        }
        Request::Resume { listener: Some(_) } => format!("{} accepts again\n", text(&answer["listener"])),
        Request::Drain { listener: None } => "draining\n".to_owned(),
        Request::Resume { listener: None } => format!("accepting again; {} sessions go on\n", answer["sessions"]),
        Request::Rebalance { backend, .. } => match answer["ending"].as_u64() {
            None | Some(0) => format!("no server of {backend} has more sessions than its share\n"),
            Some(count) => format!(
                "{count} sessions of {backend}/{} are ended within {:.1} s\n",
                text(&answer["server"]),
                answer["seconds"].as_f64().unwrap_or(0.0)
            ),
        },
        Request::Shutdown {} => "draining, and leaving then\n".to_owned(),
        Request::Trust { address: Some(_) } => trust(answer),
        Request::Trust { address: None } => trusted(answer),
        Request::Ban { .. } => format!("{} is banned\n", text(&answer["network"])),
        Request::Unban { .. } => format!("{} is banned no more\n", text(&answer["network"])),
        Request::Bans {} => bans(answer),
    }
}

/// HAProxy's columns, those that people look at.
fn backends(all: &Value) -> String {
    let mut table = Table::new(&[
        "server", "state", "weight", "cur", "max", "limit", "total", "in", "out", "errors", "checks", "failed",
        "change",
    ]);
    for backend in all.as_array().into_iter().flatten() {
        for server in backend["servers"].as_array().into_iter().flatten() {
            let number = |name: &str| server[name].as_u64().unwrap_or(0);
            let errors = number("connect-errors") + number("own-faults") + number("not-greeted");
            let checks = number("checks-passed") + number("checks-failed");
            table.row([
                format!("{}/{}", text(&backend["backend"]), text(&server["server"])),
                text(&server["status"]).to_owned(),
                number("weight").to_string(),
                number("sessions").to_string(),
                number("sessions-max").to_string(),
                server["sessions-limit"].as_u64().map_or("-".into(), |limit| limit.to_string()),
                number("sessions-total").to_string(),
                number("bytes-in").to_string(),
                number("bytes-out").to_string(),
                errors.to_string(),
                checks.to_string(),
                number("checks-failed").to_string(),
                age(number("since") as f64),
            ]);
        }
    }
    let mut out = table.finish();
    for backend in all.as_array().into_iter().flatten() {
        backend_line(&mut out, backend);
    }
    out
}

/// The queue and the stick table, and why servers are down.
fn backend_line(out: &mut String, backend: &Value) {
    let name = text(&backend["backend"]);
    let [waiting, most, limit] = ["queue", "queue-max", "queue-limit"].map(|name| &backend[name]);
    // A String takes everything.
    let _ = write!(out, "{name}: {waiting} wait (at most {most} so far, limit {limit})");
    if backend["stick-size"].as_u64() > Some(0) {
        let _ = write!(out, ", {} of {} clients remembered", backend["stick-used"], backend["stick-size"]);
    }
    out.push('\n');
    for server in backend["servers"].as_array().into_iter().flatten() {
        if !text(&server["why"]).is_empty() {
            let _ = writeln!(out, "{name}/{}: {}", text(&server["server"]), text(&server["why"]));
        }
    }
}

fn who(answer: &Value) -> String {
    let mut table = Table::new(&["client", "server", "service", "state", "age", "idle", "in", "out", "tls", "session"]);
    for session in answer["sessions"].as_array().into_iter().flatten() {
        table.row([
            text(&session["client"]).to_owned(),
            server_name(session),
            text(&session["service"]).to_owned(),
            text(&session["state"]).to_owned(),
            age(session["age"].as_f64().unwrap_or(0.0)),
            age(session["idle"].as_f64().unwrap_or(0.0)),
            session["bytes-in"].to_string(),
            session["bytes-out"].to_string(),
            tls(&session["tls"]),
            text(&session["session"]).to_owned(),
        ]);
    }
    let mut out = table.finish();
    if let Some(more @ 1..) = answer["more"].as_u64() {
        let _ = writeln!(out, "... and {more} more");
    }
    out
}

/// What is known of a client's TLS, in a few words.
fn tls(tls: &Value) -> String {
    if tls.is_null() {
        return "-".to_owned();
    }
    let version = match (tls["version"].as_str(), text(&tls["ends"])) {
        (Some(version), _) => version,
        (None, "server") => "passed on",
        (None, "here") => "failed",
        (None, _) => "yes",
    };
    let certificate = (tls["certificate"] == true).then_some("certificate");
    [Some(version), tls["sni"].as_str(), certificate].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn trust(answer: &Value) -> String {
    let mut table = Table::new(&["listener", "trusted", "by", "connections", "last", "set in"]);
    for one in answer["listeners"].as_array().into_iter().flatten() {
        let by = one["by"].as_str();
        table.row([
            listener_name(one),
            match (by, text(&one["untrusted"])) {
                (Some(_), _) => "yes".to_owned(),
                (None, "plain") => "no: a client of its own".to_owned(),
                (None, _) => "no: turned away".to_owned(),
            },
            by.unwrap_or("-").to_owned(),
            one["connections"].as_u64().map_or("-".to_owned(), |count| count.to_string()),
            last_used(one, by.is_some()),
            one["at"].as_str().unwrap_or("-").to_owned(),
        ]);
    }
    table.finish()
}

/// How long ago a network was used.
fn last_used(one: &Value, is_trusted: bool) -> String {
    match one["last"].as_f64() {
        Some(ago) => age(ago),
        None if is_trusted => "never".to_owned(),
        None => "-".to_owned(),
    }
}

/// The networks of all listeners, below them who has come from outside, and what can be done about those that were
/// recognised.
fn trusted(answer: &Value) -> String {
    let mut table = Table::new(&["network", "connections", "last", "listener", "set in"]);
    for listener in answer["listeners"].as_array().into_iter().flatten() {
        for network in listener["networks"].as_array().into_iter().flatten() {
            table.row([
                text(&network["network"]).to_owned(),
                network["connections"].to_string(),
                last_used(network, true),
                listener_name(listener),
                listener["at"].as_str().unwrap_or("-").to_owned(),
            ]);
        }
    }
    let mut out = table.finish();
    let outside = answer["outside"].as_array().map_or(&[][..], Vec::as_slice);
    if outside.is_empty() {
        return out + "\nnobody has come from outside\n";
    }
    let mut table = Table::new(&["from outside", "count", "first", "last", "listener", "diagnosis", "first sent"]);
    for one in outside {
        let sent: String = text(&one["sent"]).chars().take(SENT_SHOWN_MAX).collect();
        table.row([
            text(&one["network"]).to_owned(),
            one["count"].to_string(),
            age(one["first"].as_f64().unwrap_or(0.0)),
            age(one["last"].as_f64().unwrap_or(0.0)),
            listener_name(one),
            one["diagnosis"].as_str().unwrap_or("-").to_owned(),
            if sent.is_empty() { "-".to_owned() } else { sent },
        ]);
    }
    out.push('\n');
    out.push_str(&table.finish());
    add_advice(&mut out, outside);
    out
}

fn listener_name(one: &Value) -> String {
    format!("{}/{}", text(&one["service"]), text(&one["listener"]))
}

/// What can be done, once a diagnosis.
fn add_advice(out: &mut String, all: &[Value]) {
    let advice: BTreeMap<&str, &str> =
        all.iter().filter_map(|one| Some((one["diagnosis"].as_str()?, one["advice"].as_str()?))).collect();
    for (diagnosis, advice) in advice {
        // A String takes everything.
        let _ = writeln!(out, "{diagnosis}: {advice}");
    }
}

/// An event in one line.
pub fn event(told: &Value) -> String {
    format!("{} {:<8} {}", text(&told["time"]), text(&told["event"]), said(told, ""))
}

/// The same as a line of the log.
pub fn log_line(told: &Value) -> String {
    format!("{} {}", text(&told["time"]), said(told, "Info: "))
}

/// `info` stands before what is neither a warning nor an error.
fn said(told: &Value, info: &str) -> String {
    let level = match text(&told["level"]) {
        "error" => "Error: ",
        "warning" => "Warning: ",
        _ => info,
    };
    format!("{}: {level}{}\n", text(&told["service"]), text(&told["message"]))
}

fn bans(answer: &Value) -> String {
    let mut table = Table::new(&["network", "left"]);
    for one in answer["bans"].as_array().into_iter().flatten() {
        table.row([text(&one["network"]).to_owned(), one["left"].as_f64().map_or("for good".to_owned(), age)]);
    }
    table.finish()
}

/// A line a kind, and below the table what can be done about those that were recognised.
fn refused(answer: &Value) -> String {
    let mut table = Table::new(&["source", "listener", "last", "count", "reason", "diagnosis", "peer", "tls", "sent"]);
    let all = answer["refusals"].as_array().map_or(&[][..], Vec::as_slice);
    for one in all {
        table.row([
            text(&one["source"]).to_owned(),
            listener_name(one),
            age(one["last"].as_f64().unwrap_or(0.0)),
            one["count"].to_string(),
            text(&one["reason"]).to_owned(),
            one["diagnosis"].as_str().unwrap_or("-").to_owned(),
            text(&one["peer"]).to_owned(),
            tls(&one["tls"]),
            text(&one["sent"]).chars().take(SENT_SHOWN_MAX).collect(),
        ]);
    }
    let mut out = table.finish();
    add_advice(&mut out, all);
    // Only the log's words tell why a handshake has failed.
    for failed in all.iter().filter(|one| one["reason"] == "tls-failed").take(WORDS_SHOWN_MAX) {
        let _ = writeln!(out, "{}", text(&failed["text"]));
    }
    out
}

fn session(session: &Value) -> String {
    let seconds = |name: &str| session[name].as_f64().unwrap_or(0.0);
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    line("session", text(&session["session"]).to_owned());
    line("client", text(&session["client"]).to_owned());
    line("destination", text(&session["destination"]).to_owned());
    line("service", format!("{} ({})", text(&session["service"]), text(&session["listener"])));
    line("server", server_name(session));
    match session["ended-ago"].as_f64() {
        None => line("state", text(&session["state"]).to_owned()),
        Some(ago) => line("ended", format!("{} ago: {}", age(ago), text(&session["state"]))),
    }
    line("lasted", format!("{:.3} s", seconds("age")));
    line("idle", format!("{:.3} s", seconds("idle")));
    line("in", format!("{} bytes", session["bytes-in"]));
    line("out", format!("{} bytes", session["bytes-out"]));
    let of = &session["tls"];
    let name = of["certificate-name"].as_str().map_or(String::new(), |name| format!(" of {name}"));
    let until = match text(&of["ends"]) {
        "here" => ", up to here",
        "peer" => ", up to the peer",
        "server" => ", up to the server",
        _ => "",
    };
    line("tls", format!("{}{name}{until}", tls(of)));
    out
}

fn server_name(session: &Value) -> String {
    format!("{}/{}", text(&session["backend"]), session["server"].as_str().unwrap_or("-"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A time as HAProxy shows it: its two largest units.
fn age(seconds: f64) -> String {
    control::age(seconds as u64)
}

/// Columns as wide as what stands in them; the first one to the left, the others to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(names: &[&str]) -> Table {
        Table { rows: vec![names.iter().map(|name| (*name).to_owned()).collect()] }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn finish(self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = format!("{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(line, "  {cell:>width$}");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trusted_networks_stand_with_their_use_and_below_them_who_came_from_outside() {
        let network = |name: &str, connections: u64, last: Value| json!({ "network": name, "connections": connections, "last": last });
        let mut answer = json!({
            "listeners": [{
                "service": "imap-login", "listener": "imap_in", "at": "/etc/vestibule.conf line 1", "untrusted": "abort",
                "networks": [network("10.0.0.0/24", 1234, json!(62)), network("2001:db8::/64", 0, Value::Null)],
            }],
            "outside": [],
        });
        assert!(trusted(&answer).ends_with("\n\nnobody has come from outside\n"), "{}", trusted(&answer));
        answer["outside"] = json!([{
            "network": "10.0.9.1/32", "service": "imap-login", "listener": "imap_in", "count": 37, "first": 7300.2,
            "last": 3.9, "sent": "PROXY TCP4", "diagnosis": "header-from-untrusted", "advice": "add it",
        }]);
        let shown = trusted(&answer);
        let rows: Vec<String> =
            shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            rows,
            [
                "network connections last listener set in",
                "10.0.0.0/24 1234 1m2s imap-login/imap_in /etc/vestibule.conf line 1",
                "2001:db8::/64 0 never imap-login/imap_in /etc/vestibule.conf line 1",
                "",
                "from outside count first last listener diagnosis first sent",
                "10.0.9.1/32 37 2h1m 3s imap-login/imap_in header-from-untrusted PROXY TCP4",
                "header-from-untrusted: add it",
            ]
        );
    }

    #[test]
    fn servers_stand_in_columns_and_below_them_why_they_are_down() {
        let all = json!([{
            "backend": "imap", "queue": 1, "queue-max": 3, "queue-limit": 16, "stick-used": 2, "stick-size": 1000,
            "servers": [
                { "server": "mail1", "status": "UP", "weight": 1, "sessions": 12, "since": 90, "why": "" },
                { "server": "mail10", "status": "DOWN", "weight": 256, "since": 7300, "why": "refused" },
            ],
        }]);
        let shown = backends(&all);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0].split_whitespace().next(), Some("server"));
        assert!(lines[1].starts_with("imap/mail1      UP") && lines[1].ends_with("1m30s"), "{shown}");
        assert!(lines[2].starts_with("imap/mail10   DOWN") && lines[2].ends_with("2h1m"), "{shown}");
        assert_eq!(lines[3], "imap: 1 wait (at most 3 so far, limit 16), 2 of 1000 clients remembered");
        assert_eq!(lines[4], "imap/mail10: refused");
    }
}

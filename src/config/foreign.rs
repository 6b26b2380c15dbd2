//! Files of other programs, which would get an error a line: one that says what it is.

/// Lines that are looked at.
const LINES_MAX: usize = 200;
/// Sections of HAProxy's configuration, with whether a name follows.
const HAPROXY: [(&str, bool); 5] =
    [("global", false), ("defaults", false), ("frontend", true), ("backend", true), ("listen", true)];
/// Blocks and settings with which nginx's configurations begin.
const NGINX: [&str; 7] = ["events", "http", "stream", "mail", "worker_processes", "user", "load_module"];

/// Where and what it is, if it is none of Dovecot's.
pub(super) fn told(text: &str) -> Option<(u32, String)> {
    let lines = text.lines().zip(1u32..).take(LINES_MAX).map(|(line, number)| (line.trim(), number));
    let mut significant = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).peekable();
    let (first, number) = *significant.peek()?;
    let what = match first.as_bytes()[0] {
        b'[' if is_heading(first) => Some("TOML, or an INI file"),
        b'{' | b'[' => Some("JSON"),
        b'<' => Some("XML or HTML"),
        _ if first == "---" => Some("YAML"),
        _ if is_nginx(first) => Some("nginx's configuration"),
        _ => None,
    };
    if let Some(what) = what {
        return Some((number, message(what)));
    }
    significant.find(|(line, _)| is_haproxy(line)).map(|(_, number)| (number, message("HAProxy's configuration")))
}

fn message(what: &str) -> String {
    format!("this is {what}, not Dovecot's syntax (KEY = VALUE, TYPE NAME {{ ... }})")
}

/// `[name]` alone on its line.
fn is_heading(line: &str) -> bool {
    let name = line.trim_matches(['[', ']']);
    line.ends_with(']') && name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.contains([',', '"'])
}

/// A section of HAProxy's begins with a line of its own, without a brace.
fn is_haproxy(line: &str) -> bool {
    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
    let kind = words.next();
    let (name, more) = (words.next(), words.next());
    let named = name.is_some_and(|name| !name.starts_with(['=', '{']) && !name.contains(['=', '{']));
    HAPROXY.iter().any(|&(known, takes_name)| kind == Some(known) && more.is_none() && named == takes_name)
        && (named || name.is_none())
}

/// nginx's settings end with a semicolon, and have no `=`.
fn is_nginx(line: &str) -> bool {
    let word = line.split([' ', '\t', '{', ';']).next().unwrap_or_default();
    let setting = line.ends_with(';') && !line.contains('=');
    NGINX.contains(&word) && (setting || (line.ends_with('{') && line.split_whitespace().count() <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_programs_get_one_error() {
        for (text, line, what) in [
            ("{\"listeners\": []}\n", 1, "JSON"),
            ("\n[\n 1\n]\n", 2, "JSON"),
            ("[service.imap-login]\nport = 143\n", 1, "TOML"),
            ("[\"a\"]\n", 1, "JSON"),
            ("[a, b]\n", 1, "JSON"),
            ("<?xml version=\"1.0\"?>\n", 1, "XML"),
            ("---\nport: 5\n", 1, "YAML"),
            ("# c\nglobal\n    maxconn 5\n", 2, "HAProxy"),
            ("defaults\n  mode tcp\n", 1, "HAProxy"),
            ("listen imap\n  bind :143\n", 1, "HAProxy"),
            ("  maxconn 5\nfrontend imap # x\n", 2, "HAProxy"),
            ("worker_processes 1;\nevents {\n", 1, "nginx"),
            ("stream {\n  server {\n", 1, "nginx"),
        ] {
            let told = told(text);
            assert!(told.as_ref().is_some_and(|(at, words)| *at == line && words.contains(what)), "{text}: {told:?}");
        }
    }

    #[test]
    fn dovecots_own_files_are_none() {
        for text in [
            "",
            "# c\n",
            "listen = *\n",
            "listen {\n * = yes\n}\n",
            "service imap-login {\n}\n",
            "backend imap {\n servers = ::1\n}\n",
            "user = vestibule\n",
            "mail = x\n",
            "listen=*\n",
            "a = b\nglobal = x\n",
            "service x {\nlisten {\n}\n}\n",
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }
}

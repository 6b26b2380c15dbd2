//! Slips of the pen: what a value that is refused looks like, for a remedy behind the words that refuse it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::names;

/// The words that refuse a value, and what slip it may be.
pub(super) fn noted(text: &str, words: String) -> String {
    match slip(text).or_else(|| of_time(&words).map(str::to_owned)) {
        Some(slip) => format!("{words} ({slip})"),
        None => words,
    }
}

/// Dovecot's words for times have no remedy.
fn of_time(words: &str) -> Option<&'static str> {
    match words {
        _ if words.starts_with("Invalid time interval: ") => {
            Some("write a whole number and a unit, such as 30 secs or 5 mins")
        }
        _ if words.starts_with("Milliseconds not supported") => Some("write whole seconds"),
        _ => None,
    }
}

/// What is wrong with a line that begins neither a setting nor a section, where that can be told.
pub(super) fn of_line(line: &str) -> Option<&'static str> {
    let mut words = line.split_ascii_whitespace();
    let (first, second) = (words.next()?, words.next());
    if line == "{" {
        return Some("a { stands at the end of the line that names the section");
    }
    if ["include", "include_try"].contains(&first) {
        return Some("an include begins with a !: !include FILE");
    }
    if ["service", "inet_listener", "backend", "server", "local_name"].contains(&first) && !line.contains('{') {
        return Some("a { is missing at the end of this line");
    }
    let name = first.strip_suffix(':');
    match second {
        Some(_) if name.is_some_and(names::is_in_use) => Some("write KEY = VALUE, with a = instead of the colon"),
        Some(_) if names::is_in_use(first) => Some("a = is missing behind the first word"),
        _ => None,
    }
}

/// What may have been meant otherwise in any value.
fn slip(text: &str) -> Option<String> {
    if text.contains('\r') {
        return Some("a line ends with LF or CR LF, not with CR alone".into());
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii() && is_foreign(*c)) {
        return Some(format!(
            "there is a U+{:04X} in it, which only looks like white space, a quote or a dash",
            c as u32
        ));
    }
    if text.ends_with(';') {
        return Some("no ; stands at the end of a line".into());
    }
    let opened = text.starts_with(['"', '\'']) && (text.len() == 1 || !text.ends_with(&text[..1]));
    opened.then(|| "a quote is not closed".into())
}

/// What word processors and web pages put in the place of white space, quotes and dashes.
fn is_foreign(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '\u{200b}'..='\u{201f}' | '\u{2060}' | '\u{2212}' | '\u{feff}' | '\u{ab}' | '\u{bb}')
}

/// What to write instead of a word that is no network; empty where nobody can tell.
pub(super) fn instead_of_network(word: &str) -> String {
    let (address, bits) = word.split_once('/').map_or((word, None), |(address, bits)| (address, Some(bits)));
    let is = |text: &str| text.parse::<IpAddr>().ok();
    match (is(address), bits) {
        (Some(_), Some(bits)) => match bits.parse::<Ipv4Addr>().ok().map(u32::from) {
            Some(mask) if mask.leading_ones() + mask.trailing_zeros() == 32 => {
                format!("; write {address}/{}", mask.leading_ones())
            }
            Some(mask) if mask.trailing_ones() + mask.leading_zeros() == 32 => {
                format!("; write {address}/{}", mask.leading_zeros())
            }
            _ => format!("; /0 to /{} are networks of it", if address.contains(':') { 128 } else { 32 }),
        },
        _ if word.parse::<SocketAddr>().is_ok() => "; leave the port out".into(),
        _ if ["*", "any", "all"].contains(&word) => {
            "; everybody is 0.0.0.0/0 and ::/0, who could then name any client's address".into()
        }
        _ if word.starts_with('!') && is(&address[1..]).is_some() => {
            "; nothing can be taken out of a network: list the parts that are meant".into()
        }
        _ if word.split_once('-').is_some_and(|(from, to)| is(from).is_some() && is(to).is_some()) => {
            "; write a range as networks".into()
        }
        _ if is_of_numbers(address) => "; four numbers without leading zeros, and perhaps /BITS".into(),
        _ if is_host_name(word) => "; names are not looked up here: write the host's addresses".into(),
        _ => String::new(),
    }
}

/// `10.0`, `010.0.0.1`, `10.0.0.256`.
fn is_of_numbers(text: &str) -> bool {
    text.contains('.') && text.split('.').all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_host_name(text: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    text.contains(|c: char| c.is_ascii_alphabetic()) && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_values_are_told_and_nothing_else_is() {
        for (text, told) in [
            ("143;", "no ; stands"),
            ("yes\u{a0}", "U+00A0"),
            ("\u{201c}a\u{201d}", "U+201C"),
            ("10.0.0.0\u{2013}8", "U+2013"),
            ("\u{feff}a", "U+FEFF"),
            ("a\rservice x {\r", "CR alone"),
            ("\"a", "a quote is not closed"),
            ("'", "a quote is not closed"),
        ] {
            let noted = noted(text, "Invalid".into());
            assert!(noted.starts_with("Invalid (") && noted.contains(told), "{noted}");
        }
        let noted_time = |text: &str| noted(text, crate::config::value::time(text).expect_err("no time"));
        assert!(
            noted_time("1.5 secs").ends_with(": 1.5 secs (write a whole number and a unit, such as 30 secs or 5 mins)")
        );
        assert!(noted_time("500 ms").ends_with(": 500 ms (write whole seconds)"));
        for text in ["", "143", "für", "\"a\"", "'a'", "it's", "a;b"] {
            assert_eq!(noted(text, "Invalid".into()), "Invalid", "{text}");
        }
    }

    #[test]
    fn lines_that_begin_nothing_have_a_remedy() {
        for (line, told) in [
            ("{", "stands at the end of the line"),
            ("include conf.d/*.conf", "!include FILE"),
            ("service imap-login", "a { is missing"),
            ("haproxy_timeout: 3 secs", "instead of the colon"),
            ("haproxy_timeout 3 secs", "a = is missing"),
        ] {
            assert!(of_line(line).is_some_and(|words| words.contains(told)), "{line}");
        }
        for line in ["", "nonsense", "service: imap", "- 10.0.0.1", "haproxy_timeout", "server a b {"] {
            assert_eq!(of_line(line), None, "{line}");
        }
    }

    #[test]
    fn what_was_written_for_a_network_has_a_remedy() {
        for (word, told) in [
            ("10.0.0.0/255.0.0.0", "; write 10.0.0.0/8"),
            ("10.0.0.0/0.0.0.255", "; write 10.0.0.0/24"),
            ("10.0.0.0/255.0.255.0", "/0 to /32 are"),
            ("10.0.0.0/33", "/0 to /32 are"),
            ("10.0.0.0/x", "/0 to /32 are"),
            ("fd00::/129", "/0 to /128 are"),
            ("10.0.0.1:143", "leave the port out"),
            ("[::1]:143", "leave the port out"),
            ("*", "everybody is 0.0.0.0/0"),
            ("any", "everybody is 0.0.0.0/0"),
            ("!10.0.0.1", "nothing can be taken out"),
            ("10.0.0.1-10.0.0.9", "write a range as networks"),
            ("10.0/8", "four numbers"),
            ("010.0.0.1", "four numbers"),
            ("10.0.0.256", "four numbers"),
            ("lb-1.example.com", "names are not looked up"),
            ("localhost", "names are not looked up"),
        ] {
            let instead = instead_of_network(word);
            assert!(instead.starts_with("; ") && instead.contains(told), "{word}: {instead}");
        }
        for word in ["", "/", "::x::", "$x", "{", "\u{a0}"] {
            assert_eq!(instead_of_network(word), "", "{word}");
        }
    }
}

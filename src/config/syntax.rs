//! One logical line of Dovecot's grammar, and Vestibule's shorthand: one-line sections.
//!
//! ```text
//! key = value            value: rest of the line, "quoted", <file
//! type {     type name {     type "na me" {     }
//! !include pattern       !include_try pattern
//! service imap-login { inet_listener imap { port=143; haproxy=yes } }     (shorthand)
//! ```
//!
//! Pure text in, elements out. A line that only Vestibule accepts carries what Dovecot would say of it.

/// What one line can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Setting { key: String, value: Value },
    Open { kind: String, name: Option<String> },
    Close,
    Include { pattern: String, required: bool },
}

/// A value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The rest of the line; `$name` in it is a variable.
    Plain(String),
    /// It stood in quotes: taken literally.
    Quoted(String),
    /// `<path`: the file's content.
    File(String),
    /// Not of one line: `listen {` / `ITEM = yes` / `ITEM = no` / `}`, items put into a list or taken out of it.
    Update(Vec<(String, bool)>),
}

/// The elements of a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) elements: Vec<Element>,
    /// What Dovecot says of this line where only Vestibule accepts it.
    pub(super) refused_by_dovecot: Option<&'static str>,
}

/// The line cannot be read: Dovecot's words, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) dovecot: &'static str,
    pub(super) remedy: &'static str,
}

pub(super) const EXPECTING_BRACE: &str = "Expecting '{'";
pub(super) const GARBAGE: &str = "Garbage after '{'";

/// Cuts the comment and the white space around a line; tells whether the `#` was ambiguous (no space before it).
///
/// As in Dovecot, a quote anywhere protects a `#`, also one that is never closed.
pub(super) fn strip(line: &str) -> (&str, bool) {
    let line = line.trim_matches(is_space);
    if line.starts_with('#') {
        return ("", false);
    }
    let (mut quote, mut escaped, mut previous) = (None, false, ' ');
    for (at, c) in line.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' => return (line[..at].trim_end_matches(is_space), !is_space(previous)),
            None => {}
        }
        previous = c;
    }
    (line, false)
}

/// Splits off the `\` that joins the next line.
pub(super) fn continued(line: &str) -> Option<&str> {
    line.strip_suffix('\\').map(|rest| rest.trim_end_matches(is_space))
}

/// Reads one logical line: no comment, no white space around it, not empty.
pub(super) fn parse(line: &str) -> Result<Parsed, SyntaxError> {
    if line.starts_with('}') {
        return closing(line);
    }
    let (key, rest) = key(line);
    if let Some(required) = include(&key) {
        let element = Element::Include { pattern: rest.to_string(), required };
        return Ok(Parsed { elements: vec![element], refused_by_dovecot: None });
    }
    match rest.strip_prefix('=') {
        Some(text) => {
            let value = value(text.trim_start_matches(is_space));
            Ok(Parsed { elements: vec![Element::Setting { key, value }], refused_by_dovecot: None })
        }
        None => section(line),
    }
}

/// `!include` needs a match, `!include_try` does not.
fn include(key: &str) -> Option<bool> {
    match key {
        "!include" => Some(true),
        "!include_try" => Some(false),
        _ => None,
    }
}

fn closing(line: &str) -> Result<Parsed, SyntaxError> {
    let elements = tokens(line)?;
    let refused_by_dovecot = (line != "}").then_some(EXPECTING_BRACE);
    Ok(Parsed { elements, refused_by_dovecot })
}

/// `type {`, `type name {`, and in the shorthand everything behind the brace.
fn section(line: &str) -> Result<Parsed, SyntaxError> {
    let mut cursor = Cursor { rest: line };
    let open = cursor.open()?;
    let glued = !line[..line.len() - cursor.rest.len()].trim_end_matches('{').ends_with(is_space);
    let refused_by_dovecot = match (glued, cursor.rest.is_empty()) {
        (true, _) => Some(EXPECTING_BRACE),
        (false, false) => Some(GARBAGE),
        (false, true) => None,
    };
    let mut elements = vec![open];
    elements.append(&mut tokens(cursor.rest)?);
    Ok(Parsed { elements, refused_by_dovecot })
}

/// The key ends at white space, `=`, or the `{` of the shorthand; a quoted key (Dovecot 2.4) at its quote.
fn key(line: &str) -> (String, &str) {
    let (key, rest) = match line.strip_prefix('"').and_then(quoted) {
        Some(found) => found,
        None => {
            let end = line.find(|c| is_space(c) || matches!(c, '=' | '{')).unwrap_or(line.len());
            (line[..end].to_string(), &line[end..])
        }
    };
    (key, rest.trim_start_matches(is_space))
}

/// The first word of a line, and whether it is a setting's name; `None` if the line begins neither a setting nor a section.
pub(super) fn first_word(line: &str) -> Option<(String, bool)> {
    let (text, _) = strip(line);
    let (word, rest) = key(text);
    let setting = rest.starts_with('=');
    (!word.is_empty() && (setting || rest.ends_with('{'))).then_some((word, setting))
}

fn value(text: &str) -> Value {
    if let Some(path) = text.strip_prefix('<') {
        return Value::File(path.trim_start_matches(is_space).to_string());
    }
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Value::Quoted(unescaped(inner));
        }
    }
    Value::Plain(text.to_string())
}

/// The shorthand: elements between white space and `;` until the end of the line.
fn tokens(text: &str) -> Result<Vec<Element>, SyntaxError> {
    let mut cursor = Cursor { rest: text };
    let mut elements = Vec::new();
    while let Some(element) = cursor.next()? {
        elements.push(element);
    }
    Ok(elements)
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Option<Element>, SyntaxError> {
        self.rest = self.rest.trim_start_matches(|c| is_space(c) || c == ';');
        if self.rest.is_empty() {
            return Ok(None);
        }
        if self.eat('}') {
            return Ok(Some(Element::Close));
        }
        let before = self.rest;
        let key = self.word();
        self.skip_space();
        if !key.is_empty() && self.eat('=') {
            self.skip_space();
            return Ok(Some(Element::Setting { key, value: self.value() }));
        }
        self.rest = before;
        self.open().map(Some)
    }

    fn open(&mut self) -> Result<Element, SyntaxError> {
        let kind = self.word();
        self.skip_space();
        let name = match self.quoted_word() {
            Some(name) => Some(name),
            None => Some(self.bare_name()).filter(|name| !name.is_empty()),
        };
        self.skip_space();
        if kind.is_empty() || !self.eat('{') {
            return Err(SyntaxError {
                dovecot: EXPECTING_BRACE,
                remedy: "a line is KEY = VALUE, or TYPE NAME {, or a lone }; quote a value with spaces in a one-line section",
            });
        }
        self.skip_space();
        Ok(Element::Open { kind, name })
    }

    /// A word, or in Dovecot 2.4's `group @label name {` two.
    fn bare_name(&mut self) -> String {
        let first = self.word();
        self.skip_space();
        if !first.starts_with('@') {
            return first;
        }
        match self.word() {
            second if second.is_empty() => first,
            second => format!("{first} {second}"),
        }
    }

    fn value(&mut self) -> Value {
        if self.eat('<') {
            self.skip_space();
            return Value::File(self.take(|c| is_space(c) || matches!(c, ';' | '}')));
        }
        match self.quoted_word() {
            Some(text) => Value::Quoted(text),
            None => Value::Plain(self.take(|c| is_space(c) || matches!(c, ';' | '}'))),
        }
    }

    fn quoted_word(&mut self) -> Option<String> {
        let (text, rest) = quoted(self.rest.strip_prefix('"')?)?;
        self.rest = rest;
        Some(text)
    }

    fn word(&mut self) -> String {
        self.take(|c| is_space(c) || matches!(c, '=' | ';' | '{' | '}'))
    }

    fn take(&mut self, ends: impl Fn(char) -> bool) -> String {
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        word.to_string()
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches(is_space);
    }
}

/// The text up to the closing `"`, unescaped, and what follows; `None` if the quote never closes.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = text.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })?;
    Some((unescaped(&text[..end]), &text[end + 1..]))
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str) -> Element {
        Element::Setting { key: key.into(), value: Value::Plain(value.into()) }
    }

    fn open(kind: &str, name: Option<&str>) -> Element {
        Element::Open { kind: kind.into(), name: name.map(Into::into) }
    }

    fn elements(line: &str) -> Vec<Element> {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error:?}")).elements
    }

    #[test]
    fn comments_end_where_dovecot_ends_them() {
        for (line, rest, ambiguous) in [
            ("  port = 143  # imap", "port = 143", false),
            ("port = 14#x", "port = 14", true),
            ("# whole line", "", false),
            ("a = \"b # c\" d # e", "a = \"b # c\" d", false),
            ("a = \"b\\\" # c\" # d", "a = \"b\\\" # c\"", false),
            ("a = it's # kept, the quote is open", "a = it's # kept, the quote is open", false),
            ("a =# x", "a =", true),
            ("\tx\r", "x", false),
        ] {
            assert_eq!(strip(line), (rest, ambiguous), "{line}");
        }
    }

    #[test]
    fn settings() {
        for (line, key, value) in [
            ("port = 143", "port", "143"),
            ("port=143", "port", "143"),
            ("port =", "port", ""),
            ("a = b = c {", "a", "b = c {"),
            ("a = \"open", "a", "\"open"),
            ("a = \"b\" c", "a", "\"b\" c"),
            ("\"quoted key\" = yes", "quoted key", "yes"),
        ] {
            assert_eq!(elements(line), [setting(key, value)], "{line}");
        }
    }

    #[test]
    fn values_of_other_kinds() {
        for (line, value) in [
            ("a = \"b \\\" # c\"", Value::Quoted("b \" # c".into())),
            ("a = 'b'", Value::Quoted("b".into())),
            ("a = \"\"", Value::Quoted(String::new())),
            ("a = </etc/x y", Value::File("/etc/x y".into())),
            ("a = < /etc/x", Value::File("/etc/x".into())),
            ("a = <<END", Value::File("<END".into())),
        ] {
            assert_eq!(elements(line), [Element::Setting { key: "a".into(), value }], "{line}");
        }
    }

    #[test]
    fn sections_and_includes() {
        assert_eq!(elements("service imap-login {"), [open("service", Some("imap-login"))]);
        assert_eq!(elements("service \"a \\\" b\" {"), [open("service", Some("a \" b"))]);
        assert_eq!(elements("passdb {"), [open("passdb", None)]);
        assert_eq!(elements("group @label name {"), [open("group", Some("@label name"))]);
        for line in ["service @x {", "service \"@x\" {"] {
            assert_eq!(elements(line), [open("service", Some("@x"))], "{line}");
        }
        assert_eq!(elements("}"), [Element::Close]);
        let include = |pattern: &str, required| Element::Include { pattern: pattern.into(), required };
        assert_eq!(elements("!include conf.d/*.conf"), [include("conf.d/*.conf", true)]);
        assert_eq!(elements("!include_try local.conf"), [include("local.conf", false)]);
    }

    #[test]
    fn one_line_sections() {
        let expected = [
            open("service", Some("imap-login")),
            open("inet_listener", Some("imap")),
            setting("port", "143"),
            Element::Close,
            open("inet_listener", Some("imaps")),
            setting("port", "993"),
            setting("ssl", "yes"),
            Element::Close,
            Element::Close,
        ];
        for line in [
            "service imap-login { inet_listener imap { port = 143 } inet_listener imaps { port=993; ssl = yes } }",
            "service imap-login{inet_listener imap{port=143}inet_listener imaps{port=993 ssl=yes;}}",
        ] {
            assert_eq!(elements(line), expected, "{line}");
        }
        let glued = [open("inet_listener", None), setting("port", "143"), setting("haproxy", "yes"), Element::Close];
        assert_eq!(elements("inet_listener{port=143 haproxy=yes}"), glued);
        assert_eq!(elements("protocols{imap=yes}")[0], open("protocols", None));
        let quoted = Element::Setting { key: "a".into(), value: Value::Quoted("10.0.0.0/8 }".into()) };
        assert_eq!(elements("x { a = \"10.0.0.0/8 }\" }"), [open("x", None), quoted, Element::Close]);
        let file = Element::Setting { key: "a".into(), value: Value::File("/etc/x".into()) };
        assert_eq!(elements("x { a = </etc/x; }"), [open("x", None), file, Element::Close]);
        assert_eq!(elements("} }"), [Element::Close, Element::Close]);
    }

    #[test]
    fn what_dovecot_would_refuse_is_known() {
        for (line, words) in [
            ("inet_listener imap { port = 143 }", Some(GARBAGE)),
            ("inet_listener imap {}", Some(GARBAGE)),
            ("inet_listener imap{", Some(EXPECTING_BRACE)),
            ("inet_listener{port=143}", Some(EXPECTING_BRACE)),
            ("}}", Some(EXPECTING_BRACE)),
            ("inet_listener imap {", None),
            ("inet_listener {", None),
            ("}", None),
            ("port = 143", None),
        ] {
            assert_eq!(parse(line).expect(line).refused_by_dovecot, words, "{line}");
        }
    }

    #[test]
    fn lines_that_nobody_can_read() {
        for line in ["foo bar", "foo", "{", "service imap-login", "a b c {", "x { y }", "x { a = b c }", "= x", "} }x"]
        {
            let result = parse(line);
            if line == "= x" {
                assert_eq!(result.expect(line).elements, [setting("", "x")]);
            } else {
                assert_eq!(result.expect_err(line).dovecot, EXPECTING_BRACE, "{line}");
            }
        }
    }
}

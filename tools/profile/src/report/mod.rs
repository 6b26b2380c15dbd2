//! A report: one HTML file that needs nothing else, and the same data as JSON.

pub mod plot;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::Machine;
use crate::server::is_interrupted;

/// Of the keys of all JSON reports: goes up when one changes its meaning or goes away.
pub const FORMAT: u32 = 2;

const STYLE: &str = include_str!("style.css");

/// A page, written from top to bottom.
pub struct Page {
    title: String,
    body: String,
}

/// A cell of a table.
pub enum Cell {
    /// Words, to the left.
    Text(String),
    /// A number, to the right.
    Number(String),
    /// Whether a goal is reached, and the words for it.
    Verdict(bool, String),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

/// A number with so many places behind the point; a dash if there is none.
pub fn number(value: Option<f64>, places: usize) -> Cell {
    Cell::Number(value.map_or_else(|| "–".to_owned(), |value| format!("{value:.places$}")))
}

impl Page {
    /// A page that says what it is and where it was made.
    pub fn new(title: &str, machine: &Machine) -> Page {
        let mut page = Page { title: title.to_owned(), body: String::new() };
        let _ = writeln!(page.body, "<h1>{}</h1>\n<dl>", escape(title)); // writing to a String cannot fail
        for (name, value) in machine.rows() {
            let _ = writeln!(page.body, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
        }
        page.body.push_str("</dl>\n");
        if machine.build == "debug" {
            page.paragraph("This is a debug build: its figures say nothing about a release build.");
        }
        if is_interrupted() {
            page.paragraph("The run was interrupted: there are fewer rounds than were asked for.");
        }
        page
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escape(text));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// A table; the first row of cells names the columns.
    pub fn table(&mut self, columns: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) {
        self.body.push_str("<div class=\"wide\"><table>\n<thead><tr>");
        for (index, column) in columns.iter().enumerate() {
            let class = if index == 0 { "" } else { " class=\"number\"" };
            let _ = write!(self.body, "<th{class}>{}</th>", escape(column));
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            let cells: String = row.iter().map(cell).collect();
            let _ = writeln!(self.body, "<tr>{cells}</tr>");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// A picture with its caption.
    pub fn figure(&mut self, svg: &str, caption: &str) {
        let _ = writeln!(self.body, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption));
    }

    /// A picture with scripts of its own, kept apart from the page.
    pub fn framed(&mut self, svg: &str, caption: &str) {
        let _ = writeln!(
            self.body,
            "<figure><object type=\"image/svg+xml\" data=\"data:image/svg+xml,{}\"></object>\
             <figcaption>{}</figcaption></figure>",
            percent_encode(svg),
            escape(caption)
        );
    }

    /// Text as it is, folded away.
    pub fn details(&mut self, summary: &str, text: &str) {
        let _ =
            writeln!(self.body, "<details><summary>{}</summary><pre>{}</pre></details>", escape(summary), escape(text));
    }

    /// What was left out from some round on, and why; nothing if there is none.
    pub fn left_out<'a>(&mut self, failed: impl Iterator<Item = (String, &'a str)>) {
        let text: String = failed.map(|(what, why)| format!("{what}: {why}\n")).collect();
        if !text.is_empty() {
            self.details("Left out from some round on", &text);
        }
    }

    fn html(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
             </head>\n<body>\n{}</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }

    /// Writes `PREFIX.html` and `PREFIX.json`; returns their names.
    pub fn write(&self, prefix: &Path, data: &impl Serialize) -> Result<[PathBuf; 2], String> {
        let json = serde_json::to_string_pretty(data).map_err(|error| error.to_string())? + "\n";
        let files = [(with_suffix(prefix, "html"), self.html()), (with_suffix(prefix, "json"), json)];
        for (path, text) in &files {
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(files.map(|(path, _)| path))
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => format!("<td>{}</td>", escape(text)),
        Cell::Number(text) => format!("<td class=\"number\">{}</td>", escape(text)),
        Cell::Verdict(good, text) => {
            let class = if *good { "good" } else { "bad" };
            format!("<td class=\"number {class}\">{}</td>", escape(text))
        }
    }
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

/// For text and for attributes in double quotes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// For a data URL in an attribute (RFC 3986, section 2.1): everything but what is harmless.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b'='
            | b','
            | b';'
            | b'('
            | b')' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_cannot_become_markup() {
        let machine = Machine { command: "compare <script>\"&".into(), ..Machine::test() };
        let html = Page::new("a < b", &machine).html();
        assert!(html.contains("<dd>compare &lt;script&gt;&quot;&amp;</dd>") && html.contains("<h1>a &lt; b</h1>"));
    }

    #[test]
    fn what_is_left_out_is_named_with_its_cause() {
        let mut page = Page::new("a page", &Machine::test());
        page.left_out(std::iter::empty());
        assert!(!page.html().contains("Left out"));
        page.left_out([("discard nginx".to_owned(), "it hung")].into_iter());
        let html = page.html();
        assert!(html.contains("Left out") && html.contains("discard nginx: it hung"), "{html}");
    }

    #[test]
    fn a_page_asks_nothing_of_the_network() {
        let mut page = Page::new("a page", &Machine::test());
        page.framed("<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "a picture");
        let html = page.html();
        for outside in ["src=", "href=", "url(", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("data:image/svg+xml,%3Csvg%20xmlns=%22http://www.w3.org/2000/svg%22/%3E"), "{html}");
    }
}

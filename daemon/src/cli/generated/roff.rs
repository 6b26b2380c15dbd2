//! Markdown as the documents have it, and texts of `--help`, in the language of man(1).

/// Columns of a line of text.
const WIDTH: usize = 78;

/// One piece of a document.
enum Block<'a> {
    /// Its level, and the words.
    Heading(usize, &'a str),
    Paragraph(String),
    Item(String),
    Code(Vec<&'a str>),
    /// By row, the head first.
    Table(Vec<Vec<&'a str>>),
}

/// A document without its title.
pub fn document(markdown: &str) -> String {
    let mut page = String::new();
    let mut begins = true; // a section: nothing sets its first text apart
    for block in blocks(markdown) {
        page += if matches!(block, Block::Paragraph(_) | Block::Code(_)) && !begins { ".PP\n" } else { "" };
        begins = matches!(block, Block::Heading(..));
        page += &match block {
            Block::Heading(1, _) => String::new(),
            Block::Heading(2, words) => format!(".SH \"{}\"\n", heading(words).to_uppercase()),
            Block::Heading(_, words) => format!(".SS \"{}\"\n", heading(words)),
            Block::Paragraph(words) => filled(&words),
            Block::Item(words) => format!(".IP \\(bu 2\n{}", filled(&words)),
            Block::Code(lines) => code(lines),
            Block::Table(rows) => table(&rows),
        };
    }
    page
}

/// What stands behind the options in `--help`: `Word:` heads lines that are indented, `Exit code: ` begins a paragraph.
pub fn after_help(help: &str) -> String {
    let mut page = String::new();
    for paragraph in help.split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().collect();
        let at = lines.iter().position(|line| line.starts_with("  ")).unwrap_or(lines.len());
        let (prose, indented) = lines.split_at(at);
        let prose = prose.join(" ");
        let heads = prose.strip_suffix(':').is_some_and(|head| !head.contains(' '));
        match (prose.strip_suffix(':'), prose.split_once(": ")) {
            (Some(head), _) if heads => page += &format!(".SH {}\n", head.to_uppercase()),
            (_, Some(("Exit code" | "Exit codes", rest))) => page += &format!(".SH \"EXIT STATUS\"\n{}", filled(rest)),
            _ if page.contains(".SH NOTES") => page += &format!(".PP\n{}", filled(&prose)),
            _ => page += &format!(".SH NOTES\n{}", filled(&prose)),
        }
        if !indented.is_empty() {
            page += if heads { "" } else { ".PP\n" };
            page += &code(indented.iter().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect());
        }
    }
    page
}

fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        let mut more = |goes_on: fn(&str) -> bool| {
            std::iter::from_fn(|| lines.next_if(|line| goes_on(line))).collect::<Vec<&str>>()
        };
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if line.starts_with("```") {
            blocks.push(Block::Code(more(|line| !line.starts_with("```"))));
            lines.next();
        } else if level > 0 {
            blocks.push(Block::Heading(level, line[level..].trim()));
        } else if line.starts_with('|') {
            let rest = more(|line| line.starts_with('|'));
            let rows = std::iter::once(line).chain(rest.into_iter().skip(1)); // the second only says that the first is a head
            blocks.push(Block::Table(rows.map(cells).collect()));
        } else if let Some(first) = line.strip_prefix("- ") {
            let rest = more(|line| line.starts_with("  "));
            blocks.push(Block::Item([vec![first], rest].concat().join(" ")));
        } else if !line.is_empty() {
            let rest = more(|line| !line.is_empty() && !line.starts_with(['#', '|']) && !line.starts_with("```"));
            blocks.push(Block::Paragraph([vec![line], rest].concat().join(" ")));
        }
    }
    blocks
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

/// A paragraph for each row, under its first cell; of settings with the default beside it.
fn table(rows: &[Vec<&str>]) -> String {
    let (head, rows) = rows.split_first().expect("a table has a head");
    let row = |cells: &Vec<&str>| match (head.as_slice(), cells.as_slice()) {
        (["setting", ..], [name, default, meaning]) => {
            format!(".TP\n{} (default: {})\n{}", inline(name), inline(default), filled(meaning))
        }
        (_, [first, second]) => format!(".TP\n{}\n{}", inline(first), filled(second)),
        (_, [first, others @ ..]) => {
            let named = others.iter().zip(&head[1..]).map(|(cell, name)| format!("{name}: {cell}."));
            format!(".TP\n{}\n{}", inline(first), filled(&named.collect::<Vec<_>>().join(" ")))
        }
        _ => String::new(),
    };
    rows.iter().map(row).collect()
}

fn heading(words: &str) -> String {
    escaped(&words.replace('`', ""), false)
}

fn code(lines: Vec<&str>) -> String {
    let lines: String = lines.iter().map(|line| protected(&escaped(line, true)) + "\n").collect();
    format!(".in +4n\n.nf\n{lines}.fi\n.in\n")
}

/// Text that is filled when it is shown, in lines of a fitting length.
fn filled(words: &str) -> String {
    let mut lines = vec![String::new()];
    for word in inline(words).split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push(word.to_owned());
        } else {
            *line += if line.is_empty() { "" } else { " " };
            *line += word;
        }
    }
    lines.iter().map(|line| protected(line) + "\n").collect()
}

/// A dot or quote at the start of a line would make a request of it.
fn protected(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// Code and what is **strong** in bold; of a link to another document its name, of one within this only the words.
fn inline(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some(at) = rest.find(['`', '*', '[']) {
        text += &escaped(&rest[..at], false);
        let (begin, after) = (&rest[at..=at], &rest[at + 1..]);
        rest = match begin {
            "`" => after.split_once('`').map(|(code, rest)| {
                text += &format!("\\fB{}\\fR", escaped(code, true));
                rest
            }),
            "*" => after.strip_prefix('*').and_then(|after| after.split_once("**")).map(|(strong, rest)| {
                text += &format!("\\fB{}\\fR", inline(strong).replace("\\fB", "\\fI").replace("\\fR", "\\fB"));
                rest
            }),
            _ => after.split_once("](").and_then(|(words, rest)| {
                let (target, rest) = rest.split_once(')')?;
                let document = target.split('#').next().filter(|name| !name.is_empty());
                text += &inline(words);
                text += &document.map(|name| format!(" (see {})", escaped(name, true))).unwrap_or_default();
                Some(rest)
            }),
        }
        .unwrap_or_else(|| {
            text += begin;
            after
        });
    }
    text + &escaped(rest, false)
}

/// `literal`: hyphens are to be copied as they are.
fn escaped(text: &str, literal: bool) -> String {
    let text = text.replace('\\', "\\e");
    if literal { text.replace('-', "\\-").replace('~', "\\(ti").replace('^', "\\(ha") } else { text }
}

#[test]
fn each_piece_of_a_document() {
    let page = document(
        "# Title\n\nFirst `a-b` and **all of\nit**, see [there](x.md#y) or [here](#z).\n\n## Some\n### In `t { }`\n- one\n  more\n\n\
         ```\n.so far\\n\n```\n\n| setting | default | meaning |\n|---|---|---|\n| `x` | `1` | Does it |\n",
    );
    let wanted = "First \\fBa\\-b\\fR and \\fBall of it\\fR, see there (see x.md) or here.\n.SH \"SOME\"\n.SS \"In t { }\"\n\
                  .IP \\(bu 2\none more\n.PP\n.in +4n\n.nf\n\\&.so far\\en\n.fi\n.in\n.TP\n\\fBx\\fR (default: \\fB1\\fR)\nDoes it\n";
    assert_eq!(page, wanted);
}

#[test]
fn each_piece_of_a_help() {
    let page =
        after_help("Exit code: 0 if\nall is well.\n\nExamples:\n  a -c\n      more\n\nLimits:\n  b\n\nAsk, as in\n  c");
    let wanted = ".SH \"EXIT STATUS\"\n0 if all is well.\n.SH EXAMPLES\n.in +4n\n.nf\na \\-c\n    more\n.fi\n.in\n\
                  .SH LIMITS\n.in +4n\n.nf\nb\n.fi\n.in\n.SH NOTES\nAsk, as in\n.PP\n.in +4n\n.nf\nc\n.fi\n.in\n";
    assert_eq!(page, wanted);
}

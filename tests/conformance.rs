//! The tools behind docs/conformance.md: other decoders against the vectors, the specification's sentences and where they
//! are kept.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::temp_dir;

/// One of `tools/`, run by python3.
fn tool(name: &str, arguments: &[&str]) -> Output {
    let script = format!("{}/tools/{name}", concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    Command::new("python3").arg(script).args(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_vectors_can_be_run_against_another_program() {
    crate::needs!("python3");
    let same = tool("conformance", &["--decoder", &format!("{} decode --hex", env!("CARGO_BIN_EXE_vestibule"))]);
    assert!(text(&same.stdout).ends_with(" vectors, 0 differences\n"), "{same:?}");
    assert!(same.status.success());
    let other = tool("conformance", &["--decoder", "sed 's/.*/{\"verdict\":\"complete\"}/'"]);
    assert!(text(&other.stdout).contains("smtp: verdict should be absent, is complete\n"), "{other:?}");
    assert_eq!(other.status.code(), Some(1));
}

#[test]
fn vectors_of_other_rules_are_left_out_and_it_is_said() {
    crate::needs!("python3");
    let same = tool("conformance", &["--decoder", &format!("{} decode --hex", env!("CARGO_BIN_EXE_vestibule"))]);
    for rule in ["header_limit", "v4_in_tcp6", "v6_in_tcp4"] {
        let count = crate::header::vectors_with_rule(rule);
        let said = format!("{count} vectors left out: they are judged with another {rule} than the default\n");
        assert!(count > 0 && text(&same.stdout).contains(&said), "{said}{}", text(&same.stdout));
    }
}

#[test]
fn a_decoder_that_answers_no_json_is_told_so() {
    crate::needs!("python3");
    for (decoder, said) in [
        ("cat", "aws-nlb-health-check: the answer to 0d0a0d0a"),
        ("sed 's/.*/[1]/'", "is no JSON object: [1]"),
        ("true", "lines were sent, 0 came back"),
    ] {
        let output = tool("conformance", &["--decoder", decoder]);
        let message = text(&output.stderr);
        assert!(message.contains(said) && !message.contains("Traceback"), "{decoder}: {message}");
        assert_eq!(output.status.code(), Some(1), "{decoder}");
    }
}

/// The page, with other words in it.
fn page_with(directory: &Path, name: &str, changes: &[(&str, &str)]) -> String {
    let mut page = include_str!("../docs/conformance.md").to_owned();
    for (from, to) in changes {
        assert_eq!(page.matches(from).count(), 1, "{from}");
        page = page.replace(from, to);
    }
    let file = directory.join(name);
    std::fs::write(&file, page).expect("a temporary file");
    file.to_string_lossy().into_owned()
}

#[test]
fn a_receiver_that_has_changed_its_mind_is_named_with_the_vector() {
    crate::needs!("python3");
    let directory = temp_dir();
    let page = include_str!("../docs/conformance.md");
    let row = page.lines().find(|line| line.starts_with("| `hitch-tls-session` |")).expect("a vector");
    let cells: Vec<&str> = row.split(" | ").collect();
    assert_eq!((cells[3], cells[4]), ("accepts", "refuses"), "Dovecot 2.3 and 2.4: {row}");
    let other = [&cells[..3], &["refuses", "refuses"], &cells[5..]].concat().join(" | ");
    let version = page.lines().find(|line| line.starts_with("| Dovecot 2.3 | 1:")).expect("a version");
    let old = page_with(directory.path(), "old.md", &[]);
    let new = page_with(directory.path(), "new.md", &[(row, &other), (version, "| Dovecot 2.3 | 1:2.3.99 |")]);
    let changed = tool("conformance", &["--compare", &old, &new]);
    let was = version.trim_matches(['|', ' ']).rsplit(" | ").next().expect("it is behind the name");
    let told = format!(
        "Dovecot 2.3, hitch-tls-session: was \"accepts\", is \"refuses\"\nDovecot 2.3: was {was}, is 1:2.3.99\n2 differences\n"
    );
    assert_eq!((text(&changed.stdout), changed.status.code()), (told, Some(1)), "{}", text(&changed.stderr));
    let same = tool("conformance", &["--compare", &old, &old]);
    assert_eq!((text(&same.stdout).as_str(), same.status.code()), ("0 differences\n", Some(0)));
}

#[test]
fn a_run_gives_what_the_page_says_and_so_does_the_next() {
    crate::needs!("python3", "haproxy");
    crate::needs_root!();
    for _ in 0..2 {
        let run = tool("conformance", &["--diff", "--only", "HAProxy 2.6"]);
        let said = text(&run.stdout);
        if said.contains("HAProxy 2.6: was ") {
            crate::skip!("the HAProxy of which docs/conformance.md tells");
        }
        assert_eq!(said, "1 receivers, 0 skipped, 0 differences\n", "{}", text(&run.stderr));
        assert!(run.status.success());
    }
}

#[test]
fn the_specification_is_cited_as_the_page_says() {
    crate::needs!("python3");
    let output = tool("spec-coverage", &["--check"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

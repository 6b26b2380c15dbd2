//! The tools behind docs/conformance.md: other decoders against the vectors, the specification's sentences and where they
//! are kept.

use std::process::{Command, Output};

/// One of `tools/`, run by python3.
fn tool(name: &str, arguments: &[&str]) -> Output {
    let script = format!("{}/tools/{name}", env!("CARGO_MANIFEST_DIR"));
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

#[test]
fn the_specification_is_cited_as_the_page_says() {
    crate::needs!("python3");
    let output = tool("spec-coverage", &["--check"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

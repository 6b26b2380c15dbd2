//! Man pages and completions of the packages, as man(1), mandoc(1) and bash take them. That they are those of the declarations
//! is held where these are, in the program's own tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;
use crate::support::process::{Finished, run};

fn packaged(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("packaging").join(name)
}

fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(packaged("man")).expect("it is there");
    let pages: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    let sections: BTreeSet<_> = pages.iter().filter_map(|page| page.extension()?.to_str()).collect();
    assert_eq!(sections, ["1", "5", "8"].into());
    pages
}

#[test]
fn mandoc_finds_nothing_wrong_with_the_pages() {
    needs!("mandoc");
    let mut lint = Command::new("mandoc");
    lint.args(["-T", "lint", "-W", "warning"]).args(pages());
    let done = run(lint, b"");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{}", done.stderr);
}

#[test]
fn man_shows_the_pages_without_a_warning() {
    needs!("man", "groff");
    for page in pages() {
        let mut man = Command::new("man");
        // Wide, for a long word of an example is no fault.
        man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "200");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(&page);
        let done = run(man, b"");
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", page.display());
        assert!(!done.stdout.is_empty(), "{}", page.display());
    }
}

/// What bash offers for the last of these words.
fn completed(words: &[&str]) -> BTreeSet<String> {
    let script = "source \"$1\"; shift; function=$(complete -p vestibule); function=${function##* -F }; function=${function%% *}; \
                  COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_LINE=\"$*\"; COMP_POINT=${#COMP_LINE}; \
                  $function vestibule \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"]).arg(packaged("completions/vestibule.bash")).args(words);
    let Finished { code, stdout, stderr } = run(bash, b"");
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{words:?}");
    stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_subcommands_and_options() {
    needs!("bash");
    let offered = |words: &[&str]| completed(words).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(offered(&["vestibule", "do"]), "doctor");
    assert_eq!(offered(&["vestibule", "ctl", "re"]), "rebalance refused reload resume");
    assert_eq!(offered(&["vestibule", "serve", "--ta"]), "--takeover");
    assert_eq!(offered(&["vestibule", "check", "--dovecot", ""]), "2.3 2.4 auto");
}

#[test]
fn the_other_shells_read_their_scripts() {
    needs!("zsh", "fish");
    for (shell, script) in [("zsh", "completions/_vestibule"), ("fish", "completions/vestibule.fish")] {
        let mut check = Command::new(shell);
        check.arg("-n").arg(packaged(script));
        let done = run(check, b"");
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{shell}");
    }
}

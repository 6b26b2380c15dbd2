//! Each kind of server that the relay knows, by its real servers: `tools/presets` runs them, one kind a test.

use std::process::Command;

use crate::support::record_skip;
use crate::{needs, needs_root};

/// What the tool shows of one kind; a server of it that cannot be had is told.
fn shown(target: &str) {
    needs!("python3", "unshare");
    needs_root!();
    let mut tool = Command::new("python3");
    tool.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/presets")).arg(target);
    tool.args(["--vestibule", env!("CARGO_BIN_EXE_vestibule")]);
    // It has deadlines of its own.
    let output = tool.output().expect("python3 starts");
    let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let lacking: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("skipped: ")).collect();
    assert!(matches!(output.status.code(), Some(0 | 77)), "{said}{errors}");
    if !lacking.is_empty() {
        record_skip(&lacking.join("; "));
    }
    let last =
        if target == "generic" { "the daemon finds it healthy" } else { "its setting is off: fail  server mail/" };
    let was_shown = said.contains(&format!("ok: {last}"));
    assert_eq!(was_shown, output.status.success(), "{said}{errors}");
}

#[test]
fn a_server_of_which_nothing_is_known() {
    shown("generic");
}

#[test]
fn dovecot_2_3_and_2_4() {
    shown("dovecot");
}

#[test]
fn postfix_3_7_and_3_10() {
    shown("postfix");
}

#[test]
fn postscreen() {
    shown("postscreen");
}

#[test]
fn exim() {
    shown("exim");
}

#[test]
fn opensmtpd() {
    shown("opensmtpd");
}

#[test]
fn nginx_mail_1_22_and_1_26() {
    shown("nginx");
}

#[test]
fn haproxy_2_6_and_3_0() {
    shown("haproxy");
}

#[test]
fn haraka() {
    shown("haraka");
}

#[test]
fn smtp_server() {
    shown("smtp-server");
}

//! `vestibule check` on what operators give it: slips, files of other programs, pipes, very large files.

use std::process::Command;

use crate::needs;
use crate::support::daemon::{vestibule, vestibule_run};
use crate::support::process::run;
use crate::support::temp_dir;

const LISTENER: &str = "service imap-login {\n inet_listener imap_haproxy {\n port = 10143\n haproxy = yes\n }\n}\n";
const TRUSTED: &str = "haproxy_trusted_networks = 10.0.0.0/8\n";

fn check(arguments: &[&str], text: &str) -> crate::support::process::Finished {
    vestibule_run(&[&["check", "-c", "-"], arguments].concat(), text.as_bytes())
}

#[test]
fn a_slip_is_a_warning_and_strictly_an_error() {
    for (slip, near) in [
        ("client_baned_networks = 203.0.113.0/24\n", "client_banned_networks"),
        ("servic pop3-login {\n inet_listener p {\n port = 1\n }\n}\n", "service"),
        ("service pop3-login {\n inet_listner p {\n port = 1\n }\n}\n", "inet_listener"),
        ("HAPROXY_TIMEOUT = 4 secs\n", "haproxy_timeout"),
    ] {
        let text = format!("{TRUSTED}{LISTENER}{slip}");
        let (lenient, strict) = (check(&[], &text), check(&["--strict"], &text));
        assert_eq!((lenient.code, strict.code), (Some(0), Some(78)), "{slip}: {lenient:?}");
        for checked in [lenient, strict] {
            assert!(checked.stderr.contains(&format!("did you mean {near}?")), "{slip}: {}", checked.stderr);
        }
    }
    let valid = check(&["--strict"], &format!("{TRUSTED}{LISTENER}"));
    assert_eq!((valid.code, valid.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_file_of_another_program_gets_one_error_that_says_what_it_is() {
    for (text, words) in [
        ("{\n  \"listeners\": [\n    {\"port\": 143}\n  ]\n}\n", "JSON"),
        ("global\n  maxconn 5\ndefaults\n  mode tcp\nfrontend f\n  bind :143\n", "HAProxy"),
    ] {
        let checked = check(&[], text);
        assert_eq!((checked.code, checked.stderr.lines().count()), (Some(78), 1), "{}", checked.stderr);
        assert!(checked.stderr.contains(words), "{}", checked.stderr);
    }
}

#[test]
fn a_pipe_is_read_like_a_file() {
    needs!("bash");
    let directory = temp_dir();
    let file = directory.path().join("v.conf");
    std::fs::write(&file, format!("{TRUSTED}{LISTENER}")).expect("it is ours");
    let (program, file) = (vestibule().get_program().to_owned(), file.display().to_string());
    for script in
        ["\"$0\" check -c <(cat \"$1\")", "cat \"$1\" | \"$0\" check -c /dev/stdin", "cat \"$1\" | \"$0\" check -c -"]
    {
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(&program).arg(&file);
        let checked = run(command, b"");
        assert_eq!(checked.code, Some(0), "{script}: {checked:?}");
        assert!(checked.stdout.contains(":10143 imap-login/imap_haproxy"), "{script}: {checked:?}");
    }
}

#[test]
fn a_file_that_names_no_listener_is_told_what_to_write() {
    let checked = check(&[], "protocols = imap pop3\n");
    assert_eq!(checked.code, Some(78), "{checked:?}");
    for words in ["nothing to listen on", "service imap-login { inet_listener imap { port = 143 } }"] {
        assert!(checked.stderr.contains(words), "{words}: {}", checked.stderr);
    }
}

#[test]
fn what_is_printed_of_a_very_large_file_is_bounded() {
    const LISTENERS: usize = 300;
    const MOST: usize = 64 * 1024;
    let networks: Vec<String> = (0..4000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let listeners: String = (0..LISTENERS)
        .map(|n| format!(" inet_listener l{n} {{\n address = 127.0.0.1\n port = {}\n haproxy = yes\n }}\n", 1000 + n))
        .collect();
    let text = format!("haproxy_trusted_networks = {}\nservice s {{\n{listeners}}}\n", networks.join(" "));
    let checked = check(&[], &text);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(checked.stdout.ends_with("  and 100 more addresses\n"), "{}", &checked.stdout[..1000]);
    assert!(checked.stdout.len() < MOST, "{} bytes", checked.stdout.len());
    assert!(checked.stdout.contains(" and 3984 more networks"), "{}", &checked.stdout[..1000]);
}

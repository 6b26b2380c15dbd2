//! A wrong configuration: exit code 78, `FILE line N: message`, and nothing is bound.

use std::net::TcpListener;

use crate::support::client::loopback;
use crate::support::daemon::vestibule_run;
use crate::support::{free_port, temp_dir};

struct Wrong {
    what: &'static str,
    /// `@PORT@` is a port in use: whoever binds before all is checked fails for another reason.
    text: &'static str,
    line: usize,
    says: &'static str,
}

const CASES: &[Wrong] = &[
    Wrong {
        what: "a typo inside inet_listener",
        text: "service imap-login {\n  inet_listener a {\n    port = @PORT@\n    haproxi = yes\n  }\n}\n",
        line: 4,
        says: "haproxi",
    },
    Wrong {
        what: "a bad network",
        text: "haproxy_trusted_networks = 10.0.0.0/33\nservice imap-login {\n  inet_listener a {\n    port = @PORT@\n    haproxy = yes\n  }\n}\n",
        line: 1,
        says: "10.0.0.0/33",
    },
    Wrong {
        what: "a port out of range",
        text: "service imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n  inet_listener b {\n    port = 70000\n  }\n}\n",
        line: 6,
        says: "Invalid port number 70000",
    },
    Wrong {
        what: "a missing brace",
        text: "service imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n",
        line: 1, // where the section begins that is never closed
        says: "Missing '}'",
    },
    Wrong {
        what: "an unreadable certificate",
        text: "ssl_cert = </nonexistent/crt.pem\nssl_key = </nonexistent/key.pem\nservice imap-login {\n  inet_listener secure {\n    port = @PORT@\n    ssl = yes\n  }\n}\n",
        line: 1,
        says: "/nonexistent/crt.pem",
    },
];

#[test]
fn check_and_serve_say_where_and_bind_nothing() {
    let directory = temp_dir();
    let file = directory.path().join("wrong.conf");
    let name = file.to_str().expect("a plain path");
    let holder = TcpListener::bind(loopback(free_port())).expect("it was free");
    let port = holder.local_addr().expect("it is bound").port().to_string();
    for wrong in CASES {
        std::fs::write(&file, wrong.text.replace("@PORT@", &port)).expect("it can be written");
        for subcommand in ["check", "serve"] {
            let finished = vestibule_run(&[subcommand, "-c", name], b"");
            let said = format!("{}{}", finished.stdout, finished.stderr);
            assert_eq!(finished.code, Some(78), "{subcommand}, {}: {said}", wrong.what);
            let place = format!("{name} line {}: ", wrong.line);
            let found = said.lines().any(|line| line.contains(&place) && line.contains(wrong.says));
            assert!(found, "{subcommand}, {}: no `{place}...{}...` in\n{said}", wrong.what, wrong.says);
        }
    }
}

#[test]
fn check_accepts_what_serve_would_run_and_never_binds() {
    let directory = temp_dir();
    let file = directory.path().join("right.conf");
    let holder = TcpListener::bind(loopback(free_port())).expect("it was free");
    let port = holder.local_addr().expect("it is bound").port();
    let text = crate::support::daemon::haproxy_configuration(port, "", "");
    std::fs::write(&file, text).expect("it can be written");
    let finished = vestibule_run(&["check", "-c", file.to_str().expect("a plain path")], b"");
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for subcommand in ["check", "serve"] {
        let finished = vestibule_run(&[subcommand, "-c", "/nonexistent/vestibule.conf"], b"");
        assert_eq!(finished.code, Some(78), "{finished:?}");
        assert!(finished.stderr.contains("/nonexistent/vestibule.conf"), "{finished:?}");
    }
}

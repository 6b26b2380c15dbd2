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
        what: "a missing brace in the middle",
        text: "service imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\nservice pop3-login {\n}\n",
        line: 1,
        says: "; service pop3-login begins inside of it (",
    },
    Wrong {
        what: "a brace on a line of its own",
        text: "service imap-login {\n  inet_listener a\n  {\n    port = @PORT@\n  }\n}\n",
        line: 2,
        says: "a { is missing at the end of this line",
    },
    Wrong {
        what: "a semicolon at the end",
        text: "service imap-login {\n  inet_listener a {\n    port = @PORT@;\n  }\n}\n",
        line: 3,
        says: "(no ; stands at the end of a line)",
    },
    Wrong {
        what: "white space from a web page",
        text: "haproxy_trusted_networks = 10.0.0.0/8\u{a0}\nservice imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n}\n",
        line: 1,
        says: "there is a U+00A0 in it",
    },
    Wrong {
        what: "a netmask",
        text: "haproxy_trusted_networks = 10.0.0.0/255.0.0.0\nservice imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n}\n",
        line: 1,
        says: "; write 10.0.0.0/8",
    },
    Wrong {
        what: "an include of a directory",
        text: "!include /tmp\nservice imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n}\n",
        line: 1,
        says: "(for !include /tmp: it is a directory, write DIRECTORY/*.conf; ",
    },
    Wrong {
        what: "an include without its mark",
        text: "include /tmp/x.conf\nservice imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n}\n",
        line: 1,
        says: "!include FILE",
    },
    Wrong {
        what: "a listener without a port, and no other",
        text: "service imap-login {\n  inet_listener a {\n    haproxy = yes\n  }\n}\n",
        line: 2,
        says: "inet_listener a: not listened on, because it has no port; add port = N",
    },
    Wrong {
        what: "a socket's path that is too long",
        text: "control_socket = /run/vestibule/a-name-that-goes-on-and-on-until-no-unix-socket-can-have-it-any-more-whatever-its-directory/s\n\
               service imap-login {\n  inet_listener a {\n    port = @PORT@\n  }\n}\n",
        line: 1,
        says: " bytes, and at most 99 are possible",
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

#[test]
fn files_in_a_form_that_is_not_read_are_said_to_be_so() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    let name = file.to_str().expect("a plain path");
    let text = "service imap-login {\n  inet_listener a {\n    port = 10143\n  }\n}\n";
    let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    for (bytes, says) in [
        (wide(u16::to_le_bytes), "it is UTF-16: save it as UTF-8"),
        (wide(u16::to_be_bytes), "it is UTF-16: save it as UTF-8"),
        (text.replace('\n', "\r").into_bytes(), "its lines end with CR alone: save it with LF or CR LF"),
        (b"[service]\nport = 143\n".to_vec(), "this is TOML, or an INI file"),
    ] {
        std::fs::write(&file, bytes).expect("it can be written");
        let finished = vestibule_run(&["check", "-c", name], b"");
        assert_eq!((finished.code, finished.stderr.lines().count()), (Some(78), 1), "{finished:?}");
        assert!(finished.stderr.contains(says), "{finished:?}");
    }
    for text in [text.replace('\n', "\r\n"), format!("\u{feff}{text}"), format!("{text}rings = 1 \\")] {
        std::fs::write(&file, &text).expect("it can be written");
        let finished = vestibule_run(&["check", "-c", name], b"");
        assert_eq!(finished.code, Some(0), "{text:?}: {finished:?}");
    }
}

#[test]
fn a_section_that_was_copied_with_its_name_is_told() {
    let directory = temp_dir();
    let (file, other) = (directory.path().join("vestibule.conf"), directory.path().join("other.conf"));
    let listener = |port: u16| format!("  inet_listener a {{\n    port = {port}\n  }}\n");
    let server = |address: &str| format!("  server a {{\n    address = {address}\n  }}\n");
    let service = |listeners: &str| format!("service imap-login {{\n  worker = relay\n{listeners}}}\n");
    let backend = |servers: &str| format!("backend imap {{\n{servers}}}\n");
    let warned = |text: &str, says: &str| {
        std::fs::write(&file, text).expect("it can be written");
        let finished = vestibule_run(&["check", "-c", file.to_str().expect("a plain path")], b"");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.stderr.lines().any(|line| line.contains(says) && line.contains("give this one a name of its own"))
    };
    let one = service(&listener(10143)) + &backend(&server("10.0.0.1"));
    let twice = service(&(listener(10143) + &listener(10144))) + &backend(&server("10.0.0.1"));
    assert!(warned(&twice, " line 7: port replaces that of "));
    let twice = service(&listener(10143)) + &backend(&(server("10.0.0.1") + &server("10.0.0.2")));
    assert!(warned(&twice, " line 12: address replaces that of "));
    assert!(!warned(&one, " replaces "), "one of each");
    assert!(!warned(&format!("{one}{}", service(&listener(10143))), " replaces "), "the same again");
    // To change what another file says is what includes are for.
    std::fs::write(&other, &one).expect("it can be written");
    assert!(!warned(&format!("!include other.conf\n{}", service(&listener(10144))), " replaces "));
}

//! The configuration through the program's own door, and beside the real `doveconf`.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;
use crate::support::daemon::vestibule_run;
use crate::support::process::{Finished, run};
use crate::support::{certificate, find_program, free_port, temp_dir};

const CONFIG_ERROR: Option<i32> = Some(78);

const EXAMPLE: &str = include_str!("../examples/dovecot.conf");

/// Runs `vestibule COMMAND ARGUMENTS -c FILE`.
fn vestibule(command: &str, file: &Path, arguments: &[&str]) -> Finished {
    let file = file.to_str().expect("a temporary path is text");
    vestibule_run(&[&[command, "-c", file], arguments].concat(), b"")
}

fn file_in(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("t.conf");
    fs::write(&file, text).expect("the file can be written");
    file
}

#[test]
fn check_says_where_the_example_would_listen() {
    let directory = temp_dir();
    let checked = vestibule("check", &file_in(directory.path(), EXAMPLE), &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for line in [
        "  0.0.0.0:143 imap-login/imap: plain",
        "  [::]:993 imap-login/imaps: plain, TLS",
        "  0.0.0.0:10143 imap-login/imap_haproxy: haproxy from 10.0.0.0/8 192.0.2.7/32 within 3 s",
    ] {
        assert!(checked.stdout.lines().any(|found| found == line), "{line} is not in\n{}", checked.stdout);
    }
    assert!(checked.stderr.contains("t.conf line 7: inet_listener imaps: ssl = yes, but ssl_cert is not set"));
}

#[test]
fn check_knows_the_builtin_configuration() {
    let checked = vestibule_run(&["check"], b"");
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
    assert!(checked.stdout.contains("127.0.0.1:10143 imap-login/imap_haproxy: haproxy from 127.0.0.0/8 within 3 s"));
}

#[test]
fn check_opens_no_port() {
    let port = free_port();
    let _taken = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    let directory = temp_dir();
    let text = format!("service s {{\n  inet_listener l {{\n    port = {port}\n  }}\n}}\n");
    let checked = vestibule("check", &file_in(directory.path(), &text), &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[test]
fn wrong_configurations_are_named_by_file_and_line() {
    let listener = |line: &str| format!("service s {{\n  inet_listener l {{\n    port = 10143\n    {line}\n  }}\n}}\n");
    let directory = temp_dir();
    for (text, message) in [
        (
            listener("haproxi = yes"),
            "line 4: Unknown setting: service { inet_listener { haproxi (did you mean haproxy?)",
        ),
        (
            listener("haproxy_trusted_networks = 10.0.0.0/33"),
            "line 4: haproxy_trusted_networks: Invalid network '10.0.0.0/33'",
        ),
        (listener("port = 70000"), "line 4: Invalid port number 70000"),
        (EXAMPLE.trim_end().trim_end_matches('}').to_string(), "line 3: Missing '}' (section started at "),
        (
            format!("ssl_cert = </nonexistent/c.pem\nssl_key = </nonexistent/k.pem\n{}", listener("ssl = yes")),
            "line 1: ssl_cert: cannot read /nonexistent/c.pem",
        ),
    ] {
        let file = file_in(directory.path(), &text);
        let checked = vestibule("check", &file, &[]);
        assert_eq!((checked.code, checked.stdout.as_str()), (CONFIG_ERROR, ""), "{text}");
        let expected = format!("{} {message}", file.display());
        assert!(checked.stderr.starts_with(&expected), "{}\n  is not\n{expected}", checked.stderr);
        assert_eq!(checked.stderr.lines().count(), 1, "{}", checked.stderr);
        assert_eq!(
            vestibule("config", &file, &[]).code,
            if message.contains("ssl_cert") { Some(0) } else { CONFIG_ERROR }
        );
    }
}

#[test]
fn a_file_that_is_not_there() {
    let checked = vestibule("check", Path::new("/nonexistent/t.conf"), &[]);
    assert_eq!(checked.code, CONFIG_ERROR);
    assert_eq!(checked.stderr, "/nonexistent/t.conf: cannot be read: No such file or directory (os error 2)\n");
}

#[test]
fn a_certificate_must_fit_its_key() {
    needs!("openssl");
    let (directory, other) = (temp_dir(), temp_dir());
    let (cert, key) = certificate(directory.path());
    let (_, foreign) = certificate(other.path());
    let text = |key: &Path| {
        let (cert, key) = (cert.display(), key.display());
        format!(
            "ssl_cert = <{cert}\nssl_key = <{key}\nservice s {{\n inet_listener l {{\n port = 1\n ssl = yes\n }}\n}}\n"
        )
    };
    let right = vestibule("check", &file_in(directory.path(), &text(&key)), &[]);
    assert_eq!((right.code, right.stderr.as_str()), (Some(0), ""));
    let wrong = vestibule("check", &file_in(directory.path(), &text(&foreign)), &[]);
    assert_eq!(wrong.code, CONFIG_ERROR);
    assert!(
        wrong.stderr.contains("t.conf line 2: ssl_key: ") && wrong.stderr.contains("(needed by inet_listener l)"),
        "{}",
        wrong.stderr
    );
    // Unreadable, but no listener needs it.
    let unused = text(Path::new("/nonexistent")).replace("ssl = yes", "ssl = no");
    assert_eq!(vestibule("check", &file_in(directory.path(), &unused), &[]).code, Some(0));
}

/// Texts that Dovecot 2.3 reads; all that Vestibule reads in them must mean the same.
const FOR_DOVECOT: &[&str] = &[
    include_str!("../examples/dovecot.conf"),
    "haproxy_trusted_networks = 192.0.2.10 198.51.100.0/24 2001:db8:10::/64\nhaproxy_timeout = 5 secs\n\
     service imap-login {\n  inet_listener imap {\n    port = 143\n  }\n  inet_listener imaps {\n    port = 993\n    ssl = yes\n  }\n  \
     inet_listener imap_haproxy {\n    port = 10143\n    haproxy = yes\n  }\n}\n",
    "# comment\nhaproxy_timeout=1 m # a minute\nhaproxy_trusted_networks = \"10.0.0.0/8, 192.0.2.7\"\n\
     service pop3-login {\n\tinet_listener \"a b\" {\n\t\tport = 0110\n\t\thaproxy = Y\n\t\tssl=1\n\t}\n}\n",
    "service imap-login {\ninet_listener imap {\nport = 1\n}\n}\nservice imap-login {\ninet_listener imap {\nport = 2\nssl = YES\n}\n}\n",
    "haproxy_trusted_networks = 10.0.0.1 \\\n  10.0.0.2, \\\n  10.0.0.3\nhaproxy_timeout = 2000 msecs\n\
     service lmtp {\ninet_listener lmtp {\naddress = 127.0.0.1, ::1\nport = 24\n}\n}\n",
    "protocols = $protocols imap\nlisten = $listen 127.0.0.1\nhaproxy_timeout = $haproxy_timeout\n\
     haproxy_trusted_networks = $haproxy_trusted_networks 10.0.0.1\nhaproxy_trusted_networks = $haproxy_trusted_networks ::1\n\
     service imap-login {\ninet_listener imap {\nport = 143\n}\n}\n",
    "haproxy_timeout = 120 seconds\nservice imap-login {\ninet_listener imap {\nport = 0\n}\n\
     inet_listener imaps {\nhaproxy = yes\n}\ninet_listener x {\nname = y\nport = 14#3\n}\n}\n",
    "listen = 127.0.0.1\nhaproxy_timeout = 1 week\nhaproxy_timeout = 45\\\n secs\nservice submission-login {\nclient_limit = 5\n\
     inet_listener s {\nport = 587\nreuse_port = yes\n}\nunix_listener u {\nmode = 0600\n}\n}\n",
];

#[test]
fn a_file_means_here_what_it_means_to_dovecot() {
    let Some(doveconf) = doveconf_2_3() else { return };
    let directory = temp_dir();
    for text in FOR_DOVECOT {
        let file = file_in(directory.path(), text);
        let theirs = doveconf.read(&file);
        assert_eq!(theirs.code, Some(0), "{text}\n{}", theirs.stderr);
        let ours = vestibule("config", &file, &[]);
        assert_eq!(ours.code, Some(0), "{text}\n{}", ours.stderr);
        let (theirs, ours) = (Meaning::of(&theirs.stdout), Meaning::of(&ours.stdout));
        assert_eq!(ours, theirs, "{text}");
        assert!(!ours.listeners.is_empty(), "{text}");
    }
}

#[test]
fn the_output_of_doveconf_is_input() {
    let Some(doveconf) = doveconf_2_3() else { return };
    let directory = temp_dir();
    for text in FOR_DOVECOT {
        let file = file_in(directory.path(), text);
        let ours = vestibule("config", &file, &[]);
        let shown = directory.path().join("shown.conf");
        fs::write(&shown, doveconf.read(&file).stdout).expect("the file can be written");
        let again = vestibule("config", &shown, &[]);
        assert_eq!(again.code, Some(0), "{text}\n{}", again.stderr);
        assert_eq!(Meaning::of(&again.stdout), Meaning::of(&ours.stdout), "{text}");
    }
}

#[test]
fn a_dump_without_settings_of_vestibules_own_is_read_by_dovecot() {
    let Some(doveconf) = doveconf_2_3() else { return };
    let directory = temp_dir();
    for text in FOR_DOVECOT {
        let ours = vestibule("config", &file_in(directory.path(), text), &[]).stdout;
        let theirs = doveconf.read(&file_in(directory.path(), &ours));
        assert_eq!(theirs.code, Some(0), "{ours}\n{}", theirs.stderr);
        assert_eq!(Meaning::of(&theirs.stdout), Meaning::of(&ours));
    }
}

#[test]
fn no_setting_of_dovecots_is_taken_for_a_slip() {
    let Some(doveconf) = doveconf_2_3() else { return };
    let directory = temp_dir();
    let empty = file_in(directory.path(), "");
    let mut command = Command::new(&doveconf.program);
    command.arg("-a").arg("-c").arg(&empty);
    let all = run(command, b"").stdout;
    let checked = vestibule("check", &file_in(directory.path(), &all), &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(!checked.stderr.contains("did you mean"), "{}", checked.stderr);
}

#[test]
fn the_lint_speaks_dovecots_words() {
    let Some(doveconf) = doveconf_2_3() else { return };
    let listener = |line: &str| format!("service imap-login {{\n  inet_listener imap {{\n    {line}\n  }}\n}}\n");
    let refused = [
        "haproxy_timeout = 3\n".into(),
        "haproxy_timeout = 3x\n".into(),
        "haproxy_timeout = 1500 ms\n".into(),
        "haproxy_timeout = 99999999999 s\n".into(),
        "haproxy_timeout = infinite\n".into(),
        "haproxy_timeout =\n".into(),
        "service imap-login {\n  inet_listener imap { port = 143 }\n}\n".into(),
        "service imap-login {}\n".into(),
        "service imap-login{\n}\n".into(),
        "service imap-login \"x\" {\n}\n".into(),
        "service imap-login {\n  inet_listener imap {\n    port = 143\n}}\n".into(),
        "service imap-login {\n  inet_listener imap {\n    port = 143\n} }\n".into(),
        "service imap-login {\n  inet_listener imap\n  {\n    port = 143\n  }\n}\n".into(),
        "foo bar\n".into(),
        "foo\n".into(),
        "}\n".into(),
        "listen = *\n}\n}\n".into(),
        "service imap-login {\n".into(),
        "service imap-login {\n  inet_listener imap {\n    port = 143\n".into(),
        "service imap-login {\n  inet_listener imap {\n    port = 143\n  }\n".into(),
        "!include nosuch.conf\n".into(),
        "!include nosuch*.conf\n".into(),
        "rings = 2\n".into(),
        "takeover_socket = /run/x\n".into(),
        "ssl_server_cert_file = /x\n".into(),
        "service imap-login {\n  worker = whoami\n}\n".into(),
        "service imap-login {\n  haproxy_timeout = 3s\n}\n".into(),
        "service imap-login {\n  foo {\n  }\n}\n".into(),
        "haproxy = yes\n".into(),
        "service imap-login {\n  haproxy = yes\n}\n".into(),
        "service imap-login {\n  ssl = yes\n}\n".into(),
        listener("haproxi = yes"),
        listener("haproxy_versions = v2"),
        listener("client_limit = 1"),
        listener("haproxy = true"),
        listener("ssl ="),
        listener("ssl = maybe"),
        listener("ssl = n"),
        listener("haproxy = 0"),
        listener("port = 70000"),
        listener("port = -1"),
        listener("port ="),
        listener("foo {\n    }"),
        "listen = a \\\n# comment\n b\n".into(),
    ];
    let directory = temp_dir();
    for text in &refused {
        let file = file_in(directory.path(), text);
        let theirs = doveconf.read(&file);
        let verdict =
            theirs.stderr.lines().find_map(|line| line.strip_prefix("doveconf: Fatal: Error in configuration file "));
        let verdict = verdict.unwrap_or_else(|| panic!("doveconf reads this:\n{text}"));
        let ours = vestibule("check", &file, &["--dovecot", "2.3"]);
        assert_eq!(ours.code, CONFIG_ERROR, "{text}");
        let lint = ours.stderr.split_once("Dovecot 2.3 would refuse it:\n").map_or("", |(_, lint)| lint);
        let ours = lint.lines().next().unwrap_or_default();
        // Dovecot gives no line for what only the end of the file shows.
        let expected =
            if verdict.contains("Missing '}'") { verdict.split_once(": ").map_or("", |(_, m)| m) } else { verdict };
        assert!(ours.ends_with(expected) && !expected.is_empty(), "{text}\n  Dovecot: {verdict}\n  here:    {ours}");
    }
    for text in FOR_DOVECOT {
        let ours = vestibule("check", &file_in(directory.path(), text), &["--dovecot", "auto"]);
        assert_eq!(ours.code, Some(0), "{text}\n{}", ours.stderr);
        assert!(ours.stdout.contains("Dovecot 2.3 is not known to refuse it"), "{}", ours.stdout);
    }
}

/// The real program.
struct Doveconf {
    program: PathBuf,
}

impl Doveconf {
    fn read(&self, file: &Path) -> Finished {
        let mut command = Command::new(&self.program);
        command.args(["-n", "-P", "-c"]).arg(file);
        run(command, b"")
    }
}

/// `None`, and the test counted as skipped, without a Dovecot of the syntax that the texts here are written in.
fn doveconf_2_3() -> Option<Doveconf> {
    let doveconf = Doveconf { program: find_or_skip()? };
    if !doveconf.read(Path::new("/dev/null")).stdout.starts_with("# 2.3.") {
        crate::support::record_skip("doveconf 2.3");
        return None;
    }
    Some(doveconf)
}

fn find_or_skip() -> Option<PathBuf> {
    let found = find_program("doveconf");
    if found.is_none() {
        crate::support::record_skip("doveconf");
    }
    found
}

/// What a text in `doveconf`'s canonical form says about accepting connections; read here by a few lines of its own.
#[derive(Debug, Default, PartialEq)]
struct Meaning {
    timeout: String,
    networks: Vec<String>,
    listen: Vec<String>,
    /// By service and name.
    listeners: BTreeMap<(String, String), Listener>,
}

#[derive(Debug, PartialEq)]
struct Listener {
    port: String,
    ssl: String,
    haproxy: String,
    reuse_port: String,
    addresses: Vec<String>,
}

impl Meaning {
    fn of(text: &str) -> Meaning {
        let mut meaning = Meaning { timeout: "3 secs".into(), ..Meaning::default() };
        let mut path: Vec<String> = Vec::new();
        let mut settings: BTreeMap<String, String> = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some(head) = line.strip_suffix(" {") {
                path.push(head.replace('"', ""));
                settings.clear();
            } else if line == "}" {
                meaning.close(&path, &settings);
                path.pop();
            } else if let Some((key, value)) = line.split_once(" =") {
                settings.insert(key.into(), value.trim().trim_matches('"').into());
                if path.is_empty() {
                    meaning.global(key, value.trim().trim_matches('"'));
                }
            }
        }
        meaning
    }

    fn global(&mut self, key: &str, value: &str) {
        match key {
            "haproxy_timeout" => self.timeout = value.into(),
            "haproxy_trusted_networks" => self.networks = items(value).iter().map(|item| with_bits(item)).collect(),
            "listen" => self.listen = items(value),
            _ => {}
        }
    }

    fn close(&mut self, path: &[String], settings: &BTreeMap<String, String>) {
        let [service, listener] = path else { return };
        let Some(name) = listener.strip_prefix("inet_listener ") else { return };
        let default = |key: &str| match (key, name) {
            ("port", "imaps") => "993",
            ("ssl", "imaps") => "yes",
            _ => "no",
        };
        let get = |key: &str| settings.get(key).cloned().unwrap_or(default(key).into());
        let listener = Listener {
            port: get("port"),
            ssl: get("ssl"),
            haproxy: get("haproxy"),
            reuse_port: get("reuse_port"),
            addresses: settings.get("address").map_or(Vec::new(), |text| items(text)),
        };
        // A port of 0 is a listener that is off: Vestibule does not show it.
        if listener.port != "0" {
            self.listeners.insert((service.clone(), name.into()), listener);
        }
    }
}

fn items(text: &str) -> Vec<String> {
    text.split([' ', ',']).filter(|item| !item.is_empty()).map(Into::into).collect()
}

fn with_bits(network: &str) -> String {
    match (network.contains('/'), network.contains(':')) {
        (true, _) => network.into(),
        (false, true) => format!("{network}/128"),
        (false, false) => format!("{network}/32"),
    }
}

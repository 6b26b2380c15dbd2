//! Files of both dialects, judged by the real `doveconf` of Debian 12 (2.3) and of Debian 13 (2.4).

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::authority::s_client_briefly;
use crate::support::client::loopback;
use crate::support::daemon::vestibule_run;
use crate::support::debian13::{command_in, debian13};
use crate::support::process::{Finished, Process, run};
use crate::support::{find_program, free_port, record_skip, temp_dir};

const VERSIONS: &str = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n";

/// What the real 2.4 says of a text.
fn doveconf_2_4(root: &Path, text: &str) -> Finished {
    let directory = tempfile::tempdir_in(root.join("tmp")).expect("the folder can be written to");
    let file = directory.path().join("t.conf");
    fs::write(&file, text).expect("the file can be written");
    let mut command = command_in(root, "doveconf");
    let inside = Path::new("/").join(file.strip_prefix(root).expect("it is inside"));
    command.args(["-n", "-P", "-x", "-c"]).arg(inside);
    run(command, b"")
}

/// What the real 2.3 says of a text; `None` without one.
fn doveconf_2_3(text: &str) -> Option<Finished> {
    let Some(program) = find_program("doveconf") else {
        record_skip("doveconf");
        return None;
    };
    let directory = temp_dir();
    let file = directory.path().join("t.conf");
    fs::write(&file, text).expect("the file can be written");
    let mut command = Command::new(program);
    command.args(["-n", "-P", "-x", "-c"]).arg(&file);
    let finished = run(command, b"");
    if !finished.stdout.starts_with("# 2.3.") {
        record_skip("doveconf 2.3");
        return None;
    }
    Some(finished)
}

/// What Vestibule says of a text on its standard input.
fn ours(command: &str, arguments: &[&str], text: &str) -> Finished {
    vestibule_run(&[&[command, "-c", "-"], arguments].concat(), text.as_bytes())
}

/// The value of a global setting in a `doveconf`'s output.
fn value(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" ="));
    line.unwrap_or_default()
        .trim()
        .trim_matches('"')
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// As Vestibule shows networks.
fn with_bits(networks: &str) -> String {
    let one = |network: &str| match (network.contains('/'), network.contains(':')) {
        (true, _) => network.to_string(),
        (false, true) => format!("{network}/128"),
        (false, false) => format!("{network}/32"),
    };
    networks.split(' ').filter(|network| !network.is_empty()).map(one).collect::<Vec<_>>().join(" ")
}

const LISTENER: &str = "service imap-login {\n  inet_listener imap {\n    port = 10143\n  }\n}\n";

/// Values that hold variables, or look as if they did.
const VARIABLES: &[&str] = &[
    "hostname = 10.0.0.1\nhaproxy_trusted_networks = $hostname 10.0.0.2\n",
    "hostname = 10.0.0.1\nhaproxy_trusted_networks = 10.0.0.3 $SET:hostname 10.0.0.2\n",
    "haproxy_trusted_networks = $SET:haproxy_trusted_networks 10.0.0.1\n",
    "haproxy_trusted_networks = 10.0.0.1\nhaproxy_trusted_networks = $SET:haproxy_trusted_networks 10.0.0.2\n",
    "haproxy_trusted_networks = 10.0.0.1\nhaproxy_trusted_networks = $haproxy_trusted_networks 10.0.0.2\n",
    "haproxy_trusted_networks = 10.0.0.1 $ENV:VESTIBULE_NO_SUCH 10.0.0.2\n",
    "haproxy_trusted_networks = 10.0.0.1, $ENV:VESTIBULE_NO_SUCH, 10.0.0.2\n",
    "haproxy_trusted_networks = $nosuch\n",
    "haproxy_trusted_networks = $SET:listen\n",
    "listen = $SET:listen 127.0.0.1\n",
];

#[test]
fn variables_stand_for_what_each_dovecot_says() {
    let Some(root) = debian13() else { return };
    for text in VARIABLES {
        let text = format!("{text}{LISTENER}");
        compare_networks(&format!("{VERSIONS}{text}"), &doveconf_2_4(root, &format!("{VERSIONS}{text}")));
        if let Some(theirs) = doveconf_2_3(&text) {
            compare_networks(&text, &theirs);
        }
    }
}

/// Dovecot looks at networks when a client comes, so what it only shows may be refused here.
fn compare_networks(text: &str, theirs: &Finished) {
    let ours = ours("config", &[], text);
    let fatal = theirs.stderr.contains("Fatal: Error in configuration file");
    let networks = value(&theirs.stdout, "haproxy_trusted_networks");
    if fatal || networks.split(' ').any(|network| network.starts_with('$')) {
        assert_eq!(ours.code, Some(78), "{text}\n{}", ours.stdout);
    } else {
        assert_eq!(ours.code, Some(0), "{text}\n{}", ours.stderr);
        assert_eq!(value(&ours.stdout, "haproxy_trusted_networks"), with_bits(&networks), "{text}");
    }
}

/// What 2.4 refuses, each for another reason.
const REFUSED_BY_2_4: &[&str] = &[
    "mail_location = maildir:~/Maildir\n",
    "ssl_dh = </etc/passwd\n",
    "ssl_cert = </etc/passwd\n",
    "disable_plaintext_auth = no\n",
    "plugin {\n}\n",
    "passdb {\n  driver = pam\n}\n",
    "userdb {\n}\n",
    "service {\n}\n",
    "ssl_server x {\n}\n",
    "backend imap {\n}\n",
    "servic imap-login {\n}\n",
    "service imap-login {\n  worker {\n  }\n}\n",
    "service imap-login {\n  inet_listener {\n    port = 1\n  }\n}\n",
    "service imap-login {\n  inet_listener imap {\n    haproxi = yes\n  }\n}\n",
    "haproxy_timeout = 3\n",
    "rings = 4\n",
];

#[test]
fn the_lint_speaks_the_words_of_2_4() {
    let Some(root) = debian13() else { return };
    for text in REFUSED_BY_2_4 {
        let text = format!("{VERSIONS}{text}");
        let theirs = doveconf_2_4(root, &text);
        let verdict = theirs.stderr.lines().find_map(|line| line.split_once("/t.conf line "));
        let (_, verdict) = verdict.unwrap_or_else(|| panic!("doveconf reads this:\n{text}{}", theirs.stderr));
        let ours = ours("check", &["--dovecot", "auto"], &text);
        assert_eq!(ours.code, Some(78), "{text}");
        let lint = ours.stderr.split_once("Dovecot 2.4 would refuse it:\n").map_or("", |(_, lint)| lint);
        assert!(lint.lines().any(|line| line.ends_with(verdict)), "{text}\n  Dovecot: {verdict}\n  here:    {lint}");
    }
}

#[test]
fn all_that_2_4_knows_is_no_slip() {
    let Some(root) = debian13() else { return };
    let directory = tempfile::tempdir_in(root.join("tmp")).expect("the folder can be written to");
    fs::write(directory.path().join("t.conf"), VERSIONS).expect("the file can be written");
    let inside = Path::new("/").join(directory.path().strip_prefix(root).expect("inside")).join("t.conf");
    let mut command = command_in(root, "doveconf");
    command.args(["-a", "-c"]).arg(inside);
    // It shows `*, ::` as nothing, which is an error here, where it could be meant.
    let all = run(command, b"").stdout.replace("\nlisten = \n", "\n");
    let found = ours("check", &[], &format!("{all}\n{LISTENER}"));
    assert!(all.lines().count() > 500 && !found.stderr.contains("Unknown"), "{}", found.stderr);
}

/// Files from the field, by the file's name and the Dovecots that read it.
const CASES: &[(&str, &str, &[Dovecot])] = &[
    ("c01", include_str!("data/cases/c01-ssl_server-section.conf"), &[V24]),
    ("c02", include_str!("data/cases/c02-group.conf"), &[V24]),
    ("c03", include_str!("data/cases/c03-unnamed-listener.conf"), &[V23]),
    ("c04", include_str!("data/cases/c04-bracketed-networks.conf"), &[V23, V24]),
    ("c06", include_str!("data/cases/c06-tls-policy.conf"), &[V23]),
    ("c07", include_str!("data/cases/c07-leftovers-in-2.4.conf"), &[]),
    ("c10", include_str!("data/cases/c10-byte-order-mark.conf"), &[]),
    ("c12", include_str!("data/cases/c12-listener-prefix.conf"), &[V24]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dovecot {
    V23,
    V24,
}

use Dovecot::{V23, V24};

impl Dovecot {
    /// What the real one says of a text; `None`, and a visible skip, where it cannot be had.
    fn says(self, text: &str) -> Option<Finished> {
        match self {
            V23 => doveconf_2_3(text),
            V24 => debian13().map(|root| doveconf_2_4(root, text)),
        }
    }
}

/// The text as that Dovecot may read it: 2.4 wants its versions first, and files that are there.
fn for_dovecot(text: &str, dovecot: Dovecot) -> String {
    let versions = if dovecot == V24 && !text.contains("dovecot_config_version") { VERSIONS } else { "" };
    let files = ["ca.pem", "other-cert.pem", "other-key.pem", "cert.pem", "key.pem"];
    let text = files.iter().fold(text.to_owned(), |text, file| {
        text.replace(&format!("<{file}"), "</etc/passwd").replace(&format!("= {file}"), "= /etc/passwd")
    });
    format!("{versions}{text}")
}

/// Settings of which what Vestibule understands is held against what the real ones say, by each one's name.
const COMPARED: &[(&str, &str)] = &[
    ("haproxy_trusted_networks", "haproxy_trusted_networks"),
    ("haproxy_timeout", "haproxy_timeout"),
    ("ssl_min_protocol", "ssl_min_protocol"),
    ("ssl_verify_client_cert", "ssl_server_request_client_cert"),
];

#[test]
fn the_cases_mean_what_they_mean_to_each_dovecot() {
    for &(name, text, readers) in CASES {
        for dovecot in [V23, V24] {
            let Some(theirs) = dovecot.says(&for_dovecot(text, dovecot)) else { continue };
            let reads = !theirs.stderr.contains("Fatal");
            // What 2.3 refuses in a file for 2.4, and the reverse, is no matter here but where nobody reads the file.
            assert_eq!(reads, readers.contains(&dovecot), "{name} {dovecot:?}: {}", theirs.stderr);
            if !reads {
                continue;
            }
            let text = for_dovecot(text, dovecot).replace("/etc/passwd", "/nonexistent");
            let shown = ours("config", &["-a"], &text);
            assert_eq!(shown.code, Some(0), "{name}: {}", shown.stderr);
            for &(in_2_3, in_2_4) in COMPARED {
                let their_name = if dovecot == V23 { in_2_3 } else { in_2_4 };
                if !theirs.stdout.contains(&format!("{their_name} = ")) {
                    continue;
                }
                let (theirs, ours) = (value(&theirs.stdout, their_name), value(&shown.stdout, in_2_3));
                let plain = theirs.replace(['[', ']'], "");
                let expected = if in_2_3 == "haproxy_trusted_networks" { with_bits(&plain) } else { plain };
                assert_eq!(ours, expected, "{name} {dovecot:?} {in_2_3}");
            }
        }
    }
}

/// Times in every unit, and what is none.
const TIMES: &[&str] = &[
    "4 secs",
    "4s",
    "4 seconds",
    "1 mins",
    "2m",
    "1 min",
    "1 hours",
    "1h",
    "4000 msecs",
    "4000 mseconds",
    "4000 milliseconds",
    "4000ms",
    "1500 ms",
    "4",
    "4 fortnights",
    "4 secsx",
    "5 sec",
];

#[test]
fn times_are_those_of_dovecot() {
    for time in TIMES {
        let text = format!("haproxy_timeout = {time}\nhaproxy_trusted_networks = ::1\n{LISTENER}");
        for (dovecot, text) in [(V23, text.clone()), (V24, format!("{VERSIONS}{text}"))] {
            let Some(theirs) = dovecot.says(&text) else { continue };
            let ours = ours("config", &["-a"], &text);
            // A bare number is a shorthand here.
            if theirs.stderr.contains("Fatal") && time.parse::<u32>().is_err() {
                assert_eq!(ours.code, Some(78), "{dovecot:?} {time}: {}", ours.stdout);
            } else if !theirs.stderr.contains("Fatal") {
                let of = |text: &str| value(text, "haproxy_timeout");
                let theirs =
                    if theirs.stdout.contains("haproxy_timeout") { of(&theirs.stdout) } else { "3 secs".into() };
                assert_eq!(seconds(&of(&ours.stdout)), seconds(&theirs), "{dovecot:?} {time}");
            }
        }
    }
}

/// Of a time as they print it: 2.4 as it was written.
fn seconds(shown: &str) -> u64 {
    let digits = shown.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = shown.split_at(digits);
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("no number: {shown}"));
    match unit.trim() {
        unit if ["ms", "milli"].iter().any(|milli| unit.starts_with(milli)) => number / 1000,
        unit if unit.starts_with('s') => number,
        unit if unit.starts_with('m') => number * 60,
        unit if unit.starts_with('h') => number * 3600,
        other => panic!("{other}"),
    }
}

/// Two sections, and names that clients ask for.
const NAMES: &[(&str, &str, &[&str])] = &[
    (
        "mail.example.com",
        "other.example",
        &["mail.example.com", "MAIL.Example.com", "x.mail.example.com", "other.example"],
    ),
    ("*.example.org", "a.example.org", &["a.example.org", "b.example.org", "b.a.example.org", "example.org"]),
    ("a.example.org", "*.example.org", &["a.example.org", "b.example.org"]),
    ("*.*.multi.test", "n*.part.test", &["a.b.multi.test", "b.multi.test", "name.part.test", "n.part.test"]),
    ("*.*", "f*", &["foo.bar", "foo"]),
    ("?.t.test", "*a.test", &["s.t.test", "ss.t.test", "ba.test"]),
];

fn by_name(sections: [&str; 2], files: &[&str; 3], v24: bool) -> String {
    let pair = |file: &str| match v24 {
        true => format!("ssl_server_cert_file = {file}.crt\nssl_server_key_file = {file}.key\n"),
        false => format!("ssl_cert = <{file}.crt\nssl_key = <{file}.key\n"),
    };
    let section = |name: &str, file: &str| format!("local_name {name} {{\n{}}}\n", pair(file));
    format!("{}{}{}", pair(files[0]), section(sections[0], files[1]), section(sections[1], files[2]))
}

/// Which of the three files a client sees that asks for a name.
fn ours_by_name(text: &str, name: &str, files: &[&str; 3]) -> usize {
    let tls = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\n";
    let loaded = vestibule::config::parse(Path::new("t.conf"), &format!("{text}{tls}")).expect("both read it");
    let settings = loaded.settings;
    let matches = |masks: &[String]| masks.iter().any(|mask| vestibule::tls::is_matched(name, mask));
    let found = settings.local_names.iter().find(|named| matches(&named.names)).map(|named| named.cert.path.clone());
    let path = found.unwrap_or_else(|| settings.ssl_cert.expect("it is named").path);
    files.iter().position(|file| path == Path::new(&format!("{file}.crt"))).expect("one of them")
}

#[test]
fn a_client_of_2_3_sees_the_certificate_of_its_name() {
    let Some(program) = find_program("doveconf") else { return record_skip("doveconf") };
    if doveconf_2_3("").is_none() {
        return;
    }
    let directory = temp_dir();
    let files = ["own", "one", "two"].map(|name| directory.path().join(name).display().to_string());
    files.iter().for_each(|file| fs::write(format!("{file}.crt"), "x").expect("it is ours"));
    let files = [&*files[0], &*files[1], &*files[2]];
    for &(first, second, names) in NAMES {
        let text = by_name([first, second], &files, false);
        let file = directory.path().join("t.conf");
        fs::write(&file, &text).expect("it is ours");
        for name in names {
            let mut command = Command::new(&program);
            command.arg("-c").arg(&file).args(["-f", &format!("lname={name}"), "-h", "ssl_cert"]);
            let theirs = run(command, b"").stdout.trim().to_owned();
            let expected = format!("<{}.crt", files[ours_by_name(&text, name, &files)]);
            assert_eq!(theirs, expected, "{first} {second} {name}");
        }
    }
}

#[test]
fn a_client_of_2_4_sees_the_certificate_of_its_name() {
    crate::needs!("openssl");
    let Some(root) = debian13() else { return };
    let directory = tempfile::tempdir_in(root.join("tmp")).expect("the folder can be written to");
    let inside = Path::new("/").join(directory.path().strip_prefix(root).expect("it is inside"));
    for name in ["own", "one", "two"] {
        let (crt, key) = crate::support::certificate(directory.path());
        fs::rename(crt, directory.path().join(format!("{name}.crt"))).expect("it is ours");
        fs::rename(key, directory.path().join(format!("{name}.key"))).expect("it is ours");
    }
    let files = ["own", "one", "two"].map(|name| inside.join(name).display().to_string());
    let files = [&*files[0], &*files[1], &*files[2]];
    for &(first, second, names) in NAMES {
        let (text, port) = (format!("{VERSIONS}{}", by_name([first, second], &files, true)), free_port());
        let _dovecot = dovecot_2_4(root, &text, port, true);
        for name in names {
            let seen = s_client_briefly(port, &["-servername", name]).stdout;
            let expected = ours_by_name(&text, name, &files);
            let certificate = |name: &str| fs::read_to_string(directory.path().join(name)).expect("it is ours");
            let shown = ["own.crt", "one.crt", "two.crt"].map(|file| seen.contains(certificate(file).trim()));
            assert!(shown[expected], "{first} {second} {name}: not {expected}, but {shown:?}");
        }
    }
}

const GROUPS: &str =
    "group @hap lb {\n  inet_listener_haproxy = yes\n}\ngroup @foo x {\n  inet_listener_haproxy = no\n}\n";

/// Services whose listener `imap` has its settings from elsewhere; `PORT` stands for its port.
const ELSEWHERE: &[&str] = &[
    "service imap-login {\n  @hap = lb\n  inet_listener imap {\n    port = PORT\n  }\n}\n",
    "service imap-login {\n  inet_listener imap {\n    port = PORT\n    haproxy = no\n  }\n  @hap = lb\n}\n",
    "service imap-login {\n  @foo = x\n  @hap = lb\n  inet_listener imap {\n    port = PORT\n  }\n}\n",
    "inet_listener_haproxy = yes\nservice imap-login {\n  inet_listener imap {\n    port = PORT\n  }\n}\n",
    // Cases from the field.
    include_str!("data/cases/c02-group.conf"),
    include_str!("data/cases/c12-listener-prefix.conf"),
    "inet_listener imap {\n  haproxy = yes\n}\nservice imap-login {\n  inet_listener imap {\n    port = PORT\n  }\n  inet_listener_haproxy = no\n}\n",
];

#[test]
fn a_header_is_mandatory_where_it_is_to_2_4() {
    let Some(root) = debian13() else { return };
    for text in ELSEWHERE {
        let port = free_port();
        let text = match text.contains("dovecot_config_version") {
            true => text.replace("10143", "PORT"),
            false => {
                format!("{VERSIONS}listen = 127.0.0.1\nhaproxy_trusted_networks = 127.0.0.1\n{GROUPS}{text}")
            }
        };
        let text = text.replace("PORT", &port.to_string());
        let shown = ours("config", &["-a"], &text);
        let mandatory = shown.stdout.contains("    haproxy = yes\n");
        assert_eq!(shown.code, Some(0), "{text}\n{}", shown.stderr);
        assert_eq!(greets(root, &text, port), !mandatory, "{text}");
    }
}

/// Whether the real 2.4 greets a client that sends no header.
fn greets(root: &Path, text: &str, port: u16) -> bool {
    let _dovecot = dovecot_2_4(root, text, port, false);
    let client = TcpStream::connect(loopback(port)).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("a deadline");
    let mut byte = [0];
    std::io::Read::read(&mut &client, &mut byte).is_ok_and(|read| read == 1)
}

/// The real 2.4 with these settings, listening on a port, where asked with TLS. To be kept with its directory.
fn dovecot_2_4(root: &Path, text: &str, port: u16, tls: bool) -> (Process, tempfile::TempDir) {
    let directory = tempfile::tempdir_in(root.join("tmp")).expect("the folder can be written to");
    let inside = Path::new("/").join(directory.path().strip_prefix(root).expect("it is inside"));
    let inside = inside.display();
    let rest = format!(
        "base_dir = {inside}/run\nstate_dir = {inside}/state\nlog_path = {inside}/log\nprotocols = imap\nssl = {ssl}\n\
         passdb static {{\n  password = x\n}}\nservice imap-login {{\n  inet_listener imaps {{\n    port = {imaps}\n  }}\n{imap}}}\n",
        ssl = if tls { "yes" } else { "no" },
        imaps = if tls { port } else { 0 },
        imap = if tls { "  inet_listener imap {\n    port = 0\n  }\n" } else { "" },
    );
    fs::write(directory.path().join("t.conf"), format!("{text}{rest}")).expect("the file can be written");
    let mut command = command_in(root, "dovecot");
    command.arg("-F").arg("-c").arg(format!("{inside}/t.conf"));
    (Process::start_listening(command, &[loopback(port)]), directory)
}

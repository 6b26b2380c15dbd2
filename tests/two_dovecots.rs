//! Files of both dialects, judged by the real `doveconf` of Debian 12 (2.3) and of Debian 13 (2.4).

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

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

const GROUPS: &str =
    "group @hap lb {\n  inet_listener_haproxy = yes\n}\ngroup @foo x {\n  inet_listener_haproxy = no\n}\n";

/// Services whose listener `imap` has its settings from elsewhere; `PORT` stands for its port.
const ELSEWHERE: &[&str] = &[
    "service imap-login {\n  @hap = lb\n  inet_listener imap {\n    port = PORT\n  }\n}\n",
    "service imap-login {\n  inet_listener imap {\n    port = PORT\n    haproxy = no\n  }\n  @hap = lb\n}\n",
    "service imap-login {\n  @foo = x\n  @hap = lb\n  inet_listener imap {\n    port = PORT\n  }\n}\n",
    "inet_listener_haproxy = yes\nservice imap-login {\n  inet_listener imap {\n    port = PORT\n  }\n}\n",
    "inet_listener imap {\n  haproxy = yes\n}\nservice imap-login {\n  inet_listener imap {\n    port = PORT\n  }\n  inet_listener_haproxy = no\n}\n",
];

#[test]
fn a_header_is_mandatory_where_it_is_to_2_4() {
    let Some(root) = debian13() else { return };
    for text in ELSEWHERE {
        let port = free_port();
        let text = format!("{VERSIONS}listen = 127.0.0.1\nhaproxy_trusted_networks = 127.0.0.1\n{GROUPS}{text}")
            .replace("PORT", &port.to_string());
        let shown = ours("config", &["-a"], &text);
        let mandatory = shown.stdout.contains("    haproxy = yes\n");
        assert_eq!(shown.code, Some(0), "{text}\n{}", shown.stderr);
        assert_eq!(greets(root, &text, port), !mandatory, "{text}");
    }
}

/// Whether the real 2.4 greets a client that sends no header.
fn greets(root: &Path, text: &str, port: u16) -> bool {
    let directory = tempfile::tempdir_in(root.join("tmp")).expect("the folder can be written to");
    let inside = Path::new("/").join(directory.path().strip_prefix(root).expect("it is inside"));
    let inside = inside.display();
    let rest = format!(
        "base_dir = {inside}/run\nstate_dir = {inside}/state\nlog_path = {inside}/log\nprotocols = imap\nssl = no\n\
         passdb static {{\n  password = x\n}}\nservice imap-login {{\n  inet_listener imaps {{\n    port = 0\n  }}\n}}\n"
    );
    fs::write(directory.path().join("t.conf"), format!("{text}{rest}")).expect("the file can be written");
    let mut command = command_in(root, "dovecot");
    command.arg("-F").arg("-c").arg(format!("{inside}/t.conf"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let _dovecot = Process::start_listening(command, &[address]);
    let client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("a deadline");
    let mut byte = [0];
    std::io::Read::read(&mut &client, &mut byte).is_ok_and(|read| read == 1)
}

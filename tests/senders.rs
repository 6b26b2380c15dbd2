//! Real senders of headers that Debian packages: stunnel, hitch, Varnish, dnsdist, kdig; and what HAProxy sends when it
//! is told to in ways that go wrong, each with the diagnosis that names it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{Client, loopback, whoami};
use crate::support::daemon::{Daemon, counted};
use crate::support::debian13::{command_in, debian13};
use crate::support::peers::haproxy;
use crate::support::process::{Process, run};
use crate::support::{PATIENCE, certificate, free_port, is_listening, temp_dir, temp_dir_in, wait_until};
use crate::{needs, needs_root};

const TIMEOUTS: &str = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n";

/// The daemon, and the address of its listener, which logs every connection.
fn logging() -> (Daemon, SocketAddr) {
    Daemon::haproxy("log_connections = yes", "")
}

/// A certificate and its key in one file.
fn pem(directory: &Path) -> String {
    let (certificate, key) = certificate(directory);
    let both = [certificate, key].map(|file| fs::read_to_string(file).expect("it was made")).concat();
    let file = directory.join("both.pem");
    fs::write(&file, both).expect("a temporary file");
    file.to_string_lossy().into_owned()
}

fn started(program: &str, arguments: &[&str], listens: SocketAddr) -> Process {
    let mut command = Command::new(program);
    command.args(arguments);
    Process::start_listening(command, &[listens])
}

/// What comes back through TLS.
fn over_tls(to: SocketAddr, arguments: &[&str]) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-connect", &to.to_string()]).args(arguments);
    run(client, b"").stdout
}

fn files() -> (TempDir, String) {
    let directory = temp_dir();
    let pem = pem(directory.path());
    (directory, pem)
}

#[test]
fn stunnel_conveys_its_clients_by_version_1() {
    needs!("stunnel4", "openssl");
    let (_daemon, listener) = logging();
    let (directory, pem) = files();
    let front = loopback(free_port());
    let file = directory.path().join("stunnel.conf");
    let text = format!(
        "foreground = yes\npid =\n[mail]\naccept = {front}\nconnect = {listener}\ncert = {pem}\nprotocol = proxy\n"
    );
    fs::write(&file, text).expect("a temporary file");
    let _stunnel = started("stunnel4", &[&file.to_string_lossy()], front);
    let told: Value = whoami(over_tls(front, &[]).as_bytes());
    assert_eq!((&told["version"], &told["destination"]), (&"v1".into(), &front.to_string().into()));
    assert_ne!(told["client"], told["peer"], "{told}");
}

#[test]
fn hitch_conveys_name_protocol_and_cipher() {
    needs!("hitch", "openssl");
    let (daemon, listener) = logging();
    let (_directory, pem) = files();
    let front = loopback(free_port());
    let backend = format!("--backend=[127.0.0.1]:{}", listener.port());
    let frontend = format!("--frontend=[127.0.0.1]:{}", front.port());
    let options = ["--write-proxy-v2", "--alpn-protos=imap", "--user=nobody", &backend, &frontend, &pem];
    let _hitch = started("hitch", &options, front);
    let told = whoami(over_tls(front, &["-alpn", "imap", "-servername", "mail.test"]).as_bytes());
    assert_eq!((&told["version"], &told["destination"]), (&"v2".into(), &front.to_string().into()));
    daemon.wait_for_output(" authority=mail.test alpn=imap tls=TLSv1.3 waited=");
}

#[test]
fn varnish_conveys_its_clients() {
    needs!("varnishd", "curl");
    let (daemon, listener) = logging();
    let directory = temp_dir();
    let program = directory.path().join("default.vcl");
    let front = loopback(free_port());
    let text = format!(
        "vcl 4.1;\nbackend default {{ .host = \"127.0.0.1\"; .port = \"{}\"; .proxy_header = 2; }}\n",
        listener.port()
    );
    fs::write(&program, text).expect("a temporary file");
    let (place, program) = (directory.path().join("run"), program.to_string_lossy().into_owned());
    let (place, at) = (place.to_string_lossy().into_owned(), front.to_string());
    let _varnish = started("varnishd", &["-F", "-j", "none", "-n", &place, "-a", &at, "-f", &program], front);
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "10", &format!("http://{front}/")]);
    run(curl, b"");
    daemon.wait_for_output(" header=v2 source=127.0.0.1:");
    daemon.wait_for_output(&format!(" destination={front} "));
}

#[test]
fn dnsdist_and_kdig_convey_their_clients_over_tcp() {
    needs!("dnsdist", "kdig");
    let (daemon, listener) = logging();
    let directory = temp_dir();
    let front = loopback(free_port());
    let file = directory.path().join("dnsdist.lua");
    let text = format!(
        "setLocal(\"{front}\")\nnewServer({{address=\"{listener}\", useProxyProtocol=true, tcpOnly=true}}):setUp()\n"
    );
    fs::write(&file, text).expect("a temporary file");
    let _dnsdist = started("dnsdist", &["--supervised", "--disable-syslog", "-C", &file.to_string_lossy()], front);
    let ask = |port: u16, options: &[&str]| {
        let mut kdig = Command::new("kdig");
        kdig.args(["@127.0.0.1", "-p", &port.to_string(), "+tcp", "+time=2", "+retry=0"]);
        kdig.args(options).arg("mail.example");
        run(kdig, b"");
    };
    ask(front.port(), &[]);
    daemon.wait_for_output(&format!(" destination={front} "));
    ask(listener.port(), &["+proxy=198.51.100.7#5000-192.0.2.1#53"]);
    daemon.wait_for_output("haproxy: Connected (rip=198.51.100.7): ");
    daemon.wait_for_output(" header=v2 source=198.51.100.7:5000 destination=192.0.2.1:53 ");
}

#[test]
fn two_names_by_haproxy_are_refused_and_explained() {
    needs!("openssl");
    needs_root!();
    let Some(root) = debian13() else { return };
    let (daemon, listener) = Daemon::haproxy("", "");
    let inside = temp_dir_in(&root.join("tmp"));
    pem(inside.path());
    let place = format!("/tmp/{}", inside.path().file_name().expect("a name").to_string_lossy());
    let front = loopback(free_port());
    let options = |more: &str| {
        format!(
            "{TIMEOUTS}listen front\n  bind {front} ssl crt {place}/both.pem\n  server s {listener} send-proxy-v2 \
             proxy-v2-options authority {more}\n"
        )
    };
    for (more, refused) in [("", false), ("set-proxy-v2-tlv-fmt(0x02) %[str(other.test)]", true)] {
        fs::write(inside.path().join("haproxy.cfg"), options(more)).expect("the folder is ours");
        let mut command = command_in(root, "haproxy");
        command.args(["-db", "-f", &format!("{place}/haproxy.cfg")]);
        let _haproxy = Process::start_listening(command, &[front]);
        let said = over_tls(front, &["-servername", "mail.test"]);
        assert_eq!(said.is_empty(), refused, "{said}");
    }
    daemon.wait_for_output("reason=duplicate-tlv");
    daemon.wait_for_output(" diagnosis=authority-twice (two AUTHORITY TLVs: HAProxy sends two with both");
}

#[test]
fn users_of_a_terminator_on_a_unix_socket_are_counted_as_users() {
    needs!("haproxy", "hitch", "openssl");
    let (daemon, listener) = Daemon::haproxy("", "");
    let (directory, pem) = files();
    let socket = directory.path().join("haproxy.sock").to_string_lossy().into_owned();
    // Hitch serves as another user.
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let _balancer = haproxy(&format!(
        "{TIMEOUTS}listen front\n  bind @FRONT@\n  bind unix@{socket} mode 666\n  server s {listener} send-proxy-v2\n"
    ));
    let front = loopback(free_port());
    let (backend, frontend) = (format!("--backend={socket}"), format!("--frontend=[127.0.0.1]:{}", front.port()));
    let _hitch = started("hitch", &["--user=nobody", &backend, &frontend, &pem], front);
    let mut client = Command::new("sh");
    let speak = format!("(printf 'a1 NOOP\\r\\n'; sleep 2) | openssl s_client -quiet -connect {front}");
    client.args(["-c", &speak]);
    let told = whoami(run(client, b"").stdout.as_bytes());
    assert_eq!(told["command"], "LOCAL", "{told}");
    let log = daemon.stop();
    // What the client says may come with the header or behind it: only the first is seen before the worker has it.
    let [checks, users] = ["local", "local-user"].map(|name| counted(&log, name).unwrap_or_default());
    assert_eq!(checks + users, 1, "{log}");
    assert_eq!(log.contains(" diagnosis=local-speaks (a LOCAL header with data behind it: HAProxy sends"), users == 1);
}

#[test]
fn a_check_of_another_port_by_haproxy_waits_in_silence_unless_it_is_told() {
    needs!("haproxy");
    for (option, mute) in [("", true), ("check-send-proxy", false)] {
        let (daemon, server) = Daemon::haproxy("haproxy_timeout = 60 secs", "");
        let checked = format!("check port {} {option} inter 2s fall 100", server.port());
        let _front = haproxy(&format!(
            "{TIMEOUTS}backend b\n  option tcp-check\n  tcp-check expect string service\n  server s \
             {server} send-proxy-v2 {checked}\nfrontend f\n  bind @FRONT@\n  default_backend b\n"
        ));
        if mute {
            daemon.wait_for_output(" diagnosis=lazy-header (the peer waits for the greeting");
            assert!(daemon.output().contains("`check port N` send none"), "{}", daemon.output());
        } else {
            // Of these the third would have been named.
            thread::sleep(Duration::from_secs(9));
            let log = daemon.stop();
            assert!(counted(&log, "local").is_some_and(|checks| checks >= 2), "{log}");
            assert!(!log.contains("lazy-header"), "{log}");
        }
    }
}

#[test]
fn a_balancer_that_waits_for_its_clients_data_is_named() {
    // An AWS NLB in `on_first_ack_with_payload`: nothing comes until the client has spoken, which waits for a greeting.
    let (daemon, listener) = Daemon::haproxy("haproxy_timeout = 1 secs", "");
    let waiting: Vec<Client> = (0..3).map(|_| Client::connect(loopback(0).ip(), listener)).collect();
    waiting.iter().for_each(|client| drop(client.read_to_end()));
    daemon.wait_for_output("Client timed out again and again (rip=127.0.0.1): reason=silent diagnosis=lazy-header (");
    assert!(daemon.output().contains("to on_first_ack, not on_first_ack_with_payload"), "{}", daemon.output());
    assert!(wait_until(PATIENCE, || is_listening(listener)), "and goes on");
}

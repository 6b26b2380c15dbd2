//! The control socket: each verb of `vestibule ctl` on a daemon that relays, and that nobody holds another up there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::needs;
use crate::support::backend::Backend;
use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::{Daemon, vestibule, vestibule_run};
use crate::support::mail::Wire;
use crate::support::process::{Finished, Process};
use crate::support::{PATIENCE, free_port, header, temp_dir, wait_until};

/// A daemon that relays to two servers, and where it is asked.
struct Scene {
    daemon: Daemon,
    servers: [Backend; 2],
    directory: TempDir,
    port: u16,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(|configuration| configuration)
    }

    fn with(change: impl FnOnce(String) -> String) -> Scene {
        let (directory, port) = (temp_dir(), free_port());
        let servers = ["* OK s0\r\n", "* OK s1\r\n"].map(Backend::greeting);
        let configuration = change(configuration(&directory, port, &servers));
        let daemon = Daemon::start(&configuration, &[port]);
        daemon.wait_for_output("is ready");
        Scene { daemon, servers, directory, port }
    }

    fn configuration(&self) -> String {
        configuration(&self.directory, self.port, &self.servers)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// A client with a session that is open.
    fn client(&self, source: &str) -> Wire {
        let source: SocketAddr = source.parse().expect("an address");
        let mut wire = Wire::connect(TRUSTED, loopback(self.port));
        let destination = if source.is_ipv4() { "192.0.2.1:143" } else { "[2001:db8::1]:143" };
        wire.send(&header::v2(source, destination.parse().expect("an address"), &[]));
        wire.expect("* OK s");
        wire
    }

    fn ctl(&self, arguments: &[&str]) -> Finished {
        let socket = self.socket();
        let socket = ["--socket", &*socket.to_string_lossy()];
        vestibule_run(&[&["ctl"], arguments, &socket].concat(), b"")
    }

    /// What it prints when all is well.
    fn said(&self, arguments: &[&str]) -> String {
        let answer = self.ctl(arguments);
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{arguments:?}: {answer:?}");
        answer.stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[arguments, &["--json"]].concat())).expect("one line of JSON")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        stream
    }

    /// Sessions that are open at each server, as `ctl backends` has them.
    fn sessions(&self) -> Vec<u64> {
        let all = self.json(&["backends"]);
        let servers = all[0]["servers"].as_array().expect("servers").iter();
        servers.map(|server| server["sessions"].as_u64().expect("a number")).collect()
    }
}

fn configuration(directory: &TempDir, port: u16, servers: &[Backend; 2]) -> String {
    let directory = directory.path().display();
    let addresses = servers.each_ref().map(|server| server.address);
    format!(
        "haproxy_trusted_networks = 127.0.0.0/29\nrings = 2\nlogin_proxy_max_disconnect_delay = 1 secs\n\
         takeover_socket = {directory}/takeover.sock\ncontrol_socket = {directory}/control.sock\n\
         service imap-login {{\n  worker = relay\n  backend = imap\n  inet_listener imap_in {{\n    \
         address = 127.0.0.1\n    port = {port}\n    haproxy = yes\n  }}\n}}\n{}",
        backend("imap", "check = none\n  slow_start = 0", &addresses)
    )
}

/// Says a line and hears one.
fn ask(stream: &mut UnixStream, request: &str) -> Value {
    stream.write_all(format!("{request}\n").as_bytes()).expect("it listens");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer in time");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[test]
fn sessions_are_shown_found_and_ended() {
    let scene = Scene::new();
    let mode = std::fs::metadata(scene.socket()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut first = scene.client("198.51.100.7:5000");
    let mut second = scene.client("[2001:db8::7]:40239");
    first.say("abc");
    first.expect("abc");
    let all = scene.json(&["who"]);
    assert_eq!((all["sessions"].as_array().map(Vec::len), &all["more"]), (Some(2), &0.into()), "{all}");
    let some = scene.json(&["who", "--client", "198.51.100.0/24", "--backend", "imap"]);
    let session = &some["sessions"][0];
    assert_eq!((some["sessions"].as_array().map(Vec::len), &session["client"]), (Some(1), &"198.51.100.7:5000".into()));
    assert_eq!(
        (&session["bytes-in"], &session["bytes-out"], &session["state"]),
        (&5.into(), &14.into(), &"open".into())
    );
    assert_eq!(scene.json(&["who", "--limit", "1"])["more"], 1);
    assert_eq!(scene.json(&["who", "--server", "s7"])["sessions"], serde_json::json!([]));
    let table = scene.said(&["who", "--client", "2001:db8::/32"]);
    assert!(table.contains("[2001:db8::7]:40239  imap/s") && table.lines().count() == 2, "{table}");
    // By our id, live; and, as Dovecot would have made it a moment later, when it is over.
    let id = session["session"].as_str().expect("text").to_owned();
    let found = scene.json(&["session", &id]);
    assert_eq!((&found["client"], &found["ended-ago"]), (&"198.51.100.7:5000".into(), &Value::Null));
    assert_eq!(scene.said(&["kick", "198.51.100.0/24"]), "1 sessions are ended\n");
    assert_eq!(first.rest(), "");
    let (low, client) = vestibule::relay::SessionId::decode(&id).expect("an id");
    let later = vestibule::relay::SessionId::new(low + 30_000, client);
    assert!(wait_until(PATIENCE, || scene.json(&["session", &format!("<{later}>")])["state"] == "killed"));
    let shown = scene.said(&["session", later.as_str()]);
    assert!(shown.contains("session      ") && shown.contains(&id) && shown.contains(" ago: killed"), "{shown}");
    let unknown = scene.ctl(&["session", "N3eB81dhiBPGM2QH"]);
    assert_eq!(unknown.code, Some(1), "years before: {unknown:?}");
    assert!(unknown.stderr.contains("no session is known of N3eB81dhiBPGM2QH"), "{unknown:?}");
    // One by its id.
    let other = scene.json(&["who"])["sessions"][0]["session"].as_str().expect("text").to_owned();
    assert_eq!(scene.said(&["kick", &other]), "1 sessions are ended\n");
    assert_eq!(second.rest(), "");
    assert_eq!(scene.ctl(&["kick", "nobody"]).code, Some(1));
    let log = scene.daemon.stop();
    assert!(log.contains("imap/s0 ") && log.contains("killed                              2\n"), "{log}");
}

/// `openssl s_client` that waits for a greeting over TLS.
fn openssl(port: u16) -> Process {
    let mut command = std::process::Command::new("openssl");
    command.args(["s_client", "-quiet", "-servername", "mail.test", "-connect"]).arg(loopback(port).to_string());
    let client = Process::start(command);
    client.wait_for_output("* OK s");
    client
}

#[test]
fn sessions_and_refusals_tell_of_tls() {
    needs!("openssl");
    let tls_port = free_port();
    let listener = format!("inet_listener imaps_in {{\n address = 127.0.0.1\n port = {tls_port}\n ssl = yes\n }}\n  ");
    let with_tls = |text: String| text.replace("inet_listener imap_in", &format!("{listener}inet_listener imap_in"));
    let mut scene = Scene::with(with_tls);
    let plain = scene.client("198.51.100.7:5000");
    // The balancer has ended TLS, and its client has shown a certificate.
    let mut conveyed = Wire::connect(TRUSTED, loopback(scene.port));
    let ssl = [&b"\x03\x00\x00\x00\x00\x21\x00\x07TLSv1.2"[..], b"\x22\x00\x04jane"].concat();
    let source: SocketAddr = "198.51.100.8:5000".parse().expect("an address");
    let tlvs: [(u8, &[u8]); 2] = [(0x02, b"imap.test"), (0x20, &ssl)];
    conveyed.send(&header::v2(source, "192.0.2.1:143".parse().expect("an address"), &tlvs));
    conveyed.expect("* OK s");
    let here = openssl(tls_port);
    let tls_of = |arguments: &[&str]| {
        let all = scene.json(&[&["who"], arguments].concat());
        let sessions = all["sessions"].as_array().expect("a list").iter();
        sessions.map(|one| one["tls"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(tls_of(&[]).len(), 3);
    assert_eq!(tls_of(&["--tls", "no"]), [Value::Null]);
    assert_eq!(tls_of(&["--tls", "yes"]).len(), 2);
    let at_peer = serde_json::json!({
        "ends": "peer", "version": "TLSv1.2", "sni": "imap.test", "certificate": true, "certificate-name": "jane"
    });
    assert_eq!(tls_of(&["--sni", "IMAP.test"]), [at_peer]);
    let ended_here = serde_json::json!({
        "ends": "here", "version": "TLSv1.3", "sni": "mail.test", "certificate": false, "certificate-name": null
    });
    assert_eq!(tls_of(&["--sni", "mail.test"]), [ended_here]);
    let table = scene.said(&["who"]);
    assert!(table.contains(" TLSv1.3 mail.test  ") && table.contains(" TLSv1.2 imap.test certificate  "), "{table}");
    let id = scene.json(&["who", "--sni", "imap.test"])["sessions"][0]["session"].as_str().expect("text").to_owned();
    let shown = scene.said(&["session", &id]);
    assert!(shown.contains("tls          TLSv1.2 imap.test certificate of jane, up to the peer\n"), "{shown}");
    // Who is refused: a client of TLS that is banned, and one that speaks none where it has to.
    assert_eq!(scene.said(&["ban", "198.51.100.9"]), "198.51.100.9/32 is banned\n");
    let banned: SocketAddr = "198.51.100.9:5000".parse().expect("an address");
    let bytes = header::v2(banned, "192.0.2.1:143".parse().expect("an address"), &tlvs);
    assert_eq!(Client::send_to(loopback(scene.port), &bytes).read_to_end().0, b"");
    Client::send_to(loopback(tls_port), b"a NOOP\r\n").read_to_end();
    let refused = || scene.json(&["refused"])["refusals"].clone();
    let of = |reason: &str| {
        let all = refused();
        let found = all.as_array().into_iter().flatten().find(|one| one["reason"] == reason);
        found.map(|one| (one["tls"].clone(), one["text"].as_str().unwrap_or_default().to_owned()))
    };
    assert!(wait_until(PATIENCE, || of("tls-failed").is_some()), "{}", refused());
    let (tls, text) = of("tls-failed").expect("it was just there");
    assert_eq!((&tls["ends"], &tls["version"], &tls["certificate"]), (&"here".into(), &Value::Null, &Value::Null));
    assert!(text.starts_with("TLS handshaking failed (rip=127.0.0.1): no TLS: first=a\\x20NOOP"), "{text}");
    assert!(scene.said(&["refused"]).contains(&text), "why it has failed stands below the table");
    let (tls, _) = of("client-banned").expect("it is refused at once");
    assert_eq!((&tls["ends"], &tls["sni"], &tls["certificate"]), (&"peer".into(), &"imap.test".into(), &true.into()));
    // What moves to another process is known by TLS, though not by which.
    let next = Daemon::taking_over(&scene.directory.path().join("takeover.sock"), &with_tls(scene.configuration()));
    next.wait_for_output("is ready");
    drop(here);
    let mut first = std::mem::replace(&mut scene.daemon, next);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    let moved = scene.json(&["who", "--tls", "yes"]);
    let tls = &moved["sessions"][0]["tls"];
    assert_eq!(
        (&tls["ends"], &tls["certificate"], &tls["version"]),
        (&"peer".into(), &true.into(), &Value::Null),
        "{moved}"
    );
    assert_eq!(scene.json(&["who", "--tls", "no"])["sessions"].as_array().map(Vec::len), Some(1));
    // Who is shown so can be ended so.
    assert_eq!(scene.said(&["kick", "--sni", "imap.test", "--tls", "no"]), "0 sessions are ended\n");
    assert_eq!(scene.said(&["kick", "--tls", "yes"]), "1 sessions are ended\n");
    assert_eq!(conveyed.rest(), "");
    assert_eq!(scene.json(&["who"])["sessions"].as_array().map(Vec::len), Some(1));
    drop(plain);
}

#[test]
fn servers_are_shown_and_changed() {
    let scene = Scene::new();
    let mut clients: Vec<Wire> =
        (0..4).map(|number| scene.client(&format!("198.51.100.7:{}", 5000 + number))).collect();
    assert_eq!(scene.sessions(), [2, 2]);
    assert_eq!(scene.said(&["server", "imap/s0", "drain"]), "");
    clients.extend((0..4).map(|number| scene.client(&format!("198.51.100.8:{}", 5000 + number))));
    assert_eq!(scene.sessions(), [2, 6]);
    assert_eq!(scene.said(&["server", "imap/s1", "weight", "7"]), "");
    assert_eq!(scene.said(&["server", "imap/s0", "maint"]), "2 sessions are let go\n");
    assert!(wait_until(PATIENCE, || scene.sessions() == [0, 6]), "{:?}", scene.sessions());
    let table = scene.said(&["backends"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[1][..4].join(" "), rows[2][..4].join(" ")), ("imap/s0 MAINT 1 0".into(), "imap/s1 UP 7 6".into()));
    let all = scene.json(&["backends"]);
    assert_eq!(all[0]["servers"][0]["ends"], serde_json::json!({ "server-down": 2 }), "{all}");
    assert_eq!(all[0]["servers"][0]["bytes-out"], 18, "{all}");
    let stats = scene.json(&["stats"]);
    assert_eq!(
        (&stats["servers"][1]["sessions-total"], &stats["counters"]["proxied"]),
        (&6.into(), &8.into()),
        "{stats}"
    );
    assert_eq!(scene.said(&["server", "imap/s0", "ready"]), "");
    clients.push(scene.client("198.51.100.9:5000"));
    assert_eq!(scene.sessions(), [1, 6]);
    for (arguments, words) in [
        (&["server", "imap/s9", "maint"][..], "backend imap has no server s9"),
        (&["server", "pop3/s0", "maint"], "there is no backend pop3"),
        (&["server", "imap/s0", "weight", "257"], "a weight is 0 to 256"),
        (&["server", "imap", "maint"], "imap is not BACKEND/SERVER"),
        (&["server", "imap/s0", "sleep"], "ready, drain, maint or weight N, not sleep"),
        (&["who", "--client", "here"], "here is no address and no network"),
    ] {
        let answer = scene.ctl(arguments);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""), "{answer:?}");
        assert!(answer.stderr.contains(words), "{answer:?}");
    }
}

#[test]
fn a_server_whose_name_has_no_address_is_not_shown_as_up() {
    let scene = Scene::with(|configuration| {
        let place = |host: &str| format!("server s1 {{\n    address = {host}\n");
        assert!(configuration.contains(&place("127.0.0.1")), "{configuration}");
        configuration.replace(&place("127.0.0.1"), &place("nowhere.invalid"))
    });
    let all = scene.json(&["backends"]);
    let [there, nowhere] = [0, 1].map(|at| &all[0]["servers"][at]);
    assert_eq!((&there["status"], &there["why"]), (&"UP".into(), &"".into()), "{all}");
    assert_eq!((&nowhere["status"], &nowhere["why"]), (&"DOWN".into(), &"its name has no address".into()), "{all}");
}

#[test]
fn the_fullest_server_is_brought_in_balance_and_the_longest_silent_go() {
    let scene = Scene::new();
    assert_eq!(scene.said(&["server", "imap/s1", "drain"]), "");
    let mut clients: Vec<Wire> =
        (0..12).map(|number| scene.client(&format!("198.51.100.7:{}", 5000 + number))).collect();
    assert_eq!(scene.sessions(), [12, 0]);
    assert_eq!(scene.said(&["server", "imap/s1", "ready"]), "");
    // These have said something last.
    for client in &mut clients[..6] {
        client.say("abc");
        client.expect("abc");
    }
    let said = scene.said(&["rebalance", "imap", "--rate", "12"]);
    assert_eq!(said, "6 sessions of imap/s0 are ended within 0.5 s\n");
    assert!(wait_until(PATIENCE, || scene.sessions() == [6, 0]), "{:?}", scene.sessions());
    for client in &mut clients[6..] {
        assert_eq!(client.rest(), "", "it has been silent longest");
    }
    for client in &mut clients[..6] {
        client.say("def");
        client.expect("def");
    }
    // Whose clients come back: nothing is left to do.
    let _back: Vec<Wire> = (0..6).map(|number| scene.client(&format!("198.51.100.8:{}", 5000 + number))).collect();
    assert_eq!(scene.sessions(), [6, 6]);
    assert_eq!(scene.said(&["rebalance", "imap"]), "no server of imap has more sessions than its share\n");
    for (arguments, words) in [
        (&["rebalance", "pop3"][..], "there is no backend pop3"),
        (&["rebalance", "imap", "--rate", "0"], "a rate is 1 to 10000"),
    ] {
        let answer = scene.ctl(arguments);
        assert!(answer.code == Some(1) && answer.stderr.contains(words), "{answer:?}");
    }
}

#[test]
fn a_drain_is_taken_back_and_sessions_that_are_left_go_on() {
    // Each ring lets its first go at once, and the others over the time: long after this is done.
    let scene = Scene::with(|text| text.replace("rings = 2", "rings = 1\ndrain_timeout = 10 mins"));
    let mut clients: Vec<Wire> =
        (0..5).map(|number| scene.client(&format!("198.51.100.7:{}", 5000 + number))).collect();
    let all = || scene.sessions().iter().sum::<u64>();
    let mut works = |client: usize| {
        clients[client].say("abc");
        clients[client].expect("abc");
    };
    assert!(scene.ctl(&["resume"]).stderr.contains("not resumed: it is not draining"));
    works(4);
    scene.daemon.signal(rustix::process::Signal::USR1);
    scene.daemon.wait_for_output("draining for at most");
    let waited = wait_until(PATIENCE, || all() == 4);
    assert!(waited, "{:?}\n{}", scene.sessions(), scene.daemon.output());
    assert!(wait_until(PATIENCE, || std::net::TcpStream::connect(loopback(scene.port)).is_err()));
    assert_eq!(scene.said(&["resume"]), "accepting again; 4 sessions go on\n");
    works(4);
    let _other = scene.client("198.51.100.8:5000");
    assert_eq!(all(), 5);
    // As often as one likes.
    assert_eq!(scene.said(&["drain"]), "draining\n");
    assert!(wait_until(PATIENCE, || all() == 4));
    assert_eq!(scene.said(&["resume"]), "accepting again; 4 sessions go on\n");
    works(4);
    assert_eq!(scene.said(&["reload"]).lines().last(), Some("reloaded"));
    works(4);
}

#[test]
fn a_reload_answers_when_it_is_done_and_the_socket_stays() {
    let scene = Scene::new();
    let mut talking = scene.connect();
    let other = scene.configuration().replace("rings = 2", "rings = 3");
    std::fs::write(scene.daemon.file(), &other).expect("it is ours");
    let said = scene.said(&["reload"]);
    assert!(said.starts_with("warning: rings stays at 2") && said.ends_with("\nreloaded\n"), "{said}");
    std::fs::write(scene.daemon.file(), "nonsense\n").expect("it is ours");
    let refused = scene.ctl(&["reload"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("vestibule.conf") && refused.stderr.contains("line 1"), "{refused:?}");
    scene.client("198.51.100.7:5000");
    assert_eq!(ask(&mut talking, r#"{"verb":"who"}"#)["ok"], true, "the conversation goes on");
    assert_eq!(scene.said(&["drain"]), "draining\n");
    scene.daemon.wait_for_output("drained in");
    assert_eq!(ask(&mut talking, r#"{"verb":"stats"}"#)["stats"]["counters"]["proxied"], 1);
    let late = scene.ctl(&["reload"]);
    assert!(late.code == Some(1) && late.stderr.contains("not reloaded: it is draining"), "{late:?}");
}

#[test]
fn a_ban_holds_at_once_over_a_reload_and_over_a_takeover_until_it_is_lifted() {
    let scene = Scene::new();
    let client = "198.51.100.7:5000";
    let refused = || {
        let source = client.parse().expect("an address");
        let bytes = header::v2(source, "192.0.2.1:143".parse().expect("an address"), &[]);
        Client::send_to(loopback(scene.port), &bytes).read_to_end().0.is_empty()
    };
    drop(scene.client(client));
    assert_eq!(scene.said(&["ban", "198.51.100.0/24", "1h"]), "198.51.100.0/24 is banned\n");
    for _ in 0..4 {
        assert!(refused(), "whichever ring it comes to");
    }
    drop(scene.client("203.0.113.9:5000"));
    assert_eq!(scene.said(&["reload"]), "reloaded\n");
    assert!(refused());
    let bans = scene.json(&["bans"]);
    assert_eq!(bans["bans"][0]["network"], "198.51.100.0/24");
    assert!(bans["bans"][0]["left"].as_f64().is_some_and(|left| 0.0 < left && left <= 3600.0), "{bans}");
    let next = Daemon::taking_over(&scene.directory.path().join("takeover.sock"), &scene.configuration());
    next.wait_for_output("1 bans of the process before stay in force");
    next.wait_for_output("is ready");
    assert!(refused());
    assert_eq!(scene.said(&["unban", "198.51.100.0/24"]), "198.51.100.0/24 is banned no more\n");
    drop(scene.client(client));
    for (arguments, words) in [
        (&["unban", "198.51.100.0/24"][..], "is not banned"),
        (&["ban", "0.0.0.0/0"], "is everybody"),
        (&["ban", "nonsense"], "no address and no network"),
    ] {
        let answer = scene.ctl(arguments);
        assert!(answer.code == Some(1) && answer.stderr.contains(words), "{answer:?}");
    }
}

/// `ctl events` that runs, and what it has printed.
struct Follower(Process);

impl Follower {
    fn new(scene: &Scene, more: &[&str]) -> Follower {
        let mut command = vestibule();
        command.args(["ctl", "events"]).args(more).arg("--socket").arg(scene.socket());
        let follower = Follower(Process::start(command));
        follower.0.wait_for_output("-- process");
        follower
    }
}

#[test]
fn what_happens_can_be_followed_also_over_a_takeover() {
    let mut scene = Scene::new();
    let follower = Follower::new(&scene, &[]);
    let narrow = Follower::new(&scene, &["--kind", "ban", "--json"]);
    drop(Client::send_to(loopback(scene.port), b"GET / HTTP/1.1\r\n\r\n").read_to_end());
    follower.0.wait_for_output("reason=absent");
    assert_eq!(scene.said(&["ban", "203.0.113.7", "1h"]), "203.0.113.7/32 is banned\n");
    assert_eq!(scene.said(&["server", "imap/s1", "drain"]), "");
    assert_eq!(scene.said(&["reload"]), "reloaded\n");
    for words in
        ["ban      vestibule: clients of 203.0.113.7/32", "server imap/s1: drain by", "reload   vestibule: reloaded"]
    {
        follower.0.wait_for_output(words);
    }
    narrow.0.wait_for_output("203.0.113.7/32 are banned");
    let lines = narrow.0.output();
    let told: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!((told.len(), &told[0]["event"], &told[0]["level"]), (1, &"ban".into(), &"info".into()), "{lines}");
    let next = Daemon::taking_over(&scene.directory.path().join("takeover.sock"), &scene.configuration());
    next.wait_for_output("is ready");
    let mut first = std::mem::replace(&mut scene.daemon, next);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    for words in ["has taken over; this one finishes", "has taken over from process"] {
        follower.0.wait_for_output(words);
    }
    assert_eq!(scene.said(&["unban", "203.0.113.7"]), "203.0.113.7/32 is banned no more\n");
    follower.0.wait_for_output("are banned no more");
    // Of the past, once.
    let once = scene.said(&["events", "--once", "--last", "1", "--kind", "ban"]);
    assert_eq!(once.lines().count(), 1, "{once}");
    let wrong = scene.ctl(&["events", "--kind", "gossip"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("gossip is no kind of event"), "{wrong:?}");
}

#[test]
fn the_log_can_be_followed_with_its_sessions() {
    let scene = Scene::new();
    let mut command = vestibule();
    command.args(["ctl", "log", "--last", "1024", "--socket"]).arg(scene.socket());
    let follower = Process::start(command);
    follower.wait_for_output("-- process");
    let client = scene.client("198.51.100.7:5000");
    follower.wait_for_output(" imap-login: Info: relay(imap/s0): Session started (rip=198.51.100.7");
    drop(client);
    follower.wait_for_output(" end=client-closed/");
    drop(Client::send_to(loopback(scene.port), b"GET / HTTP/1.1\r\n\r\n").read_to_end());
    follower.wait_for_output(" imap-login: Error: haproxy: Client disconnected");
    // Who follows events only is spared the sessions, and of the past they are not kept.
    let events = scene.said(&["events", "--once", "--last", "1024"]);
    assert!(events.contains("reason=absent") && !events.contains("relay("), "{events}");
    drop(follower);
    let kept = || scene.said(&["log", "--once", "--last", "1024"]).matches("relay(imap/").count();
    assert!(kept() >= 2, "they have been kept meanwhile");
    let no_more = || {
        let before = kept();
        drop(scene.client("198.51.100.8:5000"));
        kept() == before
    };
    assert!(wait_until(PATIENCE, no_more), "nobody follows any more");
}

#[test]
fn a_follower_that_does_not_read_holds_nobody_up_and_is_told_how_much_it_has_lost() {
    let scene = Scene::new();
    let mut slow = scene.connect();
    slow.write_all(b"{\"verb\":\"events\",\"kinds\":[\"ban\"]}\n").expect("it listens");
    let mut lines = BufReader::new(&slow).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("more").expect("in time")).expect("JSON") };
    assert_eq!(next()["ok"], true);
    let mut talking = scene.connect();
    // More than its buffers hold and the daemon keeps.
    const BANS: usize = 6000;
    for number in 0..BANS {
        let network = format!("10.{}.{}.0/24", number / 256, number % 256);
        assert_eq!(ask(&mut talking, &format!("{{\"verb\":\"ban\",\"network\":\"{network}\"}}"))["ok"], true);
    }
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < BANS as u64 {
        let told = next();
        match told["lost"].as_u64() {
            Some(count) => lost += count,
            None => heard += 1,
        }
    }
    assert!(lost > 0 && heard >= 1024, "{heard} heard, {lost} lost");
    // Eight may follow.
    let _others: Vec<Follower> = (0..7).map(|_| Follower::new(&scene, &[])).collect();
    let refused = scene.ctl(&["events"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("8 others follow already"), "{refused:?}");
    drop(slow);
    assert!(wait_until(PATIENCE, || scene.ctl(&["events", "--once"]).code == Some(0)), "its place is free again");
}

#[test]
fn one_listener_is_drained_and_comes_back_and_its_sessions_and_the_others_go_on() {
    let second = free_port();
    let more = format!(
        "inet_listener imap_in {{\n    address = 127.0.0.1\n    port = {second}\n    haproxy = yes\n  }}\n  inet_listener imap_two {{"
    );
    let scene = Scene::with(|text| text.replace("inet_listener imap_in {", &more));
    // The first has the other port, the one of the scene is the second.
    let mut client = scene.client("198.51.100.7:5000");
    assert_eq!(scene.said(&["drain", "imap-login/imap_two"]), "imap-login/imap_two is drained; its sessions go on\n");
    let closed = || std::net::TcpStream::connect(loopback(scene.port)).is_err();
    assert!(wait_until(PATIENCE, closed), "nobody listens there");
    client.say("abc");
    client.expect("abc");
    assert!(std::net::TcpStream::connect(loopback(second)).is_ok(), "the other one is served");
    assert_eq!(scene.said(&["reload"]).lines().last(), Some("reloaded"));
    assert!(closed(), "a reload leaves it so");
    let stats = scene.json(&["stats"]);
    assert_eq!(stats["drained-listeners"], serde_json::json!(["imap-login/imap_two"]));
    assert!(scene.said(&["stats"]).contains("drained listener         imap-login/imap_two"));
    for (arguments, words) in [
        (&["drain", "imap_two"][..], "is drained already"),
        (&["drain", "imap_in"], "is the only listener that is left"),
        (&["drain", "nobody"], "there is no listener nobody"),
        (&["resume", "imap_in"], "is not drained"),
    ] {
        let answer = scene.ctl(arguments);
        assert!(answer.code == Some(1) && answer.stderr.contains(words), "{answer:?}");
    }
    assert_eq!(scene.said(&["resume", "imap_two"]), "imap-login/imap_two accepts again\n");
    drop(scene.client("198.51.100.8:5000"));
    client.say("def");
    client.expect("def");
    assert_eq!(scene.json(&["stats"])["drained-listeners"], serde_json::json!([]));
}

#[test]
fn sessions_are_ended_by_the_filters_that_show_them() {
    let scene = Scene::new();
    let mut clients: Vec<Wire> = (0..4).map(|number| scene.client(&format!("198.51.100.{number}:5000"))).collect();
    assert_eq!(scene.sessions(), [2, 2]);
    let at_first = scene.json(&["who", "--server", "s0"]);
    let gone = at_first["sessions"].as_array().map(Vec::len).expect("a list");
    assert_eq!(scene.said(&["kick", "--backend", "imap", "--server", "s0"]), format!("{gone} sessions are ended\n"));
    assert!(wait_until(PATIENCE, || scene.sessions() == [0, 2]), "{:?}", scene.sessions());
    assert_eq!(scene.said(&["kick", "--client", "203.0.113.0/24"]), "0 sessions are ended\n");
    assert_eq!(scene.said(&["kick", "--client", "198.51.100.0/24", "--server", "s1"]), "2 sessions are ended\n");
    clients.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
    assert_eq!(scene.ctl(&["kick"]).code, Some(2), "all is more than anybody means");
    let mut stream = scene.connect();
    assert_eq!(ask(&mut stream, r#"{"verb":"kick"}"#)["ok"], false);
    assert_eq!(ask(&mut stream, r#"{"verb":"kick","whom":"198.51.100.1","server":"s0"}"#)["ok"], false);
    assert_eq!(ask(&mut stream, r#"{"verb":"kick","whom":"198.51.100.1","tls":true}"#)["ok"], false);
}

#[test]
fn it_tells_which_configuration_is_in_force_and_what_has_failed_last() {
    let scene = Scene::new();
    let file = scene.daemon.file();
    let first = scene.json(&["stats"]);
    assert_eq!((&first["configuration"]["reloads"], &first["configuration"]["failed"]), (&0.into(), &Value::Null));
    assert_eq!(first["configuration"]["file"], file.to_string_lossy().as_ref());
    assert_eq!(first["pid"], scene.daemon.id());
    std::fs::write(&file, "nonsense\n").expect("it is ours");
    assert_eq!(scene.ctl(&["reload"]).code, Some(1));
    let failed = scene.json(&["stats"]);
    let errors = failed["configuration"]["failed"]["errors"].as_array().expect("errors");
    assert!(errors.iter().any(|error| error.as_str().is_some_and(|text| text.contains("line 1"))), "{failed}");
    let table = scene.said(&["stats"]);
    assert!(table.contains("last reload              failed ") && table.contains(" line 1: "), "{table}");
    assert!(table.contains("configuration            ") && table.contains("in force for"), "{table}");
    std::fs::write(&file, scene.configuration()).expect("it is ours");
    assert_eq!(scene.said(&["reload"]), "reloaded\n");
    let again = scene.json(&["stats"]);
    assert_eq!((&again["configuration"]["reloads"], &again["configuration"]["failed"]), (&1.into(), &Value::Null));
    assert!(scene.said(&["stats"]).contains(", after 1 reload"));
}

#[test]
fn it_tells_who_is_trusted_and_ends_the_daemon() {
    let mut scene = Scene::new();
    let trusted = scene.said(&["trust", "127.0.0.3"]);
    assert!(trusted.contains("imap-login/imap_in") && trusted.contains("127.0.0.0/29"), "{trusted}");
    let at = format!("{} line 1", scene.daemon.file().display());
    assert!(trusted.contains(&at), "{at} is not in {trusted}");
    assert_eq!(scene.said(&["trust", "explain", "127.0.0.3"]), trusted);
    assert_eq!(scene.json(&["trust", "127.0.0.3"])["listeners"][0]["at"], at);
    assert_eq!(scene.ctl(&["trust", "explain", "this", "--json"]).code, Some(1));
    assert_eq!(scene.json(&["trust", "10.0.0.1"])["listeners"][0]["by"], Value::Null);
    assert_eq!(scene.said(&["shutdown"]), "draining, and leaving then\n");
    assert_eq!(scene.daemon.wait(PATIENCE).code(), Some(0));
}

/// How many connections of a network `ctl trust` tells of, and whether it knows when the last one came.
fn brought(scene: &Scene, network: &str) -> (u64, bool) {
    let all = scene.json(&["trust"]);
    let networks = all["listeners"][0]["networks"].as_array().expect("networks");
    let found = networks.iter().find(|one| one["network"] == network).unwrap_or_else(|| panic!("{network} in {all}"));
    (found["connections"].as_u64().expect("a number"), found["last"].is_u64())
}

#[test]
fn it_tells_which_networks_were_used_and_who_came_from_outside_over_a_reload_and_a_takeover() {
    const NETWORKS: &str = "haproxy_trusted_networks = 127.0.0.0/29";
    let more = |text: String| text.replace(NETWORKS, &format!("{NETWORKS} 127.0.0.2 192.0.2.0/24 10.0.0.1"));
    let mut scene = Scene::with(more);
    let from = |host: u8| {
        let client = Client::connect([127, 0, 0, host].into(), loopback(scene.port));
        client.send(&header::local()).expect("it listens");
        client
    };
    let clients: Vec<Client> = [1, 2, 2, 3].map(from).into();
    assert!(wait_until(PATIENCE, || brought(&scene, "127.0.0.0/29").0 + brought(&scene, "127.0.0.2/32").0 == 4));
    assert_eq!(brought(&scene, "127.0.0.2/32"), (2, true), "the longest network counts");
    assert_eq!(brought(&scene, "192.0.2.0/24"), (0, false));
    // From outside: a scanner, and a balancer that nobody has entered.
    for (host, bytes) in [(9, &b""[..]), (10, b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n"), (10, b"")] {
        let client = Client::connect([127, 0, 0, host].into(), loopback(scene.port));
        let _ = client.send(bytes); // it may be gone already
        assert_eq!(client.read_to_end().0, b"");
    }
    let outside = scene.json(&["trust"])["outside"].clone();
    let counted = |host: u8| {
        let network = format!("127.0.0.{host}/32");
        let found = outside.as_array().into_iter().flatten().find(|one| one["network"] == network.as_str());
        found.map(|one| (one["count"].clone(), one["listener"].clone(), one["first"].as_f64() >= one["last"].as_f64()))
    };
    assert_eq!(counted(9), Some((1.into(), "imap_in".into(), true)), "{outside}");
    assert_eq!(counted(10), Some((2.into(), "imap_in".into(), true)), "{outside}");
    let table = scene.said(&["trust"]);
    assert!(
        table.contains("127.0.0.2/32 ") && table.contains("  never  ") && table.contains("127.0.0.10/32 "),
        "{table}"
    );
    let one = scene.said(&["trust", "127.0.0.2"]);
    assert!(one.contains(" 127.0.0.2/32            2 "), "{one}");
    // A reload that takes one network out and keeps the others.
    let other = more(scene.configuration()).replace(" 10.0.0.1", "");
    std::fs::write(scene.daemon.file(), &other).expect("it is ours");
    assert_eq!(scene.said(&["reload"]), "reloaded\n");
    let again = from(2);
    assert!(wait_until(PATIENCE, || brought(&scene, "127.0.0.2/32") == (3, true)), "{}", scene.said(&["trust"]));
    assert!(scene.said(&["trust"]).contains("127.0.0.9/32 "), "who came from outside is remembered");
    assert!(!scene.said(&["trust"]).contains("10.0.0.1/32"));
    let next = Daemon::taking_over(&scene.directory.path().join("takeover.sock"), &other);
    next.wait_for_output("is ready");
    let mut first = std::mem::replace(&mut scene.daemon, next);
    // One that had no server yet has stayed.
    drop((clients, again));
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    scene.daemon.wait_for_output(" has left");
    assert_eq!(brought(&scene, "127.0.0.2/32"), (3, true));
    assert_eq!(brought(&scene, "127.0.0.0/29"), (2, true));
}

#[test]
fn nobody_holds_another_up_also_not_during_a_takeover() {
    let scene = Scene::new();
    let _clients: Vec<Wire> = (0..200).map(|n| scene.client(&format!("198.51.100.7:{}", 5000 + n))).collect();
    let mute = scene.connect();
    let mut garbage = scene.connect();
    garbage.write_all(b"\x16\x03\x01 HTTP\n").expect("it listens");
    let mut slow = scene.connect();
    // Far more answers than fit into its buffers, of which none is read.
    for _ in 0..40 {
        slow.write_all(b"{\"verb\":\"who\"}\n").expect("requests fit");
    }
    // And another process is about to take over.
    let claimant = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    let takeover = scene.directory.path().join("takeover.sock");
    claimant.connect(&SockAddr::unix(takeover).expect("a short path")).expect("it listens");
    claimant.send(b"\x01VESTIBUL\x00\x01").expect("Hello fits");
    scene.daemon.wait_for_output("asks to take over");
    let mut others: Vec<UnixStream> = (0..7).map(|_| scene.connect()).collect();
    let begun = Instant::now();
    for _ in 0..3 {
        for other in &mut others {
            let answer = ask(other, r#"{"verb":"who","limit":3}"#);
            assert_eq!(
                (answer["sessions"].as_array().map(Vec::len), &answer["more"]),
                (Some(3), &197.into()),
                "{answer}"
            );
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut said = String::new();
    garbage.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    garbage.read_to_string(&mut said).expect("it is told and hung up on");
    assert!(said.contains("this is no request"), "{said}");
    // The slow one was not forgotten, nor did it get anything wrong.
    let mut reader = BufReader::new(&slow);
    let mut line = String::new();
    reader.read_line(&mut line).expect("the answers are there");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON")["sessions"].as_array().map(Vec::len), Some(200));
    // Who says too much is told so.
    let mut long = scene.connect();
    long.write_all(&[b' '; 5000]).expect("it fits");
    let mut told = String::new();
    long.read_to_string(&mut told).expect("it is told and hung up on");
    assert!(told.contains("a request has at most 4096 bytes"), "{told}");
    drop((mute, claimant));
}

#[test]
fn after_a_takeover_the_next_process_is_asked() {
    let mut scene = Scene::new();
    let _client = scene.client("198.51.100.7:5000");
    let next = Daemon::taking_over(&scene.directory.path().join("takeover.sock"), &scene.configuration());
    next.wait_for_output("is ready");
    let mut first = std::mem::replace(&mut scene.daemon, next);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    let all = scene.json(&["who"]);
    assert_eq!(all["sessions"][0]["client"], "198.51.100.7:5000", "the session has moved: {all}");
    assert_eq!(scene.json(&["stats"])["counters"]["session-taken"], 1);
    let socket = scene.socket();
    scene.daemon.stop();
    assert!(!socket.exists(), "it takes its file with it");
}

#[test]
fn two_daemons_do_not_share_a_socket() {
    let scene = Scene::new();
    let text = scene.configuration().replace("takeover.sock", "another.sock");
    let file = scene.directory.path().join("second.conf");
    std::fs::write(&file, text).expect("it is ours");
    let second = vestibule_run(&["serve", "-c", &file.to_string_lossy()], b"");
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.stderr.contains("control_socket = ") && second.stderr.contains("another process listens there"),
        "{second:?}"
    );
    assert_eq!(scene.json(&["who"])["ok"], true);
}

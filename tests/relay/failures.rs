//! A backend that is refused, silent, slow, full, killed, restarted, in drain or in maint: what the client sees, and what
//! the log says.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::backend::{Backend, greet_and_echo};
use crate::support::client::{Client, Ending, TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::Daemon;
use crate::support::dovecot::{Dovecot, Service, Terms, Way, missing};
use crate::support::mail::{Imap, Wire};
use crate::support::{PATIENCE, free_port, header, wait_until};
use crate::{needs, needs_root};

/// Each protocol's service, and what it tells a client whom nobody can serve.
const COURTESIES: [(&str, &str); 6] = [
    ("imap-login", "* BYE [UNAVAILABLE] "),
    ("pop3-login", "-ERR [SYS/TEMP] "),
    ("submission-login", "421 4.3.2 "),
    ("lmtp", "421 4.3.2 "),
    ("smtpd", "421 4.3.2 "),
    ("managesieve-login", "BYE (TRYLATER) "),
];

#[test]
fn when_nobody_serves_clients_are_told_in_their_own_words() {
    let (refused, other) = (loopback(free_port()), loopback(free_port()));
    for (service, words) in COURTESIES {
        let tier = Tier::start(service, "", "check = none", &[refused, other]);
        let begun = Instant::now();
        let (said, ending, _) = tier.client().read_to_end();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.starts_with(words) && said.ends_with("\r\n"), "{service}: {said:?}");
        assert_eq!(said.lines().count(), 1, "{service}: {said:?}");
        assert_eq!(ending, Ending::Closed, "{service}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{service}: told after {:?}", begun.elapsed());
        let log = tier.daemon.stop();
        assert!(log.contains(&session_id(&said)), "{service}: the id in {said:?} leads to the log\n{log}");
        assert!(log.contains("end=connect-failed/SC"), "{service}: the log says why\n{log}");
    }
}

#[test]
fn without_a_known_protocol_nothing_is_said() {
    let tier = Tier::start("imaps", "", "check = none", &[loopback(free_port())]);
    let (said, ending, _) = tier.client().read_to_end();
    assert_eq!((said.len(), ending), (0, Ending::Closed));
}

#[test]
fn a_refused_connect_goes_to_the_next_server_at_once() {
    let server = Backend::greeting("* OK here\r\n");
    for servers in [[loopback(free_port()), server.address], [server.address, loopback(free_port())]] {
        let tier = Tier::start("imap-login", "", "check = none\n  balance = roundrobin", &servers);
        for _ in 0..6 {
            let begun = Instant::now();
            tier.wire().expect("* OK here");
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_silent_server_is_given_up_at_the_deadline_of_the_greeting() {
    let silent = Backend::start(|stream, _| greet_and_echo(&stream, ""));
    let tier = Tier::start("imap-login", "login_proxy_timeout = 2 secs", "check = none", &[silent.address]);
    let (said, ending, after) = tier.client().read_to_end();
    assert!(said.starts_with(b"* BYE [UNAVAILABLE] "), "{:?}", String::from_utf8_lossy(&said));
    assert_eq!(ending, Ending::Closed);
    assert!((Duration::from_millis(1900)..Duration::from_secs(4)).contains(&after), "{after:?}");
    assert!(wait_until(PATIENCE, || silent.open() == 0), "the server is left connected");
}

#[test]
fn a_slow_server_is_waited_for() {
    let slow = Backend::start(|stream, _| {
        thread::sleep(Duration::from_secs(2));
        greet_and_echo(&stream, "* OK at last\r\n");
    });
    let tier = Tier::start("imap-login", "login_proxy_timeout = 10 secs", "check = none", &[slow.address]);
    let mut wire = tier.wire();
    wire.expect("* OK at last");
    wire.say("still there");
    wire.expect("still there");
}

#[test]
fn a_server_that_dies_takes_its_clients_over_time_and_others_serve_on() {
    let Some(mut servers) = two_dovecots("") else { return };
    let addresses = servers.each_ref().map(proxied_imap);
    let settings = "check = banner\n  check_interval = 1 secs\n  rise = 1\n  fall = 1\n  slow_start = 0";
    let tier = Tier::start("imap-login", "login_proxy_max_disconnect_delay = 2 secs", settings, &addresses);
    let held: Vec<(bool, Wire)> = (0..20).map(|_| tier.logged_in(&servers)).collect();
    let on_first = held.iter().filter(|(first, _)| *first).count();
    assert_eq!(on_first, 10, "leastconn");
    servers[0].kill();
    let killed = Instant::now();
    let mut ends = Vec::new();
    for (first, mut wire) in held {
        if first {
            wire.rest();
            ends.push(killed.elapsed());
        } else {
            let mut imap = Imap(wire);
            imap.command("n NOOP");
            imap.logout();
        }
    }
    assert!(ends.iter().max() < Some(&Duration::from_secs(4)), "{ends:?}");
    for _ in 0..4 {
        let (first, wire) = tier.logged_in(&servers);
        assert!(!first);
        Imap(wire).logout();
    }
    servers[0].start_again();
    let returned = wait_until(PATIENCE, || {
        let (first, wire) = tier.logged_in(&servers);
        drop(wire);
        first
    });
    assert!(returned, "a server that is back serves again\n{}", tier.daemon.output());
}

#[test]
fn a_newcomer_to_a_full_dovecot_is_served_or_told_why_not() {
    // Two connections that have not logged in are all that it takes at a time.
    let Some([full, _]) =
        two_dovecots("service imap-login {\n  process_limit = 2\n  service_count = 1\n  client_limit = 1\n}\n")
    else {
        return;
    };
    let tier = Tier::start("imap-login", "login_proxy_timeout = 2 secs", "check = none", &[proxied_imap(&full)]);
    let mut held: Vec<Wire> = (0..2).map(|_| tier.wire()).collect();
    held.iter_mut().for_each(|wire| drop(wire.expect("* OK ")));
    // It may make room by ending one of them, sooner or later; the newcomer is served then, or told that nobody is.
    let newcomer = tier.client();
    let _ = newcomer.send(b"a LOGOUT\r\n"); // where it was told first, this may fail
    let said = String::from_utf8_lossy(&newcomer.read_to_end().0).into_owned();
    assert!(said.starts_with("* BYE [UNAVAILABLE] ") || said.contains("a OK"), "{said:?}\n{}", full.log());
}

#[test]
fn a_server_in_drain_keeps_its_sessions_and_gets_no_new_ones() {
    let servers = ["* OK s0\r\n", "* OK s1\r\n"].map(Backend::greeting);
    let addresses = servers.each_ref().map(|server| server.address);
    let tier = Tier::start("imap-login", "", "check = none", &addresses);
    let mut held: Vec<(String, Wire)> = (0..10).map(|_| tier.greeted()).collect();
    tier.reload("", "check = none", &addresses, "state = drain");
    for _ in 0..10 {
        assert_eq!(tier.greeted().0, "* OK s1");
    }
    for (_, wire) in &mut held {
        wire.say("still there");
        wire.expect("still there");
    }
}

#[test]
fn a_server_in_maint_lets_its_sessions_go() {
    let servers = ["* OK s0\r\n", "* OK s1\r\n"].map(Backend::greeting);
    let addresses = servers.each_ref().map(|server| server.address);
    let globals = "login_proxy_max_disconnect_delay = 2 secs";
    let tier = Tier::start("imap-login", globals, "check = none", &addresses);
    let held: Vec<(String, Wire)> = (0..10).map(|_| tier.greeted()).collect();
    tier.reload(globals, "check = none", &addresses, "state = maint");
    for (greeting, mut wire) in held {
        if greeting == "* OK s0" {
            assert_eq!(wire.rest(), "");
        } else {
            wire.say("still there");
            wire.expect("still there");
        }
    }
    assert!(wait_until(PATIENCE, || servers[0].open() == 0), "{} stay", servers[0].open());
    assert_eq!(tier.greeted().0, "* OK s1");
}

#[test]
fn a_server_that_is_down_is_not_tried_and_its_return_is_noticed() {
    let away = loopback(free_port());
    let settings = "check = banner\n  check_interval = 1 secs\n  rise = 2\n  fall = 2";
    let tier = Tier::start("imap-login", "", settings, &[away]);
    assert!(tier.client().read_to_end().0.starts_with(b"* BYE [UNAVAILABLE] "));
    let _back = Backend::start_at(away, |stream, _| greet_and_echo(&stream, "* OK back\r\n"));
    let serves = wait_until(PATIENCE, || {
        let mut wire = tier.wire();
        wire.line().starts_with("* OK back")
    });
    assert!(serves, "{}", tier.daemon.output());
}

#[test]
fn when_source_ports_run_out_clients_are_told_and_others_stay() {
    needs!("unshare", "ip");
    needs_root!();
    const PORTS: usize = 20;
    let [port, server_port] = [free_port(), free_port()];
    let server = loopback(server_port);
    let text = configuration("imap-login", port, "", "check = none", &[server], "")
        .replace(&format!("    address = 127.0.0.1\n    port = {port}\n"), &format!("    port = {port}\n"));
    let inside = "ip link set lo up && echo 40000 40019 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"";
    let daemon = Daemon::start_under(&["unshare", "--net", "sh", "-c", inside, "sh"], &text, &[port]);
    let space = File::open(format!("/proc/{}/ns/net", daemon.id())).expect("the daemon runs");
    // A thread of its own, which does not come back from there.
    let told = thread::spawn(move || {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
        let server = Backend::start_at(server, |stream, _| greet_and_echo(&stream, "* OK here\r\n"));
        // Of the same ports the clients take one each, too, which serves once for every address that they connect to.
        let connect = |to: u8| {
            let mut wire = Wire::connect(TRUSTED, ([127, 0, 0, to], port).into());
            wire.send(&tier_header());
            wire
        };
        let mut held: Vec<Wire> = (0..PORTS).map(|_| connect(1)).collect();
        held.iter_mut().for_each(|wire| drop(wire.expect("* OK here")));
        let told = connect(2).line();
        for wire in &mut held {
            wire.say("still there");
            wire.expect("still there");
        }
        drop(server);
        told
    });
    let told = told.join().unwrap_or_else(|_| panic!("{}", daemon.output()));
    assert!(told.starts_with("* BYE [UNAVAILABLE] "), "{told:?}\n{}", daemon.output());
    daemon.wait_for_output("end=no-resources/RC");
}

/// A daemon with one relaying service and its backend.
struct Tier {
    daemon: Daemon,
    service: String,
    port: u16,
}

impl Tier {
    fn start(service: &str, globals: &str, settings: &str, servers: &[SocketAddr]) -> Tier {
        let port = free_port();
        let daemon = Daemon::start(&configuration(service, port, globals, settings, servers, ""), &[port]);
        Tier { daemon, service: service.to_owned(), port }
    }

    /// Puts `first` into the first server's section and has the file read again.
    fn reload(&self, globals: &str, settings: &str, servers: &[SocketAddr], first: &str) {
        let text = configuration(&self.service, self.port, globals, settings, servers, first);
        std::fs::write(self.daemon.file(), text).expect("it is ours");
        let reloads = || self.daemon.output().matches("reload").count();
        let before = reloads();
        self.daemon.signal(Signal::HUP);
        assert!(wait_until(PATIENCE, || reloads() > before), "{}", self.daemon.output());
        thread::sleep(Duration::from_millis(300));
    }

    /// A client whose header is sent.
    fn client(&self) -> Client {
        Client::send_to(loopback(self.port), &tier_header())
    }

    /// The same, to be read by lines.
    fn wire(&self) -> Wire {
        let mut wire = Wire::connect(TRUSTED, loopback(self.port));
        wire.send(&tier_header());
        wire
    }

    fn greeted(&self) -> (String, Wire) {
        let mut wire = self.wire();
        (wire.expect("* OK "), wire)
    }

    /// A session that has logged in, and whether it is the first server's.
    fn logged_in(&self, servers: &[Dovecot; 2]) -> (bool, Wire) {
        let user = format!("u{}", fastrand::u32(..));
        let imap = Imap::new(self.wire()).login(&user);
        let words = format!("user=<{user}>");
        let has = |server: &Dovecot| server.log().contains(&words);
        assert!(wait_until(PATIENCE, || servers.iter().any(has)), "neither log names {user}");
        (has(&servers[0]), imap.0)
    }
}

fn configuration(
    service: &str,
    port: u16,
    globals: &str,
    settings: &str,
    servers: &[SocketAddr],
    first: &str,
) -> String {
    let backend =
        backend("b", settings, servers).replacen("  server s0 {\n", &format!("  server s0 {{\n    {first}\n"), 1);
    format!(
        "haproxy_trusted_networks = 127.0.0.0/29\n{globals}\n\
         service {service} {{\n  worker = relay\n  backend = b\n  inet_listener in {{\n    address = 127.0.0.1\n    \
         port = {port}\n    haproxy = yes\n  }}\n}}\n{backend}"
    )
}

fn tier_header() -> Vec<u8> {
    header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[])
}

/// The id that stands in brackets at the end of what a client is told.
fn session_id(said: &str) -> String {
    let id = said.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(id, _)| id.to_owned());
    id.unwrap_or_else(|| panic!("no session id in {said:?}"))
}

fn proxied_imap(dovecot: &Dovecot) -> SocketAddr {
    dovecot.address(Service::Imap, Way::Proxied)
}

/// `None`, and a skipped test, where something is not installed.
fn two_dovecots(more: &str) -> Option<[Dovecot; 2]> {
    if let Some(what) = missing().or_else(|| (!rustix::process::geteuid().is_root()).then_some("root")) {
        crate::support::record_skip(what);
        return None;
    }
    let start = || Dovecot::start(&Terms { more, ..Terms::default() });
    Some([start(), start()])
}

//! A backend that is refused, silent, slow, full, killed, restarted, in drain or in maint: what the client sees, and what
//! the log says.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::tier::{Tier, configuration, proxied_imap, tier_header, two_dovecots};
use crate::support::backend::{Backend, greet_and_echo};
use crate::support::client::{Ending, TRUSTED, loopback};
use crate::support::daemon::Daemon;
use crate::support::mail::{Imap, Wire};
use crate::support::{PATIENCE, free_port, wait_until};
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
        // The id leads to the line that says why.
        let line = tier.line(&[&session_id(&said), "end=connect-failed/SC"]);
        assert!(line.contains("No server accepts the connection") && line.contains("retries=1"), "{service}: {line}");
    }
}

#[test]
fn the_words_of_goodbye_and_the_end_come_in_one_segment() {
    needs!("unshare", "ip");
    needs_root!();
    for (service, words) in COURTESIES {
        let [port, refused] = [free_port(), free_port()];
        let text = configuration(service, port, "", "check = none", &[loopback(refused)], "");
        // A network of its own: no other packets are there.
        let inside = "ip link set lo up && exec \"$@\"";
        let daemon = Daemon::start_under(&["unshare", "--net", "sh", "-c", inside, "sh"], &text, &[port]);
        let segments = in_network_of(&daemon, move || {
            let packets = packet_socket();
            let mut wire = Wire::connect(TRUSTED, loopback(port));
            wire.send(&tier_header());
            wire.rest();
            segments_from(&packets, port)
        });
        let told: Vec<&(bool, Vec<u8>)> = segments.iter().filter(|(_, payload)| !payload.is_empty()).collect();
        assert_eq!(told.len(), 1, "{service}: one segment has bytes: {segments:?}");
        assert!(told[0].1.starts_with(words.as_bytes()), "{service}: {told:?}");
        assert!(told[0].0, "{service}: the end comes with them: {segments:?}");
    }
}

/// Does something in a daemon's network, on a thread of its own, which does not come back from there.
fn in_network_of<T: Send + 'static>(daemon: &Daemon, act: impl FnOnce() -> T + Send + 'static) -> T {
    let space = File::open(format!("/proc/{}/ns/net", daemon.id())).expect("the daemon runs");
    let acting = thread::spawn(move || {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
        act()
    });
    acting.join().unwrap_or_else(|_| panic!("{}", daemon.output()))
}

/// Sees every packet of IPv4 that this network's interfaces receive.
fn packet_socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::IP)).expect("root may look at packets")
}

/// What was sent from a port: for each segment whether it ends the stream, and its bytes. In order; complete once the stream's
/// end was read.
fn segments_from(packets: &OwnedFd, port: u16) -> Vec<(bool, Vec<u8>)> {
    const ETHERNET: usize = 14;
    const FIN: u8 = 1;
    let mut frame = vec![0; 65_536];
    let mut segments = Vec::new();
    while let Ok((length, _)) = recv(packets, &mut frame[..], RecvFlags::empty()) {
        let packet = &frame[ETHERNET..length];
        let ip_header = usize::from(packet[0] & 15) * 4;
        let whole = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let segment = &packet[ip_header..whole];
        let header = usize::from(segment[12] >> 4) * 4;
        if u16::from_be_bytes([segment[0], segment[1]]) == port {
            segments.push((segment[13] & FIN != 0, segment[header..].to_vec()));
        }
    }
    segments
}

#[test]
fn without_a_known_protocol_nothing_is_said() {
    let tier = Tier::start("imaps", "", "check = none", &[loopback(free_port())]);
    let (said, ending, _) = tier.client().read_to_end();
    assert_eq!((said.len(), ending), (0, Ending::Closed));
    tier.line(&["relay(b/-): No server accepts the connection", "end=connect-failed/SC"]);
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
        // Whoever met the one that refuses is served by the other, and its lines say that it was the second try.
        let good = if servers[0] == server.address { "relay(b/s0)" } else { "relay(b/s1)" };
        tier.line(&[good, "Session started", "retries=1"]);
        tier.line(&[good, "retries=1", "end=client-"]);
        assert_eq!(tier.lines(&["end=connect-failed"]), 0, "{}", tier.daemon.output());
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
    tier.line(&["relay(b/s0): Server does not greet", "out=0", "end=greeting-timeout/sD"]);
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
    drop(wire);
    let line = tier.line(&["relay(b/s0): ", "end=client-"]);
    let banner = line.split("banner=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(banner.is_some_and(|seconds: f64| seconds >= 1.9), "how long it was waited for: {line}");
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
    // The end of one that has just spoken could as well be a goodbye.
    thread::sleep(Duration::from_millis(600));
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
    // Each of its sessions says so, whether the server's end came first or the check that found it dead.
    let told = |end: &str| tier.lines(&["relay(b/s0)", end]);
    let lost = || told("end=server-left/SD") + told("end=server-reset/SD") + told("end=server-down/DD");
    assert!(wait_until(PATIENCE, || lost() == 10), "{} of 10 are told\n{}", lost(), tier.daemon.output());
    tier.line(&["backend b: server s0 is down: "]);
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
    tier.line(&["backend b: server s0 is up again"]);
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
    drop(newcomer);
    assert!(said.starts_with("* BYE [UNAVAILABLE] ") || said.contains("a OK"), "{said:?}\n{}", full.log());
    let log = tier.daemon.output();
    if said.contains("a OK") {
        tier.line(&["relay(b/s0): ", "end="]);
    } else {
        let line = tier.line(&[&session_id(&said), "end="]);
        let why = ["end=greeting-timeout/sD", "end=no-greeting/SD"];
        assert!(why.iter().any(|end| line.contains(end)), "{line}\n{log}");
    }
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
    assert_eq!(tier.lines(&["relay(b/s0)", "end="]), 0, "{}", tier.daemon.output());
    let of_first = held.iter().filter(|(greeting, _)| greeting == "* OK s0").count();
    drop(held);
    let ended = || tier.lines(&["relay(b/s0)", "end=client-"]);
    assert!(wait_until(PATIENCE, || ended() == of_first), "{} of {of_first} have ended by themselves", ended());
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
    tier.line(&["backend b: server s0 is in maintenance: its sessions (5) are let go within 2 s"]);
    let told = || tier.lines(&["relay(b/s0): Server is down", "end=server-down/DD"]);
    assert!(wait_until(PATIENCE, || told() == 5), "{} of 5 are told\n{}", told(), tier.daemon.output());
}

#[test]
fn a_server_that_is_down_is_not_tried_and_its_return_is_noticed() {
    let away = loopback(free_port());
    let settings = "check = banner\n  check_interval = 1 secs\n  rise = 2\n  fall = 2";
    let tier = Tier::start("imap-login", "", settings, &[away]);
    tier.line(&["backend b: server s0 is down: connection refused"]);
    tier.line(&["backend b: no server is left, so clients are told that nobody can serve them"]);
    let said = String::from_utf8_lossy(&tier.client().read_to_end().0).into_owned();
    assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said:?}");
    tier.line(&["relay(b/-): No server is available", &session_id(&said), "end=no-server/SC"]);
    let _back = Backend::start_at(away, |stream, _| greet_and_echo(&stream, "* OK back\r\n"));
    let serves = wait_until(PATIENCE, || {
        let mut wire = tier.wire();
        wire.line().starts_with("* OK back")
    });
    assert!(serves, "{}", tier.daemon.output());
    tier.line(&["backend b: server s0 is up again"]);
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
    let told = in_network_of(&daemon, move || {
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
    assert!(told.starts_with("* BYE [UNAVAILABLE] "), "{told:?}\n{}", daemon.output());
    daemon.wait_for_output("end=no-resources/RC");
    daemon.wait_for_output(&format!("backend b: no source port is left towards {server}: add addresses"));
    assert!(!daemon.output().contains("is down"), "it is no fault of the server's\n{}", daemon.output());
}

/// The id that stands in brackets at the end of what a client is told.
fn session_id(said: &str) -> String {
    let id = said.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(id, _)| id.to_owned());
    id.unwrap_or_else(|| panic!("no session id in {said:?}"))
}

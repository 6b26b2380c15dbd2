//! How a backend learns who the client is: its own log names the client's address and port in every mode, whoever has
//! sent the header to us, and nothing that the client says changes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::support::backend::{Backend, greet_and_echo};
use crate::support::client::{TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::{Daemon, counted};
use crate::support::debian13::debian13;
use crate::support::dovecot::{Dovecot, Service, Terms, Way, missing};
use crate::support::free_port;
use crate::support::header::{v1, v2};
use crate::support::mail::{Imap, Pop3, Sieve, Smtp, Wire, message};
use crate::support::peers::{haproxy_at, haproxy_in};
use crate::support::postfix::{Postfix, Sink};
use crate::support::process::run;
use crate::{needs, needs_root};

const CLIENT4: &str = "198.51.100.7:5000";
const CLIENT6: &str = "[2001:db8::7]:40239";
const DESTINATION4: &str = "192.0.2.1:143";
const DESTINATION6: &str = "[2001:db8:1::1]:143";

/// Every service of Dovecot with every mode that it knows.
const MODES: [(Service, &str); 15] = [
    (Service::Imap, "proxy-v2"),
    (Service::Imap, "proxy-v1"),
    (Service::Imap, "imap-id"),
    (Service::Pop3, "proxy-v2"),
    (Service::Pop3, "proxy-v1"),
    (Service::Pop3, "xclient"),
    (Service::Submission, "proxy-v2"),
    (Service::Submission, "proxy-v1"),
    (Service::Submission, "xclient"),
    (Service::Sieve, "proxy-v2"),
    (Service::Sieve, "proxy-v1"),
    (Service::Sieve, "xclient"),
    (Service::Lmtp, "proxy-v2"),
    (Service::Lmtp, "proxy-v1"),
    (Service::Lmtp, "xclient"),
];

#[test]
fn dovecots_log_names_the_client_in_every_mode() {
    if let Some(tier) = Tier::start() {
        assert_named_in_every_mode(&tier);
    }
}

#[test]
fn dovecot_2_4s_log_names_the_client_in_every_mode() {
    needs!("smtp-sink");
    if let Some(root) = debian13() {
        assert_named_in_every_mode(&Tier::with(Some(root)));
    }
}

fn assert_named_in_every_mode(tier: &Tier) {
    for (number, (service, mode)) in MODES.into_iter().enumerate() {
        for (family, client, destination) in [(4, CLIENT4, DESTINATION4), (6, CLIENT6, DESTINATION6)] {
            for version in [1, 2] {
                let user = format!("u{number}v{version}f{family}");
                let mut wire = Wire::connect(TRUSTED, tier.address(service, mode));
                wire.send(&header(version, address(client), address(destination)));
                serve(service, wire, &user);
                tier.assert_named(service, &user, address(client));
                if mode.starts_with("proxy") && service != Service::Lmtp {
                    let lip = format!("lip={},", address(destination).ip());
                    tier.dovecot.wait_for_line(&[&format!("user=<{user}>"), &lip]);
                }
            }
        }
    }
}

#[test]
fn a_plain_listeners_clients_are_named_by_their_sockets() {
    let Some(tier) = Tier::start() else { return };
    for (number, (service, mode)) in MODES.into_iter().enumerate() {
        let user = format!("p{number}");
        let wire = Wire::connect(OTHER, tier.plain(service, mode));
        let client = wire.local();
        serve(service, wire, &user);
        tier.assert_named(service, &user, client);
    }
}

#[test]
fn haproxy_conveys_the_client_by_both_versions_and_families() {
    needs!("haproxy");
    let Some(tier) = Tier::start() else { return };
    let server = tier.address(Service::Imap, "proxy-v2");
    let server6 = SocketAddr::from((Ipv6Addr::LOCALHOST, server.port()));
    let front = loopback(free_port());
    let fronts = [front, (Ipv6Addr::LOCALHOST, front.port()).into(), loopback(free_port())];
    let front6v1 = SocketAddr::from((Ipv6Addr::LOCALHOST, fronts[2].port()));
    let listen = |name, bind: SocketAddr, server: SocketAddr, option| {
        format!("listen {name}\n  bind {bind}\n  server s1 {server} {option}\n")
    };
    let text = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n".to_owned()
        + &listen("v2", fronts[0], server, "send-proxy-v2")
        + &listen("v2six", fronts[1], server6, "send-proxy-v2")
        + &listen("v1", fronts[2], server, "send-proxy")
        + &listen("v1six", front6v1, server6, "send-proxy");
    let _balancer = haproxy_at(&text, vec![fronts[0], fronts[2]]);
    for (number, front) in [fronts[0], fronts[1], fronts[2], front6v1].into_iter().enumerate() {
        let user = format!("h{number}");
        let from = if front.is_ipv4() { OTHER } else { Ipv6Addr::LOCALHOST.into() };
        let wire = Wire::connect(from, front);
        let client = wire.local();
        serve(Service::Imap, wire, &user);
        tier.assert_named(Service::Imap, &user, client);
    }
}

#[test]
fn haproxy_3_0_and_dovecot_2_4_meet_over_the_relay_and_its_checks_are_probes() {
    needs!("smtp-sink");
    let Some(root) = debian13() else { return };
    let tier = Tier::with(Some(root));
    let server = tier.address(Service::Imap, "proxy-v2");
    let fronts = [loopback(free_port()), loopback(free_port())];
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen v2\n  bind {}\n  server s1 {server} send-proxy-v2 check inter 200ms\n\
         listen v1\n  bind {}\n  server s1 {server} send-proxy\n",
        fronts[0], fronts[1]
    );
    let balancer = haproxy_in(root, &text, fronts.into());
    for (number, front) in fronts.into_iter().enumerate() {
        let user = format!("h3v{number}");
        let wire = Wire::connect(OTHER, front);
        let client = wire.local();
        serve(Service::Imap, wire, &user);
        tier.assert_named(Service::Imap, &user, client);
    }
    // Its checks say LOCAL and go: servers do not hear of them.
    std::thread::sleep(std::time::Duration::from_secs(2));
    drop(balancer);
    let log = tier.stop();
    let checks = ["probe", "reset-early"].map(|name| counted(&log, name).unwrap_or_default()).iter().sum::<u64>();
    assert!(checks >= 2, "{log}");
    // One that was held up for longer than a session is doubted may have come through.
    let came_through = log.matches("Session started (rip=127.0.0.1,").count() as u64;
    assert!(came_through * 10 <= checks, "{log}");
}

#[test]
fn a_silent_local_connection_is_doubted_and_then_served_as_the_balancers_own() {
    let (to, sources) = std::sync::mpsc::channel();
    let server = Backend::start(move |stream, source| {
        to.send(source).ok();
        greet_and_echo(&stream, "* OK here\r\n");
    });
    let port = free_port();
    let text = format!(
        "haproxy_trusted_networks = 127.0.0.1\n{}{}",
        service("imap", "imap", &format!("    port = {port}\n    haproxy = yes\n")),
        backend("imap", "check = none", &[server.address])
    );
    let daemon = Daemon::start(&text, &[port]);
    let mut wire = Wire::connect(TRUSTED, loopback(port));
    let mut local = v2(address(CLIENT4), address(DESTINATION4), &[])[..16].to_vec();
    (local[12], local[13], local[14], local[15]) = (0x20, 0, 0, 0);
    wire.send(&local);
    wire.expect("* OK here");
    // The server is told PROXY and the connection's own addresses: LOCAL would be this host's own.
    let source = sources.recv().expect("it was served");
    assert_eq!(source, Some(wire.local()));
    drop(wire);
    daemon.wait_for_output("end=client-");
    let log = daemon.output();
    let waited = log.split("wait=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(waited.is_some_and(|seconds: f64| seconds >= 0.05), "{log}");
}

#[test]
fn curl_sends_its_own_header_and_logs_in() {
    needs!("curl");
    let Some(tier) = Tier::start() else { return };
    for (service, scheme) in [(Service::Imap, "imap"), (Service::Pop3, "pop3")] {
        for (host, interface) in [("127.0.0.1", "127.0.0.3"), ("[::1]", "::1")] {
            let port = tier.address(service, "proxy-v2").port();
            let user = format!("c{scheme}{}", interface.len());
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-m", "10", "--haproxy-protocol", "--interface", interface]);
            curl.args(["-u", &format!("{user}:pw"), &format!("{scheme}://{host}:{port}/")]);
            let finished = run(curl, b"");
            assert_eq!(finished.code, Some(0), "{finished:?}");
            tier.dovecot.wait_for_line(&[&format!("user=<{user}>"), &format!("rip={interface},")]);
        }
    }
}

#[test]
fn swaks_conveys_the_client_by_both_versions_and_families() {
    needs!("swaks");
    let Some(tier) = Tier::start() else { return };
    let cases = [
        ("1", "TCP4", CLIENT4, DESTINATION4),
        ("1", "TCP6", CLIENT6, DESTINATION6),
        ("2", "AF_INET", CLIENT4, DESTINATION4),
        ("2", "AF_INET6", CLIENT6, DESTINATION6),
    ];
    for (version, family, client, destination) in cases {
        let (client, destination) = (address(client), address(destination));
        for mode in ["proxy-v2", "xclient"] {
            let user = format!("s{version}{family}{mode}");
            let mut swaks = Command::new("swaks");
            swaks.args(["--server", &tier.address(Service::Submission, mode).to_string(), "--timeout", "10"]);
            swaks.args(["--auth", "PLAIN", "--auth-user", &user, "--auth-password", "pw", "--quit-after", "auth"]);
            swaks.args(["--proxy-version", version, "--proxy-family", family]);
            if version == "2" {
                swaks.args(["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"]);
            }
            swaks.args(["--proxy-source", &client.ip().to_string()]);
            swaks.args(["--proxy-source-port", &client.port().to_string()]);
            swaks.args(["--proxy-dest", &destination.ip().to_string()]);
            swaks.args(["--proxy-dest-port", &destination.port().to_string()]);
            let finished = run(swaks, b"");
            assert_eq!(finished.code, Some(0), "{finished:?}");
            let user = user.to_lowercase();
            tier.assert_named(Service::Submission, &user, client);
        }
    }
}

#[test]
fn postfixs_log_names_the_client_in_every_mode() {
    needs!("postfix");
    needs_root!();
    assert_postfix_names_the_client(&Postfix::start());
}

#[test]
fn postfix_3_10s_log_names_the_client_in_every_mode() {
    let Some(root) = debian13() else { return };
    let postfix = Postfix::start_in(root);
    assert!(postfix.log().contains("version 3.10"), "{}", postfix.log());
    assert_postfix_names_the_client(&postfix);
    assert!(!postfix.log().contains("improper command pipelining"), "{}", postfix.log());
}

fn assert_postfix_names_the_client(postfix: &Postfix) {
    let modes = [
        ("proxy-v2", postfix.proxied),
        ("proxy-v1", postfix.proxied),
        ("xclient", postfix.plain),
        ("proxy-v2", postfix.screened),
    ];
    let ports = modes.map(|_| free_port());
    let mut text = "haproxy_trusted_networks = 127.0.0.1\n".to_owned();
    for (number, ((mode, server), port)) in modes.into_iter().zip(ports).enumerate() {
        let name = format!("smtp{number}");
        text += &service(&name, "smtp", &format!("    port = {port}\n    haproxy = yes\n"));
        text += &backend(&name, &format!("target = postfix\n  forward = {mode}\n  check = none"), &[server]);
    }
    let _daemon = Daemon::start(&text, &ports);
    for (number, port) in ports.into_iter().enumerate() {
        for (family, destination) in [(4, DESTINATION4), (6, DESTINATION6)] {
            let client = match family {
                4 => SocketAddr::from(([198, 51, 100, number as u8 + 1], 5000)),
                _ => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16 + 1), 5000)),
            };
            let mut wire = Wire::connect(TRUSTED, loopback(port));
            wire.send(&header(2, client, address(destination)));
            let mut smtp = Smtp::new(wire);
            smtp.deliver("b@mail.test", &message(10_000));
            smtp.quit();
            postfix.wait_for(&format!("client=unknown[{}]", client.ip()));
            if number == 3 {
                postfix.wait_for(&format!("CONNECT from [{}]:{}", client.ip(), client.port()));
            }
        }
    }
}

#[test]
fn a_client_cannot_speak_in_the_tiers_name() {
    let Some(tier) = Tier::start() else { return };
    let client = address(CLIENT4);
    let begin = |service, mode| {
        let mut wire = Wire::connect(TRUSTED, tier.address(service, mode));
        wire.send(&header(2, client, address(DESTINATION4)));
        wire
    };
    // A session for each: Dovecot ends one in which three commands were unknown.
    let lines = ["XCLIENT ADDR=203.0.113.66 PORT=66", "xclient ADDR=203.0.113.66", "XOIP 203.0.113.66", "STLS"];
    for (number, line) in lines.into_iter().enumerate() {
        let mut pop3 = Pop3::new(begin(Service::Pop3, "xclient"));
        say_in_two(&mut pop3.0, line);
        pop3.0.expect("-ERR");
        let user = format!("liar{number}");
        pop3.login(&user).quit();
        tier.assert_named(Service::Pop3, &user, client);
    }

    let mut submission = Smtp::new(begin(Service::Submission, "xclient"));
    for hidden in ["XCLIENT", "STARTTLS"] {
        assert!(!submission.capabilities.iter().any(|line| line.contains(hidden)), "{:?}", submission.capabilities);
    }
    for line in ["XCLIENT ADDR=203.0.113.66 PORT=66", "STARTTLS"] {
        say_in_two(&mut submission.wire, line);
        submission.wire.expect("50"); // the server's own word for what it does not know
    }
    submission.login("liar").quit();
    tier.assert_named(Service::Submission, "liar", client);

    let mut sieve = Sieve::new(begin(Service::Sieve, "xclient"));
    for hidden in ["XCLIENT", "STARTTLS"] {
        assert!(!sieve.capabilities.iter().any(|line| line.contains(hidden)), "{:?}", sieve.capabilities);
    }
    for line in ["XCLIENT ADDR=203.0.113.66 PORT=66", "STARTTLS"] {
        say_in_two(&mut sieve.wire, line);
        sieve.wire.expect("NO");
    }
    sieve.login("liar").logout();
    tier.assert_named(Service::Sieve, "liar", client);

    let mut lmtp = Smtp::lmtp(begin(Service::Lmtp, "xclient"));
    say_in_two(&mut lmtp.wire, "XCLIENT ADDR=203.0.113.66 PORT=66");
    lmtp.wire.expect("50");
    lmtp.deliver("liar", &message(1000));
    lmtp.quit();

    let mut imap = Imap::new(begin(Service::Imap, "imap-id"));
    imap.command("x ID (\"x-originating-ip\" \"203.0.113.66\" \"x-originating-port\" \"66\")");
    imap.login("liar").logout();
    tier.assert_named(Service::Imap, "liar", client);
    assert!(!tier.dovecot.log().contains("203.0.113.66"), "{}", tier.dovecot.log());
}

/// A Dovecot that believes this host, and a daemon with a service for every one of [`MODES`].
struct Tier {
    dovecot: Dovecot,
    _sink: Sink,
    daemon: Daemon,
    /// For each mode: a haproxy listener and a plain one.
    ports: [[u16; 2]; MODES.len()],
}

/// A client that nobody trusts.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

impl Tier {
    /// `None`, and a skipped test, where something is not installed.
    fn start() -> Option<Tier> {
        if let Some(what) = missing().or_else(|| (!rustix::process::geteuid().is_root()).then_some("root")) {
            crate::support::record_skip(what);
            return None;
        }
        Some(Tier::with(None))
    }

    /// With this machine's Dovecot, or one that lies in a folder.
    fn with(root: Option<&Path>) -> Tier {
        let sink = Sink::start();
        let terms = Terms { logins: "127.0.0.1", relay: Some(sink.address), root, ..Terms::default() };
        let dovecot = Dovecot::start(&terms);
        let ports = MODES.map(|_| [free_port(), free_port()]);
        let mut text = "haproxy_trusted_networks = 127.0.0.0/29 ::1\n".to_owned();
        for (number, ((what, mode), [proxied, plain])) in MODES.into_iter().zip(ports).enumerate() {
            let name = format!("m{number}");
            let way = if mode.starts_with("proxy") { Way::Proxied } else { Way::Plain };
            let listeners = format!(
                "    port = {proxied}\n    haproxy = yes\n  }}\n  inet_listener {name}_plain {{\n    \
                                     address = 127.0.0.1\n    port = {plain}\n"
            );
            text += &service(&name, what.names().1[0], &listeners);
            let settings = format!("target = dovecot\n  forward = {mode}\n  check = none");
            text += &backend(&name, &settings, &[dovecot.address(what, way)]);
        }
        let all: Vec<u16> = ports.into_iter().flatten().collect();
        Tier { dovecot, _sink: sink, daemon: Daemon::start(&text, &all), ports }
    }

    fn address(&self, service: Service, mode: &str) -> SocketAddr {
        loopback(self.ports[mode_number(service, mode)][0])
    }

    /// Ends the daemon; everything it wrote.
    fn stop(self) -> String {
        self.daemon.stop()
    }

    fn plain(&self, service: Service, mode: &str) -> SocketAddr {
        loopback(self.ports[mode_number(service, mode)][1])
    }

    /// Waits for the line of Dovecot's log that names user and client.
    fn assert_named(&self, service: Service, user: &str, client: SocketAddr) {
        match service {
            // LMTP's log has neither user nor port in one line with the client; the message itself names it.
            Service::Lmtp => {
                let mail = self.dovecot.delivered(user);
                assert!(mail.contains(&client.ip().to_string()), "{client} in\n{mail}");
            }
            _ => self.dovecot.wait_for_line(&[
                service.names().0,
                &format!("user=<{user}>"),
                &format!("rip={},", client.ip()),
                &format!("rport={},", client.port()),
            ]),
        }
    }
}

fn mode_number(service: Service, mode: &str) -> usize {
    MODES.iter().position(|known| *known == (service, mode)).expect("one of the modes")
}

/// A relaying service whose backend has the same name; `listener` is what stands in its first listener, on all addresses.
fn service(name: &str, protocol: &str, listener: &str) -> String {
    format!(
        "service {name} {{\n  worker = relay\n  protocol = {protocol}\n  backend = {name}\n  inet_listener {name} \
         {{\n{listener}  }}\n}}\n"
    )
}

fn header(version: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    if version == 1 { v1(source, destination) } else { v2(source, destination, &[]) }
}

/// A whole session of a service: the user logs in, or gets mail.
fn serve(service: Service, wire: Wire, user: &str) {
    match service {
        Service::Imap => Imap::new(wire).login(user).logout(),
        Service::Pop3 => Pop3::new(wire).login(user).quit(),
        Service::Submission => Smtp::new(wire).login(user).quit(),
        Service::Sieve => Sieve::new(wire).login(user).logout(),
        Service::Lmtp => {
            let mut lmtp = Smtp::lmtp(wire);
            lmtp.deliver(user, &message(1000));
            lmtp.quit();
        }
    }
}

/// Sends a line cut in its middle.
fn say_in_two(wire: &mut Wire, line: &str) {
    let (first, second) = line.split_at(line.len() / 2);
    wire.send(first.as_bytes());
    std::thread::sleep(std::time::Duration::from_millis(20));
    wire.say(second);
}

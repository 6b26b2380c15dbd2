//! `haproxy_untrusted = plain`: on one port, trusted peers with a header and all others without one.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use vestibule::admission::ClientLimits;
use vestibule::{Accepted, Engine, Listener, Pool};

use crate::support::backend::Backend;
use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::daemon::{Daemon, counted, vestibule_run};
use crate::support::header;
use crate::support::{PATIENCE, free_port, temp_dir, wait_until};

const SOURCE: &str = "198.51.100.7:5000";
const PLAIN: &str = "haproxy_untrusted = plain";

/// Outside the networks that the tests' configurations trust.
fn stranger() -> IpAddr {
    address("127.0.0.9:0").ip()
}

fn from_balancer(to: SocketAddr) -> Client {
    Client::send_to(to, &header::v2(address(SOURCE), address("192.0.2.1:143"), &[]))
}

#[test]
fn a_trusted_peer_sends_a_header_and_another_is_the_client_itself() {
    let (daemon, listener) = Daemon::haproxy(PLAIN, "");
    let answer = from_balancer(listener).whoami();
    assert_eq!((&answer["client"], &answer["version"]), (&SOURCE.into(), &"v2".into()), "{answer}");
    let client = Client::connect(stranger(), listener);
    let answer = client.whoami();
    assert_eq!(answer["client"], client.local().to_string(), "{answer}");
    assert!(answer["version"].is_null(), "{answer}");
    // The address alone decides: what looks like a header is payload of a stranger, and its source counts for nothing.
    let liar = Client::connect(stranger(), listener);
    liar.send(&header::v2(address(SOURCE), address("192.0.2.1:143"), &[])).expect("the kernel takes the bytes");
    let (said, _, _) = liar.read_to_end();
    assert!(!String::from_utf8_lossy(&said).contains("198.51.100.7"), "{}", String::from_utf8_lossy(&said));
    let (said, _, _) = Client::send_to(listener, b"a NOOP\r\n").read_to_end();
    assert_eq!(said, b"", "a trusted peer must bring a header");
    let log = daemon.stop();
    assert_eq!((counted(&log, "plain"), counted(&log, "proxied")), (Some(2), Some(1)), "{log}");
    assert_eq!((counted(&log, "absent"), counted(&log, "untrusted")), (Some(1), None), "{log}");
}

#[test]
fn a_trusted_peer_is_held_to_the_deadline_beside_others() {
    let (_daemon, listener) = Daemon::haproxy(PLAIN, "");
    let (said, _, after) = Client::connect(TRUSTED, listener).read_to_end();
    assert!(said.is_empty() && after >= Duration::from_secs(3), "{after:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn a_silent_client_does_not_wait_for_its_greeting() {
    let (_daemon, listener) = Daemon::haproxy(PLAIN, "defer_accept = yes");
    // With TCP_DEFER_ACCEPT no connection would be reported within a second; the quickest of some tells, on a busy machine.
    let quickest = (0..10).map(|_| {
        let begun = Instant::now();
        Client::connect(stranger(), listener).whoami();
        begun.elapsed()
    });
    let quickest = quickest.min().expect("ten");
    assert!(quickest < Duration::from_millis(700), "{quickest:?}");
}

#[test]
fn limits_and_bans_key_on_the_peer() {
    let globals = format!("{PLAIN}\nclient_banned_networks = 127.0.0.10\nclient_rate_limit = 2");
    let (daemon, listener) = Daemon::haproxy(&globals, "");
    let served = |from| !Client::connect(from, listener).read_to_end().0.is_empty();
    assert!(!served(address("127.0.0.10:0").ip()), "banned");
    assert_eq!([0, 1, 2].map(|_| served(stranger())), [true, true, false], "a rate of its own");
    assert!(served(address("127.0.0.11:0").ip()), "another peer is another client");
    let through = [0, 1, 2].map(|_| !from_balancer(listener).read_to_end().0.is_empty());
    assert_eq!(through, [true, true, false], "the balancer's client is the one of the header");
    let log = daemon.stop();
    let counts = ["client-banned", "client-rate-limit", "plain"].map(|name| counted(&log, name));
    assert_eq!(counts, [Some(1), Some(2), Some(3)], "{log}");
}

#[test]
fn a_relay_names_the_peer_to_its_server() {
    let backend = Backend::start(|mut stream, client| {
        let _ = stream.write_all(format!("* OK {client:?}\r\n").as_bytes());
        let _ = stream.read(&mut [0]);
    });
    let port = free_port();
    let _daemon = Daemon::start(
        &format!(
            "haproxy_trusted_networks = 127.0.0.0/29\nservice imap-login {{\n worker = relay\n backend = b\n {PLAIN}\n \
             inet_listener l {{\n address = 127.0.0.1\n port = {port}\n haproxy = yes\n }}\n}}\n\
             backend b {{\n servers = {}\n check = none\n}}\n",
            backend.address
        ),
        &[port],
    );
    let greeted = |client: &Client| {
        let mut line = [0; 200];
        let length = (&client.stream).read(&mut line).expect("a greeting");
        String::from_utf8_lossy(&line[..length]).into_owned()
    };
    let direct = Client::connect(stranger(), loopback(port));
    assert_eq!(greeted(&direct), format!("* OK Some({})\r\n", direct.local()));
    assert_eq!(greeted(&from_balancer(loopback(port))), format!("* OK Some({SOURCE})\r\n"));
}

/// Says who its client is, in one piece, then holds the connection until the client closes it.
fn hold(connection: Accepted) {
    let client = connection.client();
    let mut stream = connection.into_stream();
    let _ = stream.write_all(format!("{client}\n").as_bytes());
    let _ = stream.read(&mut [0]);
}

#[test]
fn clients_of_both_kinds_wait_in_line_for_a_worker() {
    let listener = Listener::proxy(loopback(0)).trust(["127.0.0.0/29".parse().expect("a network")]).pool("hold");
    let limits = ClientLimits { connections: NonZeroU32::new(4), ..ClientLimits::default() };
    let mut engine = Engine::builder()
        .client_limits(limits)
        .pool(Pool::threads("hold", 1, hold).queue(1))
        .listen(listener.terms(|terms| terms.plain_untrusted = true))
        .start()
        .expect("loopback has free ports");
    let to = engine.addresses()[0];
    let kinds = [true, false, true, false, true, false];
    let clients = kinds.map(|direct| if direct { Client::connect(stranger(), to) } else { from_balancer(to) });
    let mut waiting: Vec<Client> = clients.into();
    assert!(wait_until(PATIENCE, || engine.snapshot().count("paused") > 0), "there is a line");
    while !waiting.is_empty() {
        // One worker: it serves them in the order of their coming, which two rings may change.
        let served = waiting.iter().position(|client| {
            client.stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a read timeout");
            let mut line = [0; 100];
            let Ok(length @ 1..) = (&client.stream).read(&mut line) else { return false };
            let expected = if client.local().ip() == stranger() { client.local() } else { address(SOURCE) };
            assert_eq!(String::from_utf8_lossy(&line[..length]), format!("{expected}\n"));
            true
        });
        if let Some(served) = served {
            waiting.remove(served);
        }
    }
    assert!(engine.drain(PATIENCE));
}

#[test]
fn check_and_config_show_it_and_warn() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    let text = |networks: &str| {
        format!(
            "{networks}\nservice imap-login {{\n {PLAIN}\n inet_listener l {{\n address = 127.0.0.1\n port = 10143\n \
             haproxy = yes\n defer_accept = yes\n }}\n inet_listener m {{\n address = 127.0.0.1\n port = 10144\n \
             haproxy = yes\n haproxy_untrusted = abort\n }}\n}}\n"
        )
    };
    std::fs::write(&file, text("haproxy_trusted_networks = 10.0.0.0/28")).expect("it is ours");
    let path = file.to_str().expect("UTF-8");
    let checked = vestibule_run(&["check", "-c", path], b"");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for words in [
        "127.0.0.1:10143 imap-login/l: haproxy from 10.0.0.0/28 within 3 s, others plain\n",
        "127.0.0.1:10144 imap-login/m: haproxy from 10.0.0.0/28 within 3 s\n",
    ] {
        assert!(checked.stdout.contains(words), "{checked:?}");
    }
    assert!(
        checked.stderr.contains("line 8: defer_accept has no effect with haproxy_untrusted = plain"),
        "{checked:?}"
    );
    let shown = vestibule_run(&["config", "-c", path], b"");
    assert!(shown.stdout.contains("haproxy_untrusted = plain"), "{shown:?}");
    std::fs::write(&file, text("")).expect("it is ours");
    let checked = vestibule_run(&["check", "-c", path], b"");
    assert!(checked.stderr.contains("line 4: inet_listener l: haproxy_untrusted = plain, but"), "{checked:?}");
}

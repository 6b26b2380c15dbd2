//! Which server a client gets: evenly by leastconn, the same again by `stick`, and none too many on a return.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::backend::{Backend, greet_and_echo};
use crate::support::client::{TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::Daemon;
use crate::support::mail::Wire;
use crate::support::{PATIENCE, free_port, header, wait_until};

/// Sessions that are held at a time.
const HELD: usize = 1_000;

/// Clients that are to find their server again.
const CLIENTS: u32 = 10_000;

/// Threads that connect side by side.
const CONNECTORS: usize = 16;

#[test]
fn leastconn_is_even_to_one_session_on_one_ring() {
    leastconn_is_even(1);
}

#[test]
fn leastconn_is_even_to_one_session_on_two_rings() {
    leastconn_is_even(2);
}

fn leastconn_is_even(rings: usize) {
    let servers = [(); 3].map(|()| Backend::greeting("* OK ready\r\n"));
    let tier = Tier::start(&format!("rings = {rings}"), "check = none", &servers);
    let held = Mutex::new(Vec::new());
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..CONNECTORS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number as usize >= HELD {
                        return;
                    }
                    let (wire, _) = tier.connect(number);
                    held.lock().expect("no connector panics").push(wire);
                }
            });
        }
    });
    assert_even(&servers, HELD);
    // As many go and come: what has gone is no longer counted.
    let mut held = held.into_inner().expect("no connector panics");
    fastrand::shuffle(&mut held);
    for number in 0..HELD as u32 {
        held.pop();
        let total = open(&servers);
        assert!(wait_until(PATIENCE, || open(&servers) < HELD), "a session that its client has ended goes on: {total}");
        held.insert(0, tier.connect(number).0);
    }
    assert_even(&servers, HELD);
}

fn assert_even(servers: &[Backend], total: usize) {
    let all_there = wait_until(PATIENCE, || open(servers) == total);
    let open: Vec<usize> = servers.iter().map(Backend::open).collect();
    assert!(all_there, "{open:?} are not {total}");
    let (least, most) = (open.iter().min().expect("servers"), open.iter().max().expect("servers"));
    assert!(most - least <= 1, "{open:?}");
}

fn open(servers: &[Backend]) -> usize {
    servers.iter().map(Backend::open).sum()
}

#[test]
fn clients_that_stick_keep_their_server_over_a_maint() {
    let servers = ["* OK s0\r\n", "* OK s1\r\n", "* OK s2\r\n"].map(Backend::greeting);
    let settings = "stick = source\n  check = none\n  slow_start = 0";
    let tier = Tier::start("rings = 2", settings, &servers);
    let first = tier.all_clients();
    let of_each: Vec<usize> = (0..3).map(|server| first.values().filter(|&&got| got == server).count()).collect();
    assert!(of_each.iter().all(|&clients| clients > CLIENTS as usize / 6), "all servers serve: {of_each:?}");
    assert_eq!(tier.all_clients(), first, "each client gets its server again");
    // In maint, its clients go elsewhere, and only they.
    tier.reload(settings, &servers, "state = maint");
    let meanwhile = tier.some_clients(1_000);
    for (number, server) in meanwhile {
        assert_ne!(server, 0, "{number} got a server in maint");
        assert!(first[&number] == 0 || first[&number] == server, "{number} moved without need");
    }
    tier.reload(settings, &servers, "");
    let moved = tier.all_clients().into_iter().filter(|(number, server)| first[number] != *server).count();
    // Those that came while their server was away have got another one to stick to, and no others.
    let came = first.iter().filter(|(number, server)| **number < 1_000 && **server == 0).count();
    assert!(moved <= came, "{moved} clients moved, {came} had to");
}

#[test]
fn a_server_that_returns_is_not_flooded() {
    let away = loopback(free_port());
    let there = Backend::greeting("* OK s0\r\n");
    let settings = "check = connect\n  check_interval = 1 secs\n  rise = 1\n  fall = 1\n  slow_start = 30 secs";
    let port = free_port();
    let daemon = Daemon::start(&configuration("", settings, port, &[there.address, away], ""), &[port]);
    let tier = Tier { daemon, port };
    let mut held: Vec<Wire> = (0..200).map(|number| tier.connect(number).0).collect();
    assert_eq!(there.open(), 200);
    let back = Backend::start_at(away, |stream, _| greet_and_echo(&stream, "* OK s1\r\n"));
    let mut more = 0;
    let returned = wait_until(PATIENCE, || {
        held.push(tier.connect(1_000 + more).0);
        more += 1;
        back.open() > 0
    });
    assert!(returned, "it gets no session after its return\n{}", tier.daemon.output());
    let before = back.open();
    held.extend((0..100).map(|number| tier.connect(2_000 + number).0));
    let got = back.open() - before;
    assert!(got < 50, "{got} of 100 new sessions at once on a server that has just returned");
}

/// A daemon in front of test servers that say their number in their greeting.
struct Tier {
    daemon: Daemon,
    port: u16,
}

impl Tier {
    fn start(globals: &str, settings: &str, servers: &[Backend]) -> Tier {
        let port = free_port();
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        Tier { daemon: Daemon::start(&configuration(globals, settings, port, &addresses, ""), &[port]), port }
    }

    /// Puts `first` into the first server's section and has the file read again.
    fn reload(&self, settings: &str, servers: &[Backend], first: &str) {
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        let text = configuration("rings = 2", settings, self.port, &addresses, first);
        std::fs::write(self.daemon.file(), text).expect("it is ours");
        let reloads = || self.daemon.output().matches("reload").count();
        let before = reloads();
        self.daemon.signal(Signal::HUP);
        assert!(wait_until(PATIENCE, || reloads() > before), "{}", self.daemon.output());
        thread::sleep(std::time::Duration::from_millis(300));
    }

    /// Connects as client `number` and takes the greeting: the session and the number of its server, where it says one.
    fn connect(&self, number: u32) -> (Wire, Option<usize>) {
        let mut wire = Wire::connect(TRUSTED, loopback(self.port));
        wire.send(&header::v2(client(number), address("192.0.2.1:143"), &[]));
        let greeting = wire.expect("* OK ");
        (wire, greeting.strip_prefix("* OK s").and_then(|number| number.parse().ok()))
    }

    /// A session of each of the clients, and which server each has got.
    fn all_clients(&self) -> HashMap<u32, usize> {
        self.some_clients(CLIENTS)
    }

    fn some_clients(&self, count: u32) -> HashMap<u32, usize> {
        let got = Mutex::new(HashMap::new());
        let next = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..CONNECTORS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        let server = self.connect(number).1.expect("the servers say their number");
                        got.lock().expect("no connector panics").insert(number, server);
                    }
                });
            }
        });
        got.into_inner().expect("no connector panics")
    }
}

fn configuration(globals: &str, settings: &str, port: u16, servers: &[SocketAddr], first: &str) -> String {
    let backend =
        backend("imap", settings, servers).replacen("  server s0 {\n", &format!("  server s0 {{\n    {first}\n"), 1);
    format!(
        "haproxy_trusted_networks = 127.0.0.1\n{globals}\n\
         service imap-login {{\n  worker = relay\n  inet_listener imap_in {{\n    address = 127.0.0.1\n    \
         port = {port}\n    haproxy = yes\n  }}\n}}\n{backend}"
    )
}

/// 198.18.0.0/15 is set aside for benchmarks.
fn client(number: u32) -> SocketAddr {
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number), 5000).into()
}

//! A daemon in front of servers that fail, end, or are slow.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::client::{Client, TRUSTED, address, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::Daemon;
use crate::support::dovecot::{Dovecot, Service, Terms, Way, missing};
use crate::support::mail::{Imap, Wire};
use crate::support::{PATIENCE, free_port, header, wait_until};

/// A daemon with one relaying service and its backend.
pub struct Tier {
    pub daemon: Daemon,
    service: String,
    port: u16,
}

impl Tier {
    /// Starts it; `globals` stand outside all sections, `settings` in the backend.
    pub fn start(service: &str, globals: &str, settings: &str, servers: &[SocketAddr]) -> Tier {
        let port = free_port();
        let daemon = Daemon::start(&configuration(service, port, globals, settings, servers, ""), &[port]);
        Tier { daemon, service: service.to_owned(), port }
    }

    /// The same with settings of the service. It is not to be reloaded.
    pub fn start_with(service: &str, own: &str, globals: &str, settings: &str, servers: &[SocketAddr]) -> Tier {
        let port = free_port();
        let text = configuration(service, port, globals, settings, servers, "").replacen(
            "  worker = relay\n",
            &format!("  worker = relay\n  {own}\n"),
            1,
        );
        Tier { daemon: Daemon::start(&text, &[port]), service: service.to_owned(), port }
    }

    /// Puts `first` into the first server's section and has the file read again.
    pub fn reload(&self, globals: &str, settings: &str, servers: &[SocketAddr], first: &str) {
        let text = configuration(&self.service, self.port, globals, settings, servers, first);
        std::fs::write(self.daemon.file(), text).expect("it is ours");
        let reloads = || self.daemon.output().matches("reload").count();
        let before = reloads();
        self.daemon.signal(Signal::HUP);
        assert!(wait_until(PATIENCE, || reloads() > before), "{}", self.daemon.output());
        thread::sleep(Duration::from_millis(300));
    }

    /// A client whose header is sent.
    pub fn client(&self) -> Client {
        Client::send_to(loopback(self.port), &tier_header())
    }

    /// The same, to be read by lines.
    pub fn wire(&self) -> Wire {
        let mut wire = Wire::connect(TRUSTED, loopback(self.port));
        wire.send(&tier_header());
        wire
    }

    /// A session whose server has greeted, and its words.
    pub fn greeted(&self) -> (String, Wire) {
        let mut wire = self.wire();
        (wire.expect("* OK "), wire)
    }

    /// The first line of the log with all of these words, which may come a little later.
    pub fn line(&self, words: &[&str]) -> String {
        let found = || {
            let log = self.daemon.output();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        };
        assert!(wait_until(PATIENCE, || found().is_some()), "no line with {words:?} in\n{}", self.daemon.output());
        found().expect("as just found")
    }

    /// How many lines of the log have all of these words.
    pub fn lines(&self, words: &[&str]) -> usize {
        self.daemon.output().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// A session that has logged in, and whether it is the first server's.
    pub fn logged_in(&self, servers: &[Dovecot; 2]) -> (bool, Wire) {
        let user = format!("u{}", fastrand::u32(..));
        let imap = Imap::new(self.wire()).login(&user);
        let words = format!("user=<{user}>");
        let has = |server: &Dovecot| server.log().contains(&words);
        assert!(wait_until(PATIENCE, || servers.iter().any(has)), "neither log names {user}");
        (has(&servers[0]), imap.0)
    }
}

/// A daemon's file; `first` stands in the first server's section.
pub fn configuration(
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

/// Of a client of documentation's.
pub fn tier_header() -> Vec<u8> {
    header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[])
}

/// Where its IMAP listens behind a header.
pub fn proxied_imap(dovecot: &Dovecot) -> SocketAddr {
    dovecot.address(Service::Imap, Way::Proxied)
}

/// `None`, and a skipped test, where something is not installed.
pub fn two_dovecots(more: &str) -> Option<[Dovecot; 2]> {
    if let Some(what) = missing().or_else(|| (!rustix::process::geteuid().is_root()).then_some("root")) {
        crate::support::record_skip(what);
        return None;
    }
    let start = || Dovecot::start(&Terms { more, ..Terms::default() });
    Some([start(), start()])
}

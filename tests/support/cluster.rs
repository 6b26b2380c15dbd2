//! A mail cluster on one machine: HAProxy, two Dovecots that share their mail, a Postfix, and Vestibule between them or not.

use std::net::SocketAddr;

use super::client::loopback;
use super::daemon::Daemon;
use super::dovecot::{Dovecot, Service, Terms, Way};
use super::free_port;
use super::peers::{Peer, haproxy_at};
use super::postfix::{Postfix, Sink};

/// A kind of connection that the cluster takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// One of Dovecot's services in clear, with STARTTLS.
    Clear(Service),
    /// One of Dovecot's services by TLS from the first byte.
    Tls(Service),
    /// Postfix's smtpd.
    Smtp,
    /// Postfix's postscreen.
    Screened,
}

impl Door {
    /// All of them.
    pub const ALL: [Door; 10] = [
        Door::Clear(Service::Imap),
        Door::Clear(Service::Pop3),
        Door::Clear(Service::Submission),
        Door::Clear(Service::Sieve),
        Door::Clear(Service::Lmtp),
        Door::Tls(Service::Imap),
        Door::Tls(Service::Pop3),
        Door::Tls(Service::Submission),
        Door::Smtp,
        Door::Screened,
    ];

    /// A name for configurations.
    pub fn name(self) -> &'static str {
        match self {
            Door::Clear(service) => service.names().1[0],
            Door::Tls(service) => service.names().1[2],
            Door::Smtp => "smtp",
            Door::Screened => "postscreen",
        }
    }

    /// Dovecot's or Postfix's name of the service; for TLS, which only passes through, one that says nothing.
    pub fn service(self) -> &'static str {
        match self {
            Door::Clear(service) => service.names().0,
            Door::Tls(_) => self.name(),
            Door::Smtp => "smtpd",
            Door::Screened => "postscreen",
        }
    }
}

/// The servers behind.
pub struct Servers {
    pub dovecots: [Dovecot; 2],
    pub postfix: Postfix,
    pub sink: Sink,
}

impl Servers {
    /// Starts them. Needs root, Dovecot with all its services, and Postfix.
    pub fn start() -> Servers {
        let sink = Sink::start();
        let first = Dovecot::start(&Terms { relay: Some(sink.address), ..Terms::default() });
        let mail = first.mail();
        let second = Dovecot::start(&Terms { relay: Some(sink.address), mail: Some(&mail), ..Terms::default() });
        Servers { dovecots: [first, second], postfix: Postfix::start(), sink }
    }

    /// Where they listen behind a PROXY header.
    pub fn proxied(&self, door: Door) -> Vec<SocketAddr> {
        let of_dovecots = |service, way| self.dovecots.iter().map(|dovecot| dovecot.address(service, way)).collect();
        match door {
            Door::Clear(service) => of_dovecots(service, Way::Proxied),
            Door::Tls(service) => of_dovecots(service, Way::TlsProxied),
            Door::Smtp => vec![self.postfix.proxied],
            Door::Screened => vec![self.postfix.screened],
        }
    }
}

/// All of it.
pub struct Cluster {
    pub servers: Servers,
    /// Where Vestibule shows its page.
    pub http: SocketAddr,
    vestibule: Option<Daemon>,
    haproxy: Peer,
}

impl Cluster {
    /// HAProxy, and the servers directly behind it.
    pub fn without_vestibule() -> Cluster {
        let servers = Servers::start();
        let haproxy = balancer(|door| servers.proxied(door));
        Cluster { servers, http: loopback(free_port()), vestibule: None, haproxy }
    }

    /// HAProxy, Vestibule, and the servers.
    pub fn with_vestibule() -> Cluster {
        let servers = Servers::start();
        let ports = Door::ALL.map(|_| free_port());
        let http = loopback(free_port());
        let configuration = format!("http_listen = {http}\n{}", vestibule_configuration(&servers, &ports));
        let vestibule = Daemon::start(&configuration, &ports);
        let port = |door| Door::ALL.iter().position(|&other| other == door).map(|at| ports[at]);
        let haproxy = balancer(|door| vec![loopback(port(door).expect("one of all"))]);
        Cluster { servers, http, vestibule: Some(vestibule), haproxy }
    }

    /// Where clients connect.
    pub fn address(&self, door: Door) -> SocketAddr {
        let at = Door::ALL.iter().position(|&other| other == door).expect("one of all");
        self.haproxy.addresses[at]
    }

    /// Ends Vestibule, if it is there: its log tells of the end of every session that it has told the start of, and of no
    /// error.
    pub fn finish(self) {
        let Some(vestibule) = self.vestibule else { return };
        let log = vestibule.stop();
        let count = |words| log.matches(words).count();
        assert!(count("Session started") > 0 && count("Session started") == count(" end="), "{log}");
        assert!(!log.contains("Error"), "{log}");
    }

    /// Whether a line with all of `words` stands in the log of either Dovecot, or comes soon; panics with both logs if not.
    pub fn wait_for_dovecots_line(&self, words: &[&str]) {
        let logs = || self.servers.dovecots.each_ref().map(Dovecot::log).concat();
        let has_line = || logs().lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(super::wait_until(super::PATIENCE, has_line), "no line with {words:?} in\n{}", logs());
    }
}

/// A balancer with the words of the one that this tier was made to stand behind, once for each door.
fn balancer(servers: impl Fn(Door) -> Vec<SocketAddr>) -> Peer {
    let fronts: Vec<SocketAddr> = Door::ALL.map(|_| loopback(free_port())).into();
    let mut text = "defaults\n  timeout connect 5s\n  timeout client 31m\n  timeout server 31m\n".to_owned();
    for (door, front) in Door::ALL.into_iter().zip(&fronts) {
        let name = door.name();
        text += &format!(
            "frontend {name}\n  mode tcp\n  bind {front}\n  default_backend {name}\nbackend {name}\n  mode tcp\n  \
             balance leastconn\n  stick store-request src\n  stick-table type ip size 200k expire 30m\n"
        );
        for (number, server) in servers(door).into_iter().enumerate() {
            text += &format!("  server s{number} {server} send-proxy-v2\n");
        }
    }
    haproxy_at(&text, fronts)
}

fn vestibule_configuration(servers: &Servers, ports: &[u16]) -> String {
    let mut text = "haproxy_trusted_networks = 127.0.0.1\n".to_owned();
    for (door, port) in Door::ALL.into_iter().zip(ports) {
        let check = if matches!(door, Door::Tls(_)) { "check = connect" } else { "" };
        text += &relay_service(door, *port);
        text += &backend(door.name(), check, &servers.proxied(door));
    }
    text
}

/// A service with one haproxy listener on 127.0.0.1 whose connections go on to the backend of the door's name.
pub fn relay_service(door: Door, port: u16) -> String {
    format!(
        "service {} {{\n  worker = relay\n  backend = {name}\n  inet_listener {name}_in {{\n    address = 127.0.0.1\n    \
         port = {port}\n    haproxy = yes\n  }}\n}}\n",
        door.service(),
        name = door.name()
    )
}

/// A backend with `settings` of its own, and these servers, which are called `s0`, `s1` and so on.
pub fn backend(name: &str, settings: &str, servers: &[SocketAddr]) -> String {
    let servers: String = servers
        .iter()
        .enumerate()
        .map(|(number, server)| {
            format!("  server s{number} {{\n    address = {}\n    port = {}\n  }}\n", server.ip(), server.port())
        })
        .collect();
    format!("backend {name} {{\n  {settings}\n{servers}}}\n")
}

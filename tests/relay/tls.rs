//! TLS that ends at Vestibule, with servers behind that speak in clear: real Dovecots, with HAProxy in front and without.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::client::loopback;
use crate::support::daemon::{Daemon, counted};
use crate::support::dovecot::{Dovecot, Service, Terms, Way, missing};
use crate::support::mail::{Imap, Pop3, Smtp, Wire, message};
use crate::support::peers::haproxy;
use crate::support::{certificate, free_port, temp_dir};
use crate::{needs, needs_root, skip};

/// A client that no server trusts by its address.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// A message that no buffer on the way holds.
const LARGE: usize = 8 << 20;

/// Two services with a listener for clients and one for a balancer each, by `driver`.
fn configuration(driver: &str, servers: [SocketAddr; 2], ports: [u16; 4]) -> String {
    let listener = |name: &str, port: u16, haproxy: &str| {
        format!(
            "  inet_listener {name} {{\n    address = 127.0.0.1\n    port = {port}\n    ssl = yes\n    haproxy = \
             {haproxy}\n  }}\n"
        )
    };
    let mut text = format!("driver = {driver}\nhaproxy_trusted_networks = 127.0.0.0/8\n");
    for (at, (service, name)) in [("imap-login", "imap"), ("pop3-login", "pop3")].into_iter().enumerate() {
        let listeners = listener("direct", ports[2 * at], "no") + &listener("behind", ports[2 * at + 1], "yes");
        let (ip, port) = (servers[at].ip(), servers[at].port());
        text += &format!(
            "service {service} {{\n  worker = relay\n{listeners}}}\nbackend {name} {{\n  check = none\n  server s1 {{\n    \
             address = {ip}\n    port = {port}\n  }}\n}}\n"
        );
    }
    text
}

#[test]
fn imap_and_pop3_by_tls_with_dovecots_that_get_plaintext() {
    needs!("dovecot", "haproxy", "openssl");
    needs_root!();
    if let Some(service) = missing() {
        skip!(format!("Dovecot's {service}"));
    }
    let dovecot = Dovecot::start(&Terms::default());
    let servers = [Service::Imap, Service::Pop3].map(|service| dovecot.address(service, Way::Proxied));
    let directory = temp_dir();
    let (certificate, key) = certificate(directory.path());
    let files = format!("ssl_cert = <{}\nssl_key = <{}\n", certificate.display(), key.display());
    for (number, driver) in ["io_uring", "epoll"].into_iter().enumerate() {
        let ports = [(); 4].map(|()| free_port());
        let daemon = Daemon::start(&(files.clone() + &configuration(driver, servers, ports)), &ports);
        let balancer = haproxy(&format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n\
             listen imaps\n  bind @FRONT@\n  server v 127.0.0.1:{} send-proxy-v2\n",
            ports[1]
        ));
        for (way, address) in [("direct", loopback(ports[0])), ("behind", balancer.address())] {
            let user = format!("{way}{number}");
            let wire = Wire::connect_tls(CLIENT, address);
            let port = wire.local().port();
            let mut imap = Imap::new(wire).login(&user);
            dovecot.wait_for_line(&[&format!("user=<{user}>"), "rip=127.0.0.9", &format!("rport={port},"), "secured"]);
            let mail = message(LARGE);
            imap.append(&mail);
            assert!(imap.fetch(1) == mail, "the message came back otherwise than it was sent");
            imap.idle();
            let mut other = Imap::new(Wire::connect_tls(CLIENT, address)).login(&user);
            other.append(&message(1000));
            imap.await_exists(2);
            other.logout();
            imap.logout();
        }
        let mail = message(100_000);
        let mut lmtp = Smtp::lmtp(Wire::connect(CLIENT, dovecot.address(Service::Lmtp, Way::Plain)));
        let user = format!("pop{number}");
        lmtp.deliver(&user, &mail);
        lmtp.quit();
        let mut pop3 = Pop3::new(Wire::connect_tls(CLIENT, loopback(ports[2]))).login(&user);
        assert!(pop3.retrieve(1).ends_with(&mail), "the message came back otherwise than it was delivered");
        pop3.quit();
        let log = daemon.stop();
        assert_eq!(counted(&log, "tls-established"), Some(5), "{log}");
        assert_eq!(counted(&log, "tls-failed").unwrap_or(0), 0, "{log}");
        assert_eq!(log.matches("Session started").count(), log.matches(" end=").count(), "{log}");
        let started = log.lines().filter(|line| line.contains("Session started"));
        assert!(
            started.clone().count() == 5 && started.into_iter().all(|line| line.ends_with(" tls=TLSv1.3")),
            "{log}"
        );
        assert!(!log.contains("Error"), "{log}");
    }
}

//! What the daemon says when it is ready: one line a listener, and a command to try.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vestibule::config::{InetListener, Service, Settings, WorkerKind};

use super::configuration;
use super::log::Log;

/// One line a listener, then what to try.
pub fn say(log: &Log, settings: &Settings, addresses: &[SocketAddr]) {
    let mut bound = addresses.iter();
    let mut example = None;
    for service in &settings.services {
        for listener in &service.listeners {
            for address in bound.by_ref().take(listener.addresses.len()) {
                log.say(format_args!("listening on {address} ({})", describe(service, listener)));
                example = example.or_else(|| what_to_try(listener, *address));
            }
        }
    }
    log.say(format_args!("vestibule {} is ready", env!("CARGO_PKG_VERSION")));
    if let Some(command) = example {
        log.say(format_args!("try: {command}"));
    }
}

/// A command that is answered from this machine, if the listener trusts it.
fn what_to_try(listener: &InetListener, address: SocketAddr) -> Option<String> {
    let own = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(own, address.port());
    match (listener.haproxy, listener.ssl) {
        (true, _) if !listener.trusted.contains(own) => None,
        (true, false) => Some(format!("curl -s --haproxy-protocol telnet://{address} </dev/null")),
        (false, true) => Some(format!("openssl s_client -quiet -connect {address} </dev/null")),
        (false, false) => Some(format!("curl -s telnet://{address} </dev/null")),
        (true, true) => None, // needs a client that sends a header and then speaks TLS
    }
}

fn describe(service: &Service, listener: &InetListener) -> String {
    let mut words = vec![format!("{} {}", service.name, listener.name)];
    if listener.haproxy {
        let trusted = configuration::show_networks(&listener.networks);
        words.push(format!("haproxy, trusts {trusted}"));
    }
    if listener.ssl {
        words.push("ssl".to_owned());
    }
    words.push(match service.worker {
        WorkerKind::Whoami => "worker whoami".to_owned(),
        WorkerKind::Discard => "worker discard".to_owned(),
        WorkerKind::Relay => "worker relay".to_owned(),
        WorkerKind::HandOff => "worker handoff".to_owned(),
    });
    words.join(", ")
}

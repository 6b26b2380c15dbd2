//! Real peers: HAProxy and nginx in front, Dovecot and Postfix as receivers. Each listens on loopback and ends with its guard.
//! The mail servers have files of their own, [`super::dovecot`] and [`super::postfix`].

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::debian13::{command_in, seen_from};
use super::dovecot::{Dovecot, Service, Terms, Way};
use super::postfix::Postfix;
use super::process::Process;
use super::{Recipe, find_program, free_port, loopback, temp_dir, temp_dir_in};

/// A peer that listens, with the directory that holds its files.
pub struct Peer {
    /// It, and what it says.
    pub process: Process,
    /// Where it listens, in the order of its configuration.
    pub addresses: Vec<SocketAddr>,
    _directory: TempDir,
}

impl Peer {
    /// Where it listens first.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }
}

/// HAProxy on a free port, forwarding to `server` by the whole `frontend` text, in which `@FRONT@` stands for the
/// address to bind.
pub fn haproxy(configuration: &str) -> Peer {
    let front = loopback(free_port());
    haproxy_at(&configuration.replace("@FRONT@", &front.to_string()), vec![front])
}

/// HAProxy with a configuration that binds `fronts`.
pub fn haproxy_at(configuration: &str, fronts: Vec<SocketAddr>) -> Peer {
    start(Recipe::haproxy(configuration, fronts))
}

/// The same of a system that lies in a folder; see [`super::debian13`].
pub fn haproxy_in(root: &Path, configuration: &str, fronts: Vec<SocketAddr>) -> Peer {
    let directory = temp_dir_in(&root.join("tmp"));
    let file = directory.path().join("haproxy.cfg");
    std::fs::write(&file, configuration).expect("the configuration can be written");
    let mut command = command_in(root, "haproxy");
    command.arg("-db").arg("-f").arg(seen_from(Some(root), &file));
    start(Ok(Recipe { command, addresses: fronts, directory }))
}

/// nginx's stream module on a free port with `proxy_protocol on` towards `server`.
pub fn nginx_stream(server: SocketAddr) -> Peer {
    let front = loopback(free_port());
    let server = format!("  server {{\n    listen {front};\n    proxy_pass {server};\n    proxy_protocol on;\n  }}\n");
    start(Recipe::nginx("info", &format!("events {{}}\nstream {{\n{server}}}\n"), vec![front]))
}

fn start(recipe: io::Result<Recipe>) -> Peer {
    let Recipe { command, addresses, directory } = recipe.expect("the test has asked for it");
    let process = Process::start_listening(command, &addresses);
    Peer { process, addresses, _directory: directory }
}

/// A socat that accepts connections on a free port and shows what they send.
pub fn socat_receiver() -> Peer {
    let address = loopback(free_port());
    let mut command = Command::new(find_program("socat").expect("the test has asked for socat"));
    command.arg("-u").arg(format!("TCP-LISTEN:{},bind={},fork", address.port(), address.ip())).arg("STDOUT");
    let process = Process::start_listening(command, &[address]);
    Peer { process, addresses: vec![address], _directory: temp_dir() }
}

/// Dovecot with an imap-login service: `addresses` are a plain listener, one with `haproxy = yes`, and one with
/// `haproxy = yes` and `ssl = yes`. It trusts 127.0.0.2, 127.0.0.3 and 127.0.1.0/24. Any user may log in with the password `pw`.
/// Needs root. Its log comes through [`Process::output`].
pub fn dovecot() -> Peer {
    let dovecot = Dovecot::start(&Terms { proxies: "127.0.0.2/32, 127.0.0.3 127.0.1.0/24", ..Terms::default() });
    let addresses = [Way::Plain, Way::Proxied, Way::TlsProxied].map(|way| dovecot.address(Service::Imap, way));
    let (process, directory) = dovecot.into_parts();
    Peer { process, addresses: addresses.into(), _directory: directory }
}

/// Postfix's smtpd with `smtpd_upstream_proxy_protocol = haproxy`. Needs root. Its log comes through
/// [`Process::output`].
pub fn postfix() -> Peer {
    let postfix = Postfix::start();
    Peer { addresses: vec![postfix.proxied], process: postfix.process, _directory: postfix.directory }
}

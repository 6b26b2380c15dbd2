//! What the subcommands do alike: read the configuration and the certificate that it names, and say what is wrong.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::User;
use rustix::net::{AddressFamily, SocketType};
use vestibule::config::{self, InetListener, Loaded, Problem, Settings, SourcedPath};
use vestibule::worker::tls::{Identity, TlsError};

use super::EXIT_CONFIG;

/// The name in a self-signed certificate. No client can verify it, whatever it says.
const SELF_SIGNED_NAME: &str = "localhost";

/// A configuration with which the daemon can start.
pub struct Ready {
    /// Settings and warnings.
    pub loaded: Loaded,
    /// What listeners with `ssl = yes` show: the configured certificate, or else a self-signed one, of which a warning
    /// tells. `None` if there is no such listener.
    pub identity: Option<Identity>,
}

/// Reads the file, or without one the built-in configuration, and makes the TLS identity. Opens no port.
pub fn load(file: Option<&Path>) -> Result<Ready, Vec<Problem>> {
    let loaded = read(file)?;
    let identity = identity(&loaded.settings).map_err(|problem| vec![problem])?;
    Ok(Ready { loaded, identity })
}

/// Reads the file, or without one the built-in configuration, and nothing that it names.
pub fn read(file: Option<&Path>) -> Result<Loaded, Vec<Problem>> {
    let mut loaded = file.map_or_else(|| Ok(config::builtin()), config::load)?;
    if !has_ipv6() {
        leave_ipv6_out(&mut loaded);
    }
    Ok(loaded)
}

/// Whether this host knows IPv6 at all (`ipv6.disable=1` takes it away, and so do filters of system calls).
fn has_ipv6() -> bool {
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None);
    !matches!(socket, Err(rustix::io::Errno::AFNOSUPPORT))
}

/// Listeners on all addresses of both families get by with one of them. One that names an IPv6 address means it.
fn leave_ipv6_out(loaded: &mut Loaded) {
    let listeners = loaded.settings.services.iter_mut().flat_map(|service| &mut service.listeners);
    for listener in listeners {
        let of_both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        if of_both.iter().all(|address| listener.addresses.contains(address)) {
            listener.addresses.retain(|address| *address != of_both[1]);
            let words = format!("inet_listener {}: this host has no IPv6, only IPv4 is served", listener.name);
            loaded.warnings.push(listener.at.problem(words));
        }
    }
}

/// Prints what is wrong, each on a line of its own, and gives the exit code that says so.
pub fn refuse(problems: &[Problem]) -> ExitCode {
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    ExitCode::from(EXIT_CONFIG)
}

/// Prints warnings, each on a line of its own.
pub fn print_warnings(warnings: &[Problem]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

fn identity(settings: &Settings) -> Result<Option<Identity>, Problem> {
    let listeners = settings.services.iter().flat_map(|service| &service.listeners);
    let users: Vec<&InetListener> = listeners.filter(|listener| listener.ssl).collect();
    match (&settings.ssl_cert, &settings.ssl_key) {
        _ if users.is_empty() => Ok(None),
        (Some(cert), Some(key)) => {
            Identity::load(&cert.path, &key.path).map(Some).map_err(|error| problem(&error, cert, key, &users))
        }
        _ => Ok(Some(Identity::self_signed(&[SELF_SIGNED_NAME]).expect("a host name makes a certificate"))),
    }
}

fn problem(error: &TlsError, cert: &SourcedPath, key: &SourcedPath, users: &[&InetListener]) -> Problem {
    let (setting, at) = if blames_key(error, cert, key) { ("ssl_key", &key.at) } else { ("ssl_cert", &cert.at) };
    let users: Vec<&str> = users.iter().map(|listener| listener.name.as_str()).collect();
    let remedy = if is_forbidden(error) { remedy_of_permissions() } else { String::new() };
    at.problem(format!("{setting}: {error}{remedy} (needed by inet_listener {})", users.join(", ")))
}

fn is_forbidden(error: &TlsError) -> bool {
    matches!(error, TlsError::Unreadable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
}

/// Keys are commonly for root and one group only, and whoever looks at them as root does not see why.
fn remedy_of_permissions() -> String {
    let uid = nix::unistd::geteuid();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| format!("id {uid}"), |user| user.name);
    format!("; this is user {name}: let it in by a group (SupplementaryGroups= in the unit), or give it a copy")
}

fn blames_key(error: &TlsError, cert: &SourcedPath, key: &SourcedPath) -> bool {
    match error {
        TlsError::Unreadable { path, .. } | TlsError::Pem { path, .. } => *path == key.path && *path != cert.path,
        TlsError::NoKey { .. } | TlsError::Key { .. } | TlsError::Mismatch { .. } => true,
        TlsError::NoCertificate { .. } | TlsError::Certificate { .. } | TlsError::SelfSigned(_) => false,
    }
}

//! What the subcommands do alike: read the configuration and the certificate that it names, and say what is wrong.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use nix::unistd::User;
use rustix::net::{AddressFamily, SocketType};
use vestibule::config::{
    self, ClientCertificates, Dovecot, InetListener, Loaded, LocalName, Problem, Settings, SourcedPath, TlsVersion,
};
use vestibule::net::Network;
use vestibule::tls::{ClientAuthorities, Identity, TlsError};

use super::{EXIT_CONFIG, print};

/// Warnings that are printed at once.
const WARNINGS_SHOWN: usize = 100;
/// Networks that are shown of one listener.
const NETWORKS_SHOWN: usize = 16;
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
    ready(read(file)?)
}

fn ready(mut loaded: Loaded) -> Result<Ready, Vec<Problem>> {
    let identity = match identity(&loaded.settings).map_err(|problem| vec![problem])? {
        Some(identity) => Some(with_policy(identity, &mut loaded).map_err(|problem| vec![problem])?),
        None => None,
    };
    Ok(Ready { loaded, identity })
}

/// With certificates for names, what clients are asked for, and the oldest version.
fn with_policy(mut identity: Identity, loaded: &mut Loaded) -> Result<Identity, Problem> {
    let settings = &loaded.settings;
    for LocalName { names, cert, key } in &settings.local_names {
        let whose = format!("local_name {}: ", names.join(" "));
        let other = Identity::load(&cert.path, &key.path).map_err(|error| problem(&error, cert, key, &whose, ""))?;
        identity = identity.for_names(names, &other);
    }
    if let Some(ClientCertificates { authorities, required, require_crl }) = &settings.client_certificates {
        let asked = ClientAuthorities::load(&authorities.path, *required, *require_crl)
            .map_err(|error| authorities.at.problem(format!("ssl_ca: {error}{}", remedy(&error))))?;
        if !asked.verifies() {
            let consequence = if *required { "everybody is refused" } else { "no name in a certificate is believed" };
            let words = "has no list of revoked certificates, and ssl_require_crl = yes (the default) demands one";
            let path = authorities.path.display();
            loaded
                .warnings
                .push(authorities.at.problem(format!("ssl_ca: {path} {words}: {consequence}, as by Dovecot")));
        }
        identity = identity.ask_clients(asked);
    }
    Ok(match settings.ssl_min_protocol {
        TlsVersion::V12 => identity,
        TlsVersion::V13 => identity.only_tls_1_3(),
    })
}

/// Reads the file, or without one the built-in configuration, and nothing that it names.
pub fn read(file: Option<&Path>) -> Result<Loaded, Vec<Problem>> {
    match file {
        None => Ok(adapted(config::builtin())),
        Some(path) => Source::read(path).map_err(|problem| vec![problem])?.parse(),
    }
}

/// A configuration as text, for those who look at it twice: a pipe can be read once.
pub struct Source {
    name: PathBuf,
    text: String,
}

impl Source {
    /// Reads a file or a pipe; `-` is standard input.
    pub fn read(path: &Path) -> Result<Source, Problem> {
        match path == Path::new("-") {
            true => Ok(Source { name: config::STANDARD_INPUT.into(), text: config::standard_input()? }),
            false => Ok(Source { name: path.into(), text: config::text(path)? }),
        }
    }

    /// Its meaning.
    pub fn parse(&self) -> Result<Loaded, Vec<Problem>> {
        config::parse(&self.name, &self.text).map(adapted)
    }

    /// As [`parse`](Source::parse), with the certificate that it names.
    pub fn load(&self) -> Result<Ready, Vec<Problem>> {
        ready(self.parse()?)
    }

    /// What a Dovecot would say of it.
    pub fn lint(&self, dovecot: Option<Dovecot>) -> (Dovecot, Vec<Problem>) {
        config::lint(&self.name, &self.text, dovecot)
    }
}

/// As it can be on this host.
fn adapted(mut loaded: Loaded) -> Loaded {
    if !has_ipv6() {
        leave_ipv6_out(&mut loaded);
    }
    loaded
}

/// Whether this host knows IPv6 at all: `ipv6.disable=1` takes it away, and so do filters of system calls, both for as long as
/// this process lives.
fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    let socket = || rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None);
    *HAS.get_or_init(|| !matches!(socket(), Err(rustix::io::Errno::AFNOSUPPORT)))
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
    problems.iter().for_each(print::complain);
    ExitCode::from(EXIT_CONFIG)
}

/// Prints warnings, each on a line of its own; of very many the first.
pub fn print_warnings(warnings: &[Problem]) {
    warnings.iter().take(WARNINGS_SHOWN).for_each(|warning| print::complain(format_args!("warning: {warning}")));
    if let Some(more) = warnings.len().checked_sub(WARNINGS_SHOWN).filter(|&more| more > 0) {
        print::complain(format_args!("warning: and {more} more warnings"));
    }
}

/// Networks in one line; of very many the first.
pub fn show_networks(networks: &[Network]) -> String {
    let shown: Vec<String> = networks.iter().take(NETWORKS_SHOWN).map(ToString::to_string).collect();
    match networks.len() {
        0 => "nobody".into(),
        all if all > NETWORKS_SHOWN => format!("{} and {} more networks", shown.join(" "), all - NETWORKS_SHOWN),
        _ => shown.join(" "),
    }
}

fn identity(settings: &Settings) -> Result<Option<Identity>, Problem> {
    let listeners = settings.services.iter().flat_map(|service| &service.listeners);
    let users: Vec<&InetListener> = listeners.filter(|listener| listener.ssl).collect();
    match (&settings.ssl_cert, &settings.ssl_key) {
        _ if users.is_empty() => Ok(None),
        (Some(cert), Some(key)) => {
            let users: Vec<&str> = users.iter().map(|listener| listener.name.as_str()).collect();
            let users = format!(" (needed by inet_listener {})", users.join(", "));
            Identity::load(&cert.path, &key.path).map(Some).map_err(|error| problem(&error, cert, key, "", &users))
        }
        _ => Ok(Some(Identity::self_signed(&[SELF_SIGNED_NAME]).expect("a host name makes a certificate"))),
    }
}

/// `whose` stands before the setting, `users` behind all.
fn problem(error: &TlsError, cert: &SourcedPath, key: &SourcedPath, whose: &str, users: &str) -> Problem {
    let (setting, at) = if blames_key(error, cert, key) { ("ssl_key", &key.at) } else { ("ssl_cert", &cert.at) };
    at.problem(format!("{whose}{setting}: {error}{}{users}", remedy(error)))
}

fn remedy(error: &TlsError) -> String {
    if is_forbidden(error) { remedy_of_permissions() } else { String::new() }
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
        _ => false,
    }
}

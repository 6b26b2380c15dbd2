//! What `serve` and `check` do alike: read the configuration, and the certificate that it names.

use std::path::Path;

use vestibule::config::{self, InetListener, Loaded, Problem, Settings, SourcedPath};
use vestibule::worker::tls::{Identity, TlsError};

/// A configuration with which the daemon can start.
pub struct Ready {
    /// Settings and warnings.
    pub loaded: Loaded,
    /// For the listeners with `ssl = yes`; `None` if there are none, or if a self-signed certificate has to do.
    pub identity: Option<Identity>,
}

/// Reads the file, or without one the built-in configuration, and loads the certificate. Opens no port.
pub fn load(file: Option<&Path>) -> Result<Ready, Vec<Problem>> {
    let loaded = match file {
        Some(file) => config::load(file)?,
        None => config::builtin(),
    };
    let identity = identity(&loaded.settings).map_err(|problem| vec![problem])?;
    Ok(Ready { loaded, identity })
}

/// All listeners, in the order of the files.
pub fn listeners(settings: &Settings) -> impl Iterator<Item = &InetListener> {
    settings.services.iter().flat_map(|service| &service.listeners)
}

/// Prints warnings, each on a line of its own.
pub fn print_warnings(warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

fn identity(settings: &Settings) -> Result<Option<Identity>, Problem> {
    let (Some(cert), Some(key)) = (&settings.ssl_cert, &settings.ssl_key) else { return Ok(None) };
    Identity::load(&cert.path, &key.path).map(Some).map_err(|error| {
        let (setting, at) = if blames_key(&error, cert, key) { ("ssl_key", &key.at) } else { ("ssl_cert", &cert.at) };
        let users: Vec<&str> = listeners(settings).filter(|l| l.ssl).map(|l| l.name.as_str()).collect();
        let message = format!("{setting}: {error} (needed by inet_listener {})", users.join(", "));
        Problem { file: at.file.clone(), line: at.line, message }
    })
}

fn blames_key(error: &TlsError, cert: &SourcedPath, key: &SourcedPath) -> bool {
    match error {
        TlsError::Unreadable { path, .. } | TlsError::Pem { path, .. } => *path == key.path && *path != cert.path,
        TlsError::NoKey { .. } | TlsError::Key { .. } | TlsError::Mismatch { .. } => true,
        TlsError::NoCertificate { .. } | TlsError::Certificate { .. } | TlsError::SelfSigned(_) => false,
    }
}

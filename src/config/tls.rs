//! What listeners with `ssl = yes` show and demand: certificates, also by name, those of clients, the oldest version.

use std::time::Duration;

use super::Dovecot;
use super::gather::{RawLocalName, Values};
use super::settings::*;
use super::syntax::Value;
use super::validate::{Check, beside};

/// Of no effect, and empty, without a listener that needs it.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) cert: Option<SourcedPath>,
    pub(super) key: Option<SourcedPath>,
    pub(super) min_protocol: TlsVersion,
    pub(super) handshake_timeout: Duration,
    pub(super) to_kernel: bool,
    pub(super) client_certificates: Option<ClientCertificates>,
    pub(super) local_names: Vec<LocalName>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            cert: None,
            key: None,
            min_protocol: TlsVersion::default(),
            handshake_timeout: SSL_HANDSHAKE_DEFAULT,
            to_kernel: false,
            client_certificates: None,
            local_names: Vec::new(),
        }
    }
}

impl Check<'_> {
    /// Files and settings are only looked at if a listener needs them.
    pub(super) fn tls(
        &mut self,
        values: &Values,
        local_names: &[RawLocalName],
        services: &[Service],
        dovecot: Dovecot,
    ) -> Tls {
        if !services.iter().flat_map(|service| &service.listeners).any(|listener| listener.ssl) {
            return Tls::default();
        }
        let (cert, key) = self.certificate(values, services);
        let mut local_names = self.local_names(local_names, (&cert, &key));
        // Measured: of two sections that match, the first counts to 2.3, and the last to 2.4.
        if dovecot == Dovecot::V24 {
            local_names.reverse();
        }
        let (min_protocol, client_certificates) = (self.min_protocol(values), self.client_certificates(values));
        let handshake_timeout = self.duration(values, "ssl_handshake_timeout", 1, SSL_HANDSHAKE_MAX);
        let handshake_timeout = handshake_timeout.unwrap_or(SSL_HANDSHAKE_DEFAULT);
        let to_kernel = self.boolean(values, "ssl_ktls").unwrap_or(false);
        Tls { cert, key, min_protocol, handshake_timeout, to_kernel, client_certificates, local_names }
    }

    /// Both files or neither.
    fn certificate(&mut self, values: &Values, services: &[Service]) -> (Option<SourcedPath>, Option<SourcedPath>) {
        let problems = self.problems.len();
        let cert = self.pem(values, "ssl_cert");
        let key = self.pem(values, "ssl_key");
        if self.problems.len() == problems {
            match (&cert, &key) {
                (None, None) => self.self_signed(services),
                (Some(cert), None) => {
                    let remedy = "write ssl_key = </path/of/the/file (`doveconf -n` hides it)";
                    self.problem(&cert.at, format!("ssl_cert is set, but ssl_key is not: {remedy}"));
                }
                (None, Some(key)) => {
                    self.problem(
                        &key.at,
                        "ssl_key is set, but ssl_cert is not: write ssl_cert = </path/of/the/file".into(),
                    );
                }
                (Some(_), Some(_)) => {}
            }
        }
        (cert, key)
    }

    /// Sections with a certificate or a key; what one of them lacks is what stands outside.
    fn local_names(
        &mut self,
        sections: &[RawLocalName],
        outside: (&Option<SourcedPath>, &Option<SourcedPath>),
    ) -> Vec<LocalName> {
        if let Some(excess) = sections.get(LOCAL_NAMES_MAX) {
            self.problem(&excess.at, format!("more than {LOCAL_NAMES_MAX} local_name sections with a certificate"));
        }
        let mut found = Vec::new();
        for RawLocalName { name, at, values } in sections {
            let problems = self.problems.len();
            let cert = self.pem(values, "ssl_cert").or_else(|| outside.0.clone());
            let key = self.pem(values, "ssl_key").or_else(|| outside.1.clone());
            match cert.zip(key) {
                Some((cert, key)) => {
                    let names = name.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                    found.push(LocalName { names, cert, key });
                }
                None if self.problems.len() == problems => {
                    let words = "needs both ssl_cert and ssl_key, here or outside";
                    self.problem(at, format!("local_name {name}: its certificate {words}"));
                }
                None => {}
            }
        }
        found
    }

    /// Dovecot asks by one setting, and refuses by the other; the second alone asks nobody there, and lets nobody in.
    fn client_certificates(&mut self, values: &Values) -> Option<ClientCertificates> {
        const ASKS: &str = "ssl_verify_client_cert";
        const REQUIRES: &str = "auth_ssl_require_client_cert";
        let asks = self.boolean(values, ASKS).unwrap_or(false);
        let required = self.boolean(values, REQUIRES).unwrap_or(false);
        let require_crl = self.boolean(values, "ssl_require_crl").unwrap_or(true);
        let setting = values.get(if asks { ASKS } else { REQUIRES }).filter(|_| asks || required)?;
        let Some(authorities) = self.pem(values, "ssl_ca") else {
            let (ca, remedy) = match setting.key.starts_with("ssl_server_") {
                true => ("ssl_server_ca_file", "ssl_server_ca_file = /path/of/the/file"),
                false => ("ssl_ca", "ssl_ca = </path/of/the/file"),
            };
            self.problem(&setting.at, format!("{} set, but {ca} not: write {remedy}", setting.key));
            return None;
        };
        if !asks {
            let words = "clients are asked for a certificate here; Dovecot does that only if ssl_verify_client_cert \
                         (2.4: ssl_server_request_client_cert) is set as well, and else lets nobody log in";
            self.warn(&setting.at, format!("{} = yes: {words}", setting.key));
        }
        Some(ClientCertificates { authorities, required, require_crl })
    }

    /// Dovecot's names of versions; what is older than 1.2 is not spoken here, whoever asks for it.
    fn min_protocol(&mut self, values: &Values) -> TlsVersion {
        const OLDER: [&str; 4] = ["TLSv1.1", "TLSv1", "SSLv3", "ANY"];
        let is = |text: &str, names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(text));
        let mut older = None;
        let version = self.with(values, "ssl_min_protocol", |text| match text {
            _ if is(text, &["TLSv1.3", "LATEST"]) => Ok(TlsVersion::V13),
            _ if is(text, &["TLSv1.2"]) => Ok(TlsVersion::V12),
            _ if is(text, &OLDER) => {
                older = Some(text.to_string());
                Ok(TlsVersion::V12)
            }
            _ => Err(format!("Invalid ssl_min_protocol: {text} (use TLSv1.2 or TLSv1.3)")),
        });
        if let Some(text) = older {
            let words = "TLS 1.2 is the least that is spoken here: older clients are refused";
            self.warn(&values["ssl_min_protocol"].at, format!("ssl_min_protocol = {text}: {words}"));
        }
        version.unwrap_or_default()
    }

    fn self_signed(&mut self, services: &[Service]) {
        for listener in services.iter().flat_map(|service| &service.listeners).filter(|listener| listener.ssl) {
            let words = "ssl = yes, but ssl_cert is not set: a self-signed certificate is made at start, which no client can verify";
            self.warn(&listener.at, format!("inet_listener {}: {words}", listener.name));
        }
    }

    fn pem(&mut self, values: &Values, name: &str) -> Option<SourcedPath> {
        let setting = values.get(name)?;
        let path = match &setting.value {
            Value::File(path) => path.clone(),
            // Dovecot 2.4's ssl_server_*_file settings hold the path itself.
            Value::Plain(_) | Value::Quoted(_) if setting.key.ends_with("_file") => self.text(setting)?,
            Value::Plain(text) | Value::Quoted(text) if text.is_empty() => return None,
            _ => {
                self.problem(&setting.at, format!("{name} does not name a file: write {name} = </path/of/the/file"));
                return None;
            }
        };
        Some(SourcedPath { path: beside(&setting.at, &path), at: setting.at.clone() }).filter(|_| !path.is_empty())
    }
}

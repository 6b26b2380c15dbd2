//! The certificates and keys that a TLS listener shows, and what it asks of clients.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ALL_VERSIONS, InconsistentKeys, ServerConfig, SupportedProtocolVersion};

use super::clients::ClientAuthorities;
use super::names::Shown;
use super::pem;

/// Largest certificate or key file that is read, in bytes.
pub const PEM_FILE_MAX: u64 = 1024 * 1024;

static ONLY_TLS_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];

/// A certificate chain and the private key that belongs to it; others for clients that ask for their names.
#[derive(Clone, Debug)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    shown: Shown,
    clients: Option<ClientAuthorities>,
    only_tls_1_3: bool,
    /// What clients resume their sessions by: their own memory, sealed with a key of ours that changes twice a day.
    tickets: Option<Arc<dyn ProducesTickets>>,
}

impl Identity {
    /// Reads a PEM chain, the server's own certificate first, and its unencrypted PEM key (PKCS#8, PKCS#1 or SEC1).
    /// Both may be in one file.
    ///
    /// # Errors
    /// Each names the file at fault; a pair that loads without one can serve.
    pub fn load(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
        let chain = certificates(certificate)?;
        let private = private_key(key)?;
        Identity::certify(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate: certificate.into(), key: key.into() }
            }
            rustls::Error::InvalidCertificate(_) => TlsError::Certificate { path: certificate.into(), error },
            error => TlsError::Key { path: key.into(), error },
        })
    }

    /// Makes a new key and a certificate for `names` (host names or IP addresses) that no client can verify.
    ///
    /// # Errors
    /// A name that is neither, or a system without randomness.
    pub fn self_signed(names: &[&str]) -> Result<Identity, TlsError> {
        let (certificate, key) = make_self_signed(names).map_err(TlsError::SelfSigned)?;
        Ok(Identity::certify(vec![certificate], key).expect("the certificate was made for the key"))
    }

    /// Shown in TLS 1.3 only (`ssl_min_protocol = TLSv1.3`): a client that offers no more than 1.2 is refused.
    pub fn only_tls_1_3(self) -> Identity {
        Identity { only_tls_1_3: true, ..self }
    }

    /// Shows `other`'s certificate, instead of this one's, to clients that ask (SNI) for one of the host names, as Dovecot matches
    /// them: `*` before a dot stands for the rest of one label. Of several that match the first that was added counts.
    pub fn for_names(mut self, names: &[String], other: &Identity) -> Identity {
        self.shown.named.push((names.to_vec(), other.shown.otherwise.clone()));
        self
    }

    /// Asks clients for a certificate. Sessions are not resumed then: a client shows its certificate each time, which may have
    /// been revoked meanwhile.
    pub fn ask_clients(self, authorities: ClientAuthorities) -> Identity {
        Identity { clients: Some(authorities), tickets: None, ..self }
    }

    /// Takes the place of another one. If both show the same, clients of `former` can resume their sessions.
    pub fn succeed(self, former: &Identity) -> Identity {
        let same = self.shown.is_same(&former.shown) && self.only_tls_1_3 == former.only_tls_1_3;
        match same && self.tickets.is_some() && former.tickets.is_some() {
            true => Identity { tickets: former.tickets.clone(), ..self },
            false => self,
        }
    }

    /// Whether the names in clients' certificates can be believed.
    pub(super) fn verifies_clients(&self) -> bool {
        self.clients.as_ref().is_some_and(ClientAuthorities::verifies)
    }

    /// What a listener of protocols `alpn` speaks: TLS 1.2, unless it is switched off, and 1.3, with this identity. With an empty list ALPN is not
    /// negotiated; otherwise a client that offers only other protocols is refused (RFC 7301, section 3.2).
    pub(super) fn server_config(&self, alpn: &[&str]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(if self.only_tls_1_3 { &ONLY_TLS_1_3 } else { ALL_VERSIONS })
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let builder = match &self.clients {
            Some(authorities) => builder.with_client_cert_verifier(authorities.verifier()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.shown.clone()));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Nothing of a session is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &self.tickets {
            Some(tickets) => config.ticketer = tickets.clone(),
            None => config.send_tls13_tickets = 0,
        }
        config
    }

    /// The same with a key of its own for tickets.
    #[cfg(test)]
    pub(super) fn with_other_tickets(self) -> Identity {
        Identity { tickets: ring::Ticketer::new().ok(), ..self }
    }

    #[cfg(test)]
    pub(super) fn shares_tickets(&self, other: &Identity) -> bool {
        let at = |identity: &Identity| identity.tickets.as_ref().map(|tickets| Arc::as_ptr(tickets).cast::<()>());
        at(self).is_some() && at(self) == at(other)
    }

    #[cfg(test)]
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.shown.otherwise.cert[0].clone()
    }

    fn certify(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Identity, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let otherwise = Arc::new(CertifiedKey::from_der(chain, key, &provider)?);
        let shown = Shown { otherwise, named: Vec::new() };
        // Without a key sessions are not resumed, and all else goes on.
        let tickets = ring::Ticketer::new().ok();
        Ok(Identity { provider, shown, clients: None, only_tls_1_3: false, tickets })
    }
}

/// Why there is no identity.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be opened or read, or is larger than [`PEM_FILE_MAX`].
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A PEM section of the file is broken.
    Pem {
        /// The file.
        path: PathBuf,
        /// What is broken.
        error: PemError,
    },
    /// The file has no certificate in it.
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What it holds instead, and what to do.
        instead: &'static str,
    },
    /// The file has no key in it that can be used without a pass phrase.
    NoKey {
        /// The file.
        path: PathBuf,
        /// What it holds instead, and what to do.
        instead: &'static str,
    },
    /// The first certificate is not one that a server can show.
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: rustls::Error,
    },
    /// The key is of no kind that TLS can sign with.
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: rustls::Error,
    },
    /// The key is not the one that the certificate was made for.
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The file has no certificates by which those of clients can be verified.
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// No certificate could be made.
    SelfSigned(rcgen::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Unreadable { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            TlsError::Pem { path, error } => {
                write!(f, "{} is not valid PEM: {}", path.display(), pem::broken(error))
            }
            TlsError::NoCertificate { path, instead } => {
                write!(f, "no certificate in {} (expected -----BEGIN CERTIFICATE-----): {instead}", path.display())
            }
            TlsError::NoKey { path, instead } => {
                write!(f, "no unencrypted private key in {}: {instead}", path.display())
            }
            TlsError::Certificate { path, error } => write!(f, "certificate {} is unusable: {error}", path.display()),
            TlsError::Key { path, error } => {
                let of_use = pem::KEYS_OF_USE;
                write!(f, "private key {} is unusable; of use is {of_use}: {error}", path.display())
            }
            TlsError::Mismatch { certificate, key } => {
                write!(f, "private key {} does not belong to certificate {}", key.display(), certificate.display())
            }
            TlsError::Authorities { path, error } => {
                write!(f, "the authorities in {} are unusable: {error}", path.display())
            }
            TlsError::SelfSigned(error) => write!(f, "cannot make a self-signed certificate: {error}"),
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TlsError::Unreadable { error, .. } => Some(error),
            TlsError::Pem { error, .. } => Some(error),
            TlsError::Certificate { error, .. } | TlsError::Key { error, .. } => Some(error),
            TlsError::SelfSigned(error) => Some(error),
            TlsError::NoCertificate { .. } | TlsError::NoKey { .. } => None,
            TlsError::Mismatch { .. } | TlsError::Authorities { .. } => None,
        }
    }
}

fn make_self_signed(names: &[&str]) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    let mut request = CertificateParams::new(names)?;
    request.distinguished_name = DistinguishedName::new();
    request.distinguished_name.push(DnType::CommonName, "Vestibule, self-signed");
    let key = KeyPair::generate()?;
    Ok((request.self_signed(&key)?.into(), key.into()))
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { path: path.into(), error })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.into(), instead: pem::instead(&content) });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let content = read(path)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|error| match error {
        // The older form of encryption is headers in the section, which no reader of keys in clear knows.
        error if matches!(error, PemError::NoItemsFound) || pem::has_pass_phrase(&content) => {
            TlsError::NoKey { path: path.into(), instead: pem::instead(&content) }
        }
        error => TlsError::Pem { path: path.into(), error },
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable { path: path.into(), error };
    let mut content = Vec::new();
    // Without waiting: a FIFO that nobody writes to would hold whoever opens it.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    file.take(PEM_FILE_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > PEM_FILE_MAX {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    struct Files {
        directory: TempDir,
    }

    impl Files {
        fn new() -> Files {
            Files { directory: tempfile::tempdir().expect("a directory") }
        }

        fn with(&self, name: &str, content: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::write(&path, content).expect("a file");
            path
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["mail.example".into()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn refusal(certificate: &Path, key: &Path) -> String {
        Identity::load(certificate, key).expect_err("it must not load").to_string()
    }

    #[test]
    fn loads_two_files_or_one() {
        let (files, (certificate, key)) = (Files::new(), pair());
        let both = files.with("both.pem", &format!("{key}text between\n{certificate}"));
        let (certificate, key) = (files.with("cert.pem", &certificate), files.with("key.pem", &key));
        Identity::load(&certificate, &key).expect("a pair");
        Identity::load(&both, &both).expect("a pair");
    }

    #[test]
    fn every_refusal_names_the_file_and_the_cause() {
        let (files, (certificate, key), (_, other_key)) = (Files::new(), pair(), pair());
        let missing = files.directory.path().join("missing.pem");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let encrypted = files.with("encrypted.pem", encrypted);
        let cut = files.with("cut.pem", &certificate[..certificate.len() / 2]);
        let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let noise = files.with("noise.pem", noise);
        let noise_key = files.with("noise-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let section = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let request = files.with("request.pem", &section("CERTIFICATE REQUEST"));
        let trusted = files.with("trusted.pem", &section("TRUSTED CERTIFICATE"));
        let parameters = files.with("parameters.pem", &section("EC PARAMETERS"));
        let traditional = section("RSA PRIVATE KEY").replacen("\nAAAA", "\nProc-Type: 4,ENCRYPTED\n\nAAAA", 1);
        let traditional = files.with("traditional.pem", &traditional);
        let joined = files.with("joined.pem", &section("PRIVATE KEY").replacen("-----\n", "-----x\n", 1));
        let binary = files.with("binary.der", "0\u{1}\u{2}");
        let (empty, text) = (files.with("empty.pem", ""), files.with("text.pem", "nothing\n"));
        let huge = files.with("huge.pem", &"x".repeat(PEM_FILE_MAX as usize + 1));
        let (certificate, key) = (files.with("cert.pem", &certificate), files.with("key.pem", &key));
        let other_key = files.with("other.pem", &other_key);
        for (certificate, key, file, cause) in [
            (&missing, &key, "missing.pem", "cannot read"),
            (&certificate, &missing, "missing.pem", "cannot read"),
            (&huge, &key, "huge.pem", "larger than"),
            (&key, &key, "key.pem", "CERTIFICATE-----): it holds a private key: are two settings exchanged?"),
            (&certificate, &certificate, "cert.pem", ": it holds a certificate: are two settings exchanged?"),
            (
                &certificate,
                &encrypted,
                "encrypted.pem",
                "its key has a pass phrase, which `openssl pkey -in OLD -out NEW`",
            ),
            (
                &certificate,
                &traditional,
                "traditional.pem",
                "its key has a pass phrase, which `openssl pkey -in OLD -out NEW`",
            ),
            (&cut, &key, "cut.pem", "is not valid PEM: a line -----END CERTIFICATE----- is missing"),
            (
                &certificate,
                &joined,
                "joined.pem",
                "is not valid PEM: a section begins with \"-----BEGIN PRIVATE KEY-----x\"",
            ),
            (&empty, &key, "empty.pem", ": it is empty"),
            (&request, &key, "request.pem", ": it holds a request"),
            (&trusted, &key, "trusted.pem", "`openssl x509 -in OLD -out NEW`"),
            (&parameters, &key, "parameters.pem", ": what it holds is something else"),
            (&binary, &key, "binary.der", "`openssl x509 -inform DER`"),
            (&certificate, &binary, "binary.der", "`openssl pkey -inform DER`"),
            (&text, &key, "text.pem", ": it is not PEM"),
            (&noise, &key, "noise.pem", "certificate"),
            (
                &certificate,
                &noise_key,
                "noise-key.pem",
                "is unusable; of use is RSA of 2048 to 4096 bits, ECDSA on P-256",
            ),
            (&certificate, &other_key, "other.pem", "does not belong to certificate"),
        ] {
            let text = refusal(certificate, key);
            assert!(text.contains(file) && text.contains(cause), "{text}");
        }
    }

    #[test]
    fn self_signed_for_names_and_addresses_but_not_for_nonsense() {
        Identity::self_signed(&["localhost", "127.0.0.1", "::1", "mail.example"]).expect("good names");
        let error = Identity::self_signed(&["m\u{fc}ll"]).expect_err("not ASCII").to_string();
        assert!(error.starts_with("cannot make a self-signed certificate"), "{error}");
    }
}

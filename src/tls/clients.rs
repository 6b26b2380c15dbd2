//! What clients must show of themselves: certificates of some authorities.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::identity::{TlsError, certificates, read};

/// What clients are asked for.
#[derive(Clone, Debug)]
pub struct ClientAuthorities {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Whether the names in certificates that pass may be told.
    verifies: bool,
}

impl ClientAuthorities {
    /// Reads a PEM file with the certificates of authorities, and the lists of the certificates that they have revoked.
    ///
    /// Every client is asked for a certificate. A certificate of another authority, or one that is on a list or out of
    /// date, is refused; and if `required`, so is a client without one. With `require_crl` a certificate counts only if a
    /// list of its authority is there, and in force; if the file has no list at all no certificate can count, so that
    /// everybody is refused, or else served without a name. Without `require_crl` lists are not looked at.
    ///
    /// # Errors
    /// Each names the file; one that loads can verify.
    pub fn load(path: &Path, required: bool, require_crl: bool) -> Result<ClientAuthorities, TlsError> {
        let unusable = |error| TlsError::Authorities { path: path.into(), error };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        let lists = if require_crl { revoked(path)? } else { Vec::new() };
        let listless = require_crl && lists.is_empty();
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(lists)
            .enforce_revocation_expiration();
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|error| unusable(explained(&error)))?;
        match listless && required {
            true => Ok(ClientAuthorities { verifier: Arc::new(Nobody(verifier)), verifies: false }),
            false => Ok(ClientAuthorities { verifier, verifies: !listless }),
        }
    }

    /// Whether a certificate can be verified at all: not if a list of revoked ones is required that the file does not have.
    pub fn verifies(&self) -> bool {
        self.verifies
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }
}

/// openssl's lists are of version 1 unless its configuration says otherwise.
fn explained(error: &VerifierBuilderError) -> String {
    match error {
        VerifierBuilderError::InvalidCrl(_) => format!(
            "{error} (a list of revoked certificates must be of version 2, with a number: crlnumber and crl_extensions in \
             openssl.cnf)"
        ),
        _ => error.to_string(),
    }
}

fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    CertificateRevocationListDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { path: path.into(), error })
}

/// Asks for certificates, and takes none, since none can be known not to be revoked.
#[derive(Debug)]
struct Nobody(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Nobody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)?;
        Err(Error::InvalidCertificate(CertificateError::UnknownRevocationStatus))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Whether a handshake failed because of what the client showed of itself, or did not show.
pub(super) fn is_to_blame(error: &Error) -> bool {
    matches!(error, Error::NoCertificatesPresented | Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_))
}

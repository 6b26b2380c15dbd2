//! Many connections at a time, each with a header of its own.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

use super::client::{Client, address};
use super::header;

/// How many connections a swarm makes, and how many are open at the same time.
pub const CONNECTIONS: u32 = 10_000;
pub const IN_FLIGHT: usize = 256;

/// Makes [`CONNECTIONS`] connections to `to`, [`IN_FLIGHT`] at a time, each conveying another client; gives the number
/// of those whose whole answer is right.
pub fn swarm(to: SocketAddr, is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync) -> usize {
    let ask = || |header: &[u8]| Client::send_to(to, header).read_to_end().0;
    one_after_another(ask, is_right)
}

/// The same with TLS behind the header, and the sessions of clients that return resumed: there are [`IN_FLIGHT`] clients. An
/// answer that does not end with `close_notify` is an error.
pub fn secured_swarm(to: SocketAddr, is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync) -> usize {
    one_after_another(|| secured_client(to), is_right)
}

/// A client that shakes hands behind a header that it is given, and hears all that the other side says until `close_notify`.
pub fn secured_client(to: SocketAddr) -> impl Fn(&[u8]) -> Vec<u8> {
    let config = client_config();
    move |header| {
        let client = Client::send_to(to, header);
        let name = ServerName::try_from("mail.test").expect("a name");
        let tls = ClientConnection::new(config.clone(), name).expect("a configuration");
        let mut said = Vec::new();
        let whole = StreamOwned::new(tls, client.stream).read_to_end(&mut said);
        whole.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&said)));
        said
    }
}

/// `client` makes what asks with a header, one for each thread.
fn one_after_another<A: Fn(&[u8]) -> Vec<u8>>(
    client: impl Fn() -> A + Sync,
    is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync,
) -> usize {
    let next = AtomicU32::new(0);
    let right = AtomicUsize::new(0);
    let ask_on = || {
        let ask = client();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= CONNECTIONS {
                return;
            }
            let source = client_address(number);
            let said = ask(&header::v2(source, address("192.0.2.1:143"), &[]));
            right.fetch_add(is_right(&said, source).into(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            // Small stacks: there are hundreds of them.
            thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, ask_on).expect("a thread");
        }
    });
    right.into_inner()
}

/// A client that believes every certificate and keeps its own tickets.
fn client_config() -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believing(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// Whose certificate it is matters elsewhere.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// 198.18.0.0/15 is set aside for benchmarks.
fn client_address(number: u32) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
    (ip, 1024 + number as u16).into()
}

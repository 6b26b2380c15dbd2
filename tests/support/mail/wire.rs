//! A connection that is read by lines.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

use crate::support::client::Client;

/// A connection, in clear or by TLS.
pub struct Wire {
    stream: Stream,
    /// Bytes that were received and not yet asked for, from `start` on.
    received: Vec<u8>,
    start: usize,
    local: SocketAddr,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// Connects from the address `from`, in clear.
    pub fn connect(from: IpAddr, to: SocketAddr) -> Wire {
        let client = Client::connect(from, to);
        let local = client.local();
        Wire { stream: Stream::Plain(client.stream), received: Vec::new(), start: 0, local }
    }

    /// Connects and begins TLS at once. No certificate is asked for its worth.
    pub fn connect_tls(from: IpAddr, to: SocketAddr) -> Wire {
        Wire::connect(from, to).start_tls()
    }

    /// Begins TLS on the connection.
    pub fn start_tls(self) -> Wire {
        assert!(self.unread().is_empty(), "bytes before TLS: {:?}", String::from_utf8_lossy(self.unread()));
        let Stream::Plain(mut socket) = self.stream else { panic!("TLS has begun already") };
        let name = ServerName::try_from("mail.test").expect("a valid name");
        let mut session = ClientConnection::new(Arc::new(trusting_config()), name).expect("a TLS session");
        while session.is_handshaking() {
            session.complete_io(&mut socket).unwrap_or_else(|error| panic!("TLS handshake: {error}"));
        }
        Wire { stream: Stream::Tls(Box::new(StreamOwned::new(session, socket))), ..self }
    }

    /// This side's address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends all of `bytes`.
    pub fn send(&mut self, bytes: &[u8]) {
        let sent = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        sent.unwrap_or_else(|error| panic!("{} bytes not sent: {error}", bytes.len()));
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes());
    }

    /// The next line without its end; `None` where the other side has ended the connection.
    pub fn next_line(&mut self) -> Option<String> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread()[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.take(searched + at + 1);
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            searched = self.unread().len();
            if self.receive() == 0 {
                return None;
            }
        }
    }

    /// The next line.
    pub fn line(&mut self) -> String {
        let unread = String::from_utf8_lossy(self.unread()).into_owned();
        self.next_line().unwrap_or_else(|| panic!("ended where a line should come; before that: {unread:?}"))
    }

    /// The next line, which must begin with `beginning`.
    pub fn expect(&mut self, beginning: &str) -> String {
        let line = self.line();
        assert!(line.starts_with(beginning), "expected {beginning:?}, the server says {line:?}");
        line
    }

    /// All lines up to one that begins with `beginning`, that one included.
    pub fn until(&mut self, beginning: &str) -> Vec<String> {
        let mut lines = vec![self.line()];
        while !lines.last().is_some_and(|line| line.starts_with(beginning)) {
            match self.next_line() {
                Some(line) => lines.push(line),
                None => panic!("ended before {beginning:?}: {lines:#?}"),
            }
        }
        lines
    }

    /// Exactly `length` bytes.
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread().len() < length {
            assert!(self.receive() > 0, "ended after {} of {length} bytes", self.unread().len());
        }
        self.take(length)
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        while self.receive() > 0 {}
        let all = self.take(self.unread().len());
        String::from_utf8_lossy(&all).into_owned()
    }

    fn unread(&self) -> &[u8] {
        &self.received[self.start..]
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let taken = self.unread()[..length].to_vec();
        self.start += length;
        if self.start == self.received.len() {
            self.received.clear();
            self.start = 0;
        }
        taken
    }

    /// Receives what is there; 0 at the end.
    fn receive(&mut self) -> usize {
        let mut buffer = [0; 64 << 10];
        let received = match &mut self.stream {
            Stream::Plain(socket) => socket.read(&mut buffer),
            Stream::Tls(stream) => stream.read(&mut buffer),
        };
        let length = match received {
            // Dovecot closes without TLS's own farewell.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            other => other.unwrap_or_else(|error| {
                panic!("{error}; before that: {:?}", String::from_utf8_lossy(self.unread()));
            }),
        };
        self.received.extend_from_slice(&buffer[..length]);
        length
    }
}

/// Of a client that takes any certificate.
pub fn trusting_config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth()
}

/// Takes any certificate: those of the servers under test vouch for themselves.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
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

//! A handshake, from the first byte to the session.

use std::io::{self, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use super::cipher::openssl_name;
use super::failure::{Failure, First};
use super::keys::Boundary;
use super::session::Session;
use super::subject::common_name;
use crate::dispatch::{Cut, TLS_UNSENT_MAX, TlsFailure, TlsHandshake, TlsInfo, TlsRecords, TlsSession};

/// Most bytes that a client may send before the handshake is done. A ClientHello is a few hundred to a few thousand.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// A handshake. Until the first byte it is nothing but this.
pub(super) struct Handshake {
    config: Arc<ServerConfig>,
    verifies_clients: bool,
    tls: Option<Box<ServerConnection>>,
    first: First,
    received: usize,
    records: Boundary,
}

impl Handshake {
    pub(super) fn new(config: Arc<ServerConfig>, verifies_clients: bool) -> Handshake {
        Handshake {
            config,
            verifies_clients,
            tls: None,
            first: First::default(),
            received: 0,
            records: Boundary::default(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.received += bytes.len();
        self.first.add(bytes);
        self.records.pass(bytes);
        let tls = match &mut self.tls {
            Some(tls) => tls,
            None => self.tls.insert(connection(self.config.clone())?),
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            // Nothing is read after a close_notify, and a handshake that began with one fails.
            if tls.read_tls(&mut rest).map_err(Failure::Socket)? == 0 {
                break;
            }
            tls.process_new_packets().map_err(|error| Failure::of_said(error, self.first))?;
        }
        match tls.is_handshaking() && self.received >= HANDSHAKE_BYTES_MAX {
            true => Err(Failure::TooMuch),
            false => Ok(()),
        }
    }

    fn info(&self, tls: &ServerConnection) -> TlsInfo {
        let certificate = tls.peer_certificates().and_then(<[_]>::first).filter(|_| self.verifies_clients);
        TlsInfo {
            version: tls.protocol_version().and_then(version),
            cipher: tls.negotiated_cipher_suite().and_then(|suite| openssl_name(suite.suite())),
            server_name: tls.server_name().map(str::to_owned),
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            client_name: certificate.map(|certificate| common_name(certificate).unwrap_or_default()),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

fn connection(config: Arc<ServerConfig>) -> Result<Box<ServerConnection>, Failure> {
    let mut tls = ServerConnection::new(config).map_err(Failure::Tls)?;
    tls.set_buffer_limit(Some(TLS_UNSENT_MAX));
    Ok(Box::new(tls))
}

fn version(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        _ => None,
    }
}

impl TlsRecords for Handshake {
    fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    fn send(&mut self, to: &mut dyn Write) -> io::Result<usize> {
        self.tls.as_mut().map_or(Ok(0), |tls| tls.write_tls(to))
    }
}

impl TlsHandshake for Handshake {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), TlsFailure> {
        self.take(bytes).map_err(TlsFailure::from)
    }

    fn is_complete(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
    }

    fn server_name(&self) -> Option<&str> {
        self.tls.as_ref().and_then(|tls| tls.server_name())
    }

    fn cut(&self, cut: Cut) -> TlsFailure {
        TlsFailure::from(match cut {
            Cut::Closed => Failure::of_closed(self.first),
            Cut::Broken(error) => Failure::Socket(error),
        })
    }

    fn into_session(mut self: Box<Self>) -> Box<dyn TlsSession> {
        let tls = self.tls.take().filter(|tls| !tls.is_handshaking()).expect("the handshake is complete");
        let info = self.info(&tls);
        Box::new(Session::new(tls, info, self.records, self.config.enable_secret_extraction))
    }
}

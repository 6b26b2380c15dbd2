//! Why a handshake has failed, in words and in a code word.

use std::fmt;
use std::io;

use super::clients;
use super::handshake::HANDSHAKE_BYTES_MAX;
use crate::dispatch::TlsFailure;
use crate::proxy::{Diagnosis, Escaped};

/// Why there is no session.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client closed before it had sent a byte: a health check, or a port scan.
    Silent,
    /// The client closed in the middle of what it had to say in TLS.
    Disconnected,
    /// The client closed in the middle of something else.
    Broken(First),
    /// The client sent more than [`HANDSHAKE_BYTES_MAX`].
    TooMuch,
    /// What came first is no TLS.
    NoTls(First),
    /// A check that asks for a version which nobody speaks any more, and takes the alert for an answer.
    OldHello(rustls::Error),
    /// The two do not come to terms; the client was told by an alert.
    Tls(rustls::Error),
    /// The socket failed.
    Socket(io::Error),
}

impl Failure {
    /// Of a client that has closed.
    pub(super) fn of_closed(first: First) -> Failure {
        match first.length {
            0 => Failure::Silent,
            _ if first.may_be_tls() => Failure::Disconnected,
            _ => Failure::Broken(first),
        }
    }

    /// Of what a client has said.
    pub(super) fn of_said(error: rustls::Error, first: First) -> Failure {
        match error {
            rustls::Error::InvalidMessage(_) if !first.is_tls() => Failure::NoTls(first),
            rustls::Error::PeerIncompatible(_) if first.is_ssl_3() => Failure::OldHello(error),
            error => Failure::Tls(error),
        }
    }

    /// A short name for what alike failures have in common; `None` for what is not worth a line.
    fn code(&self) -> Option<&'static str> {
        match self {
            Failure::Silent => None,
            Failure::Disconnected | Failure::Broken(_) => Some("disconnected"),
            Failure::TooMuch => Some("too-much"),
            Failure::Tls(rustls::Error::AlertReceived(_)) => Some("alert"),
            Failure::NoTls(first) if first.is_header() => Some("header-on-tls"),
            Failure::NoTls(_) => Some("no-tls"),
            Failure::Tls(error) if clients::is_to_blame(error) => Some("client-certificate"),
            Failure::Tls(_) | Failure::OldHello(_) => Some("tls"),
            Failure::Socket(_) => Some("socket"),
        }
    }

    /// Whether a health check ends so, as HAProxy's do: it leaves, with or without a hello, before anybody has refused
    /// anything; or its hello is the one of `option ssl-hello-chk`. Any other handshake that was refused is a fault to tell
    /// of, whoever began it.
    fn is_how_checks_end(&self) -> bool {
        matches!(self, Failure::Silent | Failure::Disconnected | Failure::OldHello(_))
    }
}

impl From<Failure> for TlsFailure {
    fn from(failure: Failure) -> TlsFailure {
        TlsFailure { code: failure.code(), is_how_checks_end: failure.is_how_checks_end(), words: failure.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Silent | Failure::Disconnected => f.write_str("client disconnected"),
            Failure::Broken(first) => write!(f, "client disconnected; no TLS: {first}"),
            Failure::TooMuch => write!(f, "client sent more than {HANDSHAKE_BYTES_MAX} bytes"),
            Failure::NoTls(first) => write!(f, "no TLS: {first}"),
            Failure::Tls(error) | Failure::OldHello(error) => write!(f, "{error}"),
            Failure::Socket(error) => write!(f, "{error}"),
        }
    }
}

/// Bytes of a client that are kept for the log: enough to tell what they are.
const FIRST_MAX: usize = 16;

/// What came first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct First {
    bytes: [u8; FIRST_MAX],
    length: usize,
}

impl First {
    pub(super) fn add(&mut self, more: &[u8]) {
        let room = &mut self.bytes[self.length..];
        let taken = room.len().min(more.len());
        room[..taken].copy_from_slice(&more[..taken]);
        self.length += taken;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// A record of TLS begins with its type and the version's upper half.
    fn is_tls(&self) -> bool {
        matches!(self.bytes(), [20..=24, 3, ..])
    }

    /// A handshake's record as of SSL 3.0: clients of today say 3.1 there, whatever they offer.
    fn is_ssl_3(&self) -> bool {
        self.bytes().starts_with(&[22, 3, 0])
    }

    /// What has come so far may be the beginning of one.
    fn may_be_tls(&self) -> bool {
        self.is_tls() || matches!(self.bytes(), [20..=24])
    }

    fn is_header(&self) -> bool {
        Diagnosis::instead_of_tls(self.bytes()) == Diagnosis::HeaderOnTls
    }
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let diagnosis = Diagnosis::instead_of_tls(self.bytes());
        write!(f, "first={} diagnosis={} ({})", Escaped(self.bytes()), diagnosis.code(), diagnosis.advice())
    }
}

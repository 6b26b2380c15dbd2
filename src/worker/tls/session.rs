//! The handshake on a blocking socket under one deadline, and the session that comes of it.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ProtocolVersion, ServerConfig, ServerConnection};

use super::clients;
use super::subject::common_name;
use crate::dispatch::{Accepted, TlsInfo, TlsSession};
use crate::proxy::{Diagnosis, Escaped};

/// Most bytes that a client may send before the handshake is done. A ClientHello is a few hundred to a few thousand.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// An established session.
pub(super) struct Session {
    tls: ServerConnection,
    info: TlsInfo,
}

impl Session {
    /// Shakes hands on the connection's socket, with its residual as the first bytes of the client's; the socket's
    /// timeouts are off afterwards.
    pub(super) fn establish(
        config: Arc<ServerConfig>,
        connection: &Accepted,
        deadline: Instant,
    ) -> Result<Session, Failure> {
        let mut tls = ServerConnection::new(config).map_err(Failure::Tls)?;
        let mut wire = Wire::new(connection.residual(), connection.socket(), deadline);
        while tls.is_handshaking() {
            tls.complete_io(&mut wire).map_err(|error| Failure::of(error, &wire))?;
        }
        // The client finishes in answer to our flight, which it had not seen when it sent the residual.
        debug_assert!(wire.residual.is_empty(), "a handshake takes the bytes in order");
        connection.socket().set_read_timeout(None).map_err(Failure::Socket)?;
        connection.socket().set_write_timeout(None).map_err(Failure::Socket)?;
        let info = info(&tls);
        Ok(Session { tls, info })
    }
}

impl Session {
    /// Tells the name in the client's certificate, which must have been verified.
    pub(super) fn with_client_name(mut self) -> Session {
        let certificate = self.tls.peer_certificates().and_then(<[_]>::first);
        self.info.client_name = certificate.map(|certificate| common_name(certificate).unwrap_or_default());
        self
    }
}

impl TlsSession for Session {
    fn info(&self) -> &TlsInfo {
        &self.info
    }

    fn read(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut socket).read(buffer)
    }

    fn write(&mut self, mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut socket).write(bytes)
    }

    fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        rustls::Stream::new(&mut self.tls, &mut socket).flush()
    }

    fn close(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.tls.send_close_notify();
        self.flush(socket)
    }
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client closed before it had sent a byte: a health check, or a port scan.
    Silent,
    /// The client closed in the middle of what it had to say in TLS.
    Disconnected,
    /// The client closed in the middle of something else.
    Broken(First),
    /// The deadline passed.
    TimedOut,
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
    fn of(error: io::Error, wire: &Wire<'_>) -> Failure {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let received = wire.received;
        match error.kind() {
            io::ErrorKind::TimedOut => Failure::TimedOut,
            io::ErrorKind::QuotaExceeded => Failure::TooMuch,
            UnexpectedEof | ConnectionReset | BrokenPipe if received == 0 => Failure::Silent,
            UnexpectedEof | ConnectionReset | BrokenPipe if wire.first.may_be_tls() => Failure::Disconnected,
            UnexpectedEof | ConnectionReset | BrokenPipe => Failure::Broken(wire.first),
            _ => match error.downcast::<rustls::Error>() {
                Ok(rustls::Error::InvalidMessage(_)) if !wire.first.is_tls() => Failure::NoTls(wire.first),
                Ok(error @ rustls::Error::PeerIncompatible(_)) if wire.first.is_ssl_3() => Failure::OldHello(error),
                Ok(error) => Failure::Tls(error),
                Err(error) => Failure::Socket(error),
            },
        }
    }
}

impl Failure {
    /// A short name for what alike failures have in common; `None` for what is not worth a line.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Failure::Silent => None,
            Failure::Disconnected | Failure::Broken(_) => Some("disconnected"),
            Failure::TimedOut => Some("timed-out"),
            Failure::TooMuch => Some("too-much"),
            Failure::Tls(rustls::Error::AlertReceived(_)) => Some("alert"),
            Failure::NoTls(first) if first.is_header() => Some("header-on-tls"),
            Failure::NoTls(_) => Some("no-tls"),
            Failure::Tls(error) if clients::is_to_blame(error) => Some("client-certificate"),
            Failure::Tls(_) | Failure::OldHello(_) => Some("tls"),
            Failure::Socket(_) => Some("socket"),
        }
    }
}

impl Failure {
    /// Whether a health check ends so, as HAProxy's do: it leaves, with or without a hello, before anybody has refused
    /// anything; or its hello is the one of `option ssl-hello-chk`. Any other handshake that was refused is a fault to tell
    /// of, whoever began it.
    pub(super) fn is_how_checks_end(&self) -> bool {
        matches!(self, Failure::Silent | Failure::Disconnected | Failure::OldHello(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Silent | Failure::Disconnected => f.write_str("client disconnected"),
            Failure::Broken(first) => write!(f, "client disconnected; no TLS: {first}"),
            Failure::TimedOut => f.write_str("client timed out"),
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
    fn add(&mut self, more: &[u8]) {
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

/// The client's bytes, bounded in number and time: the residual first, then the socket's.
struct Wire<'a> {
    residual: &'a [u8],
    socket: &'a TcpStream,
    received: usize,
    first: First,
    deadline: Instant,
}

impl<'a> Wire<'a> {
    fn new(residual: &'a [u8], socket: &'a TcpStream, deadline: Instant) -> Wire<'a> {
        Wire { residual, socket, received: 0, first: First::default(), deadline }
    }

    /// One operation on the socket, with the time that is left; `option` sets it.
    fn timed<T>(
        &self,
        option: impl FnOnce(&TcpStream, Option<Duration>) -> io::Result<()>,
        operation: impl FnOnce(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        option(self.socket, Some(left))?;
        operation(self.socket).map_err(|error| match error.kind() {
            // What a blocking socket says at its timeout.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received >= HANDSHAKE_BYTES_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let count = match self.residual.read(buffer)? {
            0 => self.timed(TcpStream::set_read_timeout, |mut socket| socket.read(buffer))?,
            count => count,
        };
        self.received += count;
        self.first.add(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timed(TcpStream::set_write_timeout, |mut socket| socket.write(bytes))
    }

    /// rustls tries once to send the alert that ends a failed handshake: it must leave with all that goes before it.
    fn write_vectored(&mut self, records: &[IoSlice]) -> io::Result<usize> {
        self.timed(TcpStream::set_write_timeout, |mut socket| socket.write_vectored(records))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn info(tls: &ServerConnection) -> TlsInfo {
    TlsInfo {
        version: tls.protocol_version().and_then(version),
        server_name: tls.server_name().map(str::to_owned),
        alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
        client_name: None,
    }
}

fn version(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::{SOON, connection};

    #[test]
    fn the_bytes_of_a_handshake_are_bounded() {
        let (_client, accepted) = connection(&[b'x'; 2 * HANDSHAKE_BYTES_MAX], false, true);
        let deadline = Instant::now() + SOON;
        let mut wire = Wire::new(accepted.residual(), accepted.socket(), deadline);
        let mut buffer = [0; 4096];
        let error = std::iter::repeat_with(|| wire.read(&mut buffer)).find_map(Result::err).expect("there is a limit");
        assert!(matches!(Failure::of(error, &wire), Failure::TooMuch));
        assert_eq!(wire.received, HANDSHAKE_BYTES_MAX);
    }
}

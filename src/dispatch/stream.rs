//! A connection as a byte stream: the residual first, then the socket, through TLS where there is a session.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::accepted::TlsSession;
use super::bytes::Bytes;

/// Reads the residual, then the socket; writes to the socket. With a TLS session both go through it.
pub struct Stream {
    socket: TcpStream,
    bytes: Bytes,
    /// First byte of `bytes` that was not read yet.
    at: usize,
    tls: Option<Box<dyn TlsSession>>,
}

impl Stream {
    pub(super) fn new(socket: TcpStream, bytes: Bytes, at: usize, tls: Option<Box<dyn TlsSession>>) -> Stream {
        Stream { socket, bytes, at, tls }
    }

    /// The socket, for options such as timeouts. Reading from it directly would skip the residual and break TLS.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Ends the conversation: `close_notify` where there is TLS, then FIN.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.close()?;
        }
        self.socket.shutdown(Shutdown::Write)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls {
            return tls.read(buffer);
        }
        let residual = &self.bytes.as_slice()[self.at..];
        if residual.is_empty() {
            return self.socket.read(buffer);
        }
        let taken = residual.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&residual[..taken]);
        self.at += taken;
        Ok(taken)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(buffer),
            None => self.socket.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.flush(),
            None => Ok(()),
        }
    }
}

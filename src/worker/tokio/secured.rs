//! A TLS session over tokio's socket.

use std::io::{self, ErrorKind, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::net::TcpStream;

use crate::dispatch::TlsSession;

/// Bytes that are read from the socket at once.
const READ_AT_ONCE: usize = 16 * 1024;

/// Reads plaintext. An end without `close_notify` is an error, as over a blocking socket.
pub fn poll_read(
    socket: &mut TcpStream,
    tls: &mut dyn TlsSession,
    writer: &mut Option<Waker>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if buffer.remaining() == 0 {
        return Poll::Ready(Ok(()));
    }
    loop {
        match tls.read(buffer.initialize_unfilled()) {
            Ok(count) => {
                buffer.advance(count);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            Err(_) => ready!(poll_feed(socket, tls, writer, context))?,
        }
    }
}

/// Feeds the session with what the socket has.
fn poll_feed(
    socket: &mut TcpStream,
    tls: &mut dyn TlsSession,
    writer: &mut Option<Waker>,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    // The peer may wait for what is unsent before it says anything. That it cannot be sent yet is no reason not to read.
    if tls.has_unsent() {
        let sent = poll_send(socket, tls, context);
        // A task that waits to write has lost its place at the socket to this one.
        writer.take().iter().for_each(Waker::wake_by_ref);
        if let Poll::Ready(Err(error)) = sent {
            return Poll::Ready(Err(error));
        }
    }
    let mut room = [0; READ_AT_ONCE];
    let mut bytes = ReadBuf::new(&mut room);
    ready!(Pin::new(&mut *socket).poll_read(context, &mut bytes))?;
    if bytes.filled().is_empty() {
        return Poll::Ready(Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer has closed without close_notify")));
    }
    let fed = tls.feed(bytes.filled());
    // An answer, or an alert that tells the peer why.
    let _ = poll_send(socket, tls, context);
    Poll::Ready(fed)
}

/// Notes who waits to write.
pub fn noted<T>(polled: Poll<T>, writer: &mut Option<Waker>, context: &Context<'_>) -> Poll<T> {
    *writer = polled.is_pending().then(|| context.waker().clone());
    polled
}

/// Takes plaintext as soon as all records of before are sent, or as many as the session keeps.
pub fn poll_write(
    socket: &mut TcpStream,
    tls: &mut dyn TlsSession,
    context: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        let sent = poll_send(socket, tls, context)?;
        let taken = tls.write(bytes);
        if taken > 0 || bytes.is_empty() {
            // An error is told by the next call.
            let _ = poll_send(socket, tls, context);
            return Poll::Ready(Ok(taken));
        }
        match sent {
            // It has room, and takes nothing.
            Poll::Ready(()) if !tls.has_unsent() => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            Poll::Ready(()) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Sends all records.
pub fn poll_send(socket: &mut TcpStream, tls: &mut dyn TlsSession, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    while tls.has_unsent() {
        match tls.send(&mut Out { socket, context }) {
            Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// The socket as something that does not wait; whoever is told so is woken when there is room.
struct Out<'a, 'c> {
    socket: &'a mut TcpStream,
    context: &'a mut Context<'c>,
}

impl Out<'_, '_> {
    fn told(polled: Poll<io::Result<usize>>) -> io::Result<usize> {
        match polled {
            Poll::Ready(written) => written,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Out<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Out::told(Pin::new(&mut *self.socket).poll_write(self.context, bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Out::told(Pin::new(&mut *self.socket).poll_write_vectored(self.context, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! A connection as a byte stream: the residual first, then the socket, through TLS where there is a session.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::Accepted;
#[cfg(feature = "tokio")]
use super::TlsSession;

/// Most bytes that [`Stream::finish`] reads away while it waits for the peer to close.
pub const FINISH_BYTES_MAX: usize = 64 * 1024;
/// Longest time for which a peer is read away.
pub const FINISH_PATIENCE_MAX: Duration = Duration::from_secs(60 * 60);

/// Reads the residual, then the socket; writes to the socket. With a TLS session both go through it.
///
/// Blocking reads and writes on the standard library's socket; `AsyncRead` and `AsyncWrite` on tokio's.
#[derive(Debug)]
pub struct Stream<S = TcpStream> {
    accepted: Accepted<S>,
    /// Bytes of the residual that were read already.
    at: usize,
    /// A task that waits to write, of a session to which another one reads.
    #[cfg(feature = "tokio")]
    writer: Option<std::task::Waker>,
}

impl<S> Stream<S> {
    pub(super) fn new(accepted: Accepted<S>) -> Stream<S> {
        Stream {
            accepted,
            at: 0,
            #[cfg(feature = "tokio")]
            writer: None,
        }
    }

    /// The connection's metadata; its `residual()` is the whole of it, whatever was read of the stream.
    pub fn accepted(&self) -> &Accepted<S> {
        &self.accepted
    }

    /// The next bytes of the residual, at most `most`; empty when all were taken.
    pub(crate) fn take_residual(&mut self, most: usize) -> &[u8] {
        let left = &self.accepted.residual()[self.at..];
        let taken = left.len().min(most);
        self.at += taken;
        &left[..taken]
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn socket_mut(&mut self) -> &mut S {
        &mut self.accepted.socket
    }

    /// The socket, the session that everything has to go through, and the task that waits to write.
    #[cfg(feature = "tokio")]
    pub(crate) fn secured(&mut self) -> Option<(&mut S, &mut dyn TlsSession, &mut Option<std::task::Waker>)> {
        let Accepted { socket, tls, .. } = &mut self.accepted;
        Some((socket, tls.as_deref_mut()?, &mut self.writer))
    }
}

impl Stream {
    /// Ends the conversation so that the peer gets all that was written: `close_notify` where there is TLS, FIN, then
    /// what the peer still sends is read away until it closes too, for at most `patience` (or
    /// [`FINISH_PATIENCE_MAX`]) and [`FINISH_BYTES_MAX`] bytes. Closing a socket with unread bytes would reset the connection, and a reset can
    /// destroy what is under way.
    pub fn finish(mut self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience.min(FINISH_PATIENCE_MAX);
        let Accepted { socket, tls, .. } = &mut self.accepted;
        if let Some(tls) = tls {
            tls.close();
            tls.flush_over(socket)?;
        }
        socket.shutdown(Shutdown::Write)?;
        read_away(socket, deadline)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Accepted { socket, tls, .. } = &mut self.accepted;
        if let Some(tls) = tls {
            return tls.read_over(socket, buffer);
        }
        match self.take_residual(buffer.len()) {
            [] => self.accepted.socket().read(buffer),
            mut first => first.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Accepted { socket, tls, .. } = &mut self.accepted;
        match tls {
            Some(tls) => tls.write_over(socket, bytes),
            None => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Accepted { socket, tls, .. } = &mut self.accepted;
        match tls {
            Some(tls) => tls.flush_over(socket),
            None => Ok(()),
        }
    }
}

fn read_away(mut socket: &TcpStream, deadline: Instant) -> io::Result<()> {
    let mut scratch = [0; 4096];
    let mut total = 0;
    while total < FINISH_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut scratch) {
            Ok(0) => break,
            Ok(count) => total += count,
            // The peer is gone or silent: there is nothing left to protect.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::{SOON, connection, proxied};

    #[test]
    fn the_residual_comes_first_in_pieces_of_any_size() {
        for size in 1..12 {
            let (mut client, accepted) = proxied(b"a NOOP\r\n");
            let mut stream = accepted.into_stream();
            client.write_all(b"b LOGOUT\r\n").expect("connected");
            client.shutdown(Shutdown::Write).expect("connected");
            let (mut got, mut piece) = (Vec::new(), vec![0; size]);
            loop {
                match stream.read(&mut piece).expect("the client has sent") {
                    0 => break,
                    count => got.extend_from_slice(&piece[..count]),
                }
            }
            assert_eq!(got, b"a NOOP\r\nb LOGOUT\r\n");
            assert_eq!(stream.accepted().residual(), b"a NOOP\r\n");
        }
    }

    #[test]
    fn writes_reach_the_client() {
        let (mut client, accepted) = connection(b"", false, false);
        let mut stream = accepted.into_stream();
        stream.write_all(b"* OK ready\r\n").and_then(|()| stream.flush()).expect("connected");
        drop(stream);
        let mut got = String::new();
        client.read_to_string(&mut got).expect("all was read before the close");
        assert_eq!(got, "* OK ready\r\n");
    }

    #[test]
    fn finish_saves_the_last_words_from_bytes_that_nobody_read() {
        let (mut client, accepted) = connection(b"", false, false);
        client.write_all(b"a NOOP\r\n").expect("connected");
        let reader = std::thread::spawn(move || {
            let mut got = String::new();
            client.read_to_string(&mut got).map(|_| got)
        });
        let mut stream = accepted.into_stream();
        stream.write_all(b"* BYE\r\n").expect("connected");
        stream.finish(SOON).expect("connected");
        assert_eq!(reader.join().expect("no panic").expect("no reset"), "* BYE\r\n");
    }

    #[test]
    fn finish_has_a_limit_of_time_and_of_bytes() {
        let (client, accepted) = connection(b"", false, false);
        accepted.into_stream().finish(Duration::from_millis(30)).expect("connected");
        drop(client);

        let (mut client, accepted) = connection(b"", false, false);
        let flood = std::thread::spawn(move || while client.write_all(&[b'x'; 4096]).is_ok() {});
        accepted.into_stream().finish(SOON).expect("connected");
        flood.join().expect("the flood ends by the reset");
    }
}

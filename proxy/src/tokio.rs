//! The header off a stream of tokio's: one deadline for all of it, a bound for its length, and nothing lost of what comes behind.
//!
//! Whether the peer may send a header at all is for the caller to know, by its address, before a byte is read. Servers that accept
//! many connections are better off with an engine of crate `vestibule`, which does both for them.
#![forbid(unsafe_code)]

use core::fmt;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::error::Error;
use std::io::{self, IoSlice};
use std::time::Instant;
use std::vec::Vec;

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::time::timeout_at;

use crate::proxy::{Decoded, Header, Reason, Rules, decode, diagnose};

/// Bytes for which there is room before the header says that it is longer: enough for nearly all.
const ROOM: usize = 256;

/// Reads the header at the start of a stream, as [`decode`] understands it. Never more than the header may have by `rules`, or
/// 256 bytes, is read; what came behind it is read first from what is returned.
///
/// The whole header must be there at `deadline`: bytes that trickle in do not extend it. If the future is dropped, the stream goes
/// with it and whatever was read of it. Needs a runtime whose time is enabled.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
/// use vestibule_proxy::Rules;
/// use vestibule_proxy::tokio::read_header;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let (mut balancer, socket) = duplex(1024);
/// balancer.write_all(b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\na NOOP").await?;
/// drop(balancer);
/// let mut stream = read_header(socket, &Rules::default(), Instant::now() + Duration::from_secs(3)).await?;
/// assert_eq!(stream.header().source(), Some("198.51.100.7:5000".parse()?));
/// let mut said = String::new();
/// stream.read_to_string(&mut said).await?;
/// assert_eq!(said, "a NOOP");
/// # Ok(())
/// # })
/// # }
/// ```
///
/// # Errors
/// [`ReadError`]: the connection is to be closed without a word, as the specification has it.
pub async fn read_header<S: AsyncRead + Unpin>(
    mut stream: S,
    rules: &Rules,
    deadline: Instant,
) -> Result<Headed<S>, ReadError> {
    let mut bytes = Vec::new();
    let stop = match timeout_at(deadline.into(), fill(&mut stream, rules, &mut bytes)).await {
        Ok(Ok(length)) => return Ok(Headed { stream, bytes, rules: *rules, length, at: length }),
        Ok(Err(stop)) => stop,
        Err(_) => Stop::TimedOut,
    };
    Err(ReadError { stop, bytes })
}

/// Reads until the header is complete; its length.
async fn fill<S: AsyncRead + Unpin>(stream: &mut S, rules: &Rules, bytes: &mut Vec<u8>) -> Result<usize, Stop> {
    loop {
        let room = match decode(bytes, rules) {
            Decoded::Complete(header) => return Ok(header.len()),
            Decoded::Absent { at } => return Err(Stop::Absent { at }),
            Decoded::Invalid { reason, at } => return Err(Stop::Invalid { reason, at }),
            Decoded::Incomplete { need } => need.max(ROOM),
        };
        let room = room.max(bytes.len() + 1);
        let read = poll_fn(|context| read_some(Pin::new(&mut *stream), context, bytes, room)).await;
        if read.map_err(Stop::Failed)? == 0 {
            return Err(Stop::Ended);
        }
    }
}

/// Reads until so many bytes are there, at most. Whatever it yields, no more bytes are there than were read.
fn read_some<S: AsyncRead>(
    stream: Pin<&mut S>,
    context: &mut Context<'_>,
    bytes: &mut Vec<u8>,
    room: usize,
) -> Poll<io::Result<usize>> {
    let before = bytes.len();
    bytes.resize(room, 0);
    let mut buffer = ReadBuf::new(&mut bytes[before..]);
    let polled = stream.poll_read(context, &mut buffer);
    let read = buffer.filled().len();
    bytes.truncate(before + read);
    polled.map_ok(|()| read)
}

/// A stream whose header was read. It reads what came behind that, then on from the stream below; it writes there.
#[derive(Debug)]
pub struct Headed<S> {
    stream: S,
    /// The header, and what came behind it in the same reads.
    bytes: Vec<u8>,
    rules: Rules,
    /// Of the header.
    length: usize,
    /// So many of `bytes` were read, the header included.
    at: usize,
}

impl<S> Headed<S> {
    /// The header.
    pub fn header(&self) -> Header<'_> {
        match decode(&self.bytes[..self.length], &self.rules) {
            Decoded::Complete(header) => header,
            other => unreachable!("it was complete, and a verdict depends on the bytes alone: {other:?}"),
        }
    }

    /// What came behind the header and has not been read yet; it comes before what the stream below has.
    pub fn residual(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream below, and what came behind the header and has not been read.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        let residual = self.bytes.split_off(self.at);
        (self.stream, residual)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Headed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = &this.bytes[this.at..];
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        this.at += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Headed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Why there is no header.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stop {
    /// The stream does not begin with one: byte `at` (from 1) shows it.
    Absent {
        /// The deciding byte, counted from 1.
        at: usize,
    },
    /// One begins, but byte `at` (from 1) breaks a rule.
    Invalid {
        /// The rule.
        reason: Reason,
        /// The deciding byte, counted from 1.
        at: usize,
    },
    /// The stream ended before it was complete; without a byte, as health checks do.
    Ended,
    /// It was not complete at the deadline.
    TimedOut,
    /// The stream could not be read.
    Failed(io::Error),
}

/// Why there is no header, and what there was instead.
#[derive(Debug)]
pub struct ReadError {
    /// Why.
    pub stop: Stop,
    /// What had been read by then.
    pub bytes: Vec<u8>,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.bytes.len();
        match &self.stop {
            Stop::Absent { at } => write!(f, "no PROXY header (byte {at} shows it): {}", diagnose(&self.bytes).code()),
            Stop::Invalid { reason, at } => write!(f, "invalid PROXY header: {} at byte {at}", reason.code()),
            Stop::Ended => write!(f, "the stream ended {count} bytes into the PROXY header"),
            Stop::TimedOut => write!(f, "the PROXY header was not complete in time, after {count} bytes"),
            Stop::Failed(error) => write!(f, "the PROXY header cannot be read: {error}"),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.stop {
            Stop::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        let kind = match &error.stop {
            Stop::Absent { .. } | Stop::Invalid { .. } => io::ErrorKind::InvalidData,
            Stop::Ended => io::ErrorKind::UnexpectedEof,
            Stop::TimedOut => io::ErrorKind::TimedOut,
            Stop::Failed(error) => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::proxy::{Encoder, Tlv};

    const LINE: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
    /// Longer than any machine needs.
    const SOON: Duration = Duration::from_secs(60);

    fn run<T>(task: impl Future<Output = T>) -> T {
        ::tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(task)
    }

    /// What is read of a stream that brings these pieces, then ends.
    async fn read_of(pieces: &[&[u8]], rules: &Rules) -> Result<Headed<DuplexStream>, ReadError> {
        let (mut peer, stream) = duplex(1 << 17);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writer = ::tokio::spawn(async move {
            for piece in pieces {
                peer.write_all(&piece).await.expect("there is room");
                ::tokio::task::yield_now().await;
            }
        });
        let read = read_header(stream, rules, Instant::now() + SOON).await;
        writer.await.expect("no panic");
        read
    }

    async fn rest(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("it ends in order");
        rest
    }

    #[test]
    fn however_the_stream_is_cut_header_and_rest_are_the_same() {
        let whole = [LINE, b"a NOOP\r\n"].concat();
        for cut in 0..whole.len() {
            run(async {
                let (first, second) = whole.split_at(cut);
                let stream = read_of(&[first, second], &Rules::default()).await.expect("a header");
                assert_eq!(stream.header().source(), Some("198.51.100.7:5000".parse().expect("an address")), "{cut}");
                assert!(b"a NOOP\r\n".starts_with(stream.residual()));
                assert_eq!(rest(stream).await, b"a NOOP\r\n", "{cut}");
            });
        }
    }

    #[test]
    fn a_long_header_has_its_room_and_not_more() {
        let value = [b'x'; 3000];
        let mut room = [0; 4096];
        let ends = ["198.51.100.7:5000", "192.0.2.1:143"].map(|end| end.parse().expect("an address"));
        let tlvs = [Tlv { kind: 0xe0, value: &value }];
        let length = Encoder::proxy(ends[0], ends[1]).tlvs(&tlvs).encode(&mut room).expect("there is room");
        let whole = [&room[..length], b"behind"].concat();
        run(async {
            let stream = read_of(&[&whole], &Rules::default()).await.expect("a header");
            assert_eq!((stream.header().len(), stream.residual()), (length, &b""[..]));
            assert_eq!(rest(stream).await, b"behind");
            let least = Rules { header_limit: 232, ..Rules::default() };
            let error = read_of(&[&whole], &least).await.expect_err("it is too long");
            assert!(matches!(error.stop, Stop::Invalid { .. }) && error.bytes.len() <= ROOM, "{error}");
        });
    }

    #[test]
    fn each_reason_why_there_is_none() {
        run(async {
            let kind = |error: ReadError| io::Error::from(error).kind();
            let rules = Rules::default();
            let error = read_of(&[b"GET / HTTP/1.1\r\n"], &rules).await.expect_err("absent");
            assert!(matches!(error.stop, Stop::Absent { at: 1 }), "{error:?}");
            assert!(error.to_string().contains("no PROXY header (byte 1 shows it): http"), "{error}");
            assert_eq!(kind(error), io::ErrorKind::InvalidData);
            let error =
                read_of(&[b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 99999\r\n"], &rules).await.expect_err("invalid");
            assert!(matches!(error.stop, Stop::Invalid { .. }), "{error:?}");
            let error = read_of(&[b"PROXY TC"], &rules).await.expect_err("ended");
            assert!(matches!(error.stop, Stop::Ended), "{error:?}");
            assert_eq!(error.bytes, b"PROXY TC");
            assert_eq!(kind(error), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn bytes_that_trickle_in_do_not_extend_the_deadline() {
        run(async {
            let (mut peer, stream) = duplex(64);
            // One byte in ten milliseconds: the line would take 450, and each byte comes well within 200.
            let trickle = ::tokio::spawn(async move {
                for byte in LINE {
                    if peer.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    ::tokio::time::sleep(Duration::from_millis(10)).await;
                }
                ::tokio::time::sleep(SOON).await;
            });
            let deadline = Instant::now() + Duration::from_millis(200);
            let error = read_header(stream, &Rules::default(), deadline).await.expect_err("it is not complete by then");
            assert!(matches!(error.stop, Stop::TimedOut) && Instant::now() >= deadline, "{error:?}");
            assert!(LINE.starts_with(&error.bytes));
            trickle.abort();
        });
    }

    #[test]
    fn who_lends_a_stream_has_it_back() {
        run(async {
            let (mut peer, mut stream) = duplex(64);
            peer.write_all(b"QUIT\r\n").await.expect("there is room");
            let refused = read_header(&mut stream, &Rules::default(), Instant::now() + SOON).await;
            assert!(refused.is_err());
            stream.write_all(b"421 no\r\n").await.expect("there is room");
            let mut said = [0; 8];
            peer.read_exact(&mut said).await.expect("it was said");
            assert_eq!(&said, b"421 no\r\n");
            peer.write_all(&[LINE, b"x"].concat()).await.expect("there is room");
            let headed = read_header(stream, &Rules::default(), Instant::now() + SOON).await.expect("a header");
            let (_, residual) = headed.into_parts();
            assert_eq!(residual, b"x");
        });
    }
}

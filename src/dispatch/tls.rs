//! TLS that ends here, without a socket: bytes of the peer go in, records for it come out.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

/// Most bytes of the peer that a session is to be fed at once.
pub const TLS_FEED_MAX: usize = 64 * 1024;
/// Most bytes that a session has to send and that nobody has taken yet, in plaintext: what it is given beyond that it does not take.
pub const TLS_UNSENT_MAX: usize = 64 * 1024;

/// Bytes that are read from a blocking socket at once.
const READ_AT_ONCE: usize = 16 * 1024;

/// What a TLS handshake told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// `TLSv1.3`, `TLSv1.2`.
    pub version: Option<&'static str>,
    /// The cipher suite as OpenSSL calls it, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: Option<&'static str>,
    /// The server name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// The protocol agreed by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The common name in the client's certificate, empty if that has none; `None` without a certificate that was asked
    /// for and verified.
    pub client_name: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// What has records for the peer.
pub trait TlsRecords: Send + Sync {
    /// Whether there are records that nobody has taken yet.
    fn has_unsent(&self) -> bool;

    /// Writes records, as many as `to` takes at once.
    ///
    /// # Errors
    /// Those of `to`.
    fn send(&mut self, to: &mut dyn Write) -> io::Result<usize>;
}

/// An established TLS session: what the peer sends is fed to it and read from it as plaintext, plaintext is written to it
/// and comes out as records. It knows no socket and never waits.
///
/// Whoever has a socket that waits uses `read_over` and its sisters.
pub trait TlsSession: TlsRecords {
    /// What the handshake told.
    fn info(&self) -> &TlsInfo;

    /// Takes bytes of the peer, at most [`TLS_FEED_MAX`], after [`read`](TlsSession::read) has said that nothing is left.
    /// There may be something to send afterwards, also if it fails: an alert.
    ///
    /// # Errors
    /// The peer breaks the protocol: the session is over.
    fn feed(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Reads plaintext that was received; 0 after the peer's `close_notify`.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; as for [`feed`](TlsSession::feed).
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether there is plaintext to read.
    fn is_readable(&self) -> bool;

    /// Takes plaintext to be sent, as much as there is room for.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// Says, behind all that was written, that nothing follows (`close_notify`). Nothing may be written afterwards.
    fn close(&mut self);

    /// The session's keys, so that the kernel goes on with it (kTLS); it is over here then. `Err`, and it goes on, where that is
    /// not possible now: records are not sent yet, or one was read in part, or nobody has asked for keys beforehand.
    ///
    /// # Errors
    /// See above.
    fn into_keys(self: Box<Self>) -> Result<TlsKeys, Box<dyn TlsSession>>;
}

/// What the kernel needs to go on with a session.
pub struct TlsKeys {
    /// What the handshake told.
    pub info: TlsInfo,
    /// Plaintext that was received.
    pub early: Vec<u8>,
    /// For what is sent: `struct tls12_crypto_info_*` of linux/tls.h.
    pub send: Vec<u8>,
    /// The same for what is received.
    pub receive: Vec<u8>,
}

impl fmt::Debug for TlsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsKeys").field("info", &self.info).finish_non_exhaustive()
    }
}

impl fmt::Debug for dyn TlsSession + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsSession").field(self.info()).finish()
    }
}

impl dyn TlsSession + '_ {
    /// Reads plaintext, and waits for it on a blocking socket; 0 after the peer's `close_notify`.
    ///
    /// # Errors
    /// The socket's; `UnexpectedEof` if the peer has ended its stream without `close_notify`, since then something may be
    /// missing.
    pub fn read_over(&mut self, socket: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.feed_from(socket)?,
                read => return read,
            }
        }
    }

    fn feed_from(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        self.flush_over(socket)?;
        let mut bytes = [0; READ_AT_ONCE];
        let count = socket.read(&mut bytes)?;
        if count == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer has closed without close_notify"));
        }
        let fed = self.feed(&bytes[..count]);
        // An alert tells the peer why.
        let flushed = self.flush_over(socket);
        fed.and(flushed)
    }

    /// Writes plaintext over a blocking socket. What was taken may still have to be flushed (`flush_over`):
    /// an error of the socket is told by the next call then.
    ///
    /// # Errors
    /// The socket's; nothing was taken then.
    pub fn write_over(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        self.flush_over(socket)?;
        let taken = self.write(bytes);
        // Whoever hears of an error would write the same once more.
        let _ = self.flush_over(socket);
        Ok(taken)
    }

    /// Sends every record over a blocking socket.
    ///
    /// # Errors
    /// The socket's.
    pub fn flush_over(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.has_unsent() {
            match self.send(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Ends the session: the records of `last`, and `close_notify`, for a socket that speaks for itself from now on.
    pub(crate) fn seal(&mut self, mut last: &[u8]) -> Vec<u8> {
        let mut records = Vec::with_capacity(last.len() + 128);
        while !last.is_empty() {
            let taken = self.write(last);
            last = &last[taken..];
            self.unload(&mut records);
            if taken == 0 {
                break; // it has failed
            }
        }
        self.close();
        self.unload(&mut records);
        records
    }

    fn unload(&mut self, records: &mut Vec<u8>) {
        while self.has_unsent() {
            self.send(records).expect("a vector takes every write");
        }
    }
}

/// What connections of a listener that ends TLS are told of it.
pub(crate) trait TlsTerms: Send + Sync + fmt::Debug {
    /// A handshake that has heard nothing yet.
    fn begin(&self) -> Box<dyn TlsHandshake>;

    /// How long one may take.
    fn timeout(&self) -> Duration;

    /// Whether the kernel is to go on with sessions where it can.
    fn to_kernel(&self) -> bool;
}

/// A handshake in progress.
pub(crate) trait TlsHandshake: TlsRecords {
    /// Takes bytes of the client. What is unsent afterwards is for it, also if it fails: an alert.
    ///
    /// # Errors
    /// It has failed.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), TlsFailure>;

    /// Whether the session is established.
    fn is_complete(&self) -> bool;

    /// The server name that the client has asked for (SNI), if it has said so by now.
    fn server_name(&self) -> Option<&str>;

    /// Why it fails that was cut short.
    fn cut(&self, cut: Cut) -> TlsFailure;

    /// The session.
    ///
    /// # Panics
    /// If it is not complete.
    fn into_session(self: Box<Self>) -> Box<dyn TlsSession>;
}

/// What cuts a handshake short.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The client has closed or reset its connection.
    Closed,
    /// The socket has failed.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))] // nobody reads it where nobody ends TLS
    Broken(io::Error),
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFailure {
    /// A short name for what alike failures have in common; `None` for what is not worth a line.
    pub code: Option<&'static str>,
    /// Whether a health check ends so.
    pub is_how_checks_end: bool,
    /// What the log says.
    pub words: String,
}

impl TlsFailure {
    /// Of a client whose deadline has passed.
    pub fn late() -> TlsFailure {
        TlsFailure { code: Some("timed-out"), is_how_checks_end: false, words: "client timed out".to_owned() }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

//! TLS of a session's client that ends here: plaintext towards the pair, records towards the client.
//!
//! The pair knows nothing of it. What it must not see of records that the client's socket has no room for: as long as there
//! are some, nothing is read from the server, not even its end, so that they are bounded and go out before it.

use std::io::ErrorKind;

use super::wire;
use crate::dispatch::{TLS_FEED_MAX, TlsInfo, TlsKeys, TlsSession};
use crate::engine::fault::{self, Fault};
use crate::engine::records::send_records;
use crate::relay::{Received, Sent};
use crate::ring::{Errno, Streams};

/// The client's side of a session.
pub struct Secured {
    tls: Tls,
    /// Bytes of records that were sent.
    sent: u64,
    /// The server was to be read and was not, because of records that are not sent yet.
    waits: bool,
    /// Our stream is to be ended behind the last record.
    ends: bool,
    /// It is: what the session still has to say, such as an answer to new keys, is for nobody.
    ended: bool,
    /// The connection takes nothing any more.
    deaf: bool,
    /// The connection is gone, or the client has broken the protocol.
    broken: bool,
    /// There is something to be read of which nothing will be told: an end, or more than is read at once.
    untold: Option<Untold>,
}

/// Who encrypts.
enum Tls {
    /// We do.
    Here(Box<dyn TlsSession>),
    /// The kernel (kTLS): plaintext is read from the socket and written to it.
    Kernel {
        info: TlsInfo,
        /// What had been decrypted before.
        early: Vec<u8>,
    },
}

/// What is to be read though nothing will be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// More.
    More,
    /// An end.
    End,
}

/// How often the client's socket is read at once: records may hold next to nothing, and cost as much as full ones.
const READS_AT_ONCE: usize = 4;

impl Secured {
    /// Goes on with a session; with `to_kernel` the kernel does where it can.
    pub fn new<D: Streams>(driver: &D, socket: &D::Socket, session: Box<dyn TlsSession>, to_kernel: bool) -> Secured {
        if !to_kernel || !driver.can_encrypt(socket) {
            return Secured::of(Tls::Here(session));
        }
        match session.into_keys() {
            Err(session) => Secured::of(Tls::Here(session)),
            Ok(TlsKeys { info, early, send, receive }) => {
                let failed = driver.encrypt(socket, &send, &receive).is_err();
                Secured { broken: failed, deaf: failed, ..Secured::of(Tls::Kernel { info, early }) }
            }
        }
    }

    /// A session that the kernel has gone on with in the process before, where nothing is known of it.
    pub fn taken_over() -> Secured {
        Secured::of(Tls::Kernel { info: TlsInfo::default(), early: Vec::new() })
    }

    fn of(tls: Tls) -> Secured {
        Secured { tls, sent: 0, waits: false, ends: false, ended: false, deaf: false, broken: false, untold: None }
    }

    /// What the handshake told.
    pub fn info(&self) -> &TlsInfo {
        match &self.tls {
            Tls::Here(session) => session.info(),
            Tls::Kernel { info, .. } => info,
        }
    }

    /// Whether plaintext is there that the socket does not know of.
    pub fn is_readable(&self) -> bool {
        match &self.tls {
            Tls::Here(session) => session.is_readable(),
            Tls::Kernel { early, .. } => !early.is_empty(),
        }
    }

    /// Whether the kernel encrypts.
    pub fn is_in_kernel(&self) -> bool {
        matches!(self.tls, Tls::Kernel { .. }) && !self.broken
    }

    /// Whether whoever gets the socket can go on.
    pub fn can_move(&self) -> bool {
        self.is_in_kernel() && !self.is_readable()
    }

    /// Whether records wait for room.
    pub fn has_unsent(&self) -> bool {
        !self.deaf && !self.ended && matches!(&self.tls, Tls::Here(session) if session.has_unsent())
    }

    /// Whether the client takes nothing any more.
    pub fn is_deaf(&self) -> bool {
        self.deaf && !fault::present(Fault::UntoldReset)
    }

    /// Changes whenever records have gone out, or none can any more: a sign of life.
    pub fn progress(&self) -> (u64, bool) {
        match fault::present(Fault::SilentFlush) && self.has_unsent() {
            true => Default::default(),
            false => (self.sent, self.deaf),
        }
    }

    /// The server is not read now, because records wait for room; it is when they are sent.
    pub fn hold_server(&mut self) {
        self.waits = true;
    }

    /// Whether the server was held, and need not be any more.
    pub fn releases_server(&mut self) -> bool {
        !self.has_unsent() && std::mem::take(&mut self.waits) && !fault::present(Fault::ForgottenServer)
    }

    /// What the next read will tell, once: whoever asks has to remember it.
    pub fn take_untold(&mut self) -> Option<Untold> {
        self.untold.take().filter(|_| !fault::present(Fault::ForgottenRest))
    }

    /// Fills `room` with what the client has sent, as long as something is there.
    pub fn receive<D: Streams>(
        &mut self,
        driver: &mut D,
        socket: &D::Socket,
        room: &mut [u8],
        records: &mut [u8],
    ) -> Received {
        self.untold = None;
        let session = match &mut self.tls {
            Tls::Here(session) => session,
            Tls::Kernel { .. } => return self.receive_plain(driver, socket, room),
        };
        let (mut count, mut more, mut reads) = (0, true, 0);
        let at_once = records.len().min(TLS_FEED_MAX);
        let end = loop {
            match session.read(&mut room[count..]) {
                Ok(0) => break Received::End,
                Ok(read) => count += read,
                Err(error) if error.kind() != ErrorKind::WouldBlock => break Received::Broken,
                Err(_) if self.broken => break Received::Broken,
                Err(_) if !more => break Received::Nothing,
                Err(_) if reads == READS_AT_ONCE => {
                    self.untold = Some(Untold::More);
                    break Received::Nothing;
                }
                Err(_) => {
                    match driver.receive(socket, &mut records[..at_once]) {
                        // Of a connection that was reset the kernel tells once, and whoever wrote to it was told.
                        Ok(0) if self.deaf => break Received::Broken,
                        Ok(0) => break Received::End,
                        Ok(got) => {
                            reads += 1;
                            // Where no record has become whole, nobody looks again for an end that stands behind it.
                            more = got == at_once || (count == 0 && !fault::present(Fault::LostEnd));
                            // What was said before is still read.
                            self.broken |= session.feed(&records[..got]).is_err();
                            if self.broken && fault::present(Fault::LostLastWords) {
                                break Received::Broken;
                            }
                        }
                        Err(Errno(libc::EAGAIN)) => more = false,
                        Err(Errno(libc::EINTR)) => {}
                        Err(_) => break Received::Broken,
                    }
                }
            }
            if count == room.len() {
                return Received::Bytes(count);
            }
        };
        self.broken |= end == Received::Broken;
        match (count, end) {
            (0, end) => return end,
            (_, Received::Nothing) => {}
            _ => self.untold = Some(Untold::End),
        }
        Received::Bytes(count)
    }

    /// The same where the kernel decrypts: it gives no more than a record at once, or what stands before one that is no data.
    fn receive_plain<D: Streams>(&mut self, driver: &mut D, socket: &D::Socket, room: &mut [u8]) -> Received {
        if self.broken {
            return Received::Broken;
        }
        if let Tls::Kernel { early, .. } = &mut self.tls
            && !early.is_empty()
        {
            let count = early.len().min(room.len());
            room[..count].copy_from_slice(&early[..count]);
            early.drain(..count);
            self.untold = Some(Untold::More);
            return Received::Bytes(count);
        }
        let received = wire::receive_plain(driver, socket, room);
        match received {
            Received::Bytes(count) => self.untold = (count < room.len()).then_some(Untold::More),
            Received::Broken => self.broken = true,
            Received::End | Received::Nothing => {}
        }
        received
    }

    /// Encrypts and sends; what is taken and not sent is kept.
    pub fn send<D: Streams>(&mut self, driver: &mut D, socket: &D::Socket, bytes: &[u8], records: &mut [u8]) -> Sent {
        let mut count = 0;
        loop {
            let session = match &mut self.tls {
                Tls::Here(session) => session,
                Tls::Kernel { .. } => return self.send_plain(driver, socket, bytes),
            };
            let taken = session.write(&bytes[count..]);
            count += taken;
            match self.flush(driver, socket, records) {
                _ if self.deaf => return Sent::Broken,
                true if count < bytes.len() && taken > 0 => {}
                // It has room, and takes nothing: it has failed.
                true if count < bytes.len() => return Sent::Broken,
                _ => return Sent::Bytes(count),
            }
        }
    }

    /// Ends our stream: `close_notify`, and FIN behind it.
    pub fn shutdown<D: Streams>(&mut self, driver: &mut D, socket: &D::Socket, records: &mut [u8]) {
        if !fault::present(Fault::UnsaidEnd) {
            self.close(driver, socket);
        }
        self.ends = true;
        // No sign of life of its own: the server's end is one, unless it came out of a silence.
        let before = self.sent;
        self.flush(driver, socket, records);
        self.sent = before;
    }

    /// Sends records as long as there is room; tells whether none is left.
    pub fn flush<D: Streams>(&mut self, driver: &mut D, socket: &D::Socket, records: &mut [u8]) -> bool {
        if let Tls::Here(session) = &mut self.tls
            && !self.deaf
            && (!self.ended || fault::present(Fault::LateAnswer))
        {
            match send_records(driver, socket, &mut **session, records) {
                Ok(unloaded) => {
                    self.sent += unloaded.count as u64;
                    if !unloaded.all {
                        return false;
                    }
                }
                Err(_) => self.deaf = true,
            }
        }
        if std::mem::take(&mut self.ends) && !self.deaf {
            driver.shutdown(socket);
            self.ended = true;
        }
        true
    }

    /// Last words to a client, and the end of our stream. What the socket has no room for is lost.
    pub fn farewell<D: Streams>(&mut self, driver: &mut D, socket: &D::Socket, words: &[u8], records: &mut [u8]) {
        match &mut self.tls {
            Tls::Here(session) => _ = session.write(words),
            Tls::Kernel { .. } if words.is_empty() => {}
            Tls::Kernel { .. } => _ = self.send_plain(driver, socket, words),
        }
        self.close(driver, socket);
        self.flush(driver, socket, records);
    }

    /// Gives plaintext to the kernel, which encrypts. Never with a word that more follows: the record would stay open, and
    /// behind a shutdown it would not go out.
    fn send_plain<D: Streams>(&self, driver: &mut D, socket: &D::Socket, bytes: &[u8]) -> Sent {
        match self.deaf {
            true => Sent::Broken,
            false => wire::send_plain(driver, socket, bytes, false),
        }
    }

    fn close<D: Streams>(&mut self, driver: &mut D, socket: &D::Socket) {
        match &mut self.tls {
            Tls::Here(session) => session.close(),
            Tls::Kernel { .. } => driver.close_notify(socket),
        }
    }
}

//! An established session: plaintext on one side, records on the other.

use std::io::{self, ErrorKind, Read, Write};

use rustls::{IoState, ServerConnection};

use super::keys::{Boundary, crypto_info};
use crate::dispatch::{TlsInfo, TlsKeys, TlsRecords, TlsSession};

/// Plaintext that waits to be read; so much and a record at most. rustls refuses to take more than this without being read.
const UNREAD_MAX: usize = 16 * 1024;

/// A session.
pub(super) struct Session {
    tls: Box<ServerConnection>,
    info: TlsInfo,
    /// Plaintext that waits to be read, or an end.
    readable: bool,
    /// What the peer has sent behind [`UNREAD_MAX`]: a part of what was fed at once.
    rest: Vec<u8>,
    /// Where the peer's records end.
    records: Boundary,
    /// How the peer has broken the protocol: what it had said before is still read.
    fault: Option<rustls::Error>,
    /// Its configuration lets it.
    gives_keys: bool,
}

impl Session {
    pub(super) fn new(mut tls: Box<ServerConnection>, info: TlsInfo, records: Boundary, gives_keys: bool) -> Session {
        // What came behind the client's last word of the handshake.
        let readable = tls.process_new_packets().is_ok_and(|state| is_readable(&state));
        Session { tls, info, readable, rest: Vec::new(), records, fault: None, gives_keys }
    }

    /// Decrypts until enough waits to be read, and keeps the rest.
    fn decrypt(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.tls.read_tls(&mut bytes)? == 0 {
                // Behind a close_notify there is nothing.
                self.readable = true;
                return Ok(());
            }
            let state = self.tls.process_new_packets().map_err(|error| self.fails(error))?;
            self.readable = is_readable(&state);
            if state.plaintext_bytes_to_read() >= UNREAD_MAX {
                break;
            }
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn fails(&mut self, fault: rustls::Error) -> io::Error {
        self.fault = Some(fault.clone());
        self.readable = true;
        io::Error::new(ErrorKind::InvalidData, fault)
    }
}

fn is_readable(state: &IoState) -> bool {
    state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
}

impl TlsRecords for Session {
    fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    fn send(&mut self, to: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(to)
    }
}

impl TlsSession for Session {
    fn info(&self) -> &TlsInfo {
        &self.info
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.records.pass(bytes);
        if self.rest.is_empty() {
            return self.decrypt(bytes);
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        self.decrypt(&all)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.rest.is_empty() => {
                    let rest = std::mem::take(&mut self.rest);
                    // Told behind what stands before it.
                    let _ = self.decrypt(&rest);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.fault.is_some() => {
                    let fault = self.fault.clone().expect("as just asked");
                    return Err(io::Error::new(ErrorKind::InvalidData, fault));
                }
                Err(error) => {
                    self.readable = false;
                    return Err(error);
                }
                read => return read,
            }
        }
    }

    fn is_readable(&self) -> bool {
        self.readable || !self.rest.is_empty()
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        // It has no errors but those of a session that has failed, which the socket's end follows.
        self.tls.writer().write(bytes).unwrap_or(0)
    }

    fn close(&mut self) {
        self.tls.send_close_notify();
    }

    fn into_keys(mut self: Box<Self>) -> Result<TlsKeys, Box<dyn TlsSession>> {
        let whole = self.rest.is_empty() && self.records.is_at_end() && !self.has_unsent();
        let goes_on = self.tls.process_new_packets().is_ok_and(|state| !state.peer_has_closed());
        let Some(version) = self.tls.protocol_version().filter(|_| self.gives_keys && whole && goes_on) else {
            return Err(self);
        };
        let mut early = Vec::new();
        // It ends where nothing more is there, which is an error.
        let _ = self.tls.reader().read_to_end(&mut early);
        let Session { tls, info, .. } = *self;
        let secrets = tls.dangerous_extract_secrets().expect("they were asked for beforehand");
        let (send, receive) = (crypto_info(version, secrets.tx), crypto_info(version, secrets.rx));
        let (send, receive) = send.zip(receive).expect("every version and cipher that is offered has a place");
        Ok(TlsKeys { info, early, send, receive })
    }
}

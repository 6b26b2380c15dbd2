//! A pair's two sockets.

use super::secured::{Secured, Untold};
use crate::engine::fault::{self, Fault};
use crate::relay::{Pair, Received, Sent, Side, Wire};
use crate::ring::{Errno, Streams};

/// The sockets of a session on their ring.
pub struct Link<'a, D: Streams> {
    pub driver: &'a mut D,
    pub client: &'a D::Socket,
    pub server: &'a D::Socket,
    /// TLS of the client that ends here.
    pub tls: Option<&'a mut Secured>,
    /// For records, on their way in and out.
    pub records: &'a mut [u8],
}

impl<'a, D: Streams> Link<'a, D> {
    fn socket(&self, side: Side) -> &'a D::Socket {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    /// Sends records that wait for room, and tells the pair what follows; `true`: it has something to do because of it.
    pub fn flush(&mut self, pair: &mut Pair) -> bool {
        let Some(tls) = self.tls.as_deref_mut() else { return false };
        tls.flush(self.driver, self.client, self.records);
        let releases_server = tls.releases_server();
        if releases_server {
            pair.ready(Side::Server, true, false);
        }
        let has_failed = tls.is_deaf() && pair.takes_no_more(Side::Client);
        releases_server || has_failed
    }

    /// What there is to read of the client though nothing will be told of it; told once.
    pub fn take_untold(&mut self) -> Option<Untold> {
        self.tls.as_mut().and_then(|tls| tls.take_untold())
    }
}

impl<D: Streams> Wire for Link<'_, D> {
    fn receive(&mut self, side: Side, room: &mut [u8]) -> Received {
        let socket = self.socket(side);
        match (side, self.tls.as_deref_mut()) {
            (Side::Client, Some(tls)) => return tls.receive(self.driver, socket, room, self.records),
            (Side::Server, Some(tls)) if tls.has_unsent() && !fault::present(Fault::HastyEnd) => {
                tls.hold_server();
                return Received::Nothing;
            }
            _ => {}
        }
        receive_plain(self.driver, socket, room)
    }

    fn send(&mut self, side: Side, bytes: &[u8], more: bool) -> Sent {
        if let (Side::Client, Some(tls)) = (side, self.tls.as_deref_mut()) {
            return tls.send(self.driver, self.client, bytes, self.records);
        }
        send_plain(self.driver, self.socket(side), bytes, more)
    }

    fn shutdown(&mut self, side: Side) {
        match (side, self.tls.as_deref_mut()) {
            (Side::Client, Some(tls)) => tls.shutdown(self.driver, self.client, self.records),
            _ => self.driver.shutdown(self.socket(side)),
        }
    }
}

/// Takes what is there of a socket that gives plaintext.
pub fn receive_plain<D: Streams>(driver: &mut D, socket: &D::Socket, room: &mut [u8]) -> Received {
    loop {
        match driver.receive(socket, room) {
            Ok(0) => return Received::End,
            Ok(count) => return Received::Bytes(count),
            Err(Errno(libc::EAGAIN)) => return Received::Nothing,
            Err(Errno(libc::EINTR)) => {}
            Err(_) => return Received::Broken,
        }
    }
}

/// Gives plaintext to a socket, as much as it has room for; `more` as of [`Streams::send`].
pub fn send_plain<D: Streams>(driver: &mut D, socket: &D::Socket, bytes: &[u8], more: bool) -> Sent {
    match driver.send(socket, bytes, more) {
        Ok(_) if more && fault::present(Fault::LostTail) => Sent::Bytes(bytes.len()),
        Ok(count) if count < bytes.len() && fault::present(Fault::DoubleSend) => Sent::Bytes(count / 2),
        Ok(count) => Sent::Bytes(count),
        // No room now; memory comes back, too.
        Err(Errno(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)) => Sent::Bytes(0),
        Err(_) => Sent::Broken,
    }
}

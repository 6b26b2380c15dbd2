//! A pair's two sockets.

use crate::engine::fault::{self, Fault};
use crate::relay::{Received, Sent, Side, Wire};
use crate::ring::{Errno, Streams};

/// The sockets of a session on their ring.
pub struct Link<'a, D: Streams> {
    pub driver: &'a mut D,
    pub client: &'a D::Socket,
    pub server: &'a D::Socket,
}

impl<'a, D: Streams> Link<'a, D> {
    fn socket(&self, side: Side) -> &'a D::Socket {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }
}

impl<D: Streams> Wire for Link<'_, D> {
    fn receive(&mut self, side: Side, room: &mut [u8]) -> Received {
        let socket = self.socket(side);
        loop {
            match self.driver.receive(socket, room) {
                Ok(0) => return Received::End,
                Ok(count) => return Received::Bytes(count),
                Err(Errno(libc::EAGAIN)) => return Received::Nothing,
                Err(Errno(libc::EINTR)) => {}
                Err(_) => return Received::Broken,
            }
        }
    }

    fn send(&mut self, side: Side, bytes: &[u8], more: bool) -> Sent {
        match self.driver.send(self.socket(side), bytes, more) {
            Ok(_) if more && fault::present(Fault::LostTail) => Sent::Bytes(bytes.len()),
            Ok(count) if count < bytes.len() && fault::present(Fault::DoubleSend) => Sent::Bytes(count / 2),
            Ok(count) => Sent::Bytes(count),
            // No room now; memory comes back, too.
            Err(Errno(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)) => Sent::Bytes(0),
            Err(_) => Sent::Broken,
        }
    }

    fn shutdown(&mut self, side: Side) {
        self.driver.shutdown(self.socket(side));
    }
}

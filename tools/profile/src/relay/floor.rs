//! The floor: a relay that computes nothing, by the cheapest calls that are known.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use socket2::{Domain, SockRef, Socket, Type};
use vestibule::ring::bare::{Bare, Event, PEER_DONE, READABLE, WRITABLE};
use vestibule::ring::{Options, bind_group};

use super::failed;

/// One buffer for all: whatever is read is sent before anything else is read.
const SCRATCH: usize = 256 * 1024;
const CLIENT: usize = 0;
const BACKEND: usize = 1;
/// A token is the pair's number, the side, and one bit for the wait until that side takes bytes again.
const SIDE_BIT: u32 = 1;
const PAIR_SHIFT: u32 = 2;

/// What `serve-relay-floor` and `serve-relay-tokio` take.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Where to go on to, in turn
    #[arg(value_name = "ADDRESS:PORT", required = true)]
    pub backends: Vec<SocketAddr>,
}

/// One relayed connection.
#[derive(Default)]
struct Pair {
    ends: [Option<OwnedFd>; 2],
    /// What came from this side and the other has not taken yet.
    kept: [Option<Box<[u8]>>; 2],
    /// This side writes no more.
    over: [bool; 2],
    /// Events still to come.
    armed: u8,
    ending: bool,
}

struct Floor<'a> {
    ring: Bare,
    backends: &'a [SocketAddr],
    pairs: Vec<Pair>,
    free: Vec<usize>,
    /// Sides that may have more to read than one buffer.
    again: Vec<(usize, usize)>,
    scratch: Box<[u8]>,
    served: usize,
}

/// Relays bytes as they come, the header among them, until it is ended. Neither parses, chooses, times nor logs.
pub fn serve(args: &Args) -> Result<(), String> {
    crate::server::open_files();
    let options = Options { defer_accept: false, share_port: false };
    let mut listeners = bind_group(args.listen, 1, options).map_err(failed("bind"))?;
    let listener: TcpListener = listeners.remove(0).try_clone().map_err(failed("the listener"))?;
    let ring = Bare::new(listener).map_err(|error| error.to_string())?;
    let scratch = vec![0; SCRATCH].into_boxed_slice();
    let (pairs, free, again) = (Vec::new(), Vec::new(), Vec::new());
    let mut floor = Floor { ring, backends: &args.backends, pairs, free, again, scratch, served: 0 };
    let mut events = Vec::new();
    loop {
        floor.ring.turn(!floor.again.is_empty(), &mut events).map_err(failed("the ring"))?;
        for (pair, side) in std::mem::take(&mut floor.again) {
            floor.pump(pair, side, false);
        }
        for event in events.drain(..) {
            match event {
                Event::Accepted(socket) => floor.begin(socket),
                Event::Ready { token, mask, armed } => floor.ready(token, mask, armed),
            }
        }
    }
}

fn token(pair: usize, side: usize, writing: bool) -> u64 {
    ((pair as u64) << PAIR_SHIFT) | ((side as u64) << SIDE_BIT) | u64::from(writing)
}

impl Floor<'_> {
    fn begin(&mut self, socket: OwnedFd) {
        let _ = SockRef::from(&socket).set_tcp_nodelay(true); // it has gone already where that fails
        let index = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(Pair::default());
            self.pairs.len() - 1
        });
        self.watch(index, CLIENT, &socket);
        self.pairs[index].ends[CLIENT] = Some(socket);
    }

    fn watch(&mut self, index: usize, side: usize, socket: &OwnedFd) {
        self.ring.poll(socket, READABLE | PEER_DONE, false, token(index, side, false));
        self.pairs[index].armed += 1;
    }

    fn ready(&mut self, token: u64, mask: u32, armed: bool) {
        let (index, side, writing) = ((token >> PAIR_SHIFT) as usize, (token >> SIDE_BIT & 1) as usize, token & 1 == 1);
        self.pairs[index].armed -= u8::from(!armed);
        if self.pairs[index].ending {
            return self.close_if_quiet(index);
        }
        if writing {
            return self.flush(index, 1 - side);
        }
        if !armed {
            let Some(socket) = self.pairs[index].ends[side].take() else { return };
            self.watch(index, side, &socket);
            self.pairs[index].ends[side] = Some(socket);
        }
        self.pump(index, side, mask & PEER_DONE != 0);
    }

    /// Moves what is there, one buffer at most; `ending` says that the end may be there as well.
    fn pump(&mut self, index: usize, side: usize, ending: bool) {
        let pair = &mut self.pairs[index];
        if pair.ending || pair.over[side] || pair.kept[side].is_some() {
            return;
        }
        let Some(from) = &pair.ends[side] else { return };
        let count = match recv(from, &mut self.scratch[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return self.pass_end(index, side),
            Ok((count, _)) => count,
            Err(Errno::AGAIN) => return,
            Err(_) => return self.end(index),
        };
        let is_full = count == self.scratch.len();
        // Bytes and FIN go on in one segment.
        let last =
            ending && !is_full && matches!(recv(from, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK), Ok((0, _)));
        if self.pairs[index].ends[1 - side].is_none() && !self.connect(index) {
            return self.end(index);
        }
        match self.send(index, side, count, last) {
            Some(true) if last => self.pass_end(index, side),
            Some(true) if is_full || ending => self.again.push((index, side)),
            Some(_) => {}
            None => self.end(index),
        }
    }

    /// Whether all of it was taken; `None` if the connection is broken. What was not is kept.
    fn send(&mut self, index: usize, side: usize, count: usize, last: bool) -> Option<bool> {
        let to = self.pairs[index].ends[1 - side].as_ref()?;
        let more = if last { SendFlags::MORE } else { SendFlags::empty() };
        let sent = match send(to, &self.scratch[..count], SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => return None,
        };
        if sent < count {
            self.pairs[index].kept[side] = Some(self.scratch[sent..count].into());
            self.wait_for_room(index, 1 - side);
        }
        Some(sent == count)
    }

    fn wait_for_room(&mut self, index: usize, side: usize) {
        let pair = &mut self.pairs[index];
        if let Some(socket) = &pair.ends[side] {
            self.ring.poll(socket, WRITABLE, true, token(index, side, true));
            pair.armed += 1;
        }
    }

    /// Sends what was kept of `side`, and goes on reading there when that is done.
    fn flush(&mut self, index: usize, side: usize) {
        let pair = &mut self.pairs[index];
        let (Some(mut kept), Some(to)) = (pair.kept[side].take(), &pair.ends[1 - side]) else { return };
        match send(to, &kept, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == kept.len() => return self.again.push((index, side)),
            Ok(sent) => kept = kept[sent..].into(),
            Err(Errno::AGAIN) => {}
            Err(_) => return self.end(index),
        }
        self.pairs[index].kept[side] = Some(kept);
        self.wait_for_room(index, 1 - side);
    }

    /// Connects to the next backend; a connection over loopback is established when this returns.
    fn connect(&mut self, index: usize) -> bool {
        let address = self.backends[self.served % self.backends.len()];
        self.served += 1;
        let Ok(socket) = connecting(address) else { return false };
        self.watch(index, BACKEND, &socket);
        self.pairs[index].ends[BACKEND] = Some(socket);
        true
    }

    fn pass_end(&mut self, index: usize, side: usize) {
        let pair = &mut self.pairs[index];
        pair.over[side] = true;
        match &pair.ends[1 - side] {
            Some(to) if !pair.over[1 - side] => drop(shutdown(to, Shutdown::Write)), // it may have gone
            _ => self.end(index),
        }
    }

    /// Lets both sides go. They are closed when the ring has let go of them too.
    fn end(&mut self, index: usize) {
        self.pairs[index].ending = true;
        for side in [CLIENT, BACKEND] {
            if self.pairs[index].ends[side].is_some() {
                self.ring.forget(token(index, side, false));
            }
            if self.pairs[index].kept[1 - side].is_some() {
                self.ring.forget(token(index, side, true));
            }
        }
        self.close_if_quiet(index);
    }

    fn close_if_quiet(&mut self, index: usize) {
        if self.pairs[index].armed == 0 {
            self.pairs[index] = Pair::default();
            self.free.push(index);
        }
    }
}

/// A socket on its way. Without quick ACK the bytes that follow carry the handshake's.
fn connecting(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    rustix::net::sockopt::set_tcp_quickack(socket.as_fd(), false)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

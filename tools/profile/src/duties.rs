//! What no server of these jobs can leave out, on top of the bare floor: decide whether a peer is trusted, give its header
//! a deadline, decode it, count it, answer what it has said, and in a hand-off keep a connection until its receiver has
//! taken it. As few lines as do it, without the engine's structures: whoever judges Vestibule beside the floor sees by this
//! one how much of the difference is the job itself.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use vestibule::net::NetworkSet;
use vestibule::proxy::{Decoded, Rules, decode};
use vestibule::stats::Histogram;

use crate::receiver;

/// As `haproxy_timeout`.
const PATIENCE: Duration = Duration::from_secs(3);
/// MSG_MORE: hold the bytes back until more come, or the FIN (send(2)).
const HELD_BACK: SendFlags = SendFlags::from_bits_retain(0x8000).union(SendFlags::NOSIGNAL).union(SendFlags::DONTWAIT);
/// Connections that a receiver may have, as in [`receiver`].
const HELD_MAX: usize = 4096;
/// Longest message of a receiver.
const MESSAGE_MAX: usize = 4096;

/// What is done for each connection.
pub struct Duties {
    trusted: NetworkSet,
    now: Instant,
    waiting: VecDeque<(u32, Instant)>,
    refused: HashMap<IpAddr, u64>,
    accepted: u64,
    proxied: u64,
    waits: Histogram<u64>,
    line: Vec<u8>,
}

impl Duties {
    /// Trusts these networks.
    pub fn new(trusted: NetworkSet) -> Duties {
        Duties {
            trusted,
            now: Instant::now(),
            waiting: VecDeque::new(),
            refused: HashMap::new(),
            accepted: 0,
            proxied: 0,
            waits: Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constants"),
            line: Vec::new(),
        }
    }

    /// A turn begins.
    pub fn begin(&mut self) {
        self.now = Instant::now();
        while self.waiting.front().is_some_and(|(_, since)| *since + PATIENCE <= self.now) {
            self.waiting.pop_front();
        }
    }

    /// Whether a peer may bring a header.
    pub fn admits(&mut self, peer: SocketAddr) -> bool {
        self.accepted += 1;
        let trusted = self.trusted.contains(peer.ip());
        if !trusted {
            *self.refused.entry(peer.ip()).or_default() += 1;
        }
        trusted
    }

    /// A header is awaited.
    pub fn awaits(&mut self, slot: u32) {
        self.waiting.push_back((slot, self.now));
    }

    /// What came; tells who the client is, or that there is no header.
    pub fn judge(&mut self, slot: u32, bytes: &[u8]) -> Option<SocketAddr> {
        let at = self.waiting.iter().position(|(waiting, _)| *waiting == slot)?;
        let (_, since) = self.waiting.remove(at)?;
        let Decoded::Complete(header) = decode(bytes, &Rules::default()) else { return None };
        self.proxied += 1;
        self.waits.saturating_record((self.now - since).as_micros() as u64);
        header.source()
    }

    /// Tells the client how it was understood; the close is to follow.
    pub fn answer(&mut self, socket: &OwnedFd, client: SocketAddr) {
        self.line.clear();
        let beside =
            "\"service\":\"bench\",\"listener\":\"proxy\",\"version\":\"v2\",\"command\":\"PROXY\",\"tls\":false";
        let told = writeln!(self.line, "{{{beside},\"tlvs\":[],\"residual\":\"\",\"client\":\"{client}\"}}");
        told.expect("a vector takes every write");
        // Who has gone gets no answer, and who still sends is not measured here.
        let _ = send(socket, &self.line, HELD_BACK);
        let _ = rustix::io::ioctl_fionread(socket);
    }
}

/// The sender's side of a hand-off that loses nothing: a connection is kept until its receiver says `taken`.
pub struct Conversation {
    link: OwnedFd,
    kept: Vec<Option<OwnedFd>>,
    next: u64,
}

impl Conversation {
    /// With the process at the other end.
    pub fn new(link: OwnedFd) -> Conversation {
        Conversation { link, kept: (0..HELD_MAX).map(|_| None).collect(), next: 0 }
    }

    /// The end to be watched.
    pub fn link(&self) -> &OwnedFd {
        &self.link
    }

    /// Offers a connection.
    pub fn offer(&mut self, socket: OwnedFd) -> io::Result<()> {
        let mut record = [0; 16];
        record[8..].copy_from_slice(&self.next.to_be_bytes());
        receiver::pass(&self.link, &socket, &record)?;
        self.kept[self.next as usize % HELD_MAX] = Some(socket);
        self.next += 1;
        Ok(())
    }

    /// Hears what was said, up to the last word.
    pub fn hear(&mut self) -> io::Result<()> {
        let mut message = [0; MESSAGE_MAX];
        loop {
            let said = match recv(&self.link, &mut message, RecvFlags::DONTWAIT) {
                Ok((said, _)) => said,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            for line in String::from_utf8_lossy(&message[..said]).lines() {
                if let Some(id) = line.strip_prefix("taken ").and_then(|id| id.parse::<u64>().ok()) {
                    self.kept[id as usize % HELD_MAX] = None;
                }
            }
            if said == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

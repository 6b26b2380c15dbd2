//! What the sessions of a server have come to: bytes, ends, times.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Backend;
use super::choice::ServerIndex;
use crate::relay::End;

/// Longest time to connect or to greet that is told apart, in microseconds: one hour. Longer ones count as this.
const MICROS_MAX: u64 = 3_600_000_000;
/// Longest session that is told apart, in milliseconds: 30 days. Longer ones count as this.
const MILLIS_MAX: u64 = 30 * 24 * 3_600_000;
/// One digit: there are three histograms a server, and up to a thousand servers.
const DIGITS: u8 = 1;

/// A session that is over at its server.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Why.
    pub end: End,
    /// Bytes from the client to the server.
    pub from_client: u64,
    /// Bytes from the server to the client.
    pub from_server: u64,
    /// From the choice of the server to the connection; `None`: there was none.
    pub connect: Option<Duration>,
    /// From the connection to the greeting; `None`: there was none.
    pub greeting: Option<Duration>,
    /// From the accept to the end.
    pub lasted: Duration,
}

/// What the sessions of a server have come to that have ended since the daemon began.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes from clients.
    pub from_clients: u64,
    /// Bytes to clients.
    pub to_clients: u64,
    /// Their ends, by [`End::index`].
    pub ends: [u64; End::COUNT],
    /// From the choice of the server to the connection, in microseconds.
    pub connect: Histogram<u64>,
    /// From the connection to the greeting, in microseconds.
    pub greeting: Histogram<u64>,
    /// From the accept to the end, in milliseconds.
    pub lasted: Histogram<u64>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        let empty = |max| Histogram::new_with_bounds(1, max, DIGITS).expect("the bounds are constants that fit");
        Traffic {
            from_clients: 0,
            to_clients: 0,
            ends: [0; End::COUNT],
            connect: empty(MICROS_MAX),
            greeting: empty(MICROS_MAX),
            lasted: empty(MILLIS_MAX),
        }
    }
}

impl Traffic {
    /// Sessions that have ended.
    pub fn ended(&self) -> u64 {
        self.ends.iter().sum()
    }

    /// Adds what sessions have come to elsewhere, such as in a process before this one.
    pub fn merge(&mut self, other: &Traffic) {
        self.from_clients += other.from_clients;
        self.to_clients += other.to_clients;
        self.ends.iter_mut().zip(other.ends).for_each(|(all, count)| *all += count);
        for (all, times) in [
            (&mut self.connect, &other.connect),
            (&mut self.greeting, &other.greeting),
            (&mut self.lasted, &other.lasted),
        ] {
            all.add(times).expect("all histograms of a kind have the same bounds");
        }
    }

    fn add(&mut self, closed: &Closed) {
        self.from_clients += closed.from_client;
        self.to_clients += closed.from_server;
        self.ends[closed.end.index()] += 1;
        closed.connect.iter().for_each(|took| self.connect.saturating_record(took.as_micros() as u64));
        closed.greeting.iter().for_each(|took| self.greeting.saturating_record(took.as_micros() as u64));
        self.lasted.saturating_record(closed.lasted.as_millis() as u64);
    }
}

impl Backend {
    /// Enters a session that is over into its server's account; one that had no server, into the backend's own. Beside
    /// [`release`](Backend::release), which concerns places only.
    pub fn account(&mut self, server: Option<ServerIndex>, closed: &Closed) {
        match server {
            Some(server) => self.servers[server.at()].traffic.add(closed),
            None => self.unserved[closed.end.index()] += 1,
        }
    }
}

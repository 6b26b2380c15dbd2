//! One session as its ring keeps it: two sockets, the pair between them, and what is told of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::SessionRecord;
use super::secured::Secured;
use super::service::Terms;
use crate::backend::{Closed, ServerIndex, Tried};
use crate::dispatch::{ListenerInfo, Permit};
use crate::engine::tls_seen::TlsSeen;
use crate::relay::{End, Pair, Preface, Protocol, SessionId, Side};

/// A server that ends after so long a silence does so unasked.
pub const UNASKED_AFTER: Duration = Duration::from_millis(500);

/// A session.
pub struct Session<S> {
    pub client: S,
    /// `None` while none is chosen.
    pub server: Option<S>,
    /// How many there were: tells their watches apart.
    pub attempts: u32,
    /// The chosen server, where this session counts.
    pub chosen: Option<ServerIndex>,
    pub terms: Arc<Terms>,
    pub pair: Pair,
    /// TLS of the client, if it ends here: the pair's bytes are plaintext.
    pub tls: Option<Box<Secured>>,
    /// TLS of the client that ends at the peer, as its header has told.
    pub conveyed: Option<Box<TlsSeen>>,
    pub phase: Phase,
    /// What is needed until the server is connected.
    pub opening: Option<Box<Opening>>,
    pub listener: Arc<ListenerInfo>,
    pub id: SessionId,
    /// Who is served, and what it has connected to.
    pub addresses: (SocketAddr, SocketAddr),
    pub times: Times,
    /// TLS is spoken from the first byte on and passes through: nothing can be said to the client.
    pub is_tls: bool,
    /// Bytes of the client that came with its header.
    pub early: u32,
    /// The server that it has counted at, once it does no longer.
    pub served_by: Option<ServerIndex>,
    /// The name of its server, if no backend has it: that of the process that the session came from had it.
    pub elsewhere: Option<Arc<str>>,
    /// By when it has to end whatever happens, and why.
    pub leaves: Option<(Instant, End)>,
    /// Its server has ended out of a silence, without a last word.
    pub unasked: bool,
    /// The kernel asks silent peers for signs of life.
    pub is_kept_alive: bool,
    /// It is among those that have more to do at once.
    pub busy: bool,
    /// Its client's count; released when the session is gone.
    pub _permit: Option<Permit>,
}

/// Keeps, in tests, whose session has ended and why; outside them it is nothing.
#[derive(Debug, Default)]
pub struct Witness(#[cfg(test)] pub Vec<(SocketAddr, End)>);

impl Witness {
    pub fn sees(&mut self, client: SocketAddr, end: End) {
        #[cfg(test)]
        self.0.push((client, end));
        #[cfg(not(test))]
        let _ = (client, end);
    }
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Room at a server.
    Queued { until: Instant },
    /// Whether it is more than a look of the balancer's whether somebody listens.
    Doubted { until: Instant },
    /// The connection to a server.
    Connecting,
    /// The server's first words.
    Greeting,
    /// Either side.
    Open,
    /// The client's end, in answer to ours: nobody is served any more.
    Parting { end: End, until: Instant },
    /// The time to see what the server has ended with: it has lost many clients at once, and they are not to come back all
    /// at once.
    Lingering { until: Instant },
}

/// What a session needs before it has a server.
pub struct Opening {
    /// The header for the server, if it gets one.
    pub announcement: Vec<u8>,
    /// What is said in its own protocol, if anything is.
    pub preface: Option<Preface>,
    /// What the client has said already.
    pub early: Vec<u8>,
    pub tried: Tried,
    /// By when it must have a place, all waits together; set at the first.
    pub queue_until: Option<Instant>,
    /// By when a server must be connected, all attempts since it last waited for one together; set at the first.
    pub connect_until: Option<Instant>,
}

/// When what has happened.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub accepted: Instant,
    /// The header was there.
    pub begun: Instant,
    /// The server was chosen, connected, and had greeted. Each the one before until then.
    pub chosen: Instant,
    pub connected: Instant,
    pub greeted: Instant,
    /// Somebody has said something.
    pub active: Instant,
}

impl Times {
    pub fn new(accepted: Instant, now: Instant) -> Times {
        Times { accepted, begun: now, chosen: now, connected: now, greeted: now, active: now }
    }
}

impl<S> Session<S> {
    /// The socket of a side, if it has one.
    pub fn socket(&self, side: Side) -> Option<&S> {
        match side {
            Side::Client => Some(&self.client),
            Side::Server => self.server.as_ref(),
        }
    }

    /// When the present phase must be over, or it itself.
    pub fn deadline(&self) -> Instant {
        let (terms, times) = (&self.terms, &self.times);
        let of_phase = match self.phase {
            Phase::Connecting => self.opening.as_ref().and_then(|opening| opening.connect_until).unwrap_or(times.begun),
            Phase::Greeting => times.connected + terms.greeting_timeout,
            Phase::Open if self.pair.is_half_closed() => times.active + terms.half_closed_timeout,
            Phase::Open => times.active + terms.idle_timeout,
            Phase::Queued { until }
            | Phase::Doubted { until }
            | Phase::Parting { until, .. }
            | Phase::Lingering { until } => until,
        };
        self.leaves.map_or(of_phase, |(until, _)| until.min(of_phase))
    }

    /// Whether nobody has said anything for so long that an end now is no answer to it.
    pub fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.times.active) >= UNASKED_AFTER
    }

    /// What is told of it.
    pub fn record(&self, end: Option<End>, now: Instant) -> SessionRecord<'_> {
        let Times { accepted, begun, chosen, connected, greeted, active } = self.times;
        let between = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let backend = &self.terms.backend;
        SessionRecord {
            id: self.id,
            listener: &self.listener,
            client: self.addresses.0,
            destination: self.addresses.1,
            backend: backend.name(),
            server: self.chosen.and_then(|server| backend.server_name(server)).or_else(|| self.elsewhere.clone()),
            end,
            header_wait: between(accepted, begun),
            queue_wait: between(begun, chosen),
            connect: between(chosen, connected),
            greeting: between(connected, greeted),
            lasted: between(accepted, now),
            idle: between(active, now),
            from_client: self.pair.from_client() + u64::from(self.early),
            from_server: self.pair.from_server(),
            retries: self.attempts.saturating_sub(1),
            tls: self.tls.as_ref().map(|secured| secured.info()),
        }
    }

    /// What it has come to, for its server's account.
    pub fn closed(&self, end: End, now: Instant) -> Closed {
        let Times { accepted, chosen, connected, greeted, .. } = self.times;
        let is_connected = self.opening.is_none();
        let has_greeted = is_connected && self.server_greets() && self.pair.is_greeted();
        Closed {
            end,
            from_client: self.pair.from_client() + if is_connected { self.early.into() } else { 0 },
            from_server: self.pair.from_server(),
            connect: is_connected.then(|| connected.saturating_duration_since(chosen)),
            greeting: has_greeted.then(|| greeted.saturating_duration_since(connected)),
            lasted: now.saturating_duration_since(accepted),
        }
    }

    /// Whether the client speaks TLS, wherever that ends.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some() || self.conveyed.is_some() || self.is_tls
    }

    /// The server name that the client has asked for by TLS, where that is known.
    pub fn server_name(&self) -> Option<&str> {
        match &self.tls {
            Some(secured) => secured.info().server_name.as_deref(),
            None => self.conveyed.as_ref().and_then(|tls| tls.server_name.as_deref()),
        }
    }

    /// What is known of the client's TLS.
    pub fn tls_seen(&self) -> Option<TlsSeen> {
        let here = self.tls.as_ref().map(|secured| TlsSeen::here(secured.info()));
        here.or_else(|| self.conveyed.as_deref().cloned()).or_else(|| self.is_tls.then(TlsSeen::passed_on))
    }

    /// Whether the server speaks first.
    pub fn server_greets(&self) -> bool {
        self.terms.protocol != Protocol::None && !self.is_tls
    }
}

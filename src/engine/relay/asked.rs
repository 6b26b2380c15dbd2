//! What others want to know of a ring's sessions, or want to end: looked through a few sessions a turn, so that nobody
//! who is served waits for whoever asks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Relays;
use super::service::Terms;
use super::session::{Phase, Session};
use crate::backend::{Closed, ServerIndex};
use crate::dispatch::ListenerInfo;
use crate::engine::tls_seen::TlsSeen;
use crate::net::Network;
use crate::relay::{End, SessionId};

/// Most sessions in one answer of a ring.
pub const FOUND_MAX: usize = 10_000;
/// Questions that may wait in a ring; more are not answered.
const QUESTIONS_MAX: usize = 8;
/// Places that are looked through in a turn.
const LOOKED_AT_A_TURN: u32 = 512;
/// Sessions that are over and that a ring remembers.
const ENDED_MAX: usize = 1024;

/// Which sessions; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Of clients in this network.
    pub client: Option<Network>,
    /// From this port.
    pub port: Option<u16>,
    /// Of the backend of this name.
    pub backend: Option<String>,
    /// At servers of this name.
    pub server: Option<String>,
    /// With this id.
    pub id: Option<SessionId>,
    /// Whose client speaks TLS, wherever that ends; `false`: whose client does not.
    pub tls: Option<bool>,
    /// Whose client has asked for this server name (SNI).
    pub server_name: Option<String>,
    /// In which nobody has said anything since then.
    pub silent_since: Option<Instant>,
}

/// A session as somebody has seen it who has asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionSeen {
    /// Its id.
    pub id: SessionId,
    /// The service that it belongs to.
    pub service: String,
    /// The listener that it came through.
    pub listener: String,
    /// Who is served.
    pub client: SocketAddr,
    /// What the client has connected to.
    pub destination: SocketAddr,
    /// The backend's name.
    pub backend: String,
    /// The server's name, if there is or was one.
    pub server: Option<String>,
    /// What it waits for, or why it has ended.
    pub state: &'static str,
    /// How long ago it has ended; `None`: it is there.
    pub ended: Option<Duration>,
    /// From the accept until now, or until its end.
    pub age: Duration,
    /// Since somebody has said something.
    pub idle: Duration,
    /// When somebody has said something last.
    pub active: Instant,
    /// Bytes from the client to the server.
    pub from_client: u64,
    /// Bytes from the server to the client.
    pub from_server: u64,
    /// TLS of the client, if it speaks that.
    pub tls: Option<TlsSeen>,
}

/// A question to a ring.
#[derive(Debug)]
pub struct Question {
    pub filter: Arc<SessionFilter>,
    pub wish: Wish,
    pub to: Sender<Found>,
}

/// What is to be done with the sessions that are found.
#[derive(Clone, Copy, Debug)]
pub enum Wish {
    /// Tell of so many of those that are there.
    List { limit: usize },
    /// Tell of so many of those that have ended lately.
    Ended { limit: usize },
    /// End them, spread over a time.
    End { end: End, over: Duration },
}

/// A ring's answer.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that there is room for.
    pub seen: Vec<SessionSeen>,
    /// How many there are.
    pub count: usize,
}

/// A ring's questions, and what it remembers to answer them.
#[derive(Default)]
pub struct Asked {
    waiting: VecDeque<Looking>,
    ended: VecDeque<Ended>,
}

/// A question, and how far its answer has got.
struct Looking {
    question: Question,
    next: u32,
    found: Found,
}

/// A session that is over. What it owned is kept, so that nothing has to be copied at its end.
struct Ended {
    id: SessionId,
    addresses: (SocketAddr, SocketAddr),
    listener: Arc<ListenerInfo>,
    terms: Arc<Terms>,
    server: Option<ServerIndex>,
    elsewhere: Option<Arc<str>>,
    closed: Closed,
    active: Instant,
    at: Instant,
    tls: Option<Box<TlsSeen>>,
    /// TLS has passed through.
    is_tls: bool,
}

impl Asked {
    /// Whether nobody asks.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps what may be asked of a session that is over.
    pub fn remember<S>(&mut self, session: Session<S>, end: End, now: Instant) {
        if end == End::Probe {
            return;
        }
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        let closed = session.closed(end, now);
        let here = session.tls.as_ref().map(|secured| Box::new(TlsSeen::here(secured.info())));
        let Session { id, addresses, listener, terms, served_by, elsewhere, times, conveyed, is_tls, .. } = session;
        self.ended.push_back(Ended {
            id,
            addresses,
            listener,
            terms,
            server: served_by,
            elsewhere,
            closed,
            active: times.active,
            at: now,
            tls: here.or(conveyed),
            is_tls,
        });
    }

    fn list_ended(&self, filter: &SessionFilter, limit: usize, now: Instant) -> Found {
        let mut found = Found::default();
        // The latest first.
        for one in self.ended.iter().rev() {
            let name = one.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
            if filter.fits(&one.id, one.addresses.0, &one.terms, (one.server, one.elsewhere.as_ref()))
                && filter.fits_tls(one.tls.is_some() || one.is_tls, name)
            {
                found.add(limit, || one.seen(now));
            }
        }
        found
    }
}

impl<S> Relays<S> {
    /// A question comes. One that finds too many before it is dropped, which whoever asks notices.
    pub fn ask(&mut self, question: Question) {
        if self.asked.waiting.len() < QUESTIONS_MAX {
            self.asked.waiting.push_back(Looking { question, next: 0, found: Found::default() });
        }
    }

    /// Goes on with the first question.
    pub(super) fn answer(&mut self, now: Instant) {
        let Some(mut looking) = self.asked.waiting.pop_front() else { return };
        let question = &looking.question;
        let is_done = match question.wish {
            Wish::Ended { limit } => {
                looking.found = self.asked.list_ended(&question.filter, limit.min(FOUND_MAX), now);
                true
            }
            Wish::List { .. } | Wish::End { .. } => self.look_through(&mut looking, now),
        };
        if is_done {
            // Nobody waits for it any more: it is of no use.
            let _ = looking.question.to.send(looking.found);
        } else {
            self.asked.waiting.push_front(looking);
        }
    }

    /// Looks at some places; whether these were the last.
    fn look_through(&mut self, looking: &mut Looking, now: Instant) -> bool {
        let end = looking.next.saturating_add(LOOKED_AT_A_TURN).min(self.sessions.places());
        for index in looking.next..end {
            self.look_at(index, looking, now);
        }
        looking.next = end;
        end == self.sessions.places()
    }

    fn look_at(&mut self, index: u32, looking: &mut Looking, now: Instant) {
        let Some(session) = self.sessions.id_of(index).and_then(|slot| self.sessions.get_mut(slot)) else { return };
        let filter = &looking.question.filter;
        if !filter.fits(&session.id, session.addresses.0, &session.terms, (session.chosen, session.elsewhere.as_ref()))
            || !filter.fits_tls(session.speaks_tls(), session.server_name())
            || filter.silent_since.is_some_and(|since| session.times.active > since)
        {
            return;
        }
        match looking.question.wish {
            Wish::End { end, over } => {
                looking.found.count += 1;
                let until = now + spread(over, looking.found.count as u64);
                if session.leaves.is_none_or(|(sooner, _)| until < sooner) {
                    session.leaves = Some((until, end));
                    let deadline = session.deadline();
                    self.wheel.set(index, deadline);
                }
            }
            Wish::List { limit } => looking.found.add(limit.min(FOUND_MAX), || seen(session, now)),
            Wish::Ended { .. } => {}
        }
    }
}

/// Any part of a time that spreads: by golden section, the same on every run.
fn spread(over: Duration, number: u64) -> Duration {
    let turn = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    over.mul_f64(turn as f64 / u32::MAX as f64)
}

impl SessionFilter {
    /// `elsewhere` is the name of its server where no backend has it.
    fn fits(
        &self,
        id: &SessionId,
        client: SocketAddr,
        terms: &Terms,
        (server, elsewhere): (Option<ServerIndex>, Option<&Arc<str>>),
    ) -> bool {
        self.id.is_none_or(|wanted| wanted == *id)
            && self.client.is_none_or(|network| network.contains(client.ip()))
            && self.port.is_none_or(|port| port == client.port())
            && self.backend.as_ref().is_none_or(|name| name == terms.backend.name())
            && self.server.as_ref().is_none_or(|name| {
                let known = server.and_then(|server| terms.backend.server_name(server));
                known.as_ref().or(elsewhere).is_some_and(|known| **known == **name)
            })
    }
}

impl SessionFilter {
    /// `name` is that which the client has asked for.
    fn fits_tls(&self, is_tls: bool, name: Option<&str>) -> bool {
        self.tls.is_none_or(|wanted| wanted == is_tls)
            && self
                .server_name
                .as_deref()
                .is_none_or(|wanted| name.is_some_and(|name| name.eq_ignore_ascii_case(wanted)))
    }
}

impl Found {
    fn add(&mut self, limit: usize, seen: impl FnOnce() -> SessionSeen) {
        self.count += 1;
        if self.seen.len() < limit {
            self.seen.push(seen());
        }
    }
}

fn seen<S>(session: &Session<S>, now: Instant) -> SessionSeen {
    let record = session.record(None, now);
    SessionSeen {
        id: record.id,
        service: record.listener.service.clone(),
        listener: record.listener.name.clone(),
        client: record.client,
        destination: record.destination,
        backend: record.backend.to_owned(),
        server: record.server.map(|name| name.to_string()),
        state: state(session.phase),
        ended: None,
        age: record.lasted,
        idle: record.idle,
        active: session.times.active,
        from_client: record.from_client,
        from_server: record.from_server,
        tls: session.tls_seen(),
    }
}

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued { .. } => "queued",
        Phase::Doubted { .. } => "doubted",
        Phase::Connecting => "connecting",
        Phase::Greeting => "greeting",
        Phase::Open => "open",
        Phase::Parting { .. } => "parting",
        Phase::Lingering { .. } => "lingering",
    }
}

impl Ended {
    fn seen(&self, now: Instant) -> SessionSeen {
        let backend = &self.terms.backend;
        let server = self.server.and_then(|server| backend.server_name(server));
        SessionSeen {
            id: self.id,
            service: self.listener.service.clone(),
            listener: self.listener.name.clone(),
            client: self.addresses.0,
            destination: self.addresses.1,
            backend: backend.name().to_owned(),
            server: server.or_else(|| self.elsewhere.clone()).map(|name| name.to_string()),
            state: self.closed.end.code(),
            ended: Some(now.saturating_duration_since(self.at)),
            age: self.closed.lasted,
            idle: self.at.saturating_duration_since(self.active),
            active: self.active,
            from_client: self.closed.from_client,
            from_server: self.closed.from_server,
            tls: self.tls.as_deref().cloned().or_else(|| self.is_tls.then(TlsSeen::passed_on)),
        }
    }
}

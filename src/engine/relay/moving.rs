//! Live sessions on their way from one process to another.
//!
//! Nothing is in flight in a session between two turns: its bytes are in the sockets, or held, and then they go along. So
//! one that is open can leave at any time: its watches end, its sockets go, and whoever gets them looks at both sides.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Relays;
use super::secured::Secured;
use super::service::Terms;
use super::session::{Phase, Session, Times};
use super::watch::Watch;
use crate::conn::SlotId;
use crate::dispatch::{ListenerInfo, Permit};
use crate::engine::fault::{self, Fault};
use crate::engine::tls_seen::TlsSeen;
use crate::relay::{End, Pair, PairState, SessionId, Side};
use crate::ring::Streams;

/// Most bytes that a session may hold for slow readers and still move: they go along in a message. One that holds more
/// stays until they are sent.
pub const HELD_MOVED_MAX: usize = 32 * 1024;

/// A relayed session between two processes. Dropping it ends it.
#[derive(Debug)]
pub struct LiveSession<S = OwnedFd> {
    /// The client's socket; nothing reads from it.
    pub client: S,
    /// The server's socket; nothing reads from it.
    pub server: S,
    /// All else.
    pub state: SessionState,
}

/// What is known of a session, but for its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// Its id.
    pub id: SessionId,
    /// The service that it belongs to.
    pub service: String,
    /// The name of the listener that it came through.
    pub listener: String,
    /// The server's name in the service's backend.
    pub server: String,
    /// Who is served.
    pub client: SocketAddr,
    /// What the client has connected to.
    pub destination: SocketAddr,
    /// How long ago the connection was accepted, its header was there, a server was chosen, connected and had greeted, and
    /// somebody has last said something.
    pub ages: [Duration; 6],
    /// The server has not greeted yet.
    pub awaits_greeting: bool,
    /// TLS is spoken from the first byte on.
    pub is_tls: bool,
    /// The client's TLS ends at the peer, as its header has told. What else that told of it does not move.
    pub tls_at_peer: bool,
    /// The client has shown a certificate there.
    pub tls_certificate: bool,
    /// Its server has ended out of a silence, without a last word.
    pub unasked: bool,
    /// Servers that were tried.
    pub attempts: u32,
    /// Bytes of the client that came with its header.
    pub early: u32,
    /// The two halves.
    pub pair: PairState,
}

impl<S> Relays<S> {
    /// Sends every session that can move to another process. The others stay.
    pub fn hand_over<D: Streams<Socket = S>>(&mut self, driver: &mut D, to: &Sender<LiveSession<S>>, now: Instant) {
        for slot in self.sessions.ids().collect::<Vec<_>>() {
            let Some(state) = self.sessions.get_mut(slot).and_then(|session| state(session, now)) else { continue };
            self.leave(driver, slot, state, to, now);
        }
    }

    fn leave<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        state: SessionState,
        to: &Sender<LiveSession<S>>,
        now: Instant,
    ) {
        let Some(session) = self.sessions.remove(slot) else { return };
        self.wheel.clear(slot.index);
        for side in [Side::Client, Side::Server] {
            Watch::of(slot, side, session.attempts).end(driver);
        }
        if let Some(index) = session.chosen {
            session.terms.backend.release(index, now);
        }
        let Some(server) = session.server else { return };
        self.tally.session_moved();
        // Nobody waits for it any more: it is over.
        let _ = to.send(LiveSession { client: session.client, server, state });
    }

    /// Goes on with a session of another process, under the terms of its service.
    pub fn take_in<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        moved: LiveSession<S>,
        terms: Arc<Terms>,
        permit: Option<Permit>,
        now: Instant,
    ) {
        if self.sessions.is_full() {
            // Before it counts at its server.
            return self.tally.session_ended(End::OutOfResources);
        }
        let LiveSession { client, server, state } = moved;
        let chosen = terms.backend.lock().adopt(&state.server, state.client.ip(), now);
        // Times that no clock can show are now.
        let times = state.ages.map(|age| now.checked_sub(age).unwrap_or(now));
        let [accepted, begun, chosen_at, connected, greeted, active] = times;
        let is_encrypted = driver.is_encrypted(&client) && !fault::present(Fault::ForgottenKeys);
        let tls = is_encrypted.then(|| Box::new(Secured::taken_over()));
        let session = Session {
            client,
            server: Some(server),
            attempts: state.attempts,
            chosen,
            listener: Arc::new(ListenerInfo::of_former(state.service, state.listener)),
            pair: Pair::resume(state.pair),
            tls,
            conveyed: state.tls_at_peer.then(|| Box::new(TlsSeen::known_before(state.tls_certificate))),
            terms,
            phase: if state.awaits_greeting { Phase::Greeting } else { Phase::Open },
            opening: None,
            id: state.id,
            addresses: (state.client, state.destination),
            early: state.early,
            times: Times { accepted, begun, chosen: chosen_at, connected, greeted, active },
            is_tls: state.is_tls,
            unasked: state.unasked,
            served_by: None,
            elsewhere: chosen.is_none().then(|| state.server.as_str().into()),
            leaves: None,
            is_kept_alive: false,
            busy: false,
            _permit: permit,
        };
        let Ok(slot) = self.sessions.insert(session) else { return };
        let session = self.sessions.get_mut(slot).expect("just put there");
        for side in [Side::Client, Side::Server] {
            if let Some(socket) = session.socket(side) {
                Watch::of(slot, side, session.attempts).begin(driver, socket);
            }
        }
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        self.pump(driver, slot, now);
    }
}

/// What goes along with a session; `None` if it cannot move now.
fn state<S>(session: &mut Session<S>, now: Instant) -> Option<SessionState> {
    let can_move =
        matches!(session.phase, Phase::Greeting | Phase::Open) && session.tls.as_ref().is_none_or(|tls| tls.can_move());
    if !can_move || session.pair.held() > HELD_MOVED_MAX {
        return None;
    }
    let Times { accepted, begun, chosen, connected, greeted, active } = session.times;
    let server = match session.chosen {
        Some(server) => session.terms.backend.server_name(server)?,
        None => session.elsewhere.clone()?,
    };
    Some(SessionState {
        id: session.id,
        service: session.listener.service.clone(),
        listener: session.listener.name.clone(),
        server: server.to_string(),
        client: session.addresses.0,
        destination: session.addresses.1,
        ages: [accepted, begun, chosen, connected, greeted, active].map(|then| now.saturating_duration_since(then)),
        awaits_greeting: session.phase == Phase::Greeting,
        is_tls: session.is_tls,
        tls_at_peer: session.conveyed.is_some(),
        tls_certificate: session.conveyed.as_ref().is_some_and(|tls| tls.certificate == Some(true)),
        unasked: session.unasked,
        attempts: session.attempts,
        early: session.early,
        pair: session.pair.state()?,
    })
}

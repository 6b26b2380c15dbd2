//! From a validated connection to a server that is connected: whose turn it is, the wait for a place, attempts in vain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::secured::Secured;
use super::service::{SharedBackend, Terms};
use super::session::{Opening, Phase, Session, Times};
use super::watch::{Watch, packed, unpacked};
use super::wire::Link;
use super::{Relays, connect_in_turn};
use crate::backend::{Choice, Grant, ServerIndex, Tried, Waiter};
use crate::conn::SlotId;
use crate::dispatch::{Handoff, TlsInfo};
use crate::engine::fault::{self, Fault};
use crate::engine::tls_seen::TlsSeen;
use crate::net::canonical_socket;
use crate::proxy::Command;
use crate::relay::{Course, End, Facts, Forward, HEADER_MAX, Pair, Preface, Protocol, SessionId, Side, Tls, Whom};
use crate::ring::{Errno, Streams};

/// So long a connection that came with LOCAL may turn out to be a look whether somebody listens.
pub(super) const DOUBT: Duration = Duration::from_millis(50);

impl<S> Relays<S> {
    /// A session for a validated connection; `bytes` are the header, if there is one, and what came behind it. With
    /// `to_kernel` the kernel goes on with TLS that has ended here, where it can.
    pub fn prepare<D: Streams<Socket = S>>(
        &self,
        driver: &D,
        terms: &Arc<Terms>,
        handoff: Handoff<S>,
        bytes: &[u8],
        to_kernel: bool,
        now: Instant,
    ) -> Session<S> {
        let header = handoff.head.and_then(|head| head.over(bytes));
        // Of TLS that has ended here the handshake has taken what came behind the header.
        let early = match handoff.tls {
            Some(_) => &[],
            None => &bytes[header.as_ref().map_or(0, |header| header.len())..],
        };
        let peer = canonical_socket(handoff.peer);
        let local = || handoff.local.or_else(|| driver.local(&handoff.socket)).map_or(peer, canonical_socket);
        let addresses = match header.and_then(|header| header.head().ip()) {
            Some((source, destination)) => (canonical_socket(source), canonical_socket(destination)),
            None => (peer, local()),
        };
        let tls = handoff.tls.as_ref().map(|tls| told(tls.info()));
        let id = SessionId::new(self.wall.micros(handoff.accepted_at), addresses.0);
        let facts = Facts { header, client: addresses.0, destination: addresses.1, session: id, tls };
        let is_local = header.is_some_and(|header| header.command() == Command::Local);
        let doubted = Phase::Doubted { until: now + DOUBT };
        let opening = Opening {
            announcement: announcement(terms, &facts),
            preface: Preface::new(terms.forward, terms.protocol, &facts, &terms.host),
            early: early.to_vec(),
            tried: Tried::default(),
            queue_until: None,
            connect_until: None,
        };
        let is_tls = handoff.tls.is_none() && (is_implicit_tls(addresses.1.port()) || early.starts_with(&[0x16, 0x03]));
        let is_silent = early.is_empty() && !handoff.tls.as_ref().is_some_and(|tls| tls.is_readable());
        let secured = handoff.tls.map(|tls| Box::new(Secured::new(driver, &handoff.socket, tls, to_kernel)));
        Session {
            client: handoff.socket,
            server: None,
            attempts: 0,
            chosen: None,
            pair: Pair::new(terms.protocol != Protocol::None && !is_tls),
            terms: terms.clone(),
            phase: if is_local && is_silent { doubted } else { Phase::Connecting },
            tls: secured,
            conveyed: header.as_ref().and_then(TlsSeen::conveyed).map(Box::new),
            opening: Some(Box::new(opening)),
            listener: handoff.listener,
            id,
            addresses,
            early: early.len() as u32,
            times: Times::new(handoff.accepted_at, now),
            is_tls,
            served_by: None,
            elsewhere: None,
            leaves: None,
            unasked: false,
            is_kept_alive: false,
            busy: false,
            _permit: handoff.permit,
        }
    }

    /// Begins a session. If there are too many, its connection is closed.
    pub fn begin<D: Streams<Socket = S>>(&mut self, driver: &mut D, session: Session<S>, now: Instant) {
        match self.sessions.insert(session) {
            Ok(slot) => {
                let session = self.sessions.get_mut(slot).expect("just put there");
                session.leaves = self.closes_at.map(|until| (until, End::Drained));
                Watch::of(slot, Side::Client, 0).begin(driver, &session.client);
                // What came with the end of a handshake is not in the socket any more.
                let is_readable = session.tls.as_ref().is_some_and(|tls| tls.is_readable());
                if is_readable && !fault::present(Fault::ForgottenEarly) {
                    session.pair.ready(Side::Client, true, false);
                }
                match session.phase {
                    Phase::Doubted { until } => self.wheel.set(slot.index, until),
                    _ => self.choose(driver, slot, now),
                }
            }
            Err(session) => {
                self.witness.sees(session.addresses.0, End::OutOfResources);
                self.tally.session_ended(End::OutOfResources);
            }
        }
    }

    /// Begins a session with somebody who is connected already: `server` is one end of a pair of sockets, and he has the other,
    /// or will have it.
    ///
    /// # Errors
    /// There are too many: nothing has happened.
    pub fn begin_with<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        mut session: Session<S>,
        server: (S, &Arc<str>),
        now: Instant,
    ) -> Result<(), Box<Session<S>>> {
        session.opening = None;
        session.phase = Phase::Open;
        session.elsewhere = Some(server.1.clone());
        session.server = Some(server.0);
        let slot = self.sessions.insert(session).map_err(Box::new)?;
        let session = self.sessions.get_mut(slot).expect("just put there");
        session.leaves = self.closes_at.map(|until| (until, End::Drained));
        for side in [Side::Client, Side::Server] {
            if let Some(socket) = session.socket(side) {
                Watch::of(slot, side, session.attempts).begin(driver, socket);
            }
        }
        let Some(server) = &session.server else { return Ok(()) };
        let tls = session.tls.as_deref_mut();
        let is_readable = tls.as_ref().is_some_and(|tls| tls.is_readable());
        let mut link = Link { driver, client: &session.client, server, tls, records: &mut self.records };
        session.pair.connected(&mut link, &[], &[], None);
        // What came with the end of a handshake is not in the socket any more.
        session.pair.ready(Side::Client, is_readable && !fault::present(Fault::ForgottenEarly), false);
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        self.tell(slot, None, now);
        self.pump(driver, slot, now);
        Ok(())
    }

    /// Finds a server, or a place in the line.
    pub(super) fn choose<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        loop {
            let session = self.sessions.get_mut(slot).expect("the caller has it");
            let terms = session.terms.clone();
            let opening = session.opening.as_mut().expect("it has no server yet");
            let client = session.addresses.0.ip();
            let mut backend = terms.backend.lock();
            let connect_timeout = backend.settings().connect_timeout;
            if opening.tried.len() > backend.settings().retries as usize {
                drop(backend);
                return self.part(driver, slot, End::ConnectFailed, now);
            }
            match backend.choose(client, &opening.tried, now) {
                Choice::Server { index, address } => {
                    drop(backend);
                    opening.connect_until.get_or_insert(now + connect_timeout);
                    session.times.chosen = now;
                    if self.connect(driver, slot, index, address, now) {
                        return;
                    }
                }
                Choice::Full => {
                    let waiter = Waiter { ring: self.letterbox.number(), session: packed(slot) };
                    terms.backend.boxes().add(&self.letterbox);
                    let until = *opening.queue_until.get_or_insert(now + backend.settings().queue_timeout);
                    let waits = backend.wait(waiter, client, now).is_ok();
                    drop(backend);
                    if !waits {
                        return self.part(driver, slot, End::QueueFull, now);
                    }
                    session.phase = Phase::Queued { until };
                    // Who has waited for a place has its time to connect before it.
                    if let Some(opening) = &mut session.opening {
                        opening.connect_until = None;
                    }
                    return self.wheel.set(slot.index, until);
                }
                Choice::Nobody => {
                    let end = if opening.tried.is_empty() { End::NoServer } else { End::ConnectFailed };
                    drop(backend);
                    return self.part(driver, slot, end, now);
                }
            }
        }
    }

    /// Begins to connect to a server at which the session counts already; `false` if another must be found.
    pub(super) fn connect<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        index: ServerIndex,
        address: SocketAddr,
        now: Instant,
    ) -> bool {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        session.chosen = Some(index);
        match connect_in_turn(driver, address, &session.terms.sources, &mut self.source) {
            Ok(socket) => {
                session.attempts += 1;
                Watch::of(slot, Side::Server, session.attempts).begin(driver, &socket);
                session.server = Some(socket);
                session.phase = Phase::Connecting;
                let deadline = session.deadline();
                self.wheel.set(slot.index, deadline);
                true
            }
            Err(errno) if is_our_own(errno) => {
                session.terms.backend.connect_failed(index, errno, now);
                session.terms.backend.short_of(errno, address, &session.terms.sources, now);
                self.part(driver, slot, End::OutOfResources, now);
                true
            }
            Err(errno) => {
                self.give_server_up(slot, errno, now);
                false
            }
        }
    }

    pub(super) fn connect_ended<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        slot: SlotId,
        broken: bool,
        now: Instant,
    ) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let Some(server) = &session.server else { return };
        let failed = driver.connected(server).err().or(broken.then_some(Errno(libc::ECONNRESET)));
        if let Some(errno) = failed {
            Watch::of(slot, Side::Server, session.attempts).end(driver);
            session.server = None;
            // What was told of the one that is gone does not hold for the next.
            session.pair.server_changes();
            self.give_server_up(slot, errno, now);
            return self.choose(driver, slot, now);
        }
        self.opened(driver, slot, now);
    }

    /// No server has answered in time. One that had half of the time, or more, is blamed for it.
    pub(super) fn connect_is_late<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let limit = session.terms.backend.lock().settings().connect_timeout;
        if let Some(server) = session.chosen
            && now.saturating_duration_since(session.times.chosen) >= limit / 2
        {
            session.terms.backend.connect_failed(server, Errno(libc::ETIMEDOUT), now);
        }
        self.part(driver, slot, End::ConnectTimeout, now);
    }

    /// A place at a server for a session that has waited.
    pub(super) fn handle_grant<D: Streams<Socket = S>>(
        &mut self,
        driver: &mut D,
        backend: &SharedBackend,
        grant: Grant,
        now: Instant,
    ) {
        let slot = unpacked(grant.waiter.session);
        let waits = self.sessions.get_mut(slot).is_some_and(|session| matches!(session.phase, Phase::Queued { .. }));
        if !waits {
            return backend.release(grant.index, now);
        }
        let session = self.sessions.get_mut(slot).expect("as just found");
        let connect_timeout = backend.lock().settings().connect_timeout;
        session.phase = Phase::Connecting;
        session.times.chosen = now;
        if let Some(opening) = &mut session.opening {
            opening.connect_until.get_or_insert(now + connect_timeout);
        }
        if !self.connect(driver, slot, grant.index, grant.address, now) {
            self.choose(driver, slot, now);
        }
    }

    /// The server is connected: it is told what comes first.
    pub(super) fn opened<D: Streams<Socket = S>>(&mut self, driver: &mut D, slot: SlotId, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let opening = session.opening.take().expect("it was connecting");
        let index = session.chosen.expect("it was connecting");
        session.terms.backend.lock().connected(index, session.server_greets());
        session.times.connected = now;
        session.times.active = now;
        session.times.greeted = now;
        session.phase = if session.server_greets() { Phase::Greeting } else { Phase::Open };
        let server = session.server.as_ref().expect("it is connected");
        let tls = session.tls.as_deref_mut();
        let mut link = Link { driver, client: &session.client, server, tls, records: &mut self.records };
        let Opening { announcement: mut first, mut early, preface, .. } = *opening;
        let protocol = session.terms.protocol;
        let filtered = session.terms.forward == Forward::Xclient;
        let course = preface.map(|preface| Course::new(preface, protocol, filtered, &std::mem::take(&mut early)));
        // Some take it for talking out of turn if the client's bytes stand in the header's segment.
        if session.is_tls || session.terms.target.preset().sends_early(protocol) {
            first.append(&mut early);
        }
        if first.is_empty() && early.is_empty() {
            link.driver.acknowledge(server);
        }
        if fault::present(Fault::BufferLeak) {
            let (announcement, tried) = (first.clone(), Tried::default());
            let leaked = Opening {
                announcement,
                preface: None,
                early: early.clone(),
                tried,
                queue_until: None,
                connect_until: None,
            };
            session.opening = Some(Box::new(leaked));
        }
        session.pair.connected(&mut link, &first, &early, course);
        let deadline = session.deadline();
        self.wheel.set(slot.index, deadline);
        self.tell(slot, None, now);
        self.pump(driver, slot, now);
    }

    /// A connect has failed: the server is told, and is not tried again.
    pub(super) fn give_server_up(&mut self, slot: SlotId, errno: Errno, now: Instant) {
        let session = self.sessions.get_mut(slot).expect("the caller has it");
        let Some(index) = session.chosen.take() else { return };
        if let Some(opening) = &mut session.opening
            && !fault::present(Fault::DeadServer)
        {
            opening.tried.add(index);
        }
        let backend = session.terms.backend.clone();
        backend.connect_failed(index, errno, now);
        backend.release(index, now);
    }
}

/// What servers are told of TLS that has ended here.
fn told(info: &TlsInfo) -> Tls<'_> {
    Tls {
        version: info.version,
        cipher: info.cipher,
        server_name: info.server_name.as_deref(),
        alpn: info.alpn.as_deref(),
        client_name: info.client_name.as_deref(),
    }
}

/// The header that the server gets, if it gets one.
fn announcement(terms: &Terms, facts: &Facts<'_>) -> Vec<u8> {
    let Some(announce) = &terms.announce else { return Vec::new() };
    let mut room = [0; HEADER_MAX];
    match announce.write(facts, Whom::Client, &mut room) {
        Ok(announced) => room[..announced.length].to_vec(),
        Err(error) => {
            // The presets' limits have room for the addresses; should one not, the server refuses a session without header.
            tracing::error!("no header for a session of {}: {error}", terms.name);
            Vec::new()
        }
    }
}

/// Ports on which TLS is spoken from the first byte on.
fn is_implicit_tls(port: u16) -> bool {
    matches!(port, 993 | 995 | 465)
}

/// Whether a connect has failed for want of something that other servers would lack too.
fn is_our_own(errno: Errno) -> bool {
    matches!(errno.0, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
}

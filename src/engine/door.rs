//! One listener of one ring: whether its accept is armed, and when to arm it again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::Terms;
use super::tally::{Passage, Row};
use super::uses::Use;
use crate::admission::PendingPeers;
use crate::conn::{Ending, Terms as HeaderTerms};
use crate::dispatch::{ListenerInfo, TlsTerms};
use crate::proxy::Rules;
use crate::ring::Errno;

/// Rest after the first failed accept.
const REST_MIN: Duration = Duration::from_millis(10);
/// Longest rest; it doubles from failure to failure and a connection sets it back.
const REST_MAX: Duration = Duration::from_millis(500);

/// A listener as its ring sees it.
#[derive(Debug)]
pub struct Door {
    /// What its connections have in common.
    pub info: Arc<ListenerInfo>,
    /// The address it is bound to, unless that is a wildcard.
    pub local: Option<SocketAddr>,
    /// Index of its pool, if it has one of its own workers.
    pub pool: usize,
    /// If the ring serves its connections itself: how.
    pub relay: Option<Arc<Terms>>,
    /// If TLS ends here and its pool goes on with plain sockets only: how the ring relays between.
    pub between: Option<Arc<Terms>>,
    /// If TLS ends here: how.
    pub tls: Option<Arc<dyn TlsTerms>>,
    /// The address of its socket.
    pub bound: SocketAddr,
    /// What a header must be like, and who may send one; `None`: no header is expected.
    pub proxy: Option<ProxyDoor>,
    /// The listener's place in the report.
    pub row: u32,
    /// Its counters.
    pub counts: Arc<Row>,
    /// By index of its trusted networks: how each is used.
    uses: Box<[Arc<Use>]>,
    /// Every connection gets a line in the log.
    pub log_connections: bool,
    /// Headers that are awaited.
    pending: u32,
    /// Connections behind door 2 whose TLS handshake is awaited, or whose session waits for room in its pool.
    pub shaking: u32,
    arm: Arm,
    rest: Duration,
    state: State,
}

/// Whether a door belongs to the present configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Not any more; another door has the same socket if `succeeded`.
    Retired {
        succeeded: bool,
    },
    /// Nobody is behind it any more: its place is free.
    Vacant,
}

/// The terms of a `haproxy = yes` listener.
#[derive(Clone, Debug)]
pub struct ProxyDoor {
    /// Who may send a header, what it must be like, and what becomes of others.
    pub terms: Arc<HeaderTerms>,
    /// The class of its deadlines, from accept.
    pub class: usize,
    /// The class of those who spoke at once on a listener with TCP_DEFER_ACCEPT: they have the whole timeout.
    pub prompt_class: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Off,
    Armed,
    /// A cancel is on its way.
    Ending,
    Resting {
        until: Instant,
    },
    /// It will never accept again.
    Closed,
}

/// What a failed accept means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was cancelled on request.
    Asked,
    /// It can be armed again after a rest.
    Transient,
    /// Files or memory ran out; a closed descriptor ends the rest.
    Resources,
    /// The socket is of no use any more.
    Fatal,
}

impl Door {
    /// A door that is not armed yet.
    pub fn new(info: Arc<ListenerInfo>, bound: SocketAddr, pool: usize, proxy: Option<ProxyDoor>) -> Door {
        Door {
            info,
            bound,
            local: (!bound.ip().is_unspecified()).then_some(bound),
            pool,
            relay: None,
            between: None,
            tls: None,
            proxy,
            counts: Arc::default(),
            uses: Box::default(),
            row: 0,
            log_connections: false,
            pending: 0,
            shaking: 0,
            arm: Arm::Off,
            rest: REST_MIN,
            state: State::Open,
        }
    }

    /// Another configuration is in force, in which this door is not; `succeeded`: but its socket is.
    pub fn retire(&mut self, succeeded: bool) {
        if self.state == State::Open {
            self.state = State::Retired { succeeded };
        }
    }

    /// Whether it is of the present configuration.
    pub fn is_present(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it is of an earlier configuration and its socket lives on behind another door.
    pub fn is_succeeded(&self) -> bool {
        self.state == State::Retired { succeeded: true }
    }

    /// Whether its connections may still go to this pool.
    pub fn leads_to(&self, pool: usize) -> bool {
        !self.is_vacant() && self.relay.is_none() && self.pool == pool
    }

    /// Whether its place may be taken.
    pub fn is_vacant(&self) -> bool {
        self.state == State::Vacant
    }

    /// Whether headers or handshakes are awaited.
    pub fn has_pending(&self) -> bool {
        self.pending > 0 || self.shaking > 0
    }

    /// Nobody refers to it any more.
    pub fn vacate(&mut self) {
        self.state = State::Vacant;
    }

    /// The same for another place in the report and in the counters than the first.
    pub fn in_row(mut self, row: u32, counts: Arc<Row>) -> Door {
        (self.row, self.counts) = (row, counts);
        self.count_uses();
        self
    }

    /// The grammar of its headers.
    pub fn rules(&self) -> Rules {
        self.proxy.as_ref().map(|proxy| proxy.terms.rules).unwrap_or_default()
    }

    /// Whether a new connection of this peer has to begin with a header.
    pub fn expects_header(&self, peer: IpAddr) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.terms.expects_header(peer))
    }

    /// Door 1: lets a peer in or not; whose header is to be awaited counts as pending from now on. Tells by which of its
    /// networks the peer is trusted.
    pub fn admit_peer(&mut self, peer: IpAddr, peers: &mut PendingPeers) -> Result<Option<usize>, Ending> {
        let Some(proxy) = &self.proxy else { return Ok(None) };
        let by = proxy.terms.admit_peer(peer, self.pending, peers)?;
        self.pending += 1;
        self.counts.passed(Passage::Awaited);
        Ok(Some(by))
    }

    /// A connection was let in by one of its networks.
    pub fn trusted_by(&self, network: usize, now: Instant) {
        // Networks beyond those that are told apart have no place.
        if let Some(used) = self.uses.get(network) {
            used.note(now);
        }
    }

    /// Counts by the networks that are trusted now.
    pub fn count_uses(&mut self) {
        let networks = self.proxy.as_ref().map_or(&[][..], |proxy| proxy.terms.trusted.networks());
        self.uses = self.counts.uses_of(networks);
    }

    /// Whether a stricter policy that is only tried would turn a peer away.
    pub fn shadow_turns_away(&self, peer: IpAddr) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.terms.shadow_turns_away(peer))
    }

    /// A header is not awaited any more.
    pub fn settle(&mut self, peer: IpAddr, peers: &mut PendingPeers) {
        self.pending -= 1;
        self.counts.passed(Passage::Settled);
        peers.leave(peer);
    }

    /// Who the client of a connection without a header is, if it is one.
    pub fn plain_client(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.info.checks_from.contains(peer)).then_some(peer)
    }

    /// Whether no accept is in flight and it has rested enough.
    pub fn is_ready(&self, now: Instant, descriptors_freed: bool) -> bool {
        match self.arm {
            Arm::Off => true,
            Arm::Resting { until } => descriptors_freed || until <= now,
            Arm::Armed | Arm::Ending | Arm::Closed => false,
        }
    }

    /// Whether the accept should be armed now; the caller does it and the door takes note.
    pub fn arm(&mut self, now: Instant, descriptors_freed: bool) -> bool {
        let ready = self.is_ready(now, descriptors_freed);
        if ready {
            self.arm = Arm::Armed;
        }
        ready
    }

    /// Whether the accept should be cancelled now; the caller does it and the door takes note.
    pub fn disarm(&mut self) -> bool {
        let armed = self.arm == Arm::Armed;
        if armed {
            self.arm = Arm::Ending;
        }
        armed
    }

    /// Ends a rest, if it rests.
    pub fn rise(&mut self) {
        if let Arm::Resting { .. } = self.arm {
            self.arm = Arm::Off;
        }
    }

    /// Rests for the shortest time, whatever has failed before: a drain has no more.
    pub fn rest_briefly(&mut self, now: Instant) {
        self.arm = Arm::Resting { until: now + REST_MIN };
    }

    /// A connection came; `armed` says whether the accept goes on.
    pub fn handle_connection(&mut self, armed: bool) {
        self.rest = REST_MIN;
        if !armed {
            self.arm = Arm::Off;
        }
    }

    /// The accept reported an error.
    pub fn handle_failure(&mut self, errno: Errno, armed: bool, now: Instant) -> Failure {
        let asked = self.arm == Arm::Ending;
        let failure = match errno.0 {
            libc::ECANCELED if asked => Failure::Asked,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Failure::Resources,
            libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP => Failure::Fatal,
            _ => Failure::Transient,
        };
        if armed {
            return failure;
        }
        self.arm = match failure {
            Failure::Asked => Arm::Off,
            Failure::Fatal => Arm::Closed,
            Failure::Transient | Failure::Resources => self.begin_rest(now),
        };
        failure
    }

    /// The listening socket is closed.
    pub fn close(&mut self) {
        self.arm = Arm::Closed;
    }

    /// Whether it will never accept again.
    pub fn is_closed(&self) -> bool {
        self.arm == Arm::Closed
    }

    /// When a rest ends.
    pub fn rests_until(&self) -> Option<Instant> {
        match self.arm {
            Arm::Resting { until } => Some(until),
            _ => None,
        }
    }

    fn begin_rest(&mut self, now: Instant) -> Arm {
        let until = now + self.rest;
        self.rest = (self.rest * 2).min(REST_MAX);
        Arm::Resting { until }
    }
}

impl Drop for Door {
    /// Whose header is awaited when a ring ends by a fault is awaited no more.
    fn drop(&mut self) {
        (0..self.pending).for_each(|_| self.counts.passed(Passage::Settled));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        let info = ListenerInfo {
            service: "imap-login".into(),
            name: "imap".into(),
            ssl: false,
            checks_from: Default::default(),
        };
        Door::new(Arc::new(info), ([192, 0, 2, 1], 143).into(), 0, None)
    }

    #[test]
    fn only_the_flag_decides_about_arming_again() {
        let now = Instant::now();
        let mut door = door();
        assert!(door.arm(now, false) && !door.arm(now, false), "at most one is armed");
        door.handle_connection(true);
        assert!(!door.arm(now, false));
        door.handle_connection(false);
        assert!(door.arm(now, false));
        assert_eq!(door.handle_failure(Errno(libc::ECONNABORTED), true, now), Failure::Transient);
        assert!(!door.arm(now, false), "an error that says it goes on changes nothing");
    }

    #[test]
    fn running_out_of_files_does_not_spin() {
        let mut now = Instant::now();
        let mut door = door();
        let mut rests = Vec::new();
        for _ in 0..8 {
            assert!(door.arm(now, false));
            assert_eq!(door.handle_failure(Errno(libc::EMFILE), false, now), Failure::Resources);
            assert!(!door.arm(now, false));
            let until = door.rests_until().expect("it rests");
            rests.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 320, 500, 500]);
        door.handle_failure(Errno(libc::EMFILE), false, now);
        assert!(door.arm(now, true), "a descriptor that came free ends the rest");
        door.handle_connection(false);
        door.handle_failure(Errno(libc::ENFILE), false, now);
        assert_eq!(door.rests_until(), Some(now + REST_MIN), "a connection sets it back");
    }

    #[test]
    fn a_cancel_that_nobody_asked_for_is_survived() {
        let now = Instant::now();
        let mut door = door();
        door.arm(now, false);
        assert_eq!(door.handle_failure(Errno(libc::ECANCELED), false, now), Failure::Transient);
        door.arm(now + REST_MAX, false);
        assert!(door.disarm() && !door.disarm());
        assert_eq!(door.handle_failure(Errno(libc::ECANCELED), false, now), Failure::Asked);
        assert!(door.is_ready(now, false));
    }

    #[test]
    fn a_useless_socket_is_given_up() {
        let now = Instant::now();
        let mut door = door();
        door.arm(now, false);
        assert_eq!(door.handle_failure(Errno(libc::EINVAL), false, now), Failure::Fatal);
        assert!(door.is_closed() && !door.arm(now + REST_MAX, true));
    }
}

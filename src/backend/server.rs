//! One server: what is wanted of it, how it does, and everything that changes either.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::choice::{Load, ServerIndex, WEIGHT_ONE};
use super::health::{Change, ConnectFailure, Health, OUT_FOR, Turn, fast_interval};
use super::ramp::Ramp;
use super::settings::{AdminState, CheckKind, ServerSettings, WEIGHT_MAX};
use super::traffic::Traffic;
use super::verdict::{Finding, Verdict};
use super::view::{ServerTotals, ServerView};
use super::{Backend, nanos};

/// How long a server that has said that it is overloaded gets less than its share: half of it at first.
pub const OVERLOAD_EASE: Duration = Duration::from_secs(10);
/// A server that says it to many sessions at once has said it once: the next halving is so much later.
pub const OVERLOADS_APART: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Server {
    /// As the files have it; weight, state and address may be others now.
    pub(super) settings: ServerSettings,
    /// What `settings` said before anybody changed it at run time.
    pub(super) as_written: (u32, AdminState),
    /// A reload has taken it away; its sessions are still counted.
    pub(super) gone: bool,
    pub(super) health: Health,
    pub(super) last_check: Option<Verdict>,
    pub(super) eased_at: Option<u64>,
    pub(super) sessions_max: u32,
    pub(super) totals: ServerTotals,
    pub(super) traffic: Traffic,
}

impl Server {
    pub(super) fn new(settings: ServerSettings, health: Health) -> Server {
        Server {
            as_written: (settings.weight, settings.state),
            settings,
            gone: false,
            health,
            last_check: None,
            eased_at: None,
            sessions_max: 0,
            totals: ServerTotals::default(),
            traffic: Traffic::default(),
        }
    }

    pub(super) fn takes_known(&self) -> bool {
        !self.gone
            && self.health.up
            && self.settings.address.is_some()
            && matches!(self.settings.state, AdminState::Ready | AdminState::Drain)
    }

    pub(super) fn takes_new(&self) -> bool {
        self.takes_known() && self.settings.state == AdminState::Ready && self.settings.weight > 0
    }

    /// What a choice needs to know; closed until it is opened.
    pub(super) fn load(&self) -> Load {
        let settings = &self.settings;
        Load::new(limit(settings.connection_limit), base(settings.weight), settings.backup)
    }

    fn is_checked(&self) -> bool {
        !self.gone && self.settings.address.is_some() && self.settings.state != AdminState::Maint
    }
}

pub(super) fn limit(connection_limit: u32) -> u32 {
    if connection_limit == 0 { u32::MAX } else { connection_limit }
}

pub(super) fn base(weight: u32) -> u16 {
    weight.min(WEIGHT_MAX) as u16
}

/// What a prober has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextCheck {
    /// Check this server now. It is not named again before [`Backend::checked`] has the verdict.
    Now {
        /// Its number.
        server: ServerIndex,
        /// Where to connect.
        address: SocketAddr,
    },
    /// Nothing before this moment, unless something changes.
    At(Instant),
    /// Nothing, unless something changes.
    Never,
}

/// What happens at a server.
impl Backend {
    /// A connection to the server was made. `greets`: what is spoken there begins with the server's greeting, so that the
    /// connection alone proves nothing; else it ends a row of failures.
    pub fn connected(&mut self, server: ServerIndex, greets: bool) {
        if !greets {
            self.greeted(server);
        }
    }

    /// The server's greeting has come: it ends a row of failures.
    pub fn greeted(&mut self, server: ServerIndex) {
        self.servers[server.at()].health.session_served();
    }

    /// A connection to the server could not be made. The session is still counted until it is released.
    pub fn connect_failed(&mut self, server: ServerIndex, failure: ConnectFailure, now: Instant) -> Option<Change> {
        let totals = &mut self.servers[server.at()].totals;
        if failure.is_ours() {
            totals.own_faults += 1;
            return None;
        }
        totals.connect_errors += 1;
        self.session_failed(server, now, |row| format!("{row} sessions in a row failed, the last one: {failure}"))
    }

    /// The server has accepted a connection, and then ended it or been silent for the whole of `login_proxy_timeout` before
    /// its greeting. Not to be called when the client went first.
    pub fn not_greeted(&mut self, server: ServerIndex, now: Instant) -> Option<Change> {
        self.servers[server.at()].totals.not_greeted += 1;
        self.session_failed(server, now, |row| {
            format!("{row} sessions in a row failed, the last one: no greeting came")
        })
    }

    /// The server has said that it has too many connections (`Connection queue full`, `421 .. too many connections`): it
    /// stays up, and gets half of its share, which rises again over [`OVERLOAD_EASE`].
    pub fn overloaded(&mut self, server: ServerIndex, now: Instant) {
        let now = self.nanos(now);
        let at = &mut self.servers[server.at()];
        at.totals.overloaded += 1;
        let told = at.eased_at.is_some_and(|eased| now.saturating_sub(eased) < nanos(OVERLOADS_APART));
        if told || !at.takes_new() {
            return;
        }
        at.eased_at = Some(now);
        let ramp = Ramp::halved(server, self.field.ramp(server), now, nanos(OVERLOAD_EASE));
        self.field.begin_ramp(ramp);
    }

    /// What a check has found.
    pub fn checked(&mut self, server: ServerIndex, verdict: Verdict, now: Instant) -> Option<Change> {
        let nanos = self.nanos(now);
        let checks = self.settings.check;
        let at = &mut self.servers[server.at()];
        at.health.being_checked = false;
        if std::mem::take(&mut at.health.outdated) || !at.is_checked() {
            return None;
        }
        let turn = match verdict.finding {
            Finding::OwnFault => Turn::Stays,
            finding if finding.is_good() => {
                at.totals.checks_passed += 1;
                at.health.check_passed(&checks)
            }
            finding => {
                at.totals.checks_failed += 1;
                at.health.check_failed(&checks, finding.is_decisive())
            }
        };
        let why = verdict.message.clone();
        if !at.health.up && !verdict.finding.is_good() && verdict.finding != Finding::OwnFault {
            at.health.why.clone_from(&why);
        }
        let overloaded = verdict.finding == Finding::Overloaded;
        at.last_check = Some(verdict);
        let change = self.turn(server, turn, why, nanos);
        if overloaded {
            self.overloaded(server, now);
        }
        self.servers[server.at()].health.plan(nanos, &checks, &mut self.dice);
        change
    }

    /// Which server is to be checked next, and when.
    pub fn next_check(&mut self, now: Instant) -> NextCheck {
        if self.settings.check.kind == CheckKind::None {
            return NextCheck::Never;
        }
        let waiting = |server: &Server| server.is_checked() && !server.health.being_checked;
        let open = self.servers.iter_mut().enumerate().filter(|(_, server)| waiting(server));
        let Some((at, server)) = open.min_by_key(|(_, server)| server.health.next_check) else {
            return NextCheck::Never;
        };
        let (due, settings) = (server.health.next_check, &server.settings);
        match settings.address {
            Some(mut address) if due <= nanos(now.saturating_duration_since(self.origin)) => {
                address.set_port(settings.check_port.unwrap_or(address.port()));
                server.health.being_checked = true;
                NextCheck::Now { server: ServerIndex(at as u16), address }
            }
            _ => NextCheck::At(self.instant(due)),
        }
    }

    /// When the time alone changes something: a server that is never checked is tried again. Then
    /// [`next_grant`](Backend::next_grant) may have places.
    pub fn wake_at(&self) -> Option<Instant> {
        self.back_at.map(|nanos| self.instant(nanos))
    }

    /// Sets what is wanted of a server. Out of maint it is taken to be up until a check says something else.
    pub fn set_state(&mut self, server: ServerIndex, state: AdminState, now: Instant) {
        let nanos = self.nanos(now);
        let at = &mut self.servers[server.at()];
        let was = std::mem::replace(&mut at.settings.state, state);
        if was == AdminState::Maint && state != AdminState::Maint {
            self.assume_up(server, nanos);
        }
        self.open_or_close(server, nanos);
    }

    /// Sets a server's weight, 0..=[`WEIGHT_MAX`]; more counts as that.
    pub fn set_weight(&mut self, server: ServerIndex, weight: u32, now: Instant) {
        let nanos = self.nanos(now);
        self.servers[server.at()].settings.weight = weight.min(WEIGHT_MAX);
        self.field.set_base(server, base(weight), nanos);
        self.open_or_close(server, nanos);
    }

    /// Sets where a server listens; `None`: its name has no address now, and no session comes to it. At another address it
    /// is taken to be another server: up until something else is known, and brought to its share slowly.
    pub fn set_address(&mut self, server: ServerIndex, address: Option<SocketAddr>, now: Instant) {
        let nanos = self.nanos(now);
        if self.servers[server.at()].settings.address == address {
            return;
        }
        self.servers[server.at()].settings.address = None;
        self.open_or_close(server, nanos);
        self.servers[server.at()].settings.address = address;
        self.assume_up(server, nanos);
        self.open_or_close(server, nanos);
    }

    /// A server as it is now.
    pub fn server(&self, index: ServerIndex, now: Instant) -> ServerView<'_> {
        let (server, load) = (&self.servers[index.at()], &self.field.loads[index.at()]);
        let now = self.nanos(now);
        let weight = self.field.ramp(index).map_or(load.weight, |ramp| ramp.weight(load.base, now));
        ServerView {
            index,
            name: &server.settings.name,
            host: &server.settings.host,
            port: server.settings.port,
            check_port: server.settings.check_port,
            address: server.settings.address,
            state: server.settings.state,
            backup: server.settings.backup,
            up: server.health.up,
            since: self.instant(server.health.since),
            why: &server.health.why,
            last_check: server.last_check.as_ref(),
            takes_new: self.field.is_active(index),
            sessions: load.sessions,
            sessions_max: server.sessions_max,
            limit: (load.limit != u32::MAX).then_some(load.limit),
            weight: server.settings.weight,
            weight_now: f64::from(weight) / f64::from(WEIGHT_ONE),
            totals: server.totals,
            traffic: &server.traffic,
        }
    }

    /// One more server, closed; the first checks of a backend are spread over a fast interval.
    pub(super) fn push_server(&mut self, settings: ServerSettings, nanos: u64) {
        let first_check =
            nanos.saturating_add(self.dice.up_to(super::nanos(fast_interval(self.settings.check.interval))));
        let name = self.secret.hash_text(&settings.name);
        let server = Server::new(settings, Health::assumed(nanos, first_check));
        self.field.push(server.load(), name);
        self.servers.push(server);
    }

    /// Lets sessions come to the server or not, as it stands. `true`: new ones come from now on.
    pub(super) fn settle(&mut self, server: ServerIndex) -> bool {
        let at = &self.servers[server.at()];
        self.field.open(server, at.takes_new(), at.takes_known())
    }

    /// [`settle`](Backend::settle), and a slow start for who returns.
    pub(super) fn open_or_close(&mut self, server: ServerIndex, now: u64) {
        if self.settle(server) && !self.settings.slow_start.is_zero() {
            self.field.begin_ramp(Ramp::slow_start(server, now, nanos(self.settings.slow_start)));
        }
    }

    /// Servers that are never checked and have been left alone long enough are tried again.
    pub(super) fn bring_back(&mut self, now: u64) {
        if self.back_at.is_none_or(|at| now < at) {
            return;
        }
        let checks = self.settings.check;
        for at in 0..self.servers.len() {
            if self.servers[at].health.back_at.is_some_and(|back| back <= now) {
                self.servers[at].health.try_again(now, &checks);
                self.open_or_close(ServerIndex(at as u16), now);
            }
        }
        self.find_back_at();
    }

    pub(super) fn find_back_at(&mut self) {
        self.back_at = self.servers.iter().filter_map(|server| server.health.back_at).min();
    }

    pub(super) fn assume_up(&mut self, server: ServerIndex, now: u64) {
        self.servers[server.at()].health.assume_up(now);
        self.find_back_at();
    }

    fn session_failed(&mut self, server: ServerIndex, now: Instant, why: impl FnOnce(u32) -> String) -> Option<Change> {
        let nanos = self.nanos(now);
        let checks = self.settings.check;
        let health = &mut self.servers[server.at()].health;
        let turn = health.session_failed(&checks);
        let why = if turn == Turn::Down { why(health.failures()) } else { String::new() };
        health.hurry(nanos, &checks, &mut self.dice);
        self.turn(server, turn, why, nanos)
    }

    fn turn(&mut self, server: ServerIndex, turn: Turn, why: String, now: u64) -> Option<Change> {
        let at = &mut self.servers[server.at()];
        let change = match turn {
            Turn::Stays => return None,
            Turn::Up => {
                at.health.turn_up(now);
                Change::Up
            }
            Turn::Down => {
                let unchecked = self.settings.check.kind == CheckKind::None;
                let back_at = unchecked.then(|| now.saturating_add(nanos(OUT_FOR)));
                at.health.turn_down(now, why.clone(), back_at);
                at.totals.downs += 1;
                Change::Down { why }
            }
        };
        self.find_back_at();
        self.open_or_close(server, now);
        Some(change)
    }
}

//! Whether a server serves: what checks and real sessions say of it, and when it is checked next.
//!
//! A server is taken to be up at first. As long as nothing has proved it, one bad check is believed, so that a server that
//! was dead from the start costs nobody more than that. Afterwards `fall` bad results in a row bring it down and `rise` good
//! checks bring it up. Failures of real sessions count like bad checks, and their success ends a row of failures; they do
//! not bring a server up. Without checks, failures take the server out for [`OUT_FOR`], and then the first one does.

use std::fmt;
use std::io;
use std::time::Duration;

use super::client::Dice;
use super::settings::CheckSettings;

/// For how long a server that is never checked is left alone after failures of sessions, as nginx's `fail_timeout`.
pub const OUT_FOR: Duration = Duration::from_secs(10);
/// Between two checks of a server of which it is just being found out whether it is up or down: this, or a fifth of the
/// interval if that is longer; never more than the interval.
pub const FAST_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Intervals differ by up to this part, so that checks do not march in step.
const JITTER: u64 = 10;

/// Why a connection to a server could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No way leads there: network or host unreachable, or a firewall says so.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The connection was reset while it was made.
    Reset,
    /// No source port is free towards this server (EADDRNOTAVAIL). The fault is ours: it says nothing of the server.
    PortsUsedUp,
    /// Descriptors, memory, or permission are missing here. The fault is ours.
    OurLimit,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// From what connect(2) or socket(2) said.
    pub fn of(error: &io::Error) -> ConnectFailure {
        use io::ErrorKind as Kind;
        // EMFILE and ENFILE have no kind of their own; the numbers are Linux's.
        if matches!(error.raw_os_error(), Some(23 | 24)) {
            return ConnectFailure::OurLimit;
        }
        match error.kind() {
            Kind::ConnectionRefused => ConnectFailure::Refused,
            Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::NetworkDown => ConnectFailure::Unreachable,
            Kind::TimedOut | Kind::WouldBlock => ConnectFailure::TimedOut,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => ConnectFailure::Reset,
            Kind::AddrNotAvailable | Kind::AddrInUse => ConnectFailure::PortsUsedUp,
            Kind::OutOfMemory | Kind::PermissionDenied => ConnectFailure::OurLimit,
            _ => ConnectFailure::Other,
        }
    }

    /// Whether the fault is this host's, so that the server is not blamed.
    pub fn is_ours(self) -> bool {
        matches!(self, ConnectFailure::PortsUsedUp | ConnectFailure::OurLimit)
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectFailure::Refused => "connection refused",
            ConnectFailure::Unreachable => "unreachable",
            ConnectFailure::TimedOut => "connect timed out",
            ConnectFailure::Reset => "connection reset",
            ConnectFailure::PortsUsedUp => "no source port is free on this host",
            ConnectFailure::OurLimit => "a limit of this host was reached",
            ConnectFailure::Other => "connect failed",
        })
    }
}

/// A server has become another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It serves again.
    Up,
    /// It does not serve any more.
    Down {
        /// The reason, for people.
        why: String,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) up: bool,
    /// In nanoseconds since the backend was made.
    pub(super) since: u64,
    /// Why it is down; empty while it is up.
    pub(super) why: String,
    /// Results in a row that speak against its present state.
    against: u32,
    /// Nothing has shown yet that it is up.
    assumed: bool,
    /// When a server without checks is tried again.
    pub(super) back_at: Option<u64>,
    /// When it is checked next.
    pub(super) next_check: u64,
    pub(super) being_checked: bool,
    /// The check under way began before the server became another: its verdict says nothing.
    pub(super) outdated: bool,
}

/// What a result does to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Stays,
    Up,
    Down,
}

impl Health {
    /// Up until something else is known; to be checked at `next_check`.
    pub(super) fn assumed(now: u64, next_check: u64) -> Health {
        Health {
            up: true,
            since: now,
            why: String::new(),
            against: 0,
            assumed: true,
            back_at: None,
            next_check,
            being_checked: false,
            outdated: false,
        }
    }

    /// Up until something else is known, as the server has become another; to be checked at once.
    pub(super) fn assume_up(&mut self, now: u64) {
        let being_checked = self.being_checked;
        *self = Health { being_checked, outdated: being_checked, ..Health::assumed(now, now) };
    }

    pub(super) fn check_passed(&mut self, checks: &CheckSettings) -> Turn {
        if self.up {
            self.session_served();
            return Turn::Stays;
        }
        self.against += 1;
        if self.against < checks.rise { Turn::Stays } else { Turn::Up }
    }

    /// `decisive`: no row of them is needed.
    pub(super) fn check_failed(&mut self, checks: &CheckSettings, decisive: bool) -> Turn {
        if !self.up {
            self.against = 0;
            return Turn::Stays;
        }
        self.against += 1;
        if decisive || self.assumed || self.against >= checks.fall { Turn::Down } else { Turn::Stays }
    }

    pub(super) fn session_served(&mut self) {
        if self.up {
            (self.against, self.assumed) = (0, false);
        }
    }

    /// The failure of a session. Those of sessions that began before the server went down say nothing new.
    pub(super) fn session_failed(&mut self, checks: &CheckSettings) -> Turn {
        if !self.up {
            return Turn::Stays;
        }
        self.against += 1;
        if self.against >= checks.fall { Turn::Down } else { Turn::Stays }
    }

    pub(super) fn failures(&self) -> u32 {
        self.against
    }

    pub(super) fn turn_up(&mut self, now: u64) {
        self.why.clear();
        (self.up, self.since, self.against, self.assumed, self.back_at) = (true, now, 0, false, None);
    }

    /// A server without checks is tried again: the first failure takes it out again.
    pub(super) fn try_again(&mut self, now: u64, checks: &CheckSettings) {
        self.turn_up(now);
        self.against = checks.fall.saturating_sub(1);
    }

    pub(super) fn turn_down(&mut self, now: u64, why: String, back_at: Option<u64>) {
        (self.up, self.since, self.against, self.assumed) = (false, now, 0, false);
        (self.why, self.back_at) = (why, back_at);
    }

    /// Sets when it is checked after a result: soon while its state is in question.
    pub(super) fn plan(&mut self, now: u64, checks: &CheckSettings, dice: &mut Dice) {
        let in_question = self.against > 0 || (self.up && self.assumed);
        let interval = if in_question { fast_interval(checks.interval) } else { checks.interval };
        self.next_check = now.saturating_add(jittered(interval, dice));
    }

    /// Brings the next check forward, after the failure of a session.
    pub(super) fn hurry(&mut self, now: u64, checks: &CheckSettings, dice: &mut Dice) {
        let soon = now.saturating_add(jittered(fast_interval(checks.interval), dice));
        self.next_check = self.next_check.min(soon);
    }
}

/// From one check to the next while a server's state is in question.
pub fn fast_interval(interval: Duration) -> Duration {
    (interval / 5).max(FAST_INTERVAL_MIN).min(interval)
}

fn jittered(interval: Duration, dice: &mut Dice) -> u64 {
    let whole = super::nanos(interval);
    let spread = whole / JITTER;
    whole - spread + dice.up_to(2 * spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::settings::CheckKind;

    const CHECKS: CheckSettings =
        CheckSettings { kind: CheckKind::Banner, interval: Duration::from_secs(10), rise: 2, fall: 3 };

    fn proven() -> Health {
        let mut health = Health::assumed(0, 0);
        assert_eq!(health.check_passed(&CHECKS), Turn::Stays);
        health
    }

    #[test]
    fn three_in_a_row_bring_it_down_and_two_bring_it_up() {
        let mut health = proven();
        let bad = |health: &mut Health| health.check_failed(&CHECKS, false);
        assert_eq!([bad(&mut health), bad(&mut health)], [Turn::Stays; 2]);
        health.session_served();
        assert_eq!([bad(&mut health), bad(&mut health)], [Turn::Stays; 2], "the row was broken");
        assert_eq!(bad(&mut health), Turn::Down);
        health.turn_down(5, "dead".into(), None);
        health.session_served();
        assert_eq!(health.check_passed(&CHECKS), Turn::Stays);
        assert_eq!((bad(&mut health), health.check_passed(&CHECKS)), (Turn::Stays, Turn::Stays));
        assert_eq!(health.check_passed(&CHECKS), Turn::Up);
    }

    #[test]
    fn what_nothing_has_proved_falls_at_once_by_a_check_but_not_by_one_session() {
        let mut health = Health::assumed(0, 0);
        assert_eq!(health.session_failed(&CHECKS), Turn::Stays);
        assert_eq!(health.check_failed(&CHECKS, false), Turn::Down);
        assert_eq!(proven().check_failed(&CHECKS, true), Turn::Down, "a wrong port needs no second look");
    }

    #[test]
    fn checks_are_apart_by_the_interval_or_a_fifth_of_it_and_never_in_step() {
        let (mut health, mut dice) = (proven(), Dice(1));
        let mut planned = |health: &mut Health| {
            health.plan(0, &CHECKS, &mut dice);
            health.next_check / 1_000_000
        };
        let calm: Vec<u64> = (0..100).map(|_| planned(&mut health)).collect();
        assert!(calm.iter().all(|ms| (9_000..=11_000).contains(ms)) && calm.iter().max() > calm.iter().min());
        health.check_failed(&CHECKS, false);
        assert!((1_800..=2_200).contains(&planned(&mut health)));
        let fast = [100, 600, 3_000].map(|ms| fast_interval(Duration::from_millis(ms)).as_millis());
        assert_eq!(fast, [100, 200, 600]);
    }

    #[test]
    fn used_up_ports_are_our_fault() {
        let of = |errno| ConnectFailure::of(&io::Error::from_raw_os_error(errno));
        assert_eq!([of(111), of(113), of(110), of(104)].map(ConnectFailure::is_ours), [false; 4]);
        assert_eq!([of(99), of(24)], [ConnectFailure::PortsUsedUp, ConnectFailure::OurLimit]);
        assert!(of(99).is_ours() && of(24).is_ours());
    }
}

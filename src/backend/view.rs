//! What can be told of a backend: read by whoever shows or counts it.

use std::net::SocketAddr;
use std::time::Instant;

use super::choice::ServerIndex;
use super::settings::AdminState;
use super::traffic::Traffic;
use super::verdict::Verdict;
use crate::relay::End;

/// A server as it is now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerView<'a> {
    /// Its number.
    pub index: ServerIndex,
    /// Its name.
    pub name: &'a str,
    /// `address` as it was written: an address, or a name that is resolved now and again.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The port of its checks, if that is another.
    pub check_port: Option<u16>,
    /// Where it listens; `None`: its name has no address yet.
    pub address: Option<SocketAddr>,
    /// What the operator wants.
    pub state: AdminState,
    /// Whether it serves only while no other does.
    pub backup: bool,
    /// Whether it is up, by checks and sessions.
    pub up: bool,
    /// Since when.
    pub since: Instant,
    /// Why it is down; empty while it is up.
    pub why: &'a str,
    /// What its last check found; `None` before the first one.
    pub last_check: Option<&'a Verdict>,
    /// Whether new sessions may come to it now.
    pub takes_new: bool,
    /// Sessions counted at it.
    pub sessions: u32,
    /// Most of them at a time so far.
    pub sessions_max: u32,
    /// Most that may be; `None`: any number.
    pub limit: Option<u32>,
    /// Its weight as it is set.
    pub weight: u32,
    /// Its weight as it counts now: less on its way back and after an overload.
    pub weight_now: f64,
    /// What has happened at it.
    pub totals: ServerTotals,
    /// What its sessions have come to.
    pub traffic: &'a Traffic,
}

/// What has happened at a server since the daemon began; reloads do not reset it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerTotals {
    /// Sessions that were given to it.
    pub sessions: u64,
    /// Of these, sessions that other servers had failed.
    pub redispatched: u64,
    /// Of these, sessions that had waited.
    pub granted: u64,
    /// Connects that failed, without those that failed by our own fault.
    pub connect_errors: u64,
    /// Connects that failed because this host had no source port, descriptor or memory left.
    pub own_faults: u64,
    /// Sessions whose greeting did not come.
    pub not_greeted: u64,
    /// Times it has said that it is overloaded.
    pub overloaded: u64,
    /// Checks that passed.
    pub checks_passed: u64,
    /// Checks that failed.
    pub checks_failed: u64,
    /// Times it went down.
    pub downs: u64,
}

impl ServerTotals {
    /// Adds what has happened elsewhere, such as in a process before this one.
    pub fn add(&mut self, other: &ServerTotals) {
        let ServerTotals {
            sessions,
            redispatched,
            granted,
            connect_errors,
            own_faults,
            not_greeted,
            overloaded,
            checks_passed,
            checks_failed,
            downs,
        } = *other;
        self.sessions += sessions;
        self.redispatched += redispatched;
        self.granted += granted;
        self.connect_errors += connect_errors;
        self.own_faults += own_faults;
        self.not_greeted += not_greeted;
        self.overloaded += overloaded;
        self.checks_passed += checks_passed;
        self.checks_failed += checks_failed;
        self.downs += downs;
    }
}

/// What has happened at a backend since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Choices that found every server at its limit.
    pub full: u64,
    /// Choices that found no server at all.
    pub nobody: u64,
    /// Sessions that began to wait.
    pub waited: u64,
    /// Sessions that found the line full.
    pub line_full: u64,
    /// Sessions that gave up waiting.
    pub abandoned: u64,
}

/// The backend itself.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BackendView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Sessions that wait.
    pub waiting: usize,
    /// Most of them at a time so far.
    pub waiting_max: usize,
    /// Most that may wait.
    pub queue: usize,
    /// Clients in the stick table; some may be past their time.
    pub stick_used: usize,
    /// Most clients that it holds; 0: there is none.
    pub stick_size: usize,
    /// What has happened.
    pub totals: Totals,
    /// Ends of sessions that had no server, by [`End::index`].
    pub unserved: &'a [u64; End::COUNT],
}

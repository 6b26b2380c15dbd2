//! One log line for each source and reason, then only a count: a scanner must not fill the disk.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::conn::{Ending, Record, Severity, describe, lazy_header_advice};
use crate::dispatch::ListenerInfo;
use crate::net::canonical;
use crate::ring::Errno;

/// One line a source and reason in this time; the next one tells how many were suppressed.
const WINDOW: Duration = Duration::from_secs(60);
/// Sources and reasons that are told apart at once; those beyond are counted together.
const TOLD_APART_MAX: usize = 4096;
/// Silent connections from one peer within the window that make it look like a balancer which sends its header late.
const LAZY_AFTER: u64 = 3;

/// The log of refused connections, shared by all rings.
#[derive(Debug, Default)]
pub struct Report {
    gate: Mutex<Gate>,
}

impl Report {
    /// A connection was closed in the vestibule.
    pub fn ended(&self, listener: &ListenerInfo, ending: Ending, record: &Record<'_>, now: Instant) {
        if !ending.is_worth_a_line() {
            return;
        }
        let source = record.culprit(ending);
        match self.pass(source, ending.code(), now) {
            Verdict::Line => {
                if let Some(wording) = describe(ending, record) {
                    log(listener, wording.severity, &wording.text);
                }
            }
            Verdict::Suppressed(LAZY_AFTER) if ending == Ending::Silent => {
                log(listener, Severity::Warning, &lazy_header_advice(source));
            }
            Verdict::Suppressed(_) => {}
        }
    }

    /// An accept failed because files or memory ran out.
    pub fn out_of_resources(&self, listener: &ListenerInfo, errno: Errno, now: Instant) {
        if let Verdict::Line = self.pass(IpAddr::from([0, 0, 0, 0]), "out-of-resources", now) {
            let text = format!(
                "accepting has to wait: {errno}; connections wait in the backlog meanwhile, and those that are silent make \
                 room. Raise the limit of open files (LimitNOFILE= in the unit, ulimit -n in a shell) if this goes on"
            );
            log(listener, Severity::Error, &text);
        }
    }

    /// A listener is of no use any more.
    pub fn listener_failed(&self, listener: &ListenerInfo, errno: Errno) {
        let text = format!(
            "listener {} has failed and is given up: {errno}; multishot accept needs Linux 5.19 or later",
            listener.name
        );
        log(listener, Severity::Error, &text);
    }

    /// Tells what was suppressed up to now; called at the end.
    pub fn flush(&self) {
        let closed = self.lock().close_all();
        tell(closed);
    }

    /// Whether such an ending of a connection from `source` would get a line now.
    pub fn is_news(&self, source: IpAddr, ending: Ending, now: Instant) -> bool {
        let kind = (canonical(source), ending.code());
        ending.is_worth_a_line() && self.at(now, |gate| gate.is_news(kind))
    }

    fn pass(&self, peer: IpAddr, code: &'static str, now: Instant) -> Verdict {
        self.at(now, |gate| gate.pass(peer, code, now))
    }

    /// Asks the gate, after the windows that have ended were closed.
    fn at<T>(&self, now: Instant, ask: impl FnOnce(&mut Gate) -> T) -> T {
        let (answer, closed) = {
            let mut gate = self.lock();
            let closed = gate.close_old(now);
            (ask(&mut gate), closed)
        };
        // Outside the lock: writing a log line may take its time.
        tell(closed);
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the first of its kind pass in each window, and counts the others.
#[derive(Debug, Default)]
struct Gate {
    kinds: HashMap<Kind, u64>,
    /// The kinds by the beginning of their window, oldest first.
    order: VecDeque<(Instant, Kind)>,
    /// Suppressed because `TOLD_APART_MAX` kinds are known already.
    others: u64,
}

type Kind = (IpAddr, &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Write a line.
    Line,
    /// Not the first: the how-manieth of its kind in this window.
    Suppressed(u64),
}

/// A window that has ended with something to tell.
#[derive(Debug, PartialEq, Eq)]
struct Suppressed {
    kind: Option<Kind>,
    count: u64,
}

impl Gate {
    fn is_news(&self, kind: Kind) -> bool {
        self.kinds.len() < TOLD_APART_MAX && !self.kinds.contains_key(&kind)
    }

    fn pass(&mut self, peer: IpAddr, code: &'static str, now: Instant) -> Verdict {
        let kind = (peer, code);
        if let Some(seen) = self.kinds.get_mut(&kind) {
            *seen += 1;
            return Verdict::Suppressed(*seen);
        }
        if self.kinds.len() >= TOLD_APART_MAX {
            self.others += 1;
            return Verdict::Suppressed(0);
        }
        self.kinds.insert(kind, 1);
        self.order.push_back((now, kind));
        Verdict::Line
    }

    fn close_old(&mut self, now: Instant) -> Vec<Suppressed> {
        let mut closed = Vec::new();
        while self.order.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= WINDOW) {
            self.close_front(&mut closed);
        }
        if !closed.is_empty() {
            self.close_others(&mut closed);
        }
        closed
    }

    fn close_all(&mut self) -> Vec<Suppressed> {
        let mut closed = Vec::new();
        while !self.order.is_empty() {
            self.close_front(&mut closed);
        }
        self.close_others(&mut closed);
        closed
    }

    fn close_front(&mut self, closed: &mut Vec<Suppressed>) {
        let Some((_, kind)) = self.order.pop_front() else { return };
        let seen = self.kinds.remove(&kind).unwrap_or_default();
        if seen > 1 {
            closed.push(Suppressed { kind: Some(kind), count: seen - 1 });
        }
    }

    fn close_others(&mut self, closed: &mut Vec<Suppressed>) {
        if self.others > 0 {
            closed.push(Suppressed { kind: None, count: std::mem::take(&mut self.others) });
        }
    }
}

fn tell(closed: Vec<Suppressed>) {
    for Suppressed { kind, count } in closed {
        match kind {
            Some((peer, reason)) => {
                tracing::warn!("haproxy: {count} more like this suppressed (rip={peer}): reason={reason}");
            }
            None => tracing::warn!("haproxy: {count} more suppressed from too many sources to tell apart"),
        }
    }
}

fn log(listener: &ListenerInfo, severity: Severity, text: &str) {
    let service = listener.service.as_str();
    match severity {
        Severity::Info => tracing::info!(service, "{text}"),
        Severity::Warning => tracing::warn!(service, "{text}"),
        Severity::Error => tracing::error!(service, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));

    #[test]
    fn a_flood_makes_one_line_and_a_count() {
        let start = Instant::now();
        let mut gate = Gate::default();
        assert_eq!(gate.pass(PEER, "absent", start), Verdict::Line);
        for seen in 2..=1000 {
            assert_eq!(gate.pass(PEER, "absent", start), Verdict::Suppressed(seen));
        }
        assert_eq!(gate.pass(PEER, "silent", start), Verdict::Line, "another reason has its own line");
        assert_eq!(gate.close_old(start + WINDOW / 2), []);
        let closed = gate.close_old(start + WINDOW);
        assert_eq!(closed, [Suppressed { kind: Some((PEER, "absent")), count: 999 }]);
        assert_eq!(gate.pass(PEER, "absent", start + WINDOW), Verdict::Line);
    }

    #[test]
    fn its_memory_is_bounded() {
        let start = Instant::now();
        let mut gate = Gate::default();
        for source in 0..2 * TOLD_APART_MAX as u32 {
            gate.pass(IpAddr::from(source.to_be_bytes()), "absent", start);
        }
        assert_eq!(gate.kinds.len(), TOLD_APART_MAX);
        assert_eq!(gate.close_all(), [Suppressed { kind: None, count: TOLD_APART_MAX as u64 }]);
        assert!(gate.kinds.is_empty());
    }
}

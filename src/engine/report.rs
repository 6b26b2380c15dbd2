//! One log line for each listener, source, reason and diagnosis, then only a count: a scanner must not fill the disk, and a
//! noisy listener must not hide what befalls another. A source that goes wrong in ever new ways has a few lines, and beyond
//! them only those of faults that nobody else has had there.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::door::Door;
use super::handshake::{Failures, failure_words};
use super::outsiders::{OutsiderSeen, Outsiders};
use super::refusals::{RefusalSeen, Refusals, Words};
use super::refused::Hook;
use super::tally::Passage;
use super::tls_seen::TlsSeen;
use crate::admission::Refusal;
use crate::conn::{
    Ending, Handed, Record, Severity, Wording, describe, describe_handed, describe_oddity, lazy_header_advice,
};
use crate::dispatch::{ListenerInfo, TlsFailure, TlsInfo};
use crate::net::canonical;
use crate::proxy::Diagnosis;
use crate::ring::Errno;
use crate::stats::{Noted, PassedOver, Repeats};

/// One line of a kind in this time; the next one tells how many were suppressed.
const WINDOW: Duration = Duration::from_secs(60);
/// Connections of one peer within the window that end without a byte and make it look like one that waits for us.
const LAZY_AFTER: u64 = 3;
/// Kinds of events of one source at one listener that have a line each within the window. Beyond them a kind has one only if
/// no source has had it at that listener; the rest is counted together.
pub const KINDS_TOLD_MAX: u64 = 8;
/// Untrusted connections of one peer within the window that are asked whether they bring a header: a balancer that nobody
/// has entered may check the port before it sends one.
const ASKED_MAX: u64 = 16;

/// By what a listener is known: its addresses have it in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// The service it belongs to.
    pub service: String,
    /// Its own name.
    pub name: String,
}

/// The log of connections, shared by all rings.
#[derive(Debug)]
pub struct Report {
    /// By row; kept for good, since counters go on over reloads.
    listeners: Mutex<Vec<Named>>,
    lines: Repeats<Kind>,
    refusals: Refusals,
    outsiders: Outsiders,
    /// Which faults had a line, whoever's they were. What these two pass over is told by `lines`.
    faults: Repeats<Fault>,
    /// How many kinds a source has had at a listener.
    kinds: Repeats<(u32, IpAddr)>,
    refused: Hook,
    /// Listeners whose socket a ring could not accept on any more.
    given_up: Mutex<Vec<Named>>,
    /// TLS handshakes that have failed.
    handshakes: Failures,
}

/// What went wrong at a listener: its row, the reason, the diagnosis.
type Fault = (u32, &'static str, Option<Diagnosis>);

/// What alike events have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// Row of the listener.
    pub listener: u32,
    /// Whose doing it is.
    pub source: IpAddr,
    /// Its name.
    pub reason: &'static str,
    /// What the bytes look like.
    pub diagnosis: Option<Diagnosis>,
}

impl Kind {
    fn with_header(self) -> Kind {
        Kind { diagnosis: Some(Diagnosis::HeaderFromUntrusted), ..self }
    }

    /// Of what a source does beyond [`KINDS_TOLD_MAX`].
    fn other(self) -> Kind {
        Kind { reason: OTHER, diagnosis: None, ..self }
    }
}

/// What kind of event these lines are, for whoever sorts them.
const REFUSAL: &str = "refusal";
/// Reason under which kinds are counted together.
const OTHER: &str = "other";
/// Reason of lines about a connection that was served.
const SERVED: &str = "served";

/// Listeners that are told apart, those of earlier configurations included; further ones count as the last.
const ROWS_MAX: usize = 8192;

impl Default for Report {
    fn default() -> Report {
        Report::new(Hook::default())
    }
}

impl Report {
    /// Nothing yet; `refused` is told of every connection that does not get in.
    pub fn new(refused: Hook) -> Report {
        let (lines, faults, kinds) = (Repeats::new(WINDOW), Repeats::new(WINDOW), Repeats::new(WINDOW));
        Report {
            listeners: Mutex::default(),
            lines,
            faults,
            kinds,
            refusals: Refusals::default(),
            outsiders: Outsiders::default(),
            refused,
            given_up: Mutex::default(),
            handshakes: Failures::default(),
        }
    }

    /// The row of a listener: its place in the report and in the counters.
    pub fn row_of(&self, listener: Named) -> u32 {
        let mut listeners = self.lock();
        let known = listeners.iter().position(|known| *known == listener);
        let row = known.unwrap_or_else(|| {
            if listeners.len() < ROWS_MAX {
                listeners.push(listener);
            }
            listeners.len() - 1
        });
        row as u32
    }

    /// The listeners, by row.
    pub fn listeners(&self) -> Vec<Named> {
        self.lock().clone()
    }

    /// Who was refused of late, the last first.
    pub fn refusals(&self, now: Instant) -> Vec<RefusalSeen> {
        self.refusals.seen(&self.listeners(), now)
    }

    /// Who has come from outside of the trusted networks, the last first.
    pub fn outsiders(&self, now: Instant) -> Vec<OutsiderSeen> {
        self.outsiders.seen(&self.listeners(), now)
    }

    /// How often there was each diagnosis, by listener.
    pub fn diagnosed(&self) -> Vec<(Named, Diagnosis, u64)> {
        let listeners = self.listeners();
        let named = |row: u32| listeners.get(row as usize).cloned();
        let all = self.refusals.diagnosed().into_iter();
        all.filter_map(|((row, diagnosis), count)| Some((named(row)?, diagnosis, count))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Named>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was closed in the vestibule; `tls` is that which has ended here.
    pub fn ended(&self, door: &Door, ending: Ending, record: &Record<'_>, tls: Option<&TlsInfo>, now: Instant) {
        self.refused.tell(&door.info, ending, record);
        self.note_ended(door, ending, record, 1, tls, now);
    }

    /// Whether somebody wants to hear of each connection that is refused.
    pub fn tells_each(&self) -> bool {
        self.refused.is_set()
    }

    /// So many more were turned away unread as one that this was told of, the last of which this is.
    pub fn ended_again(&self, door: &Door, ending: Ending, record: &Record<'_>, times: u64, now: Instant) {
        self.note_ended(door, ending, record, times, None, now);
    }

    fn note_ended(
        &self,
        door: &Door,
        ending: Ending,
        record: &Record<'_>,
        times: u64,
        tls: Option<&TlsInfo>,
        now: Instant,
    ) {
        let was_mute = record.was_mute(ending);
        if !ending.is_worth_a_line() && !was_mute {
            return;
        }
        let source = record.culprit(ending);
        let diagnosis = record.diagnosis(ending);
        if ending == Ending::Refused(Refusal::Untrusted) {
            self.outsiders.note(door.row, record.peer, (record.bytes, diagnosis), times, now);
        }
        let kind = Kind { listener: door.row, source, reason: ending.code(), diagnosis };
        let kind = self.kind_unasked(kind, record, now);
        let noted = self.note(kind, times, now);
        let wording = || describe(ending, record, diagnosis);
        if ending.is_worth_a_line() {
            let conveyed = || record.header().as_ref().and_then(TlsSeen::conveyed);
            let told = || {
                let tls = tls.map(TlsSeen::here).or_else(conveyed);
                wording().map(|wording| Words { text: wording.text, tls })
            };
            self.refusals.note(kind, (record.peer, record.bytes), times, now, told);
        }
        if noted.is_first()
            && let Some(wording) = wording()
        {
            log(&door.info, &wording);
        } else if was_mute && noted.nth == Some(LAZY_AFTER) {
            let text = lazy_header_advice(source, ending);
            log(&door.info, &Wording { severity: Severity::Warning, text });
        }
    }

    /// A TLS handshake has failed, whose client, destination and peer are these. Nobody is told of those that say nothing.
    pub fn handshake_failed(
        &self,
        door: &Door,
        failure: &TlsFailure,
        of: [SocketAddr; 3],
        (bytes, server_name): (&[u8], Option<&str>),
        now: Instant,
    ) {
        self.handshakes.note(&door.info, failure, of, now);
        let [client, _, peer] = of;
        if failure.code.is_some() {
            let reason = Ending::TlsFailed.code();
            let kind = Kind { listener: door.row, source: canonical(client.ip()), reason, diagnosis: None };
            let told = || {
                let tls = Some(TlsSeen::failed(server_name));
                Some(Words { text: failure_words(client.ip(), failure), tls })
            };
            self.refusals.note(kind, (peer, bytes), 1, now, told);
        }
    }

    /// A connection was let in, and a stricter policy that is only tried would have refused it.
    #[cold]
    pub fn would_refuse(&self, door: &Door, refusal: Refusal, source: IpAddr, peer: SocketAddr, now: Instant) {
        let (passage, setting) = Passage::of_shadow(refusal);
        let (source, reason) = (canonical(source), passage.name());
        let kind = Kind { listener: door.row, source, reason, diagnosis: None };
        if self.note(kind, 1, now).is_first() {
            let name = &door.info.name;
            let text = format!(
                "haproxy: {setting} would refuse this one (rip={source}): reason={reason} peer={peer} listener={name}"
            );
            log(&door.info, &Wording { severity: Severity::Info, text });
        }
    }

    /// A connection has passed both doors.
    #[inline]
    pub fn handed(&self, door: &Door, handed: &Handed<'_>, now: Instant) {
        if door.log_connections {
            log(&door.info, &describe_handed(handed));
        }
        if let Some(diagnosis) = handed.diagnosis() {
            self.odd(door, handed, diagnosis, now);
        }
    }

    #[cold]
    fn odd(&self, door: &Door, handed: &Handed<'_>, diagnosis: Diagnosis, now: Instant) {
        // The peer is at fault, whoever its clients are.
        let source = canonical(handed.peer.ip());
        let kind = Kind { listener: door.row, source, reason: SERVED, diagnosis: Some(diagnosis) };
        self.refusals.note_oddity(kind);
        if self.note(kind, 1, now).is_first() {
            log(&door.info, &describe_oddity(handed, diagnosis));
        }
    }

    /// An accept failed because files or memory ran out.
    pub fn out_of_resources(&self, door: &Door, errno: Errno, now: Instant) {
        let source = IpAddr::from([0, 0, 0, 0]);
        let kind = Kind { listener: door.row, source, reason: "out-of-resources", diagnosis: None };
        if self.note(kind, 1, now).is_first() {
            let text = format!(
                "accepting has to wait: {errno}; connections wait in the backlog meanwhile, and those that are silent make \
                 room. Raise the limit of open files (LimitNOFILE= in the unit, ulimit -n in a shell) if this goes on"
            );
            log(&door.info, &Wording { severity: Severity::Error, text });
        }
    }

    /// The listeners that rings have given up.
    pub fn given_up(&self) -> Vec<Named> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All listeners are hung anew.
    pub fn begin_anew(&self) {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A listener is of no use any more.
    pub fn listener_failed(&self, listener: &ListenerInfo, errno: Errno) {
        let named = Named { service: listener.service.clone(), name: listener.name.clone() };
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !given_up.contains(&named) && given_up.len() < ROWS_MAX {
            given_up.push(named);
        }
        drop(given_up);
        let text = format!(
            "listener {} has failed and is given up: {errno}; multishot accept needs Linux 5.19 or later",
            listener.name
        );
        log(listener, &Wording { severity: Severity::Error, text });
    }

    /// Tells what was suppressed up to now; called at the end.
    pub fn flush(&self) {
        self.tell(&self.lines.end_all());
        self.handshakes.flush();
    }

    /// Whether the log would tell what such a connection from `source` has brought, of which nothing was read.
    pub fn asks_for_bytes(&self, listener: u32, source: IpAddr, ending: Ending, now: Instant) -> bool {
        let kind = Kind { listener, source: canonical(source), reason: ending.code(), diagnosis: None };
        self.lines.seen(&kind, now) < ASKED_MAX && self.lines.seen(&kind.with_header(), now) == 0
    }

    /// A peer that was seen to send a header without being trusted is not asked again: the rest is of the same kind.
    fn kind_unasked(&self, kind: Kind, record: &Record<'_>, now: Instant) -> Kind {
        let unasked = kind.reason == Refusal::Untrusted.code() && record.bytes.is_empty();
        if unasked && self.lines.seen(&kind.with_header(), now) > 0 { kind.with_header() } else { kind }
    }

    fn note(&self, kind: Kind, times: u64, now: Instant) -> Noted<Kind> {
        let noted = self.lines.note_known(&kind, times, now).unwrap_or_else(|| {
            self.lines.note_all(if self.is_told(kind, now) { kind } else { kind.other() }, times, now)
        });
        self.tell(&noted.ended);
        noted
    }

    /// Whether such an event, which had no line of late, is one of those that are told apart.
    fn is_told(&self, kind: Kind, now: Instant) -> bool {
        let is_new = self.faults.note((kind.listener, kind.reason, kind.diagnosis), now).is_first();
        let of_source = self.kinds.note((kind.listener, kind.source), now).nth;
        is_new || of_source.is_some_and(|nth| nth <= KINDS_TOLD_MAX)
    }

    fn tell(&self, ended: &[PassedOver<Kind>]) {
        for passed_over in ended {
            self.tell_one(passed_over);
        }
    }

    fn tell_one(&self, &PassedOver { key, count }: &PassedOver<Kind>) {
        let Some(Kind { listener, source, reason, diagnosis }) = key else {
            return tracing::warn!(
                event = REFUSAL,
                "haproxy: {count} more suppressed from too many sources to tell apart"
            );
        };
        // Only the advice had a line.
        if reason == Ending::ClosedEmpty.code() {
            return;
        }
        let Some(Named { service, name }) = self.lock().get(listener as usize).cloned() else { return };
        let service = service.as_str();
        if reason == OTHER {
            let words = "more of other kinds suppressed";
            return tracing::warn!(
                service,
                event = REFUSAL,
                "haproxy: {count} {words} (rip={source}): reason={OTHER} listener={name}"
            );
        }
        let diagnosis = diagnosis.map_or(String::new(), |diagnosis| format!(" diagnosis={}", diagnosis.code()));
        tracing::warn!(
            service,
            event = REFUSAL,
            "haproxy: {count} more like this suppressed (rip={source}): reason={reason} listener={name}{diagnosis}"
        );
    }
}

fn log(listener: &ListenerInfo, Wording { severity, text }: &Wording) {
    let service = listener.service.as_str();
    match severity {
        Severity::Info => tracing::info!(service, event = REFUSAL, "{text}"),
        Severity::Warning => tracing::warn!(service, event = REFUSAL, "{text}"),
        Severity::Error => tracing::error!(service, event = REFUSAL, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::engine::tally::Tally;
    use crate::proxy::Rules;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    const UNTRUSTED: Ending = Ending::Refused(Refusal::Untrusted);

    fn door(row: u32) -> Door {
        let (service, name) = ("imap-login".into(), format!("listener-{row}"));
        let info = ListenerInfo { service, name, ssl: false, checks_from: Default::default() };
        Door::new(Arc::new(info), ([192, 0, 2, 1], 143).into(), 0, None).in_row(row, Tally::new().row(row))
    }

    fn record(bytes: &[u8]) -> Record<'_> {
        Record { peer: (PEER, 4000).into(), local: None, bytes, rules: Rules::default(), waited: Duration::ZERO }
    }

    fn kind(listener: u32, reason: &'static str, diagnosis: Option<Diagnosis>) -> Kind {
        Kind { listener, source: PEER, reason, diagnosis }
    }

    #[test]
    fn listeners_and_diagnoses_are_told_apart() {
        let (report, now) = (Report::default(), Instant::now());
        let absent = Ending::Absent { at: 1 };
        for (row, bytes) in [(0, &b"GET / "[..]), (0, b"GET / "), (0, b"EHLO x\r\n"), (1, b"GET / ")] {
            report.ended(&door(row), absent, &record(bytes), None, now);
        }
        for (row, diagnosis, seen) in [(0, Diagnosis::Http, 2), (0, Diagnosis::Smtp, 1), (1, Diagnosis::Http, 1)] {
            assert_eq!(report.lines.seen(&kind(row, "absent", Some(diagnosis)), now), seen, "{row} {diagnosis:?}");
        }
    }

    #[test]
    fn a_source_that_goes_wrong_in_ever_new_ways_has_few_lines_unless_nobody_else_does() {
        const KINDS: usize = 24;
        const CODES: [&str; KINDS] = [
            "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
            "v", "w", "x",
        ];
        let (report, now) = (Report::default(), Instant::now());
        let lines = |source: u8, now: Instant| -> usize {
            let kind = |reason| Kind { source: [192, 0, 2, source].into(), ..kind(0, reason, None) };
            CODES.iter().filter(|reason| report.note(kind(reason), 1, now).is_first()).count()
        };
        assert_eq!(lines(1, now), KINDS, "each fault is told once");
        assert_eq!(lines(1, now), 0);
        // The first of the others is told as it is, and stands for the rest.
        assert_eq!(lines(2, now), KINDS_TOLD_MAX as usize + 1);
        assert_eq!(lines(2, now), 0);
        let other = Kind { source: [192, 0, 2, 2].into(), ..kind(0, OTHER, None) };
        let counted = 2 * (KINDS as u64 - KINDS_TOLD_MAX);
        assert_eq!(report.lines.seen(&other, now), counted, "nothing goes uncounted");
        assert!(report.note(Kind { source: [192, 0, 2, 2].into(), ..kind(0, "new", None) }, 1, now).is_first());
        assert!(report.note(Kind { source: [192, 0, 2, 2].into(), ..kind(1, "a", None) }, 1, now).is_first());
        assert_eq!(lines(2, now + WINDOW), KINDS, "it recovers");
    }

    #[test]
    fn an_untrusted_peer_is_asked_until_it_brings_a_header_and_then_is_of_one_kind() {
        let (report, now) = (Report::default(), Instant::now());
        report.ended(&door(0), UNTRUSTED, &record(b""), None, now);
        assert!(report.asks_for_bytes(0, PEER, UNTRUSTED, now), "it may have checked the port first");
        report.ended(&door(0), UNTRUSTED, &record(b"PROXY TCP4 198.5"), None, now);
        assert!(!report.asks_for_bytes(0, PEER, UNTRUSTED, now));
        assert!(report.asks_for_bytes(1, PEER, UNTRUSTED, now), "another listener has a line of its own");
        report.ended(&door(0), UNTRUSTED, &record(b""), None, now);
        let without = kind(0, "untrusted", None);
        assert_eq!([without, without.with_header()].map(|kind| report.lines.seen(&kind, now)), [1, 2]);
        for _ in 0..ASKED_MAX {
            report.ended(&door(1), UNTRUSTED, &record(b"EHLO x\r\n"), None, now);
        }
        assert!(!report.asks_for_bytes(1, PEER, UNTRUSTED, now), "a scanner is not asked for ever");
    }
}

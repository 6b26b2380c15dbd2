//! Who was refused of late, and what they had sent: for people who ask, since a counter has no place for addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::report::{Kind, Named};
use super::tls_seen::TlsSeen;
use crate::proxy::Diagnosis;

/// Kinds of refusals (listener, source, reason, diagnosis) that are remembered, those that came last.
pub const REFUSALS_MAX: usize = 256;
/// Bytes that are kept of what one has sent.
pub const REFUSED_BYTES_MAX: usize = 96;
/// Characters that are kept of its line in the log, about.
const TEXT_MAX: usize = 512;
/// A kind's line is put into words at most once in this time: a flood must not cost what its words do.
const TEXT_EVERY: Duration = Duration::from_secs(1);

/// Connections that were refused alike.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RefusalSeen {
    /// The listener's service.
    pub service: String,
    /// The listener.
    pub listener: String,
    /// Whose doing it is: the client that the header names where a limit on clients decided, else the peer.
    pub source: IpAddr,
    /// Who had connected last.
    pub peer: SocketAddr,
    /// Why, as the log's `reason=`.
    pub reason: &'static str,
    /// What the bytes look like, as the log's `diagnosis=`.
    pub diagnosis: Option<&'static str>,
    /// Cause and remedy.
    pub advice: Option<&'static str>,
    /// How the last one that had sent something began, at most [`REFUSED_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
    /// What the log says of one of the last second before `last`, whether or not it had a line.
    pub text: String,
    /// TLS of one that came by it, no later than that.
    pub tls: Option<TlsSeen>,
    /// How many there were since this kind is remembered, at least 1.
    pub count: u64,
    /// How long ago the first one of them came.
    pub first: Duration,
    /// How long ago the last one came.
    pub last: Duration,
}

/// What is said of one.
pub(super) struct Words {
    /// As in the log.
    pub text: String,
    /// What is known of the TLS that it came by.
    pub tls: Option<TlsSeen>,
}

/// The table, shared by all rings; only refusals come here.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kinds: HashMap<Kind, Remembered>,
    diagnosed: HashMap<(u32, Diagnosis), u64>,
}

#[derive(Debug)]
struct Remembered {
    peer: SocketAddr,
    bytes: Vec<u8>,
    text: String,
    /// When `text` was put into words.
    worded: Option<Instant>,
    tls: Option<TlsSeen>,
    count: u64,
    first: Instant,
    last: Instant,
}

impl Refusals {
    /// So many connections were refused, the last of which came from this peer with these bytes; `told` gives the log's words
    /// for it, and what is known of its TLS.
    pub fn note(
        &self,
        kind: Kind,
        (peer, bytes): (SocketAddr, &[u8]),
        times: u64,
        now: Instant,
        told: impl FnOnce() -> Option<Words>,
    ) {
        let mut inner = self.lock();
        inner.count(kind, times);
        let remembered = inner.place_of(kind, peer, now);
        (remembered.peer, remembered.last) = (peer, now);
        remembered.count += times;
        if !bytes.is_empty() {
            remembered.bytes.clear();
            remembered.bytes.extend_from_slice(&bytes[..bytes.len().min(REFUSED_BYTES_MAX)]);
        }
        if remembered.worded.is_none_or(|then| now.saturating_duration_since(then) >= TEXT_EVERY)
            && let Some(Words { text, tls }) = told()
        {
            remembered.text = text.chars().take(TEXT_MAX).collect();
            remembered.worded = Some(now);
            if tls.is_some() {
                remembered.tls = tls;
            }
        }
    }

    /// A connection was served, and looked odd.
    pub fn note_oddity(&self, kind: Kind) {
        self.lock().count(kind, 1);
    }

    /// Those that are remembered, who came last first.
    pub fn seen(&self, listeners: &[Named], now: Instant) -> Vec<RefusalSeen> {
        let inner = self.lock();
        let mut kinds: Vec<(&Kind, &Remembered)> = inner.kinds.iter().collect();
        kinds.sort_by_key(|(_, known)| std::cmp::Reverse(known.last));
        kinds.into_iter().filter_map(|(kind, known)| known.seen(kind, listeners, now)).collect()
    }

    /// How often there was each diagnosis, by the listener's row.
    pub fn diagnosed(&self) -> Vec<((u32, Diagnosis), u64)> {
        self.lock().diagnosed.iter().map(|(key, count)| (*key, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves at worst a wrong count.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Its keys are rows and diagnoses, both bounded.
    fn count(&mut self, kind: Kind, times: u64) {
        if let Some(diagnosis) = kind.diagnosis {
            *self.diagnosed.entry((kind.listener, diagnosis)).or_default() += times;
        }
    }

    /// The kind's own place, or a free one, or that of the kind that has not come for longest.
    fn place_of(&mut self, kind: Kind, peer: SocketAddr, now: Instant) -> &mut Remembered {
        if self.kinds.len() >= REFUSALS_MAX && !self.kinds.contains_key(&kind) {
            let oldest = self.kinds.iter().min_by_key(|(_, known)| known.last).map(|(kind, _)| *kind);
            oldest.and_then(|kind| self.kinds.remove(&kind));
        }
        self.kinds.entry(kind).or_insert_with(|| {
            let (bytes, text) = (Vec::new(), String::new());
            Remembered { peer, bytes, text, worded: None, tls: None, count: 0, first: now, last: now }
        })
    }
}

impl Remembered {
    fn seen(&self, kind: &Kind, listeners: &[Named], now: Instant) -> Option<RefusalSeen> {
        let Named { service, name } = listeners.get(kind.listener as usize)?.clone();
        Some(RefusalSeen {
            service,
            listener: name,
            source: kind.source,
            peer: self.peer,
            reason: kind.reason,
            diagnosis: kind.diagnosis.map(Diagnosis::code),
            advice: kind.diagnosis.map(Diagnosis::advice),
            bytes: self.bytes.clone(),
            text: self.text.clone(),
            tls: self.tls.clone(),
            count: self.count,
            first: now.saturating_duration_since(self.first),
            last: now.saturating_duration_since(self.last),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(source: u32) -> Kind {
        Kind {
            listener: 0,
            source: IpAddr::from(source.to_be_bytes()),
            reason: "absent",
            diagnosis: Some(Diagnosis::Http),
        }
    }

    fn words(text: &str) -> Option<Words> {
        Some(Words { text: text.into(), tls: None })
    }

    fn named() -> Vec<Named> {
        vec![Named { service: "imap-login".into(), name: "imap".into() }]
    }

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn alike_refusals_are_counted_in_one_place_and_keep_what_was_sent() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let second = start + Duration::from_secs(3);
        refusals.note(kind(1), (PEER, b"GET / HTTP/1.1"), 1, start, || words("first"));
        refusals.note(kind(1), (PEER, b""), 1, second, || words("second"));
        refusals.note(kind(2), (PEER, &[b'x'; 1000]), 1, start + Duration::from_secs(4), || None);
        let seen = refusals.seen(&named(), start + Duration::from_secs(5));
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].source.to_string(), seen[0].bytes.len()), ("0.0.0.2".into(), REFUSED_BYTES_MAX));
        let first = &seen[1];
        assert_eq!((first.count, &*first.bytes, &*first.text), (2, &b"GET / HTTP/1.1"[..], "second"));
        assert_eq!((first.first, first.last), (Duration::from_secs(5), Duration::from_secs(2)));
        assert_eq!(refusals.diagnosed(), [((0, Diagnosis::Http), 3)]);
    }

    #[test]
    fn words_are_made_once_a_second() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for millis in [0, 1, 999] {
            refusals.note(kind(1), (PEER, b""), 1, at(millis), || {
                if millis == 0 { words("first") } else { unreachable!() }
            });
        }
        refusals.note(kind(1), (PEER, b""), 1, at(1000), || words("second"));
        let seen = refusals.seen(&named(), at(1000));
        assert_eq!((seen[0].count, &*seen[0].text), (4, "second"));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_not_come_for_longest() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        for source in 0..=REFUSALS_MAX as u32 {
            refusals.note(kind(source), (PEER, b""), 1, start + Duration::from_millis(source.into()), || None);
        }
        let seen = refusals.seen(&named(), start + Duration::from_secs(1));
        assert_eq!(seen.len(), REFUSALS_MAX);
        assert!(seen.iter().all(|one| one.source != IpAddr::from([0, 0, 0, 0])));
        assert_eq!(refusals.diagnosed(), [((0, Diagnosis::Http), REFUSALS_MAX as u64 + 1)]);
    }
}

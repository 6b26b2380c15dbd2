//! How a connection ends that does not reach a worker.

use crate::admission::Refusal;
use crate::proxy::Reason;

/// Why a connection was closed in the vestibule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// A door stayed shut.
    Refused(Refusal),
    /// No header at the start; byte `at` decided it.
    Absent {
        /// The deciding byte, from 1.
        at: usize,
    },
    /// A header that breaks a rule at byte `at`.
    Invalid {
        /// The rule.
        reason: Reason,
        /// The deciding byte, from 1.
        at: usize,
    },
    /// The deadline passed without a byte.
    Silent,
    /// The deadline passed inside the header.
    Timeout,
    /// Too many headers were awaited, or descriptors had run out, and this one had been silent longest; or no buffer was
    /// left for a long header.
    Shed,
    /// The peer closed or reset without a byte: a health check of the port.
    ClosedEmpty,
    /// The peer closed or reset inside the header.
    ClosedPartial,
    /// The pool's queue was full and its overload policy is `reject`, or its workers are gone.
    Overload,
    /// The engine is shutting down, and the header had not come, or the TLS handshake had not ended.
    Drained,
    /// The ring failed before the connection reached its pool.
    LostInRing,
    /// The TLS handshake has failed, or had not ended in time.
    TlsFailed,
    /// A health check that went no further than the TLS handshake.
    TlsChecked,
}

impl Ending {
    const LIFECYCLE: [Ending; 10] = [
        Ending::Silent,
        Ending::Timeout,
        Ending::Shed,
        Ending::ClosedEmpty,
        Ending::ClosedPartial,
        Ending::Overload,
        Ending::Drained,
        Ending::LostInRing,
        Ending::TlsFailed,
        Ending::TlsChecked,
    ];

    /// Number of different codes.
    pub const COUNT: usize = Refusal::ALL.len() + 1 + Reason::ALL.len() + Ending::LIFECYCLE.len();

    /// The stable name used in logs and counters.
    pub fn code(self) -> &'static str {
        match self {
            Ending::Refused(refusal) => refusal.code(),
            Ending::Absent { .. } => "absent",
            Ending::Invalid { reason, .. } => reason.code(),
            Ending::Silent => "silent",
            Ending::Timeout => "timeout",
            Ending::Shed => "shed",
            Ending::ClosedEmpty => "closed-empty",
            Ending::ClosedPartial => "closed-partial",
            Ending::Overload => "overload",
            Ending::Drained => "drained",
            Ending::LostInRing => "lost-in-ring",
            Ending::TlsFailed => "tls-failed",
            Ending::TlsChecked => "tls-checked",
        }
    }

    /// Whether the log should say it in the words of the header; the others are everyday business and only counted, or said
    /// of all together, or have words of their own, as failed handshakes do.
    pub fn is_worth_a_line(self) -> bool {
        !matches!(
            self,
            Ending::ClosedEmpty | Ending::Drained | Ending::LostInRing | Ending::TlsFailed | Ending::TlsChecked
        )
    }

    /// A number below [`Ending::COUNT`], one a code.
    pub fn index(self) -> usize {
        let absent = Refusal::ALL.len();
        match self {
            Ending::Refused(refusal) => position(&Refusal::ALL, refusal),
            Ending::Absent { .. } => absent,
            Ending::Invalid { reason, .. } => absent + 1 + position(&Reason::ALL, reason),
            other => absent + 1 + Reason::ALL.len() + position(&Ending::LIFECYCLE, other),
        }
    }

    /// All codes in the order of [`Ending::index`].
    pub fn codes() -> [&'static str; Ending::COUNT] {
        let mut codes = [""; Ending::COUNT];
        let refusals = Refusal::ALL.map(Ending::Refused).into_iter();
        let invalid = Reason::ALL.into_iter().map(|reason| Ending::Invalid { reason, at: 0 });
        for ending in refusals.chain([Ending::Absent { at: 0 }]).chain(invalid).chain(Ending::LIFECYCLE) {
            codes[ending.index()] = ending.code();
        }
        codes
    }
}

fn position<T: PartialEq + Copy>(all: &[T], one: T) -> usize {
    all.iter().position(|&known| known == one).expect("the list holds every variant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_index_of_its_own() {
        let codes = Ending::codes();
        let mut sorted = codes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), Ending::COUNT, "{codes:?}");
        assert!(!codes.contains(&""));
    }
}

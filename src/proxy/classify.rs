//! Which version the first bytes begin, if any.

use super::{V1_PREFIX, V2_SIGNATURE};

/// What the first bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No byte yet.
    Nothing,
    /// `PROXY `, or a part of it.
    V1,
    /// The version 2 signature, or a part of it.
    V2,
    /// Neither.
    Absent {
        /// The deciding byte, counted from 1.
        at: usize,
    },
}

pub(super) fn classify(prefix: &[u8]) -> Class {
    let v1 = alike(prefix, V1_PREFIX);
    let v2 = alike(prefix, V2_SIGNATURE);
    if prefix.is_empty() {
        Class::Nothing
    } else if v1 == prefix.len().min(V1_PREFIX.len()) {
        Class::V1
    } else if v2 == prefix.len().min(V2_SIGNATURE.len()) {
        Class::V2
    } else {
        Class::Absent { at: v1.max(v2) + 1 }
    }
}

fn alike(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

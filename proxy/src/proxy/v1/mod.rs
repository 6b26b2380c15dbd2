//! Version 1: one line of text.
//!
//! Two parsers, one grammar. `quick` reads a whole, good TCP line, the only kind that matters for speed, without looking
//! at its bytes one by one; of anything else it says nothing. `exact` walks over every byte, so that it knows the
//! earliest one that allows a refusal.

use super::error::Reason;
use super::{Decoded, Rules, V1_LENGTH_MAX, V1_PREFIX};
use crate::scan::{self, Scan, Work, mostly};

mod exact;
mod quick;

/// Longest `TCP4` line, CRLF included, unless it may hold IPv6 text. Specification, section 2.1.
const TCP4_LENGTH_MAX: usize = 56;
/// Longest `TCP6` line, CRLF included. Specification, section 2.1.
const TCP6_LENGTH_MAX: usize = 104;

/// Decodes bytes that begin with `PROXY `, or are a part of it.
#[inline(never)]
pub(super) fn decode<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    match prefix.get(KEYWORD_END) {
        Some(b'4') => scan::best(Line::<4> { prefix, rules }),
        Some(b'6') => scan::best(Line::<6> { prefix, rules }),
        _ => decode_exactly(prefix, rules),
    }
}

/// Where the last byte of `TCP4` and `TCP6` is.
const KEYWORD_END: usize = 9;

/// What looks like a line of `TCP4` or `TCP6`: two kinds of work, so that neither pays for the other's addresses.
struct Line<'a, 'r, const TCP: u8> {
    prefix: &'a [u8],
    rules: &'r Rules,
}

impl<'a, const TCP: u8> Work for Line<'a, '_, TCP> {
    type Output = Decoded<'a>;

    #[inline(always)]
    fn with(self, scan: impl Scan) -> Decoded<'a> {
        let header = if TCP == 4 { quick::tcp4(scan, self.prefix) } else { quick::tcp6(scan, self.prefix) };
        mostly(header).map_or_else(|| decode_exactly(self.prefix, self.rules), Decoded::Complete)
    }
}

#[inline(never)]
fn decode_exactly<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    let incomplete = Decoded::Incomplete { need: prefix.len() + 1 };
    match exact::line(prefix, rules) {
        Ok(head) => head.over(prefix).map_or(incomplete, Decoded::Complete),
        Err(Stop::Incomplete) => incomplete,
        // spec 2.1 MUST "discarded and cause the receiver to abort"
        Err(Stop::At(at, reason)) => Decoded::Invalid { reason, at },
    }
}

/// Why there is no line.
enum Stop {
    Incomplete,
    /// The deciding byte, counted from 1.
    At(usize, Reason),
}

#[cfg(test)]
mod tests;

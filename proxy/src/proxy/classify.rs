//! Which version the first bytes begin, if any: a compare of 16 bytes under a mask, the same work for all bytes.

use super::{V1_PREFIX, V2_SIGNATURE};

/// What the first bytes of a stream begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not a PROXY header.
    Absent,
    /// `PROXY `, or a part of it.
    V1,
    /// The version 2 signature, or a part of it.
    V2,
    /// Still anything: there is no byte yet.
    Empty,
}

/// Tells which version the bytes begin, from the first byte on that rules out one or both.
///
/// Branches on how many bytes there are, never on what they are.
#[inline]
pub fn classify(prefix: &[u8]) -> Class {
    match prefix.first_chunk() {
        Some(first) => classify_word(u128::from_le_bytes(*first), u128::MAX),
        None => classify_short(prefix),
    }
}

/// The first byte, counted from 1, that fits neither version, for bytes of [`Class::Absent`].
#[cold]
pub(super) fn absent_at(prefix: &[u8]) -> usize {
    let alike = |start: &[u8]| prefix.iter().zip(start).take_while(|(a, b)| a == b).count();
    alike(V1_PREFIX).max(alike(V2_SIGNATURE)) + 1
}

/// Whether the first of these 16 bytes are `PROXY `.
#[inline(always)]
pub(super) fn is_line(first: u128) -> bool {
    (first ^ word(V1_PREFIX)) & mask(V1_PREFIX.len()) == 0
}

/// Only the bytes under `have` are there and compared.
#[inline(always)]
fn classify_word(first: u128, have: u128) -> Class {
    const V1: u128 = word(V1_PREFIX);
    const V2: u128 = word(V2_SIGNATURE);
    let like_v1 = (first ^ V1) & mask(V1_PREFIX.len()) & have == 0;
    let like_v2 = (first ^ V2) & mask(V2_SIGNATURE.len()) & have == 0;
    // spec 2.2 MUST "be parsed as version 1"
    // spec 2.2 MUST "connection must be dropped"
    // One number for both answers, in the order of the variants: that compiles without a jump.
    match u8::from(like_v1) + 2 * u8::from(like_v2) {
        0 => Class::Absent,
        1 => Class::V1,
        2 => Class::V2,
        _ => Class::Empty,
    }
}

/// Out of line, to keep the callers of [`classify`] short: fewer than 16 bytes are rare.
#[inline(never)]
fn classify_short(prefix: &[u8]) -> Class {
    classify_word(short_word(prefix), mask(prefix.len()))
}

/// Fewer than 16 bytes as a little-endian number: two words that overlap in the middle.
#[inline(always)]
fn short_word(bytes: &[u8]) -> u128 {
    let (first, last, size) = if let (Some(a), Some(b)) = (bytes.first_chunk(), bytes.last_chunk()) {
        (u64::from_le_bytes(*a), u64::from_le_bytes(*b), 8)
    } else if let (Some(a), Some(b)) = (bytes.first_chunk(), bytes.last_chunk()) {
        (u32::from_le_bytes(*a).into(), u32::from_le_bytes(*b).into(), 4)
    } else if let (Some(a), Some(b)) = (bytes.first_chunk(), bytes.last_chunk()) {
        (u16::from_le_bytes(*a).into(), u16::from_le_bytes(*b).into(), 2)
    } else {
        (bytes.first().copied().unwrap_or(0).into(), 0, 1)
    };
    u128::from(first) | u128::from(last) << (8 * (bytes.len().saturating_sub(size)))
}

/// The bits of the first `bytes` bytes, fewer than 16, of a little-endian number.
const fn mask(bytes: usize) -> u128 {
    (1 << (8 * bytes)) - 1
}

/// At most 16 bytes as a little-endian number.
const fn word(bytes: &[u8]) -> u128 {
    let mut word = 0;
    let mut i = bytes.len();
    while i > 0 {
        i -= 1;
        word = word << 8 | bytes[i] as u128;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by comparing slices.
    fn naive(prefix: &[u8]) -> Class {
        let begins = |start: &[u8]| prefix.iter().zip(start).all(|(a, b)| a == b);
        match (begins(V1_PREFIX), begins(V2_SIGNATURE)) {
            (false, false) => Class::Absent,
            (true, false) => Class::V1,
            (false, true) => Class::V2,
            (true, true) => Class::Empty,
        }
    }

    #[test]
    fn every_byte_value_at_every_place_and_every_length() {
        let starts: [&[u8]; 3] = [b"PROXY TCP4 1.2.3.4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c????", &[0; 20]];
        for start in starts {
            for length in 0..=start.len() {
                let mut bytes = start[..length].to_vec();
                assert_eq!(classify(&bytes), naive(&bytes));
                for at in 0..length {
                    for value in 0..=255 {
                        bytes[at] = value;
                        assert_eq!(classify(&bytes), naive(&bytes), "{}", bytes.escape_ascii());
                    }
                    bytes[at] = start[at];
                }
            }
        }
    }
}

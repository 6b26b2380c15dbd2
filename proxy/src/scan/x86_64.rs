//! The scans for x86-64 processors with AVX2 (since 2013; all servers in use).
//!
//! `unsafe` is here for two reasons: intrinsics may be executed only where the processor has them, and vectors are loaded
//! through pointers. The first is settled by [`Avx2`], which nobody can make without [`Avx2::detect`].
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::{Decimal, Hexadecimal, Scan, Work, ensure, mostly};

cpufeatures::new!(cpu_has_avx2, "avx2", "bmi1", "bmi2", "popcnt", "sse4.2");

/// The proof that this processor has AVX2 and what all with AVX2 have: BMI1, BMI2, POPCNT, SSE4.2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// Asks the processor once and remembers the answer.
    #[inline(always)]
    pub(super) fn detect() -> Option<Avx2> {
        cpu_has_avx2::get().then_some(Avx2(()))
    }

    /// Does the work in code that is compiled for AVX2.
    #[inline(always)]
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
        fn run_here<W: Work>(avx2: Avx2, work: W) -> W::Output {
            work.with(avx2)
        }
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { run_here(self, work) }
    }
}

impl Scan for Avx2 {
    #[inline(always)]
    fn decimal(self, text: &[u8]) -> Option<Decimal> {
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { decimal(text) }
    }

    #[inline(always)]
    fn hexadecimal(self, text: &[u8], from: usize) -> Option<Hexadecimal> {
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { hexadecimal(text, from) }
    }

    #[inline(always)]
    fn dotted_quads(self, windows: [&[u8; 16]; 2], shapes: [u32; 2]) -> Option<u64> {
        let [a, b] = shapes.map(|shape| &QUADS[slot(shape)]);
        ensure(a.shape == shapes[0] && b.shape == shapes[1])?;
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { dotted_quads(windows, [a, b]) }
    }

    #[inline(always)]
    fn ports(self, window: &[u8; 16], lengths: [u32; 2]) -> Option<[u16; 2]> {
        let [first, second] = lengths.map(|length| length.wrapping_sub(1) as usize);
        let pattern = mostly(mostly(PORTS.get(first))?.get(second))?;
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { ports(window, pattern) }
    }

    #[inline(always)]
    fn hexadecimal_groups(self, groups: [[u8; 4]; 8]) -> [u8; 16] {
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { hexadecimal_groups(groups) }
    }

    #[inline(always)]
    fn crc32c(self, state: u32, words: &[[u8; 8]], after: &[u8]) -> Option<u32> {
        // SAFETY: `self` exists only where the processor has these features.
        Some(unsafe { crc32c(state, words, after) })
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn decimal(text: &[u8]) -> Option<Decimal> {
    let pieces = Pieces::load(text, 0)?;
    Some(Decimal {
        digits: pieces.bits(digits(pieces.first), digits(pieces.second)),
        dots: pieces.equal_to(b'.'),
        spaces: pieces.equal_to(b' '),
    })
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn hexadecimal(text: &[u8], from: usize) -> Option<Hexadecimal> {
    let pieces = Pieces::load(text, from)?;
    Some(Hexadecimal {
        digits: pieces.bits(hex_digits(pieces.first), hex_digits(pieces.second)),
        colons: pieces.equal_to(b':'),
        spaces: pieces.equal_to(b' '),
    })
}

/// Up to 64 bytes of a text in two vectors, which overlap where there are fewer.
#[derive(Clone, Copy)]
struct Pieces {
    first: __m256i,
    second: __m256i,
    /// Bytes before the wanted ones in `first`.
    before: usize,
    /// Where `second` starts among the wanted bytes; `None` if `first` has all of them.
    at: Option<usize>,
}

impl Pieces {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
    fn load(text: &[u8], from: usize) -> Option<Pieces> {
        let last = text.len().checked_sub(32)?;
        let (first, second) = (from.min(last), (from + 32).min(last));
        Some(Pieces {
            first: load(text.get(first..)?.first_chunk()?),
            second: load(text.get(second..)?.first_chunk()?),
            before: from - first,
            at: second.checked_sub(from),
        })
    }

    /// The high bits of the bytes of both vectors as a bitmap of the wanted bytes.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
    fn bits(&self, first: __m256i, second: __m256i) -> u64 {
        let first = u64::from(_mm256_movemask_epi8(first) as u32) >> self.before;
        let second = u64::from(_mm256_movemask_epi8(second) as u32);
        first | self.at.map_or(0, |at| second << at)
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
    fn equal_to(&self, byte: u8) -> u64 {
        let byte = _mm256_set1_epi8(byte as i8);
        self.bits(_mm256_cmpeq_epi8(self.first, byte), _mm256_cmpeq_epi8(self.second, byte))
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes that the reference is to, at any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// All ones where the byte is a decimal digit.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn digits(bytes: __m256i) -> __m256i {
    at_most(_mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0' as i8)), 9)
}

/// All ones where the byte is a hexadecimal digit.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn hex_digits(bytes: __m256i) -> __m256i {
    let lower = _mm256_or_si256(bytes, _mm256_set1_epi8(0x20));
    let letters = at_most(_mm256_sub_epi8(lower, _mm256_set1_epi8(b'a' as i8)), 5);
    _mm256_or_si256(digits(bytes), letters)
}

/// All ones where the byte, unsigned, is at most `limit`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn at_most(bytes: __m256i, limit: i8) -> __m256i {
    _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(limit)), bytes)
}

/// How the digits of a dotted quad are shuffled into four lanes of four bytes, right-aligned behind zeros.
#[derive(Clone, Copy)]
struct Quad {
    /// 0 where there is no quad.
    shape: u32,
    /// Places in a window that ends with the quad; [`NOWHERE`] yields 0.
    places: [u8; 16],
    /// The least number of so many digits in each lane, little-endian: one below it has a leading zero.
    least: [u8; 16],
}

const NOWHERE: u8 = 0xff;

/// The quads of all 81 shapes, each in its [`slot`].
static QUADS: [Quad; 256] = {
    let mut quads = [Quad { shape: 0, places: [NOWHERE; 16], least: [0; 16] }; 256];
    let mut i = 0;
    while i < 81 {
        let quad = quad([1 + i % 3, 1 + i / 3 % 3, 1 + i / 9 % 3, 1 + i / 27]);
        assert!(quads[slot(quad.shape)].shape == 0, "every shape has a slot of its own");
        quads[slot(quad.shape)] = quad;
        i += 1;
    }
    quads
};

/// A multiplier, found by trying, that spreads the 81 shapes without a collision.
#[inline(always)]
const fn slot(shape: u32) -> usize {
    (shape.wrapping_mul(0x86e5_b70d) >> 24) as usize
}

const fn quad(lengths: [usize; 4]) -> Quad {
    let mut quad = Quad { shape: 0, places: [NOWHERE; 16], least: [0; 16] };
    let mut start = 16 - (lengths[0] + lengths[1] + lengths[2] + lengths[3] + 3);
    let (first, mut number) = (start, 0);
    while number < 4 {
        align_right(&mut quad.places, 4 * number + 4, start, lengths[number]);
        quad.least[4 * number] = least(lengths[number]) as u8;
        start += lengths[number] + 1;
        quad.shape |= 1 << (start - first - 1);
        number += 1;
    }
    quad
}

/// How the digits of two ports are shuffled into two lanes of eight bytes, right-aligned behind zeros.
#[derive(Clone, Copy)]
struct Ports {
    /// Places in a window that ends with the ports; [`NOWHERE`] yields 0.
    places: [u8; 16],
    /// As in [`Quad`]; the upper half is 0.
    least: [u8; 16],
}

/// By the lengths of both ports, less one.
static PORTS: [[Ports; 5]; 5] = {
    let mut all = [[Ports { places: [NOWHERE; 16], least: [0; 16] }; 5]; 5];
    let mut i = 0;
    while i < 25 {
        let (first, second) = (1 + i / 5, 1 + i % 5);
        let ports = &mut all[i / 5][i % 5];
        align_right(&mut ports.places, 8, 16 - second - 1 - first, first);
        align_right(&mut ports.places, 16, 16 - second, second);
        [ports.least[0], ports.least[1]] = least(first).to_le_bytes();
        [ports.least[4], ports.least[5]] = least(second).to_le_bytes();
        i += 1;
    }
    all
};

/// Shuffles `length` bytes from `start` on to those before `end`.
const fn align_right(places: &mut [u8; 16], end: usize, start: usize, length: usize) {
    let mut digit = 0;
    while digit < length {
        places[end - length + digit] = (start + digit) as u8;
        digit += 1;
    }
}

/// The least number of so many digits, 1 to 5, that has no leading zero.
const fn least(digits: usize) -> u16 {
    if digits == 1 { 0 } else { 10_u16.pow(digits as u32 - 1) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn dotted_quads(windows: [&[u8; 16]; 2], [a, b]: [&Quad; 2]) -> Option<u64> {
    let both = |a: &[u8; 16], b: &[u8; 16]| _mm256_set_m128i(load_16(b), load_16(a));
    let text = both(windows[0], windows[1]);
    let digits = _mm256_and_si256(_mm256_shuffle_epi8(text, both(&a.places, &b.places)), _mm256_set1_epi8(0x0f));
    let weights = _mm256_set1_epi32(i32::from_le_bytes([0, 100, 10, 1]));
    let values = _mm256_madd_epi16(_mm256_maddubs_epi16(digits, weights), _mm256_set1_epi16(1));
    let above = _mm256_cmpgt_epi32(values, _mm256_set1_epi32(255));
    let below = _mm256_cmpgt_epi32(both(&a.least, &b.least), values);
    let wrong = _mm256_or_si256(above, below);
    ensure(_mm256_testz_si256(wrong, wrong) != 0)?;
    let bytes = _mm256_packus_epi16(_mm256_packus_epi32(values, values), values);
    let both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    Some(_mm_cvtsi128_si64(both) as u64)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn ports(window: &[u8; 16], pattern: &Ports) -> Option<[u16; 2]> {
    let offsets = _mm_sub_epi8(load_16(window), _mm_set1_epi8(b'0' as i8));
    let digits = _mm_shuffle_epi8(offsets, load_16(&pattern.places));
    let no_digits = _mm_subs_epu8(digits, _mm_set1_epi8(9));
    let pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(i16::from_le_bytes([10, 1])));
    let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(100 | 1 << 16));
    let values = _mm_madd_epi16(_mm_packus_epi32(fours, fours), _mm_set1_epi32(10_000 | 1 << 16));
    let above = _mm_cmpgt_epi32(values, _mm_set1_epi32(0xffff));
    let below = _mm_cmpgt_epi32(load_16(&pattern.least), values);
    let wrong = _mm_or_si128(no_digits, _mm_or_si128(above, below));
    ensure(_mm_testz_si128(wrong, wrong) != 0)?;
    let both = _mm_cvtsi128_si64(values) as u64;
    Some([both as u16, (both >> 32) as u16])
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn hexadecimal_groups(groups: [[u8; 4]; 8]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = groups.map(i32::from_le_bytes);
    let text = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
    // All ones in the last byte of a group that is no digit, and in those before it.
    let others = _mm256_xor_si256(hex_digits(text), _mm256_set1_epi8(-1));
    let others = _mm256_or_si256(others, _mm256_srli_epi32(others, 8));
    let others = _mm256_or_si256(others, _mm256_srli_epi32(others, 16));
    let digits = _mm256_andnot_si256(others, text);
    // A letter has bit 6 set and counts from 9 on. Shifts are of 16 bits, so that what they mix in is masked out.
    let letters = _mm256_and_si256(_mm256_srli_epi16(digits, 6), _mm256_set1_epi8(1));
    let nines = _mm256_add_epi8(letters, _mm256_slli_epi16(letters, 3));
    let nibbles = _mm256_add_epi8(_mm256_and_si256(digits, _mm256_set1_epi8(0x0f)), nines);
    let bytes = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(i16::from_le_bytes([16, 1])));
    let packed = _mm256_packus_epi16(bytes, bytes);
    let both = _mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
    let (low, high) = (_mm_cvtsi128_si64(both) as u64, _mm_extract_epi64(both, 1) as u64);
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes that the reference is to, at any alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn crc32c(state: u32, words: &[[u8; 8]], after: &[u8]) -> u32 {
    let mut state = _mm_crc32_u32(with_words(state.into(), words) as u32, 0);
    // Most checksums stand at the end.
    if !after.is_empty() {
        super::rarely();
        let (words, rest) = after.as_chunks();
        state = rest.iter().fold(with_words(state.into(), words) as u32, |state, byte| _mm_crc32_u8(state, *byte));
    }
    state
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn with_words(mut state: u64, mut words: &[[u8; 8]]) -> u64 {
    // Pairs, so that the compiler has nothing left to unroll.
    while let Some(([a, b], rest)) = words.split_first_chunk() {
        state = _mm_crc32_u64(_mm_crc32_u64(state, u64::from_le_bytes(*a)), u64::from_le_bytes(*b));
        words = rest;
    }
    match words {
        [word] => _mm_crc32_u64(state, u64::from_le_bytes(*word)),
        _ => state,
    }
}

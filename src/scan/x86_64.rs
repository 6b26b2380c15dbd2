//! The scans for x86-64 processors with AVX2 (since 2013; all servers in use).
//!
//! `unsafe` is here for two reasons: intrinsics may be executed only where the processor has them, and vectors are loaded
//! through pointers. The first is settled by [`Avx2`], which nobody can make without [`Avx2::detect`].
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::{Decimal, Hexadecimal, Scan, Work};

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
        let [a, b] = shapes.map(|shape| &PATTERNS[slot(shape)]);
        if a.shape != shapes[0] || b.shape != shapes[1] {
            return None;
        }
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { dotted_quads(windows, [&a.places, &b.places]) }
    }

    #[inline(always)]
    fn hexadecimal_groups(self, words: &[u32; 8], others: &[u32; 8]) -> [u8; 16] {
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { hexadecimal_groups(words, others) }
    }

    #[inline(always)]
    fn crc32c(self, before: &[u8], after: &[u8]) -> Option<u32> {
        // SAFETY: `self` exists only where the processor has these features.
        Some(unsafe { crc32c(before, after) })
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn decimal(text: &[u8]) -> Option<Decimal> {
    let pieces = Pieces::load(text, 0)?;
    let digits = pieces.bits(digits(pieces.first), digits(pieces.second));
    Some(Decimal {
        non_digits: !digits & pieces.all(),
        zeros: pieces.equal_to(b'0'),
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
    length: usize,
}

impl Pieces {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
    fn load(text: &[u8], from: usize) -> Option<Pieces> {
        let length = text.len().checked_sub(from)?.min(64);
        let last = text.len().checked_sub(32)?;
        let (first, second) = (from.min(last), (from + 32).min(last));
        Some(Pieces {
            first: load(text.get(first..)?.first_chunk()?),
            second: load(text.get(second..)?.first_chunk()?),
            before: from - first,
            at: second.checked_sub(from),
            length,
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

    /// One bit for each wanted byte.
    #[inline(always)]
    fn all(&self) -> u64 {
        u64::MAX.unbounded_shr(64 - self.length as u32)
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
struct Pattern {
    /// 0 where there is no pattern.
    shape: u32,
    /// Places in a window that ends with the quad; 0xff yields 0.
    places: [u8; 16],
}

/// The patterns of all 81 shapes, each in its [`slot`].
static PATTERNS: [Pattern; 256] = {
    let mut patterns = [Pattern { shape: 0, places: [0; 16] }; 256];
    let mut i = 0;
    while i < 81 {
        let pattern = pattern([1 + i % 3, 1 + i / 3 % 3, 1 + i / 9 % 3, 1 + i / 27]);
        assert!(patterns[slot(pattern.shape)].shape == 0, "every shape has a slot of its own");
        patterns[slot(pattern.shape)] = pattern;
        i += 1;
    }
    patterns
};

/// A multiplier, found by trying, that spreads the 81 shapes without a collision.
#[inline(always)]
const fn slot(shape: u32) -> usize {
    (shape.wrapping_mul(0x86e5_b70d) >> 24) as usize
}

const fn pattern(lengths: [usize; 4]) -> Pattern {
    let length = lengths[0] + lengths[1] + lengths[2] + lengths[3] + 3;
    let mut pattern = Pattern { shape: 0, places: [0xff; 16] };
    let (mut number, mut start) = (0, 0);
    while number < 4 {
        let mut digit = 0;
        while digit < lengths[number] {
            pattern.places[4 * number + 4 - lengths[number] + digit] = (16 - length + start + digit) as u8;
            digit += 1;
        }
        start += lengths[number] + 1;
        pattern.shape |= 1 << (start - 1);
        number += 1;
    }
    pattern
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn dotted_quads(windows: [&[u8; 16]; 2], places: [&[u8; 16]; 2]) -> Option<u64> {
    let both = |[a, b]: [&[u8; 16]; 2]| _mm256_set_m128i(load_16(b), load_16(a));
    let digits = _mm256_and_si256(_mm256_shuffle_epi8(both(windows), both(places)), _mm256_set1_epi8(0x0f));
    let weights = _mm256_set1_epi32(i32::from_le_bytes([0, 100, 10, 1]));
    let values = _mm256_madd_epi16(_mm256_maddubs_epi16(digits, weights), _mm256_set1_epi16(1));
    if _mm256_movemask_epi8(_mm256_cmpgt_epi32(values, _mm256_set1_epi32(255))) != 0 {
        return None;
    }
    let bytes = _mm256_packus_epi16(_mm256_packus_epi32(values, values), values);
    let both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    Some(_mm_cvtsi128_si64(both) as u64)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn hexadecimal_groups(words: &[u32; 8], others: &[u32; 8]) -> [u8; 16] {
    let (words, others) = (load_8(words), load_8(others));
    let words = _mm256_sllv_epi32(_mm256_srlv_epi32(words, others), others);
    // A letter has bit 6 set and counts from 9 on. Shifts are of 16 bits, so that what they mix in is masked out.
    let letters = _mm256_and_si256(_mm256_srli_epi16(words, 6), _mm256_set1_epi8(1));
    let nines = _mm256_add_epi8(letters, _mm256_slli_epi16(letters, 3));
    let nibbles = _mm256_add_epi8(_mm256_and_si256(words, _mm256_set1_epi8(0x0f)), nines);
    let bytes = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(i16::from_le_bytes([16, 1])));
    let packed = _mm256_packus_epi16(bytes, bytes);
    let both = _mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
    let (low, high) = (_mm_cvtsi128_si64(both) as u64, _mm_extract_epi64(both, 1) as u64);
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn load_8(words: &[u32; 8]) -> __m256i {
    // SAFETY: reads the 32 bytes that the reference is to, at any alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes that the reference is to, at any alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn crc32c(before: &[u8], after: &[u8]) -> u32 {
    let crc = _mm_crc32_u32(crc32c_update(!0, before), 0);
    !crc32c_update(crc, after)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,sse4.2")]
fn crc32c_update(mut crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks();
    for word in words {
        crc = _mm_crc32_u64(crc.into(), u64::from_le_bytes(*word)) as u32;
    }
    let (words, rest) = rest.as_chunks();
    for word in words {
        crc = _mm_crc32_u32(crc, u32::from_le_bytes(*word));
    }
    rest.iter().fold(crc, |crc, byte| _mm_crc32_u8(crc, *byte))
}

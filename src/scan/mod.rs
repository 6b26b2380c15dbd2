//! Finds bytes by their kind, many at a time, and reads numbers from text. Knows nothing of any protocol.
//!
//! A scan answers with a bitmap: bit `i` says whether byte `i` is of the kind. A parser then works on bits, not on bytes:
//! the next separator is the next set bit, and all between two separators is digits.

/// Which of the first 64 bytes are not decimal digits; bits beyond the end are 0. `None` below 8 bytes.
#[inline(always)]
pub(crate) fn non_digits(bytes: &[u8]) -> Option<u64> {
    bitmap(bytes.get(..64).unwrap_or(bytes), non_digits_of)
}

/// Which of the first 64 bytes are not hexadecimal digits; bits beyond the end are 0. `None` below 8 bytes.
#[inline(always)]
pub(crate) fn non_hex_digits(bytes: &[u8]) -> Option<u64> {
    bitmap(bytes.get(..64).unwrap_or(bytes), non_hex_digits_of)
}

/// The number 0..=255 in the last `length` bytes of `word`, all of them digits, without a leading zero.
#[inline(always)]
pub(crate) fn octet(word: [u8; 8], length: usize) -> Option<u8> {
    if length.wrapping_sub(1) >= 3 {
        return None;
    }
    let word = (u64::from_le_bytes(word) >> 32) as u32;
    let above = 32 - 8 * length as u32;
    let leading_zero = length > 1 && (word >> above) as u8 == b'0';
    let digits = (word & 0x0f0f_0f0f) >> above << above;
    // Two digits to a number, then two numbers to one; what stands in between is cut off.
    let pairs = (digits.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff;
    let value = pairs.wrapping_mul(100 << 16 | 1) >> 16;
    if value > 255 || leading_zero { None } else { Some(value as u8) }
}

/// The number 0..=65535 in the last `length` bytes of `word`, in plain digits without a leading zero.
#[inline(always)]
pub(crate) fn decimal_u16(word: [u8; 8], length: usize) -> Option<u16> {
    if length.wrapping_sub(1) >= 5 {
        return None;
    }
    let word = u64::from_le_bytes(word);
    let above = 64 - 8 * length as u32;
    let leading_zero = length > 1 && (word >> above) as u8 == b'0';
    let digits = (word & all(0x0f)) >> above << above;
    let pairs = (digits.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    let value = fours.wrapping_mul(10_000 << 32 | 1) >> 32;
    if value > 65535 || leading_zero || non_digits_of(word) >> above != 0 { None } else { Some(value as u16) }
}

/// The number in the last `length` bytes of `word`, 1 to 4 hexadecimal digits.
#[inline(always)]
pub(crate) fn hex_u16(word: [u8; 8], length: usize) -> Option<u16> {
    if length.wrapping_sub(1) >= 4 {
        return None;
    }
    let word = (u64::from_le_bytes(word) >> 32) as u32;
    let above = 32 - 8 * length as u32;
    // A letter has bit 6 set and counts from 9 on.
    let nibbles = (word & 0x0f0f_0f0f) + 9 * (word >> 6 & 0x0101_0101);
    let nibbles = (nibbles >> above << above).swap_bytes();
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff;
    Some((pairs | pairs >> 8) as u16)
}

/// The high bit of every byte that is not a decimal digit.
#[inline(always)]
fn non_digits_of(word: u64) -> u64 {
    let offset = word ^ all(b'0');
    // No carry: at most 0x7f + 0x76.
    (((offset & all(0x7f)) + all(0x80 - 10)) | offset) & all(0x80)
}

/// The high bit of every byte that is not a hexadecimal digit.
#[inline(always)]
fn non_hex_digits_of(word: u64) -> u64 {
    let ascii = word & all(0x7f);
    let from = |byte: u8, first: u8| (ascii | all(byte)) + all(0x80 - first);
    let digit = from(0, b'0') & !from(0, b'9' + 1);
    let letter = from(0x20, b'a') & !from(0x20, b'f' + 1);
    (!(digit | letter) | word) & all(0x80)
}

/// One bit a byte from `kind`, which sets the high bit of each byte of that kind. At most 64 bytes.
#[inline(always)]
fn bitmap(bytes: &[u8], kind: impl Fn(u64) -> u64) -> Option<u64> {
    let gathered = |word: &[u8; 8]| u64::from(gather(kind(u64::from_le_bytes(*word))));
    // The last word overlaps the one before it and sets the same bits again.
    let mut map = gathered(bytes.last_chunk()?) << (bytes.len() - 8);
    let (words, _) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        map |= gathered(word) << (8 * at);
    }
    Some(map)
}

/// The high bits of the eight bytes as eight bits, the first byte lowest.
#[inline(always)]
fn gather(high_bits: u64) -> u8 {
    ((high_bits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Eight times the same byte.
#[inline(always)]
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

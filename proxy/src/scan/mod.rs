//! Finds bytes by their kind, many at a time, and reads numbers from text. Knows nothing of any protocol.
//!
//! A scan answers with bitmaps: bit `i` says whether byte `i` is of a kind. A parser then works on bits, not on bytes: the
//! next separator is the next set bit, and "no number is empty" is a shift and an AND for the whole text.
//!
//! The same scans exist twice: [`Words`] takes eight bytes at a time in an ordinary register, on any machine; `Avx2` takes
//! 32 and reads four numbers at once. A parser is written once, as [`Work`] that is generic over [`Scan`], and [`best`]
//! does it with what the processor has.

#[cfg(all(target_arch = "x86_64", not(vestibule_portable)))]
mod x86_64;

/// Which bytes of a text are of a kind: bit `i` for byte `i`, at most 64. Bits beyond the end are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decimal {
    /// `0` to `9`.
    pub(crate) digits: u64,
    /// `.`
    pub(crate) dots: u64,
    /// The space.
    pub(crate) spaces: u64,
}

impl Decimal {
    /// Without the first 0..=63 bytes.
    #[inline(always)]
    pub(crate) fn from(self, byte: u32) -> Decimal {
        Decimal { digits: self.digits >> byte, dots: self.dots >> byte, spaces: self.spaces >> byte }
    }
}

/// As [`Decimal`], for text with hexadecimal numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hexadecimal {
    /// `0` to `9`, `a` to `f`, `A` to `F`.
    pub(crate) digits: u64,
    /// `:`
    pub(crate) colons: u64,
    /// The space.
    pub(crate) spaces: u64,
}

/// The scans that depend on the processor.
pub(crate) trait Scan: Copy {
    /// The kinds of up to 64 bytes of `text`; `None` if it is too short to scan.
    fn decimal(self, text: &[u8]) -> Option<Decimal>;

    /// The kinds of up to 64 bytes of `text` from `from` on; `None` if `text` as a whole is too short to scan.
    fn hexadecimal(self, text: &[u8], from: usize) -> Option<Hexadecimal>;

    /// Two dotted quads, each at the end of its window: the octets in order, the first in the lowest byte.
    ///
    /// Bit `i` of a shape is set where byte `i` of the quad, which has digits otherwise, is a dot, and for the byte behind
    /// it. `None` if the shape is not that of four numbers of 1 to 3 digits, or a number is over 255 or has a leading zero.
    fn dotted_quads(self, windows: [&[u8; 16]; 2], shapes: [u32; 2]) -> Option<u64>;

    /// Two decimal numbers of these lengths at the end of the window, one byte between them. `None` unless each has 1 to 5
    /// digits, no leading zero, and is at most 65535.
    fn ports(self, window: &[u8; 16], lengths: [u32; 2]) -> Option<[u16; 2]>;

    /// Eight hexadecimal numbers, big-endian: each in the last digits of its four bytes, of which those before the last
    /// other byte do not count. Four bytes without a digit at the end have the number 0.
    fn hexadecimal_groups(self, groups: [[u8; 4]; 8]) -> [u8; 16];

    /// Continues a CRC32C over these words, four zero bytes and what is `after`. States are as the register has them, not
    /// complemented. `None` where the processor has no instruction for it.
    fn crc32c(self, state: u32, words: &[[u8; 8]], after: &[u8]) -> Option<u32>;
}

/// Something to do with the best [`Scan`] there is.
pub(crate) trait Work {
    /// What it yields.
    type Output;
    /// To be `#[inline(always)]`, so that it is compiled for the processor that the scan is for.
    fn with(self, scan: impl Scan) -> Self::Output;
}

/// Does the work with the best scan that this processor has.
///
/// `--cfg vestibule_portable` leaves only the portable one, so that a benchmark can show what the others gain.
#[inline(always)]
pub(crate) fn best<W: Work>(work: W) -> W::Output {
    #[cfg(all(target_arch = "x86_64", not(vestibule_portable)))]
    if let Some(avx2) = x86_64::Avx2::detect() {
        return avx2.run(work);
    }
    portably(work)
}

/// Out of line, so that the callers of [`best`] need no registers for it.
#[inline(never)]
fn portably<W: Work>(work: W) -> W::Output {
    work.with(Words)
}

/// The same option. Says that `None` is rare: what is behind it is then compiled into one straight piece.
#[inline(always)]
pub(crate) fn mostly<T>(option: Option<T>) -> Option<T> {
    if option.is_none() {
        rarely();
    }
    option
}

/// Says that the place is rarely come to, to compilers that can be told so.
#[allow(clippy::incompatible_msrv)] // the build script has asked the compiler
#[inline(always)]
fn rarely() {
    #[cfg(vestibule_cold_path)]
    core::hint::cold_path();
}

/// Whether the condition holds, for `?`. Says that it mostly does.
#[inline(always)]
pub(crate) fn ensure(condition: bool) -> Option<()> {
    mostly(condition.then_some(()))
}

/// Eight bytes at a time in an ordinary register (SWAR). Also what the other scans are tested against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words;

impl Scan for Words {
    #[inline(always)]
    fn decimal(self, text: &[u8]) -> Option<Decimal> {
        Some(Decimal {
            digits: bitmap(text, digits_of)?,
            dots: bitmap(text, |word| equal_to(word, b'.'))?,
            spaces: bitmap(text, |word| equal_to(word, b' '))?,
        })
    }

    #[inline(always)]
    fn hexadecimal(self, text: &[u8], from: usize) -> Option<Hexadecimal> {
        let text = text.get(from..)?;
        Some(Hexadecimal {
            digits: bitmap(text, hex_digits_of)?,
            colons: bitmap(text, |word| equal_to(word, b':'))?,
            spaces: bitmap(text, |word| equal_to(word, b' '))?,
        })
    }

    #[inline(always)]
    fn dotted_quads(self, windows: [&[u8; 16]; 2], shapes: [u32; 2]) -> Option<u64> {
        let low = dotted_quad(windows[0], shapes[0])?;
        let high = dotted_quad(windows[1], shapes[1])?;
        Some(u64::from(low) | u64::from(high) << 32)
    }

    #[inline(always)]
    fn ports(self, window: &[u8; 16], [first, second]: [u32; 2]) -> Option<[u16; 2]> {
        let behind = window.len().checked_sub(second as usize + 1)?;
        let first = port(*window.get(..behind)?.last_chunk()?, first)?;
        Some([first, port(*window.last_chunk()?, second)?])
    }

    #[inline(always)]
    fn hexadecimal_groups(self, groups: [[u8; 4]; 8]) -> [u8; 16] {
        let mut address = 0;
        for group in groups {
            address = address << 16 | u128::from(hexadecimal_group(group));
        }
        address.to_be_bytes()
    }

    #[inline(always)]
    fn crc32c(self, _state: u32, _words: &[[u8; 8]], _after: &[u8]) -> Option<u32> {
        None
    }
}

fn dotted_quad(window: &[u8; 16], shape: u32) -> Option<u32> {
    let length = shape.checked_ilog2().filter(|length| (1..16).contains(length))?;
    let text = u128::from_le_bytes(*window) >> (128 - 8 * length);
    let (mut rest, mut start, mut quad) = (shape, 0, 0);
    for octet in 0..4 {
        let end = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        if !(1..=3).contains(&end.wrapping_sub(start)) {
            return None;
        }
        if end - start > 1 && (text >> (8 * start)) as u8 == b'0' {
            return None;
        }
        // The last digit to the top byte; then two digits to a number, and two numbers to one.
        let digits = ((text >> (8 * start)) as u32 & 0x0f0f_0f0f) << (32 - 8 * (end - start));
        let pairs = (digits.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff;
        let value = u8::try_from(pairs.wrapping_mul(100 << 16 | 1) >> 16).ok()?;
        quad |= u32::from(value) << (8 * octet);
        start = end + 1;
    }
    (rest == 0).then_some(quad)
}

/// The hexadecimal number in the last digits of four bytes.
#[inline(always)]
fn hexadecimal_group(text: [u8; 4]) -> u16 {
    let word = u32::from_le_bytes(text);
    // The bits up to the last byte that is no digit.
    let others = !(hex_digits_of(word.into()) as u32) & 0x8080_8080;
    let digits = word & u32::MAX.unbounded_shl(32 - others.leading_zeros());
    // A letter has bit 6 set and counts from 9 on.
    let nibbles = ((digits & 0x0f0f_0f0f) + 9 * (digits >> 6 & 0x0101_0101)).swap_bytes();
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff;
    (pairs | pairs >> 8) as u16
}

/// The number 0..=65535 in the last `length` of these bytes, 1 to 5 decimal digits without a leading zero.
#[inline(always)]
fn port(text: [u8; 8], length: u32) -> Option<u16> {
    if !(1..=5).contains(&length) {
        return None;
    }
    let (word, others) = (u64::from_le_bytes(text), 64 - 8 * length);
    let digits = (word & all(0x0f)) >> others << others;
    // Two digits to a number, two of those to one, and again.
    let pairs = (digits.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    let leading_zero = length > 1 && digits >> others & 0x0f == 0;
    let plain = !digits_of(word) & all(0x80) >> others << others == 0 && !leading_zero;
    u16::try_from(fours.wrapping_mul(10_000 << 32 | 1) >> 32).ok().filter(|_| plain)
}

/// The high bit of every byte that is a decimal digit.
#[inline(always)]
fn digits_of(word: u64) -> u64 {
    let offset = word ^ all(b'0');
    // No carry into the next byte: at most 0x7f + 0x76.
    !(((offset & all(0x7f)) + all(0x80 - 10)) | offset) & all(0x80)
}

/// The high bit of every byte that is a hexadecimal digit.
#[inline(always)]
fn hex_digits_of(word: u64) -> u64 {
    let ascii = word & all(0x7f);
    let from = |case: u8, first: u8| (ascii | all(case)) + all(0x80 - first);
    let digit = from(0, b'0') & !from(0, b'9' + 1);
    let letter = from(0x20, b'a') & !from(0x20, b'f' + 1);
    (digit | letter) & !word & all(0x80)
}

/// The high bit of every byte that is `byte`.
#[inline(always)]
fn equal_to(word: u64, byte: u8) -> u64 {
    let unlike = word ^ all(byte);
    !(((unlike & all(0x7f)) + all(0x7f)) | unlike) & all(0x80)
}

/// One bit a byte from `kind`, which sets the high bit of each byte of that kind.
#[inline(always)]
fn bitmap(text: &[u8], kind: impl Fn(u64) -> u64) -> Option<u64> {
    let text = text.get(..64).unwrap_or(text);
    let gathered = |word: &[u8; 8]| u64::from(gather(kind(u64::from_le_bytes(*word))));
    // The last word overlaps the one before it and sets the same bits again.
    let mut map = gathered(text.last_chunk()?) << (text.len() - 8);
    let (words, _) = text.as_chunks();
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

#[cfg(test)]
mod tests;

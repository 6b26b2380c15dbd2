//! CRC32C of a header. Specification, section 2.2.3.

#[cfg(feature = "std")]
use crc32c::crc32c_append;

use super::V2_SIGNATURE;
use crate::scan::{self, Scan, Work, mostly};

/// Bytes of the checksum TLV's value.
pub(super) const CHECKSUM_LEN: usize = 4;

/// Whether the checksum at `at`, behind the signature, is that of the whole version 2 header.
#[inline(always)]
pub(super) fn is_right(header: &[u8], at: usize) -> bool {
    let quickly = if header.len() <= SHORT { scan::best(Carried { header, at }) } else { None };
    mostly(quickly).unwrap_or_else(|| is_right_by_crate(header, at))
}

/// Headers up to this many bytes are not worth a call of crate crc32c, which prepares for large inputs: for a header of
/// 35 bytes its three calls take some 500 instructions, the processor's own a tenth of that.
const SHORT: usize = 512;

#[inline(never)]
fn is_right_by_crate(header: &[u8], at: usize) -> bool {
    // spec 2.2.3 MUST "store the received checksum"
    let carried = header.get(at..).and_then(|rest| rest.first_chunk::<CHECKSUM_LEN>());
    carried.is_some() && carried.copied() == compute(header, at).map(u32::to_be_bytes)
}

/// CRC32C of the header with the four bytes at `at`, the checksum's own place, read as zero; `None` if there is no such
/// place. The bytes are not touched.
pub(super) fn compute(header: &[u8], at: usize) -> Option<u32> {
    let (before, rest) = header.split_at_checked(at)?;
    let (_, after) = rest.split_first_chunk::<CHECKSUM_LEN>()?;
    // spec 2.2.3 MUST "replace the 32 bits"
    let crc = crc32c_append(crc32c_append(0, before), &[0; CHECKSUM_LEN]);
    Some(crc32c_append(crc, after))
}

/// What crate crc32c does, for whoever has no std to ask the processor by: a byte at a time.
#[cfg(not(feature = "std"))]
fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    by_table(crc, bytes)
}

/// CRC32C of what `crc` is that of, followed by these bytes.
#[cfg(any(test, not(feature = "std")))]
fn by_table(crc: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!crc, |state, &byte| state >> 8 ^ TABLE[usize::from(state as u8 ^ byte)])
}

#[cfg(any(test, not(feature = "std")))]
static TABLE: [u32; 256] = {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < table.len() {
        table[byte] = with_byte(0, byte as u8);
        byte += 1;
    }
    table
};

/// Every header starts with the same bytes, so their checksum is known, and it is known after each of the last eight of
/// them: the one is taken from which whole words of eight bytes lead up to the checksum.
static AFTER_SIGNATURE: [u32; 8] = {
    let mut states = [0; 8];
    let (mut state, mut i) = (!0, 0);
    while i < V2_SIGNATURE.len() {
        state = with_byte(state, V2_SIGNATURE[i]);
        i += 1;
        states[i % 8] = state;
    }
    states
};

/// The state of CRC32C after one more byte, bit by bit. RFC 3720, section 12.1.
const fn with_byte(mut state: u32, byte: u8) -> u32 {
    const POLYNOMIAL_REFLECTED: u32 = 0x82f6_3b78;
    state ^= byte as u32;
    let mut bit = 0;
    while bit < 8 {
        state = state >> 1 ^ if state & 1 == 1 { POLYNOMIAL_REFLECTED } else { 0 };
        bit += 1;
    }
    state
}

/// Whether the checksum at `at` is right; `None` where there is none, or no instruction for it.
struct Carried<'a> {
    header: &'a [u8],
    at: usize,
}

impl Work for Carried<'_> {
    type Output = Option<bool>;

    #[inline(always)]
    fn with(self, scan: impl Scan) -> Option<bool> {
        let (before, rest) = self.header.split_at_checked(self.at)?;
        let (carried, after) = rest.split_first_chunk::<CHECKSUM_LEN>()?;
        // 5 to 12 bytes of the signature.
        let start = 5 + before.len().checked_sub(5)? % 8;
        let (words, _) = before.get(start..)?.as_chunks();
        let state = scan.crc32c(AFTER_SIGNATURE[start % 8], words, after)?;
        Some(*carried == (!state).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnoli() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(by_table(0, b"123456789"), 0xe306_9283);
        assert_eq!(by_table(by_table(0, b"1234"), b"56789"), 0xe306_9283);
    }

    #[test]
    fn its_own_place_does_not_count() {
        let body = b"any bytes of a header, none of which the checksum leaves out but those four";
        for length in 4..=body.len() {
            let mut header = [&V2_SIGNATURE[..], &body[..length]].concat();
            for at in V2_SIGNATURE.len()..=header.len() - 4 {
                let place = at..at + 4;
                let there: [u8; 4] = header[place.clone()].try_into().expect("four bytes");
                let crc = compute(&header, at).expect("inside");
                header[place.clone()].fill(0);
                assert_eq!(crc, crc32c::crc32c(&header), "{length} bytes, {at}");
                header[place.clone()].copy_from_slice(&crc.to_be_bytes());
                assert!(is_right(&header, at));
                header[place].copy_from_slice(&there);
            }
        }
    }

    #[test]
    fn a_place_that_is_none() {
        assert_eq!(compute(b"abc", 0), None);
        assert!(!is_right(V2_SIGNATURE, 9));
        assert!(!is_right(V2_SIGNATURE, usize::MAX));
    }
}

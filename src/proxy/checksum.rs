//! CRC32C of a header. Specification, section 2.2.3.

use super::error::Reason;
use crate::scan::{self, Scan, Work};

/// Bytes of the checksum TLV's value.
pub(super) const CHECKSUM_LEN: usize = 4;

/// Compares the checksum at `at` with that of the whole header.
pub(super) fn verify(header: &[u8], at: usize) -> Result<(), Reason> {
    let carried = header.get(at..).and_then(|rest| rest.first_chunk::<CHECKSUM_LEN>());
    match (carried, compute(header, at)) {
        (Some(carried), Some(crc)) if *carried == crc.to_be_bytes() => Ok(()),
        _ => Err(Reason::BadChecksum),
    }
}

/// CRC32C of the header with the four bytes at `at`, the checksum's own place, read as zero; `None` if there is no such
/// place. The bytes are not touched.
pub(super) fn compute(header: &[u8], at: usize) -> Option<u32> {
    let (before, rest) = header.split_at_checked(at)?;
    let (_, after) = rest.split_first_chunk::<CHECKSUM_LEN>()?;
    if header.len() <= SHORT
        && let Some(crc) = scan::best(Crc { before, after })
    {
        return Some(crc);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; CHECKSUM_LEN]);
    Some(crc32c::crc32c_append(crc, after))
}

/// Headers up to this many bytes are not worth a call of crate crc32c, which prepares for large inputs: for a header of
/// 35 bytes its three calls take some 500 instructions, the processor's own a tenth of that.
const SHORT: usize = 512;

struct Crc<'a> {
    before: &'a [u8],
    after: &'a [u8],
}

impl Work for Crc<'_> {
    type Output = Option<u32>;

    #[inline(always)]
    fn with(self, scan: impl Scan) -> Option<u32> {
        scan.crc32c(self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnoli() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn its_own_place_does_not_count() {
        for at in 0..=20 {
            let mut header = *b"any bytes of a header!!!";
            let crc = compute(&header, at).expect("inside");
            header[at..at + 4].fill(0);
            assert_eq!(crc, crc32c::crc32c(&header));
            header[at..at + 4].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(verify(&header, at), Ok(()));
        }
        assert_eq!(compute(b"abc", 0), None);
        assert_eq!(verify(b"abcd", 1), Err(Reason::BadChecksum));
    }
}

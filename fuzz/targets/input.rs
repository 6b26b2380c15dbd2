//! Fuzzer's bytes as rules and a stream: the first byte holds options, the others are what a peer sends.

use crate::oracle::Rules;

#[path = "../../tests/support/mend.rs"]
mod mend;

/// Bits 0 and 1: the header limit; 2: IPv4 text under TCP6; 3 and 4: the true length and the true checksum are put in,
/// so that the fuzzer does not have to find them; 6: a payload follows, long enough for every way to read ahead. Bit 5 is
/// the target's own.
pub fn read(data: &[u8]) -> Option<(Rules, Vec<u8>)> {
    let (&options, bytes) = data.split_first()?;
    let rules =
        Rules { header_limit: [4096, 232, 1500, 65551][usize::from(options & 3)], v4_in_tcp6: options & 4 != 0 };
    let mut bytes = bytes.to_vec();
    if options & 8 != 0 {
        mend::length(&mut bytes);
    }
    if options & 16 != 0 {
        mend::checksum(&mut bytes);
    }
    if options & 64 != 0 {
        bytes.extend(b"a NOOP\r\n".repeat(20));
    }
    Some((rules, bytes))
}

//! Stands in for crate crc32c, which needs std to ask for the processor's features: the same two functions, bit by bit.
#![no_std]

/// CRC32C of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// CRC32C of what `crc` is the checksum of, followed by these bytes.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let with_bit = |state: u32| state >> 1 ^ if state & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!crc, |state, byte| (0..8).fold(state ^ u32::from(*byte), |state, _| with_bit(state)))
}

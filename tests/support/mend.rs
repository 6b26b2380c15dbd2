//! Puts right what random changes to a version 2 header put wrong, so that the checks behind are reached.

/// Lets a version 2 header end where the bytes end.
pub fn length(bytes: &mut [u8]) {
    if begins_v2(bytes) {
        let length = (bytes.len() - 16).min(0xffff) as u16;
        bytes[14..16].copy_from_slice(&length.to_be_bytes());
    }
}

/// Gives the first thing in a version 2 header that looks like a checksum TLV the true sum.
pub fn checksum(bytes: &mut [u8]) {
    if !begins_v2(bytes) {
        return;
    }
    let length = (16 + usize::from(bytes[14]) * 256 + usize::from(bytes[15])).min(bytes.len());
    let header = &mut bytes[..length];
    if let Some(at) = header.windows(7).skip(16).position(|window| window.starts_with(&[3, 0, 4])) {
        let value = 16 + at + 3;
        header[value..value + 4].fill(0);
        let sum = crc32c::crc32c(header);
        header[value..value + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn begins_v2(bytes: &[u8]) -> bool {
    bytes.len() >= 16 && bytes[0] == b'\r'
}

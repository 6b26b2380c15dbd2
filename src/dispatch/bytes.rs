//! The header and residual of one connection, kept inline where they are small.

/// Header and residual up to this many bytes travel inside `Accepted` without an allocation: a v1 line of any length,
/// a v2 header with a checksum and a unique id, both with a short first command behind.
pub const INLINE_BYTES: usize = 128;

/// Bytes that own their storage.
#[derive(Clone)]
pub(crate) enum Bytes {
    Inline { len: u8, data: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

impl Bytes {
    pub(crate) fn copy_of(bytes: &[u8]) -> Bytes {
        if bytes.len() <= INLINE_BYTES {
            let mut data = [0; INLINE_BYTES];
            data[..bytes.len()].copy_from_slice(bytes);
            Bytes::Inline { len: bytes.len() as u8, data }
        } else {
            Bytes::Heap(bytes.into())
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Inline { len, data } => &data[..usize::from(*len)],
            Bytes::Heap(data) => data,
        }
    }
}

const _: () = assert!(INLINE_BYTES <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_length() {
        let data: Vec<u8> = (0..600).map(|i| i as u8).collect();
        for len in [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 600] {
            assert_eq!(Bytes::copy_of(&data[..len]).as_slice(), &data[..len]);
        }
    }
}

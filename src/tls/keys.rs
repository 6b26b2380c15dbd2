//! The keys of a session, as the kernel takes them over, and when it can.

use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

/// Bytes of a record's header; the last two are the length of what follows (RFC 8446, section 5.1).
const HEADER: usize = 5;

/// Follows the peer's records, to know whether one has been read in part: that part would be lost with the session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Boundary {
    /// Of the header of the next record.
    header: [u8; HEADER],
    read: usize,
    /// Bytes of the record that are still to come.
    left: usize,
}

impl Boundary {
    /// The peer has sent these.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.read] = bytes[0];
            self.read += 1;
            bytes = &bytes[1..];
            if self.read == HEADER {
                self.read = 0;
                self.left = u16::from_be_bytes([self.header[3], self.header[4]]).into();
            }
        }
    }

    /// Whether the last byte was the end of a record.
    pub(super) fn is_at_end(&self) -> bool {
        self.read == 0 && self.left == 0
    }
}

/// The keys of one direction, as `struct tls12_crypto_info_*` of linux/tls.h; `None` for what that has no place for.
pub(super) fn crypto_info(
    version: ProtocolVersion,
    (sequence, secrets): (u64, ConnectionTrafficSecrets),
) -> Option<Vec<u8>> {
    let version: u16 = match version {
        ProtocolVersion::TLSv1_2 => 0x0303,
        ProtocolVersion::TLSv1_3 => 0x0304,
        _ => return None,
    };
    let (cipher, key, nonce): (u16, _, _) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (51, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (52, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (54, key, iv),
        _ => return None,
    };
    // Of AES-GCM's twelve bytes the first four stand behind the key.
    let (salt, iv) = nonce.as_ref().split_at(if cipher == 54 { 0 } else { 4 });
    let head = [version.to_ne_bytes(), cipher.to_ne_bytes()].concat();
    Some([&head, iv, key.as_ref(), salt, &sequence.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    #[test]
    fn a_boundary_is_where_a_record_ends_however_it_is_cut() {
        let records: Vec<u8> = [0usize, 1, 300, 16_640]
            .iter()
            .flat_map(|&length| {
                let header = [23, 3, 3, (length >> 8) as u8, length as u8];
                [&header[..], &vec![7; length]].concat()
            })
            .collect();
        let ends = [5, 11, 316, 16_961];
        for step in [1, 2, 5, 7, 4096, records.len()] {
            let (mut boundary, mut at) = (Boundary::default(), 0);
            for piece in records.chunks(step) {
                boundary.pass(piece);
                at += piece.len();
                assert_eq!(boundary.is_at_end(), ends.contains(&at), "{at}");
            }
        }
        assert!(Boundary::default().is_at_end(), "nothing was read in part");
    }

    #[test]
    fn keys_lie_as_in_the_kernels_structures() {
        let (key, iv) = (AeadKey::from([7; 32]), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv: Iv::new(iv) };
        let info = crypto_info(ProtocolVersion::TLSv1_2, (9, secrets)).expect("it has a place");
        let expected =
            [&0x0303u16.to_ne_bytes()[..], &54u16.to_ne_bytes(), &iv, &[7; 32], &9u64.to_be_bytes()].concat();
        assert_eq!((info.len(), info), (56, expected));
        let secrets = ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([8; 32]), iv: Iv::new(iv) };
        let info = crypto_info(ProtocolVersion::TLSv1_3, (1, secrets)).expect("it has a place");
        let head = [0x0304u16.to_ne_bytes(), 52u16.to_ne_bytes()].concat();
        let expected = [&head[..], &iv[4..], &[8; 32], &iv[..4], &1u64.to_be_bytes()].concat();
        assert_eq!((info.len(), info), (56, expected));
    }
}

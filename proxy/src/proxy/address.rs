//! The address block: source, destination and ports in the layout of version 2, whichever version brought them.

use core::net::{IpAddr, SocketAddr};

/// Bytes of the version 2 address block of UNIX.
pub(super) const UNIX_BLOCK: usize = 216;
/// Bytes of one name in the UNIX block.
pub(super) const UNIX_NAME: usize = UNIX_BLOCK / 2;

/// IP addresses and ports as they stand in a version 2 block: bytes that need no reading before they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// LOCAL, UNKNOWN, UNSPEC.
    Unspec,
    /// The names stay in the header's bytes.
    Unix,
    /// Addresses of 4 bytes.
    Inet(Pair<4>),
    /// Addresses of 16 bytes.
    Inet6(Pair<16>),
}

/// Two addresses of `N` bytes and their ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair<const N: usize> {
    pub(super) source: [u8; N],
    pub(super) destination: [u8; N],
    pub(super) ports: [u8; 4],
}

impl<const N: usize> Pair<N> {
    /// Bytes of the block.
    pub(super) const LEN: usize = 2 * N + 4;

    #[inline(always)]
    pub(super) fn new(source: [u8; N], destination: [u8; N], ports: [u16; 2]) -> Pair<N> {
        let [[a, b], [c, d]] = ports.map(u16::to_be_bytes);
        Pair { source, destination, ports: [a, b, c, d] }
    }

    /// The block at the start of these bytes.
    #[inline(always)]
    pub(super) fn read(bytes: &[u8]) -> Option<Pair<N>> {
        // One check that makes the others superfluous.
        let bytes = bytes.get(..Self::LEN)?;
        let (source, rest) = bytes.split_first_chunk()?;
        let (destination, rest) = rest.split_first_chunk()?;
        Some(Pair { source: *source, destination: *destination, ports: *rest.first_chunk()? })
    }

    #[inline]
    fn sockets(&self) -> (SocketAddr, SocketAddr)
    where
        IpAddr: From<[u8; N]>,
    {
        let [a, b, c, d] = self.ports;
        let socket = |address, port| SocketAddr::new(IpAddr::from(address), u16::from_be_bytes(port));
        (socket(self.source, [a, b]), socket(self.destination, [c, d]))
    }
}

impl Block {
    /// The parts of the block in the order in which they are sent. UNIX names are not kept here, and never sent.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        match self {
            Block::Unspec | Block::Unix => [&[]; 3],
            Block::Inet(pair) => [&pair.source, &pair.destination, &pair.ports],
            Block::Inet6(pair) => [&pair.source, &pair.destination, &pair.ports],
        }
    }

    /// Byte 14 for a stream between these addresses.
    pub(super) fn fam(&self) -> u8 {
        match self {
            Block::Unspec | Block::Unix => 0x00,
            // spec 2.2 MUST NOT "other families emitted"
            // spec 2.2 MUST NOT "other transports emitted"
            Block::Inet(_) => 0x11,
            Block::Inet6(_) => 0x21,
        }
    }

    /// Source and destination.
    #[inline]
    pub(super) fn sockets(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Block::Unspec | Block::Unix => None,
            Block::Inet(pair) => Some(pair.sockets()),
            Block::Inet6(pair) => Some(pair.sockets()),
        }
    }
}

/// The name in one half of a UNIX block: to the first NUL, or from a leading NUL (abstract) to the last other byte.
pub(super) fn unix_name(field: &[u8]) -> &[u8] {
    let end = if field.first() == Some(&0) {
        field.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
    } else {
        field.iter().position(|&byte| byte == 0).unwrap_or(field.len())
    };
    field.get(..end).unwrap_or(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_back_what_they_were_made_of() {
        let (a, b): (SocketAddr, SocketAddr) = (([203, 0, 113, 9], 41000).into(), ([192, 0, 2, 1], 25).into());
        let pair = Pair::new([203, 0, 113, 9], [192, 0, 2, 1], [41000, 25]);
        assert_eq!(Block::Inet(pair).sockets(), Some((a, b)));
        assert_eq!(Pair::read(&Block::Inet(pair).parts().concat()), Some(pair));
        let pair = Pair::new([7; 16], [9; 16], [1, 65535]);
        assert_eq!(Block::Inet6(pair).sockets(), Some((([7; 16], 1).into(), ([9; 16], 65535).into())));
        assert_eq!(Pair::read(&Block::Inet6(pair).parts().concat()), Some(pair));
        assert_eq!(Pair::<16>::read(&[0; 35]), None);
        assert_eq!(Block::Unspec.sockets(), None);
    }

    #[test]
    fn unix_names() {
        let mut field = [0; UNIX_NAME];
        assert_eq!(unix_name(&field), b"", "unnamed");
        field[..5].copy_from_slice(b"/a\0bc");
        assert_eq!(unix_name(&field), b"/a", "a path ends at its first NUL");
        field[0] = 0;
        assert_eq!(unix_name(&field), b"\0a\0bc", "an abstract name may hold NULs");
        assert_eq!(unix_name(&[b'x'; UNIX_NAME]), &[b'x'; UNIX_NAME], "a full field has no NUL");
    }
}

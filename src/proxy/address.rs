//! The address block: source, destination and ports in the layout of version 2, whichever version brought them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the version 2 address block of INET.
pub(super) const INET_BLOCK: usize = 12;
/// Bytes of the version 2 address block of INET6.
pub(super) const INET6_BLOCK: usize = 36;
/// Bytes of the version 2 address block of UNIX.
pub(super) const UNIX_BLOCK: usize = 216;
/// Bytes of one name in the UNIX block.
pub(super) const UNIX_NAME: usize = UNIX_BLOCK / 2;

/// IP addresses and ports as they stand in a version 2 block: 36 bytes that need no reading before they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// LOCAL, UNKNOWN, UNSPEC.
    Unspec,
    /// The names stay in the header's bytes.
    Unix,
    /// Source, destination, ports.
    Inet([u8; INET_BLOCK]),
    /// Source, destination, ports.
    Inet6([u8; INET6_BLOCK]),
}

impl Block {
    #[inline]
    pub(super) fn of_v4(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Block {
        let [a, b, c, d] = source.0.octets();
        let [e, f, g, h] = destination.0.octets();
        let [i, j] = source.1.to_be_bytes();
        let [k, l] = destination.1.to_be_bytes();
        Block::Inet([a, b, c, d, e, f, g, h, i, j, k, l])
    }

    #[inline]
    pub(super) fn of_v6(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16)) -> Block {
        let mut block = [0; INET6_BLOCK];
        let addresses = source.0.octets().into_iter().chain(destination.0.octets());
        let ports = source.1.to_be_bytes().into_iter().chain(destination.1.to_be_bytes());
        for (to, from) in block.iter_mut().zip(addresses.chain(ports)) {
            *to = from;
        }
        Block::Inet6(block)
    }

    /// The block as it is sent. UNIX names are not kept here, and never sent.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Block::Unspec | Block::Unix => &[],
            Block::Inet(block) => block,
            Block::Inet6(block) => block,
        }
    }

    /// Byte 14 for a stream between these addresses.
    pub(super) fn fam(&self) -> u8 {
        match self {
            Block::Unspec | Block::Unix => 0x00,
            Block::Inet(_) => 0x11,
            Block::Inet6(_) => 0x21,
        }
    }

    /// Source and destination.
    #[inline]
    pub(super) fn sockets(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Block::Unspec | Block::Unix => None,
            Block::Inet([a, b, c, d, e, f, g, h, i, j, k, l]) => Some((
                SocketAddr::new(IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)), u16::from_be_bytes([*i, *j])),
                SocketAddr::new(IpAddr::V4(Ipv4Addr::new(*e, *f, *g, *h)), u16::from_be_bytes([*k, *l])),
            )),
            Block::Inet6(block) => {
                let (source, rest) = block.split_first_chunk::<16>()?;
                let (destination, ports) = rest.split_first_chunk::<16>()?;
                let [i, j, k, l] = ports.first_chunk()?;
                Some((
                    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*source)), u16::from_be_bytes([*i, *j])),
                    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*destination)), u16::from_be_bytes([*k, *l])),
                ))
            }
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
        let (a, b): (Ipv4Addr, Ipv4Addr) = ([203, 0, 113, 9].into(), [192, 0, 2, 1].into());
        let block = Block::of_v4((a, 41000), (b, 25));
        assert_eq!(block.sockets(), Some(((a, 41000).into(), (b, 25).into())));
        let (a, b): (Ipv6Addr, Ipv6Addr) = ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into(), Ipv6Addr::LOCALHOST);
        let block = Block::of_v6((a, 1), (b, 65535));
        assert_eq!(block.sockets(), Some(((a, 1).into(), (b, 65535).into())));
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

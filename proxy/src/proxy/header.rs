//! A decoded header: a view over the bytes it was decoded from.

use core::net::SocketAddr;

use super::address::{Block, Pair, UNIX_BLOCK, UNIX_NAME, unix_name};
use super::name;
use super::ssl::Ssl;
use super::tlv::{Tlvs, kind};

/// Protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Text line.
    V1,
    /// Binary.
    V2,
}

/// What the sender asks for. Version 1 has no command: it is always `Proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// The proxy's own connection, such as a health check: the socket's addresses count.
    Local,
    /// On behalf of a client.
    Proxy,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Unknown; also version 1 `UNKNOWN` and every LOCAL.
    Unspec,
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
    /// Unix sockets.
    Unix,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Unknown.
    Unspec,
    /// TCP or Unix stream.
    Stream,
    /// UDP or Unix datagram.
    Dgram,
}

/// The addresses that a header conveys, as sent: an IPv4-mapped IPv6 address is not normalised here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses<'a> {
    /// None: LOCAL, UNKNOWN, UNSPEC.
    None,
    /// IPv4 or IPv6.
    Ip {
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
    /// Unix socket names without trailing NULs; a leading NUL means abstract, empty means unnamed.
    Unix {
        /// The client.
        source: &'a [u8],
        /// What the client connected to.
        destination: &'a [u8],
    },
}

/// The fixed part of a decoded header, without a borrow: what to keep when the bytes move elsewhere.
///
/// Only [`decode`](super::decode) makes one, so it always fits the bytes it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)] // what is constant for most headers stands side by side: one store
pub struct Head {
    /// Whole header in bytes, 15..=65551.
    pub(super) length: u32,
    /// Where the TLV chain starts; `length` where there is none to read.
    pub(super) tlvs: u32,
    pub(super) version: Version,
    pub(super) command: Command,
    pub(super) transport: Transport,
    pub(super) block: Block,
}

/// A decoded header over its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    head: Head,
    bytes: &'a [u8],
}

impl Head {
    /// The head of the header at the start of `bytes`, by the usual rules; `None` if there is no complete one.
    pub fn of(bytes: &[u8]) -> Option<Head> {
        match super::decode(bytes, &super::Rules::default()) {
            super::Decoded::Complete(header) => Some(header.head()),
            _ => None,
        }
    }

    /// Puts the head back over its bytes; `None` if `bytes` is shorter than the header.
    #[inline]
    pub fn over<'a>(&self, bytes: &'a [u8]) -> Option<Header<'a>> {
        Some(Header { head: *self, bytes: bytes.get(..self.length as usize)? })
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The command.
    pub fn command(&self) -> Command {
        self.command
    }

    /// The address family; `Unspec` for LOCAL and UNKNOWN.
    pub fn family(&self) -> Family {
        match self.block {
            Block::Unspec => Family::Unspec,
            Block::Inet(_) => Family::Inet,
            Block::Inet6(_) => Family::Inet6,
            Block::Unix => Family::Unix,
        }
    }

    /// The transport protocol; `Unspec` for LOCAL and UNKNOWN.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whole header in bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Source and destination where the header conveys IP addresses, as sent.
    #[inline]
    pub fn ip(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.block.sockets()
    }

    /// PROXY over a stream between IP addresses.
    #[inline(always)]
    pub(super) fn of_stream(version: Version, block: Block, length: usize, tlvs: usize) -> Head {
        let (length, tlvs) = (length as u32, tlvs as u32);
        Head { length, tlvs, block, version, command: Command::Proxy, transport: Transport::Stream }
    }

    /// A header without addresses and TLVs: LOCAL, UNKNOWN, and what PROXY with UNSPEC starts from.
    pub(super) fn without_addresses(version: Version, command: Command, length: u32) -> Head {
        Head { length, tlvs: length, block: Block::Unspec, version, command, transport: Transport::Unspec }
    }
}

impl<'a> Header<'a> {
    /// The fixed part, free of the borrow.
    #[inline]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The whole header as it was received.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whole header in bytes, 15..=65551.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The command.
    pub fn command(&self) -> Command {
        self.head.command
    }

    /// The address family; `Unspec` for LOCAL and UNKNOWN.
    pub fn family(&self) -> Family {
        self.head.family()
    }

    /// The transport protocol; `Unspec` for LOCAL and UNKNOWN.
    pub fn transport(&self) -> Transport {
        self.head.transport
    }

    /// The addresses, as sent.
    pub fn addresses(&self) -> Addresses<'a> {
        match (self.head.ip(), self.head.family()) {
            (Some((source, destination)), _) => Addresses::Ip { source, destination },
            (None, Family::Unix) => self.unix_addresses().unwrap_or(Addresses::None),
            (None, _) => Addresses::None,
        }
    }

    /// The client's IP address and port, as sent; `None` for LOCAL, UNKNOWN, UNSPEC and UNIX.
    pub fn source(&self) -> Option<SocketAddr> {
        self.head.ip().map(|(source, _)| source)
    }

    /// The IP address and port that the client connected to, as sent; `None` for LOCAL, UNKNOWN, UNSPEC and UNIX.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.head.ip().map(|(_, destination)| destination)
    }

    /// The TLVs in wire order. Nothing of a LOCAL header is a TLV to us.
    #[inline]
    pub fn tlvs(&self) -> Tlvs<'a> {
        Tlvs::over(self.bytes.get(self.head.tlvs as usize..).unwrap_or_default())
    }

    /// The value of the first TLV of this type ([`kind`]).
    pub fn tlv(&self, kind: u8) -> Option<&'a [u8]> {
        self.tlvs().value_of(kind)
    }

    /// The application protocol that the client and the proxy agreed on, such as `imap` or `h2`.
    pub fn alpn(&self) -> Option<&'a [u8]> {
        self.tlv(kind::ALPN)
    }

    /// The host name that the client asked for (SNI), if it is a DNS name: labels of 1..=63 letters, digits, `-` and
    /// `_`, no `-` at a label's ends, 253 bytes at most, no trailing dot, and not a number at the end (an IP address).
    pub fn authority(&self) -> Option<&'a str> {
        self.authority_raw().and_then(name::dns)
    }

    /// The host name as sent, whatever it is.
    pub fn authority_raw(&self) -> Option<&'a [u8]> {
        self.tlv(kind::AUTHORITY)
    }

    /// The connection's opaque id, at most 128 bytes.
    pub fn unique_id(&self) -> Option<&'a [u8]> {
        self.tlv(kind::UNIQUE_ID)
    }

    /// The CRC32C that the header carries and that was found right. LOCAL headers are verified too but expose nothing.
    pub fn checksum(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.tlv(kind::CRC32C)?.try_into().ok()?))
    }

    /// Name of the network namespace, US-ASCII by specification.
    pub fn netns(&self) -> Option<&'a [u8]> {
        self.tlv(kind::NETNS)
    }

    /// What the proxy knows of the client's TLS session.
    pub fn ssl(&self) -> Option<Ssl<'a>> {
        self.tlv(kind::SSL).and_then(Ssl::read)
    }

    fn unix_addresses(&self) -> Option<Addresses<'a>> {
        let (_fixed, block) = self.bytes.split_first_chunk::<{ super::V2_FIXED }>()?;
        let (source, destination) = block.get(..UNIX_BLOCK)?.split_at_checked(UNIX_NAME)?;
        Some(Addresses::Unix { source: unix_name(source), destination: unix_name(destination) })
    }
}

impl Family {
    /// The family that the upper half of a version 2 header's byte 14 names.
    pub(super) const fn of(number: u8) -> Option<Family> {
        match number {
            0 => Some(Family::Unspec),
            1 => Some(Family::Inet),
            2 => Some(Family::Inet6),
            3 => Some(Family::Unix),
            _ => None,
        }
    }

    /// Bytes of this family's address block in version 2.
    pub(super) const fn block_len(self) -> usize {
        match self {
            Family::Unspec => 0,
            Family::Inet => Pair::<4>::LEN,
            Family::Inet6 => Pair::<16>::LEN,
            Family::Unix => UNIX_BLOCK,
        }
    }
}

//! A decoded header: a view over the bytes it was decoded from.

use core::net::SocketAddr;

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
pub struct Head {
    pub(super) version: Version,
    pub(super) command: Command,
    pub(super) family: Family,
    pub(super) transport: Transport,
    /// Whole header in bytes.
    pub(super) length: u32,
    /// Where the TLV chain starts; `length` where there is none.
    pub(super) tlvs: u32,
    pub(super) ip: Option<(SocketAddr, SocketAddr)>,
}

/// A decoded header over its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    head: Head,
    bytes: &'a [u8],
}

/// One type-length-value item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The type byte (`PP2_TYPE_*`).
    pub kind: u8,
    /// The value.
    pub value: &'a [u8],
}

/// Iterates over the TLVs of a header in wire order.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl Head {
    /// Puts the head back over its bytes; `None` if `bytes` is shorter than the header.
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

    /// Whole header in bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Source and destination where the header conveys IP addresses.
    pub fn ip(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ip
    }
}

impl<'a> Header<'a> {
    /// The fixed part, free of the borrow.
    pub fn head(&self) -> Head {
        self.head
    }
}

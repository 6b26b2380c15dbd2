//! Any line, byte by byte, to the earliest byte that allows a refusal.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;

use super::super::address::{Block, Pair};
use super::super::error::Reason;
use super::super::header::{Command, Head, Version};
use super::{Rules, Stop, TCP4_LENGTH_MAX, TCP6_LENGTH_MAX, V1_LENGTH_MAX, V1_PREFIX};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyword {
    Tcp4,
    Tcp6,
    Unknown,
}

impl Keyword {
    const ALL: [(Keyword, &'static [u8]); 3] =
        [(Keyword::Tcp4, b"TCP4"), (Keyword::Tcp6, b"TCP6"), (Keyword::Unknown, b"UNKNOWN")];

    // spec 2.1 MUST "maximum line lengths"
    const fn length_max(self, rules: &Rules) -> usize {
        match self {
            Keyword::Tcp4 if rules.v6_in_tcp4 => TCP6_LENGTH_MAX,
            Keyword::Tcp4 => TCP4_LENGTH_MAX,
            Keyword::Tcp6 => TCP6_LENGTH_MAX,
            Keyword::Unknown => V1_LENGTH_MAX,
        }
    }
}

/// Walks over the line byte by byte, so that a refusal names the earliest byte that allows it.
pub(super) fn line(prefix: &[u8], rules: &Rules) -> Result<Head, Stop> {
    let (keyword, text) = keyword(prefix.get(V1_PREFIX.len()..).ok_or(Stop::Incomplete)?)?;
    // spec 2.1 MUST "wait for the CRLF sequence"
    let fields_at = prefix.len() - text.len();
    let length = fields_at + end(keyword, text, rules).map_err(|stop| stop.after(fields_at))?;
    let fields = prefix.get(fields_at + 1..length - 2).unwrap_or_default();
    let block = match keyword {
        // spec 2.1 MUST "ignore anything presented before the CRLF"
        Keyword::Unknown => return Ok(Head::without_addresses(Version::V1, Command::Proxy, length as u32)),
        Keyword::Tcp4 => tcp4(fields, rules),
        Keyword::Tcp6 => tcp6(fields, rules),
    };
    let block = block.map_err(|reason| Stop::At(length, reason))?;
    Ok(Head::of_stream(Version::V1, block, length, length))
}

impl Stop {
    fn after(self, bytes: usize) -> Stop {
        match self {
            Stop::Incomplete => Stop::Incomplete,
            Stop::At(at, reason) => Stop::At(bytes + at, reason),
        }
    }
}

/// The keyword and what follows it.
fn keyword(text: &[u8]) -> Result<(Keyword, &[u8]), Stop> {
    let mut alike = 0;
    for (keyword, name) in Keyword::ALL {
        if let Some(rest) = text.strip_prefix(name) {
            return Ok((keyword, rest));
        }
        alike = alike.max(name.iter().zip(text).take_while(|(a, b)| a == b).count());
    }
    match text.get(alike) {
        None => Err(Stop::Incomplete),
        Some(b' ') if alike == 0 => Err(Stop::At(V1_PREFIX.len() + 1, Reason::BadSpacing)),
        // spec 2.1 MUST "only TCP4 and TCP6 are allowed"
        Some(_) => Err(Stop::At(V1_PREFIX.len() + alike + 1, Reason::BadFamily)),
    }
}

/// Bytes of `text`, which follows the keyword, up to and with the CRLF. The fields are not read yet.
fn end(keyword: Keyword, text: &[u8], rules: &Rules) -> Result<usize, Stop> {
    let left = keyword.length_max(rules) - V1_PREFIX.len() - keyword.name().len();
    let mut previous = 0;
    let mut spaces = 0;
    for (at, &byte) in (1..).zip(text) {
        let refuse = |reason| Err(Stop::At(at, reason));
        match byte {
            b'\n' if previous == b'\r' => return Ok(at),
            // spec 2.1 MUST NOT "tolerate a single CR or LF"
            b'\n' => return refuse(Reason::BadLineEnding),
            _ if previous == b'\r' => return refuse(Reason::BadLineEnding),
            b' ' if at == 1 => {}
            b'\r' if at == 1 && keyword != Keyword::Unknown => return refuse(Reason::BadSpacing),
            b'\r' => {}
            _ if at == 1 => return refuse(Reason::BadFamily),
            _ if keyword == Keyword::Unknown => {}
            b' ' if previous == b' ' || spaces == FIELDS - 1 => return refuse(Reason::BadSpacing),
            b' ' => spaces += 1,
            b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b':' | b'.' => {}
            _ if spaces < PORT_FIELD => return refuse(Reason::BadAddress),
            _ => return refuse(Reason::BadPort),
        }
        if at == left {
            // spec 2.1 SHOULD "declare the line invalid"
            return refuse(Reason::LineTooLong);
        }
        previous = byte;
    }
    Err(Stop::Incomplete)
}

impl Keyword {
    fn name(self) -> &'static [u8] {
        match self {
            Keyword::Tcp4 => b"TCP4",
            Keyword::Tcp6 => b"TCP6",
            Keyword::Unknown => b"UNKNOWN",
        }
    }
}

/// Two addresses and two ports.
const FIELDS: usize = 4;
/// Number of the first port among the fields, from 0.
const PORT_FIELD: usize = 2;

fn tcp4(fields: &[u8], rules: &Rules) -> Result<Block, Reason> {
    let [source, destination, source_port, destination_port] = split(fields)?;
    let source = v4_or_mapped(source, rules)?;
    let destination = v4_or_mapped(destination, rules)?;
    let ports = [port(source_port)?, port(destination_port)?];
    Ok(match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Block::Inet(Pair::new(source.octets(), destination.octets(), ports))
        }
        _ => Block::Inet6(Pair::new(mapped(source).octets(), mapped(destination).octets(), ports)),
    })
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn tcp6(fields: &[u8], rules: &Rules) -> Result<Block, Reason> {
    let [source, destination, source_port, destination_port] = split(fields)?;
    let source = v6_or_mapped(source, rules)?;
    let destination = v6_or_mapped(destination, rules)?;
    let ports = [port(source_port)?, port(destination_port)?];
    Ok(Block::Inet6(Pair::new(source.octets(), destination.octets(), ports)))
}

/// Exactly four fields, none of them empty.
fn split(fields: &[u8]) -> Result<[&[u8]; FIELDS], Reason> {
    let mut parts = fields.split(|&byte| byte == b' ');
    let mut four = [&fields[..0]; FIELDS];
    for field in &mut four {
        *field = parts.next().filter(|part| !part.is_empty()).ok_or(Reason::BadSpacing)?;
    }
    Ok(four)
}

fn v4_or_mapped(field: &[u8], rules: &Rules) -> Result<IpAddr, Reason> {
    match (v4(field), v6(field)) {
        (Some(address), _) => Ok(address.into()),
        (None, Some(address)) if rules.v6_in_tcp4 => Ok(address.into()),
        (None, Some(_)) => Err(Reason::FamilyMismatch),
        (None, None) => Err(Reason::BadAddress),
    }
}

fn v6_or_mapped(field: &[u8], rules: &Rules) -> Result<Ipv6Addr, Reason> {
    match (v6(field), v4(field)) {
        (Some(address), _) => Ok(address),
        (None, Some(address)) if rules.v4_in_tcp6 => Ok(address.to_ipv6_mapped()),
        (None, Some(_)) => Err(Reason::FamilyMismatch),
        (None, None) => Err(Reason::BadAddress),
    }
}

/// core reads exactly the grammar: no leading zeros in octets, at most four digits a group, `::` for a group or more.
// spec 2.1 MUST "exactly 4 integers"
// spec 2.1 MUST NOT "heading zeroes in addresses"
fn v4(field: &[u8]) -> Option<Ipv4Addr> {
    str::from_utf8(field).ok()?.parse().ok()
}

// spec 2.1 MUST "sets of 4 hexadecimal digits"
// spec 2.1 MUST "number of decoded bits"
fn v6(field: &[u8]) -> Option<Ipv6Addr> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// Plain digits without a leading zero; core alone would allow zeros and a sign.
fn port(field: &[u8]) -> Result<u16, Reason> {
    // spec 2.1 MUST NOT "heading zeroes in the source port"
    // spec 2.1 MUST NOT "heading zeroes in the destination port"
    let plain = matches!(field, [b'0'] | [b'1'..=b'9', ..]);
    let text = str::from_utf8(field).ok().filter(|_| plain).ok_or(Reason::BadPort)?;
    text.parse().map_err(|_| Reason::BadPort)
}

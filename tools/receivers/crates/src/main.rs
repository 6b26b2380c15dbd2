//! Asks a decoder of another project: a line of hexadecimal digits in, a line with the answer out, as
//! `accepts SOURCE DESTINATION` (`none` without addresses), `waits`, `refuses` or `panics`.
//!
//! A decoder has no connection: what it calls incomplete, or has not read to its end, a server would wait for.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::panic;

enum Answer {
    Accepts(String, String),
    Waits,
    Refuses,
}

use Answer::{Accepts, Refuses, Waits};

fn main() {
    let name = std::env::args().nth(1).expect("the name of a crate");
    let decode: fn(&[u8]) -> Answer = match name.as_str() {
        "ppp" => ppp,
        "proxy-header" => proxy_header,
        "proxy-protocol" => proxy_protocol,
        "proxy-protocol-rs" => proxy_protocol_rs,
        _ => panic!("{name} is none of the crates"),
    };
    panic::set_hook(Box::new(|_| ()));
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let bytes = bytes(&line.expect("standard input is text"));
        let said = match panic::catch_unwind(|| decode(&bytes)) {
            Ok(Accepts(source, destination)) => format!("accepts {source} {destination}"),
            Ok(Waits) => "waits".into(),
            Ok(Refuses) => "refuses".into(),
            Err(_) => "panics".into(),
        };
        writeln!(out, "{said}").expect("standard output takes a line");
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(pair).collect()
}

fn none() -> Answer {
    Accepts("none".into(), "none".into())
}

fn pair(source: impl Display, destination: impl Display) -> Answer {
    Accepts(source.to_string(), destination.to_string())
}

/// A UNIX name in the vectors' spelling: a path ends before its first NUL, an abstract name before those that pad it.
fn unix(name: &[u8]) -> String {
    let (mark, name) = match name {
        [0, rest @ ..] if rest.iter().any(|&byte| byte != 0) => ("@", without_zeros(rest)),
        _ => ("", name.split(|&byte| byte == 0).next().unwrap_or_default()),
    };
    let escaped = name.iter().map(|&byte| match byte {
        b'\\' => "\\x5c".into(),
        0x21..=0x7e => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("unix:{mark}{}", escaped.collect::<String>())
}

fn without_zeros(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &name[..end]
}

fn ppp(bytes: &[u8]) -> Answer {
    use ppp::{HeaderResult, PartialResult, v1, v2};
    let v4 = |it: ppp::v1::IPv4| {
        pair(
            SocketAddr::from((it.source_address, it.source_port)),
            SocketAddr::from((it.destination_address, it.destination_port)),
        )
    };
    let v6 = |it: ppp::v1::IPv6| {
        pair(
            SocketAddr::from((it.source_address, it.source_port)),
            SocketAddr::from((it.destination_address, it.destination_port)),
        )
    };
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return Waits;
    }
    match result {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(it) => v4(it),
            v1::Addresses::Tcp6(it) => v6(it),
            v1::Addresses::Unknown => none(),
        },
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => none(),
        HeaderResult::V2(Ok(header)) => match header.addresses {
            v2::Addresses::IPv4(it) => v4(it),
            v2::Addresses::IPv6(it) => v6(it),
            v2::Addresses::Unix(it) => pair(unix(&it.source), unix(&it.destination)),
            v2::Addresses::Unspecified => none(),
        },
        _ => Refuses,
    }
}

fn proxy_header(bytes: &[u8]) -> Answer {
    use proxy_header::{Error, ProxyHeader};
    match ProxyHeader::parse(bytes, Default::default()) {
        Ok((header, _)) => header.proxied_address().map_or_else(none, |it| pair(it.source, it.destination)),
        Err(Error::BufferTooShort) => Waits,
        Err(_) => Refuses,
    }
}

fn proxy_protocol(mut bytes: &[u8]) -> Answer {
    use proxy_protocol::{ParseError, ProxyHeader, version1, version2};
    match proxy_protocol::parse(&mut bytes) {
        Ok(ProxyHeader::Version1 { addresses }) => match addresses {
            version1::ProxyAddresses::Ipv4 { source, destination } => pair(source, destination),
            version1::ProxyAddresses::Ipv6 { source, destination } => pair(source, destination),
            version1::ProxyAddresses::Unknown => none(),
        },
        Ok(ProxyHeader::Version2 { command: version2::ProxyCommand::Local, .. }) => none(),
        Ok(ProxyHeader::Version2 { addresses, .. }) => match addresses {
            version2::ProxyAddresses::Ipv4 { source, destination } => pair(source, destination),
            version2::ProxyAddresses::Ipv6 { source, destination } => pair(source, destination),
            version2::ProxyAddresses::Unix { source, destination } => pair(unix(&source), unix(&destination)),
            version2::ProxyAddresses::Unspec => none(),
        },
        Ok(_) => none(),
        Err(ParseError::Version1 { source: version1::ParseError::UnexpectedEof }) => Waits,
        Err(ParseError::Version2 { source: version2::ParseError::UnexpectedEof }) => Waits,
        Err(_) => Refuses,
    }
}

fn proxy_protocol_rs(bytes: &[u8]) -> Answer {
    use proxy_protocol_rs::error::ParseError;
    use proxy_protocol_rs::types::ProxyAddress;
    let shown = |it: Option<ProxyAddress>| match it {
        Some(ProxyAddress::Inet(socket)) => socket.to_string(),
        Some(ProxyAddress::Unix(name)) => unix(&name),
        _ => "none".into(),
    };
    match proxy_protocol_rs::parse::parse(bytes) {
        Ok((info, _)) => Accepts(shown(info.source), shown(info.destination)),
        Err(ParseError::Incomplete) => Waits,
        Err(_) => Refuses,
    }
}

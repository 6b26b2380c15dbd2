//! A naive decoder, written line by line from the rules of the wire format: the judge of the real one.
//!
//! Every prefix is judged anew, byte after byte, in the order in which the rules stand in the specification. Nothing
//! is shared with `proxy/src/proxy`, nothing is clever, and everything allocates.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the decoder may take.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub header_limit: usize,
    pub v4_in_tcp6: bool,
    pub v6_in_tcp4: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { header_limit: 4096, v4_in_tcp6: false, v6_in_tcp4: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Complete { length: usize, fields: Fields },
    Incomplete { need: usize },
    Absent { at: usize },
    Invalid { reason: &'static str, at: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    pub version: &'static str,
    pub command: &'static str,
    pub family: &'static str,
    pub transport: &'static str,
    pub source: Endpoint,
    pub destination: Endpoint,
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    None,
    Ip(SocketAddr),
    Unix(Vec<u8>),
}

/// Judges all prefixes of `bytes` from the shortest on; the first verdict that is not "incomplete" stands.
pub fn decode(bytes: &[u8], rules: Rules) -> Verdict {
    if bytes.is_empty() {
        return Verdict::Incomplete { need: 1 };
    }
    match bytes[0] {
        b'P' => decode_v1(bytes, rules),
        0x0d => decode_v2(bytes, rules),
        _ => Verdict::Absent { at: 1 },
    }
}

// Version 1 --------------------------------------------------------------------------------------------------------

const KEYWORDS: [&str; 3] = ["TCP4", "TCP6", "UNKNOWN"];

fn decode_v1(bytes: &[u8], rules: Rules) -> Verdict {
    for at in 1..=bytes.len() {
        match judge_v1(&bytes[..at], rules) {
            V1::Fine => continue,
            V1::Absent => return Verdict::Absent { at },
            V1::Refused(reason) => return Verdict::Invalid { reason, at },
            V1::End(fields) => return Verdict::Complete { length: at, fields },
        }
    }
    Verdict::Incomplete { need: bytes.len() + 1 }
}

enum V1 {
    Fine,
    Absent,
    Refused(&'static str),
    End(Fields),
}

/// Judges the last byte of `line`, all before it having passed.
fn judge_v1(line: &[u8], rules: Rules) -> V1 {
    let at = line.len();
    let byte = line[at - 1];
    if at <= 6 {
        return if byte == b"PROXY "[at - 1] { V1::Fine } else { V1::Absent };
    }
    let after_prefix = &line[6..];
    for keyword in KEYWORDS {
        if keyword.as_bytes().starts_with(after_prefix) {
            return V1::Fine;
        }
    }
    let mut keyword = "";
    for candidate in KEYWORDS {
        if after_prefix.starts_with(candidate.as_bytes()) {
            keyword = candidate;
        }
    }
    if keyword.is_empty() {
        return V1::Refused(if at == 7 && byte == b' ' { "bad-spacing" } else { "bad-family" });
    }
    let tcp = keyword != "UNKNOWN";

    // The byte after the keyword.
    let keyword_end = 6 + keyword.len();
    if at == keyword_end + 1 {
        if byte == b'\n' {
            return V1::Refused("bad-line-ending");
        }
        if byte == b'\r' {
            return if tcp { V1::Refused("bad-spacing") } else { V1::Fine };
        }
        return if byte == b' ' { V1::Fine } else { V1::Refused("bad-family") };
    }

    // Any later byte.
    let before = line[at - 2];
    if byte == b'\n' && before != b'\r' {
        return V1::Refused("bad-line-ending");
    }
    if before == b'\r' && byte != b'\n' {
        return V1::Refused("bad-line-ending");
    }
    if byte == b'\n' {
        return if tcp { judge_v1_fields(line, keyword, rules) } else { V1::End(unknown()) };
    }
    if tcp {
        let spaces = line[keyword_end + 1..].iter().filter(|&&byte| byte == b' ').count();
        if byte == b' ' && (before == b' ' || spaces == 4) {
            return V1::Refused("bad-spacing");
        }
        let allowed = byte.is_ascii_digit()
            || (b'a'..=b'f').contains(&byte)
            || (b'A'..=b'F').contains(&byte)
            || byte == b':'
            || byte == b'.'
            || byte == b' '
            || byte == b'\r';
        if !allowed {
            return V1::Refused(if spaces < 2 { "bad-address" } else { "bad-port" });
        }
    }
    let longest = match keyword {
        "TCP4" if !rules.v6_in_tcp4 => 56,
        "TCP4" | "TCP6" => 104,
        _ => 107,
    };
    if at == longest { V1::Refused("line-too-long") } else { V1::Fine }
}

fn unknown() -> Fields {
    Fields {
        version: "v1",
        command: "PROXY",
        family: "UNSPEC",
        transport: "UNSPEC",
        source: Endpoint::None,
        destination: Endpoint::None,
        tlvs: Vec::new(),
    }
}

/// Judges a line that ends in CRLF, its fields from left to right.
fn judge_v1_fields(line: &[u8], keyword: &str, rules: Rules) -> V1 {
    let text = &line[6 + keyword.len() + 1..line.len() - 2];
    let fields: Vec<&[u8]> = text.split(|&byte| byte == b' ').collect();
    if fields.len() != 4 || fields.iter().any(|field| field.is_empty()) {
        return V1::Refused("bad-spacing");
    }
    let source = match v1_address(fields[0], keyword, rules) {
        Ok(address) => address,
        Err(reason) => return V1::Refused(reason),
    };
    let destination = match v1_address(fields[1], keyword, rules) {
        Ok(address) => address,
        Err(reason) => return V1::Refused(reason),
    };
    let Some(source_port) = port(fields[2]) else { return V1::Refused("bad-port") };
    let Some(destination_port) = port(fields[3]) else { return V1::Refused("bad-port") };
    let all_four = keyword == "TCP4" && source.is_ipv4() && destination.is_ipv4();
    let widen = |address| match address {
        IpAddr::V4(four) if !all_four => IpAddr::V6(mapped(four.octets())),
        other => other,
    };
    V1::End(Fields {
        version: "v1",
        command: "PROXY",
        family: if all_four { "INET" } else { "INET6" },
        transport: "STREAM",
        source: Endpoint::Ip(SocketAddr::new(widen(source), source_port)),
        destination: Endpoint::Ip(SocketAddr::new(widen(destination), destination_port)),
        tlvs: Vec::new(),
    })
}

fn v1_address(text: &[u8], keyword: &str, rules: Rules) -> Result<IpAddr, &'static str> {
    match (keyword, ipv4(text), ipv6(text)) {
        ("TCP4", Some(four), _) => Ok(IpAddr::V4(Ipv4Addr::from(four))),
        ("TCP6", _, Some(six)) => Ok(IpAddr::V6(Ipv6Addr::from(six))),
        ("TCP6", Some(four), None) if rules.v4_in_tcp6 => Ok(IpAddr::V6(mapped(four))),
        ("TCP4", None, Some(six)) if rules.v6_in_tcp4 => Ok(IpAddr::V6(Ipv6Addr::from(six))),
        (_, None, None) => Err("bad-address"),
        _ => Err("family-mismatch"),
    }
}

fn mapped([a, b, c, d]: [u8; 4]) -> Ipv6Addr {
    Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
}

/// Decimal without sign and leading zero, at most `digits` digits and `max`.
fn decimal(text: &[u8], digits: usize, max: u32) -> Option<u32> {
    if text.is_empty() || text.len() > digits || (text.len() > 1 && text[0] == b'0') {
        return None;
    }
    let mut value = 0;
    for &byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u32::from(byte - b'0');
    }
    if value <= max { Some(value) } else { None }
}

fn port(text: &[u8]) -> Option<u16> {
    Some(decimal(text, 5, 65535)? as u16)
}

fn ipv4(text: &[u8]) -> Option<[u8; 4]> {
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b'.').collect();
    if parts.len() != 4 {
        return None;
    }
    let mut octets = [0; 4];
    for index in 0..4 {
        octets[index] = decimal(parts[index], 3, 255)? as u8;
    }
    Some(octets)
}

fn ipv6(text: &[u8]) -> Option<[u8; 16]> {
    let mut double = None;
    for index in 1..text.len() {
        if &text[index - 1..=index] == b"::" {
            if double.is_some() {
                return None;
            }
            double = Some(index - 1);
        }
    }
    let bytes = match double {
        None => groups(text, true)?,
        Some(index) => {
            let mut head = groups_or_nothing(&text[..index], false)?;
            let tail = groups_or_nothing(&text[index + 2..], true)?;
            if head.len() + tail.len() > 14 {
                return None; // "::" stands for at least one group
            }
            head.resize(16 - tail.len(), 0);
            head.extend(tail);
            head
        }
    };
    bytes.try_into().ok()
}

fn groups_or_nothing(text: &[u8], last: bool) -> Option<Vec<u8>> {
    if text.is_empty() { Some(Vec::new()) } else { groups(text, last) }
}

/// Groups between single colons; where `last`, the last of them may be a dotted quad.
fn groups(text: &[u8], last: bool) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b':').collect();
    let mut bytes = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if last && index == parts.len() - 1 && part.contains(&b'.') {
            bytes.extend(ipv4(part)?);
            continue;
        }
        if part.is_empty() || part.len() > 4 {
            return None;
        }
        let mut group: u16 = 0;
        for &byte in *part {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => return None,
            };
            group = group * 16 + u16::from(digit);
        }
        bytes.push((group >> 8) as u8);
        bytes.push(group as u8);
    }
    Some(bytes)
}

// Version 2 --------------------------------------------------------------------------------------------------------

const SIGNATURE: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

fn decode_v2(bytes: &[u8], rules: Rules) -> Verdict {
    for at in 1..=bytes.len().min(16) {
        let byte = bytes[at - 1];
        if at <= 12 {
            if byte != SIGNATURE[at - 1] {
                return Verdict::Absent { at };
            }
            continue;
        }
        if let Some(reason) = judge_v2_fixed(&bytes[..at], rules) {
            return Verdict::Invalid { reason, at };
        }
    }
    if bytes.len() < 16 {
        return Verdict::Incomplete { need: 16 };
    }
    let length = 16 + usize::from(bytes[14]) * 256 + usize::from(bytes[15]);
    if bytes.len() < length {
        return Verdict::Incomplete { need: length };
    }
    let header = &bytes[..length];
    let judged = if is_local(header) { judge_local(header) } else { judge_proxy(header) };
    match judged {
        Ok(fields) => Verdict::Complete { length, fields },
        Err(reason) => Verdict::Invalid { reason, at: length },
    }
}

fn is_local(header: &[u8]) -> bool {
    header[12] == 0x20
}

/// Judges byte 13, 14, 15 or 16, whichever is the last one.
fn judge_v2_fixed(start: &[u8], rules: Rules) -> Option<&'static str> {
    let byte = start[start.len() - 1];
    let (family, transport) = if start.len() >= 14 { (start[13] >> 4, start[13] & 15) } else { (0, 0) };
    match start.len() {
        13 if byte >> 4 != 2 => Some("bad-version"),
        13 if byte & 15 > 1 => Some("bad-command"),
        14 if is_local(start) => None,
        14 if family > 3 || byte == 0x01 || byte == 0x02 => Some("bad-family"),
        14 if transport > 2 || byte == 0x10 || byte == 0x20 || byte == 0x30 => Some("bad-transport"),
        15 if 16 + 256 * usize::from(byte) > rules.header_limit => Some("header-too-long"),
        16 => {
            let length = usize::from(start[14]) * 256 + usize::from(byte);
            if 16 + length > rules.header_limit {
                Some("header-too-long")
            } else if !is_local(start) && length < block(family) {
                Some("address-truncated")
            } else {
                None
            }
        }
        _ => None,
    }
}

/// The size of a family's address block.
fn block(family: u8) -> usize {
    match family {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => unreachable!("family {family} has no block"),
    }
}

/// A LOCAL header: only a checksum is looked for, at two places.
fn judge_local(header: &[u8]) -> Result<Fields, &'static str> {
    let family = header[13] >> 4;
    let mut places = vec![16];
    if family <= 3 && 16 + block(family) <= header.len() {
        places.push(16 + block(family));
    }
    let mut candidates = 0;
    let mut matches = 0;
    for place in places {
        let Ok(chain) = chain(&header[place..]) else { continue };
        let checksums: Vec<&Item> = chain.iter().filter(|(_, kind, _)| *kind == 0x03).collect();
        if checksums.len() != 1 || checksums[0].2.len() != 4 {
            continue;
        }
        candidates += 1;
        let (offset, _, value) = checksums[0];
        if checksum(header, place + offset) == value[..] {
            matches += 1;
        }
    }
    if candidates > 0 && matches == 0 {
        return Err("bad-checksum");
    }
    Ok(Fields { version: "v2", command: "LOCAL", ..unknown() })
}

fn judge_proxy(header: &[u8]) -> Result<Fields, &'static str> {
    let family = header[13] >> 4;
    let start = 16 + block(family);
    let tlvs = match chain(&header[start..]) {
        Err(_) if family == 0 => Vec::new(),
        _ => judge_tlvs(header, start)?,
    };
    let (source, destination) = endpoints(family, &header[16..start]);
    Ok(Fields {
        version: "v2",
        command: "PROXY",
        family: ["UNSPEC", "INET", "INET6", "UNIX"][usize::from(family)],
        transport: ["UNSPEC", "STREAM", "DGRAM"][usize::from(header[13] & 15)],
        source,
        destination,
        tlvs,
    })
}

fn endpoints(family: u8, block: &[u8]) -> (Endpoint, Endpoint) {
    let port = |at: usize| u16::from(block[at]) * 256 + u16::from(block[at + 1]);
    let four = |at: usize| IpAddr::V4(Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]));
    let six = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&block[at..at + 16]).expect("16 bytes")));
    let ip = |address, port| Endpoint::Ip(SocketAddr::new(address, port));
    match family {
        0 => (Endpoint::None, Endpoint::None),
        1 => (ip(four(0), port(8)), ip(four(4), port(10))),
        2 => (ip(six(0), port(32)), ip(six(16), port(34))),
        _ => (Endpoint::Unix(unix(&block[..108])), Endpoint::Unix(unix(&block[108..]))),
    }
}

/// A path ends before the first NUL. A name that starts with NUL is abstract and ends before the NULs that pad it.
fn unix(field: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    for &byte in field {
        if byte == 0 && field[0] != 0 {
            break;
        }
        name.push(byte);
    }
    while name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// Offset of the value, type, value.
type Item = (usize, u8, Vec<u8>);

/// Cuts a chain into its items; fails unless it ends exactly at the end of `bytes`.
fn chain(bytes: &[u8]) -> Result<Vec<Item>, &'static str> {
    let mut items = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (offset, kind, value) = first_tlv(bytes, at)?;
        at = offset + value.len();
        items.push((offset, kind, value));
    }
    Ok(items)
}

fn first_tlv(bytes: &[u8], at: usize) -> Result<Item, &'static str> {
    if bytes.len() - at < 3 {
        return Err("tlv-truncated");
    }
    let length = usize::from(bytes[at + 1]) * 256 + usize::from(bytes[at + 2]);
    if bytes.len() - at - 3 < length {
        return Err("tlv-truncated");
    }
    Ok((at + 3, bytes[at], bytes[at + 3..at + 3 + length].to_vec()))
}

/// Judges the TLVs from `start` on in wire order, each for truncation, repetition and content; then the checksum.
fn judge_tlvs(header: &[u8], start: usize) -> Result<Vec<(u8, Vec<u8>)>, &'static str> {
    let mut seen: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut checksum_at = None;
    let mut at = start;
    while at < header.len() {
        let (offset, kind, value) = first_tlv(header, at)?;
        let once = kind == 0x02 || kind == 0x03 || kind == 0x05 || kind == 0x20;
        if once && seen.iter().any(|(before, _)| *before == kind) {
            return Err("duplicate-tlv");
        }
        match kind {
            0x03 if value.len() != 4 => return Err("bad-tlv"),
            0x05 if value.len() > 128 => return Err("bad-tlv"),
            0x20 => judge_ssl(&value)?,
            _ => {}
        }
        if kind == 0x03 {
            checksum_at = Some(offset);
        }
        at = offset + value.len();
        seen.push((kind, value));
    }
    if let Some(offset) = checksum_at
        && checksum(header, offset) != header[offset..offset + 4]
    {
        return Err("bad-checksum");
    }
    Ok(seen)
}

fn judge_ssl(value: &[u8]) -> Result<(), &'static str> {
    if value.len() < 5 {
        return Err("bad-tlv");
    }
    let mut seen = Vec::new();
    let mut at = 5;
    while at < value.len() {
        let (offset, kind, inner) = first_tlv(value, at)?;
        if (0x21..=0x28).contains(&kind) && seen.contains(&kind) {
            return Err("duplicate-tlv");
        }
        seen.push(kind);
        at = offset + inner.len();
    }
    Ok(())
}

/// CRC32C of the header with the four bytes at `offset` read as zero, as it stands on the wire. Bit by bit.
fn checksum(header: &[u8], offset: usize) -> [u8; 4] {
    let mut crc: u32 = 0xffff_ffff;
    for (index, &byte) in header.iter().enumerate() {
        let byte = if (offset..offset + 4).contains(&index) { 0 } else { byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (crc ^ 0xffff_ffff).to_be_bytes()
}

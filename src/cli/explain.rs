//! The annotated dump of `vestibule decode --explain`: every field with its place, its bytes and what they mean.
//!
//! A place is the number of a byte in the stream, counted from 1, as in every verdict. The dump goes as far as the
//! bytes do and judges nothing: it shows fields of a refused header too, and leaves the last word to the decoder.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use vestibule::proxy::{self, Decoded, Diagnosis, Escaped, Rules, V2_FIXED, kind};

use super::decode::unix;
use super::hex;

/// The dump of one input, some lines of text.
pub fn explain(input: &[u8], rules: &Rules) -> String {
    let verdict = proxy::decode(input, rules);
    let mut dump = Dump { text: String::new(), input, at: 0 };
    if !matches!(verdict, Decoded::Absent { .. }) && !input.is_empty() {
        if input[0] == b'P' { version_1(&mut dump) } else { version_2(&mut dump) }
    }
    if let Decoded::Complete(header) = &verdict {
        dump.at = header.len();
        dump.payload();
    }
    conclude(&mut dump.text, &verdict, input);
    dump.text
}

/// Bytes on a line of the dump; longer fields take more lines, and `*` stands for lines like the one before.
const ROW: usize = 12;
/// Bytes of a payload or of unknown bytes that are shown.
const EXCERPT: usize = 16;

/// A cursor over the input that writes a line for every field it passes.
struct Dump<'a> {
    text: String,
    input: &'a [u8],
    at: usize,
}

impl<'a> Dump<'a> {
    /// The next field of up to `length` bytes; `meaning` is asked only if it is whole.
    fn field(&mut self, length: usize, name: &str, meaning: impl FnOnce(&'a [u8]) -> String) {
        let bytes = self.take(length);
        let meaning = match bytes.len() {
            0 if length > 0 => return,
            seen if seen < length => format!("(cut: {seen} of {length} bytes)"),
            _ => meaning(bytes),
        };
        self.line(bytes, name, &meaning);
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let rest = &self.input[self.at.min(self.input.len())..];
        let bytes = &rest[..length.min(rest.len())];
        self.at += bytes.len();
        bytes
    }

    /// Writes the line for `bytes`, which end at the cursor.
    fn line(&mut self, bytes: &[u8], name: &str, meaning: &str) {
        let first = self.at - bytes.len() + 1;
        let place = if bytes.len() > 1 { format!("{first}-{}", self.at) } else { first.to_string() };
        let mut rows = bytes.chunks(ROW);
        let mut last = rows.next().unwrap_or_default();
        let line = format!("{place:>11}  {:<35}  {name:<16}  {meaning}", hex::show(last, " "));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
        let mut starred = false;
        for row in rows {
            let again = row == last;
            if !again {
                writeln!(self.text, "{:11}  {}", "", hex::show(row, " ")).expect("a string takes everything");
            } else if !starred {
                writeln!(self.text, "{:11}  *", "").expect("a string takes everything");
            }
            (last, starred) = (row, again);
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.input[self.at.min(self.input.len())..]
    }

    fn payload(&mut self) {
        let rest = self.rest();
        if !rest.is_empty() {
            let excerpt = &rest[..rest.len().min(EXCERPT)];
            let more = if rest.len() > EXCERPT { " .." } else { "" };
            self.at += excerpt.len();
            self.line(excerpt, "payload", &format!("{}{more}", Escaped(excerpt)));
        }
    }
}

fn version_1(dump: &mut Dump<'_>) {
    let line = match dump.input.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => &dump.input[..end],
        None => dump.input,
    };
    let names = ["signature", "family", "source", "destination", "source port", "destination port"];
    let unknown = line.starts_with(b"PROXY UNKNOWN");
    for (index, word) in line.split_inclusive(|&byte| byte == b' ').enumerate() {
        let name = names.get(index).filter(|_| !unknown || index < 2).copied().unwrap_or("");
        let meaning = Escaped(word.strip_suffix(b" ").unwrap_or(word)).to_string();
        let note = match name {
            "signature" if word == b"PROXY " => ": version 1",
            "family" if unknown => ": the socket's own addresses count",
            "" if unknown => ": ignored",
            _ => "",
        };
        dump.field(word.len(), name, |_| format!("{meaning}{note}"));
    }
    let end = dump.rest().len().min(2);
    dump.field(end, "line end", |_| "CRLF".into());
}

fn version_2(dump: &mut Dump<'_>) {
    dump.field(proxy::V2_SIGNATURE.len(), "signature", |_| "version 2's".into());
    dump.field(1, "ver_cmd", |byte| ver_cmd(byte[0]));
    dump.field(1, "family", |byte| family_and_transport(byte[0]));
    dump.field(2, "length", |bytes| {
        let length = number(bytes);
        format!("{length} bytes follow: the header has {}", V2_FIXED as u64 + length)
    });
    let Some(&[.., ver_cmd, family, high, low]) = dump.input.first_chunk::<V2_FIXED>() else { return };
    let end = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if ver_cmd & 0x0f == 0 {
        return local(dump, end, family >> 4);
    }
    let has_layout = family >> 4 != 0 || is_chain(dump.rest().get(..end - V2_FIXED).unwrap_or_default());
    if has_layout && V2_FIXED + block_length(family >> 4) <= end {
        addresses(dump, family >> 4);
        tlvs(dump, end, 0);
    }
    opaque(dump, end, "no whole TLV");
}

/// Nothing in a LOCAL header counts, but if it holds TLVs, behind addresses or without, they are worth seeing.
fn local(dump: &mut Dump<'_>, end: usize, family: u8) {
    let body = dump.rest().get(..end - V2_FIXED).unwrap_or_default();
    let behind_block = body.get(block_length(family)..).unwrap_or_default();
    if is_chain(body) {
        tlvs(dump, end, 0);
    } else if is_chain(behind_block) {
        addresses(dump, family);
        tlvs(dump, end, 0);
    }
    opaque(dump, end, "skipped: LOCAL has no addresses");
}

/// Whether the bytes are TLVs without a rest.
fn is_chain(mut bytes: &[u8]) -> bool {
    while let [_, high, low, ref rest @ ..] = *bytes {
        let Some(behind) = rest.get(usize::from(u16::from_be_bytes([high, low]))..) else { return false };
        bytes = behind;
    }
    bytes.is_empty()
}

/// Bytes of a family's address block; 0 for families without one.
fn block_length(family: u8) -> usize {
    match family {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    }
}

/// What is left of the header.
fn opaque(dump: &mut Dump<'_>, end: usize, meaning: &str) {
    let left = end.saturating_sub(dump.at).min(dump.rest().len());
    if left > 0 {
        dump.field(left, "opaque", |_| meaning.into());
    }
}

fn ver_cmd(byte: u8) -> String {
    let command = match byte & 0x0f {
        0 => "LOCAL: the proxy's own connection, the socket's own addresses count",
        1 => "PROXY: on behalf of a client",
        _ => "undefined",
    };
    format!("version {}, command {command}", byte >> 4)
}

fn family_and_transport(byte: u8) -> String {
    let family = ["UNSPEC", "INET", "INET6", "UNIX"].get(usize::from(byte >> 4)).unwrap_or(&"undefined");
    let transport = ["UNSPEC", "STREAM", "DGRAM"].get(usize::from(byte & 0x0f)).unwrap_or(&"undefined");
    format!("{family}, transport {transport}")
}

fn addresses(dump: &mut Dump<'_>, family: u8) {
    match family {
        1 => {
            dump.field(4, "source", ipv4);
            dump.field(4, "destination", ipv4);
        }
        2 => {
            dump.field(16, "source", ipv6);
            dump.field(16, "destination", ipv6);
        }
        3 => {
            dump.field(108, "source", unix_name);
            dump.field(108, "destination", unix_name);
            return;
        }
        _ => return,
    }
    dump.field(2, "source port", |bytes| number(bytes).to_string());
    dump.field(2, "destination port", |bytes| number(bytes).to_string());
}

fn ipv4(bytes: &[u8]) -> String {
    <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from).expect("a field is whole").to_string()
}

fn ipv6(bytes: &[u8]) -> String {
    let address = <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).expect("a field is whole");
    match address.to_ipv4_mapped() {
        Some(mapped) => format!("{address}: IPv4-mapped, means {mapped}"),
        None => address.to_string(),
    }
}

fn unix_name(bytes: &[u8]) -> String {
    let end = match bytes[0] {
        0 => bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1),
        _ => bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()),
    };
    unix(&bytes[..end])
}

/// The TLVs up to `end`; `depth` 1 is inside SSL.
fn tlvs(dump: &mut Dump<'_>, end: usize, depth: usize) {
    let end = end.min(dump.input.len());
    while let [kind, high, low, ..] = dump.input[dump.at.min(end)..end] {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let left = end - dump.at - 3;
        let overrun = if length > left { format!(", but {left} are left") } else { String::new() };
        let indent = if depth == 0 { "TLV" } else { "  sub-TLV" };
        let name = if depth == 0 { tlv_name(kind) } else { sub_tlv_name(kind) };
        dump.field(3, indent, |_| format!("{name} (0x{kind:02x}), {length} bytes{overrun}"));
        if length > left {
            return;
        }
        if depth == 0 && kind == kind::SSL && length >= 5 {
            let inner_end = dump.at + length;
            dump.field(1, "  client", |byte| ssl_client(byte[0]));
            dump.field(4, "  verify", |bytes| ssl_verify(number(bytes)));
            tlvs(dump, inner_end, 1);
            opaque(dump, inner_end, "no whole sub-TLV");
        } else {
            let meaning = tlv_meaning(dump, kind, length, depth);
            let name = if depth == 0 { "  value" } else { "    value" };
            if length > 0 {
                dump.field(length, name, |_| meaning);
            }
        }
    }
}

fn tlv_name(kind: u8) -> &'static str {
    match kind {
        kind::ALPN => "ALPN",
        kind::AUTHORITY => "AUTHORITY",
        kind::CRC32C => "CRC32C",
        kind::NOOP => "NOOP",
        kind::UNIQUE_ID => "UNIQUE_ID",
        kind::SSL => "SSL",
        kind::NETNS => "NETNS",
        kind::GCP_PSC_CONNECTION_ID => "Google Cloud PSC connection id",
        kind::ALIBABA => "Alibaba Cloud",
        kind::AWS => "AWS",
        kind::AZURE => "Azure",
        _ => match kind {
            ..0xe0 => "unassigned",
            0xe0..0xf0 => "application specific",
            0xf0..0xf8 => "experimental",
            0xf8.. => "reserved",
        },
    }
}

fn sub_tlv_name(kind: u8) -> &'static str {
    match kind {
        kind::SSL_VERSION => "VERSION",
        kind::SSL_CN => "CN",
        kind::SSL_CIPHER => "CIPHER",
        kind::SSL_SIG_ALG => "SIG_ALG",
        kind::SSL_KEY_ALG => "KEY_ALG",
        kind::SSL_GROUP => "GROUP",
        kind::SSL_SIG_SCHEME => "SIG_SCHEME",
        kind::SSL_CLIENT_CERT => "CLIENT_CERT",
        _ => "unassigned",
    }
}

/// What the next `length` bytes, the value of a TLV, say.
fn tlv_meaning(dump: &Dump<'_>, kind: u8, length: usize, depth: usize) -> String {
    let value = &dump.rest()[..length];
    match (depth, kind) {
        (0, kind::CRC32C) if length == 4 => checksum(dump, number(value) as u32),
        (0, kind::NOOP) => "padding".into(),
        (0, kind::GCP_PSC_CONNECTION_ID) if length == 8 => number(value).to_string(),
        (0, kind::AZURE) => match *value {
            [1, a, b, c, d] => format!("LINKID {}", u32::from_le_bytes([a, b, c, d])),
            _ => "no LINKID".into(),
        },
        (1, kind::SSL_CLIENT_CERT) => "X.509 certificate in DER, not examined".into(),
        _ => Escaped(value).to_string(),
    }
}

/// Compares the checksum at the cursor with the header's own, its four bytes read as zero.
fn checksum(dump: &Dump<'_>, said: u32) -> String {
    let Some(&[.., high, low]) = dump.input.first_chunk::<V2_FIXED>() else { return String::new() };
    let Some(header) = dump.input.get(..V2_FIXED + usize::from(u16::from_be_bytes([high, low]))) else {
        return "(the header is not whole)".into();
    };
    let (before, rest) = header.split_at(dump.at);
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), &rest[4..]);
    if sum == said { "matches the header".into() } else { format!("does not match: the header's is {sum:08x}") }
}

fn ssl_client(bits: u8) -> String {
    let names: Vec<&str> = [(0x01, "SSL"), (0x02, "CERT_CONN"), (0x04, "CERT_SESS")]
        .into_iter()
        .filter_map(|(bit, name)| (bits & bit != 0).then_some(name))
        .collect();
    if names.is_empty() { "the client did not come over TLS".into() } else { names.join(", ") }
}

fn ssl_verify(verify: u64) -> String {
    match verify {
        0 => "0: verified, if a certificate was presented".into(),
        _ => format!("{verify}: no certificate was verified"),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The last lines: the verdict, and for what is no header what it is instead.
fn conclude(text: &mut String, verdict: &Decoded<'_>, input: &[u8]) {
    match verdict {
        Decoded::Complete(header) => {
            let twice = begins_header(&input[header.len()..]).then(|| advice(Diagnosis::HeaderTwice));
            writeln!(text, "complete: a header of {} bytes{}", header.len(), twice.unwrap_or_default())
        }
        Decoded::Incomplete { .. } if input.is_empty() => writeln!(text, "incomplete: no byte came"),
        Decoded::Incomplete { need } => {
            writeln!(text, "incomplete: {} bytes are right so far, at least {need} are needed", input.len())
        }
        Decoded::Invalid { reason, at } => writeln!(text, "invalid at byte {at}: {}: {reason}", reason.code()),
        Decoded::Absent { at } => {
            let excerpt = Escaped(&input[..input.len().min(EXCERPT)]);
            writeln!(text, "absent at byte {at}: no PROXY header: {excerpt}{}", advice(proxy::diagnose(input)))
        }
    }
    .expect("a string takes everything");
}

/// A line of its own that names the diagnosis and what to do.
fn advice(diagnosis: Diagnosis) -> String {
    format!("\n{}: {}", diagnosis.code(), diagnosis.advice())
}

/// As a receiver decides that a second header follows: all of the first bytes have to be there.
fn begins_header(bytes: &[u8]) -> bool {
    bytes.starts_with(proxy::V1_PREFIX) || bytes.starts_with(proxy::V2_SIGNATURE)
}

//! The annotated dump of `vestibule decode --explain`: every field with its place, its bytes and what they mean.
//!
//! A place is the number of a byte in the stream, counted from 1, as in every verdict. The dump goes as far as the
//! bytes do and judges nothing: it shows fields of a refused header too, and leaves the last word to the decoder.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use vestibule::proxy::{self, Decoded, Diagnosis, Escaped, Field, Rules, V2_FIXED, What, kind};

use super::decode::unix;
use crate::hex;

/// The dump of one input, some lines of text.
pub fn explain(input: &[u8], rules: &Rules) -> String {
    let verdict = proxy::decode(input, rules);
    let mut dump = Dump { text: String::new(), input, at: 0, is_local: false, family: 0, ssl_client: 0 };
    if !matches!(verdict, Decoded::Absent { .. }) {
        proxy::walk(input, |field| dump.field(field));
    }
    if let Decoded::Complete(header) = &verdict {
        dump.at = header.len();
        dump.payload();
    }
    conclude(&mut dump.text, &verdict, input, rules);
    dump.text
}

/// Bytes on a line of the dump; longer fields take more lines, and `*` stands for lines like the one before.
const ROW: usize = 12;
/// Bytes of a payload or of unknown bytes that are shown.
const EXCERPT: usize = 16;

/// The text under way, and how far in the input it has come.
struct Dump<'a> {
    text: String,
    input: &'a [u8],
    at: usize,
    /// Byte 13's lower half is LOCAL's.
    is_local: bool,
    /// The address family of version 2.
    family: u8,
    /// The bit field of the SSL TLV that is passed.
    ssl_client: u8,
}

impl<'a> Dump<'a> {
    fn field(&mut self, field: Field<'a>) {
        self.at = field.at + field.bytes.len();
        if field.bytes.is_empty() {
            return;
        }
        match field.what {
            What::VersionAndCommand => self.is_local = field.bytes[0] & 0x0f == 0,
            What::FamilyAndTransport => self.family = field.bytes[0] >> 4,
            What::SslClient => self.ssl_client = field.bytes[0],
            _ => {}
        }
        let meaning = match field.is_whole() {
            true => self.meaning(&field),
            false => format!("(cut: {} of {} bytes)", field.bytes.len(), field.length),
        };
        self.line(field.bytes, name(field.what), &meaning);
    }

    fn meaning(&self, field: &Field<'a>) -> String {
        let bytes = field.bytes;
        let is_line = self.input[0] == b'P';
        match field.what {
            What::Signature if !is_line => "version 2's".into(),
            What::Signature if field.word() == b"PROXY" => format!("{}: version 1", Escaped(field.word())),
            What::Keyword if field.word() == b"UNKNOWN" => "UNKNOWN: the socket's own addresses count".into(),
            What::Ignored => format!("{}: ignored", Escaped(field.word())),
            What::LineEnd if bytes == b"\r\n" => "CRLF".into(),
            What::LineEnd => format!("{} alone: a line ends with CRLF", if bytes == b"\r" { "CR" } else { "LF" }),
            what if is_line && (what == What::Signature || what.is_word()) => Escaped(field.word()).to_string(),
            What::VersionAndCommand => ver_cmd(bytes[0]),
            What::FamilyAndTransport => family_and_transport(bytes[0]),
            What::Length => {
                let length = number(bytes);
                format!("{length} bytes follow: the header has {}", V2_FIXED as u64 + length)
            }
            What::Source | What::Destination => address(self.family, bytes),
            What::SourcePort | What::DestinationPort => number(bytes).to_string(),
            What::Tlv { kind, length, left, inside_ssl } => {
                let overrun = if length > left { format!(", but {left} are left") } else { String::new() };
                let name = if inside_ssl { sub_tlv_name(kind) } else { tlv_name(kind) };
                format!("{name} (0x{kind:02x}), {length} bytes{overrun}")
            }
            What::SslClient => ssl_client(bytes[0]),
            What::SslVerify => ssl_verify(number(bytes), self.ssl_client),
            What::Value { kind, inside_ssl } => tlv_meaning(self.input, field.at, kind, bytes, inside_ssl),
            What::Opaque { inside_ssl: true } => "no whole sub-TLV".into(),
            What::Opaque { .. } if self.is_local => "skipped: LOCAL has no addresses".into(),
            What::Opaque { .. } => "no whole TLV".into(),
            _ => Escaped(bytes).to_string(),
        }
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

    fn payload(&mut self) {
        let rest = &self.input[self.at.min(self.input.len())..];
        if !rest.is_empty() {
            let excerpt = &rest[..rest.len().min(EXCERPT)];
            let more = if rest.len() > EXCERPT { " .." } else { "" };
            self.at += excerpt.len();
            self.line(excerpt, "payload", &format!("{}{more}", Escaped(excerpt)));
        }
    }
}

/// The field's name in the dump.
fn name(what: What) -> &'static str {
    match what {
        What::Signature => "signature",
        What::Keyword | What::FamilyAndTransport => "family",
        What::Source => "source",
        What::Destination => "destination",
        What::SourcePort => "source port",
        What::DestinationPort => "destination port",
        What::Extra | What::Ignored => "",
        What::LineEnd => "line end",
        What::VersionAndCommand => "ver_cmd",
        What::Length => "length",
        What::Tlv { inside_ssl: false, .. } => "TLV",
        What::Tlv { .. } => "  sub-TLV",
        What::SslClient => "  client",
        What::SslVerify => "  verify",
        What::Value { inside_ssl: false, .. } => "  value",
        What::Value { .. } => "    value",
        What::Opaque { .. } => "opaque",
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

fn address(family: u8, bytes: &[u8]) -> String {
    match family {
        1 => ipv4(bytes),
        2 => ipv6(bytes),
        _ => unix_name(bytes),
    }
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

/// What the value of a TLV says, which stands behind `at` bytes.
fn tlv_meaning(input: &[u8], at: usize, kind: u8, value: &[u8], inside_ssl: bool) -> String {
    match (inside_ssl, kind) {
        (false, kind::CRC32C) if value.len() == 4 => checksum(input, at, number(value) as u32),
        (false, kind::NOOP) => "padding".into(),
        (false, kind::GCP_PSC_CONNECTION_ID) if value.len() == 8 => number(value).to_string(),
        (false, kind::AZURE) => match *value {
            [1, a, b, c, d] => format!("LINKID {}", u32::from_le_bytes([a, b, c, d])),
            _ => "no LINKID".into(),
        },
        (true, kind::SSL_CLIENT_CERT) => "X.509 certificate in DER, not examined".into(),
        _ => Escaped(value).to_string(),
    }
}

/// Compares the checksum behind `at` bytes with the header's own, its four bytes read as zero.
fn checksum(input: &[u8], at: usize, said: u32) -> String {
    let Some(&[.., high, low]) = input.first_chunk::<V2_FIXED>() else { return String::new() };
    let Some(header) = input.get(..V2_FIXED + usize::from(u16::from_be_bytes([high, low]))) else {
        return "(the header is not whole)".into();
    };
    let (before, rest) = header.split_at(at);
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), &rest[4..]);
    if sum == said { "matches the header".into() } else { format!("does not match: the header's is {sum:08x}") }
}

fn ssl_client(bits: u8) -> String {
    let names: Vec<&str> = [(0x01, "SSL"), (0x02, "CERT_CONN"), (0x04, "CERT_SESS")]
        .into_iter()
        .filter_map(|(bit, name)| (bits & bit != 0).then_some(name))
        .collect();
    if names.is_empty() { "says nothing: the client did not come over TLS".into() } else { names.join(", ") }
}

/// 0 means something only of a certificate, and what the client presented stands in the bits before it.
fn ssl_verify(verify: u64, client: u8) -> String {
    match (verify, client & 0x06 != 0) {
        (0, true) => "0: the client's certificate was verified".into(),
        (0, false) => "0: says nothing, the client presented no certificate".into(),
        _ => format!("{verify}: no certificate was verified"),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The last lines: the verdict, and for what is no header what it is instead.
fn conclude(text: &mut String, verdict: &Decoded<'_>, input: &[u8], rules: &Rules) {
    match verdict {
        Decoded::Complete(header) => {
            let twice = proxy::starts_like_header(&input[header.len()..]).then(|| advice(Diagnosis::HeaderTwice));
            writeln!(text, "complete: a header of {} bytes{}", header.len(), twice.unwrap_or_default())
        }
        Decoded::Incomplete { .. } if input.is_empty() => writeln!(text, "incomplete: no byte came"),
        Decoded::Incomplete { need } => {
            let known = proxy::diagnose_header(input, rules).map(advice).unwrap_or_default();
            writeln!(text, "incomplete: {} bytes are valid so far, at least {need} are needed{known}", input.len())
        }
        Decoded::Invalid { reason, at } => {
            let known = proxy::diagnose_header(input, rules).map(advice).unwrap_or_default();
            writeln!(text, "invalid at byte {at}: {}: {reason}{known}", reason.code())
        }
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

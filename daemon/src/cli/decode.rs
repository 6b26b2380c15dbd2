//! `vestibule decode`: says what the decoder makes of bytes, as JSON or for a human.

use std::io::{BufRead, Read, Write};
use std::process::ExitCode;

use serde::Serialize;
use vestibule::proxy::{self, Addresses, Command, Decoded, Escaped, Family, Header, Rules, Transport, Version};

use super::explain;
use crate::daemon::Error;
use crate::hex;

/// Decode a PROXY protocol header from standard input
///
/// Prints one JSON line: the verdict (complete, incomplete, absent or invalid), its length in bytes (of a complete
/// header; of what was seen of an incomplete one; else the number of the byte, from 1, that decided), the reason of a
/// refusal, and what a complete header conveys. Bytes behind the header are not looked at. The exit code is 0 if every
/// input was a complete header, else 1.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Read hexadecimal text instead, one input a line, and answer each with one line
    ///
    /// Between the digits may stand white space, `:`, `-`, `,` and `0x`. A line with backslashes is text with escapes such
    /// as `\x0d` and `\r`; of a line of the log counts what stands behind `first=`.
    #[arg(long)]
    hex: bool,

    /// Print an annotated dump for a human instead of JSON, or what the bytes are if they are no header
    #[arg(long)]
    explain: bool,

    /// Refuse version 2 headers of more bytes, as the setting `header_limit` does
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(232..=65551), default_value = "4096")]
    header_limit: u32,

    /// Accept IPv4 text under TCP6, as the setting `haproxy_v4_in_tcp6 = map` does
    #[arg(long)]
    v4_in_tcp6: bool,

    /// Accept IPv6 text under TCP4, as the setting `haproxy_v6_in_tcp4 = map` does
    #[arg(long)]
    v6_in_tcp4: bool,
}

const EXAMPLES: &str = "\
Examples:
  printf 'PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\\r\\n' | vestibule decode
  echo 0d0a0d0a000d0a515549540a 2111000c c6336407 c0000201 1388 008f |
      vestibule decode --hex --explain
  journalctl -u vestibule | grep first= | vestibule decode --hex --explain
  vestibule encode --v2 --local | vestibule decode
  jq -r .hex tests/data/vectors.jsonl | vestibule decode --hex";

/// Longest line of `--hex` in bytes: the longest header, with room for a space after every digit and more.
const HEX_LINE_MAX: u64 = 1 << 20;

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let rules = Rules { header_limit: args.header_limit, v4_in_tcp6: args.v4_in_tcp6, v6_in_tcp4: args.v6_in_tcp4 };
    let mut output = std::io::stdout().lock();
    let mut all_complete = true;
    for (index, input) in inputs(args.hex).enumerate() {
        let input = input?;
        all_complete &= matches!(proxy::decode(&input, &rules), Decoded::Complete(_));
        if args.explain {
            let gap = if index == 0 { "" } else { "\n" };
            write!(output, "{gap}{}", explain::explain(&input, &rules))?;
        } else {
            serde_json::to_writer(&mut output, &Line::new(&input, &rules))?;
            output.write_all(b"\n")?;
        }
    }
    output.flush()?;
    Ok(if all_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Standard input as a whole, no further than a header can reach, or line by line.
fn inputs(hex: bool) -> Box<dyn Iterator<Item = Result<Vec<u8>, Error>>> {
    if hex { Box::new((1..).map_while(hex_line)) } else { Box::new(std::iter::once_with(whole)) }
}

fn whole() -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(proxy::V2_LENGTH_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn hex_line(number: usize) -> Option<Result<Vec<u8>, Error>> {
    let mut line = String::new();
    match std::io::stdin().lock().take(HEX_LINE_MAX).read_line(&mut line) {
        Ok(0) => None,
        Ok(length) if length as u64 == HEX_LINE_MAX => {
            Some(Err(format!("line {number}: longer than {HEX_LINE_MAX} bytes, which no header is").into()))
        }
        Ok(_) => Some(hex::read(&line).map_err(|error| format!("line {number}, {error}").into())),
        Err(error) => Some(Err(format!("line {number}: {error}").into())),
    }
}

#[derive(Serialize)]
struct Line {
    verdict: &'static str,
    length: usize,
    reason: Option<&'static str>,
    #[serde(flatten)]
    fields: Option<Fields>,
}

#[derive(Serialize)]
struct Fields {
    version: &'static str,
    command: &'static str,
    family: &'static str,
    transport: &'static str,
    source: Option<String>,
    destination: Option<String>,
    tlvs: Vec<Tlv>,
}

#[derive(Serialize)]
struct Tlv {
    #[serde(rename = "type")]
    kind: u8,
    value: String,
}

impl Line {
    fn new(input: &[u8], rules: &Rules) -> Line {
        let line = |verdict, length, reason| Line { verdict, length, reason, fields: None };
        match proxy::decode(input, rules) {
            Decoded::Complete(header) => {
                Line { fields: Some(Fields::new(&header)), ..line("complete", header.len(), None) }
            }
            Decoded::Incomplete { .. } => line("incomplete", input.len(), None),
            Decoded::Absent { at } => line("absent", at, Some("absent")),
            Decoded::Invalid { reason, at } => line("invalid", at, Some(reason.code())),
        }
    }
}

impl Fields {
    fn new(header: &Header<'_>) -> Fields {
        let (source, destination) = match header.addresses() {
            Addresses::None => (None, None),
            Addresses::Ip { source, destination } => (Some(source.to_string()), Some(destination.to_string())),
            Addresses::Unix { source, destination } => (Some(unix(source)), Some(unix(destination))),
        };
        Fields {
            version: version(header.version()),
            command: command(header.command()),
            family: family(header.family()),
            transport: transport(header.transport()),
            source,
            destination,
            tlvs: header.tlvs().map(|tlv| Tlv { kind: tlv.kind, value: hex::show(tlv.value, "") }).collect(),
        }
    }
}

/// `unix:PATH`, or `unix:@NAME` for an abstract name.
pub fn unix(name: &[u8]) -> String {
    match name.strip_prefix(b"\0") {
        Some(name) => format!("unix:@{}", Escaped(name)),
        None => format!("unix:{}", Escaped(name)),
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
    }
}

fn command(command: Command) -> &'static str {
    match command {
        Command::Local => "LOCAL",
        Command::Proxy => "PROXY",
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Unspec => "UNSPEC",
        Family::Inet => "INET",
        Family::Inet6 => "INET6",
        Family::Unix => "UNIX",
    }
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Unspec => "UNSPEC",
        Transport::Stream => "STREAM",
        Transport::Dgram => "DGRAM",
    }
}

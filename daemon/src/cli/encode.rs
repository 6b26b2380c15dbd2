//! `vestibule encode`: makes a header, to try a receiver with.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use vestibule::proxy::{Encoder, Tlv, Version};

use crate::daemon::Error;
use crate::hex;

/// Encode a PROXY protocol header to standard output
///
/// Only headers that `vestibule decode` accepts are made. Where the two addresses are of different families the IPv4
/// one is sent IPv4-mapped. TLVs go out in the order CRC32C, UNIQUE_ID, SSL, AUTHORITY, ALPN, all others as given.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Version 1, one line of text
    #[arg(long, conflicts_with_all = ["v2", "local", "tlvs", "crc32c"])]
    v1: bool,

    /// Version 2, binary (the default)
    #[arg(long)]
    v2: bool,

    /// The client's address and port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address, required_unless_present = "local")]
    source: Option<SocketAddr>,

    /// The address and port that the client connected to
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address, required_unless_present = "local")]
    destination: Option<SocketAddr>,

    /// LOCAL, a connection of the proxy's own such as a health check: 16 bytes; addresses are not sent
    #[arg(long, conflicts_with_all = ["tlvs", "crc32c"])]
    local: bool,

    /// A TLV: its type, and its value in hexadecimal digits; may be given again
    #[arg(long = "tlv", value_name = "0xNN=HEX", value_parser = tlv)]
    tlvs: Vec<(u8, Vec<u8>)>,

    /// Add a CRC32C checksum
    #[arg(long)]
    crc32c: bool,

    /// Print hexadecimal digits and a line feed instead of the bytes
    #[arg(long)]
    hex: bool,
}

const EXAMPLES: &str = "\
Examples:
  vestibule encode --v1 --source 198.51.100.7:5000 --destination 192.0.2.1:143
  vestibule encode --source [2001:db8::7]:5000 --destination [2001:db8:1::1]:993 --crc32c --hex
  vestibule encode --source 198.51.100.7:5000 --destination 192.0.2.1:143 \\
      --tlv 0x01=696d6170 --tlv 0x05=76374b71 | vestibule decode --explain
  (vestibule encode --local; sleep 1) | socat - TCP:127.0.0.1:10143";

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let header = header(&args)?;
    let mut output = std::io::stdout().lock();
    if args.hex {
        writeln!(output, "{}", hex::show(&header, ""))?
    } else {
        output.write_all(&header)?
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn header(args: &Args) -> Result<Vec<u8>, Error> {
    let tlvs: Vec<Tlv<'_>> = args.tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value }).collect();
    let encoder = match (args.source, args.destination) {
        (Some(source), Some(destination)) if !args.local => {
            Encoder::proxy(source, destination).tlvs(&tlvs).checksum(args.crc32c)
        }
        _ => Encoder::local(),
    };
    let encoder = if args.v1 { encoder.version(Version::V1) } else { encoder };
    let mut header = vec![0; encoder.encoded_len()];
    encoder.encode(&mut header)?;
    Ok(header)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write 198.51.100.7:5000, or [2001:db8::7]:5000 for IPv6".into())
}

fn tlv(text: &str) -> Result<(u8, Vec<u8>), String> {
    let (kind, value) = text.split_once('=').ok_or("write the type, `=`, and the value, such as 0x01=696d6170")?;
    let kind = match kind.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => kind.parse(),
    };
    let kind = kind.map_err(|error| format!("the type is a number from 0x00 to 0xff: {error}"))?;
    Ok((kind, hex::read(value).map_err(|error| format!("the value, {error}"))?))
}

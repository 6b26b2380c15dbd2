//! The command line: what was typed.
#![allow(rustdoc::broken_intra_doc_links)] // the help texts use brackets for what may be left out

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use ipnet::Ipv4Net;

use crate::behaviour::Behaviour;
use crate::header::{MIXED, Shape};
use crate::mix::Mix;
use crate::verify::Expect;

/// Longest of all times that can be asked for.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const THREADS_MAX: i64 = 256;

const EXAMPLES: &str = "\
Examples:
  Try a local vestibule with its built-in configuration; every answer is checked:
    vestibule-load 127.0.0.1:10143

  512 connections in flight for 30 s, all forms of header, nothing but the end expected:
    vestibule-load 127.0.0.1:10143 -c 512 -d 30s --header mixed --expect close

  2,000 connections a second, latency from the intended start, percentiles into run.end.hgrm:
    vestibule-load 127.0.0.1:10143 --rate 2000 --json run.json --hgrm run

  Bad neighbours: a tenth says nothing, a tenth sends garbage, and must be refused:
    vestibule-load 127.0.0.1:10143 -c 200 --behaviour normal=80,silent=10,garbage=10

  What only some balancers do: split headers, late headers, health checks, aborted connections:
    vestibule-load 127.0.0.1:10143 -b split:12,bytewise,lazy,local,empty,reset:5,half-close

  Keep 100,000 connections open for a minute (needs so many open files):
    vestibule-load 127.0.0.1:10143 --hold 100000 --rate 5000 --duration 60s --expect banner

  HAProxy, nginx and others behind `accept-proxy`:
    vestibule-load 127.0.0.1:25 --header v1 --expect banner:220 -n 10000

Exit code: 0 when every connection went as it should; 1 when one did not (a wrong answer, a
failure, still open after --drain), none did, or starts of the open loop were not made; 2 when
the run could not be made.";

/// A swarm of clients that speak the PROXY protocol as balancers do, and as they should not. Measures and checks.
#[derive(Debug, Parser)]
#[command(name = "vestibule-load", version, after_help = EXAMPLES)]
pub struct Args {
    /// Where to connect to
    #[arg(value_name = "ADDRESS:PORT")]
    pub target: SocketAddr,

    /// Closed loop: this many connections at any time [default: 64]. With --rate: the most at any time
    #[arg(short = 'c', long, value_name = "N", help_heading = "Load")]
    pub in_flight: Option<usize>,

    /// Open loop: start this many connections a second, whatever becomes of them
    #[arg(short, long, value_name = "PER_SECOND", help_heading = "Load")]
    pub rate: Option<f64>,

    /// Ramp up to this many connections, --rate a second [default: 10000], and keep them open for the duration
    #[arg(long, value_name = "N", conflicts_with_all = ["in_flight", "connections"], help_heading = "Load")]
    pub hold: Option<usize>,

    /// Stop after this many connections
    #[arg(short = 'n', long, value_name = "N", help_heading = "Load")]
    pub connections: Option<u64>,

    /// Start connections for this long [default: 10s; with --connections: 600s]
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = "Load")]
    pub duration: Option<Duration>,

    /// Give up a connection after this time
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", help_heading = "Load")]
    pub deadline: Duration,

    /// After the last start, wait at most this long for what is still open
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", help_heading = "Load")]
    pub drain: Duration,

    /// Threads, each with its own ring and share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = threads, help_heading = "Load")]
    pub threads: usize,

    /// Pin the threads to these CPUs, in turn
    #[arg(long, value_name = "CPU", value_delimiter = ',', help_heading = "Load")]
    pub cpu: Vec<usize>,

    /// Another seed makes other random choices; the same one the same
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    pub seed: u64,

    /// What connections do, with weights: normal, split:BYTE, bytewise, silent, trickle, reset[:BYTE], partial:BYTE,
    /// empty, half-close, garbage[:KIND], tls, lazy, local
    #[arg(
        short,
        long,
        alias = "behavior",
        value_name = "NAME[=WEIGHT],...",
        default_value = "normal",
        help_heading = "Connections"
    )]
    pub behaviour: Mix<Behaviour>,

    /// Header, with weights: v1, v1-inet6, unknown, v2, v2-inet6, v2-tlv, v2-tlv-inet6, none; or mixed
    #[arg(short = 'p', long, value_name = "NAME[=WEIGHT],...", default_value = "v2", help_heading = "Connections")]
    pub header: Headers,

    /// The right answer: whoami (checked against the header), answer (any, then the end), close (the end, no answer),
    /// refused (the same by FIN or RST and at any time), banner[:PREFIX] (a line; the client leaves), any [default: whoami; with --hold: any]
    #[arg(short, long, value_name = "WHAT", help_heading = "Connections")]
    pub expect: Option<Expect>,

    /// Sent behind the header in the same segment; \r, \n, \t, \\ and \xNN are understood
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = "Connections")]
    pub payload: Payload,

    /// Bind sockets to the addresses of this network, in turn; auto: 127.1.0.0/24 for a loopback target
    #[arg(long, value_name = "auto|none|NETWORK", default_value = "auto", help_heading = "Connections")]
    pub source: Sources,

    /// Clients that headers speak for
    #[arg(long, value_name = "NETWORK", default_value = "198.18.0.0/15", help_heading = "Connections")]
    pub clients: Ipv4Net,

    /// What those clients connected to; in IPv6 headers [2001:db8:ffff::1] and the same port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "192.0.2.1:143", help_heading = "Connections")]
    pub destination: SocketAddrV4,

    /// Between the parts of `split` and the bytes of `bytewise`
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10ms", help_heading = "Connections")]
    pub gap: Duration,

    /// Between the bytes of `trickle`
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "500ms", help_heading = "Connections")]
    pub trickle_gap: Duration,

    /// How long `lazy` waits for a greeting before it sends the header
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s", help_heading = "Connections")]
    pub lazy_wait: Duration,

    /// Write the results as JSON; - is standard output, and the table goes to standard error
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,

    /// Write percentile distributions to PREFIX.connect.hgrm, PREFIX.first-byte.hgrm and PREFIX.end.hgrm
    #[arg(long, value_name = "PREFIX", help_heading = "Output")]
    pub hgrm: Option<PathBuf>,

    /// Write an HdrHistogram interval log, one histogram a second and metric
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub histogram_log: Option<PathBuf>,

    /// No progress, no table
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// `--header`: a mix, or the word `mixed`.
#[derive(Clone, Debug)]
pub struct Headers(pub Mix<Shape>);

/// `--payload` with its escapes resolved.
#[derive(Clone, Debug)]
pub struct Payload(pub Vec<u8>);

/// `--source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// By the target.
    Auto,
    /// Not bound.
    None,
    /// The hosts of this network.
    Network(Ipv4Net),
}

impl FromStr for Headers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "mixed" { Ok(Headers(Mix::even(MIXED))) } else { text.parse().map(Headers) }
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Sources::Auto),
            "none" => Ok(Sources::None),
            net => net
                .parse()
                .map(Sources::Network)
                .map_err(|_| format!("`{net}` is not auto, none or an IPv4 network such as 127.1.0.0/24")),
        }
    }
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let [byte, tail @ ..] = rest {
            (bytes, rest) = match (byte, tail) {
                (b'\\', [b'x', high, low, tail @ ..]) => (with(bytes, hex_byte(*high, *low)?), tail),
                (b'\\', [escape, tail @ ..]) => (with(bytes, control(*escape)?), tail),
                (b'\\', []) => return Err("a backslash at the end".into()),
                _ => (with(bytes, *byte), tail),
            };
        }
        Ok(Payload(bytes))
    }
}

fn with(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

fn hex_byte(high: u8, low: u8) -> Result<u8, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or("\\x needs two hexadecimal digits");
    Ok((digit(high)? * 16 + digit(low)?) as u8)
}

fn control(escape: u8) -> Result<u8, String> {
    match escape {
        b'r' => Ok(b'\r'),
        b'n' => Ok(b'\n'),
        b't' => Ok(b'\t'),
        b'\\' => Ok(b'\\'),
        other => Err(format!("no escape \\{}", char::from(other).escape_default())),
    }
}

/// `250us`, `10ms`, `1.5s`, `2m`, `1h`; a plain number is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number with us, ms, s, m or h".into()),
    };
    let number: f64 = digits.parse().map_err(|_| "a time is a number with us, ms, s, m or h")?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(time) if time <= TIME_MAX => Ok(time),
        _ => Err("a time is 0 to 7 days".into()),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=THREADS_MAX).contains(&count) => Ok(count as usize),
        _ => Err(format!("1 to {THREADS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_help_fits_the_terminal() {
        const COLUMNS: usize = 96; // from 100 on lines are broken once more
        for line in EXAMPLES.lines() {
            assert!(line.len() <= COLUMNS, "{} columns: {line}", line.len());
        }
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().filter(|line| line.starts_with("    vestibule-load")) {
            Args::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in [("10", 10_000), ("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(time(text).expect(text).as_millis(), millis, "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1e99", "8000000s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn payload_escapes_are_resolved() {
        assert_eq!(r"a1 NOOP\r\n\x00\\".parse::<Payload>().expect("right").0, b"a1 NOOP\r\n\0\\");
        for text in [r"\q", r"\", r"\x0", r"\xzz"] {
            assert!(text.parse::<Payload>().is_err(), "{text}");
        }
    }
}

//! The quick parser, with every scan, against the exact one, and both against core's parsers.

use std::net::{Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::super::header::Header;
use super::*;
use crate::scan::Words;

#[derive(Clone, Copy)]
struct Quick<'a>(&'a [u8]);

impl<'a> Work for Quick<'a> {
    type Output = Option<Header<'a>>;

    fn with(self, scan: impl Scan) -> Option<Header<'a>> {
        quick::tcp4(scan, self.0).or_else(|| quick::tcp6(scan, self.0))
    }
}

/// What `quick` takes, `exact` takes, with the same result; returns whether it was taken.
fn agrees(line: &[u8]) -> bool {
    let exactly = match exact::line(line, &Rules::default()) {
        Ok(head) => head.over(line),
        Err(_) => None,
    };
    let taken = [Quick(line).with(Words), scan::best(Quick(line))];
    for quickly in taken.into_iter().flatten() {
        assert_eq!(Some(quickly), exactly, "{}", line.escape_ascii());
    }
    taken[1].is_some()
}

/// The same lines in every run.
struct Lines(Rng);

impl Lines {
    fn v4(&mut self) -> String {
        let octets = [0; 4].map(|_: u8| [0, 1, 9, 10, 99, 100, 255, self.0.u8(..)][self.0.usize(..8)]);
        Ipv4Addr::from(octets).to_string()
    }

    /// Any of the forms: with and without `::`, with leading zeros, in capitals.
    fn v6(&mut self) -> String {
        let groups = [0; 8].map(|_: u16| [0, 0, 1, 0xffff, 0xabc, self.0.u16(..)][self.0.usize(..6)]);
        match self.0.u8(..4) {
            0 => groups.map(|group| format!("{group:04x}")).join(":"),
            1 => groups.map(|group| format!("{group:X}")).join(":"),
            _ => {
                let address = Ipv6Addr::from(groups);
                if address.to_ipv4_mapped().is_some() { "2001:db8::7".into() } else { address.to_string() }
            }
        }
    }

    fn port(&mut self) -> u16 {
        [0, 9, 10, 99, 100, 999, 1000, 9999, 10000, 65535, self.0.u16(..)][self.0.usize(..11)]
    }

    fn line(&mut self) -> Vec<u8> {
        let (ports, v4) = ([self.port(), self.port()], self.0.bool());
        let (keyword, source, destination) =
            if v4 { ("TCP4", self.v4(), self.v4()) } else { ("TCP6", self.v6(), self.v6()) };
        format!("PROXY {keyword} {source} {destination} {} {}\r\n", ports[0], ports[1]).into_bytes()
    }
}

#[test]
fn good_lines_are_taken() {
    let mut random = Lines(Rng::with_seed(1));
    for _ in 0..20_000 {
        let line = random.line();
        // The shortest TCP6 lines have too little text for a scan.
        assert!(agrees(&line) || line.len() < 32, "{}", line.escape_ascii());
        assert!(agrees(&[&line, &b"a NOOP\r\n"[..]].concat()) || line.len() < 32);
    }
}

#[test]
fn mutated_lines_are_taken_only_if_they_are_good() {
    let mut random = Lines(Rng::with_seed(2));
    let likely = b"0123456789abcdefABCDEFgG.:: \r\n%+-";
    for _ in 0..300_000 {
        let mut line = random.line();
        for _ in 0..random.0.u8(1..=2) {
            let at = random.0.usize(..line.len());
            let byte = if random.0.u8(..8) == 0 { random.0.u8(..) } else { likely[random.0.usize(..likely.len())] };
            match random.0.u8(..4) {
                0 => line.insert(at, byte),
                1 => drop(line.remove(at)),
                2 => line.swap(at, at / 2),
                _ => line[at] = byte,
            }
        }
        agrees(&line);
        let cut = random.0.usize(..=line.len());
        agrees(&line[..cut]);
    }
}

#[test]
fn addresses_of_every_shape_are_judged_as_core_judges_them() {
    // All texts of up to 9 bytes over three letters: every arrangement of groups, colons and gaps.
    for length in 2..=9_u32 {
        for number in 0..3_usize.pow(length) {
            let text: String = (0..length).map(|i| [':', '1', 'f'][number / 3_usize.pow(i) % 3]).collect();
            let line = format!("PROXY TCP6 {text} 2001:db8:ffff::1 1 2\r\n");
            let taken = agrees(line.as_bytes());
            assert_eq!(taken, text.parse::<Ipv6Addr>().is_ok(), "{text}");
        }
    }
}

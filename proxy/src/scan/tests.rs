//! Every scan against a naive model, on every length and with every byte value.

use std::net::Ipv4Addr;

use fastrand::Rng;

use super::*;

/// Of all values, each so many-th is tried: Miri takes a thousand times as long.
const STEP: usize = if cfg!(miri) { 251 } else { 1 };

/// Runs a check with each scan that this machine has.
fn with_each(check: impl Work<Output = ()> + Copy) {
    check.with(Words);
    best(check);
}

/// Any bytes, of which most are of the kinds that scans look for.
fn any_text(random: &mut Rng, length: usize) -> Vec<u8> {
    let likely = b"0123456789abcdefABCDEF.: \r\n0000....    ::::";
    let mut byte = || match random.u8(..8) {
        0 => random.u8(..),
        _ => likely[random.usize(..likely.len())],
    };
    (0..length).map(|_| byte()).collect()
}

fn naive(text: &[u8], kind: impl Fn(&u8) -> bool) -> u64 {
    text.iter().take(64).enumerate().fold(0, |map, (i, byte)| map | u64::from(kind(byte)) << i)
}

#[derive(Clone, Copy)]
struct Bitmaps<'t>(&'t [u8]);

impl Work for Bitmaps<'_> {
    type Output = ();

    fn with(self, scan: impl Scan) {
        let Bitmaps(text) = self;
        let expected = Decimal {
            digits: naive(text, u8::is_ascii_digit),
            dots: naive(text, |byte| *byte == b'.'),
            spaces: naive(text, |byte| *byte == b' '),
        };
        assert!(scan.decimal(text).is_none_or(|got| got == expected), "{}", text.escape_ascii());
        assert!(text.len() < 32 || scan.decimal(text).is_some(), "long enough for every scan");
        for from in 0..=text.len() {
            let tail = &text[from..];
            let expected = Hexadecimal {
                digits: naive(tail, u8::is_ascii_hexdigit),
                colons: naive(tail, |byte| *byte == b':'),
                spaces: naive(tail, |byte| *byte == b' '),
            };
            let got = scan.hexadecimal(text, from);
            assert!(got.is_none_or(|got| got == expected), "{} from {from}", text.escape_ascii());
        }
    }
}

#[test]
fn bitmaps_are_those_of_a_byte_by_byte_model() {
    let mut random = Rng::with_seed(1);
    for round in (0..40).step_by(STEP) {
        for length in (0..110).step_by(STEP) {
            with_each(Bitmaps(&any_text(&mut random, length)));
        }
        // Every value of a byte, each time at another place.
        for value in (0..=255).step_by(STEP) {
            let mut text = any_text(&mut random, 70);
            text[(round * 7 + value) % 70] = value as u8;
            with_each(Bitmaps(&text));
        }
    }
}

#[derive(Clone, Copy)]
struct Quads<'t>([&'t str; 2]);

impl Work for Quads<'_> {
    type Output = ();

    /// The quads must be read as core reads addresses.
    fn with(self, scan: impl Scan) {
        let windows = self.0.map(|text| {
            let mut window = [b'9'; 16];
            window[16 - text.len()..].copy_from_slice(text.as_bytes());
            window
        });
        let shapes = self.0.map(|text| (naive(text.as_bytes(), |byte| *byte == b'.') | 1 << text.len()) as u32);
        let read = |text: &str| text.parse::<Ipv4Addr>().ok().map(|address| u32::from_le_bytes(address.octets()));
        let expected = read(self.0[0]).zip(read(self.0[1])).map(|(low, high)| u64::from(low) | u64::from(high) << 32);
        assert_eq!(scan.dotted_quads([&windows[0], &windows[1]], shapes), expected, "{:?}", self.0);
    }
}

#[test]
fn every_octet_at_every_place() {
    let octets =
        (0..=999).step_by(STEP).flat_map(|octet| [format!("{octet}"), format!("{octet:02}"), format!("{octet:03}")]);
    for octet in octets {
        for place in 0..4 {
            let mut parts = ["7", "80", "255", "0"];
            parts[place] = &octet;
            let text = parts.join(".");
            with_each(Quads([&text, "10.0.0.1"]));
            with_each(Quads(["192.168.100.200", &text]));
        }
    }
}

#[test]
fn shapes_that_are_no_quad() {
    for text in ["", "1", "1.2.3", "1.2.3.", ".1.2.3", "1..2.3", "1.2.3.4.5", "1234.1.1.1", "1.1.1.1234", "1.2.3.4."] {
        with_each(Quads([text, "10.0.0.1"]));
        with_each(Quads(["10.0.0.1", text]));
    }
}

#[derive(Clone, Copy)]
struct Groups<'t>(&'t [String; 8]);

impl Work for Groups<'_> {
    type Output = ();

    fn with(self, scan: impl Scan) {
        // Digits of the group before, and what separates them.
        let groups = self.0.each_ref().map(|text| {
            let mut group = *b"bbb:";
            group.rotate_left(text.len());
            group[4 - text.len()..].copy_from_slice(text.as_bytes());
            group
        });
        let number =
            |text: &String| if text.is_empty() { 0 } else { u16::from_str_radix(text, 16).expect("hexadecimal") };
        let expected: Vec<u8> = self.0.iter().flat_map(|text| number(text).to_be_bytes()).collect();
        assert_eq!(scan.hexadecimal_groups(groups)[..], expected, "{:?}", self.0);
    }
}

#[test]
fn every_hexadecimal_number_in_every_form() {
    for first in (0..=0xffff_u32).step_by(8 * STEP) {
        let number = |i: u32| first + i;
        with_each(Groups(&[0, 1, 2, 3, 4, 5, 6, 7].map(|i| format!("{:x}", number(i)))));
        with_each(Groups(&[0, 1, 2, 3, 4, 5, 6, 7].map(|i| format!("{:04X}", number(i)))));
    }
    with_each(Groups(&std::array::from_fn(|_| String::new())));
}

#[derive(Clone, Copy)]
struct Ports<'t>([&'t str; 2]);

impl Work for Ports<'_> {
    type Output = ();

    fn with(self, scan: impl Scan) {
        let Ports([first, second]) = self;
        let text = format!("9999999999999999{first} {second}");
        let window = text.as_bytes().last_chunk().expect("sixteen bytes");
        // As core, which takes a sign and leading zeros.
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let read = |text: &str| text.parse().ok().filter(|_| plain(text));
        let expected = read(first).zip(read(second)).map(|(first, second)| [first, second]);
        assert_eq!(scan.ports(window, [first.len() as u32, second.len() as u32]), expected, "{first} {second}");
    }
}

#[test]
fn every_port() {
    for port in (0..=99_999_u32).step_by(STEP) {
        let port = port.to_string();
        with_each(Ports([&port, "993"]));
        with_each(Ports(["0", &port]));
    }
    for port in ["", "00", "01", "0143", "00025", "123456", "000001", "65536"] {
        with_each(Ports([port, "25"]));
        with_each(Ports(["10143", port]));
    }
    for byte in (0..=127_u8).filter(|byte| !byte.is_ascii_digit()).step_by(STEP) {
        for at in 0..5 {
            let mut port = *b"12345";
            port[at] = byte;
            let port = str::from_utf8(&port).expect("ASCII");
            with_each(Ports([port, "25"]));
            with_each(Ports(["25", port]));
        }
    }
}

#[derive(Clone, Copy)]
struct Checksum<'t>(&'t [[u8; 8]], &'t [u8]);

impl Work for Checksum<'_> {
    type Output = ();

    fn with(self, scan: impl Scan) {
        let Checksum(words, after) = self;
        let expected = crc32c::crc32c(&[words.as_flattened(), &[0; 4], after].concat());
        let got = scan.crc32c(!0, words, after);
        assert!(got.is_none_or(|state| !state == expected), "{} words, {} bytes", words.len(), after.len());
    }
}

#[test]
fn checksums_are_those_of_the_crate() {
    let mut random = Rng::with_seed(2);
    for before in 0..12 {
        for after in 0..40 {
            with_each(Checksum(any_text(&mut random, 8 * before).as_chunks().0, &any_text(&mut random, after)));
        }
    }
}

//! Bytes that are nearly headers: random ones, and known ones with something wrong.

use super::mend;

/// Pseudo-random numbers, the same on every machine for the same seed.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(fastrand::Rng::with_seed(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound)
    }

    pub fn byte(&mut self) -> u8 {
        self.0.u8(..)
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// An input for the decoder: mostly one of `seeds` with a few changes, sometimes a header made up from the grammar.
pub fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match random.below(4) {
        0 => line(random),
        1 => binary(random),
        _ => random.pick(seeds),
    };
    for _ in 0..random.below(4) {
        change(random, &mut bytes, seeds);
    }
    if random.chance(2) {
        payload(random, &mut bytes);
    }
    if random.chance(4) {
        mend::length(&mut bytes);
    }
    if random.chance(2) {
        mend::checksum(&mut bytes);
    }
    bytes
}

/// A version 1 line, most of its parts right.
fn line(random: &mut Random) -> Vec<u8> {
    let keyword = random.pick(&["TCP4", "TCP4", "TCP6", "TCP6", "UNKNOWN", "TCP5", "tcp4"]);
    let mut text = format!("PROXY {keyword}");
    for field in 0..random.pick(&[4, 4, 4, 4, 4, 4, 3, 5]) {
        text.push_str(if random.chance(40) { "  " } else { " " });
        text += &if field < 2 { address(random, keyword == "TCP6") } else { port(random) };
    }
    text.push_str(random.pick(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", " \r\n", "\r\r\n", ""]));
    text.push_str(random.pick(&["", "", "a NOOP\r\n"]));
    text.into_bytes()
}

fn address(random: &mut Random, six: bool) -> String {
    if random.chance(20) {
        return random.pick(&["", "1.2.3", "::1", "1.2.3.4", "::ffff:1.2.3.4", "fe80::1%lo", "x"]).into();
    }
    if !six {
        let octets: Vec<String> = (0..4).map(|_| octet(random)).collect();
        return octets.join(".");
    }
    let groups = random.pick(&[8, 8, 8, 7, 6, 3]);
    let quad = random.chance(4);
    let mut parts: Vec<String> =
        (0..groups).map(|_| format!("{:x}", random.next() & random.pick(&[0xffff, 0xff, 0, 0x1ffff]))).collect();
    if quad {
        parts.truncate(groups.min(6));
        parts.push((0..4).map(|_| octet(random)).collect::<Vec<_>>().join("."));
    }
    let mut text = parts.join(":");
    if random.chance(2) {
        let at = random.below(text.len() + 1);
        text.insert_str(at, random.pick(&["::", ":", "::"]));
    }
    if random.chance(2) { text.to_uppercase() } else { text }
}

fn octet(random: &mut Random) -> String {
    match random.below(30) {
        0 => format!("0{}", random.below(100)),
        1 => random.below(400).to_string(),
        _ => random.below(256).to_string(),
    }
}

fn port(random: &mut Random) -> String {
    match random.below(12) {
        0 => format!("0{}", random.below(100)),
        1 => random.below(100_000).to_string(),
        2 => random.pick(&["65535", "65536", "0", "+1", "a", "1.1"]).into(),
        _ => random.below(65536).to_string(),
    }
}

/// A version 2 header, most of its parts right.
fn binary(random: &mut Random) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.push(random.pick(&[0x21, 0x21, 0x21, 0x20, 0x20, 0x22, 0x31]));
    let family = random.pick(&[0x11, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x00, 0x00, 0x01, 0x10, 0x41]);
    bytes.push(family);
    bytes.extend([0, 0]);
    let block = random.pick(&[[0, 12, 36, 216][usize::from(family >> 4).min(3)], 0, 12]);
    bytes.extend((0..block).map(|_| if random.chance(4) { 0 } else { random.byte() }));
    for _ in 0..random.below(5) {
        let tlv = tlv(random, 0);
        bytes.extend(tlv);
    }
    bytes.extend((0..random.pick(&[0, 0, 0, 0, 1, 2])).map(|_| 0));
    mend::length(&mut bytes);
    bytes
}

fn tlv(random: &mut Random, depth: usize) -> Vec<u8> {
    let kinds: &[u8] = if depth == 0 {
        &[0x01, 0x02, 0x03, 0x03, 0x03, 0x04, 0x05, 0x20, 0x20, 0x30, 0xe0, 0xea, 0xee, 0xff]
    } else {
        &[0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29]
    };
    let kind = random.pick(kinds);
    let mut value: Vec<u8> = match kind {
        0x03 => vec![0; if random.chance(8) { random.below(6) } else { 4 }],
        0x05 if random.chance(4) => vec![b'i'; 126 + random.below(5)],
        0x20 => vec![1; if random.chance(8) { random.below(5) } else { 5 }],
        _ => (0..random.below(12)).map(|_| random.byte()).collect(),
    };
    if kind == 0x20 && depth == 0 {
        for _ in 0..random.below(4) {
            value.extend(self::tlv(random, 1));
        }
    }
    let mut length = value.len();
    if random.chance(40) {
        length += random.below(4);
    }
    [&[kind, (length >> 8) as u8, length as u8][..], &value].concat()
}

/// Bytes of the application behind the header: enough for any decoder that reads more than a byte at a time.
fn payload(random: &mut Random, bytes: &mut Vec<u8>) {
    let alphabet: &[u8] = random.pick(&[b"a NOOP\r\n", b"0123456789.: ", b"\r\n", b"\0\xff x"]);
    for _ in 0..random.below(160) {
        bytes.push(random.pick(alphabet));
    }
}

/// One small damage.
fn change(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.byte(),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 => bytes.insert(at, random.pick(b" \r\n\0:.019aF\x03\x20\xff")),
        4 => bytes.truncate(at),
        5 if bytes.len() > 16 => bytes[12 + random.below(4)] = random.byte(),
        _ => {
            let other = random.pick(seeds);
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
    }
}

//! Good TCP lines, read by the bitmap of what is not a digit.

use super::super::address::Block;
use super::super::header::{Command, Head, Transport, Version};
use super::{TCP4_LENGTH_MAX, TCP6_LENGTH_MAX};
use crate::scan;

/// Where the first field of a TCP line starts.
const FIELDS_AT: usize = 11;

/// The head of a whole and good TCP line at the start; `None` for all else, good or not.
#[inline(always)]
pub(super) fn line(prefix: &[u8]) -> Option<Head> {
    let keyword = prefix.first_chunk::<FIELDS_AT>()?;
    let (block, length) = if keyword == b"PROXY TCP4 " {
        tcp4(prefix.get(..TCP4_LENGTH_MAX).unwrap_or(prefix))?
    } else if keyword == b"PROXY TCP6 " {
        tcp6(prefix.get(..TCP6_LENGTH_MAX).unwrap_or(prefix))?
    } else {
        return None;
    };
    let head = Head::without_addresses(Version::V1, Command::Proxy, length as u32);
    Some(Head { transport: Transport::Stream, block, ..head })
}

#[inline(always)]
fn tcp4(line: &[u8]) -> Option<(Block, usize)> {
    let mut tokens = Tokens::after(line, FIELDS_AT, scan::non_digits)?;
    let source = tokens.v4()?;
    let destination = tokens.v4()?;
    let ports = tokens.ports()?;
    Some((Block::of_v4((source.into(), ports[0]), (destination.into(), ports[1])), tokens.end_of_line()?))
}

/// The longest line has more than 64 bytes of fields, but neither address and no address with ports has.
#[inline(always)]
fn tcp6(line: &[u8]) -> Option<(Block, usize)> {
    let mut tokens = Tokens::after(line, FIELDS_AT, scan::non_hex_digits)?;
    let source = tokens.v6()?;
    let mut tokens = Tokens::after(line, tokens.start, scan::non_hex_digits)?;
    let destination = tokens.v6()?;
    let ports = tokens.ports()?;
    Some((Block::of_v6((source.into(), ports[0]), (destination.into(), ports[1])), tokens.end_of_line()?))
}

/// The numbers of a line and the bytes between them.
struct Tokens<'a> {
    line: &'a [u8],
    /// Where the scan began.
    from: usize,
    /// Bytes that are no digits, from `from` on; those before `start` are gone.
    ends: u64,
    /// Where the next number starts.
    start: usize,
}

/// A number in text: the eight bytes that end with it, how many of them it has, and the byte behind.
struct Token {
    word: [u8; 8],
    length: usize,
    behind: u8,
}

impl<'a> Tokens<'a> {
    #[inline(always)]
    fn after(line: &'a [u8], from: usize, scan: impl Fn(&[u8]) -> Option<u64>) -> Option<Tokens<'a>> {
        Some(Tokens { line, from, ends: scan(line.get(from..)?)?, start: from })
    }

    /// The next number, maybe empty, and the byte behind it, which is taken too.
    #[inline(always)]
    fn next(&mut self) -> Option<Token> {
        let end = self.from + self.ends.trailing_zeros() as usize;
        let [a, b, c, d, e, f, g, h, behind] = *self.line.get(end.wrapping_sub(8)..)?.first_chunk()?;
        let length = end - self.start;
        self.ends &= self.ends.wrapping_sub(1);
        self.start = end + 1;
        Some(Token { word: [a, b, c, d, e, f, g, h], length, behind })
    }

    #[inline(always)]
    fn octet(&mut self, then: u8) -> Option<u8> {
        let token = self.next()?;
        if token.behind == then { scan::octet(token.word, token.length) } else { None }
    }

    /// An IPv4 address and a space.
    #[inline(always)]
    fn v4(&mut self) -> Option<[u8; 4]> {
        Some([self.octet(b'.')?, self.octet(b'.')?, self.octet(b'.')?, self.octet(b' ')?])
    }

    #[inline(always)]
    fn port(&mut self, then: u8) -> Option<u16> {
        let token = self.next()?;
        if token.behind == then { scan::decimal_u16(token.word, token.length) } else { None }
    }

    /// A port, a space, a port and CR.
    #[inline(always)]
    fn ports(&mut self) -> Option<[u16; 2]> {
        Some([self.port(b' ')?, self.port(b'\r')?])
    }

    /// An IPv6 address without a dotted quad, and a space.
    #[inline(always)]
    fn v6(&mut self) -> Option<u128> {
        let mut groups = 0;
        let mut address = 0;
        // Groups before the `::`.
        let mut before_gap = None;
        if self.line.get(self.start..)?.starts_with(b"::") {
            (_, _) = (self.next()?, self.next()?);
            before_gap = Some(0);
        }
        loop {
            let token = self.next()?;
            if token.length > 0 {
                address = address << 16 | u128::from(scan::hex_u16(token.word, token.length)?);
                groups += 1;
            } else if token.behind == b':' && before_gap.is_none() && groups > 0 {
                before_gap = Some(groups);
                continue;
            } else if token.behind != b' ' || before_gap != Some(groups) {
                return None;
            }
            match token.behind {
                b':' if groups < 8 => {}
                b' ' => break,
                _ => return None,
            }
        }
        match before_gap {
            None => (groups == 8).then_some(address),
            Some(before) if groups < 8 => Some(spread(address, groups, before)),
            Some(_) => None,
        }
    }

    /// The length of the line if the LF follows.
    #[inline(always)]
    fn end_of_line(&self) -> Option<usize> {
        (self.line.get(self.start) == Some(&b'\n')).then_some(self.start + 1)
    }
}

/// Moves the groups before the gap to the top.
#[inline(always)]
fn spread(address: u128, groups: u32, before: u32) -> u128 {
    let behind = 16 * (groups - before);
    let top = address >> behind;
    let bottom = address ^ (top << behind);
    top.unbounded_shl(128 - 16 * before) | bottom
}

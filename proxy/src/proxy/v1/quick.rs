//! Good TCP lines, read from bitmaps of their bytes.

use super::super::address::{Block, Pair};
use super::super::header::{Head, Header, Version};
use super::{TCP4_LENGTH_MAX, TCP6_LENGTH_MAX};
use crate::scan::{Hexadecimal, Scan, ensure, mostly};

/// Where the first field of a TCP line starts.
const FIELDS_AT: u32 = 11;

const _: () = assert!(TCP4_LENGTH_MAX < 64, "one bitmap has the whole line");

/// The header at the start if it is a whole and good TCP4 line of IPv4 addresses; `None` for all else, good or not.
#[inline(always)]
pub(super) fn tcp4(scan: impl Scan, prefix: &[u8]) -> Option<Header<'_>> {
    ensure(mostly(prefix.first_chunk())? == b"PROXY TCP4 ")?;
    let line = prefix.get(..TCP4_LENGTH_MAX).unwrap_or(prefix);
    let kinds = mostly(scan.decimal(line))?.from(FIELDS_AT);
    let others = !kinds.digits;
    // The bits that are no dots are those behind the four fields.
    let behind_source = others & !kinds.dots;
    let behind_destination = without_lowest(behind_source);
    let behind_first_port = without_lowest(behind_destination);
    let behind_last = without_lowest(behind_first_port);
    let [source_end, destination_end, first_port_end, end] =
        [behind_source, behind_destination, behind_first_port, behind_last].map(u64::trailing_zeros);
    let three_spaces = (behind_source ^ kinds.spaces) & to_lowest(behind_last) == lowest(behind_last);
    ensure(three_spaces && mostly(text_at(line, FIELDS_AT + end))? == b"\r\n")?;
    // Dots in the wrong places make a shape that no quad has, or a port that has more than digits.
    let shapes = [
        (others & to_lowest(behind_source)) as u32,
        ((others & to_lowest(behind_destination)) >> (source_end & 63) >> 1) as u32,
    ];
    let windows =
        [mostly(text_before(line, FIELDS_AT + source_end))?, mostly(text_before(line, FIELDS_AT + destination_end))?];
    let quads = mostly(scan.dotted_quads(windows, shapes))?;
    let lengths = [first_port_end - destination_end - 1, end - first_port_end - 1];
    let ports = mostly(scan.ports(mostly(text_before(line, FIELDS_AT + end))?, lengths))?;
    let quad = |bits: u64| (bits as u32).to_le_bytes();
    let block = Block::Inet(Pair::new(quad(quads), quad(quads >> 32), ports));
    let length = (FIELDS_AT + end) as usize + 2;
    Head::of_stream(Version::V1, block, length, length).over(prefix)
}

/// The lowest bit that is set.
#[inline(always)]
fn lowest(bits: u64) -> u64 {
    bits & bits.wrapping_neg()
}

/// All others that are set.
#[inline(always)]
fn without_lowest(bits: u64) -> u64 {
    bits & bits.wrapping_sub(1)
}

/// The lowest bit that is set and all below it.
#[inline(always)]
fn to_lowest(bits: u64) -> u64 {
    bits ^ bits.wrapping_sub(1)
}

/// The `N` bytes before `end`.
#[inline(always)]
fn text_before<const N: usize>(line: &[u8], end: u32) -> Option<&[u8; N]> {
    text_at(line, end.wrapping_sub(N as u32))
}

/// The `N` bytes from `start` on.
#[inline(always)]
fn text_at<const N: usize>(line: &[u8], start: u32) -> Option<&[u8; N]> {
    line.get(start as usize..start as usize + N)?.first_chunk()
}

/// The header at the start if it is a whole and good TCP6 line without dotted quads; `None` for all else, good or not.
///
/// The longest line has more than 64 bytes of fields, but neither an address nor an address and the ports has.
#[inline(always)]
pub(super) fn tcp6(scan: impl Scan, prefix: &[u8]) -> Option<Header<'_>> {
    ensure(mostly(prefix.first_chunk())? == b"PROXY TCP6 ")?;
    let line = prefix.get(..TCP6_LENGTH_MAX).unwrap_or(prefix);
    let kinds = mostly(scan.hexadecimal(line, FIELDS_AT as usize))?;
    let (source, length) = mostly(address(scan, line, FIELDS_AT, &kinds))?;
    let from = FIELDS_AT + length + 1;
    let kinds = mostly(scan.hexadecimal(line, from as usize))?;
    let (destination, length) = mostly(address(scan, line, from, &kinds))?;
    // Where the three fields behind the source end, counted from the destination's start.
    let middle = without_lowest(kinds.spaces).trailing_zeros();
    let end = middle + 1 + (mostly((!kinds.digits).checked_shr(middle))? >> 1).trailing_zeros();
    let lengths = [middle - length - 1, end - middle - 1];
    let end = from + end;
    ensure(mostly(text_at(line, end))? == b"\r\n")?;
    let ports = mostly(scan.ports(mostly(text_before(line, end))?, lengths))?;
    let block = Block::Inet6(Pair::new(source.to_be_bytes(), destination.to_be_bytes(), ports));
    let length = end as usize + 2;
    Head::of_stream(Version::V1, block, length, length).over(prefix)
}

/// The IPv6 address without a dotted quad at `from`, where `kinds` start, and its length; a space follows.
#[inline(always)]
fn address(scan: impl Scan, line: &[u8], from: u32, kinds: &Hexadecimal) -> Option<(u128, u32)> {
    let length = kinds.spaces.trailing_zeros();
    let field = to_lowest(kinds.spaces) ^ lowest(kinds.spaces);
    let (digits, colons) = (kinds.digits & field, kinds.colons & field);
    // Set where the first colon of `::` is, which may stand once; a lone colon is at neither end of the field.
    let gap = colons & colons >> 1;
    let lone_at_ends = colons & (1 | field ^ field >> 1) & !(gap | gap << 1);
    let five_in_a_row = digits & digits >> 1 & digits >> 2 & digits >> 3 & digits >> 4;
    ensure(digits | colons == field && without_lowest(gap) | lone_at_ends | five_in_a_row == 0)?;
    let mut lasts = digits & !(digits >> 1);
    let groups = lasts.count_ones();
    ensure(if gap == 0 { groups == 8 } else { groups < 8 })?;
    // Every place takes its turn, those in the gap too: so the array stays in registers. In memory it would be read at
    // once as a whole after it was written in parts, for which a processor waits until all the parts have left it.
    let before_gap = (lasts & gap.wrapping_sub(1)).count_ones();
    let in_gap = ((1u32 << (8 - groups)) - 1) << before_gap;
    let last_start = line.len().checked_sub(4)?;
    let mut texts = [[0; 4]; 8];
    for (place, text) in texts.iter_mut().enumerate() {
        let start = (from + lasts.trailing_zeros()).wrapping_sub(3) as usize;
        let read = *line.get(start.min(last_start)..)?.first_chunk()?;
        let is_group = in_gap >> place & 1 == 0;
        *text = if is_group { read } else { [0; 4] };
        lasts = if is_group { without_lowest(lasts) } else { lasts };
    }
    Some((u128::from_be_bytes(scan.hexadecimal_groups(texts)), length))
}

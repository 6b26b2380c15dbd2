//! Good TCP lines, read from bitmaps of their bytes.

use super::super::address::{Block, Pair};
use super::super::header::{Head, Header, Version};
use super::{TCP4_LENGTH_MAX, TCP6_LENGTH_MAX};
use crate::scan::{self, Hexadecimal, Scan};

/// Where the first field of a TCP line starts.
const FIELDS_AT: u32 = 11;

const _: () = assert!(TCP4_LENGTH_MAX < 64, "one bitmap has the whole line");

/// The header at the start if it is a whole and good TCP4 line; `None` for all else, good or not.
#[inline(always)]
pub(super) fn tcp4(scan: impl Scan, prefix: &[u8]) -> Option<Header<'_>> {
    if prefix.first_chunk()? != b"PROXY TCP4 " {
        return None;
    }
    let line = prefix.get(..TCP4_LENGTH_MAX).unwrap_or(prefix);
    let kinds = scan.decimal(line)?;
    // The bytes behind the four fields.
    let spaces = kinds.spaces >> FIELDS_AT << FIELDS_AT;
    let source_end = spaces.trailing_zeros();
    let destination_end = (spaces & spaces.wrapping_sub(1)).trailing_zeros();
    let behind = kinds.non_digits & !below(destination_end + 1)?;
    let port_end = behind.trailing_zeros();
    let end = (behind & behind.wrapping_sub(1)).trailing_zeros();

    let fields = below(end)? & !below(FIELDS_AT)?;
    let addresses = fields & below(destination_end)?;
    let separators = kinds.non_digits & fields;
    let leading_zeros = (separators << 1 | 1 << FIELDS_AT) & kinds.zeros & (fields & !separators) >> 1;
    let is_dotted = (kinds.dots | 1 << source_end) & addresses == separators & addresses;
    let ports_fit = (1..=5).contains(&(port_end - destination_end - 1)) && (1..=5).contains(&(end - port_end - 1));
    if !is_dotted || leading_zeros != 0 || !ports_fit {
        return None;
    }
    if line.get(port_end as usize)? != &b' ' || line.get(end as usize..)?.first_chunk()? != b"\r\n" {
        return None;
    }
    let windows = [text_before(line, source_end)?, text_before(line, destination_end)?];
    let quads = scan.dotted_quads(
        windows,
        [
            ((separators & below(source_end + 1)?) >> FIELDS_AT) as u32,
            ((kinds.non_digits & below(destination_end + 1)?) >> source_end >> 1) as u32,
        ],
    )?;
    let ports = [
        scan::decimal_u16(*text_before(line, port_end)?, port_end - destination_end - 1)?,
        scan::decimal_u16(*text_before(line, end)?, end - port_end - 1)?,
    ];
    let quad = |bits: u64| (bits as u32).to_le_bytes();
    let block = Block::Inet(Pair::new(quad(quads), quad(quads >> 32), ports));
    let length = end as usize + 2;
    Head::of_stream(Version::V1, block, length, length).over(prefix)
}

/// The bits below this one, 0..=63; `None` above.
#[inline(always)]
fn below(bit: u32) -> Option<u64> {
    Some(1u64.checked_shl(bit)? - 1)
}

/// The `N` bytes before `end`.
#[inline(always)]
fn text_before<const N: usize>(line: &[u8], end: u32) -> Option<&[u8; N]> {
    line.get(..end as usize)?.last_chunk()
}

/// The header at the start if it is a whole and good TCP6 line without dotted quads; `None` for all else, good or not.
///
/// The longest line has more than 64 bytes of fields, but neither an address nor an address and the ports has.
#[inline(always)]
pub(super) fn tcp6(scan: impl Scan, prefix: &[u8]) -> Option<Header<'_>> {
    if prefix.first_chunk()? != b"PROXY TCP6 " {
        return None;
    }
    let line = prefix.get(..TCP6_LENGTH_MAX).unwrap_or(prefix);
    let (source, length) = address(scan, line, FIELDS_AT, &scan.hexadecimal(line, FIELDS_AT as usize)?)?;
    let from = FIELDS_AT + length + 1;
    let kinds = scan.hexadecimal(line, from as usize)?;
    let (destination, length) = address(scan, line, from, &kinds)?;
    // Where the three fields behind the source end, counted from the destination's start.
    let middle = (kinds.spaces & kinds.spaces.wrapping_sub(1)).trailing_zeros();
    let end = middle + 1 + ((!kinds.digits).checked_shr(middle)? >> 1).trailing_zeros();
    let ports = [port(line, from + length + 1, from + middle)?, port(line, from + middle + 1, from + end)?];
    let end = (from + end) as usize;
    if line.get(end..)?.first_chunk()? != b"\r\n" {
        return None;
    }
    let block = Block::Inet6(Pair::new(source.to_be_bytes(), destination.to_be_bytes(), ports));
    Head::of_stream(Version::V1, block, end + 2, end + 2).over(prefix)
}

/// The IPv6 address without a dotted quad at `from`, where `kinds` start, and its length; a space follows.
#[inline(always)]
fn address(scan: impl Scan, line: &[u8], from: u32, kinds: &Hexadecimal) -> Option<(u128, u32)> {
    let length = kinds.spaces.trailing_zeros();
    let field = below(length)?;
    let (digits, colons) = (kinds.digits & field, kinds.colons & field);
    // Set where the first colon of `::` is, which may stand once; a lone colon is at neither end of the field.
    let gap = colons & colons >> 1;
    let lone_at_ends = colons & (1 | field ^ field >> 1) & !(gap | gap << 1);
    let five_in_a_row = digits & digits >> 1 & digits >> 2 & digits >> 3 & digits >> 4;
    if digits | colons != field || gap & gap.wrapping_sub(1) | lone_at_ends | five_in_a_row != 0 {
        return None;
    }
    let (mut firsts, mut lasts) = (digits & !(digits << 1), digits & !(digits >> 1));
    let groups = lasts.count_ones();
    if !(if gap == 0 { groups == 8 } else { groups < 8 }) {
        return None;
    }
    let before_gap = (lasts & gap.wrapping_sub(1)).count_ones();
    let (mut words, mut others) = ([0; 8], [32; 8]);
    for (word, others) in words.iter_mut().zip(&mut others).take(groups as usize) {
        let end = lasts.trailing_zeros() + 1;
        *word = u32::from_le_bytes(*text_before(line, from + end)?);
        *others = 32 - 8 * (end - firsts.trailing_zeros());
        firsts &= firsts.wrapping_sub(1);
        lasts &= lasts.wrapping_sub(1);
    }
    let address = u128::from_be_bytes(scan.hexadecimal_groups(&words, &others));
    Some((spread(address, groups, before_gap), length))
}

/// Moves the groups behind the gap, if there is one, from behind those before it to the end.
#[inline(always)]
fn spread(address: u128, groups: u32, before: u32) -> u128 {
    let top = u128::MAX.unbounded_shl(128 - 16 * before);
    address & top | (address & !top).unbounded_shr(128 - 16 * groups)
}

/// The port in `line[start..end]`.
#[inline(always)]
fn port(line: &[u8], start: u32, end: u32) -> Option<u16> {
    let length = end.wrapping_sub(start);
    let word = *text_before(line, end)?;
    let leading_zero = length > 1 && line.get(start as usize) == Some(&b'0');
    let plain = (1..=5).contains(&length) && scan::is_decimal(word, length) && !leading_zero;
    if plain { scan::decimal_u16(word, length) } else { None }
}

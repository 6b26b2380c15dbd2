//! Who makes room, of several whose turn it is: one of those who have most of them, so that nobody takes the places of others
//! by coming often.

use std::net::{IpAddr, Ipv6Addr};

use super::SlotId;

/// Of so many who would make room first, one of the peer, or client, that has most of them does.
pub const SHED_AMONG: usize = 16;

/// The first of the first [`SHED_AMONG`] of `waiting`, who would make room in this order, whose `who` has most of them.
pub fn of_the_most<W: PartialEq + Copy>(waiting: impl Iterator<Item = (SlotId, W)>) -> Option<SlotId> {
    let mut among = [None; SHED_AMONG];
    for (place, one) in among.iter_mut().zip(waiting) {
        *place = Some(one);
    }
    let among = among.iter().flatten();
    let of = |who: W| among.clone().filter(|(_, other)| *other == who).count();
    // `max_by_key` gives the last of equals: the one who would have made room first.
    among.clone().rev().max_by_key(|(_, who)| of(*who)).map(|(slot, _)| *slot)
}

/// The addresses that one client commonly has: of IPv6, a subscriber's whole /64.
pub fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shed(of: &[char]) -> Option<u32> {
        let slot = |index| SlotId { index, generation: 0 };
        of_the_most((0..).map(slot).zip(of.iter().copied())).map(|slot| slot.index)
    }

    #[test]
    fn of_whoever_has_most_the_first_makes_room() {
        assert_eq!(shed(&[]), None);
        assert_eq!(shed(&['a', 'b', 'c']), Some(0), "nobody has more than others: by age");
        assert_eq!(shed(&['a', 'b', 'c', 'b']), Some(1));
        let many: Vec<char> = std::iter::once('a').chain(std::iter::repeat_n('b', 40)).collect();
        assert_eq!(shed(&many), Some(1));
        // Who comes behind is not looked at.
        let behind: Vec<char> = ('a'..).take(SHED_AMONG).chain(std::iter::repeat_n('z', 40)).collect();
        assert_eq!(shed(&behind), Some(0));
    }

    #[test]
    fn a_household_is_an_address_or_a_64() {
        let of = |text: &str| household(text.parse().expect("an address")).to_string();
        assert_eq!(of("198.51.100.7"), "198.51.100.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}

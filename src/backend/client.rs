//! A client as far as a choice distinguishes it, and the keyed hash behind every table of this module.

use std::net::IpAddr;

use crate::net::canonical;

/// A client: an IPv4 address whole (also when it comes mapped into IPv6), an IPv6 address by its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientKey {
    bits: u64,
    v6: bool,
}

impl ClientKey {
    pub(super) fn of(client: IpAddr) -> ClientKey {
        match canonical(client) {
            IpAddr::V4(ip) => ClientKey { bits: u32::from(ip).into(), v6: false },
            IpAddr::V6(ip) => ClientKey { bits: (u128::from(ip) >> 64) as u64, v6: true },
        }
    }
}

/// What makes hashes unforeseeable to whoever does not know the seed; the same seed gives the same hashes everywhere.
///
/// Folded 64-bit multiplication: a few cycles a word. It is no cryptographic hash: it keeps clients from choosing their
/// bucket without knowing the seed, and that is all it is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secret {
    first: u64,
    second: u64,
}

impl Secret {
    pub(super) fn new(seed: u64) -> Secret {
        let mut dice = Dice(seed);
        Secret { first: dice.roll() | 1, second: dice.roll() }
    }

    /// Of two words.
    pub(super) fn hash(&self, a: u64, b: u64) -> u64 {
        let once = fold(a ^ self.second, b ^ self.first);
        fold(once ^ self.first, 0x9e37_79b9_7f4a_7c15)
    }

    /// Of a text.
    pub(super) fn hash_text(&self, text: &str) -> u64 {
        let bytes = text.as_bytes();
        bytes.chunks(8).fold(self.hash(bytes.len() as u64, 0), |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash(u64::from_le_bytes(word), hash)
        })
    }
}

/// What can be found in a [`LinkedMap`](super::map::LinkedMap).
pub(super) trait Hashed {
    fn hashed(&self, secret: &Secret) -> u64;
}

impl Hashed for ClientKey {
    fn hashed(&self, secret: &Secret) -> u64 {
        secret.hash(self.bits, self.v6.into())
    }
}

/// Random enough for jitter (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// 0..=`most`, even enough.
    pub(super) fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.roll()) * (u128::from(most) + 1)) >> 64) as u64
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ClientKey {
        ClientKey::of(text.parse().expect("an address"))
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_ipv6_counts_by_its_64() {
        assert_eq!(key("::ffff:192.0.2.7"), key("192.0.2.7"));
        assert_eq!(key("2001:db8:1:2::7"), key("2001:db8:1:2:ffff::1"));
        assert_ne!(key("2001:db8:1:2::7"), key("2001:db8:1:3::7"));
        assert_ne!(key("0:0:c000:0207::"), key("192.0.2.7"), "families do not meet");
    }

    #[test]
    fn a_seed_decides_and_buckets_fill_evenly() {
        let (one, two) = (Secret::new(1), Secret::new(2));
        assert_eq!(key("192.0.2.7").hashed(&one), key("192.0.2.7").hashed(&Secret::new(1)));
        assert_ne!(key("192.0.2.7").hashed(&one), key("192.0.2.7").hashed(&two));
        let mut buckets = [0_u32; 64];
        for n in 0..64_000_u32 {
            let key = ClientKey::of(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
            buckets[(key.hashed(&one) >> 58) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (850..1150).contains(count)), "{buckets:?}");
    }

    #[test]
    fn dice_stay_within_their_bounds_and_reach_both() {
        let mut dice = Dice(3);
        let rolls: Vec<u64> = (0..1000).map(|_| dice.up_to(9)).collect();
        assert!(rolls.iter().all(|&roll| roll <= 9) && rolls.contains(&0) && rolls.contains(&9));
        assert_eq!(Dice(4).up_to(0), 0);
    }
}

//! Weighted choices, reproducible: `normal=90,silent=10`.

use std::str::FromStr;

/// Highest weight of one item.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Items with weights, in the order given.
#[derive(Clone, Debug)]
pub struct Mix<T> {
    items: Vec<T>,
    /// Running totals of the weights; as long as `items`.
    totals: Vec<u64>,
}

impl<T> Mix<T> {
    /// Items of equal weight; at least one.
    pub fn even(items: impl IntoIterator<Item = T>) -> Mix<T> {
        Mix::weighted(items.into_iter().map(|item| (item, 1)))
    }

    fn weighted(parts: impl IntoIterator<Item = (T, u32)>) -> Mix<T> {
        let mut mix = Mix { items: Vec::new(), totals: Vec::new() };
        let mut total = 0;
        for (item, weight) in parts {
            total += u64::from(weight);
            mix.items.push(item);
            mix.totals.push(total);
        }
        mix
    }

    /// The items, in the order given.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// The index of the item that `random`, evenly distributed over all of `u64`, falls on.
    pub fn pick(&self, random: u64) -> usize {
        let total = self.totals.last().copied().unwrap_or(1);
        // The high half of the product maps the whole range evenly onto 0..total.
        let at = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        self.totals.partition_point(|end| *end <= at)
    }
}

impl<T: FromStr<Err = String>> FromStr for Mix<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<(T, u32)> = text.split(',').map(item).collect::<Result<_, _>>()?;
        if parts.iter().all(|(_, weight)| *weight == 0) {
            return Err("at least one weight must be above 0".into());
        }
        Ok(Mix::weighted(parts))
    }
}

fn item<T: FromStr<Err = String>>(part: &str) -> Result<(T, u32), String> {
    let (name, weight) = part.trim().split_once('=').unwrap_or((part.trim(), "1"));
    match weight.parse() {
        Ok(weight) if weight <= WEIGHT_MAX => Ok((name.parse()?, weight)),
        _ => Err(format!("the weight of `{name}` must be a number from 0 to {WEIGHT_MAX}, not `{weight}`")),
    }
}

/// The `number`-th value of the stream that `seed` names: SplitMix64 (Steele, Lea, Flood 2014).
pub fn random(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Word(String);

    impl FromStr for Word {
        type Err = String;
        fn from_str(text: &str) -> Result<Self, String> {
            if text.is_empty() { Err("empty".into()) } else { Ok(Word(text.into())) }
        }
    }

    #[test]
    fn weights_are_kept() {
        let mix: Mix<Word> = "a=90, b=10,c=0".parse().expect("right");
        let mut counts = [0; 3];
        for number in 0..100_000 {
            counts[mix.pick(random(7, number))] += 1;
        }
        assert!((89_000..91_000).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[2], 0);
        assert_eq!(mix.pick(0), 0);
        assert_eq!(mix.pick(u64::MAX), 1);
    }

    #[test]
    fn a_wrong_mix_says_what_is_wrong() {
        for (text, word) in [("a=x", "weight of `a`"), ("a=0", "above 0"), ("", "empty"), ("a=9999999", "weight")] {
            let error = text.parse::<Mix<Word>>().expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_stream_is_the_published_one() {
        // First outputs of SplitMix64 seeded with 1234567.
        assert_eq!(random(1234567, 0), 6457827717110365317);
        assert_eq!(random(1234567, 1), 3203168211198807973);
    }
}

//! Medians and spreads of a few rounds.

use serde::Serialize;

/// The middle and the ends of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle value; of an even number the mean of the two middle ones.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Some(Spread { median, min, max })
    }

    /// Of what `value` finds in the rounds.
    pub fn over<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> Option<Spread> {
        Spread::of(rounds.iter().map(value))
    }
}

/// Round by round `ours / theirs`, as far as both have rounds.
pub fn ratios<'a, T>(ours: &'a [T], theirs: &'a [T], value: impl Fn(&T) -> f64 + 'a) -> impl Iterator<Item = f64> + 'a {
    ours.iter().zip(theirs).map(move |(our, their)| value(our) / value(their))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was slow in the second round: the ratios do not show it, the ratio of means would.
        let (ours, theirs) = ([10.0, 30.0], [20.0, 60.0, 99.0]);
        assert_eq!(ratios(&ours, &theirs, |value| *value).collect::<Vec<_>>(), [0.5, 0.5]);
    }
}

//! The samples of one moment.

use std::collections::BTreeMap;

use hdrhistogram::Histogram as Recorded;

use super::families::{Counter, Family, Gauge, Histogram, Info};

/// All samples of one moment, by family.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of its labels, in the order of their names.
    pub labels: Box<[Box<str>]>,
    /// What it is.
    pub value: Value,
}

/// What a sample is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter, a gauge or an info.
    Number(Number),
    /// Of a histogram.
    Buckets(Buckets),
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Exact.
    Whole(u64),
    /// Any.
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Number {
        Number::Whole(value as u64)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Number {
        Number::Whole(value.into())
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Number {
        Number::Whole(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Real(value)
    }
}

/// How many values lie in each bucket of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Up to each bound of the family, those below included.
    pub up_to: Vec<u64>,
    /// All of them.
    pub count: u64,
    /// Their sum, in the family's unit: as exact as the histogram that they were recorded in.
    pub sum: f64,
}

impl Buckets {
    /// What was recorded, in so many units of the family: 1e-6 for microseconds of a family in seconds. A value counts where
    /// the middle of its step in the histogram lies.
    pub fn of(recorded: &Recorded<u64>, unit: f64, bounds: &[f64]) -> Buckets {
        let mut buckets = Buckets { up_to: vec![0; bounds.len()], count: recorded.len(), sum: 0.0 };
        for step in recorded.iter_recorded() {
            let (count, middle) = (step.count_at_value(), recorded.median_equivalent(step.value_iterated_to()) as f64);
            buckets.sum += middle * unit * count as f64;
            if let Some(first) = bounds.iter().position(|bound| middle * unit <= *bound) {
                buckets.up_to[first..].iter_mut().for_each(|so_far| *so_far += count);
            }
        }
        buckets
    }
}

impl Scrape {
    /// Enters a count.
    pub fn count<const N: usize>(&mut self, of: &'static Counter<N>, labels: [&str; N], value: impl Into<Number>) {
        self.enter(&of.0, &labels, Value::Number(value.into()));
    }

    /// Enters what something is at the moment.
    pub fn gauge<const N: usize>(&mut self, of: &'static Gauge<N>, labels: [&str; N], value: impl Into<Number>) {
        self.enter(&of.0, &labels, Value::Number(value.into()));
    }

    /// Enters times that were recorded, in so many units of the family.
    pub fn times<const N: usize>(
        &mut self,
        of: &'static Histogram<N>,
        labels: [&str; N],
        recorded: &Recorded<u64>,
        unit: f64,
    ) {
        self.enter(&of.0, &labels, Value::Buckets(Buckets::of(recorded, unit, of.0.bounds)));
    }

    /// Enters what is told by labels alone.
    pub fn info<const N: usize>(&mut self, of: &'static Info<N>, labels: [&str; N]) {
        self.enter(&of.0, &labels, Value::Number(Number::Whole(1)));
    }

    /// The samples of a family.
    pub fn samples(&self, family: &Family) -> &[Sample] {
        self.samples.get(family.name).map_or(&[], Vec::as_slice)
    }

    fn enter(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        self.samples.entry(family.name).or_default().push(Sample { labels, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::empty_histogram;

    #[test]
    fn values_lie_in_their_buckets_and_above_all_of_them() {
        let mut recorded = empty_histogram();
        [100, 900, 2_500, 2_500, 90_000_000].into_iter().for_each(|micros| recorded.saturating_record(micros));
        let buckets = Buckets::of(&recorded, 1e-6, &[0.0001, 0.001, 0.003, 60.0]);
        assert_eq!((buckets.up_to, buckets.count), (vec![1, 2, 4, 4], 5));
        assert!((buckets.sum - 90.006).abs() < 0.1, "{}", buckets.sum);
    }

    #[test]
    fn nothing_recorded_makes_empty_buckets() {
        let buckets = Buckets::of(&empty_histogram(), 1e-6, &[1.0]);
        assert_eq!(buckets, Buckets { up_to: vec![0], count: 0, sum: 0.0 });
    }
}

//! The samples of one moment, as the lines that they are in both formats: a scrape has thousands of them, and a line is
//! written once, when its sample is entered.

use std::fmt::Write;

use hdrhistogram::Histogram as Recorded;

use super::families::{ALL, Counter, Family, Gauge, Histogram, Info};

/// All samples of one moment, by family.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// By [`Family::place`].
    lines: Vec<String>,
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

impl Default for Scrape {
    fn default() -> Scrape {
        Scrape { lines: vec![String::new(); ALL.len()] }
    }
}

impl Scrape {
    /// Enters a count.
    pub fn count<const N: usize>(&mut self, of: &'static Counter<N>, labels: [&str; N], value: impl Into<Number>) {
        self.enter(&of.0, &labels, value.into());
    }

    /// Enters what something is at the moment.
    pub fn gauge<const N: usize>(&mut self, of: &'static Gauge<N>, labels: [&str; N], value: impl Into<Number>) {
        self.enter(&of.0, &labels, value.into());
    }

    /// Enters times that were recorded, in so many units of the family: 1e-6 for microseconds of a family in seconds. A value
    /// counts where the middle of its step in the histogram lies.
    pub fn times<const N: usize>(
        &mut self,
        of: &'static Histogram<N>,
        labels: [&str; N],
        recorded: &Recorded<u64>,
        unit: f64,
    ) {
        let family = &of.0;
        let Buckets { up_to, count, sum } = Buckets::of(recorded, unit, family.bounds);
        for (bound, count) in family.bounds.iter().zip(up_to) {
            self.line(family, "_bucket", &labels, Some(&format!("{bound:?}")), count.into());
        }
        self.line(family, "_bucket", &labels, Some("+Inf"), count.into());
        self.line(family, "_sum", &labels, None, sum.into());
        self.line(family, "_count", &labels, None, count.into());
    }

    /// Enters what is told by labels alone.
    pub fn info<const N: usize>(&mut self, of: &'static Info<N>, labels: [&str; N]) {
        self.enter(&of.0, &labels, Number::Whole(1));
    }

    /// The samples of a family, a line each.
    pub(super) fn lines(&self, family: &Family) -> &str {
        &self.lines[family.place]
    }

    fn enter(&mut self, family: &Family, labels: &[&str], value: Number) {
        self.line(family, family.kind.suffix(), labels, None, value);
    }

    fn line(&mut self, family: &Family, suffix: &str, labels: &[&str], bound: Option<&str>, value: Number) {
        let text = &mut self.lines[family.place];
        text.push_str(family.name);
        text.push_str(suffix);
        let labels = family.labels.iter().copied().zip(labels.iter().copied());
        let mut before = '{';
        for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            text.push(before);
            text.push_str(label);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        let written = match value {
            Number::Whole(value) => writeln!(text, " {value}"),
            Number::Real(value) => writeln!(text, " {value}"),
        };
        written.expect("a String takes everything");
    }
}

/// How many values lie in each bucket of a histogram.
#[derive(Debug, PartialEq)]
struct Buckets {
    /// Up to each bound of the family, those below included.
    up_to: Vec<u64>,
    /// All of them.
    count: u64,
    /// Their sum, in the family's unit: as exact as the histogram that they were recorded in.
    sum: f64,
}

impl Buckets {
    fn of(recorded: &Recorded<u64>, unit: f64, bounds: &[f64]) -> Buckets {
        let mut buckets = Buckets { up_to: vec![0; bounds.len()], count: recorded.len(), sum: 0.0 };
        if recorded.is_empty() {
            return buckets;
        }
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

fn push_escaped(text: &mut String, value: &str) {
    if !value.contains(['\\', '"', '\n']) {
        return text.push_str(value);
    }
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
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

    #[test]
    fn every_family_has_its_own_place() {
        assert!(ALL.iter().enumerate().all(|(number, family)| family.place == number));
    }
}

//! A histogram of fixed size: eight steps to every doubling, so that each figure is right to an eighth.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Steps to one doubling, as a power of two.
const STEP_BITS: u32 = 3;
const STEPS: usize = 1 << STEP_BITS;
/// Values from here on are counted as one less.
const VALUES: u32 = 40;
const BUCKETS: usize = (VALUES - STEP_BITS + 1) as usize * STEPS;

/// How often which values came: 2.5 KiB, whatever is recorded.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

/// What a [`Histogram`] said at one moment, in the unit of what was recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramReport {
    /// Values recorded.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest; exact.
    pub max: u64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// Nine of ten are at most this.
    pub p90: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1000 are at most this.
    pub p999: u64,
    /// How many are at most a bound: `[bound, count]` for each of [`Histogram::BOUNDS`].
    pub at_most: Vec<(u64, u64)>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Bounds of [`HistogramReport::at_most`]: the last value before each power of four.
    pub const BOUNDS: [u64; 14] = {
        let mut bounds = [0; 14];
        let mut next = 0;
        while next < bounds.len() {
            bounds[next] = (1 << (2 * (next + 1))) - 1;
            next += 1;
        }
        bounds
    };

    /// Counts one value.
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts `value` as many times as `count` says.
    pub(crate) fn record_many(&self, value: u64, count: u64) {
        self.buckets[index(value)].fetch_add(count, Ordering::Relaxed);
        self.sum.fetch_add(value * count, Ordering::Relaxed);
        // Seldom true after the first few, and a load costs nothing.
        if value > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Counts what one thread has gathered, which is empty then.
    pub(crate) fn take(&self, gathered: &mut Gathered) {
        let Gathered { bucket, count, sum, max } = std::mem::take(gathered);
        if count > 0 {
            self.buckets[bucket].fetch_add(count, Ordering::Relaxed);
            self.sum.fetch_add(sum, Ordering::Relaxed);
            if max > self.max.load(Ordering::Relaxed) {
                self.max.fetch_max(max, Ordering::Relaxed);
            }
        }
    }

    /// What was recorded so far. What is recorded meanwhile is in it or not.
    #[must_use]
    pub fn report(&self) -> HistogramReport {
        let counts: Vec<u64> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max = self.max.load(Ordering::Relaxed);
        let quantile = |per_mille: u64| {
            let rank = (count * per_mille).div_ceil(1000).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            found.map_or(0, |found| highest(found).min(max))
        };
        let at_most = |bound: u64| (bound, counts[..=index(bound)].iter().sum());
        HistogramReport {
            count,
            sum: self.sum.load(Ordering::Relaxed),
            max,
            p50: quantile(500),
            p90: quantile(900),
            p99: quantile(990),
            p999: quantile(999),
            at_most: Self::BOUNDS.into_iter().map(at_most).collect(),
        }
    }
}

/// Values of one bucket that are still to be counted: most batches have values of one size.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    bucket: usize,
    count: u64,
    sum: u64,
    max: u64,
}

impl Gathered {
    /// Adds `value` as many times as `count` says; what is of another bucket is counted in `histogram` first.
    pub(crate) fn add_many(&mut self, value: u64, count: u64, histogram: &Histogram) {
        let bucket = index(value);
        if bucket != self.bucket {
            histogram.take(self);
            self.bucket = bucket;
        }
        self.count += count;
        self.sum += value * count;
        self.max = self.max.max(value);
    }
}

/// The bucket of a value.
fn index(value: u64) -> usize {
    let value = value.min((1 << VALUES) - 1);
    let doublings = value.max(1).ilog2();
    let Some(shift) = doublings.checked_sub(STEP_BITS) else {
        return usize::try_from(value).unwrap_or(usize::MAX);
    };
    let step = usize::try_from(value >> shift).unwrap_or(usize::MAX) - STEPS;
    (shift as usize + 1) * STEPS + step
}

/// The largest value of a bucket.
fn highest(index: usize) -> u64 {
    let (row, step) = (index / STEPS, index % STEPS);
    match row.checked_sub(1) {
        None => step as u64,
        Some(shift) => (((STEPS + step + 1) as u64) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_bucket_whose_bounds_are_an_eighth_apart() {
        let mut before = None;
        for index_wanted in 0..BUCKETS {
            let high = highest(index_wanted);
            let low = before.map_or(0, |before: u64| before + 1);
            assert!(low <= high, "{index_wanted}");
            assert_eq!((index(low), index(high)), (index_wanted, index_wanted));
            assert!(high - low <= low / 8, "{low}..={high}");
            before = Some(high);
        }
        assert_eq!(before, Some((1 << VALUES) - 1));
        assert_eq!(index(u64::MAX), BUCKETS - 1, "what is beyond counts as the largest");
    }

    #[test]
    fn quantiles_are_right_to_an_eighth_and_the_largest_exactly() {
        let histogram = Histogram::default();
        (1..=10_000u64).for_each(|value| histogram.record(value));
        let report = histogram.report();
        assert_eq!((report.count, report.sum, report.max), (10_000, 50_005_000, 10_000));
        for (found, exact) in
            [(report.p50, 5000), (report.p90, 9000), (report.p99, 9900), (report.p999, 9990)]
        {
            assert!((exact..=exact + exact / 8).contains(&found), "{found} for {exact}");
        }
    }

    #[test]
    fn counts_at_bounds_never_fall_and_nothing_recorded_is_nothing() {
        let histogram = Histogram::default();
        assert_eq!(histogram.report().p99, 0);
        [0, 4, 5, 300, 1 << 30].into_iter().for_each(|value| histogram.record(value));
        let counts: Vec<u64> = histogram.report().at_most.iter().map(|(_, count)| *count).collect();
        assert!(counts.is_sorted(), "{counts:?}");
        assert_eq!(counts.last(), Some(&4), "the largest is beyond every bound");
        assert_eq!(counts[..4], [1, 3, 3, 3], "up to 3, 15, 63 and 255");
    }
}

//! Latencies for people and for Prometheus.

use hdrhistogram::Histogram;

/// Upper bounds of the buckets in µs: from a quick sync to a call that waited for its deadline.
pub(crate) const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// A histogram in the shape of Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buckets {
    /// How many were at most the bound of the same position in [`BOUNDS_US`].
    pub(crate) cumulative: [u64; BOUNDS_US.len()],
    pub(crate) count: u64,
    pub(crate) sum_us: u64,
}

impl Buckets {
    /// Sorts a histogram's cells into the buckets. A cell that reaches past a bound counts above
    /// it, so latency is never shown better than it was. Count and sum never go back as the
    /// histogram grows.
    pub(super) fn of(histogram: &Histogram<u64>) -> Buckets {
        let mut buckets = Buckets {
            cumulative: [0; BOUNDS_US.len()],
            count: 0,
            sum_us: 0,
        };
        for (value_us, count) in cells(histogram) {
            let highest = histogram.highest_equivalent(value_us);
            if let Some(at) = BOUNDS_US.iter().position(|&bound| highest <= bound) {
                buckets.cumulative[at] += count;
            }
            buckets.count += count;
            buckets.sum_us = buckets
                .sum_us
                .saturating_add(value_us.saturating_mul(count));
        }
        let mut below = 0;
        for bucket in &mut buckets.cumulative {
            below += *bucket;
            *bucket = below;
        }
        buckets
    }
}

/// The cells that hold anything: their middle in µs, and how many are in them.
pub(super) fn cells(histogram: &Histogram<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
    histogram.iter_recorded().map(|cell| {
        (
            histogram.median_equivalent(cell.value_iterated_to()),
            cell.count_since_last_iteration(),
        )
    })
}

/// A time in µs in seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 285 years of microseconds"
)]
pub(crate) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cores::latency_histogram;

    #[test]
    fn a_bucket_counts_all_that_were_at_most_its_bound() {
        let mut histogram = latency_histogram();
        for us in [1, 50, 51, 999_000, 60_000_000] {
            histogram.record(us).unwrap();
        }
        let buckets = Buckets::of(&histogram);
        assert_eq!(buckets.cumulative[0], 2, "50 µs");
        assert_eq!(buckets.cumulative[1], 3, "100 µs");
        assert_eq!(buckets.cumulative[17], 4, "30 s");
        assert_eq!(buckets.count, 5);
    }

    proptest! {
        #[test]
        fn buckets_never_go_back_and_stay_within_a_percent(values in prop::collection::vec(1u64..60_000_000, 1..40)) {
            let mut histogram = latency_histogram();
            let mut before = Buckets::of(&histogram);
            for &value in &values {
                histogram.record(value).unwrap();
                let after = Buckets::of(&histogram);
                prop_assert!(after.sum_us > before.sum_us && after.count == before.count + 1);
                prop_assert!(after.cumulative.iter().zip(&before.cumulative).all(|(a, b)| a >= b));
                prop_assert!(after.cumulative.is_sorted() && after.cumulative[17] <= after.count);
                before = after;
            }
            let sum: u64 = values.iter().sum();
            prop_assert!(before.sum_us.abs_diff(sum) <= sum / 50 + 1);
        }
    }
}

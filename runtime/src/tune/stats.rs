//! What samples say of a time, and how far two orders agree.

/// How sure an interval is meant to be.
pub const CONFIDENCE: f64 = 0.95;

/// A median, and where the true one lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The middle of the samples, or the mean of the two in the middle.
    pub median: f64,
    /// The sample below which the true median lies in few cases.
    pub low: f64,
    /// The sample above which it lies in few cases.
    pub high: f64,
    /// In which share of cases the true median lies between them: at least [`CONFIDENCE`], but for 5 samples or fewer.
    pub confidence: f64,
}

impl Interval {
    /// Of at least one sample. The interval is that of order statistics, which holds whatever the samples' distribution: the
    /// true median is below the `i`-th of `n` samples as often as a fair coin shows heads at most `i - 1` times of `n`.
    ///
    /// # Panics
    /// If there is no sample.
    pub fn of(samples: &[f64]) -> Self {
        assert!(!samples.is_empty(), "a median is of samples");
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let last = n - 1;
        // The share of cases in which at most `rank` of `n` samples lie below the true median, for growing `rank`. By
        // logarithms: one case of 2^n is less than the least f64, where there are many samples.
        let mut heads = -(n as f64) * std::f64::consts::LN_2;
        let (mut outside, mut rank) = (heads.exp(), 0);
        while rank + 1 < n / 2 {
            let next = heads + ((n - rank) as f64 / (rank + 1) as f64).ln();
            if 2.0 * (outside + next.exp()) > 1.0 - CONFIDENCE {
                break;
            }
            heads = next;
            outside += next.exp();
            rank += 1;
        }
        Interval {
            median: (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0,
            low: sorted[rank],
            high: sorted[last - rank],
            confidence: 1.0 - 2.0 * outside,
        }
    }

    /// Half its width over the median.
    pub fn error(&self) -> f64 {
        if self.median > 0.0 { (self.high - self.low) / 2.0 / self.median } else { 0.0 }
    }

    /// Whether it is as sure as intervals are meant to be, and as narrow as `error` says.
    pub fn is_within(&self, error: f64) -> bool {
        self.confidence >= CONFIDENCE && self.error() <= error
    }
}

/// Spearman's rank correlation of pairs: 1 where both orders agree, -1 where one is the other turned around. `None` of fewer
/// than three pairs, or where one side is all alike.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(pairs.iter().map(|pair| pair.0)), ranks(pairs.iter().map(|pair| pair.1)));
    let mean = (pairs.len() - 1) as f64 / 2.0;
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let (both, of_a, of_b) = (sum(&a, &b), sum(&a, &a), sum(&b, &b));
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a * of_b).sqrt())
}

/// From 0; those that are equal share the mean of their ranks.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let of = |x: f64| {
        let below = values.iter().filter(|&&y| y < x).count();
        let alike = values.iter().filter(|&&y| y == x).count();
        below as f64 + (alike - 1) as f64 / 2.0
    };
    values.iter().map(|&x| of(x)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of ranks for the median's interval at 95% (Conover, Practical Nonparametric Statistics).
    #[test]
    fn an_interval_is_that_of_order_statistics() {
        for (n, rank) in
            [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (20, 5), (50, 17), (100, 39), (2000, 955)]
        {
            let samples: Vec<f64> = (0..n).map(f64::from).collect();
            let found = Interval::of(&samples);
            let last = f64::from(n - 1);
            assert_eq!((found.low, found.high), (f64::from(rank), last - f64::from(rank)), "{n}");
            assert_eq!(found.median, last / 2.0);
            assert_eq!(found.confidence >= CONFIDENCE, n >= 6, "{n}: {}", found.confidence);
        }
        assert_eq!(Interval::of(&[3.0; 3]).confidence, 0.75);
    }

    #[test]
    fn one_sample_is_far_off_and_the_interval_is_not() {
        let mut samples = vec![1.0; 40];
        samples.extend([50.0, 60.0]);
        let found = Interval::of(&samples);
        assert_eq!((found.median, found.low, found.high, found.error()), (1.0, 1.0, 1.0, 0.0));
        assert!(found.is_within(0.01) && !Interval::of(&[1.0; 3]).is_within(0.01), "three samples are not sure");
    }

    /// Drawn from a skewed distribution whose median is known, by a fixed sequence.
    #[test]
    fn the_true_median_lies_in_it_as_often_as_it_says() {
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 / (1u64 << 53) as f64).powi(3)
        };
        for n in [6, 15, 40] {
            let held = (0..4000).filter(|_| {
                let found = Interval::of(&(0..n).map(|_| draw()).collect::<Vec<f64>>());
                found.low <= 0.125 && 0.125 <= found.high
            });
            let held = held.count() as f64 / 4000.0;
            assert!((0.94..1.0).contains(&held), "{n} samples: {held}");
        }
    }

    #[test]
    fn ranks_agree_or_do_not() {
        let of = |pairs: &[(f64, f64)]| rank_correlation(pairs);
        assert_eq!(of(&[(1.0, 10.0), (2.0, 20.0), (5.0, 21.0)]), Some(1.0));
        assert_eq!(of(&[(1.0, 3.0), (2.0, 2.0), (5.0, 1.0)]), Some(-1.0));
        assert_eq!(of(&[(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)]), None, "nothing to order");
        assert_eq!(of(&[(1.0, 1.0), (2.0, 2.0)]), None);
        let tied = of(&[(1.0, 1.0), (1.0, 2.0), (3.0, 3.0)]).unwrap();
        assert!((tied - 0.866).abs() < 1e-3, "{tied}");
    }
}

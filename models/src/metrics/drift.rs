//! Whether two lists of scores come from the same distribution.

use std::f64::consts::PI;

use serde::Serialize;

use super::bootstrap::percentile;
use super::{MetricError, finite};

/// Least share of a bin, so that an empty bin does not make the index infinite.
const SHARE_MIN: f64 = 1e-4;

/// The two-sample Kolmogorov-Smirnov statistic and its asymptotic p.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KolmogorovSmirnov {
    /// Greatest distance of the two distribution functions.
    pub statistic: f64,
    /// P(a distance as great or greater by chance), Kolmogorov's limit for large samples.
    pub p: f64,
}

/// Compares two samples.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Result<KolmogorovSmirnov, MetricError> {
    if a.is_empty() || b.is_empty() {
        return Err(MetricError::Empty);
    }
    finite(a)?;
    finite(b)?;
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(a), sorted(b));
    let (mut i, mut j, mut statistic) = (0, 0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        while i < a.len() && a[i] <= at {
            i += 1;
        }
        while j < b.len() && b[j] <= at {
            j += 1;
        }
        statistic = statistic.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    let (m, n) = (a.len() as f64, b.len() as f64);
    Ok(KolmogorovSmirnov { statistic, p: kolmogorov_survival(statistic * (m * n / (m + n)).sqrt()) })
}

/// P(K > x) of Kolmogorov's distribution, by whichever of its two series converges quickly.
fn kolmogorov_survival(x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.0 {
        // Jacobi's form: below 1 a few terms give every digit.
        let term = |k: f64| (-(2.0 * k - 1.0).powi(2) * PI * PI / (8.0 * x * x)).exp();
        let sum: f64 = (1..=20).map(|k| term(f64::from(k))).sum();
        return (1.0 - (2.0 * PI).sqrt() / x * sum).clamp(0.0, 1.0);
    }
    let term = |k: f64| (-2.0 * k * k * x * x).exp();
    let sum: f64 = (1..=20).map(|k| if k % 2 == 1 { term(f64::from(k)) } else { -term(f64::from(k)) }).sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

/// The population stability index of `now` against `then`: `Σ (q - p) ln(q / p)` over bins at the
/// quantiles of `then`; bins that coincide are one; a share counts at least 0.0001. By custom,
/// from 0.1 on a change is worth a look, from 0.25 on it is large.
pub fn population_stability_index(then: &[f64], now: &[f64], bins: usize) -> Result<f64, MetricError> {
    if then.is_empty() || now.is_empty() {
        return Err(MetricError::Empty);
    }
    if !(2..=1000).contains(&bins) {
        return Err(MetricError::Bins(bins));
    }
    finite(then)?;
    finite(now)?;
    let mut sorted = then.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut edges = Vec::with_capacity(bins - 1);
    for at in 1..bins {
        let edge = percentile(&sorted, at as f64 / bins as f64)?;
        if edges.last() != Some(&edge) {
            edges.push(edge);
        }
    }
    let shares = |values: &[f64]| -> Vec<f64> {
        let mut counts = vec![0_u64; edges.len() + 1];
        for value in values {
            // A value on an edge belongs to the bin below it.
            counts[edges.partition_point(|edge| edge < value)] += 1;
        }
        counts.into_iter().map(|count| (count as f64 / values.len() as f64).max(SHARE_MIN)).collect()
    };
    Ok(shares(then).iter().zip(shares(now)).map(|(p, q)| (q - p) * (q / p).ln()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_sample_does_not_drift() {
        let sample: Vec<f64> = (0..100).map(f64::from).collect();
        let found = kolmogorov_smirnov(&sample, &sample).expect("defined");
        assert_eq!((found.statistic, found.p), (0.0, 1.0));
        assert_eq!(population_stability_index(&sample, &sample, 10), Ok(0.0));
    }

    #[test]
    fn disjoint_samples_drift_wholly() {
        let low: Vec<f64> = (0..50).map(f64::from).collect();
        let high: Vec<f64> = (100..150).map(f64::from).collect();
        let found = kolmogorov_smirnov(&low, &high).expect("defined");
        assert_eq!(found.statistic, 1.0);
        assert!(found.p < 1e-20);
        assert!(population_stability_index(&low, &high, 10).expect("defined") > 1.0);
    }

    #[test]
    fn constant_scores_make_one_bin_not_a_division_by_zero() {
        let found = population_stability_index(&[0.5; 20], &[0.5; 30], 10).expect("defined");
        assert_eq!(found, 0.0);
        assert_eq!(population_stability_index(&[0.5], &[0.5], 1), Err(MetricError::Bins(1)));
        assert!(population_stability_index(&[], &[0.5], 10).is_err());
        assert!(kolmogorov_smirnov(&[f64::NAN], &[0.5]).is_err());
    }
}

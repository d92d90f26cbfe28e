//! Area under the ROC curve, as the Mann-Whitney statistic with ties counted half, and its
//! variance after DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988, 837-845), by midranks
//! as Sun and Xu (IEEE Signal Processing Letters 21, 2014, 1389-1393) compute it.

use serde::Serialize;

use super::{Interval, MetricError, finite, normal_cdf, normal_quantile, probability};

/// An AUC and its DeLong variance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Delong {
    /// The AUC.
    pub auc: f64,
    /// Its variance.
    pub variance: f64,
}

impl Delong {
    /// The normal interval, cut to 0..1.
    pub fn interval(&self, level: f64) -> Result<Interval, MetricError> {
        let half = normal_quantile(0.5 + probability(level)? / 2.0)? * self.variance.sqrt();
        Ok(Interval { lower: (self.auc - half).max(0.0), upper: (self.auc + half).min(1.0), level })
    }
}

/// Two models on the same cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedDelong {
    /// The first model's.
    pub first: Delong,
    /// The second model's.
    pub second: Delong,
    /// Covariance of both AUCs.
    pub covariance: f64,
}

impl PairedDelong {
    /// First minus second.
    pub fn difference(&self) -> f64 {
        self.first.auc - self.second.auc
    }

    /// Variance of the difference. Zero where both order the cases alike.
    pub fn variance(&self) -> f64 {
        (self.first.variance + self.second.variance - 2.0 * self.covariance).max(0.0)
    }

    /// The normal interval of the difference. For non-inferiority its lower bound is compared
    /// with the negative margin.
    pub fn interval(&self, level: f64) -> Result<Interval, MetricError> {
        let half = normal_quantile(0.5 + probability(level)? / 2.0)? * self.variance().sqrt();
        Ok(Interval { lower: self.difference() - half, upper: self.difference() + half, level })
    }

    /// Two-sided p of "no difference"; 1 where there is none and no variance either.
    pub fn p_two_sided(&self) -> f64 {
        let (difference, variance) = (self.difference(), self.variance());
        if difference == 0.0 { 1.0 } else { 2.0 * normal_cdf(-difference.abs() / variance.sqrt()) }
    }
}

/// The AUC: the share of pairs of a positive and a negative case in which the positive one has the
/// higher score, ties counted half. `truth` says which cases are positive.
pub fn auc(scores: &[f64], truth: &[bool]) -> Result<f64, MetricError> {
    Ok(Components::of(scores, truth)?.auc)
}

/// The AUC with its variance.
pub fn delong(scores: &[f64], truth: &[bool]) -> Result<Delong, MetricError> {
    let parts = Components::of(scores, truth)?;
    parts.enough()?;
    Ok(Delong { auc: parts.auc, variance: parts.covariance(&parts) })
}

/// The AUCs of two models on the same cases, with their covariance.
pub fn paired_delong(first: &[f64], second: &[f64], truth: &[bool]) -> Result<PairedDelong, MetricError> {
    let (a, b) = (Components::of(first, truth)?, Components::of(second, truth)?);
    a.enough()?;
    Ok(PairedDelong {
        first: Delong { auc: a.auc, variance: a.covariance(&a) },
        second: Delong { auc: b.auc, variance: b.covariance(&b) },
        covariance: a.covariance(&b),
    })
}

/// DeLong's structural components: each positive case's share of negatives below it, each
/// negative case's share of positives above it.
struct Components {
    auc: f64,
    positive: Vec<f64>,
    negative: Vec<f64>,
}

impl Components {
    fn of(scores: &[f64], truth: &[bool]) -> Result<Self, MetricError> {
        if scores.len() != truth.len() {
            return Err(MetricError::Lengths(scores.len(), truth.len()));
        }
        if scores.is_empty() {
            return Err(MetricError::Empty);
        }
        finite(scores)?;
        let of = |wanted: bool| -> Vec<f64> {
            scores.iter().zip(truth).filter(|(_, truth)| **truth == wanted).map(|(score, _)| *score).collect()
        };
        let (positive, negative) = (of(true), of(false));
        let (m, n) = (positive.len(), negative.len());
        if m == 0 || n == 0 {
            return Err(MetricError::OneClass { positive: m, negative: n });
        }
        // A case's midrank among all, less that within its own kind, counts the other kind below
        // it, ties half.
        let all = midranks(scores);
        let kind = |wanted: bool, own: &[f64], other: usize, turned: bool| -> Vec<f64> {
            let among_all =
                all.iter().zip(truth).filter(|(_, truth)| **truth == wanted).map(|(rank, _)| rank);
            among_all
                .zip(midranks(own))
                .map(|(all, own)| (all - own) / other as f64)
                .map(|share| if turned { 1.0 - share } else { share })
                .collect()
        };
        let positive_parts = kind(true, &positive, n, false);
        let negative_parts = kind(false, &negative, m, true);
        let auc = positive_parts.iter().sum::<f64>() / m as f64;
        Ok(Components { auc, positive: positive_parts, negative: negative_parts })
    }

    fn enough(&self) -> Result<(), MetricError> {
        if self.positive.len() < 2 || self.negative.len() < 2 {
            return Err(MetricError::TooFewForVariance {
                positive: self.positive.len(),
                negative: self.negative.len(),
            });
        }
        Ok(())
    }

    fn covariance(&self, other: &Components) -> f64 {
        sample_covariance(&self.positive, &other.positive) / self.positive.len() as f64
            + sample_covariance(&self.negative, &other.negative) / self.negative.len() as f64
    }
}

fn sample_covariance(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>() / (a.len() - 1) as f64
}

/// Ranks from 1, in the order given; ties share the mean of their ranks.
fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        // `==`, not `total_cmp`: 0.0 and -0.0 are a tie.
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        // Ranks start+1 to end.
        let middle = (start + 1 + end) as f64 / 2.0;
        order[start..end].iter().for_each(|at| ranks[*at] = middle);
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ratings of 58 normal and 51 abnormal CT images, Hanley and McNeil, Radiology 143 (1982)
    /// 29-36, table I: how many of each kind had rating 1 to 5.
    fn hanley() -> (Vec<f64>, Vec<bool>) {
        let (mut scores, mut truth) = (Vec::new(), Vec::new());
        for (abnormal, counts) in [(false, [33, 6, 6, 11, 2]), (true, [3, 2, 2, 11, 33])] {
            for (rating, count) in counts.into_iter().enumerate() {
                scores.extend(std::iter::repeat_n(rating as f64 + 1.0, count));
                truth.extend(std::iter::repeat_n(abnormal, count));
            }
        }
        (scores, truth)
    }

    #[test]
    fn the_worked_example_of_hanley_and_mcneil_with_delongs_variance() {
        // As Stata's manual prints it for this data set ([R] roctab, DeLong's standard error):
        // area 0.8932, standard error 0.0307, interval 0.83295 to 0.95339.
        let (scores, truth) = hanley();
        let found = delong(&scores, &truth).expect("both kinds");
        let interval = found.interval(0.95).expect("a level");
        assert!((found.auc - 0.8932).abs() < 5e-5, "{found:?}");
        assert!((found.variance.sqrt() - 0.0307).abs() < 5e-5, "{found:?}");
        assert!((interval.lower - 0.83295).abs() < 5e-6, "{interval:?}");
        assert!((interval.upper - 0.95339).abs() < 5e-6, "{interval:?}");
    }

    #[test]
    fn ties_count_half_and_negative_zero_ties_with_zero() {
        assert_eq!(auc(&[1.0, 1.0], &[true, false]), Ok(0.5));
        assert_eq!(auc(&[0.0, -0.0], &[true, false]), Ok(0.5));
        assert_eq!(auc(&[3.0, 1.0, 2.0], &[true, false, true]), Ok(1.0));
        assert_eq!(auc(&[1.0, 3.0, 2.0], &[true, false, true]), Ok(0.0));
    }

    #[test]
    fn a_model_is_not_inferior_to_itself() {
        let (scores, truth) = hanley();
        let paired = paired_delong(&scores, &scores, &truth).expect("both kinds");
        assert_eq!(paired.difference(), 0.0);
        assert!(paired.variance() < 1e-18);
        assert_eq!(paired.p_two_sided(), 1.0);
    }

    #[test]
    fn degenerate_sets_are_typed_errors() {
        assert_eq!(auc(&[], &[]), Err(MetricError::Empty));
        assert_eq!(auc(&[1.0], &[]), Err(MetricError::Lengths(1, 0)));
        assert_eq!(auc(&[1.0, f64::NAN], &[true, false]), Err(MetricError::NotFinite(1)));
        assert_eq!(auc(&[1.0, 2.0], &[true, true]), Err(MetricError::OneClass { positive: 2, negative: 0 }));
        assert_eq!(
            delong(&[1.0, 2.0, 0.0], &[true, false, false]),
            Err(MetricError::TooFewForVariance { positive: 1, negative: 2 })
        );
    }
}

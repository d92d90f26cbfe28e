//! Proportions with Wilson's score interval, and what a threshold makes of scores.

use serde::Serialize;

use super::{Interval, MetricError, finite, normal_quantile, probability};

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Proportion {
    /// Successes.
    pub successes: u64,
    /// Trials, above 0.
    pub trials: u64,
}

impl Proportion {
    /// A proportion; without trials it is none.
    pub fn new(successes: u64, trials: u64) -> Result<Self, MetricError> {
        if trials == 0 || successes > trials {
            return Err(MetricError::NotAProportion { successes, trials });
        }
        Ok(Proportion { successes, trials })
    }

    /// The point estimate.
    pub fn value(&self) -> f64 {
        self.successes as f64 / self.trials as f64
    }

    /// Wilson's score interval, without continuity correction.
    pub fn interval(&self, level: f64) -> Result<Interval, MetricError> {
        wilson(self.successes, self.trials, level)
    }
}

/// Wilson's score interval (Journal of the American Statistical Association 22, 1927, 209-212).
pub fn wilson(successes: u64, trials: u64, level: f64) -> Result<Interval, MetricError> {
    let p = Proportion::new(successes, trials)?.value();
    let n = trials as f64;
    let z = normal_quantile(0.5 + probability(level)? / 2.0)?;
    let z2 = z * z;
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At 0 of n and n of n one bound is 0 or 1 exactly; rounding must not move it.
    let lower = if successes == 0 { 0.0 } else { (middle - half).max(0.0) };
    let upper = if successes == trials { 1.0 } else { (middle + half).min(1.0) };
    Ok(Interval { lower, upper, level })
}

/// Cases by truth and by what the model says at a threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Positive, and said to be.
    pub true_positive: u64,
    /// Negative, but said to be positive.
    pub false_positive: u64,
    /// Negative, and said to be.
    pub true_negative: u64,
    /// Positive, but said to be negative.
    pub false_negative: u64,
}

impl Confusion {
    /// A score from the threshold on is positive, as in the manifest's tiers.
    pub fn at(threshold: f64, scores: &[f64], truth: &[bool]) -> Result<Self, MetricError> {
        if scores.len() != truth.len() {
            return Err(MetricError::Lengths(scores.len(), truth.len()));
        }
        finite(scores)?;
        finite(&[threshold])?;
        if scores.is_empty() {
            return Err(MetricError::Empty);
        }
        let mut table = Confusion::default();
        for (score, truth) in scores.iter().zip(truth) {
            *match (*score >= threshold, *truth) {
                (true, true) => &mut table.true_positive,
                (true, false) => &mut table.false_positive,
                (false, false) => &mut table.true_negative,
                (false, true) => &mut table.false_negative,
            } += 1;
        }
        Ok(table)
    }

    /// Of the positive cases, those said to be.
    pub fn sensitivity(&self) -> Result<Proportion, MetricError> {
        Proportion::new(self.true_positive, self.true_positive + self.false_negative)
    }

    /// Of the negative cases, those said to be.
    pub fn specificity(&self) -> Result<Proportion, MetricError> {
        Proportion::new(self.true_negative, self.true_negative + self.false_positive)
    }

    /// Of those said to be positive, those that are.
    pub fn positive_predictive_value(&self) -> Result<Proportion, MetricError> {
        Proportion::new(self.true_positive, self.true_positive + self.false_positive)
    }

    /// Of those said to be negative, those that are.
    pub fn negative_predictive_value(&self) -> Result<Proportion, MetricError> {
        Proportion::new(self.true_negative, self.true_negative + self.false_negative)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_itself_is_positive() {
        let table =
            Confusion::at(0.5, &[0.5, 0.4999, 0.6, 0.1], &[true, true, false, false]).expect("defined");
        assert_eq!(
            table,
            Confusion { true_positive: 1, false_negative: 1, false_positive: 1, true_negative: 1 }
        );
    }

    #[test]
    fn without_cases_there_is_no_proportion() {
        let table = Confusion::at(0.5, &[0.9], &[true]).expect("defined");
        assert!(table.specificity().is_err());
        assert!(table.negative_predictive_value().is_err());
        assert_eq!(table.sensitivity().map(|found| found.value()), Ok(1.0));
        assert!(Proportion::new(2, 1).is_err());
        assert!(wilson(1, 2, 1.0).is_err());
    }

    #[test]
    fn bounds_at_the_ends_are_exact() {
        assert_eq!(wilson(0, 10, 0.95).expect("defined").lower, 0.0);
        assert_eq!(wilson(10, 10, 0.95).expect("defined").upper, 1.0);
    }
}

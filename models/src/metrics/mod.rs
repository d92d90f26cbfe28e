//! Measures of a model's quality, computed on the box itself: discrimination, proportions,
//! overlap, drift, each with the interval that a plan asks for.
//!
//! Everything is pure. What is not defined (one class only, an empty group, a score that is not a
//! number) is a [`MetricError`], never a NaN: a plan's clause that cannot be judged must break.
//!
//! `models/tests/metrics_reference.rs` holds all of it against scikit-learn, statsmodels and scipy.

mod auc;
mod bootstrap;
mod drift;
mod normal;
mod overlap;
mod proportion;
mod subgroup;

pub use auc::{Delong, PairedDelong, auc, delong, paired_delong};
pub use bootstrap::{Bootstrap, Resamples, SplitMix64, percentile, percentile_interval};
pub use drift::{KolmogorovSmirnov, kolmogorov_smirnov, population_stability_index};
pub use normal::{normal_cdf, normal_quantile};
pub use overlap::{BoxEdges, dice_of_boxes, dice_of_masks};
pub use proportion::{Confusion, Proportion, wilson};
pub use subgroup::slices;

use serde::{Deserialize, Serialize};

/// A two-sided confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Its level, e.g. 0.95.
    pub level: f64,
}

/// Why a measure is not defined for what was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// No case at all.
    #[error("there is no case to measure")]
    Empty,
    /// Discrimination needs both kinds of cases.
    #[error("{positive} positive and {negative} negative cases: both kinds are needed")]
    OneClass {
        /// Cases whose truth is positive.
        positive: usize,
        /// Cases whose truth is negative.
        negative: usize,
    },
    /// A variance needs two cases of each kind.
    #[error("{positive} positive and {negative} negative cases: a variance needs two of each kind")]
    TooFewForVariance {
        /// Cases whose truth is positive.
        positive: usize,
        /// Cases whose truth is negative.
        negative: usize,
    },
    /// Lists that belong together differ in length.
    #[error("lists of {0} and {1} entries do not belong to the same cases")]
    Lengths(usize, usize),
    /// A score or coordinate is infinite or not a number.
    #[error("entry {0} is not a finite number")]
    NotFinite(usize),
    /// A level, probability or share outside the open interval from 0 to 1.
    #[error("{0} is not between 0 and 1")]
    NotAProbability(f64),
    /// More successes than trials, or no trials.
    #[error("{successes} of {trials} is not a proportion")]
    NotAProportion {
        /// Successes.
        successes: u64,
        /// Trials.
        trials: u64,
    },
    /// A resample names a case that is not there.
    #[error("a resample names case {index} of {cases}")]
    ResampleOutside {
        /// The index.
        index: usize,
        /// How many cases there are.
        cases: usize,
    },
    /// Too many resamples on which the measure is not defined.
    #[error("the measure is not defined on {undefined} of {total} resamples, more than one in ten")]
    UndefinedResamples {
        /// Resamples without a value.
        undefined: usize,
        /// All resamples.
        total: usize,
    },
    /// Bins or edges that cannot be used.
    #[error("{0} bins cannot be formed")]
    Bins(usize),
    /// Both masks or boxes are empty, so that their overlap means nothing.
    #[error("both are empty: their overlap is not defined")]
    BothEmpty,
}

fn finite(values: &[f64]) -> Result<(), MetricError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(MetricError::NotFinite(at)),
        None => Ok(()),
    }
}

fn probability(value: f64) -> Result<f64, MetricError> {
    if value > 0.0 && value < 1.0 { Ok(value) } else { Err(MetricError::NotAProbability(value)) }
}

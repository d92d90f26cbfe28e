//! A criterion's measures from rows.

use serde::{Deserialize, Serialize};

use super::Row;
use crate::metrics::{
    Bootstrap, Confusion, Interval, MetricError, Resamples, auc, delong, paired_delong, percentile_interval,
};
use crate::plan::{Criterion, Method, Metric, Tier};

/// A criterion's measure on a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Positive cases.
    pub positive: u64,
    /// Negative cases.
    pub negative: u64,
    /// The point estimate.
    pub estimate: f64,
    /// The interval that the criterion asks for.
    pub interval: Interval,
}

/// The estimate and interval that a criterion asks for.
pub fn measure(criterion: &Criterion, rows: &[&Row]) -> Result<Measured, MetricError> {
    let truth: Vec<bool> = rows.iter().map(|row| row.truth).collect();
    let level = criterion.interval.level;
    let interval = match criterion.interval.method {
        Method::Delong => delong(&scores(rows), &truth)?.interval(level)?,
        Method::Wilson => proportion(criterion, rows)?.interval(level)?,
        Method::Bootstrap => percentile_interval(rows.len(), resamples(criterion, &truth), level, |drawn| {
            estimate(criterion, &drawn.iter().map(|at| rows[*at]).collect::<Vec<_>>())
        })?,
    };
    let positive = truth.iter().filter(|truth| **truth).count() as u64;
    Ok(Measured {
        positive,
        negative: rows.len() as u64 - positive,
        estimate: estimate(criterion, rows)?,
        interval,
    })
}

/// The interval of "candidate less other" on the same cases: by paired DeLong where the criterion's
/// own interval is DeLong's, otherwise by the bootstrap over cases, both drawn together.
pub fn non_inferiority(
    criterion: &Criterion,
    candidate: &[&Row],
    other: &[&Row],
) -> Result<(f64, Interval), MetricError> {
    if candidate.len() != other.len() {
        return Err(MetricError::Lengths(candidate.len(), other.len()));
    }
    let truth: Vec<bool> = candidate.iter().map(|row| row.truth).collect();
    let level = criterion.interval.level;
    if criterion.interval.method == Method::Delong {
        let paired = paired_delong(&scores(candidate), &scores(other), &truth)?;
        return Ok((paired.difference(), paired.interval(level)?));
    }
    let difference = |drawn: &[usize]| {
        let of = |rows: &[&Row]| estimate(criterion, &drawn.iter().map(|at| rows[*at]).collect::<Vec<_>>());
        Ok(of(candidate)? - of(other)?)
    };
    let all: Vec<usize> = (0..candidate.len()).collect();
    let interval = percentile_interval(candidate.len(), resamples(criterion, &truth), level, difference)?;
    Ok((difference(&all)?, interval))
}

/// The point estimate among a group's rows.
pub fn subgroup_estimate(criterion: &Criterion, rows: &[&Row]) -> Result<f64, MetricError> {
    estimate(criterion, rows)
}

fn scores(rows: &[&Row]) -> Vec<f64> {
    rows.iter().map(|row| row.score).collect()
}

fn resamples(criterion: &Criterion, truth: &[bool]) -> impl Iterator<Item = Vec<usize>> {
    // `Plan::read` demands both; without them there is no resample, and so no interval.
    let count = criterion.interval.resamples.unwrap_or(0) as usize;
    Resamples::new(Bootstrap::Stratified, truth, criterion.interval.seed.unwrap_or(0)).take(count)
}

fn proportion(criterion: &Criterion, rows: &[&Row]) -> Result<crate::metrics::Proportion, MetricError> {
    let least = criterion.tier.unwrap_or(Tier::Reported);
    let said: Vec<f64> = rows.iter().map(|row| if row.tier >= least { 1.0 } else { 0.0 }).collect();
    let truth: Vec<bool> = rows.iter().map(|row| row.truth).collect();
    let table = Confusion::at(0.5, &said, &truth)?;
    match criterion.metric {
        Metric::Sensitivity => table.sensitivity(),
        Metric::Specificity => table.specificity(),
        Metric::Ppv => table.positive_predictive_value(),
        Metric::Npv => table.negative_predictive_value(),
        // `Plan::read` allows proportions only where this is called.
        Metric::Auc | Metric::Dice => Err(MetricError::Empty),
    }
}

fn estimate(criterion: &Criterion, rows: &[&Row]) -> Result<f64, MetricError> {
    match criterion.metric {
        Metric::Auc => auc(&scores(rows), &rows.iter().map(|row| row.truth).collect::<Vec<_>>()),
        Metric::Dice => {
            let overlaps: Vec<f64> =
                rows.iter().filter(|row| row.truth).map(|row| row.overlap.unwrap_or(f64::NAN)).collect();
            if overlaps.is_empty() {
                return Err(MetricError::Empty);
            }
            // A positive case without an overlap cannot be left out of the mean.
            if let Some(at) = overlaps.iter().position(|overlap| !(0.0..=1.0).contains(overlap)) {
                return Err(MetricError::NotFinite(at));
            }
            Ok(overlaps.iter().sum::<f64>() / overlaps.len() as f64)
        }
        _ => Ok(proportion(criterion, rows)?.value()),
    }
}

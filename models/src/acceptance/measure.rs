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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::IntervalBounds;

    fn criterion(metric: Metric, method: Method) -> Criterion {
        Criterion {
            id: "C".into(),
            modifications: Vec::new(),
            set_sha256: String::new(),
            label: "disk".into(),
            metric,
            tier: Some(Tier::Flagged),
            positive_min: 0,
            negative_min: 0,
            estimate_min: 0.0,
            interval: IntervalBounds {
                level: 0.95,
                method,
                lower_min: 0.0,
                resamples: Some(400),
                seed: Some(3),
            },
            non_inferior: None,
        }
    }

    fn row(at: usize, truth: bool, score: f64, overlap: Option<f64>) -> Row {
        let tier = if score >= 0.5 { Tier::Flagged } else { Tier::Suppressed };
        let case = format!("case-{at}");
        Row { case, label: "disk".into(), score, tier, truth, overlap, groups: BTreeMap::new() }
    }

    #[test]
    fn dice_is_the_mean_over_positive_cases_and_misses_none() {
        let mut rows = [
            row(0, true, 0.9, Some(0.8)),
            row(1, true, 0.9, Some(0.4)),
            row(2, true, 0.1, Some(0.0)),
            row(3, false, 0.1, None),
        ];
        let asked = criterion(Metric::Dice, Method::Bootstrap);
        let found = measure(&asked, &rows.iter().collect::<Vec<_>>()).expect("defined");
        assert!((found.estimate - 0.4).abs() < 1e-12);
        assert!(found.interval.lower < 0.4 && found.interval.upper > 0.4, "{found:?}");
        rows[2].overlap = None;
        assert!(measure(&asked, &rows.iter().collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn a_bootstrap_without_resamples_is_no_interval() {
        let mut asked = criterion(Metric::Sensitivity, Method::Bootstrap);
        asked.interval.resamples = None;
        let rows = [row(0, true, 0.9, None), row(1, false, 0.1, None)];
        assert_eq!(measure(&asked, &rows.iter().collect::<Vec<_>>()), Err(MetricError::Empty));
    }

    #[test]
    fn a_version_is_not_worse_than_itself_and_is_worse_than_a_better_one() {
        let rows = |missed: usize| -> Vec<Row> {
            (0..80)
                .map(|at| row(at, at % 2 == 0, if at % 2 == 0 && at >= missed { 0.9 } else { 0.1 }, None))
                .collect()
        };
        let asked = criterion(Metric::Sensitivity, Method::Bootstrap);
        let (worse, better) = (rows(20), rows(0));
        let (worse, better): (Vec<&Row>, Vec<&Row>) = (worse.iter().collect(), better.iter().collect());
        let (same, interval) = non_inferiority(&asked, &better, &better).expect("defined");
        assert_eq!((same, interval.lower, interval.upper), (0.0, 0.0, 0.0));
        let (difference, interval) = non_inferiority(&asked, &worse, &better).expect("defined");
        assert!((difference + 0.25).abs() < 1e-12 && interval.upper < 0.0, "{difference} {interval:?}");
        assert!(non_inferiority(&asked, &worse[1..], &better).is_err());
    }
}

//! The candidate beside the active model, on the same studies, before anyone approves it.
//!
//! Pure statistics over rows, and a report as Markdown or as a page, with plain SVG plots. Rows name
//! studies by the box's study key, never by anything of a patient's; the report names none at all.

mod page;
mod plot;
mod report;

pub use page::{Heading, page};
pub use report::text;

use serde::{Deserialize, Serialize};

use crate::metrics::{
    Interval, KolmogorovSmirnov, MetricError, kolmogorov_smirnov, percentile, population_stability_index,
    wilson,
};
use crate::plan::Tier;

/// Bins of the population stability index.
const BINS: usize = 10;
/// Level of the intervals.
const LEVEL: f64 = 0.95;

/// Both models on one study, for one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The box's key of the study.
    pub study: String,
    /// The output label's name.
    pub label: String,
    /// The active model.
    pub active: Outcome,
    /// The candidate.
    pub candidate: Outcome,
}

/// One model on one study, for one label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It ran.
    Ran {
        /// The greatest score; 0 where there is none.
        score: f64,
        /// What the box makes of it.
        tier: Tier,
        /// How long it took, in ms.
        latency_ms: f64,
    },
    /// It failed.
    Failed,
}

/// Studies by both models' tiers: `counts[active][candidate]`, in the order of [`TIERS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flips {
    /// The counts.
    pub counts: [[u64; 3]; 3],
}

/// The tiers, in the order of scores.
pub const TIERS: [Tier; 3] = [Tier::Suppressed, Tier::Flagged, Tier::Reported];

impl Flips {
    /// Studies of both.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Studies on which both are in the same tier.
    pub fn same(&self) -> u64 {
        (0..3).map(|at| self.counts[at][at]).sum()
    }

    /// Studies that the candidate puts higher.
    pub fn up(&self) -> u64 {
        self.counts.iter().enumerate().flat_map(|(at, row)| &row[at + 1..]).sum()
    }

    /// Studies that the candidate puts lower.
    pub fn down(&self) -> u64 {
        self.counts.iter().enumerate().flat_map(|(at, row)| &row[..at]).sum()
    }

    /// Cohen's kappa: agreement beyond chance, 1 is perfect; none where one tier holds all studies
    /// of both, so that chance alone agrees.
    pub fn kappa(&self) -> Option<f64> {
        let total = self.total() as f64;
        let by_chance: f64 = (0..3)
            .map(|at| {
                let active: u64 = self.counts[at].iter().sum();
                let candidate: u64 = self.counts.iter().map(|row| row[at]).sum();
                active as f64 * candidate as f64
            })
            .sum::<f64>()
            / (total * total);
        (total > 0.0 && by_chance < 1.0).then(|| (self.same() as f64 / total - by_chance) / (1.0 - by_chance))
    }
}

/// How long a model took, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// The longest.
    pub max: f64,
}

/// What the comparison of one label says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The output label's name.
    pub label: String,
    /// Studies, whether they ran or not.
    pub studies: usize,
    /// Studies on which the active model failed.
    pub active_failed: usize,
    /// Studies on which the candidate failed.
    pub candidate_failed: usize,
    /// Where both ran: tiers.
    pub flips: Flips,
    /// Share of the same tier, Wilson's interval.
    pub agreement: Interval,
    /// Population stability index of the candidate's scores against the active model's.
    pub psi: f64,
    /// Kolmogorov and Smirnov's distance of the scores.
    pub ks: KolmogorovSmirnov,
    /// Mean of "candidate less active" of a study's score.
    pub mean_difference: f64,
    /// The active model's time.
    pub active_latency: Latency,
    /// The candidate's time.
    pub candidate_latency: Latency,
}

/// Compares both models on one label. Needs at least one study on which both ran.
pub fn compare(label: &str, pairs: &[Pair]) -> Result<Comparison, MetricError> {
    let of_label: Vec<&Pair> = pairs.iter().filter(|pair| pair.label == label).collect();
    let failed =
        |of: fn(&Pair) -> Outcome| of_label.iter().filter(|pair| of(pair) == Outcome::Failed).count();
    let both = both(label, pairs);
    let mut flips = Flips::default();
    let place = |tier: Tier| TIERS.iter().position(|known| *known == tier).unwrap_or(0);
    for ((_, active, _), (_, candidate, _)) in &both {
        flips.counts[place(*active)][place(*candidate)] += 1;
    }
    let (active, candidate): (Vec<f64>, Vec<f64>) = both.iter().map(|(a, b)| (a.0, b.0)).unzip();
    let (active_ms, candidate_ms): (Vec<f64>, Vec<f64>) = both.iter().map(|(a, b)| (a.2, b.2)).unzip();
    Ok(Comparison {
        label: label.to_owned(),
        studies: of_label.len(),
        active_failed: failed(|pair| pair.active),
        candidate_failed: failed(|pair| pair.candidate),
        // Scores first: they refuse what is no number and what is empty.
        psi: population_stability_index(&active, &candidate, BINS)?,
        ks: kolmogorov_smirnov(&active, &candidate)?,
        mean_difference: active.iter().zip(&candidate).map(|(a, b)| b - a).sum::<f64>() / both.len() as f64,
        agreement: wilson(flips.same(), flips.total(), LEVEL)?,
        flips,
        active_latency: latency(active_ms)?,
        candidate_latency: latency(candidate_ms)?,
    })
}

type Ran = (f64, Tier, f64);

/// Where both ran: score, tier, latency of each.
fn both(label: &str, pairs: &[Pair]) -> Vec<(Ran, Ran)> {
    let ran = |outcome: Outcome| match outcome {
        Outcome::Ran { score, tier, latency_ms } => Some((score, tier, latency_ms)),
        Outcome::Failed => None,
    };
    pairs
        .iter()
        .filter(|pair| pair.label == label)
        .filter_map(|pair| Some((ran(pair.active)?, ran(pair.candidate)?)))
        .collect()
}

fn latency(mut values: Vec<f64>) -> Result<Latency, MetricError> {
    values.sort_by(f64::total_cmp);
    Ok(Latency {
        p50: percentile(&values, 0.5)?,
        p95: percentile(&values, 0.95)?,
        max: percentile(&values, 1.0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn pair(at: usize, active: f64, candidate: f64) -> Pair {
        let tier = |score: f64| match score {
            score if score >= 0.7 => Tier::Reported,
            score if score >= 0.4 => Tier::Flagged,
            _ => Tier::Suppressed,
        };
        let ran = |score, latency_ms| Outcome::Ran { score, tier: tier(score), latency_ms };
        Pair {
            study: format!("key-{at}"),
            label: "disk".into(),
            active: ran(active, 10.0 + at as f64),
            candidate: ran(candidate, 20.0),
        }
    }

    #[test]
    fn flips_and_agreement_are_counted_by_tier() {
        let pairs: Vec<Pair> = [(0.1, 0.1), (0.1, 0.5), (0.5, 0.8), (0.8, 0.1), (0.9, 0.9), (0.9, 0.9)]
            .into_iter()
            .enumerate()
            .map(|(at, (a, b))| pair(at, a, b))
            .collect();
        let found = compare("disk", &pairs).expect("defined");
        assert_eq!(found.flips.counts, [[1, 1, 0], [0, 0, 1], [1, 0, 2]]);
        assert_eq!((found.flips.same(), found.flips.up(), found.flips.down()), (3, 2, 1));
        // By hand: 1/2 agree, by chance (2*2 + 1*1 + 3*3) / 36.
        let chance = 14.0 / 36.0;
        assert!((found.flips.kappa().expect("defined") - (0.5 - chance) / (1.0 - chance)).abs() < 1e-12);
        assert!((found.mean_difference - 0.0).abs() < 1e-12);
        assert_eq!(found.candidate_latency, Latency { p50: 20.0, p95: 20.0, max: 20.0 });
        assert_eq!(found.active_latency.max, 15.0);
    }

    #[test]
    fn failures_are_counted_and_without_a_common_study_there_is_no_comparison() {
        let mut pairs = vec![pair(0, 0.9, 0.9), pair(1, 0.1, 0.1)];
        pairs[1].candidate = Outcome::Failed;
        let found = compare("disk", &pairs).expect("defined");
        assert_eq!((found.studies, found.candidate_failed, found.flips.total()), (2, 1, 1));
        assert_eq!(found.flips.kappa(), None);
        assert_eq!(compare("disk", &pairs[1..]), Err(MetricError::Empty));
        assert_eq!(compare("ring", &pairs), Err(MetricError::Empty));
    }
}

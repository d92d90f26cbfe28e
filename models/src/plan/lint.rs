//! What a plan may say, and hardly means: told to whoever writes it. A box takes such a plan as it is; a bound
//! that no result breaks is a bound that the people who sign it must see.

use super::document::{Metric, Monitor, NonInferior, Plan, Watched};
use crate::doubt::Doubt;

/// Below this level an interval says little.
const LEVEL_MIN: f64 = 0.8;
/// From this difference of a score on, two engines are not equivalent in any sense.
const SCORE_MAX: f64 = 0.5;

/// Everything that is doubtful in a plan that reads, at that time (seconds since 1970).
pub(super) fn doubts(plan: &Plan, now: i64) -> Vec<Doubt> {
    let mut found = Vec::new();
    if super::check::expires(plan).is_some_and(|end| end <= now) {
        found.push(Doubt::senseless(
            "plan.expires",
            "is past: nothing can be installed by this plan any more",
            "write the end of its force",
        ));
    }
    criteria(plan, &mut found);
    for (at, subgroup) in plan.subgroup.iter().enumerate() {
        for (key, nothing) in [("floor", subgroup.floor <= 0.0), ("cases_min", subgroup.cases_min == 0)] {
            if nothing {
                found.push(Doubt::warning(
                    format!("subgroup[{at}].{key}"),
                    "is 0: no group can fall below it",
                    "write the least that each group must reach, or remove the subgroup",
                ));
            }
        }
    }
    if plan.equivalence.score_max >= SCORE_MAX {
        found.push(Doubt::warning(
            "equivalence.score_max",
            format!("is {}: nearly every engine would do", plan.equivalence.score_max),
            "write how far a score may be off, e.g. 0.01",
        ));
    }
    for (at, one) in plan.monitor.iter().enumerate() {
        monitor(&format!("monitor[{at}]"), one, &mut found);
    }
    found
}

fn criteria(plan: &Plan, found: &mut Vec<Doubt>) {
    for (at, criterion) in plan.criterion.iter().enumerate() {
        let key = |name: &str| format!("criterion[{at}].{name}");
        let metric = criterion.metric;
        // Of which cases the metric is a measure.
        let positives = !matches!(metric, Metric::Specificity);
        let negatives = !matches!(metric, Metric::Sensitivity | Metric::Dice);
        for (name, few, asked, of) in [
            ("positive_min", criterion.positive_min, positives, "positive"),
            ("negative_min", criterion.negative_min, negatives, "negative"),
        ] {
            if few == 0 && asked {
                found.push(Doubt::warning(
                    key(name),
                    format!(
                        "is 0: no number of {of} cases is asked for, and {} is measured on them",
                        metric.name()
                    ),
                    "write how many the set must have; `lightbox acceptance-set check` counts them",
                ));
            }
        }
        if criterion.estimate_min <= 0.0 {
            found.push(Doubt::warning(
                key("estimate_min"),
                "is 0: every result meets it",
                "write the least point estimate, e.g. 0.9",
            ));
        }
        if criterion.interval.lower_min <= 0.0 {
            found.push(Doubt::warning(
                key("interval.lower_min"),
                "is 0: every interval meets it",
                "write the least lower bound, e.g. 0.8",
            ));
        }
        if criterion.interval.level < LEVEL_MIN {
            found.push(Doubt::warning(
                key("interval.level"),
                format!(
                    "is {}: the true value is outside such an interval in {:.0} of 100 cases",
                    criterion.interval.level,
                    100.0 * (1.0 - criterion.interval.level)
                ),
                "write 0.95, unless the submission says otherwise",
            ));
        }
        if matches!(criterion.non_inferior, Some(NonInferior { margin, .. }) if margin >= 1.0) {
            found.push(Doubt::warning(
                key("non_inferior.margin"),
                "is 1: nothing is inferior by more",
                "write how much worse it may be, e.g. 0.05",
            ));
        }
    }
    for label in plan.locked.label.iter().filter(|label| !label.negative) {
        let of_label = || plan.criterion.iter().filter(|criterion| criterion.label == label.name);
        let says = |metrics: &[Metric]| of_label().any(|criterion| metrics.contains(&criterion.metric));
        let (missing, other) = match () {
            () if of_label().next().is_none() => ("no [[criterion]] measures", "anything"),
            () if !says(&[Metric::Specificity, Metric::Auc, Metric::Ppv]) => {
                ("no [[criterion]] looks at false alarms of", "a model that flags every image")
            }
            () if !says(&[Metric::Sensitivity, Metric::Auc, Metric::Npv, Metric::Dice]) => {
                ("no [[criterion]] looks at what is missed of", "a model that flags no image")
            }
            () => continue,
        };
        found.push(Doubt::warning(
            "criterion",
            format!("{missing} label {:?}: {other} would do", label.name),
            "add one of metric \"sensitivity\" and one of metric \"specificity\", or one of \"auc\"",
        ));
    }
}

fn monitor(key: &str, monitor: &Monitor, found: &mut Vec<Doubt>) {
    let share = matches!(monitor.metric, Watched::FlaggedShare | Watched::FailedShare | Watched::ScoreKs);
    for (name, bound) in [("warn", monitor.warn), ("stop", monitor.stop)] {
        if share && bound > 1.0 {
            found.push(Doubt::senseless(
                format!("{key}.{name}"),
                format!(
                    "is {bound}: the {} is from 0 to 1, and so this can never happen",
                    monitor.metric.name()
                ),
                "write a number from 0 to 1, e.g. 0.2 for one study in five",
            ));
        }
    }
    if monitor.stop <= 0.0 {
        found.push(Doubt::senseless(
            format!("{key}.stop"),
            "is 0: every reading reaches it, and the box would stop the model at once",
            "write from which reading on the box acts",
        ));
    } else if monitor.warn <= 0.0 {
        found.push(Doubt::warning(
            format!("{key}.warn"),
            "is 0: people are warned at every reading",
            "write from which reading on they are told",
        ));
    }
}

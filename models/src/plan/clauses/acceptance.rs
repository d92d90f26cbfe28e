//! What the acceptance sets showed on this box.

use crate::acceptance::{Row, Run, measure, non_inferiority, subgroup_estimate};
use crate::manifest::Performance;
use crate::metrics::MetricError;
use crate::plan::document::{Comparator, Criterion, NonInferior, Plan, Tier};
use crate::plan::evaluate::{Ruling, Used};
use crate::plan::evidence::{Candidate, Evidence, Installed, Stage};
use crate::plan::verdict::ClauseName;

const ALL: [ClauseName; 7] = [
    ClauseName::AcceptanceSet,
    ClauseName::CasesMinimum,
    ClauseName::Estimate,
    ClauseName::ConfidenceBound,
    ClauseName::DeclaredEvidence,
    ClauseName::NonInferiority,
    ClauseName::SubgroupFloor,
];

pub(in crate::plan) fn rule(
    ruling: &mut Ruling,
    plan: &Plan,
    installed: Option<&Installed<'_>>,
    candidate: &Candidate<'_>,
    evidence: &Evidence,
    used: &Used<'_>,
) {
    let mut called = false;
    for criterion in &plan.criterion {
        let calls = used.first
            || used.modifications.iter().any(|allowed| criterion.modifications.contains(&allowed.id));
        if evidence.stage < Stage::Acceptance || !calls {
            let why = if calls { "judged after the run on this box" } else { "no modification calls for it" };
            for name in ALL {
                ruling.not_applicable(name, &criterion.id, why);
            }
            called |= calls;
            continue;
        }
        called = true;
        one(ruling, plan, installed, candidate, evidence, criterion);
    }
    // So that no verdict passes without a measurement. Where no modification is allowed, that
    // clause has said so.
    if !called && !ruling.is_broken(ClauseName::Modification) {
        ruling.rule(
            ClauseName::AcceptanceSet,
            "",
            false,
            "no criterion is called for, so that nothing is shown",
        );
    }
}

fn one(
    ruling: &mut Ruling,
    plan: &Plan,
    installed: Option<&Installed<'_>>,
    candidate: &Candidate<'_>,
    evidence: &Evidence,
    criterion: &Criterion,
) {
    let id = criterion.id.as_str();
    let rows = match rows(&evidence.runs, candidate.digest, criterion)
        .and_then(|rows| tiers(candidate, criterion, &rows).map(|()| rows))
    {
        Ok(rows) => {
            let why = format!("the plan's set was run, {} cases", rows.len());
            ruling.rule(ClauseName::AcceptanceSet, id, true, why);
            rows
        }
        Err(why) => {
            ruling.rule(ClauseName::AcceptanceSet, id, false, why);
            for name in &ALL[1..] {
                ruling.not_applicable(*name, id, "without the plan's set there is nothing to judge");
            }
            return;
        }
    };
    let positive = rows.iter().filter(|row| row.truth).count();
    let negative = rows.len() - positive;
    ruling.rule(
        ClauseName::CasesMinimum,
        id,
        positive >= criterion.positive_min as usize && negative >= criterion.negative_min as usize,
        format!(
            "{positive} positive and {negative} negative cases, asked for are {} and {}",
            criterion.positive_min, criterion.negative_min
        ),
    );
    let metric = criterion.metric.name();
    match measure(criterion, &rows) {
        Ok(found) => {
            ruling.rule(
                ClauseName::Estimate,
                id,
                found.estimate >= criterion.estimate_min,
                format!("{metric} {:.6}, asked for is {}", found.estimate, criterion.estimate_min),
            );
            ruling.rule(
                ClauseName::ConfidenceBound,
                id,
                found.interval.lower >= criterion.interval.lower_min,
                format!(
                    "{metric}'s {} interval by {:?} is {:.6} to {:.6}, its lower bound must reach {}",
                    found.interval.level,
                    criterion.interval.method,
                    found.interval.lower,
                    found.interval.upper,
                    criterion.interval.lower_min
                ),
            );
            declared(ruling, candidate, criterion, found.estimate);
        }
        Err(error) => {
            for name in [ClauseName::Estimate, ClauseName::ConfidenceBound, ClauseName::DeclaredEvidence] {
                ruling.rule(name, id, false, format!("{metric} cannot be judged: {error}"));
            }
        }
    }
    match &criterion.non_inferior {
        None => ruling.not_applicable(
            ClauseName::NonInferiority,
            id,
            "the criterion compares with no other version",
        ),
        Some(asked) => compared(ruling, plan, installed, evidence, criterion, asked, &rows),
    }
    subgroups(ruling, plan, criterion, &rows);
}

/// Whether what was measured here is what the bundle's own manifest declares of the same set.
fn declared(ruling: &mut Ruling, candidate: &Candidate<'_>, criterion: &Criterion, estimate: f64) {
    let of_this = |one: &&Performance| {
        (&one.set_sha256, &one.label, one.metric, one.tier)
            == (&criterion.set_sha256, &criterion.label, criterion.metric, criterion.tier)
    };
    match candidate.manifest.performance.iter().find(of_this) {
        None => ruling.not_applicable(
            ClauseName::DeclaredEvidence,
            &criterion.id,
            "the manifest declares no figure of this set, label and measure",
        ),
        Some(one) => ruling.rule(
            ClauseName::DeclaredEvidence,
            &criterion.id,
            (estimate - one.estimate).abs() <= one.tolerance,
            format!(
                "{} is {estimate:.6} here, the manifest declares {} and allows {} either way",
                criterion.metric.name(),
                one.estimate,
                one.tolerance
            ),
        ),
    }
}

/// The one run of a bundle on the criterion's set.
fn rows<'a>(runs: &'a [Run], model: &str, criterion: &Criterion) -> Result<Vec<&'a Row>, String> {
    let mut fitting = runs.iter().filter(|run| run.set_sha256 == criterion.set_sha256 && run.model == model);
    let (Some(run), None) = (fitting.next(), fitting.next()) else {
        let sets: Vec<&str> = runs.iter().map(|run| run.set_sha256.as_str()).collect();
        return Err(format!(
            "the plan's set is {}, of which there is not exactly one run of this bundle; run were {sets:?}",
            criterion.set_sha256
        ));
    };
    run.of_label(&criterion.label)
}

/// Whether each row's tier is what the candidate's thresholds make of its score.
fn tiers(candidate: &Candidate<'_>, criterion: &Criterion, rows: &[&Row]) -> Result<(), String> {
    let label = candidate.manifest.label.iter().find(|label| label.name == criterion.label);
    let label = label.ok_or_else(|| format!("the bundle has no label {:?}", criterion.label))?;
    match rows.iter().find(|row| Tier::of(label, row.score) != row.tier) {
        None => Ok(()),
        Some(row) => Err(format!(
            "case {:?} is {} by the run, but {} by the bundle's thresholds",
            row.case,
            row.tier.name(),
            Tier::of(label, row.score).name()
        )),
    }
}

fn compared(
    ruling: &mut Ruling,
    plan: &Plan,
    installed: Option<&Installed<'_>>,
    evidence: &Evidence,
    criterion: &Criterion,
    asked: &NonInferior,
    rows_here: &[&Row],
) {
    let id = criterion.id.as_str();
    let (other, digests): (&str, Vec<&str>) = match (asked.to, installed) {
        (_, None) => {
            ruling.not_applicable(ClauseName::NonInferiority, id, "nothing is installed to compare with");
            return;
        }
        (Comparator::Current, Some(installed)) => ("the active version", vec![installed.digest]),
        (Comparator::Baseline, Some(_)) => {
            ("the baseline", plan.baseline.digests.iter().map(String::as_str).collect())
        }
    };
    let runs = evidence.compared.get(&asked.to).map(Vec::as_slice).unwrap_or_default();
    let rows_there = digests
        .iter()
        .find_map(|digest| rows(runs, digest, criterion).ok())
        .ok_or_else(|| format!("there is no run of {other} on the plan's set"));
    let found = rows_there.and_then(|there| {
        // Both lists are in the set's order; that they are of the same cases is still checked.
        let pairs = rows_here.iter().zip(&there);
        if rows_here.len() != there.len()
            || pairs.into_iter().any(|(a, b)| a.case != b.case || a.truth != b.truth)
        {
            return Err(format!("the run of {other} is not of the same cases"));
        }
        non_inferiority(criterion, rows_here, &there).map_err(|error: MetricError| error.to_string())
    });
    match found {
        Ok((difference, interval)) => ruling.rule(
            ClauseName::NonInferiority,
            id,
            interval.lower >= -asked.margin,
            format!(
                "{} differs from {other} by {difference:.6}, {} interval {:.6} to {:.6}; allowed is down to {}",
                criterion.metric.name(),
                interval.level,
                interval.lower,
                interval.upper,
                -asked.margin
            ),
        ),
        Err(why) => ruling.rule(ClauseName::NonInferiority, id, false, format!("cannot be judged: {why}")),
    }
}

fn subgroups(ruling: &mut Ruling, plan: &Plan, criterion: &Criterion, rows: &[&Row]) {
    let mut any = false;
    for group in plan.subgroup.iter().filter(|group| group.criterion == criterion.id) {
        for value in &group.values {
            any = true;
            let subject = format!("{} {}={value}", criterion.id, group.key);
            let inside: Vec<&Row> =
                rows.iter().copied().filter(|row| row.groups.get(&group.key) == Some(value)).collect();
            let enough = inside.len() >= group.cases_min as usize;
            match subgroup_estimate(criterion, &inside) {
                Ok(found) => ruling.rule(
                    ClauseName::SubgroupFloor,
                    &subject,
                    enough && found >= group.floor,
                    format!(
                        "{} {found:.6} on {} cases, asked for are {} on at least {}",
                        criterion.metric.name(),
                        inside.len(),
                        group.floor,
                        group.cases_min
                    ),
                ),
                Err(error) => {
                    let why = format!("{} cases: cannot be judged: {error}", inside.len());
                    ruling.rule(ClauseName::SubgroupFloor, &subject, false, why);
                }
            }
        }
    }
    if !any {
        ruling.not_applicable(ClauseName::SubgroupFloor, &criterion.id, "the plan names no group for it");
    }
}

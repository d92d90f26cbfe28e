//! The engine on this box, and what came along with the bundle.

use std::collections::BTreeSet;

use crate::manifest::{Precision, Role};
use crate::plan::document::Plan;
use crate::plan::evaluate::Ruling;
use crate::plan::evidence::{Candidate, Evidence, Stage};
use crate::plan::verdict::ClauseName;

pub(in crate::plan) fn sbom(ruling: &mut Ruling, plan: &Plan, candidate: &Candidate<'_>) {
    if plan.evidence.sbom {
        let there = candidate.manifest.file_of(Role::Sbom).is_some();
        let why = if there { "the bundle has one" } else { "the bundle has none" };
        ruling.rule(ClauseName::Sbom, "", there, why);
    } else {
        ruling.not_applicable(ClauseName::Sbom, "", "the plan asks for none");
    }
}

pub(in crate::plan) fn rule(
    ruling: &mut Ruling,
    plan: &Plan,
    candidate: &Candidate<'_>,
    evidence: &Evidence,
) {
    if evidence.stage < Stage::Acceptance {
        for name in [ClauseName::EngineBuild, ClauseName::GoldenCases, ClauseName::Equivalence] {
            ruling.not_applicable(name, "", "judged after the run on this box");
        }
        return;
    }
    let builds = &plan.evidence.engine_builds;
    match &evidence.engine_build {
        None => ruling.rule(ClauseName::EngineBuild, "", false, "the box does not name its engine's build"),
        Some(build) => ruling.rule(
            ClauseName::EngineBuild,
            "",
            builds.is_empty() || builds.contains(build),
            format!(
                "the engine is {build:?}, the plan {}",
                if builds.is_empty() { "allows any".to_owned() } else { format!("allows {builds:?}") }
            ),
        ),
    }
    golden(ruling, plan, candidate, evidence);
    equivalence(ruling, plan, candidate, evidence);
}

fn names<'a>(given: impl Iterator<Item = &'a str>) -> (BTreeSet<&'a str>, bool) {
    let mut found = BTreeSet::new();
    let mut once = true;
    for name in given {
        once &= found.insert(name);
    }
    (found, once)
}

fn golden(ruling: &mut Ruling, plan: &Plan, candidate: &Candidate<'_>, evidence: &Evidence) {
    let wanted: BTreeSet<&str> =
        candidate.manifest.golden.iter().map(|golden| golden.name.as_str()).collect();
    let (run, once) = names(evidence.golden.iter().map(|outcome| outcome.name.as_str()));
    let failed: Vec<String> = evidence
        .golden
        .iter()
        .filter(|outcome| !outcome.deviations.is_empty())
        .map(|outcome| format!("{}: {}", outcome.name, outcome.deviations.join(", ")))
        .collect();
    let enough = run.len() >= plan.equivalence.golden_min as usize;
    let mut why = format!(
        "{} of the bundle's {} cases were run, {} failed; the plan asks for at least {}",
        run.intersection(&wanted).count(),
        wanted.len(),
        failed.len(),
        plan.equivalence.golden_min
    );
    if !failed.is_empty() {
        why = format!("{why}: {}", failed.join("; "));
    }
    ruling.rule(ClauseName::GoldenCases, "", once && run == wanted && enough && failed.is_empty(), why);
}

fn equivalence(ruling: &mut Ruling, plan: &Plan, candidate: &Candidate<'_>, evidence: &Evidence) {
    // A 16-bit network that comes along may be run on another box, or here later: it is ruled on with its bundle.
    let other = candidate.manifest.network(Precision::Fp16).is_some();
    if !evidence.accelerated && evidence.precision == Precision::Fp32 && !other {
        ruling.not_applicable(
            ClauseName::Equivalence,
            "",
            "the 32-bit network runs on the CPU, the reference itself, and no other came along",
        );
        return;
    }
    let bounds = &plan.equivalence;
    let wanted: BTreeSet<&str> =
        candidate.manifest.golden.iter().map(|golden| golden.name.as_str()).collect();
    let (run, once) = names(evidence.equivalence.iter().map(|case| case.name.as_str()));
    let worst = |of: fn(&crate::plan::Equivalence) -> f64| {
        // A difference that is not a number is the worst of all.
        let worse = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
        evidence.equivalence.iter().map(of).fold(0.0, worse)
    };
    let (score, box_px) = (worst(|case| case.score), worst(|case| case.box_px));
    let flips = evidence.equivalence.iter().filter(|case| case.flipped).count();
    let complete = candidate.manifest.network(evidence.precision).is_some()
        && once
        && run == wanted
        && !run.is_empty()
        && run.len() >= bounds.golden_min as usize;
    ruling.rule(
        ClauseName::Equivalence,
        "",
        complete && score <= bounds.score_max && box_px <= bounds.box_max_px && flips <= bounds.flips_max as usize,
        format!(
            "{} of {} cases compared with the 32-bit CPU: scores differ by up to {score}, allowed {}; boxes by up to \
             {box_px} px, allowed {}; {flips} changed tier, allowed {}",
            run.len(),
            wanted.len(),
            bounds.score_max,
            bounds.box_max_px,
            bounds.flips_max
        ),
    );
}

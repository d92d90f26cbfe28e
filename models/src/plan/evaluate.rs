//! The ruling: every clause in turn, none skipped because another is broken.

use std::collections::BTreeMap;

use super::changes::{Change, changes};
use super::clauses;
use super::document::{Allowed, Mode, Plan, Tier};
use super::evidence::{Candidate, Evidence, Installed};
use super::verdict::{Clause, ClauseName, Outcome, Verdict};

/// Clauses as they are found.
pub(super) struct Ruling {
    pub(super) clauses: Vec<Clause>,
}

impl Ruling {
    /// Met if it holds, otherwise broken; the sentence says why in either case.
    pub(super) fn rule(&mut self, name: ClauseName, subject: &str, holds: bool, why: impl Into<String>) {
        let outcome = if holds { Outcome::Met } else { Outcome::Broken };
        self.clauses.push(Clause { name, subject: subject.to_owned(), outcome, why: why.into() });
    }

    pub(super) fn is_broken(&self, name: ClauseName) -> bool {
        self.clauses.iter().any(|clause| clause.name == name && clause.outcome == Outcome::Broken)
    }

    pub(super) fn not_applicable(&mut self, name: ClauseName, subject: &str, why: impl Into<String>) {
        let outcome = Outcome::NotApplicable;
        self.clauses.push(Clause { name, subject: subject.to_owned(), outcome, why: why.into() });
    }
}

/// What a candidate uses of the plan.
pub(super) struct Used<'a> {
    pub(super) modifications: Vec<&'a Allowed>,
    pub(super) first: bool,
}

impl Used<'_> {
    pub(super) fn ids(&self) -> Vec<String> {
        self.modifications.iter().map(|allowed| allowed.id.clone()).collect()
    }
}

/// Rules on a candidate. `installed` is the version that is active, or was last; none for a first
/// installation. Pure: the same arguments give the same verdict on every box.
pub fn evaluate(
    plan: &Plan,
    installed: Option<&Installed<'_>>,
    candidate: &Candidate<'_>,
    evidence: &Evidence,
) -> Verdict {
    let mut ruling = Ruling { clauses: Vec::new() };
    clauses::identity::rule(&mut ruling, plan, installed, candidate, evidence);
    clauses::locked::rule(&mut ruling, plan, candidate);
    clauses::engine::sbom(&mut ruling, plan, candidate);
    let used = match installed {
        Some(installed) => {
            let changes = changes(installed.manifest, candidate.manifest);
            clauses::modifications::rule(&mut ruling, plan, installed, candidate, &changes)
        }
        None => {
            ruling.not_applicable(
                ClauseName::Modification,
                "",
                "nothing is installed, so that nothing is modified; the baseline rules",
            );
            Used { modifications: Vec::new(), first: true }
        }
    };
    clauses::engine::rule(&mut ruling, plan, candidate, evidence);
    clauses::acceptance::rule(&mut ruling, plan, installed, candidate, evidence, &used);
    let approvals = approvals_needed(plan, &used);
    clauses::site::rule(&mut ruling, plan, evidence, used.first, approvals);
    Verdict {
        plan: plan.plan.id.clone(),
        plan_version: plan.plan.version,
        candidate: candidate.digest.to_owned(),
        stage: evidence.stage,
        modifications: used.ids(),
        approvals,
        clauses: ruling.clauses,
    }
}

fn approvals_needed(plan: &Plan, used: &Used<'_>) -> u32 {
    let manual = used.modifications.iter().any(|allowed| allowed.mode == Mode::Manual);
    plan.site.approvals.max(u32::from(manual))
}

/// Rules on a threshold that the site wants to set itself.
pub fn site_threshold(plan: &Plan, label: &str, tier: Tier, value: f64) -> Clause {
    let mut ruling = Ruling { clauses: Vec::new() };
    let subject = format!("{label} {}", tier.name());
    let bounds = plan.site.threshold.iter().find(|bounds| bounds.label == label && bounds.tier == tier);
    let (holds, why) = match bounds {
        None => (false, "the plan lets the site set no such threshold".to_owned()),
        Some(bounds) => (
            value >= bounds.min && value <= bounds.max,
            format!("{value}, the plan lets the site set {} to {}", bounds.min, bounds.max),
        ),
    };
    ruling.rule(ClauseName::ThresholdBounds, &subject, holds, why);
    ruling.clauses.remove(0)
}

/// How many updates with each modification there are once this verdict's candidate is active: what
/// the next evaluation is given as [`Installed::updates`].
pub fn updates_after(before: &BTreeMap<String, u32>, verdict: &Verdict) -> BTreeMap<String, u32> {
    let mut after = before.clone();
    for id in &verdict.modifications {
        let count = after.entry(id.clone()).or_insert(0);
        *count = count.saturating_add(1);
    }
    after
}

/// Whether any change is more than the release number.
pub(super) fn substantial(changes: &[Change]) -> bool {
    changes.iter().any(|change| !matches!(change, Change::Release))
}

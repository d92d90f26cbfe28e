//! What an evaluation says: every clause with its outcome and why.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::evidence::Stage;

/// A clause's name, stable for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClauseName {
    /// The plan has not expired.
    PlanInForce,
    /// Plan and candidate are for this model, vendor's submission included.
    PlanScope,
    /// Plan and candidate are for this device.
    Device,
    /// The candidate's release is newer than the installed one.
    NewerRelease,
    /// Where nothing is installed: the candidate is a cleared baseline.
    FirstInstallation,
    /// The intended use is word for word the cleared one.
    IntendedUse,
    /// Claim, regulation and procedure are the cleared ones.
    Claim,
    /// The indication is within the cleared one.
    Indication,
    /// Input, preparation and outputs are the cleared ones.
    IoSchema,
    /// Labels and their codes are the cleared ones.
    Labels,
    /// A difference that no modification can cover.
    LockedFields,
    /// A difference is covered by an allowed modification.
    Modification,
    /// Thresholds are within their bounds.
    ThresholdBounds,
    /// What has changed since the baseline is within its bound.
    CumulativeBound,
    /// The bundle has a software bill of materials.
    Sbom,
    /// The inference engine is of a build that the plan names.
    EngineBuild,
    /// The golden cases came out as expected on this box.
    GoldenCases,
    /// The accelerated engine is near enough to the 32-bit CPU.
    Equivalence,
    /// The acceptance set that was run is the one that the plan names.
    AcceptanceSet,
    /// The set has enough cases.
    CasesMinimum,
    /// The point estimate is high enough.
    Estimate,
    /// The interval's lower bound is high enough.
    ConfidenceBound,
    /// The point estimate is the one that the vendor declares.
    DeclaredEvidence,
    /// Not worse than the other version by more than the margin.
    NonInferiority,
    /// No group of patients is below its floor.
    SubgroupFloor,
    /// A person has acknowledged the instructions for use.
    Labelling,
    /// The site's shadow hours are done.
    ShadowHours,
    /// The site's canary cases are done.
    CanaryCases,
    /// Enough different people approved.
    Approvals,
}

impl fmt::Display for ClauseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How a clause came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Met,
    /// It does not hold, or cannot be judged.
    Broken,
    /// It has nothing to say here, or not yet.
    NotApplicable,
}

/// One clause of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clause {
    /// Which.
    pub name: ClauseName,
    /// Of what: a criterion, a modification, a group; may be empty.
    pub subject: String,
    /// How it came out.
    pub outcome: Outcome,
    /// Why, in a sentence with the numbers.
    pub why: String,
}

/// The plan's ruling on a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The plan's identifier.
    pub plan: String,
    /// The plan's version.
    pub plan_version: u64,
    /// The candidate's bundle digest.
    pub candidate: String,
    /// What the candidate was judged for.
    pub stage: Stage,
    /// The modifications that the candidate uses.
    pub modifications: Vec<String>,
    /// How many different people must approve.
    pub approvals: u32,
    /// Every clause.
    pub clauses: Vec<Clause>,
}

impl Verdict {
    /// Whether the candidate may go on. A verdict without a clause that holds is none.
    pub fn allows(&self) -> bool {
        self.broken().next().is_none() && self.clauses.iter().any(|clause| clause.outcome == Outcome::Met)
    }

    /// The broken clauses.
    pub fn broken(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(|clause| clause.outcome == Outcome::Broken)
    }
}

/// The verdict as plain text: what is broken first, as a vendor must mend it.
pub fn explain(verdict: &Verdict) -> String {
    let mut text = String::new();
    let stage = match verdict.stage {
        Stage::Admission => "admission",
        Stage::Acceptance => "acceptance",
        Stage::Activation => "activation",
    };
    let broken = verdict.broken().count();
    let ruling = if verdict.allows() {
        "allowed".to_owned()
    } else {
        format!("refused, {broken} clause{} broken", if broken == 1 { "" } else { "s" })
    };
    let used =
        if verdict.modifications.is_empty() { "none".to_owned() } else { verdict.modifications.join(", ") };
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        text,
        "{stage} under plan {} version {}: {ruling}\nbundle {}\nmodifications used: {used}",
        verdict.plan, verdict.plan_version, verdict.candidate
    );
    for (outcome, title) in
        [(Outcome::Broken, "Broken"), (Outcome::Met, "Met"), (Outcome::NotApplicable, "Not applicable")]
    {
        let clauses: Vec<&Clause> =
            verdict.clauses.iter().filter(|clause| clause.outcome == outcome).collect();
        if clauses.is_empty() {
            continue;
        }
        let _infallible = writeln!(text, "\n{title}");
        for clause in clauses {
            let subject =
                if clause.subject.is_empty() { String::new() } else { format!(" ({})", clause.subject) };
            let _infallible = writeln!(text, "  {}{subject}: {}", clause.name, clause.why);
        }
    }
    text
}

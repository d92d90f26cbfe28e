//! What the run on this hardware showed, as it is kept: a ruling can be made again from it, when a plan
//! changes or people have approved.

use std::collections::BTreeMap;

use lightbox_models::Manifest;
use lightbox_models::acceptance::Run;
use lightbox_models::manifest::Precision;
use lightbox_models::plan::{
    self, Candidate, Comparator, Equivalence, Evidence, GoldenOutcome, Installed, Plan, Scope, Stage, Verdict,
};
use serde::{Deserialize, Serialize};

use super::report::ShadowReport;
use crate::store::models::shadow::Standing;

/// The evidence of an acceptance run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Build of the inference engine.
    pub engine_build: String,
    /// The number format that ran.
    pub precision: Precision,
    /// Whether it ran on anything but the CPU.
    pub accelerated: bool,
    /// The golden cases.
    pub golden: Vec<GoldenOutcome>,
    /// The golden cases against the 32-bit CPU.
    pub equivalence: Vec<Equivalence>,
    /// The candidate on the acceptance sets.
    pub runs: Vec<Run>,
    /// Other versions on the same sets.
    pub compared: BTreeMap<Comparator, Vec<Run>>,
}

/// What people and time have brought since.
#[derive(Clone, Debug, Default)]
pub(super) struct Duties {
    pub(super) approvals: Vec<String>,
    pub(super) acknowledged: Vec<String>,
    /// How far it has come in shadow beside the version that is active.
    pub(super) standing: Option<Standing>,
    /// The report of it, once the plan's duty is done.
    pub(super) report: Option<ShadowReport>,
}

/// The version that a candidate is compared with.
pub(super) struct Before {
    pub(super) manifest: Manifest,
    pub(super) digest: String,
    pub(super) updates: BTreeMap<String, u32>,
}

/// Everything that a ruling is made of but the stage.
pub(super) struct Matter {
    pub(super) plan: Plan,
    pub(super) before: Option<Before>,
    pub(super) manifest: Manifest,
    pub(super) digest: String,
    pub(super) now: i64,
    pub(super) udi_di: String,
}

impl Matter {
    /// The plan's ruling. Computes intervals: not for the runtime's own threads.
    pub(super) fn rule(&self, stage: Stage, kept: Option<&Kept>, duties: &Duties) -> Verdict {
        let kept = kept.cloned();
        let evidence = Evidence {
            stage,
            now: self.now,
            device_udi_di: self.udi_di.clone(),
            engine_build: kept.as_ref().map(|kept| kept.engine_build.clone()),
            precision: kept.as_ref().map_or(Precision::Fp32, |kept| kept.precision),
            accelerated: kept.as_ref().is_some_and(|kept| kept.accelerated),
            golden: kept.as_ref().map(|kept| kept.golden.clone()).unwrap_or_default(),
            equivalence: kept.as_ref().map(|kept| kept.equivalence.clone()).unwrap_or_default(),
            runs: kept.as_ref().map(|kept| kept.runs.clone()).unwrap_or_default(),
            compared: kept.map(|kept| kept.compared).unwrap_or_default(),
            acknowledged: duties.acknowledged.clone(),
            canary_cases: duties.standing.as_ref().map_or(0, |standing| standing.studies),
            shadow_hours: duties.standing.as_ref().map_or(0.0, |standing| standing.hours),
            shadow_report: duties.report.as_ref().map(|report| report.sha256.clone()),
            approvals: duties.approvals.clone(),
        };
        let installed = self.before.as_ref().map(|before| Installed {
            manifest: &before.manifest,
            digest: &before.digest,
            updates: &before.updates,
        });
        let candidate = Candidate { manifest: &self.manifest, digest: &self.digest, scope: Scope::Global };
        plan::evaluate(&self.plan, installed.as_ref(), &candidate, &evidence)
    }
}

/// A verdict's broken clauses in a line.
pub(super) fn broken(verdict: &Verdict) -> String {
    let clauses: Vec<String> = verdict
        .broken()
        .map(|clause| {
            let subject =
                if clause.subject.is_empty() { String::new() } else { format!(" ({})", clause.subject) };
            format!("{}{subject}: {}", clause.name, clause.why)
        })
        .collect();
    match clauses.is_empty() {
        true => "no clause of the plan holds".into(),
        false => clauses.join("; "),
    }
}

//! What an evaluation is given beside the plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::{Comparator, Scope};
use crate::acceptance::Run;
use crate::manifest::{Manifest, Precision};

/// How far a candidate has come; what belongs to a later stage is not applicable yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Before it runs: what documents say.
    Admission,
    /// After the golden cases and the acceptance set were run here.
    Acceptance,
    /// Before it becomes active.
    Activation,
}

/// The version that is active, or was last.
#[derive(Clone, Debug)]
pub struct Installed<'a> {
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// Its bundle's digest.
    pub digest: &'a str,
    /// For each modification's id, how many updates since the baseline used it.
    pub updates: &'a BTreeMap<String, u32>,
}

/// The version that is ruled on.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// Its bundle's digest.
    pub digest: &'a str,
    /// Whether it is for all boxes or for this site.
    pub scope: Scope,
}

/// How a golden case came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldenOutcome {
    /// The case's name in the manifest.
    pub name: String,
    /// What deviates beyond the case's tolerance, in words; empty: it passed.
    pub deviations: Vec<String>,
}

/// How far a case's outputs on the accelerated engine are from those of the 32-bit CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Equivalence {
    /// The case's name.
    pub name: String,
    /// Greatest difference of a score.
    pub score: f64,
    /// Greatest shift of a box's edge in pixels of the tensor; 0 for a model without boxes.
    pub box_px: f64,
    /// Whether any finding is in another tier.
    pub flipped: bool,
}

/// What is known of the candidate, the box and the site.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// How far the candidate has come.
    pub stage: Stage,
    /// Seconds since 1970, as far as the box trusts its time.
    pub now: i64,
    /// This box's device identifier.
    pub device_udi_di: String,
    /// Build of the inference engine, as the box names it.
    pub engine_build: Option<String>,
    /// The number format that will be run here.
    pub precision: Precision,
    /// Whether that runs on anything but the CPU.
    pub accelerated: bool,
    /// The golden cases, run here.
    pub golden: Vec<GoldenOutcome>,
    /// The golden cases on the engine that will be used, and by the 16-bit network where one came along, against the
    /// 32-bit network on the CPU.
    pub equivalence: Vec<Equivalence>,
    /// The candidate on the acceptance sets.
    pub runs: Vec<Run>,
    /// Other versions on the same sets.
    pub compared: BTreeMap<Comparator, Vec<Run>>,
    /// Digests of the instructions for use that a person has acknowledged.
    pub acknowledged: Vec<String>,
    /// Studies on which the candidate ran in shadow.
    pub canary_cases: u32,
    /// Hours in shadow.
    pub shadow_hours: f64,
    /// Digest of the shadow report that this is taken from; none where no study was compared.
    #[serde(default)]
    pub shadow_report: Option<String>,
    /// Who approved this very candidate.
    pub approvals: Vec<String>,
}

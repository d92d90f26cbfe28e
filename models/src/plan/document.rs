//! The plan's contents, schema 1. Unknown keys are refused everywhere: a key that this version does
//! not know may be a bound that it would silently ignore.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::manifest::{Claim, Code, Indication, Label, Manifest, Precision, Sex};
use crate::problem::Problem;

/// The one schema that this version reads.
pub const SCHEMA: u32 = 1;

/// A whole plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this format: [`SCHEMA`].
    pub schema: u32,
    /// Which plan, for what.
    pub plan: Identity,
    /// What no update may change.
    pub locked: Locked,
    /// What may be installed where nothing is.
    pub baseline: Baseline,
    /// Description of modifications: what may change, and how far.
    pub allowed: Vec<Allowed>,
    /// What may change along with an allowed modification without an entry of its own. Version and
    /// release number always do.
    #[serde(default)]
    pub accompanying: Vec<Accompanying>,
    /// Modification protocol: what must be shown on this box.
    pub criterion: Vec<Criterion>,
    /// Floors that no group of patients may fall below.
    #[serde(default)]
    pub subgroup: Vec<Subgroup>,
    /// How near an accelerated engine must be to the 32-bit CPU.
    pub equivalence: EquivalenceBounds,
    /// What must come along.
    pub evidence: Required,
    /// Impact assessment.
    pub impact: Impact,
    /// Labelling, and whether a person must have read it.
    pub labelling: Labelling,
    /// Going back.
    pub rollback: Rollback,
    /// When the box itself acts on an active model.
    #[serde(default)]
    pub monitor: Vec<Monitor>,
    /// What the site owes before a version becomes active, and what it may set itself.
    pub site: Site,
}

impl Plan {
    /// Reads and checks a plan's text; `file` is what a [`Problem`] names.
    pub fn read(file: &Path, text: &str) -> Result<Plan, Problem> {
        super::check::read(file, text)
    }

    /// Every problem of a plan's text, for whoever writes it; none where [`Plan::read`] takes it.
    pub fn problems(file: &Path, text: &str) -> Vec<Problem> {
        super::check::problems(file, text)
    }

    /// What it may say, and hardly means, at that time (seconds since 1970): for whoever writes it.
    pub fn doubts(&self, now: i64) -> Vec<crate::Doubt> {
        super::lint::doubts(self, now)
    }
}

/// Which plan, for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Identifier, at most 64 printable characters.
    pub id: String,
    /// Counts up; a box takes no lower one than it has had.
    pub version: u64,
    /// Number of the submission that the plan is part of; only a plan for models not for clinical
    /// use may have none.
    #[serde(default)]
    pub submission: Option<String>,
    /// `model.id` of the manifests that it rules on.
    pub model: String,
    /// Device identifiers of the boxes that it rules for.
    pub device_udi_di: Vec<String>,
    /// End of its force, RFC 3339 with offset. Expiry refuses installing, never a model that is active.
    pub expires: String,
}

/// What no update may change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// SHA-256 of `model.intended_use`, its UTF-8 bytes.
    pub intended_use_sha256: String,
    /// `regulatory.claim`.
    pub claim: Claim,
    /// `regulatory.regulation`.
    #[serde(default)]
    pub regulation: Option<String>,
    /// `model.procedure`.
    pub procedure: Code,
    /// [`io_schema_digest`] of the manifest: family, input and its preparation, output tensors and
    /// what is done with them.
    pub io_schema_sha256: String,
    /// The widest indication that the clearance and this plan give together.
    pub indication: Indication,
    /// The output labels with their codes, without thresholds.
    pub label: Vec<Label>,
}

/// What may be installed where nothing is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Digests of the cleared bundles.
    pub digests: Vec<String>,
}

/// One allowed modification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Identifier, e.g. `M1`.
    pub id: String,
    /// What changes, and how far in one update.
    pub change: Bounds,
    /// How many updates with this modification there may be since the baseline, this one included.
    pub updates_max: u32,
    /// Whether people have to approve.
    pub mode: Mode,
    /// For all boxes alike, or for one site.
    pub scope: Scope,
}

/// What changes, and how far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Bounds {
    /// The network's weights.
    RetrainWeights {},
    /// A label's threshold.
    Threshold {
        /// The label's name.
        label: String,
        /// Which threshold.
        tier: Tier,
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
        /// Greatest change in one update.
        step_max: f64,
        /// The cleared value.
        baseline: f64,
        /// Greatest distance from the cleared value.
        cumulative_max: f64,
    },
    /// Manufacturers that may be added to the indication.
    NewScanner {
        /// Which, as Manufacturer (0008,0070) names them.
        manufacturers: Vec<String>,
    },
    /// Other changes of the indication, within the locked one.
    Subpopulation {
        /// Least age that may be reached.
        #[serde(default)]
        age_min_years: Option<f64>,
        /// Greatest age that may be reached.
        #[serde(default)]
        age_max_years: Option<f64>,
        /// Sexes that may be added.
        #[serde(default)]
        sex: Vec<Sex>,
        /// Body parts that may be added.
        #[serde(default)]
        body_parts: Vec<String>,
        /// Views that may be added.
        #[serde(default)]
        views: Vec<String>,
    },
    /// A network in another number format.
    Precision {
        /// Which.
        precisions: Vec<Precision>,
    },
}

/// Whether people have to approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Only as far as `site.approvals` says.
    Automatic,
    /// At least one person, even where `site.approvals` is 0.
    Manual,
}

/// For all boxes alike, or for one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// For all boxes alike.
    Global,
    /// For one site.
    Local,
}

/// What becomes of a score. The order is the order of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Kept, never shown.
    Suppressed,
    /// Shown as uncertain.
    Flagged,
    /// Reported.
    Reported,
}

impl Tier {
    /// The tier of a score by a label's thresholds. A label without thresholds suppresses all.
    pub fn of(label: &Label, score: f64) -> Tier {
        let reaches = |least: Option<f64>| least.is_some_and(|least| score >= least);
        if reaches(label.reported_min) {
            Tier::Reported
        } else if reaches(label.flagged_min) {
            Tier::Flagged
        } else {
            Tier::Suppressed
        }
    }

    /// The word in the plan.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Suppressed => "suppressed",
            Tier::Reported => "reported",
            Tier::Flagged => "flagged",
        }
    }
}

/// What may change along with an allowed modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accompanying {
    /// The model's name for people.
    Name,
    /// The model card.
    Card,
    /// The bill of materials.
    Sbom,
    /// The licence.
    Licence,
    /// Files of role `document`.
    Documents,
    /// Golden cases: inputs, expected outputs, tolerances.
    Golden,
    /// Memory and time that the model needs.
    Resources,
    /// What the vendor declares that the network reaches.
    Performance,
}

impl Accompanying {
    /// The word in the plan.
    pub fn name(self) -> &'static str {
        match self {
            Accompanying::Name => "name",
            Accompanying::Card => "card",
            Accompanying::Sbom => "sbom",
            Accompanying::Licence => "licence",
            Accompanying::Documents => "documents",
            Accompanying::Golden => "golden",
            Accompanying::Resources => "resources",
            Accompanying::Performance => "performance",
        }
    }
}

/// What must be shown on this box for a modification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Identifier, e.g. `C1`.
    pub id: String,
    /// The modifications that call for it. A first installation calls for all criteria.
    pub modifications: Vec<String>,
    /// Digest of the acceptance set (of its manifest, which names every case's).
    pub set_sha256: String,
    /// Whose output label is measured.
    pub label: String,
    /// What is measured.
    pub metric: Metric,
    /// From which tier on a case counts as found; for all metrics but `auc` and `dice`.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// Least number of positive cases.
    pub positive_min: u32,
    /// Least number of negative cases.
    pub negative_min: u32,
    /// Least point estimate.
    pub estimate_min: f64,
    /// The interval whose lower bound is asked for.
    pub interval: IntervalBounds,
    /// Comparison with another version on the same cases.
    #[serde(default)]
    pub non_inferior: Option<NonInferior>,
}

/// A measure of quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Area under the ROC curve.
    Auc,
    /// Of the positive cases, those found.
    Sensitivity,
    /// Of the negative cases, those not found.
    Specificity,
    /// Of those found, the positive ones.
    Ppv,
    /// Of those not found, the negative ones.
    Npv,
    /// Mean of Dice's coefficient over the positive cases.
    Dice,
}

impl Metric {
    /// The word in the plan.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Auc => "AUC",
            Metric::Sensitivity => "sensitivity",
            Metric::Specificity => "specificity",
            Metric::Ppv => "positive predictive value",
            Metric::Npv => "negative predictive value",
            Metric::Dice => "Dice",
        }
    }
}

/// The interval whose lower bound is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntervalBounds {
    /// Level of the two-sided interval, e.g. 0.95.
    pub level: f64,
    /// How it is computed.
    pub method: Method,
    /// Least lower bound.
    pub lower_min: f64,
    /// For the bootstrap: how many resamples, 200 to 100000.
    #[serde(default)]
    pub resamples: Option<u32>,
    /// For the bootstrap: the seed, so that anyone computes the same interval.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// How an interval is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// DeLong's variance; for `auc`.
    Delong,
    /// Wilson's score; for proportions.
    Wilson,
    /// Percentiles of stratified resamples; for all.
    Bootstrap,
}

/// Comparison with another version on the same cases: the lower bound of the interval of
/// "candidate less other" is above the negative margin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonInferior {
    /// Which version.
    pub to: Comparator,
    /// How much worse it may be.
    pub margin: f64,
}

/// A version that a candidate is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparator {
    /// The cleared one.
    Baseline,
    /// The one that is active now.
    Current,
}

/// A floor for groups of patients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subgroup {
    /// The criterion whose set, label and metric are used.
    pub criterion: String,
    /// The cases' attribute, e.g. `sex`.
    pub key: String,
    /// Its values, each a group.
    pub values: Vec<String>,
    /// Least number of cases in each group.
    pub cases_min: u32,
    /// Least point estimate in each group.
    pub floor: f64,
}

/// How near an accelerated engine, or a 16-bit network, must be to the 32-bit network on the CPU, on the golden cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EquivalenceBounds {
    /// Least number of golden cases that are run.
    pub golden_min: u32,
    /// Greatest difference of a score.
    pub score_max: f64,
    /// Greatest shift of a box's edge, in pixels of the tensor.
    pub box_max_px: f64,
    /// How many cases may change tier.
    pub flips_max: u32,
}

/// What must come along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Required {
    /// Whether the bundle must have a software bill of materials.
    pub sbom: bool,
    /// Builds of the inference engine for which the plan was written; empty: any that the box names.
    #[serde(default)]
    pub engine_builds: Vec<String>,
}

/// Impact assessment: benefits, risks and mitigations of each modification and of all together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Impact {
    /// Where it is filed.
    pub reference: String,
    /// Its digest.
    pub sha256: String,
}

/// Labelling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labelling {
    /// Version of the instructions for use.
    pub version: String,
    /// Digest of the instructions for use.
    pub ifu_sha256: String,
    /// What users are told.
    pub notice: String,
    /// Whether a person must have acknowledged these instructions.
    pub acknowledge: bool,
}

/// Going back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// How many earlier versions stay on the box, at least 1.
    pub keep: u32,
}

/// When the box itself acts on an active model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// Identifier.
    pub id: String,
    /// What is watched; larger is worse.
    pub metric: Watched,
    /// Over how many of the last studies.
    pub window_studies: u32,
    /// From here on people are told.
    pub warn: f64,
    /// From here on the box acts.
    pub stop: f64,
    /// What it does.
    pub action: Action,
}

/// What a monitor watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// Population stability index of the scores.
    ScorePsi,
    /// Kolmogorov-Smirnov distance of the scores.
    ScoreKs,
    /// Share of studies with a flagged finding.
    FlaggedShare,
    /// Share of studies on which the model failed.
    FailedShare,
    /// 95th percentile of the run's time, in ms.
    LatencyP95Ms,
}

impl Watched {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Watched::ScorePsi => "stability index of the scores",
            Watched::ScoreKs => "Kolmogorov-Smirnov distance of the scores",
            Watched::FlaggedShare => "share of studies with a flagged finding",
            Watched::FailedShare => "share of studies on which the model failed",
            Watched::LatencyP95Ms => "95th percentile of the time in ms",
        }
    }
}

/// What a monitor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Takes the model out of service.
    Disable,
    /// Goes back to the version before.
    Revert,
}

/// What the site owes, and what it may set itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Hours in shadow; not for a first installation.
    pub shadow_hours: f64,
    /// Studies that the candidate ran on in shadow.
    pub canary_cases: u32,
    /// How many different people approve: 0, 1 or 2.
    pub approvals: u32,
    /// Bounds within which the site may set thresholds.
    #[serde(default)]
    pub threshold: Vec<SiteThreshold>,
}

/// Bounds within which the site may set a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteThreshold {
    /// The label's name.
    pub label: String,
    /// Which threshold.
    pub tier: Tier,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

/// SHA-256 of a manifest's contract with its network and its images: family, input with its whole
/// preparation, outputs with what is done with them; 64 hex digits.
pub fn io_schema_digest(manifest: &Manifest) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"lightbox io schema 1\n");
    // Field order is that of the types, and so are the bytes.
    hasher.update(
        serde_json::json!([manifest.model.family, manifest.input, manifest.output]).to_string().as_bytes(),
    );
    hex(&hasher.finalize())
}

/// SHA-256 of a text, as the plan names one: 64 hex digits.
pub fn text_digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

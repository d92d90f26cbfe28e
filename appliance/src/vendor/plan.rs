//! Plans: what of a plan a bundle says by itself, and what a box would say of a candidate.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use lightbox_models::manifest::{Label, Manifest, Precision};
use lightbox_models::pack::Packed;
use lightbox_models::plan::{
    Candidate, Evidence, Installed, Locked, Plan, Scope, Stage, Verdict, evaluate, io_schema_digest,
    text_digest,
};
use serde::Deserialize;

/// What no update may change, as a cleared bundle has it.
pub fn locked(manifest: &Manifest) -> Locked {
    let bare = |label: &Label| Label { reported_min: None, flagged_min: None, ..label.clone() };
    Locked {
        intended_use_sha256: text_digest(&manifest.model.intended_use),
        claim: manifest.regulatory.claim,
        regulation: manifest.regulatory.regulation.clone(),
        procedure: manifest.model.procedure.clone(),
        io_schema_sha256: io_schema_digest(manifest),
        indication: manifest.indication.clone(),
        label: manifest.label.iter().map(bare).collect(),
    }
}

/// A plan to go on with: what the cleared bundle says is written, the rest is marked to decide.
pub fn draft(bundle: &Packed) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Section {
        locked: Locked,
    }
    let manifest = &bundle.manifest;
    let locked = toml::to_string(&Section { locked: locked(manifest) })?;
    let label = manifest.label.iter().find(|label| !label.negative);
    let (name, reported) =
        label.map_or(("", 0.5), |label| (label.name.as_str(), label.reported_min.unwrap_or(0.5)));
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let submission = manifest
        .regulatory
        .submission
        .as_deref()
        .map_or(String::new(), |number| format!("submission = {}\n", quoted(number)));
    let devices = toml::Value::try_from(&manifest.device.udi_di)?;
    Ok(DRAFT
        .replace("@MODEL", &quoted(&manifest.model.id))
        .replace("@SUBMISSION", &submission)
        .replace("@DEVICES", &devices.to_string())
        .replace("@LOCKED", locked.trim_end())
        .replace("@BASELINE", &quoted(&bundle.digest))
        .replace("@LABEL", &quoted(name))
        .replace("@REPORTED", &toml::Value::Float(reported).to_string()))
}

const DRAFT: &str = r#"# A change-control plan (PCCP). What begins with DECIDE is for you to decide:
# `lightbox plan check` says what is left, models/README.md what each key means.
schema = 1
# What may change along with an allowed modification.
accompanying = ["card", "sbom", "documents", "golden", "performance"]

[plan]
id = "DECIDE: identifier, e.g. PCCP-1"
version = 1
@SUBMISSIONmodel = @MODEL
device_udi_di = @DEVICES
expires = "DECIDE: end of its force, e.g. 2028-01-31T00:00:00Z"

# What no update may change, as the cleared bundle has it. Widen the indication only as far as the clearance goes.
@LOCKED

# The cleared bundle: what may be installed where nothing is.
[baseline]
digests = [@BASELINE]

# Description of modifications: one entry for each. Kinds: retrain_weights, threshold, new_scanner, subpopulation, precision.
[[allowed]]
id = "M1"
change = { kind = "retrain_weights" }
updates_max = "DECIDE: how many updates, e.g. 3"
mode = "manual"
scope = "global"

[[allowed]]
id = "M2"
change = { kind = "threshold", label = @LABEL, tier = "reported", min = "DECIDE", max = "DECIDE", step_max = "DECIDE", baseline = @REPORTED, cumulative_max = "DECIDE" }
updates_max = "DECIDE: how many updates, e.g. 3"
mode = "automatic"
scope = "global"

# Modification protocol: what must be shown on every box. `lightbox plan` never sees patients: the set comes sealed.
[[criterion]]
id = "C1"
modifications = ["M1", "M2"]
set_sha256 = "DECIDE: what `lightbox acceptance-set check` prints; `plan new --set` writes it"
label = @LABEL
metric = "sensitivity"
tier = "flagged"
positive_min = "DECIDE: least number of positive cases"
negative_min = "DECIDE: least number of negative cases"
estimate_min = "DECIDE: least point estimate, e.g. 0.9"
interval = { level = 0.95, method = "wilson", lower_min = "DECIDE: least lower bound" }

[[criterion]]
id = "C2"
modifications = ["M1", "M2"]
set_sha256 = "DECIDE: what `lightbox acceptance-set check` prints; `plan new --set` writes it"
label = @LABEL
metric = "specificity"
tier = "flagged"
positive_min = "DECIDE: least number of positive cases"
negative_min = "DECIDE: least number of negative cases"
estimate_min = "DECIDE: least point estimate, e.g. 0.9"
interval = { level = 0.95, method = "wilson", lower_min = "DECIDE: least lower bound" }

# How near an accelerated engine must be to the 32-bit CPU.
[equivalence]
golden_min = 1
score_max = "DECIDE: greatest difference of a score"
box_max_px = "DECIDE: greatest shift of an edge"
flips_max = 0

[evidence]
sbom = true

# Impact assessment: benefits, risks, mitigations.
[impact]
reference = "DECIDE: where it is filed"
sha256 = "DECIDE: its SHA-256"

[labelling]
version = "DECIDE: version of the instructions for use"
ifu_sha256 = "DECIDE: their SHA-256"
notice = "DECIDE: what users are told of an update"
acknowledge = true

[rollback]
keep = 2

[[monitor]]
id = "failures"
metric = "failed_share"
window_studies = 50
warn = 0.05
stop = 0.2
action = "revert"

# What a site owes before an update becomes active.
[site]
shadow_hours = "DECIDE: hours in shadow, e.g. 24"
canary_cases = "DECIDE: studies in shadow, e.g. 20"
approvals = "DECIDE: 0, 1 or 2 different people"
"#;

/// What a verdict is asked for.
#[derive(Debug)]
pub struct Question<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// What is to be installed.
    pub candidate: &'a Packed,
    /// What is installed.
    pub installed: Option<&'a Packed>,
    /// For each modification, how many updates since the baseline used it.
    pub updates: &'a BTreeMap<String, u32>,
    /// For all boxes, or for one site.
    pub scope: Scope,
    /// What is known of the box.
    pub evidence: &'a Evidence,
}

/// What the box would say.
pub fn ask(question: &Question<'_>) -> Verdict {
    let installed = question.installed.map(|installed| Installed {
        manifest: &installed.manifest,
        digest: &installed.digest,
        updates: question.updates,
    });
    let candidate = Candidate {
        manifest: &question.candidate.manifest,
        digest: &question.candidate.digest,
        scope: question.scope,
    };
    evaluate(question.plan, installed.as_ref(), &candidate, question.evidence)
}

/// What is known before anything has run: device and time.
pub fn before_any_run(device: &str, now: i64) -> Evidence {
    Evidence {
        stage: Stage::Admission,
        now,
        device_udi_di: device.to_owned(),
        engine_build: None,
        precision: Precision::Fp32,
        accelerated: false,
        golden: Vec::new(),
        equivalence: Vec::new(),
        runs: Vec::new(),
        compared: BTreeMap::new(),
        acknowledged: Vec::new(),
        canary_cases: 0,
        shadow_hours: 0.0,
        shadow_report: None,
        approvals: Vec::new(),
    }
}

/// A file of evidence: the keys of [`Evidence`] in JSON; what is left out is as before any run.
pub fn read_evidence(path: &Path, before: &Evidence) -> anyhow::Result<Evidence> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let wrong = || {
        format!(
            "{}: not evidence; remedy: write a JSON object with keys among stage, now, device_udi_di, engine_build, precision, accelerated, golden, equivalence, runs, compared, acknowledged, canary_cases, shadow_hours, shadow_report, approvals",
            path.display()
        )
    };
    let given: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes).with_context(wrong)?;
    let mut all = serde_json::to_value(before)?;
    if let Some(all) = all.as_object_mut() {
        all.extend(given);
    }
    Evidence::deserialize(all).with_context(wrong)
}

//! The demonstration's change-control plan of a bundle.

use anyhow::{Context as _, bail};
use lightbox_models::Bundle;
use lightbox_models::plan::{
    Accompanying, Action, Allowed, Baseline, Bounds, Criterion, EquivalenceBounds, Identity, Impact,
    IntervalBounds, Labelling, Method, Metric, Mode, Monitor, Plan, Required, Rollback, SCHEMA, Scope, Site,
    Tier, Watched, text_digest,
};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::Set;
use crate::vendor::plan::locked;

const NOTICE: &str = "Demonstration: the model was made anew. Not for clinical use.";

/// What the site owes before an update becomes active.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Duties {
    /// Hours in shadow.
    pub shadow_hours: f64,
    /// Studies in shadow.
    pub canary_cases: u32,
    /// Different people who approve; a retrained network needs one in any case.
    pub approvals: u32,
    /// Whether a person must have acknowledged the instructions for use.
    pub acknowledge: bool,
}

impl Default for Duties {
    /// Nobody is asked for a first installation; an update is looked at on three studies.
    fn default() -> Duties {
        Duties { shadow_hours: 0.0, canary_cases: 3, approvals: 0, acknowledge: false }
    }
}

/// The plan: retrained weights (a person approves) and a moved threshold may come, nothing else.
pub fn plan(bundle: &Bundle, set: &Set, duties: &Duties, now: OffsetDateTime) -> anyhow::Result<Plan> {
    let manifest = bundle.manifest();
    if !manifest.model.not_for_clinical_use {
        bail!("a demonstration's plan is for models that are not for clinical use");
    }
    let label = manifest.label.iter().find(|label| label.name == set.label);
    let (label, reported) = label
        .and_then(|label| Some((label.name.clone(), label.reported_min?)))
        .with_context(|| format!("{} has no label {:?}", manifest.model.id, set.label))?;
    let modifications = vec!["M1".to_owned(), "M2".to_owned()];
    let threshold = Bounds::Threshold {
        label: label.clone(),
        tier: Tier::Reported,
        min: (reported - 0.2).max(0.0),
        max: (reported + 0.2).min(1.0),
        step_max: 0.1,
        baseline: reported,
        cumulative_max: 0.2,
    };
    let allowed = |id: &str, change, mode| Allowed {
        id: id.to_owned(),
        change,
        updates_max: 10,
        mode,
        scope: Scope::Global,
    };
    let criterion = |id: &str, metric, least: f64, lower: f64| Criterion {
        id: id.to_owned(),
        modifications: modifications.clone(),
        set_sha256: set.digest.clone(),
        label: label.clone(),
        metric,
        tier: Some(Tier::Flagged),
        positive_min: set.positive,
        negative_min: set.negative,
        estimate_min: least,
        interval: IntervalBounds {
            level: 0.95,
            method: Method::Wilson,
            lower_min: lower,
            resamples: None,
            seed: None,
        },
        non_inferior: None,
    };
    // On a few cases no interval proves much: the bound is what a set of this size can reach.
    let lower = |cases: u32| if cases >= 30 { 0.8 } else { 0.1 };
    let mut criteria = Vec::new();
    if set.positive > 0 {
        criteria.push(criterion("C1", Metric::Sensitivity, 0.9, lower(set.positive)));
    }
    if set.negative > 0 {
        criteria.push(criterion("C2", Metric::Specificity, 0.9, lower(set.negative)));
    }
    let expires = (now + Duration::days(365)).format(&Rfc3339)?;
    Ok(Plan {
        schema: SCHEMA,
        plan: Identity {
            id: format!("DEMO-{}", manifest.model.id).chars().take(64).collect(),
            version: 1,
            submission: manifest.regulatory.submission.clone(),
            model: manifest.model.id.clone(),
            device_udi_di: manifest.device.udi_di.clone(),
            expires,
        },
        locked: locked(manifest),
        baseline: Baseline { digests: vec![bundle.digest().to_owned()] },
        allowed: vec![
            allowed("M1", Bounds::RetrainWeights {}, Mode::Manual),
            allowed("M2", threshold, Mode::Automatic),
        ],
        accompanying: vec![
            Accompanying::Card,
            Accompanying::Sbom,
            Accompanying::Documents,
            Accompanying::Golden,
        ],
        criterion: criteria,
        subgroup: Vec::new(),
        equivalence: EquivalenceBounds { golden_min: 1, score_max: 0.01, box_max_px: 1.0, flips_max: 0 },
        evidence: Required { sbom: true, engine_builds: Vec::new() },
        impact: Impact {
            reference: "demonstration, none filed".into(),
            sha256: text_digest("demonstration"),
        },
        labelling: Labelling {
            version: "demonstration".into(),
            ifu_sha256: text_digest(NOTICE),
            notice: NOTICE.into(),
            acknowledge: duties.acknowledge,
        },
        rollback: Rollback { keep: 2 },
        monitor: vec![Monitor {
            id: "failures".into(),
            metric: Watched::FailedShare,
            window_studies: 20,
            warn: 0.2,
            stop: 0.5,
            action: Action::Revert,
        }],
        site: Site {
            shadow_hours: duties.shadow_hours,
            canary_cases: duties.canary_cases,
            approvals: duties.approvals,
            threshold: Vec::new(),
        },
    })
}

//! Stage 3, structure: raw model outputs become coded findings.
//!
//! Pure: the same raw result and bundle make the same findings in the same order, with the same
//! tracking identifiers, so that building a result again builds the same result.

mod measure;
mod slices;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use lightbox_models::Bundle;
use lightbox_models::manifest::{self, Aggregate};
use sha2::{Digest, Sha256};

use crate::finding::{Code, Finding, InstanceRef, ModelIdentity, ModelResult, Region, Source, Tier};
use crate::raw::{FrameOutput, RawOutput, RawResult};

/// Puts a raw result into codes, as the bundle's manifest says.
///
/// Findings come in the order in which they are reported: by tier from reported to suppressed,
/// then by score from high to low, then by place (series, slice, row, column).
pub fn structure(bundle: &Bundle, raw: &RawResult) -> ModelResult {
    let output = &bundle.manifest().output;
    let mut candidates = match &output.classification {
        Some(classification) => classes(bundle, raw, classification.aggregate),
        None => {
            let all = detections(raw);
            match output.detection.as_ref().and_then(|detection| detection.merge_slices) {
                Some(merge) => slices::merge(all, &raw.frames, merge.iou_min),
                None => all,
            }
        }
    };
    candidates.sort_by(|a, b| place(a).partial_cmp(&place(b)).unwrap_or(Ordering::Equal));

    let mut findings: Vec<Finding> =
        candidates.into_iter().filter_map(|candidate| finding(bundle, candidate)).collect();
    // Stable: equals stay in the order of their places.
    findings.sort_by(|a, b| b.tier.cmp(&a.tier).then(b.score.total_cmp(&a.score)));
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for finding in &mut findings {
        let count = counts.entry(finding.label.clone()).or_default();
        *count += 1;
        finding.tracking_id = format!("{} {} {count}", bundle.manifest().model.id, finding.label);
    }
    ModelResult {
        model: identity(bundle),
        completeness: raw.completeness.clone(),
        findings,
        examined: raw.examined.clone(),
    }
}

/// Which model speaks, as results name it.
pub fn identity(bundle: &Bundle) -> ModelIdentity {
    let model = &bundle.manifest().model;
    ModelIdentity {
        id: model.id.clone(),
        name: model.name.clone(),
        version: model.version.clone(),
        vendor: model.vendor.clone(),
        digest: bundle.digest().to_owned(),
        device_uid: device_uid(&model.id, &model.version, bundle.digest()),
        looked_for: model.looked_for.clone(),
        procedure: code(&model.procedure),
        not_for_clinical_use: model.not_for_clinical_use,
        plan: None,
        acceptance: None,
    }
}

/// A UID under 2.25 from a name-based UUID (version 8), so that it is the same on every box.
fn device_uid(id: &str, version: &str, digest: &str) -> String {
    let hash = Sha256::digest(format!("lightbox model\n{id}\n{version}\n{digest}"));
    let number = hash.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    let number = number & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    format!("2.25.{number}")
}

/// A label at a place, before thresholds and codes.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    frame: &'a FrameOutput,
    label: u32,
    score: f64,
    region: Option<Region>,
}

fn detections(raw: &RawResult) -> Vec<Candidate<'_>> {
    let mut all = Vec::new();
    for frame in &raw.frames {
        let RawOutput::Detections(found) = &frame.output else { continue };
        all.extend(found.iter().map(|detection| Candidate {
            frame,
            label: detection.label,
            score: detection.score,
            region: Some(detection.region),
        }));
    }
    all
}

fn classes<'a>(bundle: &Bundle, raw: &'a RawResult, aggregate: Aggregate) -> Vec<Candidate<'a>> {
    let mut all: Vec<Candidate<'a>> = Vec::new();
    for frame in &raw.frames {
        let RawOutput::Scores(scores) = &frame.output else { continue };
        for (label, score) in (0_u32..).zip(scores) {
            let negative = bundle.label(label).is_none_or(|label| label.negative);
            if !negative {
                all.push(Candidate { frame, label, score: *score, region: None });
            }
        }
    }
    if aggregate == Aggregate::PerImage {
        return all;
    }
    let mut best: BTreeMap<(&str, u32), Candidate<'a>> = BTreeMap::new();
    for candidate in all {
        let key = (candidate.frame.instance.series_uid.expose().as_str(), candidate.label);
        let better = best.get(&key).is_none_or(|held| {
            let scores = candidate.score.total_cmp(&held.score);
            // Of equal scores the one that lies first, so that the order of arrival is no matter.
            scores == Ordering::Greater
                || (scores == Ordering::Equal
                    && place(&candidate).partial_cmp(&place(held)) == Some(Ordering::Less))
        });
        if better {
            best.insert(key, candidate);
        }
    }
    best.into_values().collect()
}

/// Where a candidate lies, for a stable order.
fn place<'a>(candidate: &Candidate<'a>) -> (&'a str, f64, &'a InstanceRef, u32, f64, f64, u32) {
    let frame = candidate.frame;
    let slice = frame.geometry.slice.map_or(0.0, |slice| slice.position_mm);
    let (top, left) = candidate.region.map_or((0.0, 0.0), |region| (region.top, region.left));
    (frame.instance.series_uid.expose(), slice, &frame.instance, frame.frame, top, left, candidate.label)
}

fn finding(bundle: &Bundle, candidate: Candidate<'_>) -> Option<Finding> {
    let label = bundle.label(candidate.label).filter(|label| !label.negative)?;
    let measurements = match candidate.region {
        Some(region) => measure::measure(&label.measurements, &region, candidate.frame.geometry.spacing),
        None => Vec::new(),
    };
    Some(Finding {
        tracking_id: String::new(),
        label: label.name.clone(),
        category: code(label.category.as_ref()?),
        finding: code(label.finding.as_ref()?),
        site: label.site.as_ref().map(code),
        laterality: label.laterality.as_ref().map(code),
        score: candidate.score,
        tier: tier(label, candidate.score)?,
        measurements,
        source: Source {
            instance: candidate.frame.instance.clone(),
            frame: candidate.frame.frame,
            region: candidate.region,
        },
    })
}

/// The tier of a score. Networks compute in 32-bit floats: a score that equals the threshold as
/// such a float has reached it.
fn tier(label: &manifest::Label, score: f64) -> Option<Tier> {
    let reached = |threshold: f64| score as f32 >= threshold as f32;
    Some(if reached(label.reported_min?) {
        Tier::Reported
    } else if reached(label.flagged_min?) {
        Tier::Flagged
    } else {
        Tier::Suppressed
    })
}

fn code(code: &manifest::Code) -> Code {
    Code::new(&code.value, &code.scheme, &code.meaning)
}

#[cfg(test)]
mod tests;

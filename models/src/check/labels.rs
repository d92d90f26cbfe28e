//! Labels: codes and thresholds, and what is declared of them.

use std::collections::BTreeSet;

use super::{Fault, code, fault, short_text};
use crate::manifest::{Family, Label, Manifest, Performance, is_sha256};

pub(super) fn labels(manifest: &Manifest) -> Result<(), Fault> {
    if manifest.label.is_empty() {
        return fault("label", "no label", "add a [[label]] for every output index");
    }
    let indices: BTreeSet<u32> = manifest.label.iter().map(|label| label.index).collect();
    let dense = indices.iter().copied().eq(0..u32::try_from(manifest.label.len()).unwrap_or(u32::MAX));
    if !dense {
        return fault(
            "label",
            "indices are not 0 to n-1, each once",
            "number the labels as the network does",
        );
    }
    if manifest.label.iter().all(|label| label.negative) {
        return fault("label", "every label is negative", "at least one label must make a finding");
    }
    Ok(())
}

/// The first fault of every label.
pub(super) fn each(manifest: &Manifest) -> impl Iterator<Item = Fault> {
    let labels = manifest.label.iter().enumerate();
    labels.filter_map(|(at, entry)| label(&format!("label[{at}]"), entry, manifest.model.family).err())
}

fn label(key: &str, label: &Label, family: Family) -> Result<(), Fault> {
    short_text(&format!("{key}.name"), &label.name)?;
    let codes = [
        ("finding", &label.finding),
        ("category", &label.category),
        ("site", &label.site),
        ("laterality", &label.laterality),
    ];
    for (name, entry) in codes {
        if let Some(entry) = entry {
            code(&format!("{key}.{name}"), entry)?;
        }
    }
    if label.negative {
        let silent = codes.iter().all(|(_, entry)| entry.is_none())
            && label.reported_min.is_none()
            && label.flagged_min.is_none()
            && label.measurements.is_empty();
        if !silent {
            return fault(
                key,
                "a negative label makes no finding, yet has codes, thresholds or measurements",
                "remove them, or remove `negative`",
            );
        }
        return Ok(());
    }
    for (name, entry) in [("finding", &label.finding), ("category", &label.category)] {
        if entry.is_none() {
            return fault(&format!("{key}.{name}"), "missing", "give the code, or set `negative = true`");
        }
    }
    let (Some(reported), Some(flagged)) = (label.reported_min, label.flagged_min) else {
        return fault(key, "a threshold is missing", "give reported_min and flagged_min");
    };
    if !(0.0 <= flagged && flagged <= reported && reported <= 1.0) {
        return fault(
            &format!("{key}.reported_min"),
            "thresholds out of order",
            "use 0 <= flagged_min <= reported_min <= 1",
        );
    }
    if family == Family::Classification && !label.measurements.is_empty() {
        return fault(
            &format!("{key}.measurements"),
            "a classification has no box to measure",
            "remove the measurements",
        );
    }
    Ok(())
}

/// Figures that the vendor declares.
pub(super) fn performance(manifest: &Manifest) -> Result<(), Fault> {
    for (at, declared) in manifest.performance.iter().enumerate() {
        let key = |name: &str| format!("performance[{at}].{name}");
        if !is_sha256(&declared.set_sha256) {
            return fault(
                &key("set_sha256"),
                "not a SHA-256",
                "give the set's digest, as `lightbox acceptance-set check` prints it",
            );
        }
        if !manifest.label.iter().any(|label| label.name == declared.label) {
            return fault(&key("label"), "no such label", "name one of the [[label]] entries");
        }
        if !(0.0..=1.0).contains(&declared.estimate) {
            return fault(&key("estimate"), "not a share", "give what was measured, 0 to 1");
        }
        // Wider, it would say nothing of this very network.
        if !(0.0..=0.1).contains(&declared.tolerance) {
            return fault(
                &key("tolerance"),
                "not between 0 and 0.1",
                "say how far a box's figure may be off",
            );
        }
        let same = |other: &Performance| {
            (&other.set_sha256, &other.label, other.metric, other.tier)
                == (&declared.set_sha256, &declared.label, declared.metric, declared.tier)
        };
        if manifest.performance[..at].iter().any(same) {
            return fault(&key("metric"), "declared twice", "declare each figure once");
        }
    }
    Ok(())
}

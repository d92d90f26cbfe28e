//! The images that the model is cleared for.

use std::collections::BTreeSet;

use super::{Fault, fault, short_text};
use crate::manifest::{Excluded, Manifest};

pub(super) fn indication(manifest: &Manifest) -> Result<(), Fault> {
    let indication = &manifest.indication;
    if indication.modalities.is_empty() {
        return fault("indication.modalities", "empty", "name at least one modality, e.g. [\"CT\"]");
    }
    for (key, values) in [
        ("indication.modalities", &indication.modalities),
        ("indication.body_parts", &indication.body_parts),
        ("indication.views", &indication.views),
    ] {
        for value in values {
            code_string(key, value)?;
        }
    }
    for manufacturer in &indication.manufacturers {
        short_text("indication.manufacturers", manufacturer)?;
    }
    if indication.sex.iter().collect::<BTreeSet<_>>().len() != indication.sex.len() {
        return fault("indication.sex", "a sex stands twice", "name each of \"F\", \"M\", \"O\" once");
    }
    let (min, max) = (indication.age_min_years, indication.age_max_years);
    for (key, age) in [("indication.age_min_years", min), ("indication.age_max_years", max)] {
        if age.is_some_and(|age| !(0.0..=150.0).contains(&age)) {
            return fault(key, "not an age", "use years from 0 to 150");
        }
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return fault("indication.age_min_years", "above age_max_years", "exchange the two");
    }
    if indication.slice_thickness_max_mm.is_some_and(|mm| !(mm > 0.0 && mm.is_finite())) {
        return fault("indication.slice_thickness_max_mm", "not a thickness", "use millimetres above 0");
    }
    for (at, entry) in indication.excluded.iter().enumerate() {
        excluded(&format!("indication.excluded[{at}]"), entry)?;
    }
    Ok(())
}

fn excluded(key: &str, entry: &Excluded) -> Result<(), Fault> {
    if *entry == Excluded::default() {
        return fault(
            key,
            "excludes nothing, or everything",
            "give at least one of modality, body_part, sex, view, manufacturer, manufacturer_model",
        );
    }
    for (name, value) in
        [("modality", &entry.modality), ("body_part", &entry.body_part), ("view", &entry.view)]
    {
        if let Some(value) = value {
            code_string(&format!("{key}.{name}"), value)?;
        }
    }
    for (name, value) in
        [("manufacturer", &entry.manufacturer), ("manufacturer_model", &entry.manufacturer_model)]
    {
        if let Some(value) = value {
            short_text(&format!("{key}.{name}"), value)?;
        }
    }
    Ok(())
}

fn code_string(key: &str, value: &str) -> Result<(), Fault> {
    let fits = !value.is_empty()
        && value.len() <= 16
        && value
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" _".contains(&byte));
    if !fits {
        return fault(key, "not a DICOM code string", "use at most 16 capital letters, digits, underscores");
    }
    Ok(())
}

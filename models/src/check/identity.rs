//! What the model is, for which device, under which clearance.

use super::{Fault, code, fault, short_text};
use crate::manifest::Manifest;

pub(super) fn identity(manifest: &Manifest) -> Result<(), Fault> {
    let model = &manifest.model;
    let id_fits = !model.id.is_empty()
        && model.id.len() <= 64
        && model.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !id_fits {
        return fault("model.id", "not an identifier", "use 1 to 64 lower-case letters, digits and hyphens");
    }
    for (key, value) in [
        ("model.name", &model.name),
        ("model.version", &model.version),
        ("model.vendor", &model.vendor),
        ("model.looked_for", &model.looked_for),
        ("input.tensor", &manifest.input.tensor),
    ] {
        short_text(key, value)?;
    }
    // A TOML integer has 63 bits: what a reader in another language cannot hold is refused here too.
    if model.release == 0 || model.release > i64::MAX.unsigned_abs() {
        return fault(
            "model.release",
            "not a release number",
            "count releases from 1, each higher than the last",
        );
    }
    let intended = &model.intended_use;
    let control = intended.chars().any(|char| char.is_control() && char != '\n');
    if intended.trim().is_empty() || intended.chars().count() > 4000 || control {
        return fault(
            "model.intended_use",
            "empty, above 4000 characters, or with control characters",
            "write the statement of intended use as it was cleared, as plain text",
        );
    }
    code("model.procedure", &model.procedure)
}

pub(super) fn device(manifest: &Manifest) -> Result<(), Fault> {
    let identifiers = &manifest.device.udi_di;
    if identifiers.is_empty() {
        return fault("device.udi_di", "empty", "name the UDI-DI of each device that the model is for");
    }
    for (at, di) in identifiers.iter().enumerate() {
        let plain = (6..=25).contains(&di.len())
            && di
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"+-*$/.=".contains(&byte));
        if !plain {
            return fault(
                &format!("device.udi_di[{at}]"),
                "not a device identifier",
                "write the DI part of the UDI alone: 14 digits for GS1, 6 to 25 characters otherwise",
            );
        }
        if !gtin_fits(di) {
            return fault(
                &format!("device.udi_di[{at}]"),
                "a GTIN-14 whose check digit is wrong",
                "compare the digits with the device's label",
            );
        }
        if identifiers[..at].contains(di) {
            return fault(&format!("device.udi_di[{at}]"), "stands twice", "name each identifier once");
        }
    }
    Ok(())
}

/// GS1 General Specifications 7.9.1; true for what is not 14 digits.
fn gtin_fits(di: &str) -> bool {
    if di.len() != 14 || !di.bytes().all(|byte| byte.is_ascii_digit()) {
        return true;
    }
    let sum: u32 = di.bytes().enumerate().map(|(at, byte)| u32::from(byte - b'0') * [3, 1][at % 2]).sum();
    sum.is_multiple_of(10)
}

pub(super) fn regulatory(manifest: &Manifest) -> Result<(), Fault> {
    let regulatory = &manifest.regulatory;
    for (key, value) in
        [("regulatory.submission", &regulatory.submission), ("regulatory.regulation", &regulatory.regulation)]
    {
        match value {
            Some(value) => short_text(key, value)?,
            None if manifest.model.not_for_clinical_use => {}
            None => {
                return fault(
                    key,
                    "missing",
                    "give it, or set model.not_for_clinical_use = true for a model without clearance",
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::gtin_fits;

    #[test]
    fn check_digits_of_gtins() {
        // The General Specifications' own examples' form: 952 is GS1's prefix for demonstrations.
        assert!(gtin_fits("09521234543213"));
        assert!(!gtin_fits("09521234543214"));
        assert!(!gtin_fits("09521234543123"));
        assert!(gtin_fits("+H123ABC01234567890"));
    }
}

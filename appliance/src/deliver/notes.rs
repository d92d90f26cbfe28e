//! What every output says besides the findings: that it comes from an algorithm and that nobody
//! has reviewed it, how far the algorithm got, and how the study was judged complete.

use crate::finding::{Completeness, ModelIdentity};

use super::context::ResultContext;

/// First line of every output.
pub const BANNER: &str = "AI-generated, preliminary, not reviewed.";

/// Second line, where the bundle or the site says so.
pub const NOT_FOR_CLINICAL_USE: &str = "Not for clinical use.";

/// The notes after the banner, in order, one sentence each.
pub(super) fn notes(context: &ResultContext) -> Vec<String> {
    let result = &context.result;
    let mut notes = Vec::new();
    if result.model.not_for_clinical_use {
        notes.push(NOT_FOR_CLINICAL_USE.to_owned());
    }
    match &result.completeness {
        Completeness::Complete => {}
        Completeness::Partial(reason) => notes.push(format!("Examination incomplete: {reason}")),
        Completeness::NotRun(reason) => notes.push(format!("Study not examined: {reason}")),
    }
    notes.push(format!(
        "Study revision {}: images examined {} of {}.",
        context.revision,
        result.examined.len(),
        context.evidence.len()
    ));
    if !context.completion_note.is_empty() {
        notes.push(context.completion_note.clone());
    }
    notes
}

/// Which bundle made a result, under which plan it runs, and by which record it was accepted on this box.
pub(super) fn algorithm_parameters(model: &ModelIdentity) -> Vec<String> {
    let mut parameters = vec![format!("bundle={}", model.id), format!("bundle_sha256={}", model.digest)];
    parameters.extend(model.plan.iter().map(|plan| format!("change_control_plan={plan}")));
    parameters.extend(model.acceptance.iter().map(|record| format!("acceptance_record_sha256={record}")));
    parameters
}

/// What is said when no finding is shown: never that there is none, only that none is reported,
/// by which model, and in which images. `None` where a finding is shown or nothing was examined.
pub(super) fn absence(context: &ResultContext) -> Option<String> {
    let result = &context.result;
    if result.visible().next().is_some() {
        return None;
    }
    let model = &result.model;
    match result.completeness {
        Completeness::Complete => {
            Some(format!("No {} reported by {} {}.", model.looked_for, model.name, model.version))
        }
        Completeness::Partial(_) => Some(format!(
            "No {} reported by {} {} in the images that it examined.",
            model.looked_for, model.name, model.version
        )),
        Completeness::NotRun(_) => None,
    }
}

/// Whether a result says both that nothing was examined and that something was found: no output
/// is made of it.
pub(super) fn contradicts_itself(context: &ResultContext) -> bool {
    let not_run = matches!(context.result.completeness, Completeness::NotRun(_));
    not_run && context.result.visible().next().is_some()
}

/// A number as results write it: at most four decimals, no trailing zeros, at most 16 characters
/// (VR DS). `None` where it is not finite.
pub(super) fn decimal(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    let fixed = format!("{value:.4}");
    let trimmed = fixed.trim_end_matches('0').trim_end_matches('.');
    let trimmed = if trimmed == "-0" { "0" } else { trimmed };
    if trimmed.len() <= 16 { Some(trimmed.to_owned()) } else { Some(format!("{value:.6e}")) }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_fit_a_decimal_string() {
        for (value, text) in [
            (8.4, "8.4"),
            (37.0, "37"),
            (100.0, "100"),
            (-0.000_001, "0"),
            (1.0 / 3.0, "0.3333"),
            (1.5e20, "1.500000e20"),
        ] {
            assert_eq!(decimal(value).unwrap(), text);
        }
        assert_eq!(decimal(f64::NAN), None);
    }
}

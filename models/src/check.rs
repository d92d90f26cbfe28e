//! Reading a manifest: first by its types, then by what the types cannot say.

use std::collections::BTreeSet;
use std::path::Path;

use crate::manifest::{Code, Family, Intensity, Label, Manifest, Resize, Role, SCHEMA};
use crate::problem::{Problem, line_at, line_of};

/// Longest side of an input tensor that a manifest may ask for.
const SIDE_MAX: u32 = 8192;

/// Parses and checks a manifest's text.
pub(crate) fn read(file: &Path, text: &str) -> Result<Manifest, Problem> {
    let problem = |line, key: &str, problem: String, remedy: &str| Problem {
        file: file.to_owned(),
        line,
        key: key.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    // The schema first: a manifest of a later schema would otherwise be refused for its new keys.
    if let Ok(table) = text.parse::<toml::Table>()
        && let Some(schema) = table.get("schema").and_then(toml::Value::as_integer)
        && schema != i64::from(SCHEMA)
    {
        return Err(problem(
            line_of(text, "schema"),
            "schema",
            format!("schema {schema} is not known to this version, which reads schema {SCHEMA}"),
            "update the box, or ask the vendor for a bundle of that schema",
        ));
    }
    let manifest: Manifest = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_at(text, span.start));
        problem(line, "", error.message().to_owned(), "write the key as models/README.md gives it")
    })?;
    check(&manifest).map_err(|(key, what, remedy)| problem(line_of(text, &key), &key, what, remedy))?;
    Ok(manifest)
}

type Fault = (String, String, &'static str);

fn fault<T>(key: &str, problem: impl Into<String>, remedy: &'static str) -> Result<T, Fault> {
    Err((key.to_owned(), problem.into(), remedy))
}

fn check(manifest: &Manifest) -> Result<(), Fault> {
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
    code("model.procedure", &model.procedure)?;
    files(manifest)?;
    indication(manifest)?;
    input(manifest)?;
    output(manifest)?;
    labels(manifest)
}

fn short_text(key: &str, value: &str) -> Result<(), Fault> {
    let printable = value.chars().all(|char| char.is_ascii_graphic() || char == ' ');
    if value.trim().is_empty() || value.len() > 64 || !printable || value.contains('\\') {
        return fault(
            key,
            "empty, too long, or with characters that DICOM does not carry everywhere",
            "use 1 to 64 printable ASCII characters other than the backslash",
        );
    }
    Ok(())
}

fn code(key: &str, code: &Code) -> Result<(), Fault> {
    if code.value.is_empty() || code.value.len() > 16 || !code.value.bytes().all(|b| b.is_ascii_graphic()) {
        return fault(&format!("{key}.value"), "not a code value", "use 1 to 16 printable characters");
    }
    if code.scheme.is_empty() || code.scheme.len() > 16 || !code.scheme.bytes().all(|b| b.is_ascii_graphic())
    {
        return fault(
            &format!("{key}.scheme"),
            "not a coding scheme designator",
            "use SCT, LN, DCM, RADLEX or the designator that PS3.16 chapter 8 gives",
        );
    }
    short_text(&format!("{key}.meaning"), &code.meaning)
}

fn files(manifest: &Manifest) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    for (at, file) in manifest.file.iter().enumerate() {
        let key = format!("file[{at}].path");
        let plain = !file.path.is_empty()
            && file.path.len() <= 255
            && file.path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && file.path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        if !plain || file.path == "manifest.toml" {
            return fault(
                &key,
                "not a path below the bundle's folder",
                "use a relative path of letters, digits, dot, hyphen and underscore, without `..`",
            );
        }
        if !seen.insert(file.path.to_ascii_lowercase()) {
            return fault(&key, "listed twice", "list each file once");
        }
        let hex = file.sha256.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if file.sha256.len() != 64 || !hex {
            return fault(
                &format!("file[{at}].sha256"),
                "not a SHA-256",
                "write the 64 lower-case hex digits that `sha256sum` prints",
            );
        }
    }
    for (role, name) in [(Role::Network, "network"), (Role::Card, "card")] {
        let count = manifest.file.iter().filter(|file| file.role == role).count();
        if count != 1 {
            return fault(
                "file",
                format!("{count} files have the role \"{name}\""),
                "give exactly one file the role \"network\" and one the role \"card\"",
            );
        }
    }
    Ok(())
}

fn indication(manifest: &Manifest) -> Result<(), Fault> {
    let indication = &manifest.indication;
    if indication.modalities.is_empty() {
        return fault("indication.modalities", "empty", "name at least one modality, e.g. [\"CT\"]");
    }
    for (key, values) in
        [("indication.modalities", &indication.modalities), ("indication.body_parts", &indication.body_parts)]
    {
        let code_string = |value: &String| {
            !value.is_empty()
                && value.len() <= 16
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" _".contains(&byte))
        };
        if !values.iter().all(code_string) {
            return fault(
                key,
                "not a DICOM code string",
                "use at most 16 capital letters, digits, underscores",
            );
        }
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
    Ok(())
}

fn input(manifest: &Manifest) -> Result<(), Fault> {
    let input = &manifest.input;
    if input.channels != 1 && input.channels != 3 {
        return fault("input.channels", format!("{} channels asked for", input.channels), "use 1 or 3");
    }
    let side_fits = |side: u32| (1..=SIDE_MAX).contains(&side);
    let resize_fits = match input.resize {
        Resize::Native {} => true,
        Resize::Stretch { width, height } | Resize::Fit { width, height } => {
            side_fits(width) && side_fits(height)
        }
        Resize::LimitSide { side } => side_fits(side),
    };
    if !resize_fits {
        return fault("input.resize", "a side of the tensor is out of range", "use 1 to 8192 pixels");
    }
    match input.intensity {
        Intensity::Window { centre, width } if !(centre.is_finite() && width.is_finite() && width > 1.0) => {
            return fault("input.intensity.width", "not a window", "use finite numbers and a width above 1");
        }
        Intensity::Percentile { low, high } if !(0.0 <= low && low < high && high <= 100.0) => {
            return fault("input.intensity.low", "not a range of percentiles", "use 0 <= low < high <= 100");
        }
        _ => {}
    }
    let normalise = &input.normalise;
    if !(normalise.scale.is_finite() && normalise.scale != 0.0) {
        return fault("input.normalise.scale", "not a factor", "use a finite number other than 0");
    }
    for (key, values) in [("input.normalise.mean", &normalise.mean), ("input.normalise.std", &normalise.std)]
    {
        let count_fits =
            values.is_empty() || values.len() == 1 || Ok(values.len()) == usize::try_from(input.channels);
        if !count_fits || !values.iter().all(|value| value.is_finite()) {
            return fault(key, "wrong count, or not finite", "give one number, or one for each channel");
        }
    }
    if normalise.std.iter().any(|std| *std <= 0.0) {
        return fault(
            "input.normalise.std",
            "not above 0",
            "give the standard deviation of the training data",
        );
    }
    Ok(())
}

fn output(manifest: &Manifest) -> Result<(), Fault> {
    let output = &manifest.output;
    let fraction = |value: f64| (0.0..=1.0).contains(&value);
    match (manifest.model.family, &output.detection, &output.classification) {
        (Family::Detection, Some(detection), None) => {
            let names = [Some(&detection.boxes), Some(&detection.scores), detection.labels.as_ref()];
            if names.into_iter().flatten().any(|name| name.is_empty()) {
                return fault(
                    "output.detection",
                    "a tensor without a name",
                    "give the network's output names",
                );
            }
            if detection.score_min.is_some_and(|value| !fraction(value)) {
                return fault("output.detection.score_min", "not a score", "use 0 to 1");
            }
            if detection.nms_iou.is_some_and(|value| !(fraction(value) && value > 0.0)) {
                return fault("output.detection.nms_iou", "not an overlap", "use above 0 to 1");
            }
            if detection.merge_slices.is_some_and(|merge| !(fraction(merge.iou_min) && merge.iou_min > 0.0)) {
                return fault("output.detection.merge_slices", "not an overlap", "use above 0 to 1");
            }
            Ok(())
        }
        (Family::Classification, None, Some(classification)) => {
            if classification.probabilities.is_empty() {
                return fault(
                    "output.classification.probabilities",
                    "empty",
                    "give the network's output name",
                );
            }
            Ok(())
        }
        _ => fault(
            "output",
            "does not go with model.family",
            "give [output.detection] for \"detection\", [output.classification] for \"classification\"",
        ),
    }
}

fn labels(manifest: &Manifest) -> Result<(), Fault> {
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
    for (at, entry) in manifest.label.iter().enumerate() {
        label(&format!("label[{at}]"), entry, manifest.model.family)?;
    }
    if manifest.label.iter().all(|label| label.negative) {
        return fault("label", "every label is negative", "at least one label must make a finding");
    }
    Ok(())
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

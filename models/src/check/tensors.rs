//! Input and output tensors.

use super::{Fault, fault};
use crate::manifest::{Family, Intensity, Manifest, Resize};

/// Longest side of an input tensor that a manifest may ask for.
const SIDE_MAX: u32 = 8192;

pub(super) fn input(manifest: &Manifest) -> Result<(), Fault> {
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

pub(super) fn output(manifest: &Manifest) -> Result<(), Fault> {
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

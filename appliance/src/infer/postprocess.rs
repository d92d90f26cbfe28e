//! Output tensors to detections and class scores, in the frame's own coordinates.

use lightbox_models::manifest::{Activation, Classification, Detection};

use super::engine::{Tensor, TensorData};
use super::preprocess::Transform;
use crate::finding::Region;
use crate::raw::{RawDetection, overlap};

/// Most detections in one frame: more is a model gone wrong, not a study.
const DETECTIONS_MAX: usize = 10_000;

/// The outputs are not what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output \"{tensor}\" {problem}; remedy: mend the bundle's [output] or [[label]]")]
pub struct OutputError {
    /// The tensor's name.
    pub tensor: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

fn tensor<'a>(outputs: &'a [Tensor], name: &str) -> Result<&'a Tensor, OutputError> {
    let found = outputs.iter().find(|tensor| tensor.name == name);
    found.ok_or_else(|| OutputError { tensor: name.to_owned(), problem: "is missing" })
}

fn floats<'a>(outputs: &'a [Tensor], name: &str) -> Result<&'a [f32], OutputError> {
    match &tensor(outputs, name)?.data {
        TensorData::F32(values) => Ok(values),
        _ => Err(OutputError { tensor: name.to_owned(), problem: "is not of 32-bit floats" }),
    }
}

/// Boxes, scores and labels to detections of a frame of `columns` x `rows`: mapped back, cut at
/// the frame's edges, thresholded and thinned as the manifest says.
pub fn detections(
    outputs: &[Tensor],
    detection: &Detection,
    labels: usize,
    transform: &Transform,
    (columns, rows): (u32, u32),
) -> Result<Vec<RawDetection>, OutputError> {
    let fault = |tensor: &str, problem| OutputError { tensor: tensor.to_owned(), problem };
    let boxes = floats(outputs, &detection.boxes)?;
    let scores = floats(outputs, &detection.scores)?;
    let shape = &tensor(outputs, &detection.boxes)?.shape;
    if shape.last() != Some(&4) || boxes.len() != 4 * scores.len() {
        return Err(fault(&detection.boxes, "has not four numbers for each score"));
    }
    if scores.len() > DETECTIONS_MAX {
        return Err(fault(&detection.scores, "has more than 10000 detections"));
    }
    let indices = match &detection.labels {
        None => vec![0; scores.len()],
        Some(name) => match &tensor(outputs, name)?.data {
            TensorData::I64(values) => values.clone(),
            TensorData::I32(values) => values.iter().map(|value| i64::from(*value)).collect(),
            _ => return Err(fault(name, "is not of integers")),
        },
    };
    let label_tensor = detection.labels.as_deref().unwrap_or_default();
    if indices.len() != scores.len() {
        return Err(fault(label_tensor, "has not one label for each score"));
    }
    let mut found = Vec::new();
    for ((edges, score), index) in boxes.as_chunks().0.iter().zip(scores).zip(indices) {
        let score = f64::from(*score);
        let [left, top, right, bottom] = edges.map(|edge: f32| f64::from(edge));
        if ![left, top, right, bottom].iter().all(|edge| edge.is_finite()) {
            return Err(fault(&detection.boxes, "has edges that are not finite"));
        }
        let score = checked(score).ok_or_else(|| fault(&detection.scores, "has scores outside 0 to 1"))?;
        let label = u32::try_from(index).ok().filter(|label| (*label as usize) < labels);
        let label = label.ok_or_else(|| fault(label_tensor, "has an index that no [[label]] names"))?;
        let source = transform.to_source(Region { left, top, right, bottom });
        let (width, height) = (f64::from(columns), f64::from(rows));
        let region = Region {
            left: source.left.clamp(0.0, width),
            top: source.top.clamp(0.0, height),
            right: source.right.clamp(0.0, width),
            bottom: source.bottom.clamp(0.0, height),
        };
        let empty = region.width() <= 0.0 || region.height() <= 0.0;
        if !empty && detection.score_min.is_none_or(|least| score >= least) {
            found.push(RawDetection { label, score, region });
        }
    }
    Ok(match detection.nms_iou {
        Some(iou_max) => thin(found, iou_max),
        None => found,
    })
}

/// A score within 0 to 1; rounding of the runtime may have left it a hair outside.
fn checked(score: f64) -> Option<f64> {
    (-1e-4..=1.0 + 1e-4).contains(&score).then(|| score.clamp(0.0, 1.0))
}

/// Non-maximum suppression within each label: the best score first, what overlaps it more than
/// `iou_max` goes.
pub fn thin(mut found: Vec<RawDetection>, iou_max: f64) -> Vec<RawDetection> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<RawDetection> = Vec::new();
    for candidate in found {
        let covered = kept.iter().any(|better| {
            better.label == candidate.label && overlap(&better.region, &candidate.region) > iou_max
        });
        if !covered {
            kept.push(candidate);
        }
    }
    kept
}

/// The probabilities of a classification network, by label index.
pub fn scores(
    outputs: &[Tensor],
    classification: &Classification,
    labels: usize,
) -> Result<Vec<f64>, OutputError> {
    let name = &classification.probabilities;
    let fault = |problem| OutputError { tensor: name.clone(), problem };
    let values: Vec<f64> = floats(outputs, name)?.iter().map(|value| f64::from(*value)).collect();
    if values.len() != labels {
        return Err(fault("has not one value for each [[label]]"));
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(fault("has values that are not finite"));
    }
    let probabilities: Vec<f64> = match classification.activation {
        Activation::None => values,
        Activation::Sigmoid => values.iter().map(|value| 1.0 / (1.0 + (-value).exp())).collect(),
        Activation::Softmax => {
            // Shifted by the greatest, so that no exponential overflows.
            let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = values.iter().map(|value| (value - greatest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|power| power / sum).collect()
        }
    };
    let checked: Option<Vec<f64>> = probabilities.into_iter().map(checked).collect();
    checked.ok_or_else(|| fault("has scores outside 0 to 1 (is an activation missing?)"))
}

#[cfg(test)]
mod tests {
    use lightbox_models::manifest::{Aggregate, BoxFormat};

    use super::*;

    fn boxes(edges: &[[f32; 4]], scores: &[f32]) -> Vec<Tensor> {
        vec![
            Tensor::new("b", vec![1, edges.len(), 4], TensorData::F32(edges.concat())).unwrap(),
            Tensor::new("s", vec![1, scores.len()], TensorData::F32(scores.to_vec())).unwrap(),
        ]
    }

    fn detection(nms_iou: Option<f64>) -> Detection {
        Detection {
            boxes: "b".into(),
            scores: "s".into(),
            labels: None,
            box_format: BoxFormat::Xyxy,
            score_min: Some(0.2),
            nms_iou,
            merge_slices: None,
        }
    }

    #[test]
    fn boxes_are_mapped_back_cut_and_thinned() {
        let transform = Transform { scale: (0.5, 0.25), offset: (10.0, 0.0) };
        let outputs = boxes(
            &[[12.0, 1.0, 14.0, 3.0], [12.0, 1.0, 14.0, 2.9], [0.0, 0.0, 20.0, 50.0], [1.0; 4], [0.0; 4]],
            &[0.9, 0.95, 0.5, 0.7, 0.1],
        );
        let found = detections(&outputs, &detection(Some(0.5)), 1, &transform, (100, 80)).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].region.left, found[0].region.right, found[0].region.top), (4.0, 8.0, 4.0));
        assert!((found[0].score - 0.95).abs() < 1e-6);
        let whole = Region { left: 0.0, top: 0.0, right: 20.0, bottom: 80.0 };
        assert_eq!(found[1].region, whole);
        let all = detections(&outputs, &detection(None), 1, &transform, (100, 80)).unwrap();
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn outputs_that_break_the_manifest_are_told() {
        let transform = Transform { scale: (1.0, 1.0), offset: (0.0, 0.0) };
        let refuse = |outputs: &[Tensor]| {
            detections(outputs, &detection(None), 1, &transform, (8, 8)).unwrap_err().problem
        };
        assert_eq!(refuse(&boxes(&[[0.0; 4]], &[])), "has not four numbers for each score");
        assert_eq!(refuse(&boxes(&[[0.0; 4]], &[1.5])), "has scores outside 0 to 1");
        assert_eq!(refuse(&boxes(&[[0.0; 4]], &[f32::NAN])), "has scores outside 0 to 1");
        assert_eq!(refuse(&boxes(&[[f32::NAN; 4]], &[0.5])), "has edges that are not finite");
        assert_eq!(refuse(&[]), "is missing");
    }

    #[test]
    fn softmax_survives_large_values() {
        let outputs = [Tensor::new("p", vec![1, 2], TensorData::F32(vec![1000.0, 1000.0])).unwrap()];
        let softmax = |activation| Classification {
            probabilities: "p".into(),
            activation,
            aggregate: Aggregate::PerImage,
        };
        assert_eq!(scores(&outputs, &softmax(Activation::Softmax), 2).unwrap(), [0.5, 0.5]);
        assert!(scores(&outputs, &softmax(Activation::None), 2).is_err());
        assert!(scores(&outputs, &softmax(Activation::Softmax), 3).is_err());
    }
}

//! What the output tensors are, and what their labels mean in codes.

use serde::{Deserialize, Serialize};

use super::Code;

/// What the output tensors are: the table that the family names, and no other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// For [`Family::Detection`].
    #[serde(default)]
    pub detection: Option<Detection>,
    /// For [`Family::Classification`].
    #[serde(default)]
    pub classification: Option<Classification>,
}

/// Outputs of a detection network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detection {
    /// Tensor of the boxes, `[n, 4]` or `[1, n, 4]`.
    pub boxes: String,
    /// Tensor of the scores, 0 to 1, `[n]` or `[1, n]`.
    pub scores: String,
    /// Tensor of the label indices, `[n]` or `[1, n]`; none: all are label 0.
    #[serde(default)]
    pub labels: Option<String>,
    /// What the four numbers of a box are.
    pub box_format: BoxFormat,
    /// Detections below are not even logged.
    #[serde(default)]
    pub score_min: Option<f64>,
    /// Of two boxes of one label that overlap more than this, the one with the lower score goes.
    #[serde(default)]
    pub nms_iou: Option<f64>,
    /// Whether detections on adjacent slices become one finding.
    #[serde(default)]
    pub merge_slices: Option<MergeSlices>,
}

/// What the four numbers of a box are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxFormat {
    /// Left, top, right, bottom in pixels of the input tensor; 0,0 is the top left corner of the
    /// top left pixel; right and bottom are exclusive.
    Xyxy,
}

/// Detections of one label on adjacent slices of a series become one finding, on its best slice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeSlices {
    /// Least overlap of the boxes, intersection over union, above 0 to 1.
    pub iou_min: f64,
}

/// Outputs of a classification network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    /// Tensor of the values, `[1, labels]` or `[labels]`.
    pub probabilities: String,
    /// What makes probabilities of them.
    #[serde(default)]
    pub activation: Activation,
    /// What becomes of the images of a series.
    pub aggregate: Aggregate,
}

/// What makes probabilities of a network's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// They are probabilities.
    #[default]
    None,
    /// One label holds.
    Softmax,
    /// Each label holds or not by itself.
    Sigmoid,
}

/// What becomes of the images of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Each image speaks for itself.
    PerImage,
    /// One finding per label and series, from the image with the highest score.
    MaxOverSeries,
}

/// One output label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Its index in the output.
    pub index: u32,
    /// The model's own name for it.
    pub name: String,
    /// True: it says that nothing was found, and makes no finding ("no tumour").
    #[serde(default)]
    pub negative: bool,
    /// What was found.
    #[serde(default)]
    pub finding: Option<Code>,
    /// Finding category.
    #[serde(default)]
    pub category: Option<Code>,
    /// Anatomical site.
    #[serde(default)]
    pub site: Option<Code>,
    /// Laterality.
    #[serde(default)]
    pub laterality: Option<Code>,
    /// Score from which a finding is reported.
    #[serde(default)]
    pub reported_min: Option<f64>,
    /// Score from which a finding is flagged; below it is suppressed but logged.
    #[serde(default)]
    pub flagged_min: Option<f64>,
    /// What is measured on a detection, in the order of reporting.
    #[serde(default)]
    pub measurements: Vec<Measure>,
}

/// What is measured on a detection's box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The longer side.
    LongAxis,
    /// The shorter side.
    ShortAxis,
    /// The mean of both sides, for round things.
    Diameter,
}

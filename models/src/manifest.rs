//! The manifest's contents, schema 1. Unknown keys are refused everywhere: a key that this version
//! does not know may be a condition that it would silently ignore.

use serde::{Deserialize, Serialize};

/// The one schema that this version reads.
pub const SCHEMA: u32 = 1;

/// A whole manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: [`SCHEMA`].
    pub schema: u32,
    /// What the model is.
    pub model: Model,
    /// Every file of the bundle but the manifest.
    pub file: Vec<File>,
    /// The images that the model is cleared for.
    pub indication: Indication,
    /// How an image becomes the input tensor.
    pub input: Input,
    /// What the output tensors are.
    pub output: Output,
    /// The output labels, in any order; their indices are 0 to n-1, each once.
    pub label: Vec<Label>,
}

/// What the model is, and what it claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Identifier: lower-case letters, digits and hyphens, at most 64.
    pub id: String,
    /// Name shown to people, at most 64 characters.
    pub name: String,
    /// Version, at most 64 characters.
    pub version: String,
    /// Vendor, at most 64 characters.
    pub vendor: String,
    /// Which kind of output it has.
    pub family: Family,
    /// True: every output of the box carries "not for clinical use".
    pub not_for_clinical_use: bool,
    /// The regulatory claim's wording of what was looked for, e.g. "bright disks".
    pub looked_for: String,
    /// LOINC code of the procedure that it reports on.
    pub procedure: Code,
}

/// Kinds of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Says of a whole image which labels hold.
    Classification,
    /// Says where in an image the labels hold.
    Detection,
}

/// A coded concept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Code Value, at most 16 characters.
    pub value: String,
    /// Coding Scheme Designator, e.g. `SCT`, `LN`.
    pub scheme: String,
    /// Code Meaning, plain ASCII, at most 64 characters.
    pub meaning: String,
}

/// One file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path below the bundle's folder, `/` between parts; no `..`, not absolute.
    pub path: String,
    /// What it is.
    pub role: Role,
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
}

/// What a file of the bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The ONNX network: exactly one.
    Network,
    /// The model card for people: exactly one.
    Card,
    /// Anything else that comes along, such as a licence.
    Document,
}

/// The images that the model is cleared for. An image outside is not run, and the result says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Indication {
    /// Modality (0008,0060): at least one. Series of other modalities are no business of the
    /// model; they do not make its result incomplete.
    pub modalities: Vec<String>,
    /// Body Part Examined (0018,0015); empty: any.
    #[serde(default)]
    pub body_parts: Vec<String>,
    /// Least age in years.
    #[serde(default)]
    pub age_min_years: Option<f64>,
    /// Greatest age in years: a patient of 90 years and 11 months is within 90.
    #[serde(default)]
    pub age_max_years: Option<f64>,
    /// Greatest Slice Thickness (0018,0050) in mm.
    #[serde(default)]
    pub slice_thickness_max_mm: Option<f64>,
    /// What to do with an image whose header does not say what a condition above asks.
    #[serde(default)]
    pub when_unstated: Unstated,
}

/// What to do where the header does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unstated {
    /// Count it as outside the indication.
    #[default]
    Refuse,
    /// Count it as inside.
    Allow,
}

/// How an image becomes the input tensor, 32-bit floats of one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Name of the network's input.
    pub tensor: String,
    /// Order of its axes.
    pub layout: Layout,
    /// 1 (grey) or 3 (red, green, blue; grey images are repeated).
    pub channels: u32,
    /// What one run of the network sees.
    pub scope: Scope,
    /// Size of the tensor.
    pub resize: Resize,
    /// How pixels in between are computed.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// What the values mean before they are scaled.
    pub intensity: Intensity,
    /// Last step, for every value: `(value * scale - mean) / std`.
    #[serde(default)]
    pub normalise: Normalise,
    /// What to do with images whose small values are bright.
    #[serde(default)]
    pub monochrome1: Monochrome1,
}

/// Order of the input's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// `[1, channels, height, width]`
    #[serde(rename = "NCHW")]
    Nchw,
    /// `[1, height, width, channels]`
    #[serde(rename = "NHWC")]
    Nhwc,
}

/// What one run of the network sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One frame, by itself.
    Image,
}

/// Size of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// As the image is.
    Native {},
    /// Both sides stretched, each by its own factor.
    Stretch {
        /// Columns of the tensor.
        width: u32,
        /// Rows of the tensor.
        height: u32,
    },
    /// As large as fits, in the middle, the aspect kept; the rest holds the image's least value.
    Fit {
        /// Columns of the tensor.
        width: u32,
        /// Rows of the tensor.
        height: u32,
    },
    /// Shrunk only where the longer side is above the limit, the aspect kept.
    LimitSide {
        /// Longest side of the tensor.
        side: u32,
    },
}

/// How pixels in between are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Between the four nearest pixels, whatever the factor (OpenCV's `INTER_LINEAR`).
    #[default]
    Bilinear,
    /// Mean of the pixels under each new pixel (OpenCV's `INTER_AREA` when shrinking).
    Area,
    /// Triangle filter, widened when shrinking (Pillow's `BILINEAR`).
    BilinearAntialias,
    /// Cubic filter, widened when shrinking (Pillow's `BICUBIC`, its default).
    BicubicAntialias,
}

/// What the values mean before they are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum Intensity {
    /// Modality units after Rescale Slope and Intercept: HU for CT. Colour stays as stored.
    Modality {},
    /// Modality units through this window, to 0..1 (PS3.3 C.11.2.1.2.1, linear).
    Window {
        /// Centre, in modality units.
        centre: f64,
        /// Width, in modality units, above 1.
        width: f64,
    },
    /// The image's own VOI LUT or first window, to 0..1; least to greatest value where it has none.
    ImageWindow {},
    /// The least to the greatest value of the image, to 0..1.
    MinMax {},
    /// These percentiles of the image, to 0..1, clipped.
    Percentile {
        /// Lower, 0 to 100.
        low: f64,
        /// Upper, above `low`, to 100.
        high: f64,
    },
}

/// `(value * scale - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalise {
    /// Factor.
    #[serde(default = "one")]
    pub scale: f64,
    /// One for all channels, or one each; none is 0.
    #[serde(default)]
    pub mean: Vec<f64>,
    /// One for all channels, or one each; none is 1.
    #[serde(default)]
    pub std: Vec<f64>,
}

impl Default for Normalise {
    fn default() -> Self {
        Normalise { scale: one(), mean: Vec::new(), std: Vec::new() }
    }
}

fn one() -> f64 {
    1.0
}

/// What to do with images whose small values are bright (Photometric Interpretation MONOCHROME1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Monochrome1 {
    /// Turn them, so that large is bright: the stored range is mirrored for `modality`,
    /// the windowed value otherwise.
    #[default]
    Invert,
    /// Leave the values.
    Keep,
}

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

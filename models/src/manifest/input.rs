//! How an image becomes the input tensor.

use serde::{Deserialize, Serialize};

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

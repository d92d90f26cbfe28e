//! What a network said, before it is put into codes: what stage 2 hands to stage 3.

use serde::{Deserialize, Serialize};

use crate::finding::{Completeness, InstanceRef, Region};

/// What the network said of one frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawOutput {
    /// Boxes of a detection network.
    Detections(Vec<RawDetection>),
    /// Probabilities of a classification network, by label index.
    Scores(Vec<f64>),
}

/// One frame that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameOutput {
    /// The instance.
    pub instance: InstanceRef,
    /// Frame number, from 1.
    pub frame: u32,
    /// Where the frame lies.
    pub geometry: Geometry,
    /// What the network said.
    pub output: RawOutput,
}

/// What a model said of a study, before it is put into codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawResult {
    /// How far the model got.
    pub completeness: Completeness,
    /// The frames that were run, by instance as given, then by frame.
    pub frames: Vec<FrameOutput>,
    /// The instances of which every frame was run.
    pub examined: Vec<InstanceRef>,
}

/// One box of a detection network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawDetection {
    /// Index of the label.
    pub label: u32,
    /// 0 to 1.
    pub score: f64,
    /// Where, in the frame's pixel coordinates, inside the frame.
    pub region: Region,
}

/// Size of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "known")]
pub enum Spacing {
    /// In the patient: a cross-sectional image, or a projection calibrated by an object or fiducial
    /// of known size.
    Patient {
        /// Distance between rows, mm: the *first* value of Pixel Spacing.
        row_mm: f64,
        /// Distance between columns, mm: the second.
        column_mm: f64,
    },
    /// At the detector or not at all: lengths in the patient are not known.
    Unknown,
}

/// Where a frame lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    /// Columns of the frame.
    pub columns: u32,
    /// Rows of the frame.
    pub rows: u32,
    /// Size of a pixel.
    pub spacing: Spacing,
    /// Where the slice lies, for cross-sectional images.
    pub slice: Option<Slice>,
}

/// A slice's plane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Image Orientation (Patient): direction cosines of the rows, then of the columns.
    pub orientation: [f64; 6],
    /// Image Position (Patient) along the slice's normal, mm.
    pub position_mm: f64,
}

/// Intersection over union of two regions; 0 for empty ones.
pub fn overlap(a: &Region, b: &Region) -> f64 {
    let width = (a.right.min(b.right) - a.left.max(b.left)).max(0.0);
    let height = (a.bottom.min(b.bottom) - a.top.max(b.top)).max(0.0);
    let both = width * height;
    let union = a.width() * a.height() + b.width() * b.height() - both;
    if union > 0.0 { both / union } else { 0.0 }
}

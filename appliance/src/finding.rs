//! The findings record: what a model said about a study, in coded terms, with the place in the
//! images that it said it of. Everything that leaves the box is made from this record alone.

use serde::{Deserialize, Serialize};

use crate::phi::Phi;

/// A coded concept: value, coding scheme designator, meaning (PS3.3 §8).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Code {
    /// Code Value (0008,0100).
    pub value: String,
    /// Coding Scheme Designator (0008,0102): `SCT`, `DCM`, `LN`, `RADLEX`, `UCUM`, `99…`.
    pub scheme: String,
    /// Code Meaning (0008,0104), plain ASCII.
    pub meaning: String,
}

impl Code {
    /// A coded concept from its three parts.
    pub fn new(value: &str, scheme: &str, meaning: &str) -> Self {
        Code { value: value.into(), scheme: scheme.into(), meaning: meaning.into() }
    }
}

/// How sure the model is, and so what becomes of the finding. The thresholds are regulated data
/// in the bundle's manifest, not code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Below the flagging threshold: kept in the ledger, never in an output.
    Suppressed,
    /// Put into the outputs, marked as needing explicit attention.
    Flagged,
    /// Put into the outputs.
    Reported,
}

impl Tier {
    /// The word that the admin page and the ledger use.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Suppressed => "suppressed",
            Tier::Flagged => "flagged",
            Tier::Reported => "reported",
        }
    }
}

/// An axis-aligned region of one frame.
///
/// Pixel coordinates as in an SR's SCOORD (PS3.3 C.18.6.1.1): column then row, 0.0\0.0 is the top
/// left *corner* of the top left pixel, so that pixel's centre is 0.5\0.5. The right and bottom
/// edges are exclusive: a single pixel at column 3, row 5 is `left 3, top 5, right 4, bottom 6`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Left edge, in columns.
    pub left: f64,
    /// Top edge, in rows.
    pub top: f64,
    /// Right edge, in columns.
    pub right: f64,
    /// Bottom edge, in rows.
    pub bottom: f64,
}

impl Region {
    /// Width in pixels.
    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    /// Height in pixels.
    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// Centre as (column, row), in the coordinates described on [`Region`].
    pub fn centre(&self) -> (f64, f64) {
        ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0)
    }
}

/// One SOP instance, by the identifiers that a reference to it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceRef {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// SOP Class UID (no patient data: it names a kind of object).
    pub sop_class_uid: String,
    /// SOP Instance UID.
    pub sop_instance_uid: Phi<String>,
    /// Modality (0008,0060) of the series, e.g. `CT`.
    pub modality: String,
    /// Number of frames (1 for a single-frame object). SR references name a frame only when
    /// this is above 1.
    pub frames: u32,
}

/// Where in the images a finding comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The instance.
    pub instance: InstanceRef,
    /// Frame number, from 1.
    pub frame: u32,
    /// The region, for a detection; a classification speaks of the whole frame.
    pub region: Option<Region>,
}

/// A measured or computed number with its unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured, e.g. (103339001, SCT, "Long axis").
    pub name: Code,
    /// The number, in `unit`.
    pub value: f64,
    /// UCUM unit, e.g. (mm, UCUM, "millimeter").
    pub unit: Code,
}

/// One statement of one model about one place or image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Human-readable tracking identifier, unique in the study's result, without patient data:
    /// `lightbox-phantom-detector disk 1`.
    pub tracking_id: String,
    /// The model's own output label, as in its manifest.
    pub label: String,
    /// Finding category, e.g. (49755003, SCT, "Morphologically abnormal structure").
    pub category: Code,
    /// What was found.
    pub finding: Code,
    /// Anatomical site, where the manifest states one.
    pub site: Option<Code>,
    /// Laterality, where it is known.
    pub laterality: Option<Code>,
    /// The model's score for this label, 0 to 1.
    pub score: f64,
    /// What becomes of it.
    pub tier: Tier,
    /// Measurements, in the order in which they are reported.
    pub measurements: Vec<Measurement>,
    /// Where it was seen.
    pub source: Source,
}

/// Which model spoke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The manifest's identifier, e.g. `lightbox-phantom-detector`.
    pub id: String,
    /// Name shown to people and in the SR (Algorithm Name 111001).
    pub name: String,
    /// Version (111003).
    pub version: String,
    /// Vendor; Manufacturer of the device observer.
    pub vendor: String,
    /// SHA-256 over the whole bundle, hex.
    pub digest: String,
    /// Device UID (a UID under 2.25 derived from id, version and digest).
    pub device_uid: String,
    /// The regulatory claim's wording of what was looked for, e.g. "bright disks".
    pub looked_for: String,
    /// LOINC code of the procedure that it reports on.
    pub procedure: Code,
    /// True where the bundle says so: every output carries it.
    pub not_for_clinical_use: bool,
    /// The change-control plan under which it came to run, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// SHA-256 of the record of its acceptance on this box, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<String>,
}

/// How far a model got with a study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum Completeness {
    /// Every selected image was examined.
    Complete,
    /// Some images could not be examined: why, without patient data.
    Partial(String),
    /// None could be examined: why, without patient data.
    NotRun(String),
}

/// Everything one model said about one revision of one study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    /// Which model.
    pub model: ModelIdentity,
    /// How far it got.
    pub completeness: Completeness,
    /// All findings, of all tiers, in the order in which they are reported.
    pub findings: Vec<Finding>,
    /// The images that the model examined.
    pub examined: Vec<InstanceRef>,
}

impl ModelResult {
    /// The findings that go into outputs: all but the suppressed ones.
    pub fn visible(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.tier != Tier::Suppressed)
    }
}

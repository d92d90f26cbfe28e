//! The images that the model is cleared for.

use serde::{Deserialize, Serialize};

/// The images that the model is cleared for. An image outside is not run, and the result says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Patient's Sex (0010,0040); empty: any.
    #[serde(default)]
    pub sex: Vec<Sex>,
    /// View Position (0018,5101), e.g. `PA`; empty: any.
    #[serde(default)]
    pub views: Vec<String>,
    /// Manufacturer (0008,0070), compared without regard to case; empty: any.
    #[serde(default)]
    pub manufacturers: Vec<String>,
    /// Greatest Slice Thickness (0018,0050) in mm.
    #[serde(default)]
    pub slice_thickness_max_mm: Option<f64>,
    /// Images that are outside although the conditions above hold.
    #[serde(default)]
    pub excluded: Vec<Excluded>,
    /// What to do with an image whose header does not say what a condition above asks.
    #[serde(default)]
    pub when_unstated: Unstated,
}

/// Images that are outside the indication: those for which every key that is given here holds. At
/// least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excluded {
    /// Modality (0008,0060).
    #[serde(default)]
    pub modality: Option<String>,
    /// Body Part Examined (0018,0015).
    #[serde(default)]
    pub body_part: Option<String>,
    /// Patient's Sex (0010,0040).
    #[serde(default)]
    pub sex: Option<Sex>,
    /// View Position (0018,5101).
    #[serde(default)]
    pub view: Option<String>,
    /// Manufacturer (0008,0070), compared without regard to case.
    #[serde(default)]
    pub manufacturer: Option<String>,
    /// Manufacturer's Model Name (0008,1090), compared without regard to case.
    #[serde(default)]
    pub manufacturer_model: Option<String>,
}

/// Patient's Sex (0010,0040).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sex {
    /// Female.
    #[serde(rename = "F")]
    Female,
    /// Male.
    #[serde(rename = "M")]
    Male,
    /// Other.
    #[serde(rename = "O")]
    Other,
}

impl Sex {
    /// As DICOM writes it.
    pub fn code(self) -> &'static str {
        match self {
            Sex::Female => "F",
            Sex::Male => "M",
            Sex::Other => "O",
        }
    }
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

//! Which studies go to which models and which destinations.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::site::priors::Priors;
use crate::site::routing::{Edits, Schedule};

/// `[[rule]]`: looks at each series of a study.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name shown with each decision.
    pub name: String,
    /// Conditions; all that are given must hold. An empty table matches every series.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// A CEL expression over `study` and `series` that must be true as well, for what a table
    /// cannot say, e.g. `series.instances > 20 && !study.description.contains("phantom")`.
    pub when: Option<String>,
    /// Names of the models that the series goes to. May be empty: the study is kept and shown.
    #[serde(default)]
    pub models: Vec<String>,
    /// Names of the destinations for the results.
    #[serde(default)]
    pub deliver: Vec<String>,
    /// Names of DICOM and DICOMweb destinations to which the series' instances are sent on, as received, once the
    /// study's revision is closed. Works with and without `models`. Images that come late are sent on
    /// with the next revision, each image once to each destination. A series is never sent back to the
    /// peer that it came from.
    #[serde(default)]
    pub forward: Vec<String>,
    /// Keep what this rule delivers and forwards until a person releases it (administration page, or
    /// `lightbox queue release`). Models run at once all the same.
    #[serde(default)]
    pub hold: bool,
    /// Hours in which what this rule delivers and forwards may leave the box, e.g.
    /// `{ days = ["mon", "tue"], from = "19:00", to = "06:00" }`; outside them it waits, retries too.
    /// What is being sent when the hours end is sent to its end. Models run at once all the same, so
    /// that results are there for people when they look. Where two rules send the same to the same
    /// destination, the one that sends sooner counts: at once before in hours, before held, before
    /// shadow.
    pub schedule: Option<Schedule>,
    /// Elements to change in the images that this rule forwards, e.g.
    /// `{ institution_name = "St. Mary", accession_number_prefix = "SM-" }`. Only the keys below: names,
    /// identifiers and UIDs of patient, study and image never change. What was there before is kept in
    /// the Original Attributes Sequence (0400,0561). An image whose character set has not all the
    /// characters of a value becomes a dead letter. Results and stored images stay as they are. Where two
    /// rules set the same, the first one counts.
    #[serde(default, skip_serializing_if = "Edits::is_empty")]
    pub set: Edits,
    /// `assist` sends results and images; `shadow` computes and keeps results, and sends nothing.
    #[serde(default)]
    pub mode: Mode,
    /// If it matches, later rules do not look at this series.
    #[serde(default)]
    pub stop: bool,
    /// Instead of `timers.quiet_seconds` for the series that it matches, in seconds. Where several rules
    /// match, the longest counts.
    pub quiet_seconds: Option<u64>,
    /// `study` starts the models when the study is complete; `series` starts them on each series as soon
    /// as that series is complete, and makes a result of its own for each.
    #[serde(default)]
    pub start: Start,
    /// Earlier studies of the patient that are fetched from a PACS before the rule's models run, e.g.
    /// `{ from = "pacs", by = "move", latest = 2, same = ["modality", "body_part"], deadline_seconds = 20 }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priors: Option<Priors>,
}

/// When a rule's models start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// When the study is complete: one result for all its series.
    #[default]
    Study,
    /// When a series is complete: one result for each.
    Series,
}

/// Whether results leave the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Computed and sent.
    #[default]
    Assist,
    /// Computed, kept, never sent.
    Shadow,
}

/// `rule.match`: texts are compared without regard to case and may hold `*` and `?`; a list
/// means any of its texts; a range has `min` and `max`, both inclusive and both optional. A
/// condition on a value that the series does not have is false.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Modality (0008,0060).
    pub modality: Option<OneOrMany>,
    /// Body Part Examined (0018,0015).
    pub body_part: Option<OneOrMany>,
    /// Study Description (0008,1030).
    pub study_description: Option<OneOrMany>,
    /// Series Description (0008,103E).
    pub series_description: Option<OneOrMany>,
    /// Protocol Name (0018,1030).
    pub protocol: Option<OneOrMany>,
    /// AE title of the sender.
    pub calling_ae: Option<OneOrMany>,
    /// Name of the peer that sent it, as in this file.
    pub peer: Option<OneOrMany>,
    /// Station Name (0008,1010).
    pub station: Option<OneOrMany>,
    /// Manufacturer (0008,0070).
    pub manufacturer: Option<OneOrMany>,
    /// Patient's Sex (0010,0040).
    pub sex: Option<OneOrMany>,
    /// SOP Class UID of the series' first instance.
    pub sop_class: Option<OneOrMany>,
    /// View Position (0018,5101).
    pub view: Option<OneOrMany>,
    /// Age in years, from Patient's Age (0010,1010) or birth and study date.
    pub age_years: Option<Range>,
    /// Slice Thickness (0018,0050), mm.
    pub slice_thickness_mm: Option<Range>,
    /// Number of instances in the series.
    pub instances: Option<Range>,
}

/// A text or a list of texts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text.
    One(String),
    /// Any of these texts.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts.
    pub fn texts(&self) -> &[String] {
        match self {
            OneOrMany::One(text) => std::slice::from_ref(text),
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// A range of numbers; both ends are inclusive.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Lowest value that matches.
    pub min: Option<f64>,
    /// Highest value that matches.
    pub max: Option<f64>,
}

impl Range {
    /// Whether the value lies in the range.
    pub fn contains(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

/// Index of names, for checks of references between tables.
pub(crate) type Names = BTreeMap<String, usize>;

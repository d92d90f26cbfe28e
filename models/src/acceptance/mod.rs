//! Acceptance on the box: the sealed set of cases, the rows that running it gives, the measures
//! of these rows, and the signed record of what was found.
//!
//! The set is the vendor's: it comes encrypted to this device ([`seal`]), is named by the plan by
//! the digest of its manifest ([`AcceptanceSet`]), and is never stored among the site's studies.

mod measure;
mod record;
pub mod seal;
mod set;

pub use measure::{Measured, measure, non_inferiority, subgroup_estimate};
pub use record::{AcceptanceRecord, Hardware, RecordError, SignedRecord};
pub use set::{AcceptanceSet, Case, CaseInput, SetError, SetReader, SetWriter};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Tier;

/// One label's result on one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The case's name in the set.
    pub case: String,
    /// The output label's name.
    pub label: String,
    /// The case's greatest score for it; 0 where there is none.
    pub score: f64,
    /// What the box makes of the score.
    pub tier: Tier,
    /// Whether the case has it.
    pub truth: bool,
    /// Dice's coefficient with the truth's mask or box, where the set has one.
    pub overlap: Option<f64>,
    /// The case's attributes, e.g. `sex = "F"`.
    pub groups: BTreeMap<String, String>,
}

/// One version on one set, on this box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Digest of the bundle that ran.
    pub model: String,
    /// Digest of the set's manifest, as it was opened here.
    pub set_sha256: String,
    /// Names of the set's cases, whether they ran or not: a case without a row is a failure.
    pub cases: Vec<String>,
    /// A row for each case and label.
    pub rows: Vec<Row>,
}

impl Run {
    /// The rows of a label, in the order of the set's cases. Refused where a case is missing, given
    /// twice, or not of the set: what did not run must not be left out of a measure.
    pub fn of_label(&self, label: &str) -> Result<Vec<&Row>, String> {
        let mut by_case: BTreeMap<&str, &Row> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.label == label) {
            if by_case.insert(&row.case, row).is_some() {
                return Err(format!("case {:?} has two rows for label {label:?}", row.case));
            }
        }
        let rows = self
            .cases
            .iter()
            .map(|case| {
                by_case.remove(case.as_str()).ok_or(format!("case {case:?} has no row for label {label:?}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        match by_case.keys().next() {
            Some(case) => Err(format!("case {case:?} is not of the set, or listed twice")),
            None => Ok(rows),
        }
    }
}

//! What Modality Performed Procedure Step (PS3.4 F.7) and Instance Availability Notification (PS3.4
//! Annex R) say, as far as it is evidence of a study's completeness.

use std::fmt;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use serde::{Deserialize, Serialize};

use super::data_set::DataSet;
use super::status::{INVALID_ATTRIBUTE_VALUE, MISSING_ATTRIBUTE};
use crate::phi::Phi;

/// Longest attribute list that is read.
pub const ATTRIBUTES_MAX: usize = 8 * 1024 * 1024;
/// Error ID of an N-SET after the end (PS3.4 F.7.2.2.2), with status 0x0110.
pub const NO_LONGER_UPDATED: u16 = 0xA710;

/// Attributes that N-CREATE must bring with a value (type 1 in PS3.4 Table F.7.2-1).
const REQUIRED: &[Tag] = &[
    tags::PERFORMED_PROCEDURE_STEP_ID,
    tags::PERFORMED_STATION_AE_TITLE,
    tags::PERFORMED_PROCEDURE_STEP_START_DATE,
    tags::PERFORMED_PROCEDURE_STEP_START_TIME,
    tags::PERFORMED_PROCEDURE_STEP_STATUS,
    tags::MODALITY,
];

/// Performed Procedure Step Status (0040,0252).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    /// Started.
    InProgress,
    /// Ended as it should.
    Completed,
    /// Ended early.
    Discontinued,
}

impl StepStatus {
    /// The value as written.
    pub fn as_str(self) -> &'static str {
        match self {
            StepStatus::InProgress => "IN PROGRESS",
            StepStatus::Completed => "COMPLETED",
            StepStatus::Discontinued => "DISCONTINUED",
        }
    }

    /// Reads the value.
    pub fn parse(text: &str) -> Option<Self> {
        [StepStatus::InProgress, StepStatus::Completed, StepStatus::Discontinued]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why attributes were refused: a DIMSE status, and the elements at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 0x0120 or 0x0106.
    pub status: u16,
    /// For Attribute Identifier List.
    pub elements: Vec<Tag>,
}

fn missing(tag: Tag) -> Fault {
    Fault { status: MISSING_ATTRIBUTE, elements: vec![tag] }
}

fn invalid(tag: Tag) -> Fault {
    Fault { status: INVALID_ATTRIBUTE_VALUE, elements: vec![tag] }
}

/// A series of a performed procedure step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerformedSeries {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// SOP Instance UIDs.
    pub instances: Vec<Phi<String>>,
}

/// What N-CREATE of a performed procedure step says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Study Instance UID of its first scheduled step.
    pub study_uid: Phi<String>,
    /// Its series so far; usually none.
    pub series: Vec<PerformedSeries>,
}

impl Begun {
    /// Reads the attribute list of N-CREATE.
    pub fn read(attributes: &DataSet) -> Result<Self, Fault> {
        let lacking: Vec<Tag> =
            REQUIRED.iter().copied().filter(|tag| attributes.ascii(*tag).is_none()).collect();
        if !lacking.is_empty() {
            return Err(Fault { status: MISSING_ATTRIBUTE, elements: lacking });
        }
        let status = attributes.ascii(tags::PERFORMED_PROCEDURE_STEP_STATUS).unwrap_or_default();
        if StepStatus::parse(&status) != Some(StepStatus::InProgress) {
            return Err(invalid(tags::PERFORMED_PROCEDURE_STEP_STATUS));
        }
        let scheduled = attributes
            .items(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE)
            .first()
            .ok_or(missing(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE))?;
        let study_uid = scheduled.uid(tags::STUDY_INSTANCE_UID).ok_or(missing(tags::STUDY_INSTANCE_UID))?;
        Ok(Begun { study_uid: Phi::new(study_uid), series: performed(attributes)?.unwrap_or_default() })
    }
}

/// What N-SET of a performed procedure step changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The new status.
    pub status: Option<StepStatus>,
    /// All its series, where they are given: they take the place of those told before.
    pub series: Option<Vec<PerformedSeries>>,
}

impl Change {
    /// Reads the modification list of N-SET.
    pub fn read(attributes: &DataSet) -> Result<Self, Fault> {
        let status = match attributes.ascii(tags::PERFORMED_PROCEDURE_STEP_STATUS) {
            None => None,
            Some(text) => {
                Some(StepStatus::parse(&text).ok_or(invalid(tags::PERFORMED_PROCEDURE_STEP_STATUS))?)
            }
        };
        Ok(Change { status, series: performed(attributes)? })
    }
}

fn performed(attributes: &DataSet) -> Result<Option<Vec<PerformedSeries>>, Fault> {
    if !attributes.has(tags::PERFORMED_SERIES_SEQUENCE) {
        return Ok(None);
    }
    let series = attributes.items(tags::PERFORMED_SERIES_SEQUENCE).iter().map(|item| {
        let series_uid = item.uid(tags::SERIES_INSTANCE_UID).ok_or(missing(tags::SERIES_INSTANCE_UID))?;
        let images = item.items(tags::REFERENCED_IMAGE_SEQUENCE).iter();
        let others = item.items(tags::REFERENCED_NON_IMAGE_COMPOSITE_SOP_INSTANCE_SEQUENCE).iter();
        let instances = images.chain(others).map(instance).collect::<Result<_, _>>()?;
        Ok(PerformedSeries { series_uid: Phi::new(series_uid), instances })
    });
    Ok(Some(series.collect::<Result<_, Fault>>()?))
}

fn instance(item: &DataSet) -> Result<Phi<String>, Fault> {
    let uid = item.uid(tags::REFERENCED_SOP_INSTANCE_UID);
    uid.map(Phi::new).ok_or(missing(tags::REFERENCED_SOP_INSTANCE_UID))
}

/// A series of an Instance Availability Notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailableSeries {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// How many instances of it are available.
    pub instances: usize,
    /// Their SOP Instance UIDs.
    pub uids: Vec<Phi<String>>,
}

/// What an Instance Availability Notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Availability {
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// The series, without the instances that are said to be UNAVAILABLE.
    pub series: Vec<AvailableSeries>,
}

impl Availability {
    /// Reads the attribute list of N-CREATE (PS3.4 Table R.3.2-1).
    pub fn read(attributes: &DataSet) -> Result<Self, Fault> {
        let study_uid = attributes.uid(tags::STUDY_INSTANCE_UID).ok_or(missing(tags::STUDY_INSTANCE_UID))?;
        let items = attributes.items(tags::REFERENCED_SERIES_SEQUENCE);
        if items.is_empty() {
            return Err(missing(tags::REFERENCED_SERIES_SEQUENCE));
        }
        let series = items.iter().map(|item| {
            let series_uid = item.uid(tags::SERIES_INSTANCE_UID).ok_or(missing(tags::SERIES_INSTANCE_UID))?;
            let mut uids = Vec::new();
            for one in item.items(tags::REFERENCED_SOP_SEQUENCE) {
                let availability =
                    one.ascii(tags::INSTANCE_AVAILABILITY).ok_or(missing(tags::INSTANCE_AVAILABILITY))?;
                let uid = instance(one)?;
                if availability != "UNAVAILABLE" {
                    uids.push(uid);
                }
            }
            Ok(AvailableSeries { series_uid: Phi::new(series_uid), instances: uids.len(), uids })
        });
        Ok(Availability { study_uid: Phi::new(study_uid), series: series.collect::<Result<_, Fault>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> DataSet {
        let scheduled = DataSet::new().with(tags::STUDY_INSTANCE_UID, "1.2.3");
        DataSet::new()
            .with(tags::PERFORMED_PROCEDURE_STEP_ID, "P1")
            .with(tags::PERFORMED_STATION_AE_TITLE, "CT1")
            .with(tags::PERFORMED_PROCEDURE_STEP_START_DATE, "20260101")
            .with(tags::PERFORMED_PROCEDURE_STEP_START_TIME, "120000")
            .with(tags::PERFORMED_PROCEDURE_STEP_STATUS, "IN PROGRESS")
            .with(tags::MODALITY, "CT")
            .with_items(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, vec![scheduled])
    }

    #[test]
    fn a_step_begins_in_progress_and_with_its_study() {
        assert_eq!(Begun::read(&begun()).expect("whole").study_uid.expose(), "1.2.3");
        let fault = |attributes: DataSet| Begun::read(&attributes).expect_err("refused").status;
        assert_eq!(fault(begun().with(tags::PERFORMED_PROCEDURE_STEP_STATUS, "COMPLETED")), 0x0106);
        assert_eq!(fault(begun().with(tags::PERFORMED_PROCEDURE_STEP_STATUS, "STARTED")), 0x0106);
        assert_eq!(fault(begun().with(tags::MODALITY, "")), 0x0120);
        assert_eq!(fault(begun().with_items(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, vec![])), 0x0120);
    }

    #[test]
    fn a_change_names_its_series_and_instances() {
        let image = DataSet::new().with(tags::REFERENCED_SOP_INSTANCE_UID, "1.2.3.4.5");
        let series = DataSet::new()
            .with(tags::SERIES_INSTANCE_UID, "1.2.3.4")
            .with_items(tags::REFERENCED_IMAGE_SEQUENCE, vec![image]);
        let change = DataSet::new()
            .with(tags::PERFORMED_PROCEDURE_STEP_STATUS, "COMPLETED")
            .with_items(tags::PERFORMED_SERIES_SEQUENCE, vec![series]);
        let read = Change::read(&change).expect("whole");
        assert_eq!(read.status, Some(StepStatus::Completed));
        let json = serde_json::to_string(&read.series).expect("JSON");
        assert_eq!(json, r#"[{"series_uid":"1.2.3.4","instances":["1.2.3.4.5"]}]"#);
        assert_eq!(
            Change::read(&DataSet::new().with(tags::PERFORMED_PROCEDURE_STEP_STATUS, "FINISHED")),
            Err(invalid(tags::PERFORMED_PROCEDURE_STEP_STATUS))
        );
        assert_eq!(Change::read(&DataSet::new()), Ok(Change { status: None, series: None }));
    }

    #[test]
    fn an_announcement_leaves_out_what_is_unavailable() {
        let one = |uid: &str, availability: &str| {
            DataSet::new()
                .with(tags::REFERENCED_SOP_INSTANCE_UID, uid)
                .with(tags::INSTANCE_AVAILABILITY, availability)
        };
        let series = DataSet::new().with(tags::SERIES_INSTANCE_UID, "1.2.4").with_items(
            tags::REFERENCED_SOP_SEQUENCE,
            vec![one("1.2.4.1", "ONLINE"), one("1.2.4.2", "UNAVAILABLE")],
        );
        let attributes = DataSet::new()
            .with(tags::STUDY_INSTANCE_UID, "1.2")
            .with_items(tags::REFERENCED_SERIES_SEQUENCE, vec![series]);
        let read = Availability::read(&attributes).expect("whole");
        let json = serde_json::to_string(&read.series).expect("JSON");
        assert_eq!(json, r#"[{"series_uid":"1.2.4","instances":1,"uids":["1.2.4.1"]}]"#);
    }
}

//! Storage Commitment Push Model (PS3.4 Annex J): what N-ACTION asks and N-EVENT-REPORT answers.

use dicom_dictionary_std::tags;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::association::{Association, AssociationError};
use super::data_set::DataSet;
use super::dimse::{Command, N_EVENT_REPORT_RQ};
use super::services::{STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE};
use super::status::{CLASS_INSTANCE_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE};
use crate::phi::Phi;

/// Longest action or event information that is read: some ten thousand references.
pub const INFORMATION_MAX: usize = 8 * 1024 * 1024;
/// Action Type ID of a request.
pub const REQUEST: u16 = 1;
/// Event Type ID: every instance is committed to.
pub const ALL_COMMITTED: u16 = 1;
/// Event Type ID: for some instances the commitment failed.
pub const FAILURES_EXIST: u16 = 2;

/// An instance that a commitment is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// SOP Class UID.
    pub class: String,
    /// SOP Instance UID.
    pub instance: Phi<String>,
}

/// An instance that was not committed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The instance.
    pub reference: Reference,
    /// Failure Reason (0008,1197).
    pub reason: u16,
}

/// A Failure Reason in words (PS3.3 C.14.1.1).
pub fn reason_words(reason: u16) -> &'static str {
    match reason {
        PROCESSING_FAILURE => "processing failure",
        NO_SUCH_INSTANCE => "no such object instance",
        0x0213 => "resource limitation",
        0x0122 => "referenced SOP class not supported",
        CLASS_INSTANCE_CONFLICT => "class/instance conflict",
        0x0131 => "duplicate transaction UID",
        _ => "failure",
    }
}

/// A request for commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Transaction UID, which the report repeats.
    pub transaction_uid: Phi<String>,
    /// The instances.
    pub references: Vec<Reference>,
}

impl Request {
    /// Reads action information; `None` if it lacks the transaction UID, has no reference, or one that
    /// cannot be used.
    pub fn read(information: &DataSet) -> Option<Self> {
        let transaction_uid = Phi::new(information.uid(tags::TRANSACTION_UID)?);
        let items = information.items(tags::REFERENCED_SOP_SEQUENCE);
        let references: Option<Vec<_>> = items.iter().map(reference).collect();
        let references = references.filter(|references| !references.is_empty())?;
        Some(Request { transaction_uid, references })
    }

    /// The action information.
    pub fn information(&self) -> DataSet {
        DataSet::new()
            .with(tags::TRANSACTION_UID, self.transaction_uid.expose())
            .with_items(tags::REFERENCED_SOP_SEQUENCE, self.references.iter().map(item).collect())
    }
}

fn reference(item: &DataSet) -> Option<Reference> {
    Some(Reference {
        class: item.uid(tags::REFERENCED_SOP_CLASS_UID)?,
        instance: Phi::new(item.uid(tags::REFERENCED_SOP_INSTANCE_UID)?),
    })
}

fn item(reference: &Reference) -> DataSet {
    DataSet::new()
        .with(tags::REFERENCED_SOP_CLASS_UID, &reference.class)
        .with(tags::REFERENCED_SOP_INSTANCE_UID, reference.instance.expose())
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Transaction UID of the request.
    pub transaction_uid: Phi<String>,
    /// Instances that are committed to.
    pub committed: Vec<Reference>,
    /// Instances that are not, with the reason.
    pub failed: Vec<Failure>,
}

impl Report {
    /// Event Type ID.
    pub fn event_type(&self) -> u16 {
        if self.failed.is_empty() { ALL_COMMITTED } else { FAILURES_EXIST }
    }

    /// Reads event information; `None` if it lacks what a report must have.
    pub fn read(information: &DataSet) -> Option<Self> {
        let committed: Option<Vec<_>> =
            information.items(tags::REFERENCED_SOP_SEQUENCE).iter().map(reference).collect();
        let failed = information.items(tags::FAILED_SOP_SEQUENCE).iter().map(|item| {
            let reason = item.u16(tags::FAILURE_REASON).unwrap_or(PROCESSING_FAILURE);
            Some(Failure { reference: reference(item)?, reason })
        });
        Some(Report {
            transaction_uid: Phi::new(information.uid(tags::TRANSACTION_UID)?),
            committed: committed?,
            failed: failed.collect::<Option<Vec<_>>>()?,
        })
    }

    /// The event information.
    pub fn information(&self) -> DataSet {
        let mut information = DataSet::new().with(tags::TRANSACTION_UID, self.transaction_uid.expose());
        if !self.committed.is_empty() {
            let items = self.committed.iter().map(item).collect();
            information = information.with_items(tags::REFERENCED_SOP_SEQUENCE, items);
        }
        if !self.failed.is_empty() {
            let failed =
                |failure: &Failure| item(&failure.reference).with_u16(tags::FAILURE_REASON, failure.reason);
            let items = self.failed.iter().map(failed).collect();
            information = information.with_items(tags::FAILED_SOP_SEQUENCE, items);
        }
        information
    }

    /// Sends it as an N-EVENT-REPORT request; the response is to be awaited.
    pub async fn send<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        context: u8,
        transfer_syntax: &str,
        message_id: u16,
    ) -> Result<(), AssociationError> {
        let request = Command {
            field: N_EVENT_REPORT_RQ,
            message_id,
            sop_class_uid: Some(STORAGE_COMMITMENT.into()),
            sop_instance_uid: Some(Phi::from(STORAGE_COMMITMENT_INSTANCE)),
            event_type_id: Some(self.event_type()),
            has_data_set: true,
            ..Command::default()
        };
        association.send_command(context, &request).await?;
        association.send_data_set(context, &self.information().encode(transfer_syntax)[..]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::services::EXPLICIT_VR_LITTLE_ENDIAN;

    fn reference(number: u8) -> Reference {
        Reference { class: "1.2.840.10008.5.1.4.1.1.2".into(), instance: Phi::new(format!("1.2.{number}")) }
    }

    fn read_back(data_set: &DataSet) -> DataSet {
        DataSet::parse(&data_set.encode(EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN).expect("whole")
    }

    #[test]
    fn requests_and_reports_survive_the_wire() {
        let transaction_uid = Phi::from("1.2.9");
        let request = Request {
            transaction_uid: transaction_uid.clone(),
            references: vec![reference(1), reference(2)],
        };
        assert_eq!(Request::read(&read_back(&request.information())), Some(request));
        let mut report = Report {
            transaction_uid,
            committed: vec![reference(1)],
            failed: vec![Failure { reference: reference(2), reason: NO_SUCH_INSTANCE }],
        };
        assert_eq!(report.event_type(), FAILURES_EXIST);
        assert_eq!(Report::read(&read_back(&report.information())), Some(report.clone()));
        report.failed.clear();
        assert_eq!(report.event_type(), ALL_COMMITTED);
    }

    #[test]
    fn requests_without_transaction_or_references_are_none() {
        assert_eq!(Request::read(&DataSet::new().with(tags::TRANSACTION_UID, "1.2")), None);
        let only = DataSet::new().with_items(tags::REFERENCED_SOP_SEQUENCE, vec![item(&reference(1))]);
        assert_eq!(Request::read(&only), None);
        let odd = only.with(tags::TRANSACTION_UID, "../../etc");
        assert_eq!(Request::read(&odd), None);
    }
}

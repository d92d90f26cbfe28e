//! What an output is made of: one model's result, the study's own header, the device, and the
//! times and UIDs that the ledger fixed once.

use serde::{Deserialize, Serialize};

use crate::dicom::header::StudyHeader;
use crate::finding::{Code, InstanceRef, ModelResult};
use crate::phi::Phi;

/// This box, as results name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Device UID, `2.25.…`, derived from the device's key.
    pub uid: String,
    /// Station name, as in the site file.
    pub station: String,
    /// `Lightbox project`.
    pub manufacturer: String,
    /// `Lightbox`.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Version of this software.
    pub software: String,
}

/// The SR of the revision before this one, which the new one replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Series of the earlier document.
    pub series_uid: Phi<String>,
    /// SOP Instance UID of the earlier document.
    pub sop_instance_uid: Phi<String>,
}

/// What the order said of the study, for the messages: fixed when the job was first claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderContext {
    /// Placer order number (ORC-2).
    pub placer: Phi<String>,
    /// The ordering system's filler order number (ORC-3). Ours is another: we are our result's filler.
    pub filler: Phi<String>,
    /// Accession number.
    pub accession: Phi<String>,
    /// The procedure as ordered (OBR-4).
    pub procedure: Option<Code>,
}

/// Identifiers and times of one result. They are derived from content or fixed in the ledger
/// before anything is built, so that building again yields the same objects, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultIds {
    /// Series Instance UID of the SR's series.
    pub series_uid: Phi<String>,
    /// SOP Instance UID of the SR.
    pub sr_instance_uid: Phi<String>,
    /// One tracking UID for each finding of the result, in order, suppressed ones included.
    pub tracking_uids: Vec<String>,
    /// HL7 message control id, at most 20 characters.
    pub message_control_id: String,
    /// Filler order number: the same for all revisions of this model's result on this study.
    pub filler_order_number: String,
    /// When the result was made, milliseconds since the epoch (UTC).
    pub created_ms: i64,
}

/// Everything that the builders of outputs see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultContext {
    /// This box.
    pub device: Device,
    /// The study's header.
    pub header: StudyHeader,
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Revision of the study, from 1.
    pub revision: u32,
    /// Every instance of the revision: the evidence.
    pub evidence: Vec<InstanceRef>,
    /// How the study was judged complete, in one sentence without patient data.
    pub completion_note: String,
    /// What the model said.
    pub result: ModelResult,
    /// The draft's findings section, one sentence a line.
    pub findings_text: Vec<String>,
    /// The draft's impression.
    pub impression_text: Vec<String>,
    /// The order, where there is one.
    #[serde(default)]
    pub order: Option<OrderContext>,
    /// The SR of the revision before.
    pub predecessor: Option<Predecessor>,
    /// Identifiers and times.
    pub ids: ResultIds,
}

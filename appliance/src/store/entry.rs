//! The ledger entry of an instance: what the commit record makes durable, and what the index of
//! instances is filled and rebuilt from.

use dicom_dictionary_std::tags;
use lightbox_bootstrap::identity::DeviceIdentity;
use serde::{Deserialize, Serialize};

use super::objects::{Digest, ObjectId, Receipt};
use crate::dicom::attributes::Attributes;
use crate::dicom::header::{Damage, Header};
use crate::phi::Phi;

/// An instance as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name in the object store.
    pub object: ObjectId,
    /// How it came in.
    pub receipt: Receipt,
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// What rules look at.
    pub attributes: Attributes,
    /// Number of Frames; 1 where the header names none.
    pub frames: u32,
    /// Length of the data set in bytes.
    pub size: u64,
    /// Whether the structure of the data set is sound.
    pub readable: bool,
}

/// Why an instance cannot be indexed. The sender is told, and nothing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotIdentified {
    /// Study Instance UID absent or not a UID.
    #[error("the data set has no usable Study Instance UID (0020,000D)")]
    Study,
    /// Series Instance UID absent or not a UID.
    #[error("the data set has no usable Series Instance UID (0020,000E)")]
    Series,
    /// SOP Instance UID absent, or not the one that the request named.
    #[error("the data set's SOP Instance UID (0008,0018) is not the one that the request named")]
    SopInstance,
    /// SOP Class UID absent, or not the one that the request named.
    #[error("the data set's SOP Class UID (0008,0016) is not the one that the request named")]
    SopClass,
}

impl Entry {
    /// Takes the identifiers and attributes from a scanned header.
    pub fn new(
        digest: &Digest,
        receipt: Receipt,
        size: u64,
        header: &Header,
        damage: Option<&Damage>,
        identity: &DeviceIdentity,
    ) -> Result<Self, NotIdentified> {
        let study_uid = header.uid(tags::STUDY_INSTANCE_UID).ok_or(NotIdentified::Study)?;
        let series_uid = header.uid(tags::SERIES_INSTANCE_UID).ok_or(NotIdentified::Series)?;
        header
            .uid(tags::SOP_INSTANCE_UID)
            .filter(|uid| uid == receipt.sop_instance_uid.expose())
            .ok_or(NotIdentified::SopInstance)?;
        header
            .uid(tags::SOP_CLASS_UID)
            .filter(|uid| *uid == receipt.sop_class_uid)
            .ok_or(NotIdentified::SopClass)?;
        let frames = header.ascii(tags::NUMBER_OF_FRAMES).and_then(|text| text.parse().ok()).unwrap_or(1);
        Ok(Entry {
            object: ObjectId::new(&study_key(identity, &study_uid), digest),
            study_uid: Phi::new(study_uid),
            series_uid: Phi::new(series_uid),
            attributes: Attributes::of(header),
            frames,
            size,
            readable: damage.is_none(),
            receipt,
        })
    }

    /// Key of the study, for logs.
    pub fn study_key(&self) -> &str {
        self.object.study_key()
    }
}

/// The name of a study in logs, metrics and on the admin page: it is derived with the device's
/// secret, so it means nothing outside this box.
pub fn study_key(identity: &DeviceIdentity, study_uid: &str) -> String {
    let secret = identity.derive("study key", study_uid.as_bytes());
    secret
        .iter()
        .take(STUDY_KEY_LENGTH)
        .map(|byte| char::from(STUDY_KEY_LETTERS[usize::from(byte & 31)]))
        .collect()
}

/// Letters of a study key.
pub const STUDY_KEY_LENGTH: usize = 12;
/// What a study key is written in: no letter that is easily taken for another.
pub const STUDY_KEY_LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

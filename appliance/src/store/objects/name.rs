//! Names of objects, and how an object came in.

use std::path::{Path, PathBuf};

use dicom_object::meta::FileMetaTableBuilder;
use serde::{Deserialize, Serialize};

use super::ObjectError;
use crate::dicom::part_ten;
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::phi::Phi;
use crate::store::entry::{STUDY_KEY_LENGTH, STUDY_KEY_LETTERS};

/// Creator of our private information in the file meta information (0002,0100).
const PRIVATE_CREATOR_UID: &str = "2.25.104230271648251329118366230197530212774";

/// BLAKE3 over transfer syntax, a zero byte and data set, hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest(String);

impl Digest {
    /// The digest of a whole data set.
    pub fn of(transfer_syntax: &str, data_set: &[u8]) -> Self {
        let mut hasher = hasher(transfer_syntax);
        hasher.update(data_set);
        Digest(hasher.finalize().to_hex().to_string())
    }
}

pub(super) fn hasher(transfer_syntax: &str) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(transfer_syntax.as_bytes());
    hasher.update(&[0]);
    hasher
}

/// Name of an object: its study's key and its digest, with a slash between them. It becomes a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId(String);

impl ObjectId {
    /// The name of an object of that study.
    pub fn new(study_key: &str, digest: &Digest) -> Self {
        ObjectId(format!("{study_key}/{}", digest.0))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Key of the study that it belongs to.
    pub fn study_key(&self) -> &str {
        &self.0[..STUDY_KEY_LENGTH]
    }

    /// Digest of its bytes.
    pub fn digest(&self) -> Digest {
        Digest(self.digest_text().to_owned())
    }

    /// The object's own file.
    pub(super) fn path_below(&self, studies: &Path) -> PathBuf {
        studies.join(self.study_key()).join(format!("{}.dcm", self.digest_text()))
    }

    pub(super) fn digest_text(&self) -> &str {
        &self.0[STUDY_KEY_LENGTH + 1..]
    }

    /// An object's name from text; `None` unless it is a study key and 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (study, digest) = text.split_once('/')?;
        let valid = study.len() == STUDY_KEY_LENGTH
            && study.bytes().all(|byte| STUDY_KEY_LETTERS.contains(&byte))
            && digest.len() == 64
            && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| ObjectId(text.to_owned()))
    }
}

impl TryFrom<String> for ObjectId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        ObjectId::parse(&text).ok_or("not the name of an object")
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> String {
        id.0
    }
}

/// How an instance came in. Kept with the object itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// SOP class.
    pub sop_class_uid: String,
    /// SOP instance, as the C-STORE request named it.
    pub sop_instance_uid: Phi<String>,
    /// Transfer syntax of the data set.
    pub transfer_syntax: String,
    /// Calling AE title.
    pub calling_ae: String,
    /// Our AE title.
    pub called_ae: String,
    /// Name of the peer in the site file.
    pub peer: String,
    /// Milliseconds since the epoch.
    pub received_ms: i64,
}

/// The part of [`Receipt`] for which the file meta information has no element of its own.
#[derive(Serialize, Deserialize)]
struct PrivateInformation {
    peer: String,
    received_ms: i64,
}

impl Receipt {
    /// Preamble, `DICM` and file meta information of the object's Part 10 file (PS3.10 §7.1).
    pub fn part_ten_head(&self) -> Result<Vec<u8>, ObjectError> {
        let private = PrivateInformation { peer: self.peer.clone(), received_ms: self.received_ms };
        let mut private = serde_json::to_vec(&private).map_err(|_| ObjectError::Meta)?;
        if !private.len().is_multiple_of(2) {
            private.push(0);
        }
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(self.sop_class_uid.as_str())
            .media_storage_sop_instance_uid(self.sop_instance_uid.expose().as_str())
            .transfer_syntax(self.transfer_syntax.as_str())
            .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
            .implementation_version_name(IMPLEMENTATION_VERSION_NAME)
            .source_application_entity_title(self.calling_ae.as_str())
            .receiving_application_entity_title(self.called_ae.as_str())
            .private_information_creator_uid(PRIVATE_CREATOR_UID)
            .private_information(private)
            .build()
            .map_err(|_| ObjectError::Meta)?;
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        meta.write(&mut bytes).map_err(|_| ObjectError::Meta)?;
        Ok(bytes)
    }

    pub(super) fn of_file(part_ten: &part_ten::PartTen) -> Result<Self, ObjectError> {
        let meta = &part_ten.meta;
        let private: PrivateInformation = meta
            .private_information
            .as_deref()
            .and_then(|bytes| serde_json::from_slice(trim_padding(bytes)).ok())
            .ok_or(ObjectError::Damaged)?;
        let text = |value: Option<&str>| value.unwrap_or_default().trim().to_owned();
        Ok(Receipt {
            sop_class_uid: meta.media_storage_sop_class_uid().to_owned(),
            sop_instance_uid: Phi::new(meta.media_storage_sop_instance_uid().to_owned()),
            transfer_syntax: meta.transfer_syntax().to_owned(),
            calling_ae: text(meta.source_application_entity_title()),
            called_ae: text(meta.receiving_application_entity_title()),
            peer: private.peer,
            received_ms: private.received_ms,
        })
    }
}

fn trim_padding(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

impl Digest {
    pub(super) fn from_hasher(hasher: &blake3::Hasher) -> Self {
        Digest(hasher.finalize().to_hex().to_string())
    }
}

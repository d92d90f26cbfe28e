//! What was run, on what, and what it showed: signed by the device, so that it can be shown later.

use serde::{Deserialize, Serialize};

use lightbox_bootstrap::identity::{DeviceIdentity, PublicKey};

use super::Measured;
use crate::manifest::Precision;
use crate::plan::Verdict;

/// The one schema that this version writes and reads.
const SCHEMA: u32 = 1;
/// Before the record's bytes in what is signed, so that no signature serves another purpose.
const DOMAIN: &[u8] = b"lightbox acceptance record 1\0";

/// The record of an acceptance on this box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptanceRecord {
    /// Version of this format.
    pub schema: u32,
    /// When it was run, RFC 3339, as far as the box trusts its time.
    pub at: String,
    /// `model.id`.
    pub model: String,
    /// The bundle's digest.
    pub model_digest: String,
    /// The plan's identifier.
    pub plan: String,
    /// The plan's version.
    pub plan_version: u64,
    /// Digests of the sets that were run.
    pub sets: Vec<String>,
    /// On what it was run.
    pub hardware: Hardware,
    /// Each criterion's measures, by its id; a criterion that could not be measured has none, and
    /// the verdict says why.
    pub measured: Vec<(String, Measured)>,
    /// The plan's ruling.
    pub verdict: Verdict,
}

/// On what a set was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// The device, by its key's fingerprint.
    pub device: String,
    /// The processor or accelerator that ran it.
    pub processor: String,
    /// Build of the inference engine.
    pub engine_build: String,
    /// The number format that ran.
    pub precision: Precision,
    /// Version of this software.
    pub software: String,
}

/// Why a record is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The device did not sign these bytes.
    #[error("the acceptance record is not signed by this device, or was altered")]
    Signature,
    /// Signed, but not a record that this version reads.
    #[error("the acceptance record is of another schema or damaged")]
    Format(#[source] serde_json::Error),
    /// Signed, but not in the one form that a record has.
    #[error("the acceptance record's bytes are not in canonical form")]
    NotCanonical,
    /// A number in it is not finite, so that it cannot be written.
    #[error("the acceptance record holds a number that is not finite")]
    NotFinite,
}

/// A record's bytes with the device's signature over them, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    /// [`AcceptanceRecord::canonical`].
    pub bytes: Vec<u8>,
    /// Ed25519 over a fixed prefix and the bytes.
    pub signature: [u8; 64],
}

impl AcceptanceRecord {
    /// The version that [`AcceptanceRecord::schema`] must have.
    pub const SCHEMA: u32 = SCHEMA;

    /// The record's one form in bytes: JSON without spaces, fields in the order of the types.
    pub fn canonical(&self) -> Result<Vec<u8>, RecordError> {
        let bytes = serde_json::to_vec(self).map_err(RecordError::Format)?;
        // A number that is not finite is written as null, which no field reads.
        match serde_json::from_slice::<AcceptanceRecord>(&bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(RecordError::NotFinite),
        }
    }

    /// Signs the record by the device's key.
    pub fn sign(&self, device: &DeviceIdentity) -> Result<SignedRecord, RecordError> {
        let bytes = self.canonical()?;
        let signature = device.sign(&message(&bytes));
        Ok(SignedRecord { bytes, signature })
    }
}

impl SignedRecord {
    /// The record, if this device signed it.
    pub fn verify(&self, key: &PublicKey) -> Result<AcceptanceRecord, RecordError> {
        if !key.verify(&message(&self.bytes), &self.signature) {
            return Err(RecordError::Signature);
        }
        let record: AcceptanceRecord = serde_json::from_slice(&self.bytes).map_err(RecordError::Format)?;
        if record.schema != SCHEMA || serde_json::to_vec(&record).map_err(RecordError::Format)? != self.bytes
        {
            return Err(RecordError::NotCanonical);
        }
        Ok(record)
    }
}

fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    message.extend((bytes.len() as u64).to_be_bytes());
    message.extend(bytes);
    message
}

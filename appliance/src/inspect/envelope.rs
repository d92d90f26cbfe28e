//! A signed report: the form of DSSE 1.0 (Dead Simple Signing Envelope), which any Ed25519 tool can verify.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lightbox_bootstrap::identity::{DeviceIdentity, PublicKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Report, SCHEMA};

/// What a report's envelope says that it holds.
pub const PAYLOAD_TYPE: &str = "application/vnd.lightbox.inspection+json";

/// A report with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// [`PAYLOAD_TYPE`].
    pub payload_type: String,
    /// The report's bytes, base64.
    pub payload: String,
    /// One signature.
    pub signatures: Vec<Signed>,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The device's fingerprint.
    pub keyid: String,
    /// Ed25519 over the pre-authentication encoding, base64.
    pub sig: String,
}

/// An envelope that holds no report of that device.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// It is none.
    #[error(
        "this is no signed report of a box: {0}; remedy: save /system/report of the administration page as it is"
    )]
    Form(String),
    /// It is signed by another key, or altered.
    #[error(
        "the signature does not fit: the report was altered, or is of another device; remedy: compare the fingerprint, fetch it again, and take the public key from the box's acceptance record"
    )]
    Signature,
    /// It is of a later release.
    #[error("the report has schema {0}, this program knows {SCHEMA}; remedy: use the newer program")]
    Schema(u64),
}

/// What is signed: `DSSEv1 LENGTH TYPE LENGTH PAYLOAD`, so that no other document of the device can be taken for it.
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// Signs a report's bytes.
    pub(super) fn sign(payload: Vec<u8>, identity: &DeviceIdentity) -> Self {
        let sig = STANDARD.encode(identity.sign(&pre_authentication(&payload)));
        Envelope {
            payload_type: PAYLOAD_TYPE.into(),
            payload: STANDARD.encode(payload),
            signatures: vec![Signed { keyid: identity.fingerprint(), sig }],
        }
    }

    /// Reads the text of an envelope. Nothing in it is verified.
    pub fn read(text: &[u8]) -> Result<Self, EnvelopeError> {
        serde_json::from_slice(text).map_err(|error| EnvelopeError::Form(error.to_string()))
    }

    /// The report, if this key has signed it. Nothing of it is read before.
    pub fn open(&self, key: &PublicKey) -> Result<Report, EnvelopeError> {
        let form = |what: &str| EnvelopeError::Form(what.to_owned());
        if self.payload_type != PAYLOAD_TYPE {
            return Err(form("it holds something else"));
        }
        let payload = STANDARD.decode(&self.payload).map_err(|_| form("its content is no base64"))?;
        let signed = pre_authentication(&payload);
        let fits = |one: &Signed| STANDARD.decode(&one.sig).is_ok_and(|sig| key.verify(&signed, &sig));
        if !self.signatures.iter().any(fits) {
            return Err(EnvelopeError::Signature);
        }
        let value: serde_json::Value =
            serde_json::from_slice(&payload).map_err(|error| EnvelopeError::Form(error.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => return Err(EnvelopeError::Schema(schema)),
            None => return Err(form("it names no schema")),
        }
        serde_json::from_value(value).map_err(|error| EnvelopeError::Form(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::judge::tests::sound;

    fn device() -> (tempfile::TempDir, DeviceIdentity) {
        let folder = tempfile::tempdir().expect("temp dir");
        let identity = DeviceIdentity::open_or_create(&folder.path().join("key")).expect("made");
        (folder, identity)
    }

    #[test]
    fn a_report_comes_back_as_it_was_signed() {
        let (_folder, identity) = device();
        let report = sound();
        let text = serde_json::to_vec(&report.sign(&identity).expect("signed")).expect("text");
        let envelope = Envelope::read(&text).expect("read");
        assert_eq!(envelope.open(&identity.public_key()), Ok(report));
    }

    #[test]
    fn nothing_altered_and_nobody_elses_is_opened() {
        let ((_one, identity), (_two, other)) = (device(), device());
        let envelope = sound().sign(&identity).expect("signed");
        let key = identity.public_key();
        assert_eq!(envelope.open(&other.public_key()), Err(EnvelopeError::Signature));

        let mut altered = envelope.clone();
        let text = String::from_utf8(STANDARD.decode(&altered.payload).expect("base64")).expect("text");
        altered.payload = STANDARD.encode(text.replace("integrity", "none"));
        assert_ne!(altered.payload, envelope.payload);
        assert_eq!(altered.open(&key), Err(EnvelopeError::Signature));

        // The bytes alone, without what they are, were not signed.
        let payload = STANDARD.decode(&envelope.payload).expect("base64");
        let mut bare = envelope.clone();
        bare.signatures[0].sig = STANDARD.encode(identity.sign(&payload));
        assert_eq!(bare.open(&key), Err(EnvelopeError::Signature));

        let later = Envelope::sign(text.replace("\"schema\":1", "\"schema\":2").into_bytes(), &identity);
        assert_eq!(later.open(&key), Err(EnvelopeError::Schema(2)));
        let mut other_type = envelope;
        other_type.payload_type = "text/plain".into();
        assert!(matches!(other_type.open(&key), Err(EnvelopeError::Form(_))));
        for text in ["", "{}", "[]", "{\"payloadType\":1}"] {
            assert!(matches!(Envelope::read(text.as_bytes()), Err(EnvelopeError::Form(_))), "{text}");
        }
    }
}

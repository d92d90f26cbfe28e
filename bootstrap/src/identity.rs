//! The device's identity: one Ed25519 key, made on first start, from which everything that must
//! be this device's alone is derived.
//!
//! The key signs the audit log's head and checkpoints. The Device UID is derived from its public
//! half, the study keys from its private half, so that a study key means nothing outside the box.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The device's identity could not be read or made.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The key file could not be read or written.
    #[error("device key {path}: {operation} failed")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The key file holds something else than one PKCS #8 Ed25519 key. Never replaced by itself:
    /// a new key would make every earlier signature worthless.
    #[error(
        "device key {path} is damaged; restore it from the backup (a new key would orphan the audit log)"
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
    /// The key is gone from a device that has worked before. Never replaced by itself, either.
    #[error(
        "device key {path} is missing, but the data folder is in use; restore the key from the backup (a new key would orphan the audit log and every study key), or start with an empty data folder"
    )]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// The machine gave no random numbers.
    #[error("the machine gives no random numbers")]
    Random,
}

/// The device's key and what is derived from it.
pub struct DeviceIdentity {
    key: SigningKey,
}

impl std::fmt::Debug for DeviceIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceIdentity({})", self.fingerprint())
    }
}

impl DeviceIdentity {
    /// Reads the key file, which must be there: for everything after the first start.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        if path.exists() {
            Self::open_or_create(path)
        } else {
            Err(IdentityError::Missing { path: path.to_owned() })
        }
    }

    /// Reads the key file, or makes it on first start. The file is whole or absent after a power
    /// cut: it is written aside, synced, and renamed.
    pub fn open_or_create(path: &Path) -> Result<Self, IdentityError> {
        let io = |operation| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, operation, source }
        };
        match fs::read_to_string(path) {
            Ok(pem) => {
                let key = SigningKey::from_pkcs8_pem(&pem)
                    .map_err(|_| IdentityError::Damaged { path: path.to_owned() })?;
                Ok(DeviceIdentity { key })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                getrandom::fill(&mut secret).map_err(|_| IdentityError::Random)?;
                let key = SigningKey::from_bytes(&secret);
                let pem = key
                    .to_pkcs8_pem(LineEnding::LF)
                    .map_err(|_| IdentityError::Damaged { path: path.to_owned() })?;
                let aside = path.with_extension("new");
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&aside)
                    .map_err(io("creating"))?;
                file.write_all(pem.as_bytes()).map_err(io("writing"))?;
                file.sync_all().map_err(io("syncing"))?;
                fs::rename(&aside, path).map_err(io("renaming"))?;
                if let Some(folder) = path.parent() {
                    File::open(folder)
                        .and_then(|folder| folder.sync_all())
                        .map_err(io("syncing the folder of"))?;
                }
                Ok(DeviceIdentity { key })
            }
            Err(source) => Err(io("reading")(source)),
        }
    }

    /// Signs a message (Ed25519, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// The public key, for verifying what [`sign`](Self::sign) made.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// SHA-256 over the public key, first 16 hex digits: a name for the device without its name.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(self.key.verifying_key().as_bytes())[..8])
    }

    /// The device's UID: `2.25.` and a 128-bit number from its public key (PS3.5 B.2).
    pub fn device_uid(&self) -> String {
        uid_from_digest(&Sha256::digest(self.key.verifying_key().as_bytes()).into())
    }

    /// A secret of this device for one purpose: HMAC-SHA256 over purpose and value.
    pub fn derive(&self, purpose: &str, value: &[u8]) -> [u8; 32] {
        // HMAC pads a short key with zeros to the hash's block (RFC 2104 §2).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.key.to_bytes());
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(value);
        mac.finalize().into_bytes().into()
    }
}

/// The public half of a device's key.
#[derive(Clone, Debug)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a PEM public key, as [`to_pem`](Self::to_pem) writes it.
    pub fn from_pem(pem: &str) -> Option<Self> {
        VerifyingKey::from_public_key_pem(pem).ok().map(PublicKey)
    }

    /// PEM (SubjectPublicKeyInfo), as `openssl pkey -pubin` reads it.
    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// Whether the device signed this message. Weak keys and malleable signatures do not pass.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

/// A UID under `2.25` (PS3.5 B.2) from the first 128 bits of a digest, marked as a version 8 UUID
/// (RFC 9562), so that it is a UUID and cannot collide with random ones.
pub fn uid_from_digest(digest: &[u8; 32]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    format!("2.25.{}", u128::from_be_bytes(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("device.key");
        let first = DeviceIdentity::open_or_create(&path).expect("made");
        let second = DeviceIdentity::open_or_create(&path).expect("read");
        assert_eq!(first.device_uid(), second.device_uid());
        assert_eq!(first.derive("a", b"x"), second.derive("a", b"x"));
        assert_ne!(first.derive("a", b"x"), first.derive("b", b"x"));
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("device.key");
        fs::write(&path, "not a key").expect("written");
        assert!(matches!(DeviceIdentity::open_or_create(&path), Err(IdentityError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&path).expect("kept"), "not a key");
    }

    #[test]
    fn signatures_verify_with_the_exported_public_key_only() {
        let folder = tempfile::tempdir().expect("temp dir");
        let one = DeviceIdentity::open_or_create(&folder.path().join("1")).expect("made");
        let other = DeviceIdentity::open_or_create(&folder.path().join("2")).expect("made");
        let signature = one.sign(b"head");
        let key = PublicKey::from_pem(&one.public_key().to_pem()).expect("round trip");
        assert!(key.verify(b"head", &signature));
        assert!(!key.verify(b"tail", &signature));
        assert!(!other.public_key().verify(b"head", &signature));
    }

    #[test]
    fn uids_are_valid_and_at_most_64_characters() {
        let uid = uid_from_digest(&[0xff; 32]);
        assert!(uid.len() <= 64 && uid.starts_with("2.25."));
        assert!(!uid["2.25.".len()..].starts_with('0'));
    }
}

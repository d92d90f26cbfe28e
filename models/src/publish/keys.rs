//! Ed25519 keys: in files, or behind whatever else can sign.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey};

use super::PublishError;
use crate::bundle::hex;

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads 64 hex digits.
    pub fn from_hex(text: &str) -> Result<PublicKey, PublishError> {
        let mut key = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(PublishError::NotAPublicKey);
        }
        for (at, byte) in key.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| PublishError::NotAPublicKey)?;
        }
        Ok(PublicKey(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Something that can sign with one Ed25519 key.
pub trait Signer: fmt::Debug {
    /// The key's public half.
    fn public(&self) -> PublicKey;
    /// Signs a message (pure Ed25519, RFC 8032).
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PublishError>;
}

/// A key in a file: PKCS #8 in PEM, as OpenSSL writes and reads it too.
pub struct FileKey(SigningKey);

impl FileKey {
    /// Makes a key in a new file that only its owner may read.
    pub fn generate(path: &Path) -> Result<FileKey, PublishError> {
        let failed = |source| PublishError::Io { path: path.to_owned(), what: "written", source };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let key = SigningKey::from_bytes(&seed);
        // Without the public half (PKCS #8 version 1): OpenSSL 3.0 and tokens read no other.
        let bytes = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
        let pem = bytes.to_pkcs8_pem(LineEnding::LF).map_err(|_| PublishError::NotAKey(path.to_owned()))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => PublishError::Exists(path.to_owned()),
            _ => failed(error),
        })?;
        file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(FileKey(key))
    }

    /// Reads a key; a file that others may read is refused.
    pub fn load(path: &Path) -> Result<FileKey, PublishError> {
        let failed = |source| PublishError::Io { path: path.to_owned(), what: "read", source };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(PublishError::KeyIsOpen(path.to_owned()));
        }
        let pem = fs::read_to_string(path).map_err(failed)?;
        let key = SigningKey::from_pkcs8_pem(&pem).map_err(|_| PublishError::NotAKey(path.to_owned()))?;
        Ok(FileKey(key))
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileKey({})", self.public())
    }
}

impl Signer for FileKey {
    fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PublishError> {
        Ok(self.0.sign(message).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_the_owners_alone_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        let key = FileKey::generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = FileKey::load(&path).unwrap();
        assert_eq!(loaded.public(), key.public());
        assert_eq!(loaded.sign(b"x").unwrap(), key.sign(b"x").unwrap());
        assert_eq!(PublicKey::from_hex(&key.public().to_string()).unwrap(), key.public());
        assert!(matches!(FileKey::generate(&path), Err(PublishError::Exists(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(FileKey::load(&path), Err(PublishError::KeyIsOpen(_))));
        assert!(!format!("{key:?}").contains("PRIVATE"));
        assert!(PublicKey::from_hex("zz").is_err());
    }
}

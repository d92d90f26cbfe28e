//! Opening a bundle's folder: every byte that will be used is hashed, and nothing else is there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::check;
use crate::manifest::{Label, Manifest, Role};
use crate::problem::Problem;

/// Longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Largest network that is read into memory.
const NETWORK_BYTES_MAX: u64 = 4 << 30;
/// Most entries that a bundle's folder may have, all levels together.
const ENTRIES_MAX: usize = 1024;

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The manifest is not one.
    #[error("{0}")]
    Manifest(Box<Problem>),
    /// The manifest is longer than any manifest.
    #[error("{}: above 1 MiB; remedy: give the folder of a bundle, whose manifest.toml is short", .0.display())]
    ManifestTooLong(PathBuf),
    /// A file or folder could not be read.
    #[error("{}: cannot be read; remedy: check that the file is there and that this user may read it", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a plain file (or, for a folder, not a plain folder).
    #[error("{}: a link or a special file; remedy: put the file itself into the bundle", .0.display())]
    NotPlain(PathBuf),
    /// In the folder, but not in the manifest.
    #[error("{}: not listed in manifest.toml; remedy: list it as a [[file]], or remove it", .0.display())]
    Unlisted(PathBuf),
    /// The bytes are not those that the manifest was written for.
    #[error(
        "{}: its SHA-256 is {found}, the manifest says {listed}; remedy: fetch the bundle again, \
         or, if the file was changed on purpose, write a new manifest and version", path.display()
    )]
    Digest {
        /// Which file.
        path: PathBuf,
        /// What the manifest says.
        listed: String,
        /// What the file has.
        found: String,
    },
    /// A network of more bytes than are read into memory.
    #[error("{}: above 4 GiB; remedy: split the model, or quantise it", .0.display())]
    TooLarge(PathBuf),
}

/// A bundle whose every file was there and had the listed digest when it was opened.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
    digest: String,
}

impl Bundle {
    /// Opens a folder: reads and checks `manifest.toml`, hashes every listed file, refuses
    /// symbolic links and anything that is not listed. Files are hashed as a stream.
    pub fn open(folder: &Path) -> Result<Bundle, BundleError> {
        let path = folder.join("manifest.toml");
        let mut bytes = Vec::new();
        open_plain(&path)?
            .take(MANIFEST_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| BundleError::Read { path: path.clone(), source })?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(BundleError::ManifestTooLong(path));
        }
        let text = str::from_utf8(&bytes).map_err(|_| {
            BundleError::Manifest(Box::new(Problem {
                file: path.clone(),
                line: None,
                key: String::new(),
                problem: "not UTF-8 text".into(),
                remedy: "save the file as UTF-8".into(),
            }))
        })?;
        let manifest =
            check::read(&path, text).map_err(|problem| BundleError::Manifest(Box::new(problem)))?;
        refuse_unlisted(folder, &manifest)?;

        // Lengths go before what varies in length, so that no two bundles share a digest's input.
        let mut whole = Sha256::new();
        whole.update(b"lightbox bundle 1\n");
        whole.update((bytes.len() as u64).to_be_bytes());
        whole.update(&bytes);
        for file in &manifest.file {
            let path = folder.join(&file.path);
            let found = hash(&path)?;
            if found != file.sha256 {
                return Err(BundleError::Digest { path, listed: file.sha256.clone(), found });
            }
            whole.update((file.path.len() as u64).to_be_bytes());
            whole.update(file.path.as_bytes());
            whole.update(found.as_bytes());
        }
        Ok(Bundle { folder: folder.to_owned(), manifest, digest: hex(&whole.finalize()) })
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 over the manifest's bytes and the files' digests, 64 hex digits: what a result
    /// names as the model that made it.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The folder that was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The label of an output index.
    pub fn label(&self, index: u32) -> Option<&Label> {
        self.manifest.label.iter().find(|label| label.index == index)
    }

    /// The ONNX network's bytes, checked against the manifest once more as they are read: the
    /// engine gets exactly the bytes that were hashed, whatever happens to the file afterwards.
    pub fn read_network(&self) -> Result<Vec<u8>, BundleError> {
        let Some(file) = self.manifest.file.iter().find(|file| file.role == Role::Network) else {
            // `check` demands exactly one; told as unreadable rather than by a panic.
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(BundleError::Read { path: self.folder.clone(), source });
        };
        let path = self.folder.join(&file.path);
        let mut bytes = Vec::new();
        open_plain(&path)?
            .take(NETWORK_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| BundleError::Read { path: path.clone(), source })?;
        if bytes.len() as u64 > NETWORK_BYTES_MAX {
            return Err(BundleError::TooLarge(path));
        }
        let found = hex(&Sha256::digest(&bytes));
        if found != file.sha256 {
            return Err(BundleError::Digest { path, listed: file.sha256.clone(), found });
        }
        Ok(bytes)
    }
}

fn open_plain(path: &Path) -> Result<File, BundleError> {
    let read = |source| BundleError::Read { path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(read)?.is_file() {
        return Err(BundleError::NotPlain(path.to_owned()));
    }
    File::open(path).map_err(read)
}

fn hash(path: &Path) -> Result<String, BundleError> {
    let read = |source| BundleError::Read { path: path.to_owned(), source };
    let mut file = open_plain(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).map_err(read)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// Walks the folder: every entry is a listed plain file, or a plain folder on the way to one.
fn refuse_unlisted(folder: &Path, manifest: &Manifest) -> Result<(), BundleError> {
    let mut allowed_files: BTreeSet<PathBuf> =
        manifest.file.iter().map(|file| folder.join(&file.path)).collect();
    allowed_files.insert(folder.join("manifest.toml"));
    let allowed_folders: BTreeSet<PathBuf> =
        allowed_files.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();

    let mut open = vec![folder.to_owned()];
    let mut entries = 0;
    while let Some(next) = open.pop() {
        let read = |source| BundleError::Read { path: next.clone(), source };
        for entry in fs::read_dir(&next).map_err(read)? {
            let entry = entry.map_err(read)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(read)?;
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(BundleError::Unlisted(path));
            }
            if kind.is_dir() && allowed_folders.contains(&path) {
                open.push(path);
            } else if kind.is_dir() || (kind.is_file() && !allowed_files.contains(&path)) {
                return Err(BundleError::Unlisted(path));
            } else if !kind.is_file() {
                return Err(BundleError::NotPlain(path));
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The outputs made from findings (SR, ORU), as files named by their digest. Written once, synced,
//! then named: a file with a final name is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::folder;

/// A result could not be kept or found.
#[derive(Debug, Error)]
#[error("results: {operation} failed")]
pub struct ResultsError {
    operation: &'static str,
    #[source]
    source: io::Error,
}

/// The folder of results.
#[derive(Clone, Debug)]
pub struct Results {
    folder: PathBuf,
}

impl Results {
    /// Opens or makes the folder.
    pub fn open(data_dir: &Path) -> Result<Self, ResultsError> {
        let folder = data_dir.join("results");
        folder::make(&folder)
            .and_then(|()| folder::sync(data_dir))
            .map_err(|source| ResultsError { operation: "making the folder", source })?;
        Ok(Results { folder })
    }

    /// Keeps the bytes; yields the file's name. Keeping the same bytes again is the same file.
    pub fn keep(&self, bytes: &[u8], extension: &str) -> Result<String, ResultsError> {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{digest}.{extension}");
        let part = self.folder.join(format!("{name}.part"));
        let fail = |operation| move |source| ResultsError { operation, source };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part)
            .map_err(fail("creating a file"))?;
        file.write_all(bytes).map_err(fail("writing a file"))?;
        file.sync_data().map_err(fail("syncing a file"))?;
        fs::rename(&part, self.folder.join(&name)).map_err(fail("naming a file"))?;
        folder::sync(&self.folder).map_err(fail("syncing the folder"))?;
        Ok(name)
    }

    /// Reads a result back.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, ResultsError> {
        fs::read(self.path(name)).map_err(|source| ResultsError { operation: "reading a file", source })
    }

    /// Removes a result for good; one that is not there is well.
    pub fn remove(&self, name: &Path) -> Result<(), ResultsError> {
        match fs::remove_file(self.path(&name.to_string_lossy())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ResultsError { operation: "removing a file", source: error })
            }
            _ => Ok(()),
        }
    }

    /// Path of a result. Names come from [`keep`](Self::keep) by way of the ledger; anything else in
    /// a name is dropped.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(Path::new(name).file_name().unwrap_or_default())
    }
}

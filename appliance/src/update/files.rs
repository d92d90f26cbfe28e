//! Where bundles lie: `models/<digest>/`, each whole or absent, and `models/incoming` for what is being fetched.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::store::folder;

/// The folders of signed models below the data folder.
#[derive(Clone, Debug)]
pub struct Folders {
    /// One folder for each bundle, named by its digest.
    pub models: PathBuf,
    /// Packed bundles and sealed sets on their way.
    pub incoming: PathBuf,
}

impl Folders {
    /// Below a data folder.
    pub fn of(data_dir: &Path) -> Self {
        let models = data_dir.join("models");
        Folders { incoming: models.join("incoming"), models }
    }

    /// Makes them.
    pub fn make(&self) -> io::Result<()> {
        folder::make(&self.incoming)
    }

    /// A bundle's folder.
    pub fn bundle(&self, digest: &str) -> PathBuf {
        self.models.join(digest)
    }

    /// The mark that a repository was used: a record of versions seen that is lost with the ledger must not
    /// look like a first use.
    fn mark(&self) -> PathBuf {
        self.models.join("repository-was-used")
    }

    /// Whether a repository was used. A mark that cannot be looked for is no mark that is missing.
    pub fn was_used(&self) -> io::Result<bool> {
        self.mark().try_exists()
    }

    /// Marks that a repository was used; after the record was written, never before.
    pub fn mark_used(&self) -> io::Result<()> {
        if self.was_used()? {
            return Ok(());
        }
        File::create(self.mark())?.sync_all()?;
        folder::sync(&self.models)
    }

    /// Removes what interrupted installations left: everything on its way, and folders that are no version's.
    /// Only while no installation is under way.
    pub fn clean(&self, kept: &[String]) -> io::Result<usize> {
        self.make()?;
        let mut removed = 0;
        for entry in fs::read_dir(&self.incoming)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        for entry in fs::read_dir(&self.models)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && name != "incoming" && !kept.contains(&name) {
                fs::remove_dir_all(entry.path())?;
                removed += 1;
            }
        }
        folder::sync(&self.models)?;
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_stay() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::of(data.path());
        folders.make().unwrap();
        fs::create_dir(folders.bundle("aa")).unwrap();
        fs::create_dir(folders.bundle("bb")).unwrap();
        fs::create_dir(folders.models.join(".unpacking-cc-1")).unwrap();
        fs::write(folders.incoming.join("x.lightbox.part"), b"x").unwrap();
        assert!(!folders.was_used().unwrap());
        folders.mark_used().unwrap();
        assert_eq!(folders.clean(&["aa".into()]).unwrap(), 3);
        assert!(
            folders.bundle("aa").is_dir() && !folders.bundle("bb").exists() && folders.was_used().unwrap()
        );
        assert_eq!(folders.clean(&["aa".into()]).unwrap(), 0);
        // A fault is not "never used".
        let blocked = data.path().join("file");
        fs::write(&blocked, b"x").unwrap();
        assert!(Folders::of(&blocked).was_used().is_err());
    }
}

//! The demo's own folder: found, locked against a second demo, and cleared of an earlier one.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

/// Says that a folder is a demo's. Nothing is removed from a folder without it.
const MARKER: &str = ".lightbox-demo";
/// Everything that a demo writes into its folder; nothing else is ever removed from it.
const OURS: &[&str] = &[
    "site",
    "data",
    "sent",
    "pacs",
    "ris",
    "results",
    "oru",
    "preview.png",
    "summary.json",
    "daemon.log",
    "orthanc.log",
];

/// The folder, held by this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Given back by the kernel however this process ends.
    _lock: Flock<File>,
}

impl Folder {
    /// Makes the folder, or clears what an earlier demo left in it.
    pub fn prepare(path: &Path) -> anyhow::Result<Folder> {
        let wrap = || format!("--out {}", path.display());
        let marker = path.join(MARKER);
        let empty = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(error).with_context(wrap),
        };
        if !empty && !marker.is_file() {
            bail!(
                "--out {}: the folder is not empty and not an earlier demo's; remedy: name another folder",
                path.display()
            );
        }
        fs::create_dir_all(path).with_context(wrap)?;
        let path = path.canonicalize().with_context(wrap)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(MARKER))
            .with_context(wrap)?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "--out {}: another demo is running in this folder; remedy: stop it, or name another folder",
                path.display()
            );
        };
        for name in OURS {
            clear(&path.join(name)).with_context(|| format!("clearing {}", path.join(name).display()))?;
        }
        Ok(Folder { path, _lock: lock })
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a folder in it.
    pub fn make(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }
}

/// Removes a file or a folder; a link is removed, not followed.
fn clear(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_demo_is_cleared_and_nothing_else_is_touched() {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("out");
        let folder = Folder::prepare(&out).unwrap();
        fs::write(folder.make("results").unwrap().join("a.dcm"), "x").unwrap();
        fs::write(folder.join("mine.txt"), "x").unwrap();
        assert!(Folder::prepare(&out).unwrap_err().to_string().contains("another demo is running"));
        drop(folder);
        let folder = Folder::prepare(&out).unwrap();
        assert!(!folder.join("results").exists());
        assert!(folder.join("mine.txt").exists());
    }

    #[test]
    fn a_stranger_s_folder_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("data")).unwrap();
        assert!(Folder::prepare(temp.path()).unwrap_err().to_string().contains("not an earlier demo's"));
        assert!(temp.path().join("data").exists());
    }
}

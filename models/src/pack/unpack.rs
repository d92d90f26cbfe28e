//! Unpacking into a folder that is there whole, or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::PackError;
use super::read::{Contents, open, read, write_all};
use super::{Packed, Progress};

/// What the name of a folder begins with while it is written.
const UNDER_WAY: &str = ".unpacking-";

/// Unpacks into `folder`, which must not exist. The files are written and synced in a folder beside
/// it, under a name that begins with `.unpacking-`, which then gets its name in one step: whenever
/// the power goes, `folder` is whole or absent. What is left over then, [`remove_leftovers`] removes.
pub fn unpack(packed: &Path, folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Packed, PackError> {
    let input = open(packed)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::Io { path, what: "written", source }
    };
    if fs::symlink_metadata(folder).is_ok() {
        return Err(PackError::Exists(folder.to_owned()));
    }
    let parent = folder.parent().unwrap_or(Path::new(""));
    let Some(name) = folder.file_name() else { return Err(PackError::Exists(folder.to_owned())) };
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|error| failed(folder)(io::Error::other(error.to_string())))?;
    let under_way =
        parent.join(format!("{UNDER_WAY}{}-{:016x}", name.to_string_lossy(), u64::from_be_bytes(nonce)));
    fs::create_dir(&under_way).map_err(failed(&under_way))?;
    let mut contents = IntoFolder { folder: under_way.clone(), file: None, folders: BTreeSet::new() };
    let unpacked = read(input, &mut contents, progress).and_then(|unpacked| {
        contents.sync_folders()?;
        fs::rename(&under_way, folder).map_err(failed(folder))?;
        sync_folder(parent)?;
        Ok(unpacked)
    });
    if unpacked.is_err() {
        // The refusal is what matters; what is left over begins with a name that says what it is.
        let _ = fs::remove_dir_all(&under_way);
    }
    unpacked
}

/// Removes what interrupted unpackings have left in the folder of bundles; returns how many. Only
/// for when none is under way.
pub fn remove_leftovers(parent: &Path) -> Result<usize, PackError> {
    let failed = |what| move |source| PackError::Io { path: parent.to_owned(), what, source };
    let mut removed = 0;
    for entry in fs::read_dir(parent).map_err(failed("read"))? {
        let entry = entry.map_err(failed("read"))?;
        let is_folder = entry.file_type().map_err(failed("read"))?.is_dir();
        if is_folder && entry.file_name().to_string_lossy().starts_with(UNDER_WAY) {
            fs::remove_dir_all(entry.path()).map_err(failed("removed"))?;
            removed += 1;
        }
    }
    Ok(removed)
}

struct IntoFolder {
    folder: PathBuf,
    file: Option<(PathBuf, File)>,
    folders: BTreeSet<PathBuf>,
}

impl IntoFolder {
    fn sync_folders(&self) -> Result<(), PackError> {
        self.folders.iter().rev().try_for_each(|folder| sync_folder(folder))?;
        sync_folder(&self.folder)
    }
}

impl Contents for IntoFolder {
    fn begin(&mut self, path: &str) -> Result<(), PackError> {
        let path = self.folder.join(path);
        let failed = |source| PackError::Io { path: path.clone(), what: "written", source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
            let below = parent.ancestors().take_while(|folder| **folder != self.folder);
            self.folders.extend(below.map(Path::to_owned));
        }
        let file = File::create_new(&path).map_err(failed)?;
        self.file = Some((path, file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        match &mut self.file {
            Some((path, file)) => write_all(file, path, bytes),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), PackError> {
        let Some((path, file)) = self.file.take() else { return Ok(()) };
        file.sync_all().map_err(|source| PackError::Io { path, what: "written", source })
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), PackError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| PackError::Io { path: folder.to_owned(), what: "written", source })
}

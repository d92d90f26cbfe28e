//! A repository's folder: files appear whole, and one publisher works at a time.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Addition, PublishError};
use crate::bundle::hex;
use crate::recall::{NOTICE_BYTES_MAX, Notice};
use crate::trust::target_path;

/// A file that was copied into the repository.
pub(super) struct Copied {
    pub(super) length: u64,
    pub(super) sha256: [u8; 32],
}

/// A metadata file to write.
pub(super) struct Written {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Held as long as the publisher lives; the system lets go of it however it ends.
    _lock: File,
}

fn failed(path: &Path, what: &'static str) -> impl Fn(std::io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Io { path: path.clone(), what, source }
}

impl Folder {
    pub(super) fn create(path: &Path) -> Result<Folder, PublishError> {
        if path.join("metadata").join("timestamp.json").exists() {
            return Err(PublishError::Exists(path.to_owned()));
        }
        for part in ["metadata", "targets"] {
            fs::create_dir_all(path.join(part)).map_err(failed(path, "made"))?;
        }
        Folder::open(path)
    }

    pub(super) fn open(path: &Path) -> Result<Folder, PublishError> {
        if !path.join("metadata").is_dir() {
            return Err(PublishError::NoRepository(path.to_owned()));
        }
        let lock = path.join(".lock");
        let file = File::options().create(true).append(true).open(&lock).map_err(failed(&lock, "written"))?;
        file.try_lock()
            .map_err(|error| failed(&lock, "locked: another publisher is at work")(error.into()))?;
        Ok(Folder { path: path.to_owned(), _lock: file })
    }

    pub(super) fn metadata(&self, name: &str) -> PathBuf {
        self.path.join("metadata").join(name)
    }

    /// The highest number of a root.
    pub(super) fn newest_root(&self) -> Result<u64, PublishError> {
        let folder = self.path.join("metadata");
        let mut newest = None;
        for entry in fs::read_dir(&folder).map_err(failed(&folder, "read"))? {
            let name = entry.map_err(failed(&folder, "read"))?.file_name();
            let version = name.to_str().and_then(|name| name.strip_suffix(".root.json")?.parse().ok());
            newest = newest.max(version);
        }
        newest.ok_or_else(|| PublishError::Damaged { path: folder, problem: "without a root".into() })
    }

    /// Copies files to where their digests say; what nothing lists yet harms nobody.
    pub(super) fn add(
        &self,
        additions: &[Addition],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Copied>, PublishError> {
        let mut total = 0;
        for addition in additions {
            if !addition.by.may(&addition.name) {
                return Err(PublishError::Name {
                    target: addition.name.clone(),
                    role: addition.by.to_string(),
                    paths: addition.by.paths().join(" or "),
                });
            }
            if addition.name.starts_with("recalls/") {
                notice(&addition.file)?;
            }
            total += fs::metadata(&addition.file).map_err(failed(&addition.file, "read"))?.len();
        }
        let mut done = 0;
        let copy = |addition| {
            self.copy(addition, &mut |count| {
                done += count;
                progress(done, total);
            })
        };
        additions.iter().map(copy).collect()
    }

    fn copy(&self, addition: &Addition, progress: &mut dyn FnMut(u64)) -> Result<Copied, PublishError> {
        let mut input = File::open(&addition.file).map_err(failed(&addition.file, "read"))?;
        let part = self.path.join("targets").join(".part");
        let mut output = File::create(&part).map_err(failed(&part, "written"))?;
        let (mut hasher, mut length) = (Sha256::new(), 0);
        let mut chunk = vec![0; 1 << 18];
        loop {
            let count = input.read(&mut chunk).map_err(failed(&addition.file, "read"))?;
            if count == 0 {
                break;
            }
            hasher.update(&chunk[..count]);
            output.write_all(&chunk[..count]).map_err(failed(&part, "written"))?;
            length += count as u64;
            progress(count as u64);
        }
        output.sync_all().map_err(failed(&part, "written"))?;
        let sha256: [u8; 32] = hasher.finalize().into();
        let path = self.path.join(target_path(&addition.name, &hex(&sha256)));
        let parent = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).map_err(failed(parent, "made"))?;
        fs::rename(&part, &path).map_err(failed(&path, "written"))?;
        for folder in parent.ancestors().take_while(|folder| folder.starts_with(&self.path)) {
            sync(folder)?;
        }
        Ok(Copied { length, sha256 })
    }

    /// Writes metadata in the given order, each whole and synced before the next.
    pub(super) fn write(&self, files: &[Written]) -> Result<(), PublishError> {
        let folder = self.path.join("metadata");
        for file in files {
            let path = folder.join(&file.name);
            let part = folder.join(".part");
            let mut output = File::create(&part).map_err(failed(&part, "written"))?;
            output.write_all(&file.bytes).map_err(failed(&part, "written"))?;
            output.sync_all().map_err(failed(&part, "written"))?;
            fs::rename(&part, &path).map_err(failed(&path, "written"))?;
            sync(&folder)?;
        }
        Ok(())
    }
}

/// A recall notice that no box could obey is not published.
fn notice(file: &Path) -> Result<(), PublishError> {
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed(file, "read"))?;
    opened.take(NOTICE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed(file, "read"))?;
    Notice::read(file, &bytes).map(drop).map_err(PublishError::Notice)
}

fn sync(folder: &Path) -> Result<(), PublishError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(failed(folder, "written"))
}

//! Fetching an image: its metadata and files become a repository of their own on this box's disk, which whoever writes
//! the slot can check by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use lightbox_models::trust::{self, Clause, Folder, Known, Override, Reading, Refusal, Source, Verified};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;

use super::manifest::{MANIFEST, MANIFEST_BYTES_MAX, Manifest, Offered, Version};

/// Longest metadata file, as the check has it.
const METADATA_BYTES_MAX: u64 = 4 << 20;
/// Largest file of an image.
pub const FILE_BYTES_MAX: u64 = 4 << 30;

/// Why an image was not fetched.
#[derive(Debug)]
pub enum Unfetched {
    /// It is not to be trusted, or cannot be read.
    Refused(Refusal),
    /// The disk has no room for it now, in words.
    Room(String),
}

impl From<Refusal> for Unfetched {
    fn from(refusal: Refusal) -> Self {
        Unfetched::Refused(refusal)
    }
}

/// A source that keeps a copy of all metadata that are read from it.
#[derive(Debug)]
struct Keeping {
    source: Arc<dyn Source>,
    folder: PathBuf,
}

#[async_trait]
impl Source for Keeping {
    async fn open(&self, path: &str) -> io::Result<Reading> {
        let mut bytes = Vec::new();
        self.source.open(path).await?.take(METADATA_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
        let to = self.folder.join(path);
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent).await?;
        }
        tokio::fs::write(&to, &bytes).await?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

/// What was found of a version: its manifest, its files, the manifest's digest.
#[derive(Clone, Debug)]
pub struct Found {
    /// What was signed.
    pub manifest: Manifest,
    /// Its files.
    pub offered: Offered,
}

/// Reads a version's manifest.
pub async fn find(verified: &Verified, channel: &str, version: Version) -> Result<Found, Refusal> {
    let offered = Offered::of(verified, channel, version)?;
    let name = Offered::name(channel, version, MANIFEST);
    let bytes = verified.read_target(&name, MANIFEST_BYTES_MAX).await?;
    let malformed = |why: String| Refusal {
        clause: Clause::Malformed,
        subject: name.clone(),
        detail: format!(": {why}"),
    };
    let manifest = Manifest::parse(&bytes).map_err(malformed)?;
    if manifest.version != version {
        return Err(malformed(format!("it is of version {}", manifest.version)));
    }
    Ok(Found { manifest, offered })
}

/// Removes what was staged: it is as large as a slot, and of no more use once the slot was written.
pub fn clear(stage: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Why there is no room for an image of so many bytes.
fn no_room(bytes: u64, free: u64, reserve: u64) -> Option<String> {
    let need = bytes.saturating_add(reserve);
    (free < need).then(|| {
        format!(
            "waits for room: it needs {need} bytes, of which {reserve} stay free for images (store.reserve_mib); {free} are free; \
             remedy: make room on the disk of system.folder"
        )
    })
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// Fetches a version into `stage`, which is made anew, where `reserve` bytes are left free on its disk then. `progress`
/// hears of bytes done and bytes in all.
#[expect(clippy::too_many_arguments)]
pub async fn fetch(
    source: Arc<dyn Source>,
    root: &[u8],
    stage: &Path,
    (channel, version): (&str, Version),
    now: OffsetDateTime,
    exception: Option<&Override>,
    reserve: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Found, Unfetched> {
    let disk = |error: io::Error| Refusal {
        clause: Clause::Unreadable,
        subject: stage.display().to_string(),
        detail: format!(": writing: {error}"),
    };
    clear(stage).map_err(disk)?;
    tokio::fs::create_dir_all(stage).await.map_err(disk)?;
    // From the first root on, as whoever checks the copy begins there. What was seen before was compared by the look that
    // found this version, and is again by whoever writes it.
    let keeping = Arc::new(Keeping { source: source.clone(), folder: stage.to_owned() });
    trust::verify(keeping, root, &Known::FirstUse, now, exception).await?;
    let copy: Arc<dyn Source> = Arc::new(Folder::new(stage));
    let staged = trust::verify(copy, root, &Known::FirstUse, now, exception).await?;
    let offered = Offered::of(&staged, channel, version)?;
    let from = staged.from(source);
    let (all, mut before) = (offered.bytes(), 0_u64);
    if let Some(why) = no_room(all, free_bytes(stage).map_err(disk)?, reserve) {
        return Err(Unfetched::Room(why));
    }
    for target in offered.all() {
        let to = stage.join(target.path());
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(disk)?;
        }
        let mut part = |done: u64, _: u64| progress(before + done, all);
        from.save_target(&target.name, FILE_BYTES_MAX, &to, &mut part).await?;
        before = before.saturating_add(target.length);
    }
    Ok(find(&staged, channel, version).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_for_images_and_the_need_is_named() {
        assert_eq!(no_room(10, 15, 5), None);
        let why = no_room(10, 14, 5).expect("no room");
        assert!(why.contains("needs 15 bytes") && why.contains("remedy:"), "{why}");
        assert!(no_room(u64::MAX, u64::MAX - 1, 5).is_some());
    }

    #[test]
    fn clearing_what_is_not_there_is_no_fault() {
        let folder = tempfile::tempdir().expect("temp dir");
        let stage = folder.path().join("stage");
        clear(&stage).expect("nothing there");
        std::fs::create_dir_all(stage.join("targets")).expect("made");
        clear(&stage).expect("cleared");
        assert!(!stage.exists());
    }
}

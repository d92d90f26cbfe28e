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

/// Fetches a version into `stage`, which is made anew. `progress` hears of bytes done and bytes in all.
pub async fn fetch(
    source: Arc<dyn Source>,
    root: &[u8],
    stage: &Path,
    (channel, version): (&str, Version),
    now: OffsetDateTime,
    exception: Option<&Override>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Found, Refusal> {
    let disk = |error: io::Error| Refusal {
        clause: Clause::Unreadable,
        subject: stage.display().to_string(),
        detail: format!(": writing: {error}"),
    };
    if stage.exists() {
        tokio::fs::remove_dir_all(stage).await.map_err(disk)?;
    }
    tokio::fs::create_dir_all(stage).await.map_err(disk)?;
    // From the first root on, as whoever checks the copy begins there. What was seen before was compared by the look that
    // found this version, and is again by whoever writes it.
    let keeping = Arc::new(Keeping { source: source.clone(), folder: stage.to_owned() });
    trust::verify(keeping, root, &Known::FirstUse, now, exception).await?;
    let copy: Arc<dyn Source> = Arc::new(Folder::new(stage));
    let staged = trust::verify(copy, root, &Known::FirstUse, now, exception).await?;
    let offered = Offered::of(&staged, channel, version)?;
    let from = staged.from(source);
    let (all, mut before) = (offered.bytes(), 0);
    for target in offered.all() {
        let to = stage.join(target.path());
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(disk)?;
        }
        let mut part = |done: u64, _: u64| progress(before + done, all);
        from.save_target(&target.name, FILE_BYTES_MAX, &to, &mut part).await?;
        before += target.length;
    }
    find(&staged, channel, version).await
}

//! Folders that survive a power cut: the name of a new file or folder is on the disk only once the folder
//! that holds it was synced.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes a folder and what is missing above it, durable.
pub fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = match folder.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        // The root of a file system is always there.
        None => return Ok(()),
    };
    make(above)?;
    match fs::create_dir(folder) {
        // Somebody else was faster, and may not have synced it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        other => other?,
    }
    sync(above)
}

/// Syncs a folder, so that names made, changed or removed in it are durable.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

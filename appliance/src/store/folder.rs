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
    // The root of a file system is always there, and so is the working folder.
    let Some(above) = folder.parent() else { return Ok(()) };
    make(above)?;
    match fs::create_dir(folder) {
        // Somebody else was faster, and may not have synced it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        other => other?,
    }
    sync(above)
}

/// Syncs a folder, so that names made, changed or removed in it are durable. The empty path, which is
/// the parent of a bare name, is the working folder.
pub fn sync(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_above_a_bare_name_is_the_working_folder() {
        let above = Path::new("data").parent().expect("the empty path");
        sync(above).expect("synced");
        make(above).expect("it is there");
    }
}

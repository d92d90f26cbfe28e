//! The files that a verb is given.

use std::path::{Path, PathBuf};

/// All files under the given files and folders, sorted.
pub fn files_under(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                walk(&entry?.path(), found)?;
            }
        } else {
            found.push(path.to_owned());
        }
        Ok(())
    }
    let mut found = Vec::new();
    for path in paths {
        walk(path, &mut found).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    found.sort();
    Ok(found)
}

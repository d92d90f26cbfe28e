//! Boot entries on the EFI system partition. Mounted with `dirsync`, for the reason that [`crate::boot_entry::bless`]
//! gives.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::image::Digested;
use super::uki::Uki;
use super::{SlotError, failed};
use crate::boot_entry::{EntryName, PART, TRIES};

fn folder(esp: &Path) -> PathBuf {
    esp.join("EFI/Linux")
}

fn sync(path: &Path) -> Result<(), SlotError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed(path.display(), "syncing"))
}

/// All files beside each other with what their names say.
fn files(esp: &Path) -> Result<Vec<(PathBuf, String)>, SlotError> {
    let folder = folder(esp);
    let listed = fs::read_dir(&folder).map_err(failed(folder.display(), "reading"))?;
    let mut found = Vec::new();
    for file in listed {
        let file = file.map_err(failed(folder.display(), "reading"))?;
        found.push((file.path(), file.file_name().to_string_lossy().into_owned()));
    }
    found.sort();
    Ok(found)
}

/// Boot entries that a boot loader would find, with what they say of themselves; what cannot be read is left out, as
/// the boot loader does.
pub fn entries(esp: &Path) -> Result<Vec<(EntryName, Uki)>, SlotError> {
    let named = files(esp)?.into_iter().filter_map(|(path, name)| Some((path, EntryName::parse(&name)?)));
    Ok(named.filter_map(|(path, name)| Some((name, Uki::read(&path).ok()?))).collect())
}

/// Removes every entry but the running system's, and what cuts have left; yields how many went.
pub fn clear_others(esp: &Path, running: &str) -> Result<usize, SlotError> {
    let mut gone = 0;
    for (path, name) in files(esp)? {
        let entry = EntryName::parse(&name);
        let ours = entry.is_some_and(|entry| entry.stem.eq_ignore_ascii_case(running));
        if !ours && (name.ends_with(PART) || EntryName::parse(&name).is_some()) {
            fs::remove_file(&path).map_err(failed(path.display(), "removing"))?;
            gone += 1;
        }
    }
    if gone > 0 {
        sync(&folder(esp))?;
    }
    clear_salvaged(esp)?;
    Ok(gone)
}

/// Removes what `fsck.fat` has salvaged after a power cut: pieces of files, as large as an entry each.
fn clear_salvaged(esp: &Path) -> Result<(), SlotError> {
    for file in fs::read_dir(esp).map_err(failed(esp.display(), "reading"))? {
        let path = file.map_err(failed(esp.display(), "reading"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
        if name.starts_with("FSCK") && name.ends_with(".REC") {
            fs::remove_file(&path).map_err(failed(path.display(), "removing"))?;
        }
    }
    Ok(())
}

/// Puts an entry there, with a full counter; yields its file name. The last step of an update: with it the new system
/// is the one that starts.
pub fn install(esp: &Path, version: &str, uki: &Digested) -> Result<String, SlotError> {
    let folder = folder(esp);
    let name = EntryName { stem: format!("lightbox_{version}"), left: None, done: 0 }.armed(TRIES);
    let (part, whole) = (folder.join(format!("lightbox_{version}{PART}")), folder.join(&name));
    {
        let mut file = File::create(&part).map_err(failed(part.display(), "making"))?;
        uki.each(&mut |bytes, _| file.write_all(bytes).map_err(failed(part.display(), "writing")))?;
        file.sync_all().map_err(failed(part.display(), "syncing"))?;
    }
    sync(&folder)?;
    Digested { path: part.clone(), ..uki.clone() }.each(&mut |_, _| Ok(())).map_err(|error| match error {
        SlotError::Digest(path) => SlotError::ReadBack(path.display().to_string()),
        other => other,
    })?;
    fs::rename(&part, &whole).map_err(failed(part.display(), "renaming"))?;
    sync(&whole)?;
    sync(&folder)?;
    Ok(name)
}

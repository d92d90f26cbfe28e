//! The boot entry that this system was started from, and its counter of tries.
//!
//! systemd-boot counts starts in the name of an entry: `lightbox_1.2.0+3.efi` has three tries left, and
//! `lightbox_1.2.0+2-1.efi` two after one start that nobody has called good. An entry without tries comes after all
//! others. A name without a counter means *good for ever*: if such an entry's root is damaged later, its kernel
//! panics at every start and nothing ever tries the other slot. So a start that was good gives the entry a full
//! counter instead of none: each start takes one try, each good start gives it back.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Tries of an entry that was started well. The image is made with the same number.
pub const TRIES: u32 = 3;

/// Ends the name of an entry that is not whole yet; no boot loader looks at it.
pub const PART: &str = ".part";

/// The vendor identifier of the boot loader interface's EFI variables.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The entry could not be marked.
#[derive(Debug, Error)]
pub enum BootEntryError {
    /// The boot loader has left no variable that names an entry.
    #[error(
        "the boot loader named no entry ({variable} is missing); remedy: start by systemd-boot, from the EFI system partition"
    )]
    Unnamed {
        /// The variable that was looked for last.
        variable: PathBuf,
    },
    /// The named file is no entry of ours.
    #[error("{0} is no name of a boot entry; remedy: entries are called NAME+TRIES.efi")]
    Name(String),
    /// The entry is not there (any more).
    #[error("{0} is not on the EFI system partition; remedy: mount the partition that was started from")]
    Missing(PathBuf),
    /// The EFI system partition could not be read or changed.
    #[error("{path}: {operation} failed")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// An entry's file name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// What stays the same: `lightbox_1.2.0`.
    pub stem: String,
    /// Tries left, where it has a counter.
    pub left: Option<u32>,
    /// Starts that nobody has called good.
    pub done: u32,
}

impl EntryName {
    /// Takes a file name apart (UAPI.1, boot counting); `None` if it is not an `.efi` file.
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.get(..name.len().checked_sub(4)?)?;
        if !name.get(stem.len()..)?.eq_ignore_ascii_case(".efi") || stem.is_empty() {
            return None;
        }
        let whole = EntryName { stem: stem.to_owned(), left: None, done: 0 };
        let Some((before, counter)) = stem.rsplit_once('+') else { return Some(whole) };
        let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
        match (number(left), number(done)) {
            (Some(left), Some(done)) if !before.is_empty() => {
                Some(EntryName { stem: before.to_owned(), left: Some(left), done })
            }
            // A plus that belongs to the name.
            _ => Some(whole),
        }
    }

    /// The file name with a full counter.
    pub fn armed(&self, tries: u32) -> String {
        format!("{}+{tries}.efi", self.stem)
    }
}

/// The file name.
impl Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.left, self.done) {
            (None, _) => write!(f, "{}.efi", self.stem),
            (Some(left), 0) => write!(f, "{}+{left}.efi", self.stem),
            (Some(left), done) => write!(f, "{}+{left}-{done}.efi", self.stem),
        }
    }
}

/// Digits only: `parse` would take a sign.
fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// An EFI variable of the boot loader as text; `None` if it is not set.
fn variable(efivars: &Path, name: &str) -> Result<Option<String>, BootEntryError> {
    let path = efivars.join(format!("{name}-{VENDOR}"));
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(BootEntryError::Io { path, operation: "reading", source }),
    };
    // Four bytes of attributes, then UTF-16 with a zero at its end.
    let text = bytes.get(4..).unwrap_or_default();
    let units: Vec<u16> = text.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    Ok(Some(String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()))
}

/// The name of the entry that this system was started from, with the counter that it had after the boot loader
/// counted this start.
pub fn booted(efivars: &Path) -> Result<EntryName, BootEntryError> {
    let counted = variable(efivars, "LoaderBootCountPath")?;
    let named = match counted {
        Some(path) => Some(path),
        None => variable(efivars, "LoaderEntrySelected")?,
    };
    let Some(path) = named else {
        return Err(BootEntryError::Unnamed {
            variable: efivars.join(format!("LoaderEntrySelected-{VENDOR}")),
        });
    };
    let name = path.rsplit(['\\', '/']).next().unwrap_or_default();
    EntryName::parse(name).ok_or_else(|| BootEntryError::Name(name.to_owned()))
}

/// The entries on the EFI system partition that is mounted there, by name. What power cuts left empty is none.
pub fn all(esp: &Path) -> Result<Vec<EntryName>, BootEntryError> {
    let folder = esp.join("EFI/Linux");
    let failed = |source| BootEntryError::Io { path: folder.clone(), operation: "reading", source };
    let mut found = Vec::new();
    for file in fs::read_dir(&folder).map_err(failed)? {
        let file = file.map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > 0 {
            found.extend(file.file_name().to_str().and_then(EntryName::parse));
        }
    }
    found.sort_by(|one, other| one.stem.cmp(&other.stem));
    Ok(found)
}

/// Gives the entry that this system was started from a full counter; yields its file name. Doing it again changes
/// nothing.
///
/// `esp` is where the EFI system partition is mounted, `efivars` where EFI variables are. Mount it with `dirsync`:
/// Linux' FAT writes a renamed file's new name first, empty, and its length and place later; only with `dirsync` is
/// the old name there until the new one is whole. What a power cut then leaves is an empty file beside the good one,
/// which the next blessing takes away; or both names for the same clusters. Of these `fsck.fat`, before the partition is
/// mounted, empties the one that it finds later. It may leave the name that an entry had before it was whole.
pub fn bless(esp: &Path, efivars: &Path) -> Result<String, BootEntryError> {
    let entry = booted(efivars)?;
    let folder = esp.join("EFI/Linux");
    let name = entry.armed(TRIES);
    let wanted = folder.join(&name);
    let Found { whole, empty } = find(&folder, &entry.stem)?;
    let failed = |path: &Path, operation| {
        let path = path.to_owned();
        move |source| BootEntryError::Io { path, operation, source }
    };
    let Some(present) = whole else {
        return Err(BootEntryError::Missing(folder.join(format!("{}.efi", entry.stem))));
    };
    for left in empty.iter().filter(|left| **left != wanted) {
        fs::remove_file(left).map_err(failed(left, "removing"))?;
    }
    if present != wanted {
        fs::rename(&present, &wanted).map_err(failed(&present, "renaming"))?;
    }
    // The file first: its length and place stand in the folder's entry.
    for path in [&wanted, &folder] {
        File::open(path).and_then(|file| file.sync_all()).map_err(failed(path, "syncing"))?;
    }
    Ok(name)
}

/// The files of an entry, whatever their counters.
struct Found {
    /// The one that can be started.
    whole: Option<PathBuf>,
    /// What power cuts left.
    empty: Vec<PathBuf>,
}

/// Looks for an entry's files. FAT knows no case.
fn find(folder: &Path, stem: &str) -> Result<Found, BootEntryError> {
    let failed = |source| BootEntryError::Io { path: folder.to_owned(), operation: "reading", source };
    let mut found = Found { whole: None, empty: Vec::new() };
    // It runs, so it was whole when its last rename began.
    let (part, mut before) = (format!("{stem}{PART}"), None);
    for file in fs::read_dir(folder).map_err(failed)? {
        let file = file.map_err(failed)?;
        let is_empty = file.metadata().map_err(failed)?.len() == 0;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.eq_ignore_ascii_case(&part) {
            before = (!is_empty).then(|| file.path());
        } else if EntryName::parse(&name).is_some_and(|name| name.stem.eq_ignore_ascii_case(stem)) {
            if is_empty {
                found.empty.push(file.path());
            } else {
                found.whole = Some(file.path());
            }
        }
    }
    found.whole = found.whole.or(before);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(efivars: &Path, name: &str, value: &str) {
        let mut bytes = vec![6, 0, 0, 0];
        bytes.extend(value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        fs::write(efivars.join(format!("{name}-{VENDOR}")), bytes).unwrap();
    }

    /// An EFI system partition with these entries, and EFI variables beside it.
    fn esp(entries: &[&str]) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (esp, efivars) = (folder.path().join("esp"), folder.path().join("efivars"));
        fs::create_dir_all(esp.join("EFI/Linux")).unwrap();
        fs::create_dir_all(&efivars).unwrap();
        for entry in entries {
            fs::write(esp.join("EFI/Linux").join(entry), entry).unwrap();
        }
        (folder, esp, efivars)
    }

    fn entries(esp: &Path) -> Vec<String> {
        let files = fs::read_dir(esp.join("EFI/Linux")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_are_taken_apart() {
        let name = |text| EntryName::parse(text).map(|name| (name.stem, name.left, name.done));
        let own = || "lightbox_1.2.0".to_owned();
        assert_eq!(name("lightbox_1.2.0+3.efi"), Some((own(), Some(3), 0)));
        assert_eq!(name("lightbox_1.2.0+2-1.EFI"), Some((own(), Some(2), 1)));
        assert_eq!(name("lightbox_1.2.0.efi"), Some((own(), None, 0)));
        for same in ["lightbox_1.2.0+3.efi", "lightbox_1.2.0+0-3.efi", "lightbox_1.2.0.efi"] {
            assert_eq!(EntryName::parse(same).unwrap().to_string(), same);
        }
        for strange in ["a+b.efi", "a+1-.efi", "a++1-x.efi", "a+-1.efi", "a+99999999999.efi", "+3.efi"] {
            assert_eq!(name(strange).unwrap().1, None, "{strange}");
        }
        for other in ["", ".efi", "efi", "lightbox.conf", "é.ef"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn a_good_start_gives_the_tries_back_and_leaves_the_other_slot_alone() {
        let (_folder, esp, efivars) = esp(&["lightbox_1.0.0+0-3.efi", "lightbox_1.1.0+2-1.efi"]);
        set(&efivars, "LoaderBootCountPath", "\\EFI\\Linux\\lightbox_1.1.0+2-1.efi");
        set(&efivars, "LoaderEntrySelected", "lightbox_1.1.0.efi");
        assert_eq!(bless(&esp, &efivars).unwrap(), "lightbox_1.1.0+3.efi");
        assert_eq!(entries(&esp), ["lightbox_1.0.0+0-3.efi", "lightbox_1.1.0+3.efi"]);
        assert_eq!(fs::read(esp.join("EFI/Linux/lightbox_1.1.0+3.efi")).unwrap(), b"lightbox_1.1.0+2-1.efi");
        assert_eq!(bless(&esp, &efivars).unwrap(), "lightbox_1.1.0+3.efi");
        assert_eq!(entries(&esp).len(), 2);
    }

    #[test]
    fn an_entry_without_a_counter_gets_one() {
        let (_folder, esp, efivars) = esp(&["Lightbox_1.0.0.efi"]);
        set(&efivars, "LoaderEntrySelected", "lightbox_1.0.0.efi");
        bless(&esp, &efivars).unwrap();
        assert_eq!(entries(&esp), ["lightbox_1.0.0+3.efi"]);
    }

    #[test]
    fn what_a_power_cut_left_goes_and_the_whole_file_stays() {
        for empty in ["lightbox_1.0.0+3.efi", "lightbox_1.0.0+1-2.efi"] {
            let (_folder, esp, efivars) = esp(&["lightbox_1.0.0+2-1.efi"]);
            fs::write(esp.join("EFI/Linux").join(empty), "").unwrap();
            set(&efivars, "LoaderBootCountPath", "\\EFI\\Linux\\lightbox_1.0.0+2-1.efi");
            bless(&esp, &efivars).unwrap();
            assert_eq!(entries(&esp), ["lightbox_1.0.0+3.efi"], "{empty}");
            let kept = fs::read(esp.join("EFI/Linux/lightbox_1.0.0+3.efi")).unwrap();
            assert_eq!(kept, b"lightbox_1.0.0+2-1.efi", "{empty}");
        }
    }

    #[test]
    fn the_name_before_it_was_whole_is_taken_where_no_other_is_left() {
        let (_folder, esp, efivars) =
            esp(&["lightbox_1.0.0.part", "lightbox_1.1.0.part", "lightbox_1.1.0+2-1.efi"]);
        fs::write(esp.join("EFI/Linux/lightbox_1.0.0+2-1.efi"), "").unwrap();
        set(&efivars, "LoaderBootCountPath", "\\EFI\\Linux\\lightbox_1.0.0+2-1.efi");
        bless(&esp, &efivars).unwrap();
        let kept = fs::read(esp.join("EFI/Linux/lightbox_1.0.0+3.efi")).unwrap();
        assert_eq!(kept, b"lightbox_1.0.0.part");
        // Where another is left, that is the one.
        set(&efivars, "LoaderBootCountPath", "\\EFI\\Linux\\lightbox_1.1.0+2-1.efi");
        bless(&esp, &efivars).unwrap();
        let kept = fs::read(esp.join("EFI/Linux/lightbox_1.1.0+3.efi")).unwrap();
        assert_eq!(kept, b"lightbox_1.1.0+2-1.efi");
    }

    #[test]
    fn what_is_missing_is_said() {
        let (_folder, esp, efivars) = esp(&["lightbox_1.0.0+3.efi"]);
        assert!(matches!(bless(&esp, &efivars), Err(BootEntryError::Unnamed { .. })));
        set(&efivars, "LoaderEntrySelected", "auto-windows");
        assert!(matches!(bless(&esp, &efivars), Err(BootEntryError::Name(_))));
        fs::write(esp.join("EFI/Linux/lightbox_9.0.0+2-1.efi"), "").unwrap();
        set(&efivars, "LoaderEntrySelected", "lightbox_9.0.0.efi");
        assert!(matches!(bless(&esp, &efivars), Err(BootEntryError::Missing(_))));
    }
}

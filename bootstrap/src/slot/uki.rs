//! What a unified kernel image says of itself, in the sections of its PE file (UAPI.5).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::SlotError;

/// Longest section that is read: texts, not the kernel.
const TEXT_MAX: u32 = 64 << 10;

/// Reads all of `bytes` from a place of the file.
type ReadAt<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

/// A unified kernel image's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uki {
    /// Of its `os-release`.
    pub names: BTreeMap<String, String>,
    /// Of its command line: which root it starts.
    pub root_hash: String,
}

impl Uki {
    /// Reads a file. It is not judged here whether anybody signed it: the firmware does.
    pub fn read(path: &Path) -> Result<Uki, SlotError> {
        let file = super::image::open(path)?;
        Uki::parse(&|bytes, at| file.read_exact_at(bytes, at))
            .map_err(|problem| SlotError::Uki { path: path.to_owned(), problem })
    }

    /// Takes a file apart that `read` gives pieces of; what is wrong with it in words.
    pub fn parse(read: ReadAt<'_>) -> Result<Uki, String> {
        let text = |name: &str| section(read, name).map_err(|problem| format!("{name}: {problem}"));
        let root_hash = root_hash_of(&text(".cmdline")?).ok_or("its command line names no root hash")?;
        Ok(Uki { names: names(&text(".osrel")?), root_hash })
    }

    /// The number under which a box's floor must not be for it to start; 0 where it names none.
    pub fn rollback(&self) -> u64 {
        self.names.get("LIGHTBOX_ROLLBACK").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        self.names.get("IMAGE_VERSION").map_or("", String::as_str)
    }
}

/// The values of an `os-release` (os-release(5)), without quotes.
pub fn names(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

/// The root hash in a kernel's command line.
pub fn root_hash_of(line: &str) -> Option<String> {
    let hash = line.split_whitespace().find_map(|word| word.strip_prefix("roothash="))?;
    let hex = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| hash.to_owned())
}

fn bytes<const N: usize>(read: ReadAt<'_>, at: u64) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    read(&mut bytes, at).map_err(|error| format!("the file ends too soon ({error})"))?;
    Ok(bytes)
}

/// The text of a section.
fn section(read: ReadAt<'_>, name: &str) -> Result<String, String> {
    let header = u64::from(u32::from_le_bytes(bytes(read, 0x3c)?));
    if bytes::<4>(read, header)? != *b"PE\0\0" {
        return Err("not a PE file".into());
    }
    let count = u16::from_le_bytes(bytes(read, header + 6)?);
    let optional = u64::from(u16::from_le_bytes(bytes(read, header + 20)?));
    for index in 0..u64::from(count) {
        let entry: [u8; 40] = bytes(read, header + 24 + optional + 40 * index)?;
        if entry[..8].split(|byte| *byte == 0).next() != Some(name.as_bytes()) {
            continue;
        }
        let number = |at: usize| entry[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        // The size in memory is the text's; the one on the disk is rounded up.
        let (size, at) = (number(8).min(number(16)), u64::from(number(20)));
        if size > TEXT_MAX {
            return Err(format!("{size} bytes"));
        }
        let mut text = vec![0; size as usize];
        read(&mut text, at).map_err(|error| format!("the file ends too soon ({error})"))?;
        let text = String::from_utf8(text).map_err(|_| "not UTF-8".to_owned())?;
        return Ok(text.trim_end_matches('\0').to_owned());
    }
    Err("is missing".into())
}

//! Part 10 files: the file meta information, and where the data set begins (PS3.10 §7).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dicom_object::meta::FileMetaTable;
use thiserror::Error;

use super::header::is_uid;
use crate::phi::Phi;

/// Longest file meta information that is read.
const META_MAX: u64 = 64 * 1024;

/// A file that is no Part 10 file. Names no value of it.
#[derive(Debug, Error)]
pub enum PartTenError {
    /// The file could not be read.
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    /// No preamble with `DICM`, or no file meta information behind it.
    #[error("not a DICOM Part 10 file")]
    NotPartTen,
}

/// An open Part 10 file.
#[derive(Debug)]
pub struct PartTen {
    /// The file meta information.
    pub meta: FileMetaTable,
    /// The file, at the first byte of the data set.
    pub file: File,
    /// Offset of that byte.
    pub data_set_at: u64,
    /// Length of the data set in bytes.
    pub length: u64,
}

/// Opens a Part 10 file and reads its meta information, no more.
pub fn open(path: &Path) -> Result<PartTen, PartTenError> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = [0; 144];
    file.read_exact(&mut head).map_err(|_| PartTenError::NotPartTen)?;
    // Preamble, "DICM", and the group's length (0002,0000): Explicit VR Little Endian, UL.
    if &head[128..132] != b"DICM" || head[132..140] != [2, 0, 0, 0, b'U', b'L', 4, 0] {
        return Err(PartTenError::NotPartTen);
    }
    let group = u64::from(u32::from_le_bytes([head[140], head[141], head[142], head[143]]));
    let data_set_at = 144 + group;
    if group > META_MAX || data_set_at > length {
        return Err(PartTenError::NotPartTen);
    }
    file.seek(SeekFrom::Start(128))?;
    let meta = FileMetaTable::from_reader((&file).take(16 + group)).map_err(|_| PartTenError::NotPartTen)?;
    file.seek(SeekFrom::Start(data_set_at))?;
    Ok(PartTen { meta, file, data_set_at, length: length - data_set_at })
}

/// What the file meta information says of the instance behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Media Storage SOP Class UID (0002,0002).
    pub sop_class_uid: String,
    /// Media Storage SOP Instance UID (0002,0003).
    pub sop_instance_uid: Phi<String>,
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax: String,
}

/// The start of a Part 10 file that comes piece by piece from a peer: preamble and file meta
/// information, of which at most 64 KiB are kept.
#[derive(Debug, Default)]
pub struct Head {
    bytes: Vec<u8>,
}

impl Head {
    /// Takes the next bytes. Once the file meta information is whole: what it names, and how many of
    /// these bytes belong to it; the others are the data set's.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(Named, usize)>, PartTenError> {
        let before = self.bytes.len();
        self.keep(bytes, 144);
        let Some(group) = self.bytes.get(140..144) else { return Ok(None) };
        let group = u64::from(u32::from_le_bytes([group[0], group[1], group[2], group[3]]));
        if self.bytes[128..140] != *b"DICM\x02\0\0\0UL\x04\0" || group > META_MAX {
            return Err(PartTenError::NotPartTen);
        }
        let length = 144 + group as usize;
        let taken = self.bytes.len() - before;
        self.keep(bytes.get(taken..).unwrap_or_default(), length);
        if self.bytes.len() < length {
            return Ok(None);
        }
        let named = named(&self.bytes[144..]).ok_or(PartTenError::NotPartTen)?;
        Ok(Some((named, length - before)))
    }

    fn keep(&mut self, bytes: &[u8], up_to: usize) {
        let wanted = up_to.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..wanted]);
    }
}

/// The UIDs of a file meta information group, behind its length element (Explicit VR Little Endian).
/// Read here, as the bytes are a peer's: no length is believed that the group does not hold.
fn named(mut group: &[u8]) -> Option<Named> {
    let mut uids = [const { None }; 3];
    while !group.is_empty() {
        let (head, rest) = group.split_first_chunk::<8>()?;
        let long = matches!(
            &head[4..6],
            b"OB" | b"OW" | b"OF" | b"OD" | b"OL" | b"SQ" | b"UC" | b"UN" | b"UR" | b"UT"
        );
        let (length, rest) = if long {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            (u32::from_le_bytes(*length) as usize, rest)
        } else {
            (usize::from(u16::from_le_bytes([head[6], head[7]])), rest)
        };
        let (value, rest) = rest.split_at_checked(length)?;
        group = rest;
        let at = match head[..4] {
            [2, 0, 0x02, 0] => 0,
            [2, 0, 0x03, 0] => 1,
            [2, 0, 0x10, 0] => 2,
            [2, 0, ..] => continue,
            _ => return None,
        };
        let text = std::str::from_utf8(value).ok()?.trim_end_matches(['\0', ' ']);
        uids[at] = Some(text).filter(|text| is_uid(text)).map(str::to_owned);
    }
    let [class, instance, transfer_syntax] = uids;
    Some(Named {
        sop_class_uid: class?,
        sop_instance_uid: Phi::new(instance?),
        transfer_syntax: transfer_syntax?,
    })
}

/// Bytes of a data set, to be read from position 0.
pub trait Bytes: Read + Seek + Send {}

impl<T: Read + Seek + Send> Bytes for T {}

/// A data set that was opened for reading, wherever its bytes lie.
pub struct DataSet {
    /// How it is encoded.
    pub transfer_syntax: String,
    /// Its bytes.
    pub bytes: Box<dyn Bytes>,
    /// Their number.
    pub length: u64,
}

/// A way to open a data set, as often as it is needed.
#[derive(Clone)]
pub struct Source(Arc<dyn Fn() -> Result<DataSet, PartTenError> + Send + Sync>);

impl Source {
    /// A source that opens by calling `open`.
    pub fn new(open: impl Fn() -> Result<DataSet, PartTenError> + Send + Sync + 'static) -> Self {
        Source(Arc::new(open))
    }

    /// The data set of a Part 10 file.
    pub fn file(path: PathBuf) -> Self {
        Source::new(move || {
            let found = open(&path)?;
            Ok(DataSet {
                transfer_syntax: found.meta.transfer_syntax().to_owned(),
                length: found.length,
                bytes: Box::new(Behind { file: found.file, begin: found.data_set_at }),
            })
        })
    }

    /// Opens it.
    pub fn open(&self) -> Result<DataSet, PartTenError> {
        (self.0)()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// A file of which only what is behind an offset is seen.
struct Behind {
    file: File,
    begin: u64,
}

impl Read for Behind {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl Seek for Behind {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(self.begin.saturating_add(at)),
            other => other,
        };
        let at = self.file.seek(to)?;
        at.checked_sub(self.begin).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
mod tests {
    use dicom_object::meta::FileMetaTableBuilder;
    use proptest::prelude::*;

    use super::*;

    fn head() -> Vec<u8> {
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.2")
            .media_storage_sop_instance_uid("1.2.3")
            .transfer_syntax("1.2.840.10008.1.2.1")
            .implementation_class_uid("1.2")
            .private_information_creator_uid("1.2.9")
            .private_information(vec![7; 300])
            .build()
            .expect("a table");
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        meta.write(&mut bytes).expect("written");
        bytes
    }

    #[test]
    fn the_head_is_read_however_it_is_cut() {
        let head = head();
        let whole = [&head[..], b"data set"].concat();
        for piece in 1..whole.len() {
            let mut reading = Head::default();
            let mut at = 0;
            let (named, taken) = whole
                .chunks(piece)
                .find_map(|bytes| {
                    let found = reading.push(bytes).expect("sound");
                    at += if found.is_none() { bytes.len() } else { 0 };
                    found
                })
                .expect("whole");
            assert_eq!(at + taken, head.len(), "pieces of {piece}");
            assert_eq!(named.sop_instance_uid.expose(), "1.2.3");
            assert_eq!(named.transfer_syntax, "1.2.840.10008.1.2.1");
        }
    }

    #[test]
    fn what_is_no_part_10_file_is_refused() {
        let refused = |bytes: &[u8]| assert!(Head::default().push(bytes).is_err());
        refused(&[0; 200]);
        let mut huge = head();
        huge[140..144].copy_from_slice(&u32::MAX.to_le_bytes());
        refused(&huge);
        let mut torn = head();
        torn[152..154].copy_from_slice(&[0xFF, 0xFF]);
        refused(&torn);
    }

    proptest! {
        #[test]
        fn nothing_panics(at in 0_usize..400, with in any::<[u8; 4]>(), piece in 1_usize..300) {
            let mut bytes = head();
            let at = at.min(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&with);
            let mut reading = Head::default();
            for bytes in bytes.chunks(piece) {
                if !matches!(reading.push(bytes), Ok(None)) { break; }
            }
        }
    }
}

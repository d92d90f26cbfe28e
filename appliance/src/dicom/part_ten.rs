//! Part 10 files: the file meta information, and where the data set begins (PS3.10 §7).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use dicom_object::meta::FileMetaTable;
use thiserror::Error;

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
    Ok(PartTen { meta, file, length: length - data_set_at })
}

//! Part 10 files: the file meta information, and where the data set begins (PS3.10 §7).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

//! A view of the object store from beside a running daemon: reading only, and nothing is cleared.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::io_error;
use super::log::Located;
use super::name::hasher;
use super::{ObjectError, ObjectId, Reader, Receipt, list_files, read_file, recover};

/// The objects of a data folder.
#[derive(Debug)]
pub struct Archive {
    studies: PathBuf,
    in_segments: std::collections::HashMap<ObjectId, Located>,
}

impl Archive {
    /// Looks at what is there now.
    pub fn open(data_dir: &Path) -> Result<Self, ObjectError> {
        let (studies, segments) = (data_dir.join("studies"), data_dir.join("segments"));
        let found = recover::recover(&segments, false, |_| false)?;
        Ok(Archive { studies, in_segments: found.live })
    }

    /// Every object, each once.
    pub fn list(&self) -> Result<BTreeSet<ObjectId>, ObjectError> {
        let mut all: BTreeSet<ObjectId> = self.in_segments.keys().cloned().collect();
        all.extend(list_files(&self.studies)?.into_iter().map(|(id, _)| id));
        Ok(all)
    }

    /// Writes an object as a Part 10 file. Its bytes are compared with its name on the way: a running
    /// daemon may use a segment again while we read it.
    pub fn write(&self, id: &ObjectId, out: &mut dyn Write) -> Result<(), ObjectError> {
        let from_file = || read_file(&id.path_below(&self.studies));
        let (receipt, reader) = match from_file() {
            Err(ObjectError::Absent) => match self.in_segments.get(id) {
                Some(located) => match located.entry() {
                    Ok(entry) => (entry.receipt, Reader::of_pieces(&located.pieces)),
                    // Moved out in between.
                    Err(_) => from_file()?,
                },
                None => return Err(ObjectError::Absent),
            },
            found => found?,
        };
        copy(&receipt, reader, id, out)
    }
}

fn copy(
    receipt: &Receipt,
    mut data_set: Reader,
    id: &ObjectId,
    out: &mut dyn Write,
) -> Result<(), ObjectError> {
    struct Both<'a>(&'a mut dyn Write, blake3::Hasher);
    impl Write for Both<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.0.write(bytes)?;
            self.1.update(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    out.write_all(&receipt.part_ten_head()?).map_err(io_error("writing a file"))?;
    let mut both = Both(out, hasher(&receipt.transfer_syntax));
    io::copy(&mut data_set, &mut both).map_err(io_error("copying an object"))?;
    if both.1.finalize().to_hex().as_str() == id.digest_text() { Ok(()) } else { Err(ObjectError::Damaged) }
}

//! What is sent of a stored object: as it is, or as the site file asks it to be changed. Blocking.

use std::io::{Cursor, Read, Seek, SeekFrom};

use super::coerce::{Coercion, coerce};
use super::decompress;
use super::rewrite::Cannot;
use super::source::Piece;
use crate::deliver::implicit;
use crate::dicom::header;
use crate::dicom::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};

/// Longest data set that is changed in memory.
const DATA_SET_MAX: u64 = 512 << 20;

/// Something to read from that can go back.
pub(in crate::deliver) trait Stored: Read + Seek + Send {}

impl<R: Read + Seek + Send> Stored for R {}

/// What is sent: pieces of what the reader stands at.
pub(in crate::deliver) struct Prepared {
    pub(in crate::deliver) reader: Box<dyn Stored>,
    pub(in crate::deliver) pieces: Vec<Piece>,
}

impl Prepared {
    /// A data set as it is; `reader` stands at its first byte.
    pub(super) fn whole(reader: Box<dyn Stored>, length: u64) -> Self {
        Prepared { reader, pieces: vec![Piece::Copy { at: 0, length }] }
    }
}

/// Whether a data set can be changed from one transfer syntax into another here.
pub(super) fn is_known(from: &str, to: &str) -> bool {
    let uncompressed = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN];
    // From Implicit VR the VRs of private elements would have to be guessed.
    from != to
        && uncompressed.contains(&to)
        && (from == EXPLICIT_VR_LITTLE_ENDIAN || decompress::is_known(from))
}

/// A data set as a destination gets it: with changed elements, and in another transfer syntax `to`.
pub(super) fn prepare(
    mut reader: Box<dyn Stored>,
    length: u64,
    from: &str,
    to: Option<&str>,
    coercion: &Coercion,
) -> Result<Prepared, Cannot> {
    let mut prepared = if coercion.edits.is_empty() {
        Prepared::whole(reader, length)
    } else {
        let start = reader.stream_position().map_err(|_| Cannot::Read)?;
        let pieces = coerce(&mut reader, length, from, coercion)?;
        reader.seek(SeekFrom::Start(start)).map_err(|_| Cannot::Read)?;
        Prepared { reader, pieces }
    };
    let Some(to) = to else { return Ok(prepared) };
    if coercion.edits.is_empty() {
        return transcode(prepared.reader, length, from, to);
    }
    if length > DATA_SET_MAX {
        return Err(Cannot::TooLarge);
    }
    let start = prepared.reader.stream_position().map_err(|_| Cannot::Read)?;
    let changed = gather(&mut prepared.reader, start, prepared.pieces)?;
    let length = changed.len() as u64;
    transcode(Box::new(Cursor::new(changed)), length, from, to)
}

/// A data set in another transfer syntax.
fn transcode(mut reader: Box<dyn Stored>, length: u64, from: &str, to: &str) -> Result<Prepared, Cannot> {
    if length > DATA_SET_MAX {
        return Err(Cannot::TooLarge);
    }
    let start = reader.stream_position().map_err(|_| Cannot::Read)?;
    let pieces = if from == EXPLICIT_VR_LITTLE_ENDIAN {
        if header::scan(&mut reader, length, from).1.is_some() {
            return Err(Cannot::Damaged);
        }
        vec![Piece::Copy { at: 0, length }]
    } else if !decompress::is_known(from) {
        return Err(Cannot::Syntax);
    } else {
        decompress::to_explicit(&mut reader, length, from)?
    };
    reader.seek(SeekFrom::Start(start)).map_err(|_| Cannot::Read)?;
    if to == EXPLICIT_VR_LITTLE_ENDIAN {
        return Ok(Prepared { reader, pieces });
    }
    let explicit = gather(&mut reader, start, pieces)?;
    let implicit = implicit::from_explicit(&explicit).ok_or(Cannot::Syntax)?;
    let length = implicit.len() as u64;
    // Without VRs the dictionary's count: an element that had another one, a text where a sequence belongs,
    // would be read as what it is not.
    if header::scan(Cursor::new(&implicit), length, to).1.is_some() {
        return Err(Cannot::Damaged);
    }
    Ok(Prepared::whole(Box::new(Cursor::new(implicit)), length))
}

fn gather(reader: &mut (impl Read + Seek), start: u64, pieces: Vec<Piece>) -> Result<Vec<u8>, Cannot> {
    let mut all = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => all.extend(bytes),
            Piece::Copy { at, length } => {
                reader.seek(SeekFrom::Start(start + at)).map_err(|_| Cannot::Read)?;
                let read = reader.by_ref().take(length).read_to_end(&mut all).map_err(|_| Cannot::Read)?;
                if read as u64 != length {
                    return Err(Cannot::Read);
                }
            }
        }
    }
    Ok(all)
}

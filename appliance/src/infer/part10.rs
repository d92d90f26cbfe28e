//! Opening a stored file as a DICOM object, within bounds.
//!
//! dicom-rs allocates a value by the length that its header claims before it reads a byte of it,
//! and builds nested sequences by recursion. So a file is walked first, without reading values:
//! a length past the end of the file or a nest deeper than any real object is refused here.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::InMemDicomObject;
use dicom_parser::dataset::LazyDataToken;
use dicom_parser::dataset::lazy_read::LazyDataSetReader;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::image::{ImageError, Limits};

/// Deflated Explicit VR Little Endian: its data set is inflated here, under the limit.
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
/// Explicit VR Little Endian.
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
/// Longest file meta information that is looked at.
const META_BYTES_MAX: u64 = 1 << 16;
/// Deepest nest of sequences.
const DEPTH_MAX: usize = 24;

/// A data set and the transfer syntax in which its pixel data stands.
pub(super) struct Part10 {
    pub transfer_syntax: String,
    pub object: InMemDicomObject,
}

/// Reads a Part 10 file.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<Part10, ImageError> {
    let mut file = File::open(path).map_err(|error| ImageError::Read(error.kind()))?;
    let length = file.metadata().map_err(|error| ImageError::Read(error.kind()))?.len();
    if length > limits.file_bytes_max {
        return Err(ImageError::TooLarge("the file is longer than the limit"));
    }
    let mut head = Vec::new();
    (&mut file)
        .take(META_BYTES_MAX)
        .read_to_end(&mut head)
        .map_err(|error| ImageError::Read(error.kind()))?;
    let (transfer_syntax, offset) = meta(&head).ok_or(ImageError::NotPart10)?;
    file.seek(SeekFrom::Start(offset as u64)).map_err(|error| ImageError::Read(error.kind()))?;

    let object = if transfer_syntax == DEFLATED {
        let mut inflated = Vec::new();
        flate2::read::DeflateDecoder::new(BufReader::new(file))
            .take(limits.file_bytes_max + 1)
            .read_to_end(&mut inflated)
            .map_err(|_| ImageError::Malformed("the deflated data set does not inflate"))?;
        if inflated.len() as u64 > limits.file_bytes_max {
            return Err(ImageError::TooLarge("the file inflates past the limit"));
        }
        let length = inflated.len() as u64;
        data_set(Cursor::new(inflated), length, EXPLICIT_LITTLE)?
    } else {
        data_set(BufReader::new(file), length, &transfer_syntax)?
    };
    Ok(Part10 { transfer_syntax, object })
}

/// Walks the data set, then reads it.
fn data_set(
    mut source: impl Read + Seek,
    length: u64,
    transfer_syntax: &str,
) -> Result<InMemDicomObject, ImageError> {
    let syntax = TransferSyntaxRegistry.get(transfer_syntax).ok_or(ImageError::TransferSyntax)?;
    let start = source.stream_position().map_err(|error| ImageError::Read(error.kind()))?;
    // A panic of the parser costs this image, not the process; it holds nothing of ours.
    catch_unwind(AssertUnwindSafe(|| {
        walk(&mut source, length, syntax)?;
        source.seek(SeekFrom::Start(start)).map_err(|error| ImageError::Read(error.kind()))?;
        InMemDicomObject::read_dataset_with_ts(source, syntax)
            .map_err(|_| ImageError::Malformed("the data set does not parse"))
    }))
    .unwrap_or(Err(ImageError::Malformed("the data set does not parse")))
}

fn walk(
    source: impl Read + Seek,
    length: u64,
    syntax: &dicom_encoding::TransferSyntax,
) -> Result<(), ImageError> {
    const MALFORMED: ImageError = ImageError::Malformed("the data set does not parse");
    const PAST_END: ImageError = ImageError::Malformed("an element is longer than the file");
    let mut reader = LazyDataSetReader::new_with_ts(source, syntax).map_err(|_| MALFORMED)?;
    let mut depth = 0_usize;
    // What values claim, in sum: never more than the file has, whatever they overlap with.
    let mut claimed = 0_u64;
    while let Some(token) = reader.advance() {
        let token = token.map_err(|_| MALFORMED)?;
        match &token {
            LazyDataToken::SequenceStart { .. } => depth += 1,
            LazyDataToken::SequenceEnd => depth = depth.saturating_sub(1),
            LazyDataToken::LazyValue { header, .. } => claimed += u64::from(header.len.0),
            LazyDataToken::LazyItemValue { len, .. } => claimed += u64::from(*len),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(ImageError::Malformed("sequences are nested too deep"));
        }
        if claimed > length {
            return Err(PAST_END);
        }
        token.skip().map_err(|_| MALFORMED)?;
    }
    Ok(())
}

/// Transfer Syntax UID and the offset of the data set, from the start of a Part 10 file.
fn meta(head: &[u8]) -> Option<(String, usize)> {
    if head.get(128..132)? != b"DICM" {
        return None;
    }
    let mut at = 132;
    let mut transfer_syntax = None;
    // The meta group is Explicit VR Little Endian; it ends where another group starts, whatever
    // its group length says.
    while head.get(at..at + 2)? == [2, 0] {
        let element = u16::from_le_bytes(head.get(at + 2..at + 4)?.try_into().ok()?);
        let (length, value) = match head.get(at + 4..at + 6)? {
            b"OB" | b"OW" | b"UN" | b"UT" | b"SQ" => {
                (u32::from_le_bytes(head.get(at + 8..at + 12)?.try_into().ok()?) as usize, at + 12)
            }
            _ => (usize::from(u16::from_le_bytes(head.get(at + 6..at + 8)?.try_into().ok()?)), at + 8),
        };
        let end = value.checked_add(length)?;
        let bytes = head.get(value..end)?;
        if element == 0x0010 {
            let text = str::from_utf8(bytes).ok()?;
            transfer_syntax = Some(text.trim_end_matches(['\0', ' ']).to_owned());
        }
        at = end;
    }
    Some((transfer_syntax?, at))
}

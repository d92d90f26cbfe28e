//! Opening a stored file as a DICOM object, within bounds.
//!
//! dicom-rs allocates a value by the length that its header claims before it reads a byte of it,
//! and builds nested sequences by recursion. So a data set's structure is scanned first, without
//! reading values ([`header::scan`]): a length past the end of the file, or a nest deeper than any
//! real object, is refused here.

use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::image::{ImageError, Limits};
use crate::dicom::part_ten::{PartTenError, Source};
use crate::dicom::{header, services};

/// Deflated Explicit VR Little Endian: its data set is inflated here, under the limit.
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

/// A data set and the transfer syntax in which its pixel data stands.
pub(super) struct Part10 {
    pub transfer_syntax: String,
    pub object: InMemDicomObject,
}

/// Reads a stored data set.
pub(super) fn open(source: &Source, limits: &Limits) -> Result<Part10, ImageError> {
    let opened = source.open().map_err(|error| match error {
        PartTenError::Read(error) => ImageError::Read(error.kind()),
        PartTenError::NotPartTen => ImageError::NotPart10,
    })?;
    if opened.length > limits.file_bytes_max {
        return Err(ImageError::TooLarge("the file is longer than the limit"));
    }
    let transfer_syntax = opened.transfer_syntax;
    let object = if transfer_syntax == DEFLATED {
        let mut inflated = Vec::new();
        flate2::read::DeflateDecoder::new(BufReader::new(opened.bytes))
            .take(limits.file_bytes_max + 1)
            .read_to_end(&mut inflated)
            .map_err(|_| ImageError::Malformed("the deflated data set does not inflate"))?;
        if inflated.len() as u64 > limits.file_bytes_max {
            return Err(ImageError::TooLarge("the file inflates past the limit"));
        }
        let length = inflated.len() as u64;
        data_set(Cursor::new(inflated), length, services::EXPLICIT_VR_LITTLE_ENDIAN)?
    } else {
        data_set(BufReader::new(opened.bytes), opened.length, &transfer_syntax)?
    };
    Ok(Part10 { transfer_syntax, object })
}

/// Scans the data set, then reads it.
fn data_set(
    mut source: impl Read + Seek,
    length: u64,
    transfer_syntax: &str,
) -> Result<InMemDicomObject, ImageError> {
    let syntax = TransferSyntaxRegistry.get(transfer_syntax).ok_or(ImageError::TransferSyntax)?;
    let start = source.stream_position().map_err(|error| ImageError::Read(error.kind()))?;
    let (scanned, damage) = header::scan(&mut source, length, transfer_syntax);
    if damage.is_some() {
        return Err(ImageError::Malformed("the data set does not parse"));
    }
    if scanned.is_misleading() {
        return Err(ImageError::Unsupported("it holds a number of a wrong length, or a sequence of VR UN"));
    }
    source.seek(SeekFrom::Start(start)).map_err(|error| ImageError::Read(error.kind()))?;
    // A panic of the parser costs this image, not the process; it holds nothing of ours.
    catch_unwind(AssertUnwindSafe(|| {
        InMemDicomObject::read_dataset_with_ts(source, syntax)
            .map_err(|_| ImageError::Malformed("the data set does not parse"))
    }))
    .unwrap_or(Err(ImageError::Malformed("the data set does not parse")))
}

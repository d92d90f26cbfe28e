//! Bytes of one frame, native or compressed, to stored values.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dicom_core::value::{PixelFragmentSequence, PrimitiveValue};
use dicom_dictionary_std::uids;
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::image::{Frame, ImageError, Layout, Photometric, native_bytes};
use crate::dicom::codestream::{self, Codestream, Colour};
use crate::dicom::one_frame::OneFrame;

/// The bytes of a native frame, numbered from 0.
pub(super) fn native<'a>(
    value: &'a PrimitiveValue,
    layout: &Layout,
    index: u32,
) -> Result<Cow<'a, [u8]>, ImageError> {
    // Chroma shared by two columns: two samples a pixel instead of three.
    let samples = if layout.photometric == Photometric::YbrFull422 { 2 } else { u64::from(layout.samples) };
    let size =
        u64::from(layout.rows) * u64::from(layout.columns) * samples * u64::from(layout.bits_allocated / 8);
    let start = usize::try_from(size * u64::from(index));
    let end = usize::try_from(size * (u64::from(index) + 1));
    let (Ok(start), Ok(end)) = (start, end) else {
        return Err(ImageError::TooLarge("a frame lies beyond the memory's end"));
    };
    native_bytes(value, start, end)
}

/// Stored values of a native frame.
pub(super) fn from_native(bytes: &[u8], layout: &Layout) -> Result<Frame, ImageError> {
    let mut values = unpack(bytes, layout, layout.bits_allocated / 8);
    if layout.photometric == Photometric::YbrFull422 {
        if layout.columns % 2 == 1 {
            return Err(ImageError::Unsupported("YBR_FULL_422 with an odd number of columns"));
        }
        // Y1 Y2 Cb Cr for each two pixels.
        values = values
            .as_chunks()
            .0
            .iter()
            .flat_map(|&[first, second, cb, cr]: &[i32; 4]| [first, cb, cr, second, cb, cr])
            .collect();
    } else if layout.planar && layout.samples == 3 {
        values = interleave(&values);
    }
    if matches!(layout.photometric, Photometric::YbrFull | Photometric::YbrFull422) {
        to_rgb(&mut values, layout);
    }
    finish(values, layout)
}

/// Decodes a compressed frame, numbered from 0.
pub(super) fn encapsulated(
    sequence: &PixelFragmentSequence<Vec<u8>>,
    layout: &Layout,
    transfer_syntax: &str,
    index: u32,
) -> Result<Frame, ImageError> {
    let syntax = TransferSyntaxRegistry.get(transfer_syntax).ok_or(ImageError::TransferSyntax)?;
    let mut coded = fragments(sequence, layout, index)?;
    let decoder = match syntax.codec() {
        Codec::EncapsulatedPixelData(Some(decoder), _) => decoder,
        // Encapsulated Uncompressed: the fragments are the native bytes.
        Codec::None => return from_native(&coded, layout),
        _ => return Err(ImageError::TransferSyntax),
    };
    let header = inspect(&coded, layout, transfer_syntax)?;
    let mut photometric = layout.photometric;
    let jpeg = JPEG.contains(&transfer_syntax);
    if jpeg && layout.samples == 3 {
        // The markers know; without any, the DICOM header does.
        let stated = if photometric == Photometric::Rgb { Colour::Rgb } else { Colour::Ycc };
        let lossless = header.is_some_and(|header| header.process == 3);
        let colour = if lossless { stated } else { header.and_then(|h| h.colour).unwrap_or(stated) };
        if colour == Colour::Rgb || lossless {
            codestream::mark_rgb(coded.to_mut()).ok_or(ImageError::Malformed("the JPEG has no end"))?;
        }
        // The JPEG decoder converts by itself what it was not told to leave.
        photometric = if lossless { photometric } else { Photometric::Rgb };
    }

    let one = OneFrame {
        coded: &coded,
        transfer_syntax,
        columns: layout.columns,
        rows: layout.rows,
        samples: layout.samples,
        bits_allocated: layout.bits_allocated,
        bits_stored: layout.bits_stored,
    };
    let mut decoded = Vec::new();
    // Codecs index by what the codestream says; a panic of theirs costs this frame only.
    catch_unwind(AssertUnwindSafe(|| decoder.decode_frame(&one, 0, &mut decoded).is_ok()))
        .ok()
        .filter(|decoded| *decoded)
        .ok_or(ImageError::Decode("the decoder refused the codestream"))?;

    // JPEG and JPEG-LS of up to 8 bits yield bytes, whatever is allocated.
    let narrow = header.is_some_and(|header| header.bits <= 8) && !JPEG_2000.contains(&transfer_syntax);
    let sample_bytes = if narrow { 1 } else { layout.bits_allocated / 8 };
    let size = layout.rows as usize * layout.columns as usize * layout.samples as usize;
    let decoded = decoded
        .get(..size * sample_bytes as usize)
        .ok_or(ImageError::Decode("the codestream holds fewer pixels than the header says"))?;
    let mut values = unpack(decoded, layout, sample_bytes);
    if header.is_some_and(|header| header.planar) && JPEG_LS.contains(&transfer_syntax) {
        values = interleave(&values);
    }
    if matches!(photometric, Photometric::YbrFull | Photometric::YbrFull422) {
        to_rgb(&mut values, layout);
    }
    finish(values, layout)
}

const JPEG: [&str; 4] =
    [uids::JPEG_BASELINE8_BIT, uids::JPEG_EXTENDED12_BIT, uids::JPEG_LOSSLESS, uids::JPEG_LOSSLESS_SV1];
const JPEG_LS: [&str; 2] = [uids::JPEGLS_LOSSLESS, uids::JPEGLS_NEAR_LOSSLESS];
const JPEG_2000: [&str; 2] = [uids::JPEG2000_LOSSLESS, uids::JPEG2000];

/// Checks a codestream's own header against the DICOM header; none for RLE, which has no sizes.
fn inspect(coded: &[u8], layout: &Layout, transfer_syntax: &str) -> Result<Option<Codestream>, ImageError> {
    let header = if JPEG.contains(&transfer_syntax) || JPEG_LS.contains(&transfer_syntax) {
        codestream::jpeg(coded)
    } else if JPEG_2000.contains(&transfer_syntax) {
        codestream::jpeg2000(coded)
    } else if transfer_syntax == uids::RLE_LOSSLESS {
        let segments = layout.samples * layout.bits_allocated / 8;
        return if codestream::rle_holds(coded, segments) {
            Ok(None)
        } else {
            Err(ImageError::Malformed("the RLE header does not hold"))
        };
    } else {
        // A codec whose sizes we do not read must not allocate by them.
        return Err(ImageError::TransferSyntax);
    };
    let header = header.ok_or(ImageError::Malformed("the compressed frame's header does not parse"))?;
    let agrees = (header.columns, header.rows, header.components)
        == (layout.columns, layout.rows, layout.samples)
        && header.bits <= layout.bits_allocated;
    if !agrees {
        return Err(ImageError::Malformed("the compressed frame is not of the size that the header says"));
    }
    let lossy_wide = JPEG.contains(&transfer_syntax) && header.process != 3 && header.bits > 8;
    if lossy_wide {
        return Err(ImageError::Unsupported("JPEG Extended of 12 bits"));
    }
    Ok(Some(header))
}

/// The bytes of one frame out of the fragments.
fn fragments<'a>(
    sequence: &'a PixelFragmentSequence<Vec<u8>>,
    layout: &Layout,
    index: u32,
) -> Result<Cow<'a, [u8]>, ImageError> {
    const MISSING: ImageError = ImageError::Malformed("a frame's fragments are missing");
    let fragments = sequence.fragments();
    let frames = layout.frames as usize;
    if frames == 1 && fragments.len() != 1 {
        return if fragments.is_empty() { Err(MISSING) } else { Ok(Cow::Owned(fragments.concat())) };
    }
    if fragments.len() == frames {
        return fragments.get(index as usize).map(|bytes| Cow::Borrowed(bytes.as_slice())).ok_or(MISSING);
    }
    let table = sequence.offset_table();
    if table.len() != frames {
        return Err(ImageError::Unsupported("frames in several fragments without an offset table"));
    }
    let start = u64::from(*table.get(index as usize).ok_or(MISSING)?);
    let end = table.get(index as usize + 1).map_or(u64::MAX, |end| u64::from(*end));
    let mut bytes = Vec::new();
    let mut offset = 0_u64;
    for fragment in fragments {
        if (start..end).contains(&offset) {
            bytes.extend_from_slice(fragment);
        }
        // Each fragment stands behind an item header of 8 bytes.
        offset += fragment.len() as u64 + 8;
    }
    if bytes.is_empty() { Err(MISSING) } else { Ok(Cow::Owned(bytes)) }
}

/// Little-endian samples to stored values: the stored bits cut out, and the sign extended.
fn unpack(bytes: &[u8], layout: &Layout, sample_bytes: u32) -> Vec<i32> {
    let shift =
        if sample_bytes * 8 == layout.bits_allocated { layout.high_bit + 1 - layout.bits_stored } else { 0 };
    let unused = 32 - layout.bits_stored;
    let cut = |raw: u32| {
        let aligned = (raw >> shift) << unused;
        if layout.signed { aligned.cast_signed() >> unused } else { (aligned >> unused).cast_signed() }
    };
    match sample_bytes {
        1 => bytes.iter().map(|byte| cut(u32::from(*byte))).collect(),
        _ => bytes.as_chunks().0.iter().map(|pair| cut(u32::from(u16::from_le_bytes(*pair)))).collect(),
    }
}

/// Three planes to pixels.
fn interleave(planes: &[i32]) -> Vec<i32> {
    let size = planes.len() / 3;
    (0..size).flat_map(|at| [planes[at], planes[at + size], planes[at + 2 * size]]).collect()
}

/// Full-range YCbCr to RGB (PS3.3 C.7.6.3.1.2).
fn to_rgb(values: &mut [i32], layout: &Layout) {
    let (_, greatest) = layout.range();
    let (greatest, half) = (f64::from(greatest), (f64::from(greatest) + 1.0) / 2.0);
    for [first, second, third] in values.as_chunks_mut().0 {
        let (y, cb, cr) = (f64::from(*first), f64::from(*second) - half, f64::from(*third) - half);
        let clamp = |value: f64| value.round().clamp(0.0, greatest) as i32;
        *first = clamp(y + 1.402 * cr);
        *second = clamp(y - 0.344_136 * cb - 0.714_136 * cr);
        *third = clamp(y + 1.772 * cb);
    }
}

fn finish(values: Vec<i32>, layout: &Layout) -> Result<Frame, ImageError> {
    let (columns, rows, channels) = (layout.columns as usize, layout.rows as usize, layout.samples as usize);
    if values.len() != columns * rows * channels {
        return Err(ImageError::Malformed("the pixel data is shorter than the header says"));
    }
    Ok(Frame { columns, rows, channels, values })
}

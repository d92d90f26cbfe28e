//! A stored DICOM image, opened: what its header says of the pixels, and its frames, decoded one
//! at a time so that a long multi-frame object costs one frame of memory beside its file.

use std::borrow::Cow;
use std::path::Path;

use dicom_core::Tag;
use dicom_core::value::{PrimitiveValue, Value};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde::{Deserialize, Serialize};

use super::{frame, part10};
use crate::dicom::part_ten::Source;

/// Bounds on what one image may cost. Checked before anything is allocated by a header's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest file, in bytes; also the longest that a deflated one may inflate to.
    pub file_bytes_max: u64,
    /// Most samples in one frame: Rows x Columns x Samples per Pixel.
    pub frame_samples_max: u64,
    /// Most samples in all frames of one file.
    pub image_samples_max: u64,
    /// Most frames of one file: each is a run of the engine, and other studies wait meanwhile.
    pub frames_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            file_bytes_max: 1 << 30,
            frame_samples_max: 1 << 26,
            image_samples_max: 1 << 30,
            frames_max: 10_000,
        }
    }
}

/// Why an image could not be examined. No variant carries a value from the file: the texts go into
/// results and logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read from the disk.
    #[error("the stored file cannot be read ({0})")]
    Read(std::io::ErrorKind),
    /// No preamble, or no file meta information.
    #[error("the stored file is not a DICOM Part 10 file")]
    NotPart10,
    /// The data set breaks the encoding rules.
    #[error("the file is damaged: {0}")]
    Malformed(&'static str),
    /// Beyond [`Limits`].
    #[error("the image is too large: {0}")]
    TooLarge(&'static str),
    /// No decoder.
    #[error("the transfer syntax is not supported")]
    TransferSyntax,
    /// An object without pixel data: a report, a plan.
    #[error("the object is not an image")]
    NotAnImage,
    /// A kind of image that is not read.
    #[error("the image is of a kind that is not read: {0}")]
    Unsupported(&'static str),
    /// The decoder refused the frame.
    #[error("a frame does not decode: {0}")]
    Decode(&'static str),
}

/// Colour model of the stored samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Photometric {
    /// Grey, small is bright.
    Monochrome1,
    /// Grey, large is bright.
    Monochrome2,
    /// Red, green, blue; also what YBR_RCT and YBR_ICT decode to.
    Rgb,
    /// YCbCr, full range.
    YbrFull,
    /// YCbCr, full range, chroma shared by two columns.
    YbrFull422,
}

/// What the header says of the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows (0028,0010), above 0.
    pub rows: u32,
    /// Columns (0028,0011), above 0.
    pub columns: u32,
    /// Samples per Pixel: 1 or 3.
    pub samples: u32,
    /// Number of Frames, from 1.
    pub frames: u32,
    /// Bits Allocated: 8 or 16.
    pub bits_allocated: u32,
    /// Bits Stored, 1 to Bits Allocated.
    pub bits_stored: u32,
    /// High Bit.
    pub high_bit: u32,
    /// Pixel Representation 1: two's complement.
    pub signed: bool,
    /// Planar Configuration 1: all red, then all green, then all blue.
    pub planar: bool,
    /// Colour model.
    pub photometric: Photometric,
}

impl Layout {
    /// Least and greatest storable value.
    pub fn range(&self) -> (i32, i32) {
        if self.signed {
            (-(1_i32 << (self.bits_stored - 1)), (1_i32 << (self.bits_stored - 1)) - 1)
        } else {
            (0, (1_i32 << self.bits_stored) - 1)
        }
    }
}

/// An opened image.
pub struct Image {
    object: InMemDicomObject,
    transfer_syntax: String,
    layout: Layout,
}

/// One decoded frame: stored values, not rescaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels in a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Stored values, row by row, channels of a pixel together: `rows * columns * channels`.
    pub values: Vec<i32>,
}

impl Image {
    /// Opens a Part 10 file and checks what its header says of the pixels against the limits.
    pub fn open(path: &Path, limits: &Limits) -> Result<Image, ImageError> {
        Image::read(&Source::file(path.to_owned()), limits)
    }

    /// Reads a data set and checks what its header says of the pixels against the limits.
    pub fn read(source: &Source, limits: &Limits) -> Result<Image, ImageError> {
        let part10::Part10 { transfer_syntax, object } = part10::open(source, limits)?;
        let layout = read_layout(&object, limits)?;
        Ok(Image { object, transfer_syntax, layout })
    }

    /// What the header says of the pixels.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The data set, pixel data included.
    pub fn object(&self) -> &InMemDicomObject {
        &self.object
    }

    /// Decodes a frame, numbered from 1.
    pub fn frame(&self, number: u32) -> Result<Frame, ImageError> {
        if number == 0 || number > self.layout.frames {
            return Err(ImageError::Malformed("there is no such frame"));
        }
        let element = self.object.get(tags::PIXEL_DATA).ok_or(ImageError::NotAnImage)?;
        let bytes = match element.value() {
            Value::Primitive(native) => frame::native(native, &self.layout, number - 1)?,
            Value::PixelSequence(sequence) => {
                return frame::encapsulated(sequence, &self.layout, &self.transfer_syntax, number - 1);
            }
            Value::Sequence(_) => return Err(ImageError::Malformed("the pixel data is a sequence")),
        };
        frame::from_native(&bytes, &self.layout)
    }
}

/// Text of an element, trimmed; empty where it is absent or not text.
pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Cow<'_, str> {
    match object.get(tag).and_then(|element| element.value().to_str().ok()) {
        Some(Cow::Borrowed(text)) => Cow::Borrowed(text.trim_matches([' ', '\0'])),
        Some(Cow::Owned(text)) => Cow::Owned(text.trim_matches([' ', '\0']).to_owned()),
        None => Cow::Borrowed(""),
    }
}

/// Finite numbers of an element; empty where it is absent or any value is no number.
pub(super) fn numbers(object: &InMemDicomObject, tag: Tag) -> Vec<f64> {
    let values = object.get(tag).and_then(|element| element.value().to_multi_float64().ok());
    values.filter(|values| values.iter().all(|value| value.is_finite())).unwrap_or_default()
}

fn integer(object: &InMemDicomObject, tag: Tag) -> Option<u32> {
    object.get(tag).and_then(|element| element.value().to_int::<u32>().ok())
}

fn read_layout(object: &InMemDicomObject, limits: &Limits) -> Result<Layout, ImageError> {
    if object.get(tags::PIXEL_DATA).is_none() {
        let other = [tags::FLOAT_PIXEL_DATA, tags::DOUBLE_FLOAT_PIXEL_DATA];
        return Err(if other.into_iter().any(|tag| object.get(tag).is_some()) {
            ImageError::Unsupported("floating-point pixels")
        } else {
            ImageError::NotAnImage
        });
    }
    let need = |tag, missing| integer(object, tag).ok_or(ImageError::Malformed(missing));
    let rows = need(tags::ROWS, "Rows is missing")?;
    let columns = need(tags::COLUMNS, "Columns is missing")?;
    let samples = integer(object, tags::SAMPLES_PER_PIXEL).unwrap_or(1);
    let bits_allocated = need(tags::BITS_ALLOCATED, "Bits Allocated is missing")?;
    let bits_stored = integer(object, tags::BITS_STORED).unwrap_or(bits_allocated);
    let high_bit = integer(object, tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1));
    let frames = match object.get(tags::NUMBER_OF_FRAMES) {
        Some(element) if !text(object, tags::NUMBER_OF_FRAMES).is_empty() => {
            let frames = element.value().to_int::<u32>();
            frames.map_err(|_| ImageError::Malformed("Number of Frames is not a number"))?
        }
        _ => 1,
    };
    if rows == 0 || columns == 0 || rows > 65_535 || columns > 65_535 || frames == 0 {
        return Err(ImageError::Malformed("Rows, Columns or Number of Frames is out of range"));
    }
    let photometric = match text(object, tags::PHOTOMETRIC_INTERPRETATION).as_ref() {
        "MONOCHROME1" => Photometric::Monochrome1,
        "MONOCHROME2" => Photometric::Monochrome2,
        "RGB" | "YBR_RCT" | "YBR_ICT" => Photometric::Rgb,
        "YBR_FULL" => Photometric::YbrFull,
        "YBR_FULL_422" => Photometric::YbrFull422,
        "PALETTE COLOR" => return Err(ImageError::Unsupported("palette colour")),
        _ => return Err(ImageError::Unsupported("this photometric interpretation")),
    };
    let grey = matches!(photometric, Photometric::Monochrome1 | Photometric::Monochrome2);
    if samples != if grey { 1 } else { 3 } {
        return Err(ImageError::Malformed("Samples per Pixel and Photometric Interpretation disagree"));
    }
    if ![8, 16].contains(&bits_allocated) {
        return Err(ImageError::Unsupported("Bits Allocated other than 8 and 16"));
    }
    if bits_stored == 0
        || bits_stored > bits_allocated
        || high_bit >= bits_allocated
        || high_bit + 1 < bits_stored
    {
        return Err(ImageError::Malformed("Bits Stored or High Bit is out of range"));
    }
    let frame_samples = u64::from(rows) * u64::from(columns) * u64::from(samples);
    if frames > limits.frames_max {
        return Err(ImageError::TooLarge("the image has more frames than the limit"));
    }
    if frame_samples > limits.frame_samples_max {
        return Err(ImageError::TooLarge("one frame has more pixels than the limit"));
    }
    if frame_samples * u64::from(frames) > limits.image_samples_max {
        return Err(ImageError::TooLarge("all frames together have more pixels than the limit"));
    }
    Ok(Layout {
        rows,
        columns,
        samples,
        frames,
        bits_allocated,
        bits_stored,
        high_bit,
        signed: integer(object, tags::PIXEL_REPRESENTATION) == Some(1),
        planar: integer(object, tags::PLANAR_CONFIGURATION) == Some(1),
        photometric,
    })
}

/// A data set that holds an attribute for a frame: its own functional group, the shared ones, or
/// the object itself, in this order.
pub(super) fn holder<'a>(
    object: &'a InMemDicomObject,
    frame: u32,
    group: Tag,
    attribute: Tag,
) -> Option<&'a InMemDicomObject> {
    let item = |sequence: Tag, index: usize| object.get(sequence)?.value().items()?.get(index);
    let inside = |outer: &'a InMemDicomObject| outer.get(group)?.value().items()?.first();
    let candidates = [
        item(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, (frame - 1) as usize).and_then(inside),
        item(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, 0).and_then(inside),
        Some(object),
    ];
    candidates.into_iter().flatten().find(|candidate| candidate.get(attribute).is_some())
}

/// Bytes `start..end` of native pixel data, little endian, however the parser holds it.
pub(super) fn native_bytes(
    value: &PrimitiveValue,
    start: usize,
    end: usize,
) -> Result<Cow<'_, [u8]>, ImageError> {
    const SHORT: ImageError = ImageError::Malformed("the pixel data is shorter than the header says");
    match value {
        PrimitiveValue::U8(bytes) => bytes.get(start..end).map(Cow::Borrowed).ok_or(SHORT),
        PrimitiveValue::U16(words) => {
            // A frame of 8-bit pixels may start in the middle of a word.
            let first = start / 2;
            let words = words.get(first..end.div_ceil(2)).ok_or(SHORT)?;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.get(start - 2 * first..end - 2 * first).map(|bytes| Cow::Owned(bytes.to_vec())).ok_or(SHORT)
        }
        other => {
            let bytes = other.to_bytes();
            bytes.get(start..end).map(|bytes| Cow::Owned(bytes.to_vec())).ok_or(SHORT)
        }
    }
}

//! Compressed pixel data made native, for destinations that ask for it (`transcode`).
//!
//! Only the pixel data and what describes its colours change: all other elements are copied byte for
//! byte, names above all. Pixels are what a reader of the original would see; undoing a compression
//! loses nothing, so the SOP Instance UID stays, and what the header says of an earlier lossy
//! compression (0028,2110) to (0028,2114) stays with it (PS3.3 C.7.6.1.1.5).
//!
//! A frame whose codestream disagrees with the header is refused before a decoder allocates by it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::rewrite::{Cannot, Change, explicit_element, rewrite};
use super::source::Piece;
use crate::dicom::codestream::{self, Codestream, Colour};
use crate::dicom::header::{self, Place};
use crate::dicom::one_frame::OneFrame;

/// Most bytes that the pixels of one instance may have; few where a fuzzer tries thousands a second.
const PIXELS_MAX: u64 = if cfg!(fuzzing) { 1 << 20 } else { 512 << 20 };
const JPEG: [&str; 4] =
    [uids::JPEG_BASELINE8_BIT, uids::JPEG_EXTENDED12_BIT, uids::JPEG_LOSSLESS, uids::JPEG_LOSSLESS_SV1];
const JPEG_LS: [&str; 2] = [uids::JPEGLS_LOSSLESS, uids::JPEGLS_NEAR_LOSSLESS];
const JPEG_2000: [&str; 2] = [uids::JPEG2000_LOSSLESS, uids::JPEG2000];

/// Whether the pixels of that transfer syntax can be made native here.
pub(super) fn is_known(transfer_syntax: &str) -> bool {
    JPEG.contains(&transfer_syntax)
        || JPEG_LS.contains(&transfer_syntax)
        || JPEG_2000.contains(&transfer_syntax)
        || transfer_syntax == uids::RLE_LOSSLESS
}

/// What the header says of the pixels.
struct Layout {
    rows: u32,
    columns: u32,
    samples: u32,
    bits_allocated: u32,
    bits_stored: u32,
    frames: u32,
    photometric: String,
}

/// The data set in Explicit VR Little Endian; `reader` stands at its first byte.
pub(super) fn to_explicit(
    reader: &mut (impl Read + Seek),
    length: u64,
    transfer_syntax: &str,
) -> Result<Vec<Piece>, Cannot> {
    let start = reader.stream_position().map_err(|_| Cannot::Read)?;
    let (header, places) =
        header::places(&mut *reader, length, transfer_syntax).map_err(|_| Cannot::Damaged)?;
    let Some(pixels) = places.iter().find(|place| place.tag == tags::PIXEL_DATA) else {
        // A structured report or a presentation state in a compressed syntax: nothing to undo.
        return Ok(vec![Piece::Copy { at: 0, length }]);
    };
    if !pixels.undefined {
        return Err(Cannot::Pixels("the pixel data is not in fragments"));
    }
    let frames = header.ascii(tags::NUMBER_OF_FRAMES).map_or(Some(1), |text| text.parse().ok());
    let mut values = Values { reader: &mut *reader, start, places: &places };
    let layout = Layout {
        rows: values.number(tags::ROWS)?,
        columns: values.number(tags::COLUMNS)?,
        samples: values.number(tags::SAMPLES_PER_PIXEL)?,
        bits_allocated: values.number(tags::BITS_ALLOCATED)?,
        bits_stored: values.number(tags::BITS_STORED)?,
        frames: frames.filter(|frames| *frames > 0).ok_or(Cannot::Pixels("the number of frames is none"))?,
        photometric: values.text(tags::PHOTOMETRIC_INTERPRETATION)?,
    };
    layout.check()?;
    let mut raw = vec![0; usize::try_from(pixels.end - pixels.value).map_err(|_| Cannot::TooLarge)?];
    reader.seek(SeekFrom::Start(start + pixels.value)).map_err(|_| Cannot::Read)?;
    reader.read_exact(&mut raw).map_err(|_| Cannot::Read)?;
    let (table, fragments) = split(&raw).ok_or(Cannot::Damaged)?;
    let mut native = Vec::new();
    let mut photometric = layout.photometric.clone();
    for frame in 0..layout.frames {
        let coded = frame_of(&table, &fragments, layout.frames, frame)?;
        photometric = layout.decode(coded.into_owned(), transfer_syntax, &mut native)?;
    }
    if !native.len().is_multiple_of(2) {
        native.push(0);
    }
    let mut changes = BTreeMap::new();
    if photometric != layout.photometric {
        let element = explicit_element(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric.as_bytes());
        changes.insert(tags::PHOTOMETRIC_INTERPRETATION, Change::Put(element));
    }
    if layout.samples == 3 {
        let element = explicit_element(tags::PLANAR_CONFIGURATION, VR::US, &[0, 0]);
        changes.insert(tags::PLANAR_CONFIGURATION, Change::Put(element));
    }
    for place in &places {
        // The tables and lengths of encapsulated pixel data mean nothing in native form.
        if place.tag.group() == 0x7fe0 && place.tag < tags::PIXEL_DATA {
            changes.insert(place.tag, Change::Drop);
        }
    }
    let vr = if layout.bits_allocated > 8 { VR::OW } else { VR::OB };
    changes.insert(tags::PIXEL_DATA, Change::Put(explicit_element(tags::PIXEL_DATA, vr, &native)));
    Ok(rewrite(&places, length, changes))
}

struct Values<'a, R> {
    reader: &'a mut R,
    start: u64,
    places: &'a [Place],
}

impl<R: Read + Seek> Values<'_, R> {
    fn bytes(&mut self, tag: Tag) -> Result<Vec<u8>, Cannot> {
        let missing = Cannot::Pixels("the header does not describe the pixels");
        let place = self.places.iter().find(|place| place.tag == tag).ok_or(missing)?;
        if place.undefined || place.end - place.value > 64 {
            return Err(Cannot::Pixels("the header does not describe the pixels"));
        }
        let mut bytes = vec![0; (place.end - place.value) as usize];
        self.reader.seek(SeekFrom::Start(self.start + place.value)).map_err(|_| Cannot::Read)?;
        self.reader.read_exact(&mut bytes).map_err(|_| Cannot::Read)?;
        Ok(bytes)
    }

    fn number(&mut self, tag: Tag) -> Result<u32, Cannot> {
        match self.bytes(tag)?[..] {
            [low, high] => Ok(u32::from(u16::from_le_bytes([low, high]))),
            _ => Err(Cannot::Pixels("the header does not describe the pixels")),
        }
    }

    fn text(&mut self, tag: Tag) -> Result<String, Cannot> {
        Ok(String::from_utf8_lossy(&self.bytes(tag)?).trim_matches([' ', '\0']).to_owned())
    }
}

type Fragments<'a> = Vec<&'a [u8]>;

/// The offset table and the fragments.
fn split(raw: &[u8]) -> Option<(Vec<u32>, Fragments<'_>)> {
    let (mut rest, mut items) = (raw, Vec::new());
    loop {
        let (head, after) = rest.split_at_checked(8)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        match head[..4] {
            [0xfe, 0xff, 0x00, 0xe0] => {
                let (item, next) = after.split_at_checked(length)?;
                items.push(item);
                rest = next;
            }
            [0xfe, 0xff, 0xdd, 0xe0] => break,
            _ => return None,
        }
    }
    if items.is_empty() {
        return None;
    }
    let fragments = items.split_off(1);
    let table = items[0].as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
    Some((table, fragments))
}

/// The codestream of one frame, numbered from 0.
fn frame_of<'a>(
    table: &[u32],
    fragments: &[&'a [u8]],
    frames: u32,
    index: u32,
) -> Result<Cow<'a, [u8]>, Cannot> {
    const MISSING: Cannot = Cannot::Pixels("a frame's fragments are missing");
    let (frames, index) = (frames as usize, index as usize);
    if fragments.len() == frames {
        return fragments.get(index).map(|bytes| Cow::Borrowed(*bytes)).ok_or(MISSING);
    }
    if frames == 1 && !fragments.is_empty() {
        return Ok(Cow::Owned(fragments.concat()));
    }
    if table.len() != frames {
        return Err(Cannot::Pixels("frames in several fragments without an offset table"));
    }
    let begin = u64::from(*table.get(index).ok_or(MISSING)?);
    let end = table.get(index + 1).map_or(u64::MAX, |end| u64::from(*end));
    let (mut bytes, mut offset) = (Vec::new(), 0_u64);
    for fragment in fragments {
        if (begin..end).contains(&offset) {
            bytes.extend_from_slice(fragment);
        }
        // Each fragment stands behind an item header of 8 bytes.
        offset += fragment.len() as u64 + 8;
    }
    if bytes.is_empty() { Err(MISSING) } else { Ok(Cow::Owned(bytes)) }
}

impl Layout {
    fn check(&self) -> Result<(), Cannot> {
        if !matches!(self.samples, 1 | 3) || !matches!(self.bits_allocated, 8 | 16) {
            return Err(Cannot::Pixels("only 1 or 3 samples of 8 or 16 bits are known here"));
        }
        if self.bits_stored == 0 || self.bits_stored > self.bits_allocated {
            return Err(Cannot::Pixels("the header does not describe the pixels"));
        }
        let all = u128::from(self.frames) * self.frame_bytes() as u128;
        if all == 0 || all > u128::from(PIXELS_MAX) { Err(Cannot::TooLarge) } else { Ok(()) }
    }

    fn frame_bytes(&self) -> usize {
        // 2^16 rows, 2^16 columns, 3 samples of 2 bytes: below 2^35.
        self.rows as usize
            * self.columns as usize
            * self.samples as usize
            * (self.bits_allocated / 8) as usize
    }

    /// Decodes a frame behind the others; yields the photometric interpretation of what came out.
    fn decode(&self, mut coded: Vec<u8>, syntax: &str, native: &mut Vec<u8>) -> Result<String, Cannot> {
        let header = self.inspect(&coded, syntax)?;
        let mut photometric = self.photometric.clone();
        let jpeg = JPEG.contains(&syntax);
        if jpeg && self.samples == 3 {
            // The markers know; without any, the DICOM header does.
            let stated = if photometric == "RGB" { Colour::Rgb } else { Colour::Ycc };
            let lossless = header.is_some_and(|header| header.process == 3);
            let colour = if lossless { stated } else { header.and_then(|h| h.colour).unwrap_or(stated) };
            if colour == Colour::Rgb || lossless {
                codestream::mark_rgb(&mut coded).ok_or(Cannot::Pixels("the JPEG has no end"))?;
            }
            if !lossless {
                // The decoder converts by itself what it was not told to leave.
                photometric = "RGB".into();
            }
        }
        // The decoder undoes the colour transform that is part of the codestream (PS3.5 8.2.4).
        if JPEG_2000.contains(&syntax) && matches!(photometric.as_str(), "YBR_RCT" | "YBR_ICT") {
            photometric = "RGB".into();
        }
        let decoder = match TransferSyntaxRegistry.get(syntax).map(|known| known.codec()) {
            Some(Codec::EncapsulatedPixelData(Some(decoder), _)) => decoder,
            _ => return Err(Cannot::Syntax),
        };
        let one = OneFrame {
            coded: &coded,
            transfer_syntax: syntax,
            columns: self.columns,
            rows: self.rows,
            samples: self.samples,
            bits_allocated: self.bits_allocated,
            bits_stored: self.bits_stored,
        };
        let mut decoded = Vec::new();
        // Codecs index by what the codestream says; a panic of theirs costs this instance only.
        catch_unwind(AssertUnwindSafe(|| decoder.decode_frame(&one, 0, &mut decoded).is_ok()))
            .ok()
            .filter(|done| *done)
            .ok_or(Cannot::Pixels("the decoder refused the codestream"))?;
        // JPEG and JPEG-LS of up to 8 bits yield bytes, whatever is allocated.
        let narrow = header.is_some_and(|header| header.bits <= 8) && !JPEG_2000.contains(&syntax);
        if narrow && self.bits_allocated == 16 {
            decoded = decoded.iter().flat_map(|byte| [*byte, 0]).collect();
        }
        let size = self.frame_bytes();
        let short = Cannot::Pixels("the codestream holds fewer pixels than the header says");
        let decoded = decoded.get(..size).ok_or(short)?;
        if self.samples == 3 && JPEG_LS.contains(&syntax) && header.is_some_and(|header| header.planar) {
            let (sample, plane) = ((self.bits_allocated / 8) as usize, size / 3);
            for at in (0..plane).step_by(sample) {
                (0..3).for_each(|index| native.extend(&decoded[index * plane + at..][..sample]));
            }
        } else {
            native.extend(decoded);
        }
        Ok(photometric)
    }

    /// Checks a codestream's own header against the DICOM header; none for RLE, which has no sizes.
    fn inspect(&self, coded: &[u8], syntax: &str) -> Result<Option<Codestream>, Cannot> {
        let header = if syntax == uids::RLE_LOSSLESS {
            let segments = self.samples * self.bits_allocated / 8;
            let holds = codestream::rle_holds(coded, segments);
            return if holds { Ok(None) } else { Err(Cannot::Pixels("the RLE header does not hold")) };
        } else if JPEG_2000.contains(&syntax) {
            codestream::jpeg2000(coded)
        } else if is_known(syntax) {
            codestream::jpeg(coded)
        } else {
            // A codec whose sizes we do not read must not allocate by them.
            return Err(Cannot::Syntax);
        };
        let header = header.ok_or(Cannot::Pixels("the compressed frame's header does not parse"))?;
        let agrees = (header.columns, header.rows, header.components)
            == (self.columns, self.rows, self.samples)
            && header.bits <= self.bits_allocated;
        if !agrees {
            return Err(Cannot::Pixels("the compressed frame is not of the size that the header says"));
        }
        if JPEG.contains(&syntax) && header.process != 3 && header.bits > 8 {
            return Err(Cannot::Pixels("JPEG Extended of 12 bits is not known here"));
        }
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::rewrite::explicit_element;
    use super::*;

    /// A 2×2 image of 16 bits in RLE: two segments, each one literal run.
    fn rle(rows: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        for word in [2_u32, 64, 70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] {
            frame.extend(word.to_le_bytes());
        }
        // The high bytes first (PS3.5 G.2).
        frame.extend([3, 0, 0, 0, 1, 0]);
        frame.extend([3, 10, 20, 30, 40, 0]);
        let mut out = [
            explicit_element(tags::SAMPLES_PER_PIXEL, VR::US, &1_u16.to_le_bytes()),
            explicit_element(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, b"MONOCHROME2"),
            explicit_element(tags::ROWS, VR::US, &rows.to_le_bytes()),
            explicit_element(tags::COLUMNS, VR::US, &2_u16.to_le_bytes()),
            explicit_element(tags::BITS_ALLOCATED, VR::US, &16_u16.to_le_bytes()),
            explicit_element(tags::BITS_STORED, VR::US, &16_u16.to_le_bytes()),
        ]
        .concat();
        out.extend([0xe0, 0x7f, 0x10, 0x00, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff]);
        out.extend([0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0]);
        out.extend([0xfe, 0xff, 0x00, 0xe0]);
        out.extend((frame.len() as u32).to_le_bytes());
        out.extend(frame);
        out.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        out
    }

    fn run(data_set: &[u8]) -> Result<Vec<Piece>, Cannot> {
        to_explicit(&mut Cursor::new(data_set), data_set.len() as u64, uids::RLE_LOSSLESS)
    }

    #[test]
    fn only_the_pixel_data_changes() {
        let source = rle(2);
        let pieces = run(&source).expect("decompressed");
        let [Piece::Copy { at: 0, length }, Piece::Bytes(pixels)] = &pieces[..] else { panic!("{pieces:?}") };
        assert_eq!(source[*length as usize..][..4], [0xe0, 0x7f, 0x10, 0x00]);
        let expected = explicit_element(tags::PIXEL_DATA, VR::OW, &[10, 0, 20, 0, 30, 0, 40, 1]);
        assert_eq!(*pixels, expected);
    }

    #[test]
    fn a_header_that_promises_more_than_there_is_is_refused() {
        assert!(matches!(run(&rle(3)), Err(Cannot::Pixels(_))));
        assert_eq!(run(&rle(0)), Err(Cannot::TooLarge));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let source = rle(2);
        for end in 0..source.len() {
            drop(run(&source[..end]));
        }
        for at in 0..source.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = source.clone();
                changed[at] = value;
                drop(run(&changed));
            }
        }
    }
}

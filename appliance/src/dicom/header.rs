//! Reads the header of a received data set, and judges its whole structure, without building it.
//!
//! The bytes are a peer's: nothing here panics, nothing is allocated by a length that the file
//! does not hold, and nesting is followed with a counter, not with recursion (deeply nested
//! sequences have felled other servers). A data set that passes may be handed to `dicom-object`;
//! one that does not is kept as received and never parsed further.
//!
//! Values are kept raw: names must leave this box with the bytes with which they came.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Seek};

use dicom_core::dictionary::{DataDictionary, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};
use flate2::bufread::DeflateDecoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::phi::Phi;

/// Longest header value that is read; longer ones are skipped.
const VALUE_MAX: u32 = 64 * 1024;
/// Deepest nesting of sequences and items that is followed.
const DEPTH_MAX: usize = 64;
/// Most bytes that a deflated data set may grow to.
const INFLATED_MAX: u64 = 1 << 30;
const UNDEFINED: u32 = u32::MAX;
/// Ethnic Group: retired from the dictionary in favour of a sequence, but still what scanners send.
const ETHNIC_GROUP: Tag = Tag(0x0010, 0x2160);

/// Header elements that are kept, with their VR (for Implicit VR, which names none).
const KEPT: &[(Tag, &str)] = &[
    (tags::SPECIFIC_CHARACTER_SET, "CS"),
    (tags::IMAGE_TYPE, "CS"),
    (tags::SOP_CLASS_UID, "UI"),
    (tags::SOP_INSTANCE_UID, "UI"),
    (tags::STUDY_DATE, "DA"),
    (tags::STUDY_TIME, "TM"),
    (tags::ACCESSION_NUMBER, "SH"),
    (tags::MODALITY, "CS"),
    (tags::MANUFACTURER, "LO"),
    (tags::REFERRING_PHYSICIAN_NAME, "PN"),
    (tags::STATION_NAME, "SH"),
    (tags::STUDY_DESCRIPTION, "LO"),
    (tags::SERIES_DESCRIPTION, "LO"),
    (tags::PATIENT_NAME, "PN"),
    (tags::PATIENT_ID, "LO"),
    (tags::ISSUER_OF_PATIENT_ID, "LO"),
    (tags::TYPE_OF_PATIENT_ID, "CS"),
    (tags::PATIENT_BIRTH_DATE, "DA"),
    (tags::PATIENT_BIRTH_TIME, "TM"),
    (tags::PATIENT_SEX, "CS"),
    (tags::OTHER_PATIENT_NAMES, "PN"),
    (tags::PATIENT_AGE, "AS"),
    (tags::PATIENT_SIZE, "DS"),
    (tags::PATIENT_WEIGHT, "DS"),
    (ETHNIC_GROUP, "SH"),
    (tags::PATIENT_COMMENTS, "LT"),
    (tags::BODY_PART_EXAMINED, "CS"),
    (tags::SLICE_THICKNESS, "DS"),
    (tags::PROTOCOL_NAME, "LO"),
    (tags::VIEW_POSITION, "CS"),
    (tags::STUDY_INSTANCE_UID, "UI"),
    (tags::SERIES_INSTANCE_UID, "UI"),
    (tags::STUDY_ID, "SH"),
    (tags::SERIES_NUMBER, "IS"),
    (tags::INSTANCE_NUMBER, "IS"),
    (tags::NUMBER_OF_FRAMES, "IS"),
];

/// The Patient, General Study and Patient Study modules' elements that results copy byte for byte.
const COPIED: &[Tag] = &[
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_DESCRIPTION,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::TYPE_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_BIRTH_TIME,
    tags::PATIENT_SEX,
    tags::OTHER_PATIENT_NAMES,
    tags::PATIENT_AGE,
    tags::PATIENT_SIZE,
    tags::PATIENT_WEIGHT,
    ETHNIC_GROUP,
    tags::PATIENT_COMMENTS,
    tags::STUDY_INSTANCE_UID,
    tags::STUDY_ID,
];

/// A header element exactly as the sender encoded it, so that names come out of our results with
/// the same bytes (safety: dicom-rs decodes by the first Specific Character Set value only).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawElement {
    /// Tag group.
    pub group: u16,
    /// Tag element.
    pub element: u16,
    /// The two letters of the VR.
    pub vr: String,
    /// Value bytes as received (text VRs only, so byte order does not matter), trailing padding
    /// included.
    pub value: Phi<Vec<u8>>,
}

/// The patient and study level header of the study, from one of its instances, raw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyHeader {
    /// The values of Specific Character Set (0008,0005) in order; empty where it was absent. The
    /// first value may be the empty string (code extensions over the default repertoire).
    pub character_sets: Vec<String>,
    /// Patient, Patient Study and General Study module elements that were present, by tag.
    pub elements: Vec<RawElement>,
}

impl StudyHeader {
    /// The raw value of an element, if it was present.
    pub fn raw(&self, group: u16, element: u16) -> Option<&[u8]> {
        self.elements
            .iter()
            .find(|raw| raw.group == group && raw.element == element)
            .map(|raw| raw.value.expose().as_slice())
    }
}

/// What is wrong with a data set's structure. Offsets and tags only, no values.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// The bytes end inside an element.
    #[error("the data set ends inside an element")]
    Truncated,
    /// An element claims more bytes than its parent or the file holds.
    #[error("element ({group:04X},{element:04X}) claims {length} bytes, more than there are")]
    Overlong {
        /// Tag group.
        group: u16,
        /// Tag element.
        element: u16,
        /// Claimed length.
        length: u32,
    },
    /// An item or a delimiter where none may be, or an undefined length where none may be.
    #[error("element ({group:04X},{element:04X}) must not stand where it stands")]
    Misplaced {
        /// Tag group.
        group: u16,
        /// Tag element.
        element: u16,
    },
    /// Nesting beyond what any IOD needs.
    #[error("sequences are nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// Two letters that are no VR.
    #[error("element ({group:04X},{element:04X}) has no valid VR")]
    BadVr {
        /// Tag group.
        group: u16,
        /// Tag element.
        element: u16,
    },
    /// A deflated data set that grows beyond measure, or is not deflated.
    #[error("the deflated data set cannot be inflated within {INFLATED_MAX} bytes")]
    Inflate,
    /// The file could not be read.
    #[error("reading failed")]
    Read,
}

/// The header of a data set: the kept elements, raw, by tag.
#[derive(Clone, Debug, Default)]
pub struct Header {
    elements: BTreeMap<Tag, RawElement>,
    misleading: bool,
}

impl Header {
    /// Whether dicom-rs would lose its place in the data set, read values as lengths and allocate by them:
    /// a sequence of VR UN in an explicit data set, whose items are implicit (PS3.5 §6.2.2) and which it reads as
    /// explicit; or a number whose length is no multiple of its VR's size, of which it leaves the rest unread.
    pub fn is_misleading(&self) -> bool {
        self.misleading
    }

    /// The value's bytes as received.
    pub fn raw(&self, tag: Tag) -> Option<&[u8]> {
        self.elements.get(&tag).map(|element| element.value.expose().as_slice())
    }

    /// The value as ASCII text, without padding: for UIDs, codes and numbers. `None` when it is
    /// absent or empty. Bytes outside ASCII become `?`.
    pub fn ascii(&self, tag: Tag) -> Option<String> {
        let raw = self.raw(tag)?;
        let text: String =
            raw.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect();
        let text = text.trim_matches(|c: char| c == ' ' || c == '\0').to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// The value decoded by the data set's Specific Character Set, without padding.
    pub fn text(&self, tag: Tag) -> Option<String> {
        let text = crate::dicom::charset::decode(self.raw(tag)?, &self.character_sets());
        let text = text.trim_matches(|c: char| c == ' ' || c == '\0').to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A UID, if the value is one ([`is_uid`]).
    pub fn uid(&self, tag: Tag) -> Option<String> {
        self.ascii(tag).filter(|uid| is_uid(uid))
    }

    /// The values of Specific Character Set, in order; the first may be empty.
    pub fn character_sets(&self) -> Vec<String> {
        match self.ascii(tags::SPECIFIC_CHARACTER_SET) {
            Some(text) => text.split('\\').map(|value| value.trim().to_owned()).collect(),
            None => Vec::new(),
        }
    }

    /// What results copy: patient and study, byte for byte.
    pub fn study_header(&self) -> StudyHeader {
        StudyHeader {
            character_sets: self.character_sets(),
            elements: COPIED.iter().filter_map(|tag| self.elements.get(tag).cloned()).collect(),
        }
    }
}

/// Whether a text is a UID: 1 to 64 digits and dots (PS3.5 §9.1). Leading zeros in a component are let
/// pass, as real devices write them; anything else could not be written into a file's meta information
/// and read back.
pub fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// How a data set is encoded, as far as its structure goes (PS3.5 Annex A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Implicit VR Little Endian.
    ImplicitLittle,
    /// Explicit VR Little Endian, and every compressed transfer syntax.
    ExplicitLittle,
    /// Explicit VR Big Endian.
    ExplicitBig,
    /// Deflated Explicit VR Little Endian.
    Deflated,
}

impl Encoding {
    /// The encoding of a transfer syntax.
    pub fn of(transfer_syntax: &str) -> Self {
        match transfer_syntax {
            "1.2.840.10008.1.2" => Encoding::ImplicitLittle,
            "1.2.840.10008.1.2.2" => Encoding::ExplicitBig,
            "1.2.840.10008.1.2.1.99" | "1.2.840.10008.1.2.4.95" | "1.2.840.10008.1.2.4.205" => {
                Encoding::Deflated
            }
            _ => Encoding::ExplicitLittle,
        }
    }
}

/// Scans a data set (without file meta information) of `length` bytes from the reader's position.
///
/// Always yields the header as far as it was read; `Some(damage)` says why the rest is not to be
/// trusted.
pub fn scan<R: Read + Seek>(reader: R, length: u64, transfer_syntax: &str) -> (Header, Option<Damage>) {
    let encoding = Encoding::of(transfer_syntax);
    let mut header = Header::default();
    let result = if encoding == Encoding::Deflated {
        let inflated = DeflateDecoder::new(BufReader::new(reader.take(length)));
        let input = Streamed { inner: BufReader::new(inflated), left: INFLATED_MAX };
        Scanner::new(input, Encoding::ExplicitLittle).run(&mut header)
    } else {
        let input = Seekable { inner: BufReader::new(reader), left: length };
        Scanner::new(input, encoding).run(&mut header)
    };
    (header, result.err())
}

/// A top-level element of a data set: where it lies, counted from the data set's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its tag.
    pub tag: Tag,
    /// Its VR; by the dictionary in Implicit VR.
    pub vr: VR,
    /// First byte of its header.
    pub start: u64,
    /// First byte of its value.
    pub value: u64,
    /// Behind its last byte, a delimiter included.
    pub end: u64,
    /// Whether its length is undefined: a delimiter of 8 bytes ends it.
    pub undefined: bool,
}

/// Most top-level elements that [`places`] lists.
const PLACES_MAX: usize = 100_000;

/// Scans a data set as [`scan`] does, and says where its top-level elements lie. Not for deflated data
/// sets, whose bytes lie nowhere.
pub fn places<R: Read + Seek>(
    reader: R,
    length: u64,
    transfer_syntax: &str,
) -> Result<(Header, Vec<Place>), Damage> {
    let encoding = Encoding::of(transfer_syntax);
    if encoding == Encoding::Deflated {
        return Err(Damage::Inflate);
    }
    let mut header = Header::default();
    let mut scanner = Scanner::new(Seekable { inner: BufReader::new(reader), left: length }, encoding);
    scanner.places = Some(Vec::new());
    scanner.run(&mut header)?;
    Ok((header, scanner.places.unwrap_or_default()))
}

/// Whether an explicit VR is followed by two reserved bytes and a 32-bit length (PS3.5 §7.1.2).
pub(crate) fn has_long_length(vr: VR) -> bool {
    matches!(
        vr,
        VR::OB
            | VR::OD
            | VR::OF
            | VR::OL
            | VR::OV
            | VR::OW
            | VR::SQ
            | VR::SV
            | VR::UC
            | VR::UN
            | VR::UR
            | VR::UT
            | VR::UV
    )
}

/// Bytes of one value of a VR (PS3.5 §6.2); in Implicit VR a tag may stand for several VRs, of which the
/// smallest counts, and UN for what the dictionary does not say.
fn unit(tag: Tag, vr: VR) -> u32 {
    let relaxed = || StandardDataDictionary.by_tag(tag).map(|entry| entry.vr.relaxed());
    match if vr == VR::UN { relaxed().unwrap_or(vr) } else { vr } {
        VR::US | VR::SS | VR::OW => 2,
        VR::UL | VR::SL | VR::FL | VR::AT | VR::OF | VR::OL => 4,
        VR::FD | VR::SV | VR::UV | VR::OD | VR::OV => 8,
        _ => 1,
    }
}

/// Bytes of a data set, with a bound on how many there are.
trait Input {
    fn left(&self) -> u64;
    fn read(&mut self, into: &mut [u8]) -> Result<(), Damage>;
    fn skip(&mut self, count: u64) -> Result<(), Damage>;
    /// Whether the bytes end here.
    fn at_end(&mut self) -> Result<bool, Damage>;
}

struct Seekable<R> {
    inner: BufReader<R>,
    left: u64,
}

fn damage(error: &io::Error) -> Damage {
    if error.kind() == io::ErrorKind::UnexpectedEof { Damage::Truncated } else { Damage::Read }
}

impl<R: Read + Seek> Input for Seekable<R> {
    fn left(&self) -> u64 {
        self.left
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Damage> {
        self.left = self.left.checked_sub(into.len() as u64).ok_or(Damage::Truncated)?;
        self.inner.read_exact(into).map_err(|error| damage(&error))
    }

    fn skip(&mut self, count: u64) -> Result<(), Damage> {
        self.left = self.left.checked_sub(count).ok_or(Damage::Truncated)?;
        let count = i64::try_from(count).map_err(|_| Damage::Truncated)?;
        self.inner.seek_relative(count).map_err(|error| damage(&error))
    }

    fn at_end(&mut self) -> Result<bool, Damage> {
        Ok(self.left == 0)
    }
}

struct Streamed<R> {
    inner: BufReader<R>,
    left: u64,
}

impl<R: Read> Input for Streamed<R> {
    fn left(&self) -> u64 {
        self.left
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Damage> {
        self.left = self.left.checked_sub(into.len() as u64).ok_or(Damage::Inflate)?;
        self.inner.read_exact(into).map_err(|_| Damage::Truncated)
    }

    fn skip(&mut self, count: u64) -> Result<(), Damage> {
        self.left = self.left.checked_sub(count).ok_or(Damage::Inflate)?;
        let copied =
            io::copy(&mut (&mut self.inner).take(count), &mut io::sink()).map_err(|_| Damage::Inflate)?;
        if copied == count { Ok(()) } else { Err(Damage::Truncated) }
    }

    fn at_end(&mut self) -> Result<bool, Damage> {
        self.inner.fill_buf().map(<[u8]>::is_empty).map_err(|_| Damage::Inflate)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Item,
}

struct Level {
    kind: Kind,
    /// Where a defined length ends; `None` ends with a delimiter.
    end: Option<u64>,
    encoding: Encoding,
}

struct Scanner<I> {
    input: I,
    encoding: Encoding,
    position: u64,
    levels: Vec<Level>,
    /// The top-level elements so far, where they are asked for.
    places: Option<Vec<Place>>,
}

impl<I: Input> Scanner<I> {
    fn new(input: I, encoding: Encoding) -> Self {
        Scanner { input, encoding, position: 0, levels: Vec::new(), places: None }
    }

    fn run(&mut self, header: &mut Header) -> Result<(), Damage> {
        loop {
            while self.levels.last().is_some_and(|level| level.end == Some(self.position)) {
                self.levels.pop();
            }
            if self.levels.is_empty() {
                let position = self.position;
                if let Some(last) = self.places.as_mut().and_then(|places| places.last_mut()) {
                    last.end = position;
                }
                if self.input.at_end()? {
                    return Ok(());
                }
            }
            self.element(header)?;
        }
    }

    fn encoding(&self) -> Encoding {
        self.levels.last().map_or(self.encoding, |level| level.encoding)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        self.input.read(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Damage> {
        let bytes = self.bytes()?;
        Ok(match self.encoding() {
            Encoding::ExplicitBig => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        })
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        let bytes = self.bytes()?;
        Ok(match self.encoding() {
            Encoding::ExplicitBig => u32::from_be_bytes(bytes),
            _ => u32::from_le_bytes(bytes),
        })
    }

    fn skip(&mut self, count: u64) -> Result<(), Damage> {
        self.input.skip(count)?;
        self.position += count;
        Ok(())
    }

    /// A defined length must fit into the parent and into the file.
    fn fits(&self, tag: Tag, length: u32) -> Result<(), Damage> {
        let end = self.position + u64::from(length);
        let parent = self.levels.iter().rev().find_map(|level| level.end);
        if u64::from(length) > self.input.left() || parent.is_some_and(|parent| end > parent) {
            return Err(Damage::Overlong { group: tag.group(), element: tag.element(), length });
        }
        Ok(())
    }

    fn push(&mut self, tag: Tag, kind: Kind, length: u32, encoding: Encoding) -> Result<(), Damage> {
        if self.levels.len() >= DEPTH_MAX {
            return Err(Damage::TooDeep);
        }
        let end = if length == UNDEFINED {
            None
        } else {
            self.fits(tag, length)?;
            Some(self.position + u64::from(length))
        };
        self.levels.push(Level { kind, end, encoding });
        Ok(())
    }

    fn element(&mut self, header: &mut Header) -> Result<(), Damage> {
        let start = self.position;
        let tag = Tag(self.u16()?, self.u16()?);
        let misplaced = Damage::Misplaced { group: tag.group(), element: tag.element() };
        let top = self.levels.last().map(|level| (level.kind, level.end.is_none()));
        if tag.group() == 0xFFFE {
            let length = self.u32()?;
            return match (tag.element(), top) {
                (0xE000, Some((Kind::Sequence, _))) => self.push(tag, Kind::Item, length, self.encoding()),
                (0xE00D, Some((Kind::Item, true))) | (0xE0DD, Some((Kind::Sequence, true))) => {
                    self.levels.pop();
                    Ok(())
                }
                _ => Err(misplaced),
            };
        }
        if matches!(top, Some((Kind::Sequence, _))) {
            return Err(misplaced);
        }
        let (vr, length) = self.vr_and_length(tag)?;
        let value = self.position;
        if let Some(places) = self.places.as_mut().filter(|_| self.levels.is_empty()) {
            if places.len() >= PLACES_MAX {
                return Err(misplaced);
            }
            places.push(Place { tag, vr, start, value, end: value, undefined: length == UNDEFINED });
        }
        if length != UNDEFINED && !length.is_multiple_of(unit(tag, vr)) {
            header.misleading = true;
        }
        match (vr, length) {
            // Implicit VR has no encapsulated pixel data, and pixel data is no sequence.
            (VR::SQ | VR::UN, UNDEFINED) if tag == tags::PIXEL_DATA => Err(misplaced),
            (VR::SQ, length) => self.push(tag, Kind::Sequence, length, self.encoding()),
            // PS3.5 §6.2.2: a UN element of undefined length holds Implicit VR Little Endian items.
            (VR::UN, UNDEFINED) => {
                header.misleading = true;
                self.push(tag, Kind::Sequence, length, Encoding::ImplicitLittle)
            }
            // Only Pixel Data may be in fragments (PS3.5 A.4). Other readers take what else has no length for a
            // sequence, and its bytes for lengths, by which they allocate.
            (VR::OB | VR::OW, UNDEFINED) if tag == tags::PIXEL_DATA => self.fragments(),
            (_, UNDEFINED) => Err(misplaced),
            (vr, length) => self.value(tag, vr, length, header),
        }
    }

    fn vr_and_length(&mut self, tag: Tag) -> Result<(VR, u32), Damage> {
        if self.encoding() == Encoding::ImplicitLittle {
            let length = self.u32()?;
            let known = StandardDataDictionary.by_tag(tag).map(|entry| entry.vr);
            let vr = match known {
                Some(VirtualVr::Exact(vr)) => vr,
                _ if length == UNDEFINED => VR::SQ,
                _ => VR::UN,
            };
            // An undefined length is a sequence.
            return Ok((if length == UNDEFINED { VR::SQ } else { vr }, length));
        }
        let letters: [u8; 2] = self.bytes()?;
        let vr =
            VR::from_binary(letters).ok_or(Damage::BadVr { group: tag.group(), element: tag.element() })?;
        if has_long_length(vr) {
            self.bytes::<2>()?;
            Ok((vr, self.u32()?))
        } else {
            Ok((vr, u32::from(self.u16()?)))
        }
    }

    /// Encapsulated pixel data (PS3.5 A.4): items up to the sequence delimiter.
    fn fragments(&mut self) -> Result<(), Damage> {
        loop {
            let tag = Tag(self.u16()?, self.u16()?);
            let length = self.u32()?;
            match (tag.group(), tag.element()) {
                (0xFFFE, 0xE000) if length != UNDEFINED => {
                    self.fits(tag, length)?;
                    self.skip(u64::from(length))?;
                }
                (0xFFFE, 0xE0DD) => return Ok(()),
                (group, element) => return Err(Damage::Misplaced { group, element }),
            }
        }
    }

    fn value(&mut self, tag: Tag, vr: VR, length: u32, header: &mut Header) -> Result<(), Damage> {
        self.fits(tag, length)?;
        let kept = KEPT.iter().find(|(kept, _)| *kept == tag);
        match kept {
            Some((_, listed)) if self.levels.is_empty() && length <= VALUE_MAX => {
                let mut value = vec![0; length as usize];
                self.input.read(&mut value)?;
                self.position += u64::from(length);
                let vr = if vr == VR::UN { (*listed).to_owned() } else { vr.to_string().to_owned() };
                header.elements.insert(
                    tag,
                    RawElement { group: tag.group(), element: tag.element(), vr, value: Phi::new(value) },
                );
                Ok(())
            }
            _ => self.skip(u64::from(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";
    const IMPLICIT: &str = "1.2.840.10008.1.2";

    fn scan_bytes(bytes: &[u8], ts: &str) -> (Header, Option<Damage>) {
        scan(Cursor::new(bytes), bytes.len() as u64, ts)
    }

    fn explicit(tag: (u16, u16), vr: &str, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(tag.0.to_le_bytes());
        out.extend(tag.1.to_le_bytes());
        out.extend(vr.as_bytes());
        out.extend((value.len() as u16).to_le_bytes());
        out.extend(value);
        out
    }

    #[test]
    fn keeps_values_byte_for_byte_in_every_encoding() {
        let name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B ";
        let mut bytes = explicit((0x0008, 0x0005), "CS", b"\\ISO 2022 IR 87 ");
        bytes.extend(explicit((0x0010, 0x0010), "PN", name));
        let (header, damage) = scan_bytes(&bytes, EXPLICIT);
        assert_eq!(damage, None);
        assert_eq!(header.raw(tags::PATIENT_NAME), Some(&name[..]));
        assert_eq!(header.character_sets(), ["", "ISO 2022 IR 87"]);

        let mut implicit = vec![0x10, 0, 0x10, 0];
        implicit.extend((name.len() as u32).to_le_bytes());
        implicit.extend(name);
        let (header, damage) = scan_bytes(&implicit, IMPLICIT);
        assert_eq!((damage, header.raw(tags::PATIENT_NAME)), (None, Some(&name[..])));

        let mut big = vec![0, 0x10, 0, 0x10, b'P', b'N', 0, name.len() as u8];
        big.extend(name);
        let (header, damage) = scan_bytes(&big, "1.2.840.10008.1.2.2");
        assert_eq!((damage, header.raw(tags::PATIENT_NAME)), (None, Some(&name[..])));

        use std::io::Write;
        let mut deflater = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        deflater.write_all(&bytes).expect("in memory");
        let deflated = deflater.finish().expect("in memory");
        let (header, damage) = scan_bytes(&deflated, "1.2.840.10008.1.2.1.99");
        assert_eq!((damage, header.raw(tags::PATIENT_NAME)), (None, Some(&name[..])));
    }

    #[test]
    fn a_length_beyond_the_file_is_damage_and_not_an_allocation() {
        let mut bytes = explicit((0x0010, 0x0020), "LO", b"ID");
        bytes.extend([0x10, 0, 0x00, 0x40]); // (0010,4000)
        bytes.extend(b"UT\0\0");
        bytes.extend(0xFFFF_FFF0_u32.to_le_bytes());
        let (header, damage) = scan_bytes(&bytes, EXPLICIT);
        assert_eq!(header.ascii(tags::PATIENT_ID).as_deref(), Some("ID"));
        assert!(matches!(damage, Some(Damage::Overlong { .. })));
    }

    #[test]
    fn only_pixel_data_is_in_fragments_and_it_is_no_sequence() {
        let of = |element: u16, vr: &[u8; 2]| {
            let mut bytes = vec![0xe0, 0x7f];
            bytes.extend(element.to_le_bytes());
            bytes.extend(vr);
            bytes.extend([0, 0, 0xff, 0xff, 0xff, 0xff]);
            bytes.extend([0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0]);
            bytes.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
            scan_bytes(&bytes, EXPLICIT).1
        };
        assert_eq!(of(0x10, b"OB"), None);
        let misplaced = |element| Some(Damage::Misplaced { group: 0x7fe0, element });
        assert_eq!((of(0x07, b"OB"), of(0x10, b"SQ")), (misplaced(0x07), misplaced(0x10)));
        let mut implicit = vec![0xe0, 0x7f, 0x10, 0, 0xff, 0xff, 0xff, 0xff];
        implicit.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        assert_eq!(scan_bytes(&implicit, IMPLICIT).1, misplaced(0x10));
    }

    #[test]
    fn deep_nesting_is_damage_and_no_stack_overflow() {
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            bytes.extend([0x08, 0, 0x40, 0x11]); // (0008,1140)
            bytes.extend(b"SQ\0\0\xff\xff\xff\xff");
            bytes.extend([0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        }
        assert_eq!(scan_bytes(&bytes, EXPLICIT).1, Some(Damage::TooDeep));
    }

    #[test]
    fn a_uid_is_digits_and_dots() {
        assert!(is_uid("1.2.840.10008.5.1.4.1.1.2"));
        for other in ["", "abc", "../../x", "1.2 3", "??", "<b>1", &"1".repeat(65)] {
            assert!(!is_uid(other), "{other}");
        }
    }

    #[test]
    fn nested_values_are_not_taken_for_the_header() {
        let inner = explicit((0x0010, 0x0020), "LO", b"INNER ");
        let mut bytes = vec![0x08, 0, 0x40, 0x11];
        bytes.extend(b"SQ\0\0");
        bytes.extend((inner.len() as u32 + 8).to_le_bytes());
        bytes.extend([0xfe, 0xff, 0x00, 0xe0]);
        bytes.extend((inner.len() as u32).to_le_bytes());
        bytes.extend(&inner);
        bytes.extend(explicit((0x0010, 0x0020), "LO", b"OUTER "));
        let (header, damage) = scan_bytes(&bytes, EXPLICIT);
        assert_eq!((damage, header.ascii(tags::PATIENT_ID).as_deref()), (None, Some("OUTER")));
    }

    #[test]
    fn no_mutation_of_a_data_set_makes_it_panic() {
        let mut seed = explicit((0x0008, 0x0005), "CS", b"ISO_IR 192");
        seed.extend([0x08, 0, 0x40, 0x11]);
        seed.extend(b"SQ\0\0\xff\xff\xff\xff");
        seed.extend([0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        seed.extend(explicit((0x0008, 0x1150), "UI", b"1.2\0"));
        seed.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        seed.extend(explicit((0x0010, 0x0010), "PN", b"A^B "));
        let mut state = 0x9E37_79B9_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize
        };
        for _ in 0..20_000 {
            let mut bytes = seed.clone();
            for _ in 0..1 + next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(next() % (bytes.len() + 1));
            for ts in [EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"] {
                scan_bytes(&bytes, ts);
            }
        }
    }
}

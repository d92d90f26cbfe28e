//! Reads the header of a received data set, and judges its whole structure, without building it.
//!
//! The bytes are a peer's: nothing here panics, nothing is allocated by a length that the file
//! does not hold, and nesting is followed with a counter, not with recursion (deeply nested
//! sequences have felled other servers). A data set that passes may be handed to `dicom-object`;
//! one that does not is kept as received and never parsed further.
//!
//! Values are kept raw: names must leave this box with the bytes with which they came.

mod scanner;

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use flate2::bufread::DeflateDecoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::scanner::{Scanner, Seekable, Streamed};
use crate::phi::Phi;

/// Deepest nesting of sequences and items that is followed.
const DEPTH_MAX: usize = 64;
/// Most bytes that a deflated data set may grow to.
const INFLATED_MAX: u64 = 1 << 30;
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

#[cfg(test)]
mod tests;

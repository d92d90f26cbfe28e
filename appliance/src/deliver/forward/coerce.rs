//! Elements changed on the way to another archive, from the short list of the site file's `set`.
//!
//! The bytes of everything else stay. What an element held before goes into the Original Attributes
//! Sequence (0400,0561), PS3.3 C.12.1.1.9, behind what earlier systems left there.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use encoding_rs::{
    Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6, ISO_8859_7,
    ISO_8859_8, ISO_8859_15, UTF_8, WINDOWS_874, WINDOWS_1252, WINDOWS_1254,
};
use lightbox_provisioning::site::{Edits, SetKind};

use super::rewrite::{Cannot, Change, rewrite};
use super::source::Piece;
use crate::dicom::header::{self, Encoding as Structure, Place};

/// Longest value that is replaced.
const VALUE_MAX: u64 = 64 * 1024;
const UNDEFINED: u32 = u32::MAX;

/// What is to be changed, and what the Original Attributes Sequence says of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Coercion {
    /// The new values.
    pub(super) edits: Edits,
    /// Modifying System (0400,0563): this box.
    pub(super) system: String,
    /// Source of Previous Values (0400,0564): the sender's AE title.
    pub(super) source: String,
    /// Attribute Modification DateTime (0400,0562). Fixed with the forward, so that a second try sends
    /// the same bytes.
    pub(super) at_ms: i64,
}

/// The data set with the changes; `reader` stands at its first byte.
pub(super) fn coerce(
    reader: &mut (impl Read + Seek),
    length: u64,
    transfer_syntax: &str,
    coercion: &Coercion,
) -> Result<Vec<Piece>, Cannot> {
    let explicit = match Structure::of(transfer_syntax) {
        Structure::ExplicitLittle => true,
        Structure::ImplicitLittle => false,
        Structure::ExplicitBig | Structure::Deflated => return Err(Cannot::Syntax),
    };
    let start = reader.stream_position().map_err(|_| Cannot::Read)?;
    let (header, places) =
        header::places(&mut *reader, length, transfer_syntax).map_err(|_| Cannot::Damaged)?;
    let character_sets = header.character_sets();
    let mut stored = Stored { reader, start, places: &places };
    let (mut changes, mut originals) = (BTreeMap::new(), BTreeMap::new());
    for (name, kind, (group, element), letters, value) in coercion.edits.entries() {
        let Some(value) = value else { continue };
        let (tag, vr) = (Tag(group, element), VR::from_binary(*letters).ok_or(Cannot::Syntax)?);
        let old = stored.value(tag)?;
        let mut new = encode(value, &character_sets).ok_or(Cannot::Characters(name))?;
        if kind == SetKind::Prefix {
            // What has no number gets none, and what has the prefix keeps it.
            if old.is_empty() || old.starts_with(&new) {
                continue;
            }
            new.extend(&old);
        }
        if new == old {
            continue;
        }
        let longest = lightbox_provisioning::site::longest(letters);
        if kind == SetKind::Prefix && new.len() > longest {
            return Err(Cannot::TooLong(name));
        }
        originals.insert(tag, element_of(explicit, tag, vr, &old));
        changes.insert(tag, Change::Put(element_of(explicit, tag, vr, &new)));
    }
    if changes.is_empty() {
        return Ok(vec![Piece::Copy { at: 0, length }]);
    }
    let earlier = stored.items(tags::ORIGINAL_ATTRIBUTES_SEQUENCE)?;
    let mut sequence = sequence_header(explicit, tags::ORIGINAL_ATTRIBUTES_SEQUENCE);
    sequence.extend(earlier);
    item(&mut sequence, |out| {
        out.extend(sequence_header(explicit, tags::MODIFIED_ATTRIBUTES_SEQUENCE));
        item(out, |out| originals.values().for_each(|element| out.extend(element)));
        out.extend(DELIMITER_OF_SEQUENCE);
        let at = crate::clock::from_ms(coercion.at_ms);
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second) = at.to_hms();
        let time = format!("{year:04}{:02}{day:02}{hour:02}{minute:02}{second:02}+0000", u8::from(month));
        for (tag, vr, text) in [
            (tags::ATTRIBUTE_MODIFICATION_DATE_TIME, VR::DT, time.as_str()),
            (tags::MODIFYING_SYSTEM, VR::LO, coercion.system.as_str()),
            (tags::SOURCE_OF_PREVIOUS_VALUES, VR::LO, coercion.source.as_str()),
            (tags::REASON_FOR_THE_ATTRIBUTE_MODIFICATION, VR::CS, "COERCE"),
        ] {
            out.extend(element_of(explicit, tag, vr, text.as_bytes()));
        }
    });
    sequence.extend(DELIMITER_OF_SEQUENCE);
    changes.insert(tags::ORIGINAL_ATTRIBUTES_SEQUENCE, Change::Put(sequence));
    Ok(rewrite(&places, length, changes))
}

const DELIMITER_OF_SEQUENCE: [u8; 8] = [0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0];

/// An item of undefined length.
fn item(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    out.extend([0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
    content(out);
    out.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0]);
}

fn tag_bytes(tag: Tag) -> [u8; 4] {
    let ([a, b], [c, d]) = (tag.group().to_le_bytes(), tag.element().to_le_bytes());
    [a, b, c, d]
}

fn sequence_header(explicit: bool, tag: Tag) -> Vec<u8> {
    let mut out = tag_bytes(tag).to_vec();
    if explicit {
        out.extend(b"SQ\0\0");
    }
    out.extend(UNDEFINED.to_le_bytes());
    out
}

/// A text element, whose VR has a short length.
fn element_of(explicit: bool, tag: Tag, vr: VR, value: &[u8]) -> Vec<u8> {
    let mut out = tag_bytes(tag).to_vec();
    let padded = value.len().next_multiple_of(2);
    if explicit {
        out.extend(vr.to_string().as_bytes());
        out.extend((padded as u16).to_le_bytes());
    } else {
        out.extend((padded as u32).to_le_bytes());
    }
    out.extend(value);
    out.resize(out.len() + padded - value.len(), b' ');
    out
}

struct Stored<'a, R> {
    reader: &'a mut R,
    start: u64,
    places: &'a [Place],
}

impl<R: Read + Seek> Stored<'_, R> {
    fn read(&mut self, from: u64, to: u64) -> Result<Vec<u8>, Cannot> {
        if to - from > VALUE_MAX {
            return Err(Cannot::TooLarge);
        }
        let mut bytes = vec![0; (to - from) as usize];
        self.reader.seek(SeekFrom::Start(self.start + from)).map_err(|_| Cannot::Read)?;
        self.reader.read_exact(&mut bytes).map_err(|_| Cannot::Read)?;
        Ok(bytes)
    }

    /// The bytes of a value without padding; empty where the element is absent.
    fn value(&mut self, tag: Tag) -> Result<Vec<u8>, Cannot> {
        let Some(place) = self.places.iter().find(|place| place.tag == tag) else { return Ok(Vec::new()) };
        if place.undefined {
            return Err(Cannot::Damaged);
        }
        let mut bytes = self.read(place.value, place.end)?;
        let end = bytes.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
        bytes.truncate(end);
        if bytes.len() >= usize::from(u16::MAX) { Err(Cannot::TooLarge) } else { Ok(bytes) }
    }

    /// The items of a sequence; empty where it is absent.
    fn items(&mut self, tag: Tag) -> Result<Vec<u8>, Cannot> {
        let Some(place) = self.places.iter().find(|place| place.tag == tag) else { return Ok(Vec::new()) };
        if place.vr != VR::SQ {
            return Err(Cannot::Damaged);
        }
        let delimiter = if place.undefined { 8 } else { 0 };
        self.read(place.value, place.end - delimiter)
    }
}

/// A text in a data set's character set; `None` if it has a character that the set has not. Under
/// code extensions (several values) only ASCII, which all of them begin with (PS3.5 6.1.2.4).
fn encode(text: &str, character_sets: &[String]) -> Option<Vec<u8>> {
    if text.is_ascii() {
        return Some(text.as_bytes().to_vec());
    }
    let encoding: &'static Encoding = match character_sets {
        [one] => match one.as_str() {
            "ISO_IR 100" => WINDOWS_1252,
            "ISO_IR 101" => ISO_8859_2,
            "ISO_IR 109" => ISO_8859_3,
            "ISO_IR 110" => ISO_8859_4,
            "ISO_IR 144" => ISO_8859_5,
            "ISO_IR 127" => ISO_8859_6,
            "ISO_IR 126" => ISO_8859_7,
            "ISO_IR 138" => ISO_8859_8,
            "ISO_IR 148" => WINDOWS_1254,
            "ISO_IR 203" => ISO_8859_15,
            "ISO_IR 166" => WINDOWS_874,
            "ISO_IR 192" => UTF_8,
            "GB18030" => GB18030,
            "GBK" => GBK,
            _ => return None,
        },
        _ => return None,
    };
    let (bytes, _, replaced) = encoding.encode(text);
    let one_byte = encoding.is_single_byte();
    // The Windows sets have letters where the ISO ones have control characters.
    let foreign = one_byte && bytes.iter().any(|byte| (0x80..0xa0).contains(byte));
    (!replaced && !foreign).then(|| bytes.into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use dicom_object::InMemDicomObject;
    use dicom_transfer_syntax_registry::entries;

    use super::super::rewrite::explicit_element;
    use super::*;
    use crate::dicom::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};

    fn coercion(edits: Edits) -> Coercion {
        Coercion { edits, system: "RAD-AI-1".into(), source: "CT1".into(), at_ms: 1_767_355_872_000 }
    }

    fn explicit(character_set: &[u8]) -> Vec<u8> {
        [
            explicit_element(tags::SPECIFIC_CHARACTER_SET, VR::CS, character_set),
            explicit_element(tags::ACCESSION_NUMBER, VR::SH, b"4711"),
            explicit_element(tags::INSTITUTION_NAME, VR::LO, b"Old place"),
            explicit_element(tags::PATIENT_NAME, VR::PN, b"M\xfcller"),
            explicit_element(tags::PIXEL_DATA, VR::OB, &[1, 2]),
        ]
        .concat()
    }

    fn apply(data_set: &[u8], syntax: &str, edits: Edits) -> Result<Vec<u8>, Cannot> {
        let pieces = coerce(&mut Cursor::new(data_set), data_set.len() as u64, syntax, &coercion(edits))?;
        Ok(pieces
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Bytes(bytes) => bytes,
                Piece::Copy { at, length } => data_set[at as usize..][..length as usize].to_vec(),
            })
            .collect())
    }

    fn read(data_set: &[u8], implicit: bool) -> InMemDicomObject {
        let syntax = if implicit {
            entries::IMPLICIT_VR_LITTLE_ENDIAN.erased()
        } else {
            entries::EXPLICIT_VR_LITTLE_ENDIAN.erased()
        };
        InMemDicomObject::read_dataset_with_ts(Cursor::new(data_set), &syntax).expect("dicom-rs reads it")
    }

    fn text(object: &InMemDicomObject, tag: Tag) -> String {
        object.element(tag).expect("there").to_str().expect("a text").trim().to_owned()
    }

    fn edits() -> Edits {
        Edits {
            institution_name: Some("Klinik Süd".into()),
            station_name: Some("CT-1".into()),
            accession_number_prefix: Some("A-".into()),
            ..Edits::default()
        }
    }

    #[test]
    fn values_change_and_the_old_ones_are_kept_in_either_encoding() {
        let source = explicit(b"ISO_IR 100");
        let implicit = crate::deliver::implicit::from_explicit(&source).expect("converted");
        for (data_set, syntax, is_implicit) in
            [(&source, EXPLICIT_VR_LITTLE_ENDIAN, false), (&implicit, IMPLICIT_VR_LITTLE_ENDIAN, true)]
        {
            let once = apply(data_set, syntax, edits()).expect("coerced");
            let object = read(&once, is_implicit);
            assert_eq!(text(&object, tags::INSTITUTION_NAME), "Klinik Süd");
            assert_eq!(text(&object, tags::STATION_NAME), "CT-1");
            assert_eq!(text(&object, tags::ACCESSION_NUMBER), "A-4711");
            assert_eq!(text(&object, tags::PATIENT_NAME), "Müller");
            let items = |object: &InMemDicomObject| {
                let sequence = object.element(tags::ORIGINAL_ATTRIBUTES_SEQUENCE).expect("there");
                sequence.items().expect("items").to_vec()
            };
            let original = &items(&object)[0];
            assert_eq!(text(original, tags::MODIFYING_SYSTEM), "RAD-AI-1");
            assert_eq!(text(original, tags::ATTRIBUTE_MODIFICATION_DATE_TIME), "20260102121112+0000");
            let modified = original.element(tags::MODIFIED_ATTRIBUTES_SEQUENCE).expect("there");
            let modified = &modified.items().expect("items")[0];
            assert_eq!(text(modified, tags::INSTITUTION_NAME), "Old place");
            assert_eq!(text(modified, tags::ACCESSION_NUMBER), "4711");
            assert_eq!(text(modified, tags::STATION_NAME), "");
            // The same again changes nothing; another change adds an item behind.
            assert!(apply(&once, syntax, edits()).expect("coerced") == once);
            let other = Edits { institution_name: Some("Third".into()), ..Edits::default() };
            let twice = read(&apply(&once, syntax, other).expect("coerced"), is_implicit);
            assert_eq!(items(&twice).len(), 2);
            assert_eq!(text(&items(&twice)[0], tags::MODIFYING_SYSTEM), "RAD-AI-1");
        }
    }

    #[test]
    fn what_the_character_set_or_the_length_does_not_allow_is_refused() {
        let refused = |character_set: &[u8], edits| {
            apply(&explicit(character_set), EXPLICIT_VR_LITTLE_ENDIAN, edits).expect_err("refused")
        };
        let euro = Edits { institution_name: Some("€".into()), ..Edits::default() };
        assert_eq!(refused(b"ISO_IR 100", euro), Cannot::Characters("institution_name"));
        assert_eq!(refused(b"", edits()), Cannot::Characters("institution_name"));
        assert_eq!(refused(b"\\ISO 2022 IR 87", edits()), Cannot::Characters("institution_name"));
        let long = Edits { accession_number_prefix: Some("0123456789ABC".into()), ..Edits::default() };
        assert_eq!(refused(b"ISO_IR 100", long), Cannot::TooLong("accession_number_prefix"));
        let syntax = apply(&explicit(b""), "1.2.840.10008.1.2.2", edits()).expect_err("refused");
        assert_eq!(syntax, Cannot::Syntax);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let source = explicit(b"ISO_IR 100");
        for end in 0..source.len() {
            drop(apply(&source[..end], EXPLICIT_VR_LITTLE_ENDIAN, edits()));
            drop(apply(&source[..end], IMPLICIT_VR_LITTLE_ENDIAN, edits()));
        }
    }
}

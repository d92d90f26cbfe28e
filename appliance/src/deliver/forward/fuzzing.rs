//! For the fuzzer: everything that may be done to a stored object on its way to another archive.

use std::io::{Cursor, Read as _, Seek as _};

use dicom_core::Tag;
use lightbox_provisioning::site::Edits;

use super::coerce::Coercion;
use super::prepare::{Prepared, prepare};
use super::source::Piece;
use crate::dicom::header;
use crate::dicom::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};

/// From which transfer syntaxes: the uncompressed, the unknown, and those that are decompressed.
const FROM: [&str; 10] = [
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.201",
];
const TO: [Option<&str>; 3] = [None, Some(EXPLICIT_VR_LITTLE_ENDIAN), Some(IMPLICIT_VR_LITTLE_ENDIAN)];

/// Coercion, decompression and the change of encoding: the first byte chooses the transfer syntax that the
/// rest is in, the second what is done to it. What comes out is as sound as what went in.
pub fn forward(bytes: &[u8]) {
    let [from, what, data_set @ ..] = bytes else { return };
    let from = FROM[usize::from(*from) % FROM.len()];
    let to = TO[usize::from(*what) % TO.len()];
    let mut edits = Edits::default();
    if what & 0x80 != 0 {
        edits.institution_name = Some("Klinik Süd".into());
        edits.accession_number_prefix = Some("A-".into());
        edits.study_description = Some(String::new());
    }
    let edited: Vec<Tag> = edits
        .entries()
        .iter()
        .filter(|(.., value)| value.is_some())
        .map(|(_, _, (group, element), ..)| Tag(*group, *element))
        .collect();
    let coercion = Coercion { edits, system: "BOX".into(), source: "CT1".into(), at_ms: 0 };
    let length = data_set.len() as u64;
    let stored = Box::new(Cursor::new(data_set.to_vec()));
    let Ok(prepared) = prepare(stored, length, from, to, &coercion) else { return };
    let changed = bytes_of(prepared);
    if to.is_none() && edited.is_empty() {
        assert_eq!(changed, data_set, "nothing was asked for");
        return;
    }
    let syntax = to.unwrap_or(from);
    let sound = header::places(Cursor::new(&changed), changed.len() as u64, syntax);
    let (_, places) = sound.expect("what is sent is sound");
    if to.is_none() {
        // Every element but the edited ones, and what is said of the edit, stays.
        let kept = |tag: &Tag| !edited.contains(tag) && *tag != Tag(0x0400, 0x0561);
        let before = header::places(Cursor::new(data_set), length, from).expect("it was coerced").1;
        let value =
            |bytes: &[u8], place: &header::Place| bytes[place.start as usize..place.end as usize].to_vec();
        let all = |bytes: &[u8], places: &[header::Place]| -> Vec<Vec<u8>> {
            places.iter().filter(|place| kept(&place.tag)).map(|place| value(bytes, place)).collect()
        };
        assert!(all(data_set, &before) == all(&changed, &places), "an element was changed unasked");
    }
}

fn bytes_of(prepared: Prepared) -> Vec<u8> {
    let Prepared { mut reader, pieces } = prepared;
    let mut all = Vec::new();
    let start = reader.stream_position().expect("a place");
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => all.extend(bytes),
            Piece::Copy { at, length } => {
                reader.seek(std::io::SeekFrom::Start(start + at)).expect("it can go back");
                let read = std::io::copy(&mut (&mut reader).take(length), &mut all).expect("read");
                assert_eq!(read, length, "a piece lies outside the object");
            }
        }
    }
    all
}

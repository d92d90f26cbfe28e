//! A data set with some of its top-level elements changed, as pieces: everything else stays where it
//! lies and is copied byte for byte when it is sent.

use std::collections::BTreeMap;

use dicom_core::{Tag, VR};
use thiserror::Error;

use super::source::Piece;
use crate::dicom::header::{Place, has_long_length};

/// Why an instance cannot be changed as the site file asks. No text holds a value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Cannot {
    /// The stored object could not be read.
    #[error("the stored object cannot be read back")]
    Read,
    /// Its structure was not sound when it came in: it is only ever sent as it is.
    #[error("the data set is damaged, so it can only be sent as it is")]
    Damaged,
    /// No way from this transfer syntax.
    #[error("it cannot be changed from this transfer syntax")]
    Syntax,
    /// The pixels.
    #[error("the pixel data cannot be decompressed: {0}")]
    Pixels(&'static str),
    /// A value of the site file has characters that the instance's character set has not.
    #[error(
        "its Specific Character Set has not all the characters of `set.{0}`; remedy: write the value in ASCII"
    )]
    Characters(&'static str),
    /// With the prefix a value would be too long.
    #[error("with `set.{0}` the value would be longer than its VR allows; remedy: a shorter prefix")]
    TooLong(&'static str),
    /// More than may be held in memory.
    #[error("it is too large to be changed here")]
    TooLarge,
}

/// A change of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// These bytes, header included, in its place, or where it belongs if it is not there.
    Put(Vec<u8>),
    /// Left out.
    Drop,
}

/// The pieces of a data set of `length` bytes with these changes.
pub(super) fn rewrite(places: &[Place], length: u64, mut changes: BTreeMap<Tag, Change>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut copied = 0;
    let mut copy = |pieces: &mut Vec<Piece>, to: u64, next: u64| {
        if to > copied {
            pieces.push(Piece::Copy { at: copied, length: to - copied });
        }
        copied = next;
    };
    for place in places {
        while let Some(entry) = changes.first_entry().filter(|entry| *entry.key() < place.tag) {
            if let Change::Put(bytes) = entry.remove() {
                copy(&mut pieces, place.start, place.start);
                pieces.push(Piece::Bytes(bytes));
            }
        }
        if let Some(change) = changes.remove(&place.tag) {
            copy(&mut pieces, place.start, place.end);
            if let Change::Put(bytes) = change {
                pieces.push(Piece::Bytes(bytes));
            }
        }
    }
    copy(&mut pieces, length, length);
    pieces.extend(changes.into_values().filter_map(|change| match change {
        Change::Put(bytes) => Some(Piece::Bytes(bytes)),
        Change::Drop => None,
    }));
    pieces
}

/// An element of Explicit VR Little Endian; the value has an even length.
pub(super) fn explicit_element(tag: Tag, vr: VR, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 12);
    out.extend(tag.group().to_le_bytes());
    out.extend(tag.element().to_le_bytes());
    out.extend(vr.to_string().as_bytes());
    let mut value = Vec::from(value);
    if !value.len().is_multiple_of(2) {
        value.push(if vr == VR::OB || vr == VR::UI { 0 } else { b' ' });
    }
    if has_long_length(vr) {
        out.extend([0, 0]);
        out.extend((value.len() as u32).to_le_bytes());
    } else {
        out.extend((value.len() as u16).to_le_bytes());
    }
    out.extend(value);
    out
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use dicom_dictionary_std::tags;

    use super::*;
    use crate::dicom::header;
    use crate::dicom::services::EXPLICIT_VR_LITTLE_ENDIAN;

    fn data_set() -> Vec<u8> {
        let mut out = explicit_element(tags::MODALITY, VR::CS, b"CT");
        // A sequence of undefined length with one item that has an element of a tag that is changed.
        out.extend([0x08, 0x00, 0x40, 0x11, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff]);
        out.extend([0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        out.extend(explicit_element(tags::STATION_NAME, VR::SH, b"inside"));
        out.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0]);
        out.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        out.extend(explicit_element(tags::BODY_PART_EXAMINED, VR::CS, b"CHEST"));
        out
    }

    fn apply(data_set: &[u8], changes: BTreeMap<Tag, Change>) -> Vec<u8> {
        let length = data_set.len() as u64;
        let (_, places) =
            header::places(Cursor::new(data_set), length, EXPLICIT_VR_LITTLE_ENDIAN).expect("sound");
        rewrite(&places, length, changes)
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Bytes(bytes) => bytes,
                Piece::Copy { at, length } => data_set[at as usize..][..length as usize].to_vec(),
            })
            .collect()
    }

    #[test]
    fn places_are_the_top_level_elements_from_end_to_end() {
        let all = data_set();
        let (_, places) =
            header::places(Cursor::new(&all), all.len() as u64, EXPLICIT_VR_LITTLE_ENDIAN).expect("sound");
        let tags: Vec<Tag> = places.iter().map(|place| place.tag).collect();
        assert_eq!(tags, [tags::MODALITY, Tag(0x0008, 0x1140), tags::BODY_PART_EXAMINED]);
        assert_eq!(places.iter().map(|place| place.undefined).collect::<Vec<_>>(), [false, true, false]);
        assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!((places[0].start, places[2].end), (0, all.len() as u64));
    }

    #[test]
    fn changes_land_in_order_and_the_rest_stays_byte_for_byte() {
        let all = data_set();
        assert_eq!(apply(&all, BTreeMap::new()), all);
        let station = explicit_element(tags::STATION_NAME, VR::SH, b"new");
        let last = explicit_element(tags::PIXEL_DATA, VR::OB, &[1, 2]);
        let changes = BTreeMap::from([
            (tags::STATION_NAME, Change::Put(station.clone())),
            (tags::MODALITY, Change::Drop),
            (tags::PATIENT_NAME, Change::Drop),
            (tags::PIXEL_DATA, Change::Put(last.clone())),
        ]);
        let modality = explicit_element(tags::MODALITY, VR::CS, b"CT").len();
        // (0008,1010) belongs before the sequence (0008,1140); the one inside the item stays.
        assert_eq!(apply(&all, changes), [&station, &all[modality..], &last].concat());
    }

    #[test]
    fn values_are_padded_as_their_vr_asks() {
        assert_eq!(explicit_element(tags::STATION_NAME, VR::SH, b"abc").last(), Some(&b' '));
        assert_eq!(explicit_element(tags::PIXEL_DATA, VR::OB, b"abc").last(), Some(&0));
    }
}

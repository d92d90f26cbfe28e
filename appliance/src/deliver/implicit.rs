//! Our own SR in Implicit VR Little Endian, for the peers that take nothing else (PS3.5 §10.1 makes
//! it the one syntax that every peer must take).
//!
//! Only element headers change: values stay byte for byte, names above all, so this works on the
//! bytes and not by way of decoded text. The input is a data set that this box has written.

use dicom_core::VR;

use crate::dicom::header::has_long_length;

/// Deepest nesting that is followed; our SRs have under 20 levels.
const DEPTH_MAX: usize = 64;
const UNDEFINED: u32 = u32::MAX;

/// Converts a data set from Explicit to Implicit VR Little Endian; `None` if it is not well formed.
pub fn from_explicit(data_set: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data_set.len());
    let rest = elements(data_set, &mut out, false, DEPTH_MAX)?;
    rest.is_empty().then_some(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn put(out: &mut Vec<u8>, tag: &[u8], length: u32) {
    out.extend(tag);
    out.extend(length.to_le_bytes());
}

/// Converts elements up to the end of the bytes, or to an item delimiter where one is due; yields
/// what comes after.
fn elements<'a>(mut bytes: &'a [u8], out: &mut Vec<u8>, delimited: bool, depth: usize) -> Option<&'a [u8]> {
    while !bytes.is_empty() {
        let tag = bytes.get(..4)?;
        if tag == [0xfe, 0xff, 0x0d, 0xe0] {
            return delimited.then(|| bytes.get(8..))?;
        }
        let vr = VR::from_binary([*bytes.get(4)?, *bytes.get(5)?])?;
        let (length, header) =
            if has_long_length(vr) { (u32_at(bytes, 8)?, 12) } else { (u32::from(u16_at(bytes, 6)?), 8) };
        bytes = bytes.get(header..)?;
        if vr == VR::SQ {
            put(out, tag, UNDEFINED);
            bytes = if length == UNDEFINED {
                items(bytes, out, true, depth.checked_sub(1)?)?
            } else {
                let (inner, after) = bytes.split_at_checked(length as usize)?;
                items(inner, out, false, depth.checked_sub(1)?)?;
                after
            };
            put(out, &[0xfe, 0xff, 0xdd, 0xe0], 0);
        } else {
            let (value, after) = bytes.split_at_checked(length as usize)?;
            put(out, tag, length);
            out.extend(value);
            bytes = after;
        }
    }
    (!delimited).then_some(bytes)
}

fn items<'a>(mut bytes: &'a [u8], out: &mut Vec<u8>, delimited: bool, depth: usize) -> Option<&'a [u8]> {
    while !bytes.is_empty() {
        let (tag, length) = (bytes.get(..4)?, u32_at(bytes, 4)?);
        bytes = bytes.get(8..)?;
        match tag {
            [0xfe, 0xff, 0xdd, 0xe0] => return delimited.then_some(bytes),
            [0xfe, 0xff, 0x00, 0xe0] => {
                put(out, tag, UNDEFINED);
                bytes = if length == UNDEFINED {
                    elements(bytes, out, true, depth)?
                } else {
                    let (inner, after) = bytes.split_at_checked(length as usize)?;
                    elements(inner, out, false, depth)?;
                    after
                };
                put(out, &[0xfe, 0xff, 0x0d, 0xe0], 0);
            }
            _ => return None,
        }
    }
    (!delimited).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use dicom_dictionary_std::tags;
    use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;

    use super::*;
    use crate::deliver::{fixture, sr};
    use crate::dicom::header;

    #[test]
    fn an_sr_keeps_its_content_and_its_names_byte_for_byte() {
        for context in
            [fixture::kanji(fixture::detection()), fixture::classification(), fixture::no_finding()]
        {
            let file = sr::build(&context).expect("built");
            let at = 144 + u32_at(&file, 140).expect("there") as usize;
            let explicit = &file[at..];
            let implicit = from_explicit(explicit).expect("well formed");
            let scan = |bytes: &[u8], syntax| {
                let (header, damage) = header::scan(Cursor::new(bytes), bytes.len() as u64, syntax);
                assert_eq!(damage, None);
                header.raw(tags::PATIENT_NAME).map(<[u8]>::to_vec)
            };
            assert_eq!(scan(&implicit, "1.2.840.10008.1.2"), scan(explicit, "1.2.840.10008.1.2.1"));
            let read = dicom_object::InMemDicomObject::read_dataset_with_ts(
                Cursor::new(&implicit),
                &IMPLICIT_VR_LITTLE_ENDIAN.erased(),
            )
            .expect("dicom-rs reads it");
            assert!(read.element(tags::CONTENT_SEQUENCE).is_ok());
        }
    }

    #[test]
    fn what_is_cut_is_refused_and_never_panics() {
        let file = sr::build(&fixture::detection()).expect("built");
        let at = 144 + u32_at(&file, 140).expect("there") as usize;
        for end in (at + 1..file.len()).step_by(7) {
            from_explicit(&file[at..end]);
        }
        assert_eq!(from_explicit(&file[at..file.len() - 3]), None);
    }
}

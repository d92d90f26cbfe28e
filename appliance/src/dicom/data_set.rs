//! Small data sets that are read and written whole: C-FIND identifiers, what N-ACTION,
//! N-EVENT-REPORT, N-CREATE and N-SET carry. Instances never come here (see [`super::header`]).
//!
//! The bytes are a peer's: the caller bounds their length, nesting is bounded, no value is taken that
//! the bytes do not hold. Values stay raw, with the character set of their data set beside them.

use std::fmt;

use dicom_core::dictionary::{DataDictionary, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::charset;
use super::header::{Damage, Encoding, has_long_length, is_uid};

/// Deepest nesting of sequences. The services that come here need four levels.
const DEPTH_MAX: usize = 16;
const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// A value: bytes as they came, or the items of a sequence.
#[derive(Clone, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    Items(Vec<DataSet>),
}

/// A data set in memory. `Debug` shows how many elements it has and none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DataSet {
    /// In the order of their tags, each once. No map: one costs ten times the bytes that a peer sends for
    /// an item of two elements.
    elements: Vec<(Tag, Value)>,
}

impl fmt::Debug for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataSet({} elements)", self.elements.len())
    }
}

/// Whether data sets in this transfer syntax can be read and written here: Implicit and Explicit VR
/// Little Endian, which every peer must know one of (PS3.5 §10.1).
pub fn is_supported(transfer_syntax: &str) -> bool {
    matches!(transfer_syntax, "1.2.840.10008.1.2" | "1.2.840.10008.1.2.1")
}

impl DataSet {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a whole data set, Implicit or Explicit VR Little Endian.
    pub fn parse(bytes: &[u8], transfer_syntax: &str) -> Result<Self, Damage> {
        let explicit = Encoding::of(transfer_syntax) == Encoding::ExplicitLittle;
        let mut reader = Reader { bytes };
        let data_set = reader.elements(explicit, DEPTH_MAX, false)?;
        Ok(data_set)
    }

    /// Writes the data set in Implicit or Explicit VR Little Endian.
    pub fn encode(&self, transfer_syntax: &str) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out, Encoding::of(transfer_syntax) == Encoding::ExplicitLittle);
        out
    }

    /// Sets a text element; for a key of a query, the empty text asks for the value. Padded as its VR
    /// wants it.
    #[must_use]
    pub fn with(mut self, tag: Tag, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        if !bytes.len().is_multiple_of(2) {
            bytes.push(if vr_of(tag) == VR::UI { 0 } else { b' ' });
        }
        self.set(tag, Value::Bytes(bytes));
        self
    }

    /// Sets an element of VR US.
    #[must_use]
    pub fn with_u16(mut self, tag: Tag, number: u16) -> Self {
        self.set(tag, Value::Bytes(number.to_le_bytes().to_vec()));
        self
    }

    /// Sets a sequence.
    #[must_use]
    pub fn with_items(mut self, tag: Tag, items: Vec<DataSet>) -> Self {
        self.set(tag, Value::Items(items));
        self
    }

    /// Puts the elements of another data set over these.
    pub fn update(&mut self, with: DataSet) {
        for (tag, value) in with.elements {
            self.set(tag, value);
        }
    }

    fn get(&self, tag: Tag) -> Option<&Value> {
        let at = self.elements.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?;
        Some(&self.elements[at].1)
    }

    fn set(&mut self, tag: Tag, value: Value) {
        match self.elements.binary_search_by_key(&tag, |(tag, _)| *tag) {
            Ok(at) => self.elements[at].1 = value,
            Err(at) => self.elements.insert(at, (tag, value)),
        }
    }

    /// What was read, in order and without room for more; of what came twice the last counts. Sorted once:
    /// a peer may send a million elements the wrong way round.
    fn in_order(mut self) -> Self {
        self.elements.reverse();
        self.elements.sort_by_key(|(tag, _)| *tag);
        self.elements.dedup_by_key(|(tag, _)| *tag);
        self.elements.shrink_to_fit();
        self
    }

    /// Whether it holds the element, empty or not.
    pub fn has(&self, tag: Tag) -> bool {
        self.get(tag).is_some()
    }

    /// The tags that it holds, in order.
    pub fn tags(&self) -> impl Iterator<Item = Tag> + '_ {
        self.elements.iter().map(|(tag, _)| *tag)
    }

    /// The value's bytes as received; `None` where it is absent or a sequence.
    pub fn raw(&self, tag: Tag) -> Option<&[u8]> {
        match self.get(tag)? {
            Value::Bytes(bytes) => Some(bytes),
            Value::Items(_) => None,
        }
    }

    /// The value as ASCII text without padding: codes, dates, numbers. `None` when absent or empty;
    /// bytes outside ASCII become `?`.
    pub fn ascii(&self, tag: Tag) -> Option<String> {
        let text: String =
            self.raw(tag)?.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect();
        trimmed(&text)
    }

    /// The value decoded by the data set's Specific Character Set (0008,0005), without padding. Patient
    /// data: for the operator's eyes and named peers only.
    pub fn text(&self, tag: Tag) -> Option<String> {
        let sets: Vec<String> = match self.ascii(tags::SPECIFIC_CHARACTER_SET) {
            Some(text) => text.split('\\').map(|value| value.trim().to_owned()).collect(),
            None => Vec::new(),
        };
        trimmed(&charset::decode(self.raw(tag)?, &sets))
    }

    /// A UID, if the value is one.
    pub fn uid(&self, tag: Tag) -> Option<String> {
        self.ascii(tag).filter(|uid| is_uid(uid))
    }

    /// The UIDs of a multi-valued element; what is none is left out.
    pub fn uids(&self, tag: Tag) -> Vec<String> {
        let text = self.ascii(tag).unwrap_or_default();
        text.split('\\')
            .map(|uid| uid.trim_matches([' ', '\0']))
            .filter(|uid| is_uid(uid))
            .map(str::to_owned)
            .collect()
    }

    /// A number written as text (IS).
    pub fn number(&self, tag: Tag) -> Option<u32> {
        self.ascii(tag)?.parse().ok()
    }

    /// A number of VR US.
    pub fn u16(&self, tag: Tag) -> Option<u16> {
        self.raw(tag)?.first_chunk().map(|two| u16::from_le_bytes(*two))
    }

    /// The items of a sequence; none where it is absent or no sequence.
    pub fn items(&self, tag: Tag) -> &[DataSet] {
        match self.get(tag) {
            Some(Value::Items(items)) => items,
            _ => &[],
        }
    }

    fn write(&self, out: &mut Vec<u8>, explicit: bool) {
        for (tag, value) in &self.elements {
            match value {
                Value::Bytes(bytes) => {
                    head(out, *tag, vr_of(*tag), bytes.len() as u32, explicit);
                    out.extend(bytes);
                }
                Value::Items(items) => {
                    let mut inner = Vec::new();
                    for item in items {
                        let mut body = Vec::new();
                        item.write(&mut body, explicit);
                        put_tag(&mut inner, ITEM);
                        inner.extend((body.len() as u32).to_le_bytes());
                        inner.extend(body);
                    }
                    head(out, *tag, VR::SQ, inner.len() as u32, explicit);
                    out.extend(inner);
                }
            }
        }
    }
}

fn trimmed(text: &str) -> Option<String> {
    let text = text.trim_matches([' ', '\0']).to_owned();
    (!text.is_empty()).then_some(text)
}

fn put_tag(out: &mut Vec<u8>, tag: Tag) {
    out.extend(tag.group().to_le_bytes());
    out.extend(tag.element().to_le_bytes());
}

fn head(out: &mut Vec<u8>, tag: Tag, vr: VR, length: u32, explicit: bool) {
    put_tag(out, tag);
    if !explicit {
        out.extend(length.to_le_bytes());
    } else if has_long_length(vr) || length > u32::from(u16::MAX) {
        // A value too long for its VR's 16-bit length goes as UN (PS3.5 §6.2.2).
        let vr = if has_long_length(vr) { vr } else { VR::UN };
        out.extend(vr.to_bytes());
        out.extend([0, 0]);
        out.extend(length.to_le_bytes());
    } else {
        out.extend(vr.to_bytes());
        out.extend((length as u16).to_le_bytes());
    }
}

fn vr_of(tag: Tag) -> VR {
    match StandardDataDictionary.by_tag(tag).map(|entry| entry.vr) {
        Some(VirtualVr::Exact(vr)) => vr,
        _ => VR::UN,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Damage::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Damage> {
        self.take(2).map(|two| u16::from_le_bytes([two[0], two[1]]))
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        self.take(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    }

    fn tag(&mut self) -> Result<Tag, Damage> {
        Ok(Tag(self.u16()?, self.u16()?))
    }

    /// The elements up to the end of the bytes, or to the item delimiter where one is due.
    fn elements(&mut self, explicit: bool, depth: usize, delimited: bool) -> Result<DataSet, Damage> {
        let mut data_set = DataSet::new();
        while !self.bytes.is_empty() {
            let tag = self.tag()?;
            if tag.group() == 0xFFFE {
                self.u32()?;
                return if tag == ITEM_END && delimited {
                    Ok(data_set.in_order())
                } else {
                    Err(misplaced(tag))
                };
            }
            let (vr, length) = self.vr_and_length(tag, explicit)?;
            let value = match (vr, length) {
                // PS3.5 §6.2.2: UN of undefined length holds Implicit VR Little Endian items.
                (VR::UN, UNDEFINED) => Value::Items(self.items(length, false, depth)?),
                (VR::SQ, length) => Value::Items(self.items(length, explicit, depth)?),
                (_, UNDEFINED) => return Err(misplaced(tag)),
                (_, length) => Value::Bytes(self.value(tag, length)?.to_vec()),
            };
            data_set.elements.push((tag, value));
        }
        if delimited { Err(Damage::Truncated) } else { Ok(data_set.in_order()) }
    }

    fn value(&mut self, tag: Tag, length: u32) -> Result<&'a [u8], Damage> {
        let overlong = Damage::Overlong { group: tag.group(), element: tag.element(), length };
        self.take(usize::try_from(length).unwrap_or(usize::MAX)).map_err(|_| overlong)
    }

    fn vr_and_length(&mut self, tag: Tag, explicit: bool) -> Result<(VR, u32), Damage> {
        if !explicit {
            let length = self.u32()?;
            return Ok((if length == UNDEFINED { VR::SQ } else { vr_of(tag) }, length));
        }
        let letters = self.take(2)?;
        let vr = VR::from_binary([letters[0], letters[1]])
            .ok_or(Damage::BadVr { group: tag.group(), element: tag.element() })?;
        if has_long_length(vr) {
            self.take(2)?;
            Ok((vr, self.u32()?))
        } else {
            Ok((vr, u32::from(self.u16()?)))
        }
    }

    fn items(&mut self, length: u32, explicit: bool, depth: usize) -> Result<Vec<DataSet>, Damage> {
        let depth = depth.checked_sub(1).ok_or(Damage::TooDeep)?;
        if length != UNDEFINED {
            let mut inner = Reader { bytes: self.value(ITEM, length)? };
            return inner.items_to_end(explicit, depth, false);
        }
        self.items_to_end(explicit, depth, true)
    }

    fn items_to_end(
        &mut self,
        explicit: bool,
        depth: usize,
        delimited: bool,
    ) -> Result<Vec<DataSet>, Damage> {
        let mut items = Vec::new();
        while !self.bytes.is_empty() {
            let tag = self.tag()?;
            let length = self.u32()?;
            match tag {
                ITEM if length == UNDEFINED => items.push(self.elements(explicit, depth, true)?),
                ITEM => {
                    let mut inner = Reader { bytes: self.value(tag, length)? };
                    items.push(inner.elements(explicit, depth, false)?);
                }
                SEQUENCE_END if delimited => return Ok(items),
                _ => return Err(misplaced(tag)),
            }
        }
        if delimited { Err(Damage::Truncated) } else { Ok(items) }
    }
}

fn misplaced(tag: Tag) -> Damage {
    Damage::Misplaced { group: tag.group(), element: tag.element() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};

    fn sample() -> DataSet {
        DataSet::new()
            .with(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192")
            .with(tags::PATIENT_NAME, "Müller^Jörg")
            .with(tags::STUDY_INSTANCE_UID, "1.2.3")
            .with_u16(tags::FAILURE_REASON, 0x0112)
            .with_items(
                tags::REFERENCED_SOP_SEQUENCE,
                vec![DataSet::new().with(tags::REFERENCED_SOP_INSTANCE_UID, "1.2.3.4"), DataSet::new()],
            )
    }

    #[test]
    fn both_encodings_survive_the_round_trip() {
        for syntax in [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN] {
            let read = DataSet::parse(&sample().encode(syntax), syntax).expect("whole");
            assert!(read == sample());
            assert_eq!(read.text(tags::PATIENT_NAME).as_deref(), Some("Müller^Jörg"));
            assert_eq!(read.uid(tags::STUDY_INSTANCE_UID).as_deref(), Some("1.2.3"));
            assert_eq!(read.u16(tags::FAILURE_REASON), Some(0x0112));
            let items = read.items(tags::REFERENCED_SOP_SEQUENCE);
            assert_eq!(items[0].uid(tags::REFERENCED_SOP_INSTANCE_UID).as_deref(), Some("1.2.3.4"));
        }
    }

    #[test]
    fn what_comes_out_of_order_or_twice_is_put_right() {
        let bytes = b"\x20\0\x0d\0UI\x04\x001.9\0\x10\0\x20\0LO\x02\0AB\x20\0\x0d\0UI\x04\x001.2\0";
        let read = DataSet::parse(bytes, EXPLICIT_VR_LITTLE_ENDIAN).expect("whole");
        assert!(read.tags().eq([tags::PATIENT_ID, tags::STUDY_INSTANCE_UID]));
        assert_eq!(read.uid(tags::STUDY_INSTANCE_UID).as_deref(), Some("1.2"));
        assert_eq!(read.ascii(tags::PATIENT_ID).as_deref(), Some("AB"));
    }

    #[test]
    fn undefined_lengths_are_read() {
        let mut bytes = vec![0x08, 0, 0x99, 0x11];
        bytes.extend(b"SQ\0\0\xff\xff\xff\xff");
        bytes.extend([0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        bytes.extend(b"\x08\0\x55\x11UI\x04\x001.2\0");
        bytes.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        let read = DataSet::parse(&bytes, EXPLICIT_VR_LITTLE_ENDIAN).expect("whole");
        let items = read.items(tags::REFERENCED_SOP_SEQUENCE);
        assert_eq!(items[0].uid(tags::REFERENCED_SOP_INSTANCE_UID).as_deref(), Some("1.2"));
        for end in 1..bytes.len() {
            assert!(DataSet::parse(&bytes[..end], EXPLICIT_VR_LITTLE_ENDIAN).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn deep_nesting_and_lying_lengths_are_damage() {
        let mut deep = Vec::new();
        for _ in 0..100_000 {
            deep.extend(b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff");
        }
        assert_eq!(DataSet::parse(&deep, EXPLICIT_VR_LITTLE_ENDIAN), Err(Damage::TooDeep));
        let lying = b"\x10\0\x20\x00\xf0\xff\xff\xff";
        assert!(matches!(DataSet::parse(lying, IMPLICIT_VR_LITTLE_ENDIAN), Err(Damage::Overlong { .. })));
    }

    #[test]
    fn debug_shows_no_value() {
        assert_eq!(format!("{:?}", sample()), "DataSet(5 elements)");
    }
}

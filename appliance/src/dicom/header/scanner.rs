//! Goes through a data set element by element, with a counter for the nesting.

use std::io::{self, BufRead, BufReader, Read, Seek};

use dicom_core::dictionary::{DataDictionary, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::{DEPTH_MAX, Damage, Encoding, Header, KEPT, Place, RawElement, has_long_length};
use crate::phi::Phi;

/// Longest header value that is read; longer ones are skipped.
const VALUE_MAX: u32 = 64 * 1024;
/// Most top-level elements that are listed.
const PLACES_MAX: usize = 100_000;
const UNDEFINED: u32 = u32::MAX;

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
pub(super) trait Input {
    fn left(&self) -> u64;
    fn read(&mut self, into: &mut [u8]) -> Result<(), Damage>;
    fn skip(&mut self, count: u64) -> Result<(), Damage>;
    /// Whether the bytes end here.
    fn at_end(&mut self) -> Result<bool, Damage>;
}

pub(super) struct Seekable<R> {
    pub(super) inner: BufReader<R>,
    pub(super) left: u64,
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

pub(super) struct Streamed<R> {
    pub(super) inner: BufReader<R>,
    pub(super) left: u64,
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

pub(super) struct Scanner<I> {
    input: I,
    encoding: Encoding,
    position: u64,
    levels: Vec<Level>,
    /// The top-level elements so far, where they are asked for.
    pub(super) places: Option<Vec<Place>>,
}

impl<I: Input> Scanner<I> {
    pub(super) fn new(input: I, encoding: Encoding) -> Self {
        Scanner { input, encoding, position: 0, levels: Vec::new(), places: None }
    }

    pub(super) fn run(&mut self, header: &mut Header) -> Result<(), Damage> {
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

//! What a compressed frame says about itself, read before a decoder allocates by it.
//!
//! The decoders trust the codestream's own size. A codestream that disagrees with the DICOM header
//! is refused here, so that a few bytes cannot ask for gigabytes.

/// A codestream's own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Codestream {
    pub columns: u32,
    pub rows: u32,
    pub components: u32,
    pub bits: u32,
    /// JPEG-LS with one scan per component decodes to planes.
    pub planar: bool,
    /// What the JPEG markers say of its colours; none where they do not.
    pub colour: Option<Colour>,
    /// JPEG process: the low half of the SOF marker, e.g. 0 for baseline, 3 for lossless.
    pub process: u8,
}

/// Colour space of a JPEG's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Rgb,
    Ycc,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads the header of a JPEG or JPEG-LS codestream, up to its first scan.
pub(crate) fn jpeg(bytes: &[u8]) -> Option<Codestream> {
    if bytes.get(..2)? != [0xff, 0xd8] {
        return None;
    }
    let mut at = 2;
    let mut found: Option<Codestream> = None;
    let mut colour = None;
    loop {
        if *bytes.get(at)? != 0xff {
            return None;
        }
        let marker = *bytes.get(at + 1)?;
        // Fill bytes may stand before a marker.
        if marker == 0xff {
            at += 1;
            continue;
        }
        let length = u16_at(bytes, at + 2)? as usize;
        let body = at + 4;
        match marker {
            0xc0..=0xcf | 0xf7 if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                // A second frame header would be read by the decoder, not by us: refused.
                if found.is_some() {
                    return None;
                }
                found = Some(Codestream {
                    bits: u32::from(*bytes.get(body)?),
                    rows: u16_at(bytes, body + 1)?,
                    columns: u16_at(bytes, body + 3)?,
                    components: u32::from(*bytes.get(body + 5)?),
                    planar: false,
                    colour: None,
                    process: marker & 0x0f,
                });
            }
            0xe0 if bytes.get(body..body + 5)? == b"JFIF\0" => colour = colour.or(Some(Colour::Ycc)),
            0xee if length >= 14 && bytes.get(body..body + 5)? == b"Adobe" => {
                colour = Some(if *bytes.get(body + 11)? == 0 { Colour::Rgb } else { Colour::Ycc });
            }
            0xda => {
                let frame = found?;
                let planar = frame.components > 1 && *bytes.get(body)? == 1;
                return Some(Codestream { planar, colour, ..frame });
            }
            _ => {}
        }
        at = (at + 2).checked_add(length.max(2))?;
    }
}

/// Renames a three-component JPEG's components to R, G, B, by which the decoder knows not to
/// convert colours: it takes 1, 2, 3 for YCbCr whatever the DICOM header says.
pub(crate) fn mark_rgb(bytes: &mut [u8]) -> Option<()> {
    let mut ids = None;
    let mut at = 2;
    while at + 4 <= bytes.len() {
        if bytes[at] != 0xff || bytes[at + 1] == 0xff {
            at += 1;
            continue;
        }
        let marker = bytes[at + 1];
        let body = at + 4;
        match marker {
            0xc0..=0xc3 if ids.is_none() && *bytes.get(body + 5)? == 3 => {
                let mut old = [0; 3];
                for (index, new) in [82, 71, 66].into_iter().enumerate() {
                    old[index] = std::mem::replace(bytes.get_mut(body + 6 + 3 * index)?, new);
                }
                ids = Some(old);
            }
            0xda => {
                let old = ids?;
                for index in 0..usize::from(*bytes.get(body)?) {
                    let selector = bytes.get_mut(body + 1 + 2 * index)?;
                    let which = old.iter().position(|id| id == selector)?;
                    *selector = [82, 71, 66][which];
                }
            }
            // Inside a scan: stuffed zeros and restart markers have no length.
            0x00 | 0x01 | 0xd0..=0xd7 => {
                at += 2;
                continue;
            }
            0xd9 => return Some(()),
            _ => {}
        }
        at = at + 2 + u16_at(bytes, at + 2)?.max(2) as usize;
    }
    Some(())
}

/// Reads the SIZ segment of a JPEG 2000 codestream, bare or in a JP2 box.
pub(crate) fn jpeg2000(bytes: &[u8]) -> Option<Codestream> {
    const START: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];
    let at = bytes.get(..bytes.len().min(4096))?.windows(4).position(|window| window == START)?;
    let siz = at + 4;
    let (x1, y1) = (u32_at(bytes, siz + 4)?, u32_at(bytes, siz + 8)?);
    let (x0, y0) = (u32_at(bytes, siz + 12)?, u32_at(bytes, siz + 16)?);
    let components = u16_at(bytes, siz + 36)?;
    // Subsampled components come out smaller than the image: no DICOM image has them.
    for component in 0..components.min(4) as usize {
        if bytes.get(siz + 39 + 3 * component..siz + 41 + 3 * component)? != [1, 1] {
            return None;
        }
    }
    Some(Codestream {
        columns: x1.checked_sub(x0)?,
        rows: y1.checked_sub(y0)?,
        components,
        bits: u32::from(*bytes.get(siz + 38)? & 0x7f) + 1,
        planar: false,
        colour: None,
        process: 0,
    })
}

/// Whether an RLE fragment's header holds: segments as many as sample bytes, inside the fragment,
/// in order.
pub(crate) fn rle_holds(bytes: &[u8], segments: u32) -> bool {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.len() < 64 || word(0) != Some(segments) || !(1..=15).contains(&segments) {
        return false;
    }
    let mut last = 64;
    (1..=segments as usize).all(|segment| {
        let Some(offset) = word(4 * segment) else { return false };
        let holds = offset >= last && (offset as usize) < bytes.len();
        last = offset;
        holds
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_cut_off_ones_refused() {
        let baseline = [
            0xff, 0xd8, 0xff, 0xee, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 0, 0, 0, 0, 0, 0, 0xff, 0xc0, 0,
            17, 8, 0, 3, 0, 5, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0,
            0, 63, 0,
        ];
        let read = jpeg(&baseline).unwrap();
        assert_eq!((read.columns, read.rows, read.components, read.bits), (5, 3, 3, 8));
        assert_eq!(read.colour, Some(Colour::Rgb));
        for cut in 0..39 {
            assert_eq!(jpeg(&baseline[..cut]), None, "{cut}");
        }
        let mut renamed = baseline;
        mark_rgb(&mut renamed).unwrap();
        assert_eq!((renamed[28], renamed[31], renamed[34]), (82, 71, 66));
        assert_eq!((renamed[42], renamed[44], renamed[46]), (82, 71, 66));
    }

    #[test]
    fn rle_headers_hold_or_not() {
        let mut fragment = vec![0; 80];
        fragment[0] = 2;
        fragment[4] = 64;
        fragment[8] = 70;
        assert!(rle_holds(&fragment, 2));
        assert!(!rle_holds(&fragment, 3));
        fragment[8] = 90;
        assert!(!rle_holds(&fragment, 2));
        assert!(!rle_holds(&fragment[..10], 2));
    }
}

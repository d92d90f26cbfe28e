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

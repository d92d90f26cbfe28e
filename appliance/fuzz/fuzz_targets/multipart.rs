//! `multipart/related` bodies in pieces (the first byte says how long), the start of each part as a Part 10
//! file, and media types. The parts must not depend on how the body was cut.
#![no_main]

use lightbox::dicom::part_ten::Head;
use lightbox::web::multipart::{Event, Malformed, MediaType, Reader};
use libfuzzer_sys::fuzz_target;

fn parts(body: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut reader = Reader::new("b").expect("a boundary");
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for bytes in body.chunks(piece) {
        reader.push(bytes);
        loop {
            match reader.event() {
                Ok(Some(Event::Part(_))) => parts.push(Vec::new()),
                Ok(Some(Event::Data(bytes))) => parts.last_mut().expect("a part").extend(bytes),
                Ok(Some(Event::PartEnd | Event::End)) => {}
                Ok(None) => break,
                Err(error) => return (parts, Some(error)),
            }
        }
    }
    (parts, reader.end().err())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let (found, fault) = parts(body, usize::from(*first).max(1));
    if fault.is_none() {
        assert_eq!(parts(body, body.len().max(1)).0, found);
    }
    for part in &found {
        let mut head = Head::default();
        for bytes in part.chunks(usize::from(*first).max(1)) {
            match head.push(bytes) {
                Ok(None) => {}
                Ok(Some((_, taken))) => {
                    assert!(taken <= bytes.len());
                    break;
                }
                Err(_) => break,
            }
        }
    }
    if let Some(found) = std::str::from_utf8(body).ok().and_then(MediaType::parse) {
        found.parameter("boundary").and_then(Reader::new);
    }
});

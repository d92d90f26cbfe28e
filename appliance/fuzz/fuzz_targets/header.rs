//! The header scan of a received data set, in each encoding (the first byte chooses).
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use lightbox::dicom::header;
use lightbox::dicom::attributes::Attributes;

const SYNTAXES: [&str; 4] =
    ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, data_set)) = bytes.split_first() else { return };
    let syntax = SYNTAXES[usize::from(choice % 4)];
    let (header, _) = header::scan(Cursor::new(data_set), data_set.len() as u64, syntax);
    Attributes::of(&header);
    header.study_header();
    // Top-level elements lie end to end, whatever the bytes say.
    if let Ok((_, places)) = header::places(Cursor::new(data_set), data_set.len() as u64, syntax) {
        assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(places.iter().all(|place| place.start < place.value && place.value <= place.end));
        assert!(places.last().is_none_or(|last| last.end == data_set.len() as u64));
    }
});

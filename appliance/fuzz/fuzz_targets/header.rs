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
});

//! Character sets: the bytes before the first NUL are the Specific Character Set's values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lightbox::dicom::charset;

fuzz_target!(|bytes: &[u8]| {
    let split = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    let sets: Vec<String> =
        String::from_utf8_lossy(&bytes[..split]).split('\\').map(str::to_owned).collect();
    charset::decode(&bytes[split..], &sets);
    charset::person_name_groups(&bytes[split..], &sets);
});

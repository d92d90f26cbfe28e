//! Identifiers and information of the small services.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lightbox_fuzz::run(lightbox::fuzzing::data_set, bytes));

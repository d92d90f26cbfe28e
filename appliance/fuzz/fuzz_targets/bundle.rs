//! A packed model bundle, and what is read out of one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lightbox_fuzz::run(lightbox::fuzzing::bundle, bytes));

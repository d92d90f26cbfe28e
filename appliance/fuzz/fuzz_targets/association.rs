//! A peer's whole conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lightbox_fuzz::run(lightbox::fuzzing::association, bytes));

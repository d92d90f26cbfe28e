//! A network's file, before any runtime sees it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lightbox_fuzz::run(lightbox::fuzzing::network, bytes));

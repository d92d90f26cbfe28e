//! `multipart/related` bodies of STOW-RS and WADO-RS.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lightbox_fuzz::run(lightbox::fuzzing::multipart, bytes));

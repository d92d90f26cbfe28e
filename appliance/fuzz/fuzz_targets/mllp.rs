//! MLLP frames in pieces of any size, and the acknowledgements in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lightbox::hl7::mllp::{self, Decoder};

fuzz_target!(|bytes: &[u8]| {
    let Some((size, rest)) = bytes.split_first() else { return };
    let mut decoder = Decoder::new(4096);
    for piece in rest.chunks(usize::from(*size).max(1)) {
        decoder.push(piece);
        while let Ok(Some(message)) = decoder.next_message() {
            let _ = mllp::parse(&message);
        }
    }
});

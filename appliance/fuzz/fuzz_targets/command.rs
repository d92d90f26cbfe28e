//! DIMSE command sets: what parses is written and parsed again to the same command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lightbox::dicom::dimse::Command;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = Command::parse(bytes) {
        let again = Command::parse(&command.encode()).expect("what we write, we read");
        assert_eq!((again.field, again.message_id, again.status), (command.field, command.message_id, command.status));
    }
});

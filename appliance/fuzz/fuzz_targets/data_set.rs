//! Small data sets that are read whole (C-FIND identifiers, N-ACTION information …), in both encodings
//! (the first byte chooses); what was read is written and must read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lightbox::dicom::data_set::DataSet;

const SYNTAXES: [&str; 2] = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let Ok(read) = DataSet::parse(bytes, SYNTAXES[usize::from(choice % 2)]) else { return };
    for tag in read.tags() {
        read.text(tag);
        read.uids(tag);
        read.number(tag);
    }
    // In Implicit VR the dictionary's VRs decide, so what is written must be what is read again.
    let written = read.encode(SYNTAXES[1]);
    if let Ok(again) = DataSet::parse(&written, SYNTAXES[1]) {
        assert!(again.encode(SYNTAXES[1]) == written);
    }
});

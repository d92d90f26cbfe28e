//! The DICOM JSON model, as a PACS answers QIDO-RS and STOW-RS with it.
#![no_main]

use lightbox::dicom::data_set::DataSet;
use lightbox::web::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for found in json::data_sets(bytes).unwrap_or_default() {
        for tag in found.tags() {
            found.text(tag);
            found.uid(tag);
            found.number(tag);
        }
        let encoded = found.encode("1.2.840.10008.1.2.1");
        drop(DataSet::parse(&encoded, "1.2.840.10008.1.2.1"));
    }
});

//! HL7 messages in ER7 encoding: taken apart, read as orders and merges, and answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lightbox::hl7::er7::Message;
use lightbox::hl7::mllp::{self, AckCode, Complaint};
use lightbox::ingest::orders::message;
use lightbox_provisioning::site::Orders;

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = Message::parse(bytes) else { return };
    for segment in read.segments() {
        for value in segment.repetitions(3, 4) {
            assert!(!value.expose().contains(['\r', '\n']));
        }
    }
    let settings = Orders {
        expected_series_field: Some("ZDS-5".into()),
        expected_instances_field: Some("OBR-13.2".into()),
        ..Orders::default()
    };
    let _ = message::read(&read, &settings);
    let complaint = Complaint { error_code: 200, text: "ORM^O01 | only" };
    if let Ok(answer) = mllp::answer(read.text().expose(), AckCode::AR, "20260101", Some(complaint)) {
        // Whatever came, the answer is one frame with one MSA segment.
        let _ = mllp::encode(&answer);
        assert_eq!(answer.split('\r').filter(|segment| segment.starts_with("MSA")).count(), 1);
    }
});
